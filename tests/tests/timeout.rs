//! A frame that finds no partner in time is a divergence.

use std::time::{Duration, Instant};

use colo_tests::capture::SILENCE;
use colo_tests::packet::Packet;
use colo_tests::segment::Segment;
use colo_tests::{Result, Stage, needs_root};

const TIMEOUT: Duration = Duration::from_millis(400);
const ARGUMENTS: [&str; 2] = ["--compare-timeout", "400"];
/// The comparator finds it within 20 ms; the rest is for a busy machine.
const LATENESS: Duration = Duration::from_millis(250);

#[test]
fn a_held_frame_of_either_side_times_out_and_stays_held() -> Result {
    needs_root!();
    for from_primary in [true, false] {
        let mut stage = Stage::plain(&ARGUMENTS)?;
        let frame = Packet::v4().udp(1, 2, b"nobody else says so");
        let sent = Instant::now();
        if from_primary {
            stage.primary(&[&frame])?;
        } else {
            stage.secondary(&[&frame])?;
        }
        let divergence = stage.comparator.event("divergence")?;
        let after = sent.elapsed();
        assert_eq!(divergence["reason"], "timeout", "{divergence}");
        assert!(after >= TIMEOUT, "reported after {after:?}");
        assert!(after <= TIMEOUT + LATENESS, "reported after {after:?}");
        stage.comparator.event("checkpoint-requested")?;
        stage.expect_held(1)?;
        stage.checkpoint()?;
        if from_primary {
            stage.client().expect(&[frame])?;
        }
        stage.client().expect_nothing(SILENCE)?;
        stage.finish()?;
    }
    Ok(())
}

#[test]
fn tcp_data_times_out_as_datagrams_do() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&ARGUMENTS)?;
    let frame = Segment::new(80, 4000).sequence(5).payload(b"data").frame(&Packet::v6());
    stage.primary(&[&frame])?;
    assert_eq!(stage.comparator.event("divergence")?["reason"], "timeout");
    stage.checkpoint()?;
    stage.client().expect(&[frame])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_partner_that_comes_before_the_deadline_is_no_divergence() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&ARGUMENTS)?;
    let frame = Packet::v4().udp(1, 2, b"slowly");
    stage.primary(&[&frame])?;
    stage.comparator.no_event("divergence", TIMEOUT / 4)?;
    stage.secondary(&[&frame])?;
    stage.client().expect(&[frame])?;
    stage.comparator.no_event("divergence", TIMEOUT + LATENESS)?;
    stage.finish()?;
    Ok(())
}
