//! The relay: from the link to the guest and back, and the sequence numbers on the way.

use std::time::Duration;

use compare_user::kernel::{
    ConnectionCounts, DEFAULT_PIN_DIRECTORY, DeviceChange, Mode, Pass, Relay, RelayOptions,
};
use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

use crate::mirroring::inner_of;
use crate::network::{Wire, device, in_namespace, ip, pins, veth};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0x21];

/// Initial sequence numbers: an offset that wraps.
const PRIMARY: u32 = 0xffff_ff00;
const SECONDARY: u32 = 0x0000_1000;
const OFFSET: u32 = SECONDARY.wrapping_sub(PRIMARY);

/// The secondary's host: a guest, the link, a NIC, with a packet socket at every far end.
struct Bench {
    guest: Wire,
    link: Wire,
    nic: Wire,
    relay: Option<Relay>,
    _passes: [Pass; 3],
}

impl Bench {
    fn new(change: impl FnOnce(&mut RelayOptions)) -> Self {
        veth("guest", "inside");
        veth("link0", "far");
        veth("nic", "network");
        let mut options = relay_options();
        change(&mut options);
        Self {
            guest: Wire::open(&device("inside")),
            link: Wire::open(&device("far")),
            nic: Wire::open(&device("network")),
            _passes: ["inside", "far", "network"].map(|end| Pass::attach(&device(end)).unwrap()),
            relay: Some(Relay::attach(options).unwrap()),
        }
    }

    fn relay(&mut self) -> &mut Relay {
        self.relay.as_mut().unwrap()
    }

    fn counts(&mut self) -> ConnectionCounts {
        self.relay().connections().unwrap()
    }

    /// Sends from the link; what the guest gets.
    #[track_caller]
    fn deliver(&mut self, frame: &[u8]) -> Vec<u8> {
        self.link.send(frame);
        only(self.guest.drain())
    }

    /// Sends from the guest; what comes out of the link.
    #[track_caller]
    fn emit(&mut self, frame: &[u8]) -> Vec<u8> {
        self.guest.send(frame);
        only(self.link.drain())
    }

    /// A client's connection: its SYN, the secondary's answer, and the client's answer to the
    /// primary's.
    #[track_caller]
    fn open(&mut self, side: &Side) {
        self.deliver(&side.client().syn().frame());
        self.emit(&side.guest().syn().sequence(SECONDARY).acknowledges(101).frame());
        let answer = side.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1)).frame();
        let arrived = self.deliver(&answer);
        assert_eq!(tcp(&arrived).acknowledgment_number(), SECONDARY + 1);
    }
}

#[track_caller]
fn only(mut frames: Vec<Vec<u8>>) -> Vec<u8> {
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.remove(0)
}

fn relay_options() -> RelayOptions {
    RelayOptions {
        guest: "guest".into(),
        link: "link0".into(),
        nic: Some("nic".into()),
        guest_macs: vec![GUEST],
        tunnel: None,
        mode: Mode::Auto,
        connections: 4096,
        idle_timeout: Duration::from_secs(3600),
        pin: Some(DEFAULT_PIN_DIRECTORY.into()),
        debug: false,
    }
}

/// Whose connection: addresses and the client's port.
#[derive(Clone, Copy)]
struct Side {
    ipv6: bool,
    port: u16,
    tagged: bool,
}

const V4: Side = Side { ipv6: false, port: 40_000, tagged: false };
const V6: Side = Side { ipv6: true, port: 40_000, tagged: false };

impl Side {
    fn client(self) -> Segment {
        Segment::new(self, true)
    }

    fn guest(self) -> Segment {
        Segment::new(self, false)
    }
}

