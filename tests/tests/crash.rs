//! A comparator that is killed lets nothing uncompared leave, unless it was told to.
//!
//! A bridge joins the primary's device and the NIC here, as on a real host: whatever XDP lets
//! pass reaches the client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use colo_tests::capture::{PATIENCE, SILENCE};
use colo_tests::packet::{Packet, arp};
use colo_tests::payload::bytes;
use colo_tests::topology::Guest;
use colo_tests::{Attachment, Comparator, Launch, Plan, Result, Role, Topology, needs_root};

fn frames(seed: u64) -> Vec<Vec<u8>> {
    let [v4, v6] = Packet::families();
    (seed..seed + 10)
        .flat_map(|n| [v4.udp(1, 2, &bytes(n, 99)), v6.echo(1, 1, &bytes(n, 1200))])
        .collect()
}

fn exchange(topology: &mut Topology, frames: &[Vec<u8>]) -> Result {
    topology.primary.send_all(frames)?;
    topology.secondary.send_all(frames)?;
    topology.client.capture().expect_in_any_order(frames)
}

/// Whether any device of the host has an XDP program.
fn has_xdp(topology: &Topology) -> Result<bool> {
    Ok(device_settings(topology)?.contains("prog/xdp"))
}

/// Everything that can be set on the host's devices, one setting per line.
fn device_settings(topology: &Topology) -> Result<String> {
    let links = topology.host().command("ip", &["-d", "link", "show"])?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    let mut settings = String::new();
    let mut words = links.split_whitespace();
    while let Some(word) = words.next() {
        if word.ends_with("_timer") {
            // The bridge's clocks go on.
            words.next();
        } else {
            settings.push_str(word);
            settings.push('\n');
        }
    }
    for role in Role::ALL {
        let features = topology.host().command("ethtool", &["-k", topology.device(role)])?;
        settings.push_str(&String::from_utf8_lossy(&features.stdout));
    }
    Ok(settings)
}

#[test]
fn killed_it_stays_closed_and_a_restart_takes_over_within_a_second() -> Result {
    needs_root!();
    let mut restarts = Vec::new();
    for mode in ["mode=native", "mode=generic"] {
        for primary in [Attachment::Tap, Attachment::Veth] {
            let mut topology = Topology::new(Plan { primary, ..Plan::default() })?;
            let launch = Launch::on(&topology).port_option(mode);
            let comparator = launch.clone().start(topology.host())?;
            exchange(&mut topology, &frames(0))?;
            topology.primary.send(&Packet::v4().udp(5, 6, b"held when it dies"))?;
            comparator
                .control()
                .await_status("one held", SILENCE * 10, |s| s.count("held") == 1)?;
            comparator.kill()?;

            topology.primary.send_all(&frames(100))?;
            topology.primary.send(&arp())?;
            topology.secondary.send_all(&frames(200))?;
            topology.client.capture().expect_nothing(SILENCE)?;

            let started = Instant::now();
            let comparator = launch.start(topology.host())?;
            restarts.push(started.elapsed());
            topology.client.capture().expect_nothing(SILENCE)?;
            exchange(&mut topology, &frames(300))?;
            comparator.stop()?;
            topology.client.capture().expect_nothing(SILENCE)?;
            assert!(!has_xdp(&topology)?, "a clean exit detaches what a crash left behind");
        }
    }
    restarts.sort_unstable();
    // The second fastest: something else on the machine may have delayed others.
    assert!(restarts[1] <= Duration::from_secs(1), "{restarts:?}");
    Ok(())
}

/// The moments of death and of the restart, under traffic.
#[test]
fn nothing_leaks_while_it_dies_and_while_it_starts() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let launch = Launch::on(&topology).arguments(&["--compare-timeout", "60000"]);
    let received_some = |comparator: &Comparator| {
        comparator
            .control()
            .await_status("traffic", PATIENCE, |status| status.count("primary_received") >= 50)
    };
    for round in 0..3 {
        let comparator = launch.clone().start(topology.host())?;
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result {
            let sender = scope.spawn(|| send_until(&topology.primary, round, &enough));
            // Set on every way out, or the scope would wait for the sender for long.
            let across_the_restart = || -> Result {
                received_some(&comparator)?;
                comparator.kill()?;
                let comparator = launch.clone().start(topology.host())?;
                received_some(&comparator)?;
                // The hard way, so as not to flush what it holds.
                comparator.kill()
            };
            let result = across_the_restart();
            enough.store(true, Ordering::Relaxed);
            sender.join().expect("the sender does not panic")?;
            result
        })?;
        topology.client.capture().expect_nothing(SILENCE)?;
    }
    launch.start(topology.host())?.stop()?;
    topology.client.capture().expect_nothing(SILENCE)
}

/// Sends frames, each another one, at a pace that a busy machine can follow.
fn send_until(guest: &Guest, round: u64, enough: &AtomicBool) -> Result {
    const AT_MOST: u64 = 100_000;
    for serial in 0..AT_MOST {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        guest.send(&Packet::v4().udp(7, 7, &bytes(round << 32 | serial, 40)))?;
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

#[test]
fn with_on_exit_open_the_primary_reaches_the_network_after_a_crash() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let launch = Launch::on(&topology).arguments(&["--on-exit", "open"]);
    let comparator = launch.clone().start(topology.host())?;
    topology.primary.send(&Packet::v4().udp(1, 2, b"held"))?;
    topology.client.capture().expect_nothing(SILENCE)?;
    comparator.kill()?;

    topology.primary.send_all(&frames(100))?;
    topology.client.capture().expect(&frames(100))?;
    topology.secondary.send_all(&frames(200))?;
    topology.client.capture().expect_nothing(SILENCE)?;

    let comparator = launch.start(topology.host())?;
    topology.primary.send_all(&frames(300))?;
    topology.client.capture().expect_nothing(SILENCE)?;
    topology.secondary.send_all(&frames(300))?;
    topology.client.capture().expect_in_any_order(&frames(300))?;
    comparator.stop()?;
    Ok(())
}

#[test]
fn a_clean_exit_leaves_the_devices_as_found() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    assert!(!has_xdp(&topology)?);
    let before = device_settings(&topology)?;
    let comparator = Launch::on(&topology).start(topology.host())?;
    assert!(has_xdp(&topology)?);
    comparator.stop()?;
    assert_eq!(device_settings(&topology)?, before);
    let device = topology.device(Role::Primary).to_owned();
    let pinned =
        topology.host().command("find", &["/sys/fs/bpf", "-name", &format!("*{device}*")])?;
    assert_eq!(String::from_utf8_lossy(&pinned.stdout), "", "pins are left");
    topology.primary.send_all(&frames(0))?;
    topology.client.capture().expect(&frames(0))
}

#[test]
fn with_keep_closed_a_clean_exit_leaves_the_drop_in_place() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let comparator = Launch::on(&topology).arguments(&["--keep-closed"]).start(topology.host())?;
    exchange(&mut topology, &frames(0))?;
    comparator.stop()?;
    topology.primary.send_all(&frames(100))?;
    topology.client.capture().expect_nothing(SILENCE)?;

    let comparator = Launch::on(&topology).start(topology.host())?;
    exchange(&mut topology, &frames(200))?;
    comparator.stop()?;
    topology.primary.send_all(&frames(300))?;
    topology.client.capture().expect(&frames(300))
}
