//! At every limit the newest frame is dropped and counted, and a checkpoint is asked for: what is
//! held is never dropped, and no drop is silent.

use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::segment::{ACK, Segment};
use colo_tests::stage::WINDOW;
use colo_tests::{Result, Stage, needs_root};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Ends the stage; expects that exactly `lost` frames were dropped and all others accounted for.
fn finish_having_lost(stage: Stage, lost: u64) -> Result {
    stage.comparator.status()?.check_conservation()?;
    let outcome = stage.comparator.end_with(Signal::SIGTERM)?;
    assert!(outcome.status.success(), "{}", outcome.log);
    assert_eq!(outcome.summary.count("lost"), lost);
    assert_eq!(outcome.summary.count("frames_unaccounted"), 0);
    Ok(())
}

#[test]
fn a_full_queue_drops_the_newest_frame() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--max-queue-size", "4"])?;
    let frames: Vec<_> = (0..5).map(|n| Packet::v4().udp(1, 2, &bytes(n, 100))).collect();
    stage.primary(&frames)?;
    assert_eq!(stage.comparator.event("divergence")?["reason"], "queue-full");
    stage.comparator.event("checkpoint-requested")?;
    stage.expect_held(4)?;
    stage.checkpoint()?;
    stage.client().expect(&frames[..4])?;
    finish_having_lost(stage, 1)
}

#[test]
fn a_full_flow_table_drops_frames_of_new_flows_only() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--max-flows", "4"])?;
    let of_flow = |flow: u16| Packet::v4().udp(1000 + flow, 2, &bytes(u64::from(flow), 100));
    let known: Vec<_> = (0..4).map(of_flow).collect();
    stage.primary(&known)?;
    stage.expect_held(4)?;
    stage.primary(&[of_flow(4)])?;
    assert_eq!(stage.comparator.event("divergence")?["reason"], "flow-table");
    stage.comparator.event("checkpoint-requested")?;
    stage.secondary(&known)?;
    stage.client().expect_in_any_order(&known)?;
    // Flows with nothing held make room for new ones.
    for flow in 5..60 {
        stage.exchange(&[of_flow(flow)])?;
    }
    finish_having_lost(stage, 1)
}

#[test]
fn frame_memory_is_never_held_to_the_last_frame() -> Result {
    needs_root!();
    const FRAMES: u64 = 4096;
    let mut stage = Stage::plain(&["--frames", "4096", "--compare-timeout", "60000"])?;
    let sent: Vec<_> =
        (0..FRAMES).map(|n| Packet::v4().udp(1000 + (n / 256) as u16, 2, &bytes(n, 64))).collect();
    for (index, window) in sent.chunks(WINDOW).enumerate() {
        stage.primary(window)?;
        stage.await_count("primary_received", ((index + 1) * WINDOW) as u64)?;
    }
    assert_eq!(stage.comparator.event("divergence")?["reason"], "memory");
    stage.comparator.event("checkpoint-requested")?;
    let status = stage.comparator.status()?;
    status.check_conservation()?;
    let held = status.count("held");
    assert!(held <= FRAMES * 3 / 4, "{held} of {FRAMES} frames are held");
    assert!(held >= FRAMES / 2, "{held} of {FRAMES} frames are held");

    // What was kept is what came first, and it leaves in order.
    stage.checkpoint()?;
    stage.client().expect(&sent[..held as usize])?;
    stage.exchange(&[Packet::v6().udp(1, 2, b"room again")])?;
    finish_having_lost(stage, FRAMES - held)
}

#[test]
fn a_flood_is_received_or_counted_as_dropped() -> Result {
    needs_root!();
    const FLOOD: u64 = 30_000;
    let stage = Stage::plain(&[])?;
    // Bare acknowledgements leave at once: nothing is held, only the rings are full.
    let frames: Vec<_> = (0..64)
        .map(|n| Segment::new(80, 1000 + n).flags(ACK).acknowledgement(1).frame(&Packet::v4()))
        .collect();
    // A tap runs its XDP program in the sender's system call, so every frame gets that far.
    for frame in frames.iter().cycle().take(FLOOD as usize) {
        stage.topology.primary.send(frame)?;
    }
    let dropped = |status: &colo_tests::control::Status| -> u64 {
        let ports = status.0["ports"].as_array().map_or(&[][..], Vec::as_slice);
        let primary = ports.iter().filter(|port| port["role"] == "primary");
        primary.filter_map(|port| port["kernel_dropped"].as_u64()).sum()
    };
    let status = stage.comparator.control().await_status(
        "every frame to be received or counted",
        colo_tests::capture::PATIENCE,
        |status| status.count("primary_received") + dropped(status) == FLOOD,
    )?;
    assert_ne!(status.0["ports"], Value::Null);
    status.check_conservation()?;
    let received = status.count("primary_received");
    finish_having_lost(stage, FLOOD - received)
}
