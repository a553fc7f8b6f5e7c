//! Devices that go and come back, and devices that are in use.

use std::time::{Duration, Instant};

use colo_tests::capture::SILENCE;
use colo_tests::comparator::run_to_exit;
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::{Attachment, Launch, Plan, Result, Role, Stage, Topology, needs_root};

/// Longer than the comparator takes to notice that a device is back, on a busy machine.
const RETURN: Duration = Duration::from_secs(5);

#[test]
fn a_device_that_goes_is_reported_and_taken_again_when_it_returns() -> Result {
    needs_root!();
    for attachment in [Attachment::Tap, Attachment::Veth] {
        for role in Role::ALL {
            let plan = Plan { primary: attachment, secondary: attachment, ..Plan::default() };
            let mut stage = Stage::new(plan, &["--reorder-grace", "500ms"])?;
            let gone_and_back = |stage: &mut Stage| -> Result {
                stage.exchange(&[Packet::v4().udp(1, 2, b"before")])?;
                stage.topology.unplug(role)?;
                let device = stage.topology.device(role).to_owned();
                let lost = stage.comparator.event_within("port-lost", RETURN)?;
                assert_eq!(lost["device"], device.as_str(), "{lost}");
                stage.topology.plug(role)?;
                stage.comparator.event_within("port-restored", RETURN)?;
                let frames: Vec<_> =
                    (0..40).map(|n| Packet::v6().udp(1, 2, &bytes(n, 200))).collect();
                stage.exchange(&frames)
            };
            gone_and_back(&mut stage)
                .map_err(|error| error.context(format!("{role:?} on {attachment:?}")))?;
            stage.finish()?;
        }
    }
    Ok(())
}

#[test]
fn what_is_held_stays_held_while_a_guests_device_is_away() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--compare-timeout", "60000"])?;
    let frame = Packet::v4().udp(1, 2, b"still here");
    stage.primary(&[&frame])?;
    stage.expect_held(1)?;
    stage.topology.unplug(Role::Secondary)?;
    stage.comparator.event_within("port-lost", RETURN)?;
    stage.client().expect_nothing(SILENCE)?;
    stage.topology.plug(Role::Secondary)?;
    stage.comparator.event_within("port-restored", RETURN)?;
    stage.secondary(&[&frame])?;
    stage.client().expect(&[frame])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn what_is_released_while_the_nic_is_away_leaves_when_it_returns() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    stage.topology.unplug(Role::Out)?;
    stage.comparator.event_within("port-lost", RETURN)?;
    let frames: Vec<_> = (0..20).map(|n| Packet::v4().udp(1, 2, &bytes(n, 100))).collect();
    stage.primary(&frames)?;
    stage.secondary(&frames)?;
    stage.await_count("secondary_received", 20)?;
    stage.topology.plug(Role::Out)?;
    stage.comparator.event_within("port-restored", RETURN)?;
    stage.client().expect(&frames)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn it_ends_in_time_while_a_device_is_away() -> Result {
    needs_root!();
    for role in Role::ALL {
        let mut stage = Stage::plain(&[])?;
        stage.topology.unplug(role)?;
        stage.comparator.event_within("port-lost", RETURN)?;
        stage.comparator.stop()?;
    }
    Ok(())
}

#[test]
fn a_second_instance_on_the_same_device_is_refused_and_the_first_goes_on() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let ports = Role::ALL.map(|role| format!("xdp:{}", stage.topology.device(role)));
    let arguments = ["run", "--primary", &ports[0], "--secondary", &ports[1], "--out", &ports[2]];
    let second = run_to_exit(Some(stage.topology.host()), None, &arguments)?;
    assert_eq!(second.status.code(), Some(5));
    let message = String::from_utf8_lossy(&second.stderr);
    assert_eq!(message.trim().lines().count(), 1, "{message}");
    let names_a_device = Role::ALL.iter().any(|r| message.contains(stage.topology.device(*r)));
    assert!(names_a_device, "{message}");
    stage.exchange(&[Packet::v4().udp(1, 2, b"undisturbed")])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn after_a_clean_exit_it_starts_again_on_the_same_devices_within_a_second() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let mut starts = Vec::new();
    for round in 0..5_u64 {
        let started = Instant::now();
        let comparator = Launch::on(&topology).start(topology.host())?;
        starts.push(started.elapsed());
        let frame = Packet::v4().udp(1, 2, &bytes(round, 100));
        topology.primary.send(&frame)?;
        topology.secondary.send(&frame)?;
        topology.client.capture().expect(&[frame])?;
        comparator.stop()?;
    }
    starts.sort_unstable();
    // The middle one: something else on the machine may have delayed one or two.
    assert!(starts[2] <= Duration::from_secs(1), "{starts:?}");
    Ok(())
}