/// A TCP segment of a client or of the guest.
#[derive(Clone)]
struct Segment {
    side: Side,
    from_client: bool,
    sequence: u32,
    acknowledges: Option<u32>,
    syn: bool,
    fin: bool,
    rst: bool,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Segment {
    fn new(side: Side, from_client: bool) -> Self {
        Self {
            side,
            from_client,
            sequence: 100,
            acknowledges: None,
            syn: false,
            fin: false,
            rst: false,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    fn syn(self) -> Self {
        Self { syn: true, ..self }
    }

    fn fin(self) -> Self {
        Self { fin: true, ..self }
    }

    fn rst(self) -> Self {
        Self { rst: true, ..self }
    }

    fn sequence(self, sequence: u32) -> Self {
        Self { sequence, ..self }
    }

    fn acknowledges(self, number: u32) -> Self {
        Self { acknowledges: Some(number), ..self }
    }

    fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    fn frame(&self) -> Vec<u8> {
        let (source, destination) =
            if self.from_client { (CLIENT, GUEST) } else { (GUEST, CLIENT) };
        let (from, to) = if self.from_client { (9, 2) } else { (2, 9) };
        let link = PacketBuilder::ethernet2(source, destination);
        let ports = if self.from_client { (self.side.port, 80) } else { (80, self.side.port) };
        let v6 = |last: u8| {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, last);
            address
        };
        let network = match (self.side.tagged, self.side.ipv6) {
            (false, false) => link.ipv4([10, 0, 0, from], [10, 0, 0, to], 64),
            (false, true) => link.ipv6(v6(from), v6(to), 64),
            (true, _) => {
                let tag = 7.try_into().unwrap();
                link.single_vlan(tag).ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
            }
        };
        let mut builder = network.tcp(ports.0, ports.1, self.sequence, 4096);
        if let Some(number) = self.acknowledges {
            builder = builder.ack(number);
        }
        if self.syn {
            builder = builder.syn();
        }
        if self.fin {
            builder = builder.fin();
        }
        if self.rst {
            builder = builder.rst();
        }
        let builder = builder.options_raw(&self.options).unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.payload).unwrap();
        frame
    }
}

/// The segment in a frame; its checksum must be right.
#[track_caller]
fn tcp(frame: &[u8]) -> TcpSlice<'_> {
    let parsed = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("no TCP in {frame:?}") };
    let (header, payload) = (tcp.to_header(), tcp.payload());
    let expected = match parsed.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv4_raw(source, destination, payload).unwrap()
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            header.calc_checksum_ipv6_raw(source, destination, payload).unwrap()
        }
        other => panic!("no IP: {other:?}"),
    };
    assert_eq!(tcp.checksum(), expected, "the checksum");
    tcp
}

fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

#[test]
fn a_clients_connection_is_rewritten_in_both_directions_and_both_families() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        for side in [V4, V6, Side { tagged: true, ..V4 }] {
            bench.open(&side);
            let request = side.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1));
            let request = request.payload(b"GET / HTTP/1.0\r\n\r\n").frame();
            let arrived = bench.deliver(&request);
            assert_eq!(tcp(&arrived).acknowledgment_number(), SECONDARY + 1);
            assert_eq!(tcp(&arrived).sequence_number(), 101);
            assert_eq!(tcp(&arrived).payload(), b"GET / HTTP/1.0\r\n\r\n");
            let reply = side.guest().sequence(SECONDARY + 1).acknowledges(119).payload(b"page");
            let left = bench.emit(&reply.frame());
            assert_eq!(tcp(&left).sequence_number(), PRIMARY.wrapping_add(1));
            assert_eq!(tcp(&left).acknowledgment_number(), 119);
        }
        let counts = bench.counts();
        assert_eq!((counts.tracked, counts.with_offset, counts.handshakes), (3, 3, 0));
    });
}

