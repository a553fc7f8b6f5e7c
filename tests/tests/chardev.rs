//! Ports that are QEMU socket chardevs: what goes through, and what a peer can do wrong.

use std::time::Duration;

use anyhow::ensure;
use colo_tests::capture::{PATIENCE, SILENCE};
use colo_tests::comparator::{Launch, Outcome};
use colo_tests::control::Status;
use colo_tests::filter::{Filter, Place, Waiting};
use colo_tests::packet::{Packet, arp};
use colo_tests::payload::{Seed, bytes};
use colo_tests::{Comparator, Namespace, Result, needs_root};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const PRIMARY: usize = 0;
const SECONDARY: usize = 1;
const OUT: usize = 2;

/// How the sockets are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unix,
    Tcp,
}

/// A comparator that listens on three sockets, and a filter on each.
struct Scene {
    comparator: Comparator,
    filters: [Option<Filter>; 3],
    places: [Place; 3],
    vnet: bool,
    namespace: Option<Namespace>,
    _directory: TempDir,
}

fn loopback() -> Result<Namespace> {
    let namespace = Namespace::new("lo")?;
    namespace.ip("link set lo up\n")?;
    Ok(namespace)
}

fn places(kind: Kind, directory: &TempDir) -> [Place; 3] {
    [0, 1, 2].map(|index| match kind {
        Kind::Unix => Place::Unix(directory.path().join(["primary", "secondary", "out"][index])),
        Kind::Tcp => Place::Tcp(9001 + index as u16),
    })
}

impl Scene {
    fn new(kind: Kind, vnet: bool, arguments: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        let namespace = (kind == Kind::Tcp).then(loopback).transpose()?;
        let places = places(kind, &directory);
        let ports = places.each_ref().map(|place| place.port() + ",server");
        let mut launch = Launch::between(ports).arguments(arguments);
        if vnet {
            launch = launch.arguments(&["--vnet-hdr"]);
        }
        let comparator = match &namespace {
            Some(namespace) => launch.start(namespace)?,
            None => launch.start_here()?,
        };
        let filters = [None, None, None];
        let mut scene =
            Self { comparator, filters, places, vnet, namespace, _directory: directory };
        for port in [PRIMARY, SECONDARY, OUT] {
            scene.connect(port)?;
        }
        Ok(scene)
    }

    fn unix(arguments: &[&str]) -> Result<Self> {
        Self::new(Kind::Unix, false, arguments)
    }

    fn connect(&mut self, port: usize) -> Result {
        let filter = Filter::connect(&self.places[port], self.namespace.as_ref(), self.vnet)?;
        self.filters[port] = Some(filter);
        self.await_connection(port, "connected")
    }

    /// The filter on `port` goes away.
    fn disconnect(&mut self, port: usize) -> Result {
        self.filters[port] = None;
        self.await_connection(port, "listening")
    }

    fn await_connection(&self, port: usize, state: &str) -> Result {
        self.comparator.control().await_status(state, PATIENCE, |status| {
            status.0["ports"][port]["statistics"]["connection"] == state
        })?;
        Ok(())
    }

    fn await_count(&self, name: &str, count: u64) -> Result<Status> {
        self.comparator.control().await_status(&format!("{name} = {count}"), PATIENCE, |status| {
            status.count(name) == count
        })
    }

    fn filter(&mut self, port: usize) -> &mut Filter {
        self.filters[port].as_mut().expect("the test has connected it")
    }

    fn primary<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        self.filter(PRIMARY).send(frames)
    }

    fn secondary<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        self.filter(SECONDARY).send(frames)
    }

    fn out(&mut self) -> &mut Filter {
        self.filter(OUT)
    }

    fn counted(&self, port: usize, counter: &str) -> Result<u64> {
        count(&self.comparator.status()?, port, counter)
    }

    /// Checks what must hold after every test: nothing more leaves, every frame is accounted
    /// for, none is lost or still held.
    fn finish(mut self) -> Result<Outcome> {
        let status = self.comparator.status()?;
        ensure!(status.count("held") == 0, "frames are still held: {}", status.0);
        let outcome = self.comparator.stop()?;
        if let Some(out) = &mut self.filters[OUT] {
            out.expect_closed()?;
        }
        Ok(outcome)
    }
}

fn count(status: &Status, port: usize, counter: &str) -> Result<u64> {
    status.0["ports"][port]["statistics"][counter]
        .as_u64()
        .ok_or_else(|| anyhow::anyhow!("port {port} has no {counter}: {}", status.0))
}

