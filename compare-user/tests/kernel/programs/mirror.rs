//! `mirror` with `mirror_guest` behind it, `wrap_copy` and `flood`.

use std::path::PathBuf;

use aya::maps::{HashMap, MapData, ProgramArray};
use aya::programs::tc::qdisc_add_clsact;
use colo_tests::packet::{CLIENT_MAC, Packet};
use colo_tests::segment::{RST, Segment};
use compare_ebpf::{ConnectionKey, GuestMac, REINJECTED};
use compare_user::kernel::{
    Copies, DEFAULT_PIN_DIRECTORY, Mirror, MirrorOptions, MirrorOutcome, Mode, Pass, Tally,
};

use super::classes::{CLIENT, Class, SERVER, classes};
use super::run::{
    Counters, Program, Ran, TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT, XDP_DROP, XDP_PASS,
    XDP_REDIRECT, once,
};
use super::tunnel::{Leaving, NEXT_HOP, Underlay, leaving};
use crate::network::{Wire, device, in_namespace, ip, pins, veth};

/// The address that most fixtures go to.
const GUEST: [u8; 6] = CLIENT_MAC;

/// The longest frame of which an XDP program may make a copy.
const LONGEST_CLONE: usize = 3400;

/// A mirror between devices that nobody else sends to.
struct Judge {
    mirror: Mirror,
    program: Program,
    counters: Counters<MirrorOutcome>,
}

fn mirror_options() -> MirrorOptions {
    MirrorOptions {
        nic: "nic".into(),
        mode: Mode::Native,
        primary: "guest".into(),
        link: "link0".into(),
        macs: vec![GUEST],
        tunnel: None,
        pin: PathBuf::from(DEFAULT_PIN_DIRECTORY),
        debug: false,
    }
}

fn devices() {
    for (name, far) in [("nic", "network"), ("guest", "inside"), ("link0", "far")] {
        veth(name, far);
    }
}

/// A map that the mirrors of this test's NIC share.
fn shared(map: &str) -> PathBuf {
    let is_maps = |path: &PathBuf| path.to_string_lossy().contains("mirror-maps-nic-");
    pins().into_iter().find(is_maps).unwrap().join(map)
}

impl Judge {
    fn new(change: impl FnOnce(&mut MirrorOptions)) -> Self {
        let mut options = mirror_options();
        change(&mut options);
        let mirror = Mirror::attach(options).unwrap();
        let counters = Counters::from(mirror.outcomes().unwrap());
        Self { mirror, program: Program::on(&device("nic")), counters }
    }

    /// The counters that have moved.
    fn moved(&self) -> Vec<(MirrorOutcome, Tally)> {
        self.counters.moved(self.mirror.outcomes().unwrap())
    }

    /// Runs a frame, which must stay as it is and be counted once.
    #[track_caller]
    fn expect(&self, name: &str, frame: &[u8], (action, outcome): (u32, MirrorOutcome)) {
        let ran = self.program.run(frame);
        assert_eq!(ran, Ran { action, frame: frame.to_vec() }, "{name}");
        assert_eq!(self.moved(), [once(outcome, frame)], "{name}");
    }

    /// The classifier behind the mirror.
    fn flood() -> Program {
        Program::with("flood", &shared("MIRROR_GUESTS"))
    }
}

/// The connection of a class, as the comparator is to hear of it.
fn connection(class: &Class) -> ConnectionKey {
    let words = |address: [u8; 16]| {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(address.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    };
    let address = |last: u8| {
        let mut bytes = [0; 16];
        if class.ipv6 {
            bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            bytes[15] = last;
        } else {
            bytes[..4].copy_from_slice(&[192, 0, 2, last]);
        }
        words(bytes)
    };
    let super::classes::Sees::Ports(source, destination) = class.sees else {
        panic!("{}: a reset has ports", class.name);
    };
    ConnectionKey {
        // The fixtures go from 1 to 2: whoever receives one is the guest.
        guest: address(2),
        remote: address(1),
        guest_port: destination.to_be(),
        remote_port: source.to_be(),
        tags: class.tags.map(u16::to_be),
        family: if class.ipv6 { 6 } else { 4 },
        reserved: [0; 3],
    }
}

#[test]
fn every_class_of_frame_is_mirrored_as_it_is_and_resets_are_told_with_their_connection() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|_| {});
        for class in classes() {
            let Class { name, frame, .. } = &class;
            let expected = if class.floods() {
                (XDP_PASS, MirrorOutcome::Flooded)
            } else if frame.len() > 1514 + 4 && frame.len() > LONGEST_CLONE {
                (XDP_PASS, MirrorOutcome::Long)
            } else if frame.len() > 1514 + 4 {
                (XDP_REDIRECT, MirrorOutcome::TooLongForLink)
            } else {
                (XDP_REDIRECT, MirrorOutcome::Mirrored)
            };
            judge.expect(name, frame, expected);
            let told: Vec<_> = judge.mirror.resets().into_iter().map(|it| it.connection).collect();
            let mirrored = expected.1 == MirrorOutcome::Mirrored;
            let resets = class.resets && mirrored;
            let expected = if resets { vec![connection(&class)] } else { vec![] };
            assert_eq!(told, expected, "{name}");
        }
        judge.mirror.detach().unwrap();
    });
}

