//! Copies of what a NIC receives: to the primary, to the link, to the host.

use std::path::PathBuf;

use compare_user::kernel::{
    AttachOptions, Copies, DEFAULT_PIN_DIRECTORY, Mirror, MirrorOptions, MirrorOutcome, Mode, Pass,
    Steer,
};

use crate::network::{Wire, device, ethernet, in_namespace, ip, options, pins, udp, veth};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x12];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x13];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// A NIC with the network behind it, a primary guest and a link, the far ends ready for what is
/// redirected to them.
struct Bench {
    network: Wire,
    primary: Wire,
    link: Wire,
    host: Wire,
    _passes: [Pass; 2],
}

impl Bench {
    fn new() -> Self {
        veth("nic", "network");
        veth("guest", "inside");
        veth("link0", "far");
        Self::over()
    }

    fn over() -> Self {
        Self {
            network: Wire::open(&device("network")),
            primary: Wire::open(&device("inside")),
            link: Wire::open(&device("far")),
            host: Wire::open(&device("nic")),
            _passes: ["inside", "far"].map(|end| Pass::attach(&device(end)).unwrap()),
        }
    }

    /// What arrives at the primary, the link and the host.
    fn arrived(&mut self) -> [Vec<Vec<u8>>; 3] {
        [self.primary.drain(), self.link.drain(), self.host.drain()]
    }
}

fn mirror_options(mode: Mode) -> MirrorOptions {
    MirrorOptions {
        nic: "nic".into(),
        mode,
        primary: "guest".into(),
        link: "link0".into(),
        macs: vec![GUEST],
        tunnel: None,
        pin: PathBuf::from(DEFAULT_PIN_DIRECTORY),
        debug: false,
    }
}

fn frame(to: [u8; 6], port: u16) -> Vec<u8> {
    ethernet(to, 0x0800, &udp((1, 1000), (1, port)))
}

fn long_frame(length: usize) -> Vec<u8> {
    ethernet(GUEST, 0x88b5, &vec![7; length - 14])
}

fn count(mirror: &Mirror, outcome: MirrorOutcome) -> u64 {
    let outcomes = mirror.outcomes().unwrap();
    outcomes.iter().find(|(it, _)| *it == outcome).unwrap().1.packets
}

#[test]
fn the_guests_frames_go_to_primary_and_link_and_all_others_to_the_host() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for mode in [Mode::Native, Mode::Generic] {
            let mirror = Mirror::attach(mirror_options(mode)).unwrap();
            let (ours, hosts) = (frame(GUEST, 1), frame(HOST, 2));
            bench.network.send(&ours);
            bench.network.send(&hosts);
            let expected = [vec![ours.clone()], vec![ours], vec![hosts]];
            assert_eq!(bench.arrived(), expected, "{mode:?}");
            assert_eq!(count(&mirror, MirrorOutcome::Mirrored), 1);
            assert_eq!(count(&mirror, MirrorOutcome::Host), 1);
            mirror.detach().unwrap();
            assert!(pins().is_empty(), "{:?}", pins());
        }
    });
}

#[test]
fn what_goes_to_everybody_reaches_both_and_the_host() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for mode in [Mode::Native, Mode::Generic] {
            let mirror = Mirror::attach(mirror_options(mode)).unwrap();
            let sent = [frame(EVERYBODY, 1), frame([0x33, 0x33, 0, 0, 0, 1], 2)];
            sent.iter().for_each(|frame| bench.network.send(frame));
            let sent = sent.to_vec();
            assert_eq!(bench.arrived(), [sent.clone(), sent.clone(), sent], "{mode:?}");
            assert_eq!(count(&mirror, MirrorOutcome::Flooded), 2);
            mirror.detach().unwrap();
        }
    });
}

#[test]
fn a_guest_on_the_nics_bridge_gets_one_copy_of_what_goes_to_everybody() {
    in_namespace(|| {
        let mut bench = Bench::new();
        ip("link add bridge type bridge mcast_snooping 0");
        ip("link set bridge up");
        ip("link set guest master bridge");
        ip("link set nic master bridge");
        let mirror = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        let sent = frame(EVERYBODY, 1);
        bench.network.send(&sent);
        let [primary, link, _] = bench.arrived();
        assert_eq!([primary, link], [vec![sent.clone()], vec![sent]]);
        mirror.detach().unwrap();
    });
}