#[test]
fn a_connection_that_the_guest_opens_is_rewritten_from_the_syn_ack_on() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        for side in [V4, V6] {
            let syn = side.guest().syn().sequence(SECONDARY).options(&timestamps(5000, 0)).frame();
            assert_eq!(bench.emit(&syn), syn, "a SYN leaves as it is");
            let answer = side.client().syn().acknowledges(PRIMARY.wrapping_add(1));
            let arrived = bench.deliver(&answer.options(&timestamps(9, 4990)).frame());
            assert_eq!(tcp(&arrived).acknowledgment_number(), SECONDARY + 1);
            let options: Vec<_> = tcp(&arrived).options_iterator().map(Result::unwrap).collect();
            let expected = TcpOptionElement::Timestamp(9, 5000);
            assert!(options.contains(&expected), "{options:?}");
            let next = side.guest().sequence(SECONDARY + 1).acknowledges(101);
            let left = bench.emit(&next.options(&timestamps(5003, 9)).frame());
            assert_eq!(tcp(&left).sequence_number(), PRIMARY.wrapping_add(1));
            let options: Vec<_> = tcp(&left).options_iterator().map(Result::unwrap).collect();
            assert!(options.contains(&TcpOptionElement::Timestamp(4993, 9)), "{options:?}");
        }
    });
}

#[test]
fn a_refused_connection_of_the_guest_is_refused_for_the_secondary_too() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.emit(&V4.guest().syn().sequence(SECONDARY).frame());
        let refusal = V4.client().rst().sequence(0).acknowledges(PRIMARY.wrapping_add(1));
        let arrived = bench.deliver(&refusal.frame());
        assert_eq!(tcp(&arrived).acknowledgment_number(), SECONDARY + 1);
    });
}

#[test]
fn edges_of_sack_blocks_are_moved_wherever_the_option_stands() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        let edge = |by: u32| PRIMARY.wrapping_add(by);
        let block = |kind_length: &[u8], edges: &[u32]| {
            let edges = edges.iter().flat_map(|edge| edge.to_be_bytes());
            kind_length.iter().copied().chain(edges).collect::<Vec<u8>>()
        };
        let one = [edge(100), edge(200)];
        let three = [edge(100), edge(200), edge(300), edge(400), edge(500), edge(600)];
        let layouts = [
            block(&[1, 1, 5, 10], &one),
            // At odd offsets, and behind other options.
            [block(&[1, 5, 10], &one), vec![0]].concat(),
            [block(&[5, 10], &one), vec![1, 1]].concat(),
            [block(&[1, 1, 1, 5, 10], &one), vec![1, 0, 0]].concat(),
            [timestamps(77, 88), block(&[1, 1, 5, 26], &three)].concat(),
            [block(&[1, 1, 5, 10], &one), timestamps(77, 88)].concat(),
        ];
        for options in layouts {
            let duplicate = V4.client().sequence(101).acknowledges(edge(1)).options(&options);
            let arrived = bench.deliver(&duplicate.frame());
            let moved: Vec<_> = tcp(&arrived)
                .options_iterator()
                .map(Result::unwrap)
                .filter_map(|option| match option {
                    TcpOptionElement::SelectiveAcknowledgement(first, rest) => Some((first, rest)),
                    _ => None,
                })
                .collect();
            assert_eq!(moved.len(), 1, "{options:?}");
            assert_eq!(moved[0].0.0, edge(100).wrapping_add(OFFSET), "{options:?}");
            assert_eq!(moved[0].0.1, edge(200).wrapping_add(OFFSET), "{options:?}");
            if options.len() > 20 && options[15] == 26 {
                let last = moved[0].1[1].unwrap();
                assert_eq!(last, (edge(500).wrapping_add(OFFSET), edge(600).wrapping_add(OFFSET)));
            }
        }
    });
}