#[test]
fn a_frame_goes_to_whoever_is_there_and_is_counted_so() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|_| {});
        let frame = Packet::v4().udp(SERVER, CLIENT, b"datagram");
        let to = |mac: [u8; 6]| [&mac, &frame[6..]].concat();
        judge.expect("both", &frame, (XDP_REDIRECT, MirrorOutcome::Mirrored));
        for (name, mac) in [("another", [2, 0, 0, 0, 0, 0x77]), ("swapped", swapped(GUEST))] {
            judge.expect(name, &to(mac), (XDP_PASS, MirrorOutcome::Host));
        }
        for (name, mac) in [("broadcast", [0xff; 6]), ("multicast", [0x33, 0x33, 0, 0, 0, 1])] {
            judge.expect(name, &to(mac), (XDP_PASS, MirrorOutcome::Flooded));
        }
        judge.mirror.set_copies(Copies::PrimaryOnly).unwrap();
        judge.expect("no secondary", &frame, (XDP_REDIRECT, MirrorOutcome::PrimaryOnly));
        judge.mirror.set_copies(Copies::SecondaryOnly).unwrap();
        judge.expect("no primary", &frame, (XDP_REDIRECT, MirrorOutcome::LinkOnly));
        ip("link set link0 down");
        judge.mirror.refresh().unwrap();
        judge.expect("nobody", &frame, (XDP_DROP, MirrorOutcome::NoDevice));

        // An address whose guest is in no slot.
        let mut macs: HashMap<_, GuestMac, u32> =
            HashMap::try_from(map("MIRROR_MACS", aya::maps::Map::HashMap)).unwrap();
        macs.insert(GuestMac([2, 0, 0, 0, 0, 0x66]), 7, 0).unwrap();
        judge.expect("no guest", &to([2, 0, 0, 0, 0, 0x66]), (XDP_DROP, MirrorOutcome::NoGuest));
        // A slot whose program is gone.
        let mut programs =
            ProgramArray::try_from(map("MIRROR_PROGRAMS", aya::maps::Map::ProgramArray)).unwrap();
        programs.clear_index(&0).unwrap();
        judge.expect("no program", &frame, (XDP_DROP, MirrorOutcome::NoGuest));
        judge.mirror.detach().unwrap();
    });
}

fn swapped(mut mac: [u8; 6]) -> [u8; 6] {
    mac.reverse();
    // Not a group's.
    mac[0] &= !1;
    mac
}

fn map(name: &str, kind: fn(MapData) -> aya::maps::Map) -> aya::maps::Map {
    kind(MapData::from_pin(shared(name)).unwrap())
}

#[test]
fn a_mirrored_reset_is_told_once_whoever_else_is_there() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|_| {});
        let reset = Segment::new(SERVER, CLIENT).flags(RST).frame(&Packet::v4());
        judge.expect("both", &reset, (XDP_REDIRECT, MirrorOutcome::Mirrored));
        judge.expect("again", &reset, (XDP_REDIRECT, MirrorOutcome::Mirrored));
        assert_eq!(judge.mirror.resets().len(), 2);
        // Without a secondary there is nothing to compare, and nobody to tell.
        judge.mirror.set_copies(Copies::PrimaryOnly).unwrap();
        judge.expect("alone", &reset, (XDP_REDIRECT, MirrorOutcome::PrimaryOnly));
        assert_eq!(judge.mirror.resets(), []);
        judge.mirror.detach().unwrap();
    });
}

