//! Devices and sockets as ports of one comparator.

use colo_tests::capture::{PATIENCE, SILENCE};
use colo_tests::comparator::{Launch, run_to_exit};
use colo_tests::control::Status;
use colo_tests::filter::{Filter, Place};
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::{Comparator, Plan, Result, Role, Topology, needs_root};
use tempfile::TempDir;

const USAGE: i32 = 2;

/// Which ports are sockets; the others are devices.
#[derive(Debug, Clone, Copy)]
struct Sockets {
    primary: bool,
    secondary: bool,
    out: bool,
}

struct Scene {
    comparator: Comparator,
    filters: [Option<Filter>; 3],
    topology: Topology,
    vnet: bool,
    directory: TempDir,
}

impl Scene {
    fn new(sockets: Sockets, vnet: bool, arguments: &[&str]) -> Result<Self> {
        let topology = Topology::new(Plan::default())?;
        let directory = TempDir::with_prefix("colo-")?;
        let is_socket = [sockets.primary, sockets.secondary, sockets.out];
        let places = [0, 1, 2].map(|index: usize| {
            is_socket[index].then(|| Place::Unix(directory.path().join(index.to_string())))
        });
        let ports = [0, 1, 2].map(|index| match &places[index] {
            Some(place) => place.port() + ",server",
            None => format!("xdp:{}", topology.device(Role::ALL[index])),
        });
        let mut launch = Launch::between(ports).arguments(arguments);
        if vnet {
            launch = launch.arguments(&["--vnet-hdr"]);
        }
        let comparator = launch.start(topology.host())?;
        let mut filters = [None, None, None];
        for (filter, place) in filters.iter_mut().zip(&places) {
            if let Some(place) = place {
                *filter = Some(Filter::connect(place, None, vnet)?);
            }
        }
        Ok(Self { comparator, filters, topology, vnet, directory })
    }

    fn send(&mut self, role: usize, frames: &[Vec<u8>]) -> Result {
        match (&mut self.filters[role], role) {
            (Some(filter), _) => filter.send(frames),
            (None, 0) => self.topology.primary.send_all(frames),
            (None, _) => self.topology.secondary.send_all(frames),
        }
    }

    fn expect(&mut self, frames: &[Vec<u8>]) -> Result {
        match &mut self.filters[2] {
            Some(filter) => filter.expect(frames),
            None => self.topology.client.capture().expect(frames),
        }
    }

    fn expect_nothing(&mut self) -> Result {
        match &mut self.filters[2] {
            Some(filter) => filter.expect_nothing(SILENCE),
            None => self.topology.client.capture().expect_nothing(SILENCE),
        }
    }

    fn await_count(&self, name: &str, count: u64) -> Result {
        let what = format!("{name} = {count}");
        let control = self.comparator.control();
        control.await_status(&what, PATIENCE, |status| status.count(name) == count)?;
        Ok(())
    }
}

fn datagrams(first: u64, count: u64) -> Vec<Vec<u8>> {
    (first..first + count).map(|n| Packet::v4().udp(1, 2, &bytes(n, 300))).collect()
}

/// Every mixture of devices and sockets.
fn mixtures() -> impl Iterator<Item = Sockets> {
    (1..7).map(|bits| Sockets {
        primary: bits & 1 != 0,
        secondary: bits & 2 != 0,
        out: bits & 4 != 0,
    })
}

#[test]
fn every_mixture_releases_what_is_equal_and_holds_what_is_not() -> Result {
    needs_root!();
    for sockets in mixtures() {
        for vnet in [false, true] {
            let mut scene = Scene::new(sockets, vnet, &[])?;
            for window in datagrams(0, 200).chunks(50) {
                scene.send(0, window)?;
                scene.send(1, window)?;
                // From a device, or from the filter, each comes with an empty header.
                scene.expect(window)?;
            }
            let ours = datagrams(1000, 20);
            scene.send(0, &ours)?;
            scene.send(1, &datagrams(2000, 1))?;
            scene.await_count("held", 21)?;
            scene.comparator.event("checkpoint-requested")?;
            scene.expect_nothing()?;
            scene.comparator.control().call(&["checkpoint"])?;
            scene.expect(&ours)?;
            let outcome = scene.comparator.stop()?;
            assert_eq!(outcome.summary.count("matched"), 200, "{sockets:?}");
        }
    }
    Ok(())
}

#[test]
fn the_survivor_passes_uncompared_after_failover_whatever_its_ports_are() -> Result {
    needs_root!();
    for sockets in mixtures() {
        for (survivor, role) in [("primary", 0), ("secondary", 1)] {
            let mut scene = Scene::new(sockets, false, &[])?;
            scene.comparator.control().call(&["failover", "--survivor", survivor])?;
            let frames = datagrams(0, 20);
            scene.send(role, &frames)?;
            scene.expect(&frames)?;
            scene.send(1 - role, &datagrams(100, 5))?;
            scene.expect_nothing()?;
            scene.comparator.control().call(&["rearm"])?;
            let frames = datagrams(200, 20);
            scene.send(0, &frames)?;
            scene.send(1, &frames)?;
            scene.expect(&frames)?;
            scene.comparator.stop()?;
        }
    }
    Ok(())
}