fn datagrams(count: u64, length: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            // Numbered, because short payloads of different seeds may be equal.
            let payload = [&n.to_be_bytes()[..], &bytes(n, length)].concat();
            Packet::v4().udp(1000 + (n % 7) as u16, 2, &payload)
        })
        .collect()
}

fn identical_frames_leave_in_order(kind: Kind, vnet: bool) -> Result {
    let mut scene = Scene::new(kind, vnet, &[])?;
    // A header that says something, which must arrive as it was.
    let header = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    let frames = datagrams(500, 200);
    scene.filter(PRIMARY).send_with(&header, &frames)?;
    scene.secondary(&frames)?;
    scene.out().expect_with(&header, &frames)?;
    // The secondary first.
    let frames = datagrams(500, 1400);
    scene.secondary(&frames)?;
    scene.filter(PRIMARY).send_with(&header, &frames)?;
    scene.out().expect_with(&header, &frames)?;
    // What is not compared passes, and the secondary's is dropped.
    scene.secondary(&[arp()])?;
    scene.primary(&[arp()])?;
    scene.out().expect(&[arp()])?;
    let outcome = scene.finish()?;
    assert_eq!(outcome.summary.count("matched"), 1000);
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

#[test]
fn identical_frames_leave_in_order_over_unix_sockets() -> Result {
    identical_frames_leave_in_order(Kind::Unix, false)
}

#[test]
fn identical_frames_leave_in_order_with_their_vnet_headers() -> Result {
    identical_frames_leave_in_order(Kind::Unix, true)
}

#[test]
fn identical_frames_leave_in_order_over_tcp() -> Result {
    needs_root!();
    identical_frames_leave_in_order(Kind::Tcp, false)?;
    identical_frames_leave_in_order(Kind::Tcp, true)
}

#[test]
fn frames_that_differ_are_held_until_the_checkpoint() -> Result {
    let mut scene = Scene::unix(&[])?;
    let ours = datagrams(40, 100);
    scene.primary(&ours)?;
    scene.secondary(&[Packet::v4().udp(1000, 2, b"something else")])?;
    scene.await_count("divergences", 1)?;
    scene.comparator.event("checkpoint-requested")?;
    scene.await_count("held", 41)?;
    scene.out().expect_nothing(SILENCE)?;
    scene.comparator.control().call(&["checkpoint"])?;
    let expected: Vec<_> = ours.clone();
    scene.out().expect(&expected)?;
    scene.finish()?;
    Ok(())
}

#[test]
fn what_is_held_leaves_when_the_comparator_ends() -> Result {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut scene = Scene::unix(&[])?;
        let frames = datagrams(300, 500);
        scene.primary(&frames)?;
        scene.await_count("held", 300)?;
        let outcome = scene.comparator.end_with(signal)?;
        outcome.check()?;
        let mut out = scene.filters[OUT].take().expect("connected");
        out.expect(&frames)?;
        out.expect_closed()?;
    }
    Ok(())
}

#[test]
fn the_largest_frames_of_a_guest_that_segments_later_go_through_whole() -> Result {
    let mut scene = Scene::new(Kind::Unix, true, &[])?;
    let mut seed = Seed::new(3);
    let frames: Vec<_> =
        (0..60).map(|n| Packet::v4().udp(1, 2, &bytes(n, 1 + seed.below(65_000)))).collect();
    for window in frames.chunks(10) {
        scene.primary(window)?;
        scene.secondary(window)?;
        scene.out().expect(window)?;
    }
    // The longest that the framing allows, with bytes that belong to no packet behind.
    let longest = colo_tests::packet::padded(Packet::v4().udp(1, 2, b"longest"), 69_632 - 12);
    scene.primary(&[&longest])?;
    scene.secondary(&[&longest])?;
    scene.out().expect(&[&longest])?;
    scene.finish()?;
    Ok(())
}

#[test]
fn checksums_left_to_the_card_are_completed_unless_the_header_says_what_is_left() -> Result {
    for vnet in [false, true] {
        let mut scene = Scene::new(Kind::Unix, vnet, &[])?;
        let packet = Packet::v4();
        let whole = packet.udp(1, 2, b"left to the card");
        let mut partial = whole.clone();
        let sum = packet.partial_checksum(17, whole.len() - 34);
        partial[40..42].copy_from_slice(&sum.to_be_bytes());
        scene.primary(&[&partial])?;
        scene.secondary(&[&whole])?;
        scene.out().expect(&[if vnet { partial } else { whole }])?;
        let outcome = scene.finish()?;
        assert_eq!(outcome.summary.count("checksums_completed"), u64::from(!vnet));
    }
    Ok(())
}