#[test]
fn a_partial_checksum_is_left_to_its_device() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        let mut frame =
            V4.guest().sequence(SECONDARY + 1).acknowledges(101).payload(b"page").frame();
        // The sum of the pseudo-header: addresses, protocol, length.
        let words = [0x0a00, 0x0002, 0x0a00, 0x0009, 6, 24];
        let sum: u32 = words.iter().sum();
        frame[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
        let left = bench.emit(&frame);
        assert_eq!(left[38..42], PRIMARY.wrapping_add(1).to_be_bytes());
        assert_eq!(left[50..52], frame[50..52]);
        assert_eq!(bench.counts().partial_checksums, 1);
    });
}

#[test]
fn a_complete_checksum_that_looks_partial_is_completed_again() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        // Payloads of every length class, each ending in two bytes that make the checksum what the
        // sum of the pseudo-header is.
        for length in [2_usize, 4, 30, 254, 256, 258, 1000, 1460] {
            let segment = |last: [u8; 2]| {
                let payload = [&vec![0x5a; length - 2][..], &last].concat();
                let next = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1));
                next.payload(&payload).frame()
            };
            let pseudo = {
                let words = [0x0a00, 0x0009, 0x0a00, 0x0002, 6, 20 + length as u32];
                let sum: u32 = words.iter().sum();
                ((sum & 0xffff) + (sum >> 16)) as u16
            };
            let looks_partial = (0..=u16::MAX).map(|last| segment(last.to_be_bytes()));
            let frame = { looks_partial }.find(|frame| frame[50..52] == pseudo.to_be_bytes());
            let arrived = bench.deliver(&frame.expect("one of them does"));
            assert_eq!(tcp(&arrived).acknowledgment_number(), SECONDARY + 1, "{length}");
        }
        assert_eq!(bench.counts().partial_checksums, 0);
    });
}

#[test]
fn nothing_is_learned_from_an_answer_with_impossible_numbers() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.deliver(&V4.client().syn().frame());
        bench.emit(&V4.guest().syn().sequence(SECONDARY).acknowledges(101).frame());
        // Somebody who guesses the ports and not the client's numbers.
        let guess = V4.client().sequence(0x7777_7777).acknowledges(1234).frame();
        assert_eq!(bench.deliver(&guess), guess);
        let counts = bench.counts();
        assert_eq!((counts.implausible, counts.tracked, counts.handshakes), (1, 0, 1));
        let answer = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1)).frame();
        assert_eq!(tcp(&bench.deliver(&answer)).acknowledgment_number(), SECONDARY + 1);
    });
}

#[test]
fn a_repeated_syn_ack_keeps_the_offset_and_a_new_one_begins_again() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        // A client that tries again and a SYN that somebody made up change nothing.
        bench.deliver(&V4.client().syn().sequence(0x4444).frame());
        bench.emit(&V4.guest().syn().sequence(SECONDARY).acknowledges(101).frame());
        let data = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(40)).frame();
        assert_eq!(tcp(&bench.deliver(&data)).acknowledgment_number(), SECONDARY + 40);
        // The guest has begun another connection on the same ports.
        let again = V4.guest().syn().sequence(SECONDARY + 99).acknowledges(0x4445).frame();
        bench.emit(&again);
        let answer = V4.client().sequence(0x4445).acknowledges(7001).frame();
        assert_eq!(tcp(&bench.deliver(&answer)).acknowledgment_number(), SECONDARY + 100);
        let counts = bench.counts();
        assert_eq!((counts.tracked, counts.learned, counts.evicted), (1, 2, 0));
    });
}

#[test]
fn a_checkpoint_makes_every_offset_zero() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        bench.open(&V6);
        // One handshake is still open: after the checkpoint the secondary has the primary's number.
        let third = Side { port: 3, ..V4 };
        bench.emit(&third.guest().syn().sequence(SECONDARY).acknowledges(101).frame());
        assert_eq!(bench.relay().checkpoint().unwrap(), 2);
        for side in [V4, V6, third] {
            let data = side.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1)).frame();
            assert_eq!(bench.deliver(&data), data);
            let reply = side.guest().sequence(PRIMARY.wrapping_add(1)).acknowledges(101).frame();
            assert_eq!(bench.emit(&reply), reply);
        }
        bench.relay().maintain();
        let counts = bench.counts();
        assert_eq!((counts.tracked, counts.handshakes, counts.expired), (0, 0, 2));
        assert_eq!((counts.checkpoints, counts.evicted), (1, 0));
        // What begins afterwards has an offset again.
        bench.open(&Side { port: 4, ..V4 });
    });
}