#[test]
fn frames_of_any_length_reach_the_primary_and_those_too_long_for_the_link_are_counted() {
    in_namespace(|| {
        ip("link add nic mtu 9000 type veth peer name network mtu 9000");
        ip("link add guest mtu 9000 type veth peer name inside mtu 9000");
        ip("link add link0 mtu 4000 type veth peer name far mtu 4000");
        for name in ["nic", "network", "guest", "inside", "link0", "far"] {
            ip(&format!("link set {name} up"));
        }
        let mut bench = Bench::over();
        let mut mirror = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        // Of one page, of more than a clone has room for, of several buffers; too long for the link.
        let copied: Vec<_> = [60, 3400, 3401, 3900, 4014].map(long_frame).to_vec();
        let too_long: Vec<_> = [4100, 9014].map(long_frame).to_vec();
        let all: Vec<_> = copied.iter().chain(&too_long).cloned().collect();
        all.iter().for_each(|frame| bench.network.send(frame));
        let by_length = |mut frames: Vec<Vec<u8>>| {
            frames.sort_by_key(Vec::len);
            frames
        };
        let [primary, link, host] = bench.arrived().map(by_length);
        assert_eq!(primary, all);
        assert_eq!(link, copied);
        // The packet socket is in front of the classifier that takes them.
        assert!(host.iter().all(|frame| frame.len() > 3400));
        assert_eq!(count(&mirror, MirrorOutcome::TooLongForLink), 2);

        ip("link set link0 down");
        mirror.refresh().unwrap();
        all.iter().for_each(|frame| bench.network.send(frame));
        let [primary, link, _] = bench.arrived().map(by_length);
        assert_eq!(primary, all);
        assert!(link.is_empty());
        mirror.detach().unwrap();
    });
}

#[test]
fn a_link_that_is_down_or_gone_costs_the_primary_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut mirror = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        let expect = |bench: &mut Bench, on_link: bool, port| {
            let sent = frame(GUEST, port);
            bench.network.send(&sent);
            let [primary, link, _] = bench.arrived();
            assert_eq!(primary, [sent], "{port}");
            assert_eq!(link.len(), usize::from(on_link), "{port}");
        };
        // Before anybody has noticed, and after.
        ip("link set link0 down");
        expect(&mut bench, false, 1);
        mirror.refresh().unwrap();
        expect(&mut bench, false, 2);
        ip("link set link0 up");
        mirror.refresh().unwrap();
        expect(&mut bench, true, 3);
        ip("link del link0");
        expect(&mut bench, false, 4);
        mirror.refresh().unwrap();
        expect(&mut bench, false, 5);
        assert_eq!(count(&mirror, MirrorOutcome::PrimaryOnly), 2);
        veth("link0", "far");
        let mut again = Wire::open(&device("far"));
        let _pass = Pass::attach(&device("far")).unwrap();
        mirror.refresh().unwrap();
        bench.network.send(&frame(GUEST, 6));
        assert_eq!(again.drain(), [frame(GUEST, 6)]);
        mirror.detach().unwrap();
    });
}

#[test]
fn after_failover_only_the_survivor_gets_frames() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut mirror = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        for (copies, lengths) in
            [(Copies::PrimaryOnly, [2, 0]), (Copies::SecondaryOnly, [0, 2]), (Copies::Both, [2, 2])]
        {
            mirror.set_copies(copies).unwrap();
            bench.network.send(&frame(GUEST, 1));
            bench.network.send(&frame(EVERYBODY, 2));
            let [primary, link, _] = bench.arrived();
            assert_eq!([primary.len(), link.len()], lengths, "{copies:?}");
        }
        mirror.detach().unwrap();
    });
}

