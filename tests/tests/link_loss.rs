//! The way to the secondary goes and comes back.

use std::time::Duration;

use colo_tests::capture::{PATIENCE, SILENCE};
use colo_tests::filter::{Filter, Place};
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::{Attachment, Launch, Plan, Result, Role, Stage, Topology, needs_root};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing times out while a test looks.
const PATIENT: [&str; 2] = ["--compare-timeout", "60000"];
const FAILOVER: [&str; 4] = ["--compare-timeout", "60000", "--on-link-loss", "failover"];

/// A secondary whose carrier the test can take away.
fn stage(arguments: &[&str]) -> Result<Stage> {
    Stage::new(Plan { secondary: Attachment::Veth, ..Plan::default() }, arguments)
}

fn datagrams(first: u64, count: u64) -> Vec<Vec<u8>> {
    (first..first + count).map(|n| Packet::v4().udp(1, 2, &bytes(n, 100))).collect()
}

fn loss(device: &str, cause: &str, action: &str) -> Value {
    json!({ "event": "link-lost", "device": device, "cause": cause, "action": action })
}

#[test]
fn a_link_without_carrier_is_reported_once_and_what_is_held_stays() -> Result {
    needs_root!();
    let mut stage = stage(&PATIENT)?;
    let held = datagrams(0, 3);
    stage.primary(&held)?;
    stage.expect_held(3)?;

    stage.topology.secondary.set_carrier(false)?;
    let device = stage.topology.device(Role::Secondary).to_owned();
    let lost = stage.comparator.event("link-lost")?;
    assert_eq!(lost, loss(&device, "the device has no carrier", "hold"));
    stage.comparator.no_event("link-lost", Duration::from_millis(500))?;
    stage.client().expect_nothing(SILENCE)?;

    stage.topology.secondary.set_carrier(true)?;
    let restored = stage.comparator.event("link-restored")?;
    assert_eq!(restored, json!({ "event": "link-restored", "device": device }));
    stage.secondary(&held)?;
    stage.client().expect(&held)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn with_failover_a_lost_carrier_lets_the_primary_pass_until_it_is_rearmed() -> Result {
    needs_root!();
    let mut stage = stage(&FAILOVER)?;
    let held = datagrams(0, 3);
    stage.primary(&held)?;
    stage.expect_held(3)?;

    stage.topology.secondary.set_carrier(false)?;
    let device = stage.topology.device(Role::Secondary).to_owned();
    let lost = stage.comparator.event("link-lost")?;
    assert_eq!(lost, loss(&device, "the device has no carrier", "failover"));
    stage.comparator.event("standalone")?;
    stage.client().expect(&held)?;
    stage.primary(&datagrams(3, 3))?;
    stage.client().expect(&datagrams(3, 3))?;

    // The link alone makes no second guest.
    stage.topology.secondary.set_carrier(true)?;
    stage.comparator.event("link-restored")?;
    stage.primary(&datagrams(6, 3))?;
    stage.client().expect(&datagrams(6, 3))?;
    stage.comparator.control().call(&["rearm"])?;
    stage.exchange(&datagrams(9, 3))?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_link_that_disappears_is_lost_too_and_comes_back_with_its_device() -> Result {
    needs_root!();
    let mut stage = stage(&FAILOVER)?;
    let held = datagrams(0, 1);
    stage.primary(&held)?;
    stage.expect_held(1)?;
    stage.topology.unplug(Role::Secondary)?;
    let lost = stage.comparator.event("link-lost")?;
    assert_eq!(lost["cause"], "the device is gone", "{lost}");
    stage.comparator.event("standalone")?;
    stage.client().expect(&held)?;
    stage.topology.plug(Role::Secondary)?;
    stage.comparator.event("port-restored")?;
    stage.comparator.event("link-restored")?;
    stage.comparator.control().call(&["rearm"])?;
    stage.exchange(&datagrams(1, 3))?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_socket_whose_peer_leaves_is_lost_and_one_whose_peer_never_came_is_not() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let directory = TempDir::with_prefix("colo-")?;
    let place = Place::Unix(directory.path().join("secondary"));
    let device = |role| format!("xdp:{}", topology.device(role));
    let ports = [device(Role::Primary), place.port() + ",server", device(Role::Out)];
    let mut comparator = Launch::between(ports).arguments(&FAILOVER).start(topology.host())?;
    comparator.no_event("link-lost", Duration::from_millis(500))?;

    let mut secondary = Filter::connect(&place, None, false)?;
    let frames = datagrams(0, 2);
    topology.primary.send_all(&frames)?;
    secondary.send(&frames[..1])?;
    topology.client.capture().expect(&frames[..1])?;
    comparator.control().await_status("one held", PATIENCE, |it| it.count("held") == 1)?;

    drop(secondary);
    let lost = comparator.event("link-lost")?;
    assert_eq!((&lost["cause"], &lost["action"]), (&json!("its peer is gone"), &json!("failover")));
    topology.client.capture().expect(&frames[1..])?;
    let _back = Filter::connect(&place, None, false)?;
    comparator.event("link-restored")?;
    comparator.stop()?;
    Ok(())
}
