//! The lane on ports in memory, driven from a seed.
//!
//! Two guests say the same datagrams, each in its own time and with losses of its own; devices vanish and
//! come back, the output takes little or nothing, memory is short, checkpoints and failovers come at random
//! moments. Each turn of the lane has a time of its own, so that a seed is the same run everywhere. At every
//! status the books balance; what leaves has been said by the primary, and by the secondary too unless a
//! flush has come between; at the end every frame is counted where it went.
//!
//! `COLO_LANE_SEED=7 cargo test --package compare-user --test lane` runs one seed.

mod port;
mod world;

use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 600;

#[test]
fn every_frame_is_in_one_place_and_nothing_leaves_that_only_one_has_said() {
    if let Ok(seed) = std::env::var("COLO_LANE_SEED") {
        return World::new(seed.parse().expect("a number")).run();
    }
    let mut met = world::Met::default();
    for seed in 1..=SEEDS {
        let run = std::panic::AssertUnwindSafe(|| World::new(seed).run_and_tell());
        match std::panic::catch_unwind(run) {
            Ok(here) => met.add(here),
            Err(panic) => {
                eprintln!("seed {seed}: again with COLO_LANE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{met:#?}");
    met.expect_all();
}