#[test]
fn guests_share_a_nic_and_the_last_one_leaves_it_as_it_was() {
    in_namespace(|| {
        let mut bench = Bench::new();
        veth("guest2", "inside2");
        veth("link2", "far2");
        let mut second = ["inside2", "far2"].map(|end| Wire::open(&device(end)));
        let _passes = ["inside2", "far2"].map(|end| Pass::attach(&device(end)).unwrap());
        let first = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        let options = MirrorOptions {
            primary: "guest2".into(),
            link: "link2".into(),
            macs: vec![OTHER],
            ..mirror_options(Mode::Native)
        };
        let taken = MirrorOptions { macs: vec![GUEST], ..options.clone() };
        let refusal = Mirror::attach(taken).err().expect("the address is taken");
        assert!(refusal.to_string().contains("another guest"), "{refusal}");
        let other = Mirror::attach(options).unwrap();
        let (ours, others, all) = (frame(GUEST, 1), frame(OTHER, 2), frame(EVERYBODY, 3));
        for frame in [&ours, &others, &all] {
            bench.network.send(frame);
        }
        let [primary, link, host] = bench.arrived();
        assert_eq!([primary, link], [vec![ours.clone(), all.clone()], vec![ours, all.clone()]]);
        assert_eq!(host, std::slice::from_ref(&all));
        let expected = vec![others.clone(), all];
        assert_eq!(second.each_mut().map(Wire::drain), [expected.clone(), expected]);

        first.detach().unwrap();
        bench.network.send(&frame(GUEST, 4));
        bench.network.send(&others);
        let [primary, link, host] = bench.arrived();
        assert_eq!([primary, link, host], [vec![], vec![], vec![frame(GUEST, 4)]]);
        assert_eq!(second[0].drain(), [others]);
        other.detach().unwrap();
        assert!(device("nic").attached().unwrap().is_none());
        assert!(pins().is_empty(), "{:?}", pins());
    });
}

#[test]
fn addresses_are_learned_from_what_the_guest_sends() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let learning = MirrorOptions { macs: vec![], ..mirror_options(Mode::Native) };
        let mut mirror = Mirror::attach(learning).unwrap();
        let learner = mirror.learner();
        assert!(learner.is_some());
        let _steer = Steer::attach(&AttachOptions { learner, ..options("guest", Mode::Native) });
        assert!(mirror.macs().unwrap().is_empty());
        // More addresses than one guest may have; never that of a group.
        for number in 0..64 {
            let mut sent = frame(HOST, 1);
            sent[6..12].copy_from_slice(&[2, 1, 0, 0, 0, number]);
            bench.primary.send(&sent);
        }
        let mut group = frame(HOST, 1);
        group[6..12].copy_from_slice(&[3, 1, 0, 0, 0, 0]);
        bench.primary.send(&group);
        bench.arrived();
        let learned = mirror.macs().unwrap();
        assert_eq!(learned.len(), 32);
        assert!(learned.contains(&[2, 1, 0, 0, 0, 0]));
        let ours = frame([2, 1, 0, 0, 0, 5], 9);
        bench.network.send(&ours);
        let [primary, link, _] = bench.arrived();
        assert_eq!([primary, link], [vec![ours.clone()], vec![ours]]);
        mirror.detach().unwrap();
    });
}

#[test]
fn a_crash_leaves_the_mirror_at_work_and_the_next_process_takes_it_over() {
    in_namespace(|| {
        let mut bench = Bench::new();
        // What is not detached stays, as after a kill.
        drop(Mirror::attach(mirror_options(Mode::Native)).unwrap());
        bench.network.send(&frame(GUEST, 1));
        let [primary, link, _] = bench.arrived();
        assert_eq!([primary.len(), link.len()], [1, 1]);
        let again = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        bench.network.send(&frame(GUEST, 2));
        let [primary, link, _] = bench.arrived();
        assert_eq!([primary.len(), link.len()], [1, 1]);
        again.detach().unwrap();
        assert!(pins().is_empty(), "{:?}", pins());
    });
}

#[test]
fn copies_go_into_the_tunnel_and_the_primary_gets_them_bare() {
    in_namespace(|| {
        let mut bench = Bench::new();
        ip("addr add 10.9.0.1/24 dev link0");
        ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev link0 nud permanent");
        let tunnel = Some("vni=77,local=10.9.0.1,remote=10.9.0.2".parse().unwrap());
        let options = MirrorOptions { tunnel, ..mirror_options(Mode::Native) };
        let mirror = Mirror::attach(options).unwrap();
        // The last one is too long for the link by its outer headers.
        let sent = [frame(GUEST, 1), frame(EVERYBODY, 2), long_frame(1464), long_frame(1465)];
        sent.iter().for_each(|frame| bench.network.send(frame));
        let [primary, link, host] = bench.arrived();
        assert_eq!(primary.len(), 4);
        assert!(sent.iter().all(|frame| primary.contains(frame)));
        // The packet socket sees the copy that the classifier sends to itself, too; it is taken out
        // behind it, before the stack.
        assert_eq!(host.iter().filter(|frame| **frame == sent[1]).count(), 2, "{host:?}");
        assert_eq!(link.len(), 3);
        for outer in &link {
            let inner = inner_of(outer, 77);
            assert!(sent[..3].iter().any(|frame| frame == inner), "{inner:?}");
        }
        assert_eq!(count(&mirror, MirrorOutcome::TooLongForLink), 1);
        mirror.detach().unwrap();
    });
}