/// What a peer may send that is no frame, and the counter that shows it.
const FAULTS: [(&[u8], bool, &str); 5] = [
    (&[0, 0, 0, 0], false, "faults_empty"),
    (&[0, 1, 0x10, 1], false, "faults_too_long"),
    (b"GET / HTTP/1.1\r\n\r\n", false, "faults_too_long"),
    (&[0, 0, 0, 60, 0xff, 0xff, 0xff, 0xff], true, "faults_header"),
    (&[0, 0, 0, 60, 0, 0, 0, 61], true, "faults_header"),
];

#[test]
fn a_peer_at_fault_is_disconnected_and_all_else_goes_on() -> Result {
    for (sent, vnet, counter) in FAULTS {
        for port in [PRIMARY, SECONDARY] {
            let mut scene = Scene::new(Kind::Unix, vnet, &[])?;
            let frames = datagrams(20, 100);
            // Held on the side at fault, and whole frames right before the fault.
            scene.filter(port).send(&frames[..10])?;
            scene.filter(port).send_bytes(sent)?;
            scene.filter(port).expect_closed()?;
            scene.await_count("held", 10)?;
            assert_eq!(scene.counted(port, counter)?, 1, "{sent:02x?}");

            scene.connect(port)?;
            scene.filter(port).send(&frames[10..])?;
            scene.filter(1 - port).send(&frames)?;
            scene.out().expect(&frames)?;
            scene.finish()?;
        }
    }
    Ok(())
}

#[test]
fn what_the_peer_of_the_output_sends_is_ignored() -> Result {
    let mut scene = Scene::unix(&[])?;
    scene.out().send_bytes(&[0; 1000])?;
    scene.comparator.control().await_status("ignored bytes", PATIENCE, |status| {
        count(status, OUT, "bytes_ignored").is_ok_and(|count| count == 1000)
    })?;
    let frames = datagrams(20, 100);
    scene.primary(&frames)?;
    scene.secondary(&frames)?;
    scene.out().expect(&frames)?;
    scene.finish()?;
    Ok(())
}

#[test]
fn a_connection_that_ends_inside_a_frame_loses_only_that_frame() -> Result {
    for (kind, vnet) in [(Kind::Unix, false), (Kind::Unix, true), (Kind::Tcp, false)] {
        if kind == Kind::Tcp {
            needs_root!();
        }
        for port in [PRIMARY, SECONDARY] {
            let mut scene = Scene::new(kind, vnet, &[])?;
            let frames = datagrams(30, 300);
            scene.filter(port).send(&frames[..15])?;
            scene.filter(port).send_half(&frames[15])?;
            scene.disconnect(port)?;
            assert_eq!(scene.counted(port, "partial_frames")?, 1);
            scene.await_count("held", 15)?;
            // The next connection starts clean.
            scene.connect(port)?;
            scene.filter(port).send(&frames[15..])?;
            scene.filter(1 - port).send(&frames)?;
            scene.out().expect(&frames)?;
            scene.finish()?;
        }
    }
    Ok(())
}

#[test]
fn frames_in_pieces_of_any_size_are_put_together() -> Result {
    let mut scene = Scene::new(Kind::Unix, true, &[])?;
    let frames = datagrams(40, 60);
    let mut stream = Vec::new();
    for frame in &frames {
        stream.extend_from_slice(&(frame.len() as u32 + 10).to_be_bytes());
        stream.extend_from_slice(&10_u32.to_be_bytes());
        stream.extend_from_slice(&[7; 10]);
        stream.extend_from_slice(frame);
    }
    scene.secondary(&frames)?;
    for size in Seed::new(1).cuts(stream.len(), 40) {
        let piece: Vec<u8> = stream.drain(..size).collect();
        scene.filter(PRIMARY).send_bytes(&piece)?;
        std::thread::sleep(Duration::from_micros(200));
    }
    scene.out().expect_with(&[7; 10], &frames)?;
    scene.finish()?;
    Ok(())
}