/// A mirror whose link is a tunnel, and what leaves it: the kernel makes no test runs of programs
/// behind a DEVMAP (`bpf_prog_test_run_xdp` in net/bpf/test_run.c), so that `wrap_copy` has real
/// devices.
struct Tunnelled {
    judge: Judge,
    network: Wire,
    link: Wire,
    primary: Wire,
    _passes: [Pass; 2],
}

impl Tunnelled {
    fn new(underlay: Underlay, known: bool) -> Self {
        devices();
        underlay.set_up("link0", known);
        let judge = Judge::new(|options| options.tunnel = Some(underlay.spec()));
        Self {
            judge,
            network: Wire::open(&device("network")),
            link: Wire::open(&device("far")),
            primary: Wire::open(&device("inside")),
            _passes: ["inside", "far"].map(|end| Pass::attach(&device(end)).unwrap()),
        }
    }

    /// What has left the link for the tunnel's other end.
    fn copies(&mut self) -> Vec<Vec<u8>> {
        let frames = self.link.drain().into_iter();
        frames.filter(|frame| frame[..6] == NEXT_HOP && frame.len() >= 50 + 14).collect()
    }
}

#[test]
fn the_copy_for_a_tunnel_gets_outer_headers_byte_for_byte_and_the_primarys_none() {
    for underlay in Underlay::ALL {
        in_namespace(move || {
            let mut bench = Tunnelled::new(underlay, true);
            for Leaving { name, inner, outer, .. } in leaving(underlay) {
                bench.network.send(&inner);
                let (outcome, copies) = match outer {
                    Some(outer) => (MirrorOutcome::Mirrored, vec![outer]),
                    None => (MirrorOutcome::TooLongForLink, vec![]),
                };
                assert_eq!(bench.primary.drain(), [as_seen(&inner).unwrap()], "{name}");
                assert_eq!(bench.copies(), copies, "{name}");
                let moved = bench.judge.moved();
                assert_eq!(moved, [once(outcome, &inner)], "{name}");
            }
            bench.judge.mirror.detach().unwrap();
        });
    }
}

#[test]
fn a_copy_for_an_unknown_next_hop_is_counted_and_costs_the_primary_nothing() {
    in_namespace(|| {
        let mut bench = Tunnelled::new(Underlay::V4, false);
        let frame = Packet::v4().udp(SERVER, CLIENT, b"datagram");
        bench.network.send(&frame);
        assert_eq!(bench.primary.drain(), std::slice::from_ref(&frame));
        assert_eq!(bench.copies(), [] as [Vec<u8>; 0]);
        let expected =
            [once(MirrorOutcome::Mirrored, &frame), once(MirrorOutcome::NoNextHop, &frame)];
        assert_eq!(bench.judge.moved(), expected);
        bench.judge.mirror.detach().unwrap();
    });
}