#[test]
fn frames_that_lie_about_themselves_are_mirrored_as_they_are() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut mirror = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        let tcp = {
            let link = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], GUEST);
            let mut frame = Vec::new();
            link.ipv4([10, 0, 0, 9], [10, 0, 0, 2], 64)
                .tcp(1, 2, 3, 4)
                .rst()
                .write(&mut frame, &[])
                .unwrap();
            frame
        };
        let changed = |at: usize, byte: u8| {
            let mut frame = tcp.clone();
            frame[at] = byte;
            frame
        };
        let extension_headers = {
            // Next header hop-by-hop, again and again.
            let mut packet = vec![0x60, 0, 0, 0, 0, 200, 0, 64];
            packet.extend([0; 232]);
            ethernet(GUEST, 0x86dd, &packet)
        };
        let bad = [
            ethernet(GUEST, 0x0800, &[]),
            ethernet(GUEST, 0x86dd, &[0x60]),
            // A header of no words, a total length beyond the frame, a later fragment, no TCP header.
            changed(14, 0x40),
            changed(16, 0xff),
            changed(21, 7),
            tcp[..40].to_vec(),
            extension_headers,
        ];
        bad.iter().for_each(|frame| bench.network.send(frame));
        let [primary, link, host] = bench.arrived();
        assert_eq!(primary, bad);
        assert_eq!(link, bad);
        assert!(host.is_empty());
        assert_eq!(count(&mirror, MirrorOutcome::Mirrored), bad.len() as u64);
        // None of them is a reset: the one that says so is not all there.
        let told = mirror.resets();
        assert!(told.iter().all(|reset| reset.connection.family == 4), "{told:?}");
        mirror.detach().unwrap();
    });
}

#[test]
fn resets_of_the_network_are_told() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut mirror = Mirror::attach(mirror_options(Mode::Native)).unwrap();
        let link = || etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], GUEST);
        let (v4, v6) = (([10, 0, 0, 9], [10, 0, 0, 2]), ([9; 16], [2; 16]));
        let tag = 7.try_into().unwrap();
        for (port, reset) in [(4000, false), (4001, true)] {
            let networks = [
                link().ipv4(v4.0, v4.1, 64),
                link().ipv6(v6.0, v6.1, 64),
                link().single_vlan(tag).ipv4(v4.0, v4.1, 64),
            ];
            for network in networks {
                let segment = network.tcp(port, 80, 1, 2);
                let segment = if reset { segment.rst() } else { segment.ack(1) };
                let mut frame = Vec::new();
                segment.write(&mut frame, &[]).unwrap();
                bench.network.send(&frame);
            }
        }
        // What is no TCP has no flags.
        bench.network.send(&frame(GUEST, 1));
        bench.arrived();
        let resets = mirror.resets();
        let keys: Vec<_> = resets.iter().map(|reset| reset.connection).collect();
        let told: Vec<_> = keys
            .iter()
            .map(|key| (key.family, u16::from_be(key.remote_port), u16::from_be(key.tags[0])))
            .collect();
        assert_eq!(told, [(4, 4001, 0), (6, 4001, 0), (4, 4001, 7)]);
        let guest = u32::from_ne_bytes([10, 0, 0, 2]);
        assert_eq!((keys[0].guest, keys[0].guest_port), ([guest, 0, 0, 0], 80_u16.to_be()));
        assert_eq!(mirror.resets(), []);
        mirror.detach().unwrap();
    });
}

/// The frame in a VXLAN tunnel over IPv4, its headers checked by another parser.
pub(crate) fn inner_of(outer: &[u8], vni: u32) -> &[u8] {
    let parsed = etherparse::SlicedPacket::from_ethernet(outer).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4: {outer:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(usize::from(header.total_len) + 14, outer.len());
    let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else { panic!("no UDP") };
    assert_eq!(udp.destination_port(), 4789);
    assert_eq!(udp.payload()[..8], [[8, 0, 0, 0], (vni << 8).to_be_bytes()].concat());
    &outer[50..]
}