#[test]
fn after_failover_offsets_stay_and_new_connections_are_left_alone() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        let pending = Side { port: 3, ..V4 };
        let pending_syn = pending.guest().syn().sequence(SECONDARY).acknowledges(101).frame();
        bench.emit(&pending_syn);
        // Before failover the NIC has nothing for the guest.
        let data = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1)).frame();
        bench.nic.send(&data);
        assert!(bench.guest.drain().is_empty());

        assert_eq!(bench.relay().fail_over().unwrap(), 1);
        bench.nic.send(&data);
        assert_eq!(tcp(&only(bench.guest.drain())).acknowledgment_number(), SECONDARY + 1);
        bench.guest.send(&V4.guest().sequence(SECONDARY + 1).acknowledges(101).frame());
        assert_eq!(tcp(&only(bench.nic.drain())).sequence_number(), PRIMARY.wrapping_add(1));
        // The client has the primary's SYN-ACK; the secondary repeats its own.
        bench.guest.send(&pending_syn);
        assert_eq!(only(bench.nic.drain()), pending_syn);
        bench.nic.send(&pending.client().sequence(101).acknowledges(501).frame());
        assert_eq!(tcp(&only(bench.guest.drain())).acknowledgment_number(), SECONDARY + 1);

        let fresh = Side { port: 5, ..V4 };
        bench.nic.send(&fresh.client().syn().frame());
        assert_eq!(only(bench.guest.drain()), fresh.client().syn().frame());
        let answer = fresh.guest().syn().sequence(SECONDARY).acknowledges(101).frame();
        bench.guest.send(&answer);
        assert_eq!(only(bench.nic.drain()), answer);
        let ack = fresh.client().sequence(101).acknowledges(SECONDARY + 1).frame();
        bench.nic.send(&ack);
        assert_eq!(only(bench.guest.drain()), ack);

        // Broadcasts reach the guest, the link does not.
        let mut broadcast = fresh.client().syn().frame();
        broadcast[..6].fill(0xff);
        bench.nic.send(&broadcast);
        assert_eq!(only(bench.guest.drain()), broadcast);
        bench.link.send(&data);
        assert!(bench.guest.drain().is_empty());
        assert!(bench.link.drain().iter().all(|frame| *frame == data));

        bench.relay().rearm().unwrap();
        bench.link.send(&data);
        assert_eq!(bench.guest.drain().len(), 1);
    });
}

#[test]
fn a_flood_of_syns_never_reaches_the_connections() {
    in_namespace(|| {
        let mut bench = Bench::new(|options| options.connections = 1024);
        bench.open(&V4);
        // Four times as many as there is room for, each answered by the guest.
        for port in 0..4096 {
            let flood = Side { port: 50_000 + port, ..V6 };
            bench.guest.send(&flood.guest().syn().sequence(7).acknowledges(9).frame());
        }
        bench.link.drain();
        let counts = bench.counts();
        assert!(counts.handshakes <= 1024, "{counts:?}");
        assert_eq!((counts.tracked, counts.evicted), (1, 0));
        let data = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(9)).frame();
        assert_eq!(tcp(&bench.deliver(&data)).acknowledgment_number(), SECONDARY + 9);
    });
}