#[test]
fn the_classifier_copies_what_goes_to_everybody_and_what_is_long_and_leaves_the_rest() {
    in_namespace(|| {
        for (name, far) in [("nic", "network"), ("guest", "inside"), ("link0", "far")] {
            ip(&format!("link add {name} mtu 9000 type veth peer name {far} mtu 9000"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {far} up"));
        }
        let judge = Judge::new(|_| {});
        let flood = Judge::flood();
        let mut wires = ["inside", "far"].map(|end| Wire::open(&device(end)));
        let nic = device("nic");
        let classes = classes().into_iter().filter(|class| a_classifier_takes(&class.frame));
        // Frames to everybody are few: all of the others, for everybody too.
        let everybody = classes.clone().map(|mut class| {
            class.frame[..6].fill(0xff);
            class
        });
        for Class { name, frame, .. } in classes.chain(everybody) {
            let ran = flood.classify(&frame, &nic, 0);
            let action = if frame[0] & 1 != 0 { TC_ACT_OK } else { TC_ACT_SHOT };
            assert_eq!(ran, Ran { action, frame: frame.clone() }, "{name}");
            // What is too long for the link is counted, all else is counted by `mirror`.
            assert_eq!(judge.moved(), [], "{name}");
            for wire in &mut wires {
                assert_eq!(wire.next(), as_seen(&frame), "{name}");
            }
        }
        let hosts = [&[2, 0, 0, 0, 0, 0x77], &Packet::v4().udp(1, 2, b"datagram")[6..]].concat();
        let expected = Ran { action: TC_ACT_OK, frame: hosts.clone() };
        assert_eq!(flood.classify(&hosts, &nic, 0), expected);
        assert!(wires.iter_mut().all(|wire| wire.drain().is_empty()));
        judge.mirror.detach().unwrap();
    });
}

/// Whether the kernel makes a test run of a classifier on a frame (`bpf_prog_test_run_skb` in
/// net/bpf/test_run.c): with something behind the Ethernet header, a whole header where that one
/// announces IP, and within a page.
fn a_classifier_takes(frame: &[u8]) -> bool {
    let shortest = match frame[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 14 + 1,
    };
    (shortest..3500).contains(&frame.len())
}

/// A frame as a packet socket sees it: without its outermost tag, which the kernel takes off
/// (`skb_vlan_untag` in net/core/skbuff.c), and not at all if it ends with that tag.
fn as_seen(frame: &[u8]) -> Option<Vec<u8>> {
    match frame[12..14] {
        [0x81, 0x00] | [0x88, 0xa8] if frame.len() < 20 => None,
        [0x81, 0x00] | [0x88, 0xa8] => Some([&frame[..12], &frame[16..]].concat()),
        _ => Some(frame.to_vec()),
    }
}

#[test]
fn a_flooded_copy_comes_back_with_its_mark_and_goes_into_the_tunnel() {
    for underlay in Underlay::ALL {
        in_namespace(move || {
            let mut bench = Tunnelled::new(underlay, true);
            let flood = Judge::flood();
            let nic = device("nic");
            for Leaving { name, inner, outer, .. } in leaving(underlay) {
                let Some(outer) = outer.filter(|_| a_classifier_takes(&inner)) else { continue };
                let expected = Ran { action: TC_ACT_REDIRECT, frame: outer };
                assert_eq!(flood.classify(&inner, &nic, REINJECTED), expected, "{name}");
                // A slot without a guest, and one beyond them all.
                for slot in [1, 15, 16, 255] {
                    let shot = flood.classify(&inner, &nic, REINJECTED | slot);
                    assert_eq!(shot, Ran { action: TC_ACT_SHOT, frame: inner.clone() }, "{name}");
                }
            }
            assert_eq!(bench.copies(), [] as [Vec<u8>; 0]);
            bench.judge.mirror.detach().unwrap();
        });
    }
}

#[test]
fn a_flooded_copy_that_the_link_has_no_room_for_is_counted() {
    in_namespace(|| {
        let mut bench = Tunnelled::new(Underlay::V4, true);
        let flood = Judge::flood();
        let longest = leaving(Underlay::V4).into_iter().find(|it| it.outer.is_none()).unwrap();
        let frame = [&[0xff; 6], &longest.inner[6..]].concat();
        let expected = Ran { action: TC_ACT_OK, frame: frame.clone() };
        assert_eq!(flood.classify(&frame, &device("nic"), 0), expected);
        let expected = [once(MirrorOutcome::TooLongForLink, &frame)];
        assert_eq!(bench.judge.moved(), expected);
        assert_eq!(bench.primary.drain(), [frame]);
        assert_eq!(bench.copies(), [] as [Vec<u8>; 0]);
        bench.judge.mirror.detach().unwrap();
    });
}

#[test]
fn what_the_classifier_hangs_on_goes_with_it_and_anothers_stays() {
    in_namespace(|| {
        devices();
        // Where there is no tcx it takes a qdisc, of which a device has one.
        let is_free = || qdisc_add_clsact("nic").is_ok();
        Judge::new(|_| {}).mirror.detach().unwrap();
        assert!(is_free(), "a qdisc was left");
        Judge::new(|_| {}).mirror.detach().unwrap();
        assert!(!is_free(), "another's qdisc is gone");
        // After a crash the classifier is still there: the next process has one, not two.
        drop(Judge::new(|_| {}));
        let judge = Judge::new(|_| {});
        let mut inside = Wire::open(&device("inside"));
        let _pass = Pass::attach(&device("inside")).unwrap();
        let everybody = [&[0xff; 6], &Packet::v4().udp(SERVER, CLIENT, b"datagram")[6..]].concat();
        Wire::open(&device("network")).send(&everybody);
        assert_eq!(inside.drain(), std::slice::from_ref(&everybody));
        judge.mirror.detach().unwrap();
        Wire::open(&device("network")).send(&everybody);
        assert!(inside.drain().is_empty(), "a classifier was left");
    });
}