#[test]
fn peers_that_go_away_and_come_back_lose_nothing() -> Result {
    for kind in [Kind::Unix, Kind::Tcp] {
        if kind == Kind::Tcp {
            needs_root!();
        }
        let mut scene = Scene::new(kind, false, &[])?;
        let mut sent = datagrams(400, 100).into_iter();
        for round in 0..3 {
            for port in [PRIMARY, SECONDARY, OUT] {
                let frames: Vec<_> = sent.by_ref().take(40).collect();
                // The first half is under way when the peer goes, the second when it is back.
                if port != PRIMARY {
                    scene.primary(&frames[..20])?;
                }
                if port != SECONDARY {
                    scene.secondary(&frames[..20])?;
                }
                if port != OUT {
                    scene.await_count("held", 20)?;
                } else {
                    scene.out().expect(&frames[..20])?;
                }
                scene.disconnect(port)?;
                if port == OUT {
                    scene.primary(&frames[20..])?;
                    scene.secondary(&frames[20..])?;
                    scene.await_count("frames.pending", 20)?;
                }
                scene.connect(port)?;
                match port {
                    OUT => scene.out().expect(&frames[20..])?,
                    PRIMARY => {
                        scene.primary(&frames)?;
                        scene.secondary(&frames[20..])?;
                        scene.out().expect(&frames)?;
                    }
                    _ => {
                        scene.secondary(&frames)?;
                        scene.primary(&frames[20..])?;
                        scene.out().expect(&frames)?;
                    }
                }
                assert_eq!(scene.counted(port, "connections")?, round + 2);
            }
        }
        let outcome = scene.finish()?;
        assert_eq!(outcome.summary.count("divergences"), 0);
        assert_eq!(outcome.summary.count("released"), 360);
    }
    Ok(())
}

#[test]
fn an_output_peer_that_takes_nothing_for_long_gets_everything_in_order() -> Result {
    for kind in [Kind::Unix, Kind::Tcp] {
        if kind == Kind::Tcp {
            needs_root!();
        }
        // Memory for fewer frames than are sent, so that the senders are made to wait.
        let mut scene = Scene::new(kind, false, &["--frames", "1024"])?;
        let frames = datagrams(8000, 1000);
        let (mut primary, mut secondary) = (
            scene.filters[PRIMARY].take().expect("connected"),
            scene.filters[SECONDARY].take().expect("connected"),
        );
        std::thread::scope(|scope| -> Result {
            let sends = [&mut primary, &mut secondary].map(|filter| {
                let frames = &frames;
                scope.spawn(move || filter.send(frames))
            });
            // Until the output is full and back-pressure has reached the senders.
            scene.comparator.control().await_status("a full outbox", PATIENCE, |status| {
                status.count("frames.pending") >= 128
            })?;
            std::thread::sleep(SILENCE);
            scene.out().expect(&frames)?;
            for send in sends {
                send.join().expect("no panic")?;
            }
            Ok(())
        })?;
        assert!(scene.counted(OUT, "peer_waits")? > 0);
        let outcome = scene.finish()?;
        assert_eq!(outcome.summary.count("matched"), 8000);
        assert_eq!(outcome.summary.count("divergences"), 0);
    }
    Ok(())
}

#[test]
fn an_output_peer_that_goes_inside_a_frame_gets_that_frame_whole_when_it_is_back() -> Result {
    let mut scene = Scene::unix(&[])?;
    let frames = datagrams(600, 1400);
    scene.primary(&frames)?;
    scene.secondary(&frames)?;
    scene.comparator.control().await_status("a full socket", PATIENCE, |status| {
        status.count("released") == 600 && status.count("frames.pending") > 0
    })?;
    // What lies in the socket when the peer goes is gone with it, as with any socket.
    let pending = scene.comparator.status()?.count("frames.pending") as usize;
    scene.disconnect(OUT)?;
    scene.connect(OUT)?;
    scene.out().expect(&frames[600 - pending..])?;
    scene.finish()?;
    Ok(())
}

#[test]
fn released_frames_that_nobody_took_are_counted_at_the_end() -> Result {
    let mut scene = Scene::unix(&[])?;
    scene.disconnect(OUT)?;
    let frames = datagrams(10, 100);
    scene.primary(&frames)?;
    scene.secondary(&frames)?;
    scene.await_count("frames.pending", 10)?;
    let outcome = scene.comparator.end_with(Signal::SIGTERM)?;
    assert!(outcome.status.success());
    assert_eq!(outcome.summary.count("unsent"), 10);
    assert_eq!(outcome.summary.count("lost"), 10);
    assert_eq!(outcome.summary.count("frames_unaccounted"), 0);
    Ok(())
}

