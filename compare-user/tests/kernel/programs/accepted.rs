//! What the kernel's verifier says of each program.

use std::collections::BTreeMap;

use compare_user::kernel::verify;

use crate::network::in_namespace;

/// Instructions that the verifier may follow in each program: at least half as many again as on Linux
/// 6.1, which follows more ways than 6.18. The kernel gives up at a million.
const BOUNDS: [(&str, u32); 11] = [
    ("flood", 10_000),
    ("mirror", 1_000),
    ("mirror_guest", 5_000),
    ("pass", 10),
    ("relay_flood", 1_000),
    ("relay_guest", 100_000),
    ("relay_link", 100_000),
    ("relay_nic", 100_000),
    ("shut", 10),
    ("steer", 200_000),
    ("wrap_copy", 1_000),
];

#[test]
fn the_kernel_accepts_every_program_with_all_constants_and_has_little_work() {
    in_namespace(|| {
        let mut most = BTreeMap::<String, (u32, &str)>::new();
        for verdict in verify(true).unwrap() {
            let instructions = verdict.instructions.unwrap();
            let entry = most.entry(verdict.program).or_default();
            if instructions > entry.0 {
                *entry = (instructions, verdict.constants);
            }
        }
        for (program, (instructions, constants)) in &most {
            println!("{program}: {instructions} instructions verified, constants {constants}");
        }
        let bounds = BTreeMap::from(BOUNDS);
        assert!(most.keys().eq(bounds.keys().copied()), "a program without a bound: {most:?}");
        for (program, (instructions, _)) in most {
            let bound = bounds[program.as_str()];
            assert!((1..=bound).contains(&instructions), "{program}: {instructions}, not {bound}");
        }
    });
}
