//! A checkpoint, or the end of the program, releases what is held.

use colo_tests::capture::SILENCE;
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::segment::Segment;
use colo_tests::{Result, Stage, needs_root};
use nix::sys::signal::Signal;
use std::time::Duration;

#[test]
fn a_checkpoint_releases_held_primary_frames_in_order_and_drops_secondary_ones() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let ours: Vec<_> = (0..40).map(|n| Packet::v4().udp(1, 2, &bytes(n, 64))).collect();
    let theirs: Vec<_> = (100..110).map(|n| Packet::v6().udp(3, 4, &bytes(n, 64))).collect();
    stage.primary(&ours)?;
    stage.secondary(&theirs)?;
    stage.expect_held(50)?;
    let done = stage.checkpoint()?;
    assert_eq!((&done["released"], &done["dropped"]), (&40.into(), &10.into()), "{done}");
    stage.client().expect(&ours)?;
    stage.client().expect_nothing(SILENCE)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn datagrams_of_the_secondary_that_were_under_way_at_the_flush_are_no_divergence() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--reorder-grace", "0"])?;
    let before: Vec<_> = (0..10).map(|n| Packet::v4().udp(1, 2, &bytes(n, 64))).collect();
    stage.primary(&before)?;
    stage.expect_held(10)?;
    stage.checkpoint()?;
    stage.client().expect(&before)?;

    let after = Packet::v4().udp(1, 2, b"after the checkpoint");
    stage.primary(&[&after])?;
    stage.secondary(&before)?;
    stage.secondary(&[&after])?;
    stage.client().expect(&[after])?;
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

#[test]
fn a_stream_goes_on_after_a_checkpoint_from_where_it_was_released() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    for packet in Packet::families() {
        let stream = bytes(1, 4000);
        let frames = Segment::new(80, 4000).sequence(9).stream(&packet, &stream, &[1000; 4]);
        stage.exchange(&frames[..1])?;
        stage.primary(&frames[1..3])?;
        stage.expect_held(2)?;
        stage.checkpoint()?;
        stage.client().expect(&frames[1..3])?;
        stage.exchange(&frames[3..])?;
    }
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

#[test]
fn sigterm_and_sigint_flush_what_is_held_and_end_within_a_second() -> Result {
    needs_root!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut stage = Stage::plain(&[])?;
        let frames: Vec<_> = (0..30).map(|n| Packet::v4().udp(1, 2, &bytes(n, 500))).collect();
        stage.primary(&frames)?;
        stage.expect_held(30)?;
        let outcome = stage.comparator.end_with(signal)?;
        outcome.check()?;
        stage.topology.client.capture().expect(&frames)?;
        assert_eq!(outcome.summary.count("released"), 30);
        assert_eq!(outcome.summary.count("held"), 0);
    }
    Ok(())
}

#[test]
fn one_checkpoint_is_asked_for_however_many_flows_diverge() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let flows = 1000..1020_u16;
    let frames = |text: &[u8]| -> Vec<_> {
        flows.clone().map(|port| Packet::v4().udp(port, 2, text)).collect()
    };
    let ours = frames(b"yes");
    stage.primary(&ours)?;
    stage.secondary(&frames(b"no!"))?;
    stage.await_count("divergences", 20)?;
    assert_eq!(stage.comparator.status()?.count("checkpoint_requests"), 1);
    stage.comparator.event("checkpoint-requested")?;
    stage.comparator.no_event("checkpoint-requested", Duration::from_millis(200))?;
    stage.checkpoint()?;
    stage.client().expect_in_any_order(&ours)?;

    // The next divergence asks again.
    let again = Packet::v4().udp(1, 2, b"yes");
    stage.primary(&[&again])?;
    stage.secondary(&[Packet::v4().udp(1, 2, b"no!")])?;
    stage.comparator.event("checkpoint-requested")?;
    stage.checkpoint()?;
    stage.client().expect(&[again])?;
    stage.finish()?;
    Ok(())
}
