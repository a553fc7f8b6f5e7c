//! Devices that are closed, go down or are removed under load.

use std::time::Duration;

use anyhow::{Context, ensure};
use colo_tests::capture::{PATIENCE, SILENCE};
use colo_tests::packet::Packet;
use colo_tests::pair::{PairLaunch, Plan as PairPlan};
use colo_tests::payload::bytes;
use colo_tests::{Result, Role, Stage, needs_root};

use crate::load::{Transfers, pair};

/// How long a device stays away: long enough to be noticed.
const AWAY: Duration = Duration::from_millis(400);
/// Longer than it takes to notice that a device is back, on a busy machine.
const RETURN: Duration = Duration::from_secs(5);

#[test]
fn a_tap_that_its_guest_closes_and_another_opens_goes_on() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--compare-timeout", "60000"])?;
    let held = Packet::v4().udp(5, 6, b"held across it");
    stage.primary(&[&held])?;
    stage.expect_held(1)?;
    for round in 0..3 {
        stage.topology.primary.close_tap()?;
        std::thread::sleep(AWAY);
        stage.client().expect_nothing(SILENCE)?;
        stage.topology.reopen_primary_tap()?;
        let frames: Vec<_> =
            (0..40).map(|n| Packet::v6().udp(1, 2, &bytes(round * 40 + n, 200))).collect();
        stage.exchange(&frames)?;
    }
    // The device never went, so neither did what it had sent.
    stage.comparator.no_event("port-lost", Duration::ZERO)?;
    stage.secondary(&[&held])?;
    stage.client().expect(&[held])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn connections_outlive_a_link_that_is_removed_and_made_again() -> Result {
    needs_root!();
    let mut pair = pair(PairLaunch::on(PairPlan::default()))?;
    let mut transfers = Transfers::begin(&pair)?;
    for round in 0..2 {
        pair.network.remove_link()?;
        pair.comparator().event_within("port-lost", RETURN)?;
        pair.relay().event_within("port-lost", RETURN)?;
        std::thread::sleep(AWAY);
        pair.network.replace_link()?;
        pair.comparator().event_within("port-restored", RETURN)?;
        pair.relay().event_within("port-restored", RETURN)?;
        transfers.come_again().with_context(|| format!("after removal {round}"))?;
        pair.comparator().status()?.check_conservation()?;
    }
    transfers.end()?;
    pair.finish_despite_loss()?.check_identical()
}

#[test]
fn connections_outlive_nics_and_links_that_go_down_and_up() -> Result {
    needs_root!();
    let mut pair = pair(PairLaunch::on(PairPlan::default()))?;
    let mut transfers = Transfers::begin(&pair)?;
    for part in ["the NIC", "the primary's end of the link", "the secondary's end of the link"] {
        let (primary, secondary) = (&pair.network.primary, &pair.network.secondary);
        match part {
            "the NIC" => primary.nic_down()?,
            "the primary's end of the link" => primary.link_down()?,
            _ => secondary.link_down()?,
        }
        std::thread::sleep(AWAY);
        match part {
            "the NIC" => primary.nic_up()?,
            "the primary's end of the link" => primary.link_up()?,
            _ => secondary.link_up()?,
        }
        transfers.come_again().with_context(|| format!("after {part} was down"))?;
        pair.comparator().status()?.check_conservation()?;
    }
    transfers.end()?;
    pair.finish_despite_loss()?.check_identical()
}

#[test]
fn what_is_released_while_the_nic_is_down_leaves_in_order_when_it_is_up() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let device = stage.topology.device(Role::Out).to_owned();
    let frames: Vec<_> = (0..200).map(|n| Packet::v4().udp(1, 2, &bytes(n, 300))).collect();
    stage.exchange(&frames[..40])?;
    stage.topology.host().ip(&format!("link set {device} down"))?;
    for window in frames[40..].chunks(colo_tests::stage::WINDOW) {
        stage.primary(window)?;
        stage.secondary(window)?;
    }
    let all_matched = |status: &colo_tests::control::Status| status.count("matched") == 200;
    let status = stage.comparator.control().await_status("all compared", PATIENCE, all_matched)?;
    status.check_conservation()?;
    ensure!(status.count("held") == 0, "{}", status.0);
    stage.topology.host().ip(&format!("link set {device} up"))?;
    stage.client().expect(&frames[40..])?;
    stage.finish()?;
    Ok(())
}
