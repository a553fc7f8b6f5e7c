//! After a failover the survivor's frames pass, until comparison is wanted again.

use colo_tests::capture::SILENCE;
use colo_tests::packet::{Packet, arp};
use colo_tests::payload::bytes;
use colo_tests::segment::Segment;
use colo_tests::{Result, Stage, needs_root};

fn mixture(seed: u64) -> Vec<Vec<u8>> {
    let [v4, v6] = Packet::families();
    vec![
        v4.udp(1, 2, &bytes(seed, 100)),
        v6.udp(1, 2, &bytes(seed + 1, 1400)),
        Segment::new(80, 4000).sequence(seed as u32).payload(&bytes(seed, 900)).frame(&v4),
        v6.echo(1, 1, &bytes(seed, 30)),
        v4.tagged(9).udp(1, 2, &bytes(seed, 10)),
        arp(),
    ]
}

#[test]
fn started_standalone_the_primary_passes_and_the_secondary_is_dropped() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--standalone"])?;
    stage.primary(&mixture(1))?;
    stage.client().expect(&mixture(1))?;
    stage.secondary(&mixture(2))?;
    stage.client().expect_nothing(SILENCE)?;
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

#[test]
fn failover_releases_what_is_held_then_passes_and_rearm_compares_again() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let control = stage.comparator.control().clone();
    let held: Vec<_> = (0..20).map(|n| Packet::v4().udp(1, 2, &bytes(n, 64))).collect();
    stage.primary(&held)?;
    stage.expect_held(20)?;

    control.call(&["failover"])?;
    stage.client().expect(&held)?;
    stage.primary(&mixture(1))?;
    stage.client().expect(&mixture(1))?;

    control.call(&["rearm"])?;
    let frame = Packet::v4().udp(1, 2, b"compared again");
    stage.primary(&[&frame])?;
    stage.expect_held(1)?;
    stage.secondary(&[&frame])?;
    stage.client().expect(&[frame])?;
    stage.finish()?;
    Ok(())
}