#[test]
fn a_comparator_that_connects_finds_its_peers_whenever_they_come_and_come_back() -> Result {
    for kind in [Kind::Unix, Kind::Tcp] {
        if kind == Kind::Tcp {
            needs_root!();
        }
        let directory = TempDir::with_prefix("colo-")?;
        let namespace = (kind == Kind::Tcp).then(loopback).transpose()?;
        let places = places(kind, &directory);
        let launch = Launch::between(places.each_ref().map(Place::port));
        let comparator = match &namespace {
            Some(namespace) => launch.start(namespace)?,
            None => launch.start_here()?,
        };
        for (round, frames) in datagrams(60, 100).chunks(20).enumerate() {
            let waiting: Vec<_> = places
                .iter()
                .map(|place| Waiting::at(place, namespace.as_ref(), false))
                .collect::<Result<_>>()?;
            let mut filters: Vec<_> = waiting.iter().map(Waiting::accept).collect::<Result<_>>()?;
            filters[PRIMARY].send(frames)?;
            filters[SECONDARY].send(frames)?;
            filters[OUT].expect(frames)?;
            drop((filters, waiting));
            comparator.control().await_status("all gone", PATIENCE, |status| {
                (0..3).all(|port| {
                    count(status, port, "disconnections").is_ok_and(|n| n == round as u64 + 1)
                })
            })?;
        }
        comparator.stop()?;
    }
    Ok(())
}

#[test]
fn a_second_peer_waits_until_the_first_is_gone() -> Result {
    let mut scene = Scene::unix(&[])?;
    let mut second = Filter::connect(&scene.places[PRIMARY], None, false)?;
    let frames = datagrams(20, 100);
    second.send(&frames[10..])?;
    scene.primary(&frames[..10])?;
    scene.secondary(&frames)?;
    scene.out().expect(&frames[..10])?;
    scene.out().expect_nothing(SILENCE)?;
    scene.filters[PRIMARY] = Some(second);
    scene.out().expect(&frames[10..])?;
    scene.finish()?;
    Ok(())
}

#[test]
fn memory_that_runs_short_makes_the_side_that_is_ahead_wait() -> Result {
    let mut scene = Scene::unix(&["--frames", "1024", "--compare-timeout", "30s"])?;
    // Many flows, so that the limit of one flow is not what stops it.
    let frames: Vec<_> =
        (0..4000).map(|n| Packet::v4().udp(1000 + n, 2, &bytes(u64::from(n), 900))).collect();
    let mut primary = scene.filters[PRIMARY].take().expect("connected");
    std::thread::scope(|scope| -> Result {
        let ahead = scope.spawn(|| primary.send(&frames));
        scene
            .comparator
            .control()
            .await_status("held frames", PATIENCE, |status| status.count("primary_held") >= 600)?;
        std::thread::sleep(SILENCE);
        let status = scene.comparator.status()?;
        status.check_conservation()?;
        assert_eq!(status.count("lost"), 0);
        let mut secondary = scene.filters[SECONDARY].take().expect("connected");
        let behind = {
            let frames = &frames;
            scope.spawn(move || secondary.send(frames).map(|()| secondary))
        };
        scene.out().expect_in_any_order(&frames)?;
        ahead.join().expect("no panic")?;
        behind.join().expect("no panic")?;
        Ok(())
    })?;
    let outcome = scene.finish()?;
    assert_eq!(outcome.summary.count("matched"), 4000);
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

/// Expects that the comparator sleeps: it uses at most 3 % of a core, and what the clock rounds.
fn expect_asleep(comparator: &Comparator, when: &str) -> Result {
    let before = comparator.processor_time()?;
    std::thread::sleep(Duration::from_secs(1));
    let used = comparator.processor_time()? - before;
    assert!(used <= Duration::from_millis(50), "{used:?} in a second {when}");
    Ok(())
}

#[test]
fn a_comparator_that_waits_for_peers_frames_or_room_sleeps() -> Result {
    let mut scene = Scene::unix(&["--frames", "1024"])?;
    expect_asleep(&scene.comparator, "with nothing to do")?;
    let frames = datagrams(700, 1000);
    scene.primary(&frames[..100])?;
    scene.await_count("held", 100)?;
    expect_asleep(&scene.comparator, "with frames held")?;
    scene.primary(&frames[100..])?;
    scene.secondary(&frames)?;
    scene
        .comparator
        .control()
        .await_status("a full output", PATIENCE, |status| status.count("frames.pending") >= 100)?;
    expect_asleep(&scene.comparator, "with a peer that takes nothing")?;
    scene.out().expect(&frames)?;
    for port in [PRIMARY, SECONDARY, OUT] {
        scene.disconnect(port)?;
    }
    expect_asleep(&scene.comparator, "with no peer")?;
    scene.finish()?;
    Ok(())
}
