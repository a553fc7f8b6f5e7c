//! No room: an output that takes nothing, memory that runs short.

use anyhow::ensure;
use colo_tests::capture::PATIENCE;
use colo_tests::control::Status;
use colo_tests::packet::Packet;
use colo_tests::pair::{PairLaunch, Plan as PairPlan};
use colo_tests::payload::bytes;
use colo_tests::stage::WINDOW;
use colo_tests::{Result, Role, Stage, needs_root};
use nix::sys::signal::Signal;

use crate::load::{Transfers, pair};

/// Frames of memory: the least there can be.
const FRAMES: &str = "1024";

fn kernel_dropped(status: &Status, role: &str) -> u64 {
    let ports = status.0["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let ports = ports.iter().filter(|port| port["role"] == role);
    ports.filter_map(|port| port["kernel_dropped"].as_u64()).sum()
}

#[test]
fn behind_an_output_that_takes_nothing_the_primary_waits_and_every_drop_is_counted() -> Result {
    needs_root!();
    const SENT: u64 = 4000;
    let mut stage = Stage::plain(&["--frames", FRAMES])?;
    let device = stage.topology.device(Role::Out).to_owned();
    let frames: Vec<_> = (0..SENT).map(|n| Packet::v4().udp(1, 2, &bytes(n, 100))).collect();
    stage.exchange(&frames[..100])?;
    stage.topology.host().ip(&format!("link set {device} down"))?;
    for window in frames[100..].chunks(WINDOW) {
        stage.primary(window)?;
        stage.secondary(window)?;
    }
    // Wherever a frame of the primary is now, it is counted there: received, or dropped by the
    // kernel for want of room. What is in the ring is neither, so this settles when the NIC is back.
    let status = stage.comparator.status()?;
    status.check_conservation()?;
    ensure!(kernel_dropped(&status, "primary") > 0, "nothing was pushed back: {}", status.0);
    stage.topology.host().ip(&format!("link set {device} up"))?;
    let settled = |status: &Status| {
        status.count("primary_received") + kernel_dropped(status, "primary") == SENT
            && status.count("frames.pending") == 0
    };
    stage
        .comparator
        .control()
        .await_status("all counted", PATIENCE, settled)?
        .check_conservation()?;

    // In order, nothing twice, nothing that was not said by both.
    let mut next = 100;
    while let Some(got) = stage.client().next(colo_tests::capture::SILENCE)? {
        let found = frames[next..].iter().position(|frame| *frame == got);
        let Some(ahead) = found else { anyhow::bail!("not next: frame {next} or a later one") };
        next += ahead + 1;
    }
    ensure!(next > 100, "what had been released left when the NIC was back");
    let after: Vec<_> = (0..40).map(|n| Packet::v6().udp(3, 4, &bytes(n, 100))).collect();
    stage.comparator.control().call(&["checkpoint"])?;
    while stage.client().next(colo_tests::capture::SILENCE)?.is_some() {}
    stage.exchange(&after)?;
    let status = stage.comparator.status()?;
    status.check_conservation()?;
    let outcome = stage.comparator.end_with(Signal::SIGTERM)?;
    ensure!(outcome.status.success(), "{}", outcome.log);
    ensure!(outcome.summary.count("frames_unaccounted") == 0, "{}", outcome.summary.0);
    ensure!(outcome.summary.count("lost") > 0, "{}", outcome.summary.0);
    Ok(())
}

#[test]
fn connections_outlive_memory_that_is_far_too_small() -> Result {
    needs_root!();
    let mut pair = pair(PairLaunch::on(PairPlan::default()).comparator(&["--frames", FRAMES]))?;
    let mut transfers = Transfers::begin(&pair)?;
    for _ in 0..3 {
        transfers.come_again()?;
        pair.comparator().status()?.check_conservation()?;
    }
    transfers.end()?;
    pair.finish_despite_loss()?.check_identical()
}