#[test]
fn a_device_sends_no_frame_that_is_too_long_or_too_short_for_it() -> Result {
    needs_root!();
    let sockets = Sockets { primary: true, secondary: true, out: false };
    let mut scene = Scene::new(sockets, true, &[])?;
    let fits = datagrams(0, 1);
    let frames = [Packet::v4().udp(1, 2, &[1; 60_000]), vec![2; 13], fits[0].clone()];
    scene.send(0, &frames)?;
    scene.send(1, &frames)?;
    scene.expect(&fits)?;
    scene.await_count("oversized", 1)?;
    scene.await_count("runts", 1)?;
    scene.comparator.status()?.check_conservation()?;
    Ok(())
}

#[test]
fn a_peer_of_the_secondary_comes_back_while_the_primary_is_a_device() -> Result {
    needs_root!();
    let sockets = Sockets { primary: false, secondary: true, out: false };
    let mut scene = Scene::new(sockets, false, &[])?;
    let frames = datagrams(0, 40);
    scene.send(0, &frames[..20])?;
    scene.await_count("held", 20)?;
    scene.filters[1] = None;
    scene.send(0, &frames[20..])?;
    scene.await_count("held", 40)?;
    let place = Place::Unix(scene.directory.path().join("1"));
    scene.filters[1] = Some(Filter::connect(&place, None, scene.vnet)?);
    scene.send(1, &frames)?;
    scene.expect(&frames)?;
    scene.comparator.stop()?;
    Ok(())
}

#[test]
fn what_cannot_work_is_refused_in_one_line() -> Result {
    let refused = |ports: [&str; 3], more: &[&str], code: i32, named: &str| -> Result {
        let [primary, secondary, out] = ports;
        let mut arguments =
            vec!["run", "--primary", primary, "--secondary", secondary, "--out", out];
        arguments.extend(more);
        let output = run_to_exit(None, None, &arguments)?;
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert_eq!(message.trim().lines().count(), 1, "{message}");
        assert!(message.contains(named), "{message} does not name {named}");
        Ok(())
    };
    let directory = TempDir::with_prefix("colo-")?;
    let path = |name: &str| format!("chardev:unix:{}", directory.path().join(name).display());
    let (a, b, c) = (path("a"), path("b"), path("c"));
    let (a, b, c) = (a.as_str(), b.as_str(), c.as_str());
    const DEVICE: i32 = 5;

    refused(["chardev:", b, c], &[], USAGE, "chardev:unix:PATH")?;
    refused(["chardev:tcp:host", b, c], &[], USAGE, "HOST:PORT")?;
    refused([&format!("{a},wait=off"), b, c], &[], USAGE, "wait=off")?;
    refused([a, a, c], &[], USAGE, "both name")?;
    refused([a, &format!("{a},server"), c], &[], USAGE, "both name")?;
    refused([a, b, c], &["--bypass", "proto=udp"], USAGE, "xdp:DEVICE")?;
    refused(["chardev:unix:/nonexistent/x,server", b, c], &[], DEVICE, "/nonexistent/x")?;
    refused(["chardev:tcp:no.such.host.invalid:1", b, c], &[], DEVICE, "no.such.host.invalid")?;
    let listener = std::os::unix::net::UnixListener::bind(directory.path().join("b"))?;
    refused([a, &format!("{b},server"), c], &[], DEVICE, "another process listens")?;
    drop(listener);
    // A file that is no socket stays what it is.
    std::fs::write(directory.path().join("c"), "precious")?;
    refused([a, &path("d"), &format!("{c},server")], &[], DEVICE, "another address")?;
    assert_eq!(std::fs::read(directory.path().join("c"))?, b"precious");
    Ok(())
}

#[test]
fn frames_of_a_device_that_a_stalled_output_makes_the_kernel_drop_are_counted() -> Result {
    needs_root!();
    let sockets = Sockets { primary: false, secondary: true, out: true };
    let mut scene = Scene::new(sockets, false, &["--frames", "1024"])?;
    // ARP is not compared, so that the primary alone is what counts.
    let arp = colo_tests::packet::arp();
    // Once an eighth of the memory waits, the primary is not read any more.
    let is_stalled = |status: &Status| status.count("frames.pending") >= 128;
    let mut sent = 0;
    while !is_stalled(&scene.comparator.status()?) {
        scene.send(0, &vec![arp.clone(); 64])?;
        sent += 64;
        scene.comparator.control().await_status("the frames read", PATIENCE, |status| {
            status.count("primary_received") == sent || is_stalled(status)
        })?;
        assert!(sent < 10_000, "the output takes frames without end");
    }
    scene.send(0, &vec![arp.clone(); 1000])?;
    sent += 1000;
    // The ring is full of what was lent to it.
    let control = scene.comparator.control();
    let status = control.await_status("every frame somewhere", PATIENCE, |status| {
        let places = ["primary_received", "lost", "frames.receive"];
        places.map(|place| status.count(place)).iter().sum::<u64>() == sent
    })?;
    let lost = status.count("lost");
    assert!(lost >= 1000 - 128, "{}", status.0);

    // What was not lost arrives once the peer takes frames again.
    scene.expect(&vec![arp; (sent - lost) as usize])?;
    scene.expect_nothing()?;
    let status = scene.comparator.status()?;
    status.check_conservation()?;
    assert_eq!(status.count("lost"), lost);
    Ok(())
}