#[test]
fn connections_beyond_the_limit_are_evicted_and_counted_and_the_busy_one_stays() {
    in_namespace(|| {
        let mut bench = Bench::new(|options| options.connections = 1024);
        bench.open(&V4);
        let data = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(9)).frame();
        for port in 0..3000 {
            let other = Side { port: 1000 + port, ..V6 };
            let syn_ack = other.guest().syn().sequence(SECONDARY).acknowledges(101);
            bench.guest.send(&syn_ack.frame());
            bench.link.send(&other.client().sequence(101).acknowledges(1).frame());
            if port % 50 == 0 {
                bench.link.send(&data);
            }
        }
        bench.guest.drain();
        bench.link.drain();
        let counts = bench.counts();
        assert!(counts.tracked <= 1024, "{counts:?}");
        assert_eq!(counts.learned, 3001);
        assert_eq!(counts.evicted, 3001 - counts.tracked);
        assert_eq!(tcp(&bench.deliver(&data)).acknowledgment_number(), SECONDARY + 9);
    });
}

#[test]
fn malformed_segments_pass_as_they_are_and_are_counted() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        let good = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1));
        let with_options = good.options(&timestamps(1, 2)).frame();
        let cut = |at: usize, byte: u8| {
            let mut frame = with_options.clone();
            frame[at] = byte;
            frame
        };
        let ended_early = {
            let mut frame = with_options.clone();
            frame.truncate(44);
            frame
        };
        // A header of four words, of fifteen, one beyond the datagram, one that the frame lacks.
        for bad in [cut(46, 0x40), cut(46, 0xf0), cut(17, 30), ended_early] {
            let before = bench.counts().unparsed;
            assert_eq!(bench.deliver(&bad), bad);
            assert_eq!(bench.counts().unparsed, before + 1, "{bad:?}");
        }
        // Options that lie about their length: the numbers before them are right.
        for length in [0, 1, 200] {
            let arrived = bench.deliver(&cut(57, length));
            assert_eq!(arrived[42..46], (SECONDARY + 1).to_be_bytes());
        }
    });
}

#[test]
fn the_first_piece_of_a_datagram_is_rewritten_and_the_others_are_not() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        let mut first = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(1));
        first = first.payload(&[1; 20]);
        let mut frame = first.frame();
        frame[20] = 0x20;
        let arrived = bench.deliver(&frame);
        assert_eq!(arrived[42..46], (SECONDARY + 1).to_be_bytes());
        let mut later = frame.clone();
        (later[20], later[21]) = (0, 5);
        assert_eq!(bench.deliver(&later), later);
    });
}

#[test]
fn a_crash_keeps_the_offsets_and_a_clean_end_leaves_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        bench.open(&V4);
        bench.relay = None;
        let data = V4.client().sequence(101).acknowledges(PRIMARY.wrapping_add(9)).frame();
        assert_eq!(tcp(&bench.deliver(&data)).acknowledgment_number(), SECONDARY + 9);
        bench.relay = Some(Relay::attach(relay_options()).unwrap());
        assert_eq!(tcp(&bench.deliver(&data)).acknowledgment_number(), SECONDARY + 9);
        assert_eq!(bench.counts().tracked, 1);
        bench.relay.take().unwrap().detach().unwrap();
        assert!(pins().is_empty(), "{:?}", pins());
        for name in ["guest", "link0", "nic"] {
            assert!(device(name).attached().unwrap().is_none(), "{name}");
        }
    });
}

#[test]
fn a_device_that_comes_back_is_relayed_again() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        ip("link del guest");
        let lost = bench.relay().maintain();
        assert!(matches!(&lost[..], [DeviceChange::Lost { device, .. }] if device == "guest"));
        assert!(bench.relay().maintain().is_empty());
        veth("guest", "inside");
        bench.guest = Wire::open(&device("inside"));
        let _pass = Pass::attach(&device("inside")).unwrap();
        let back = bench.relay().maintain();
        assert_eq!(back, [DeviceChange::Restored { device: "guest".into() }]);
        bench.open(&V4);
    });
}

#[test]
fn closed_and_reset_connections_are_known_to_have_ended_and_are_still_rewritten() {
    in_namespace(|| {
        let mut bench = Bench::new(|_| {});
        let reset = Side { port: 3, ..V4 };
        for side in [V4, reset] {
            bench.open(&side);
        }
        bench.emit(&V4.guest().sequence(SECONDARY + 1).acknowledges(101).fin().frame());
        assert_eq!(bench.counts().ended, 0, "half closed");
        let ack = PRIMARY.wrapping_add(2);
        bench.deliver(&V4.client().sequence(101).acknowledges(ack).fin().frame());
        assert_eq!(bench.counts().ended, 1);
        let again = V4.guest().sequence(SECONDARY + 1).acknowledges(102).fin().frame();
        assert_eq!(tcp(&bench.emit(&again)).sequence_number(), PRIMARY.wrapping_add(1));
        bench.deliver(&reset.client().sequence(101).rst().frame());
        assert_eq!(bench.counts().ended, 2);
    });
}

#[test]
fn idle_connections_go_and_those_of_a_survivor_stay() {
    in_namespace(|| {
        let mut bench = Bench::new(|options| options.idle_timeout = Duration::ZERO);
        bench.open(&V4);
        std::thread::sleep(Duration::from_millis(2100));
        bench.relay().fail_over().unwrap();
        bench.relay().sweep_now();
        assert_eq!(bench.counts().tracked, 1);
        bench.relay().rearm().unwrap();
        bench.relay().sweep_now();
        let counts = bench.counts();
        assert_eq!((counts.tracked, counts.expired), (0, 1));
    });
}

#[test]
fn frames_of_several_buffers_pass_where_the_device_takes_them_and_are_counted_elsewhere() {
    in_namespace(|| {
        let frame = V4.client().payload(&[1; 8000]).frame();
        for name in ["guest", "link0"] {
            let far = if name == "guest" { "inside" } else { "far" };
            ip(&format!("link add {name} mtu 9000 type veth peer name {far} mtu 9000"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {far} up"));
        }
        let options = || RelayOptions { nic: None, ..relay_options() };
        let _passes = ["inside", "far"].map(|end| Pass::attach(&device(end)).unwrap());
        let (mut far, mut inside) = (Wire::open(&device("far")), Wire::open(&device("inside")));
        let relay = Relay::attach(options()).unwrap();
        far.send(&frame);
        assert_eq!(only(inside.drain()), frame);
        relay.detach().unwrap();

        ip("link del guest");
        let _guest = crate::network::tap("guest");
        ip("link set guest mtu 9000");
        let relay = Relay::attach(options()).unwrap();
        far.send(&frame);
        crate::network::wait_until(|| {
            let outcomes = relay.outcomes().unwrap();
            let (_, row) = outcomes.into_iter().find(|(device, _)| device == "link0").unwrap();
            row.into_iter().any(|(name, tally)| name == "too_long" && tally.packets == 1)
        });
        relay.detach().unwrap();
    });
}

#[test]
fn the_tunnel_takes_frames_of_its_peer_and_its_vni_only() {
    in_namespace(|| {
        let mut bench = Bench::new(|options| {
            ip("addr add 10.9.0.2/24 dev link0");
            ip("neigh add 10.9.0.1 lladdr 02:00:00:00:00:98 dev link0 nud permanent");
            options.tunnel = Some("vni=77,local=10.9.0.2,remote=10.9.0.1".parse().unwrap());
        });
        let syn = V4.client().syn().frame();
        let good = wrapped([10, 9, 0, 1], 0x08, 77, &syn);
        assert_eq!(bench.deliver(&good), syn);
        let answer = V4.guest().syn().sequence(SECONDARY).acknowledges(101).frame();
        let left = bench.emit(&answer);
        assert_eq!(inner_of(&left, 77), answer);
        let mut short = good.clone();
        short.truncate(60);
        // Wrong VNI, no VNI, another peer, an inner frame that ends early, ordinary traffic.
        let others = [
            (wrapped([10, 9, 0, 1], 0x08, 78, &syn), "other_vni"),
            (wrapped([10, 9, 0, 1], 0x00, 77, &syn), "malformed"),
            (wrapped([10, 9, 0, 9], 0x08, 77, &syn), "foreign_peer"),
            (wrapped([10, 9, 0, 1], 0x08, 77, &syn[..10]), "malformed"),
            (short, "malformed"),
            (syn.clone(), "host"),
        ];
        for (frame, outcome) in others {
            let before = link_count(&mut bench, outcome);
            bench.link.send(&frame);
            assert!(bench.guest.drain().is_empty(), "{outcome}");
            assert_eq!(link_count(&mut bench, outcome), before + 1, "{outcome}");
        }
        let too_long = V4.guest().sequence(1).acknowledges(1).payload(&[0; 1411]).frame();
        bench.guest.send(&too_long);
        assert!(bench.link.drain().iter().all(|frame| frame.len() < 1400));
    });
}

#[test]
fn the_tunnel_may_run_over_ipv6() {
    in_namespace(|| {
        let mut bench = Bench::new(|options| {
            std::fs::write("/proc/sys/net/ipv6/conf/link0/disable_ipv6", "0").unwrap();
            ip("addr add fd00:9::2/64 dev link0 nodad");
            ip("neigh add fd00:9::1 lladdr 02:00:00:00:00:98 dev link0 nud permanent");
            options.tunnel = Some("vni=77,local=fd00:9::2,remote=fd00:9::1".parse().unwrap());
        });
        bench.link.drain();
        let syn = V4.client().syn().frame();
        let (here, there) = (end(2), end(1));
        let good = wrapped_in_ipv6(there, here, &syn);
        assert_eq!(bench.deliver(&good), syn);
        let answer = V4.guest().syn().sequence(SECONDARY).acknowledges(101).frame();
        bench.guest.send(&answer);
        // Beside what the host itself says on a device with IPv6.
        let addresses = [[2, 0, 0, 0, 0, 0x98], device("link0").mac.unwrap()].concat();
        let left = bench.link.drain().into_iter().filter(|frame| frame[..12] == addresses[..]);
        let left = only(left.collect());
        let parsed = SlicedPacket::from_ethernet(&left).unwrap();
        let Some(TransportSlice::Udp(udp)) = parsed.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
        assert_eq!(udp.payload()[8..], answer);
        bench.link.send(&wrapped_in_ipv6(end(3), here, &syn));
        assert_eq!(link_count(&mut bench, "foreign_peer"), 1);
    });
}

fn end(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// A frame as another VXLAN speaker would send it over IPv6.
fn wrapped_in_ipv6(from: [u8; 16], to: [u8; 16], inner: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [2; 6]).ipv6(from, to, 64);
    let payload = [&[8, 0, 0, 0][..], &(77_u32 << 8).to_be_bytes(), inner].concat();
    let mut frame = Vec::new();
    builder.udp(50_000, 4789).write(&mut frame, &payload).unwrap();
    frame
}

fn link_count(bench: &mut Bench, outcome: &str) -> u64 {
    let outcomes = bench.relay().outcomes().unwrap();
    let (_, row) = outcomes.into_iter().find(|(device, _)| device == "link0").unwrap();
    row.into_iter().find(|(name, _)| *name == outcome).unwrap().1.packets
}

/// A frame as another VXLAN speaker would send it, to 10.9.0.2.
pub(crate) fn wrapped(from: [u8; 4], flags: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [2; 6]).ipv4(from, [10, 9, 0, 2], 64);
    let payload = [&[flags, 0, 0, 0][..], &(vni << 8).to_be_bytes(), inner].concat();
    let mut frame = Vec::new();
    builder.udp(50_000, 4789).write(&mut frame, &payload).unwrap();
    frame
}
