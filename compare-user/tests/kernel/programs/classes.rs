//! Frames of every class that the programs tell apart, well-formed and malformed, all from the
//! guest to the client, and what is to be seen in each.
//!
//! Numbers in them are chosen so that one read in the wrong byte order changes the outcome.

use colo_tests::malformed;
use colo_tests::packet::{CLIENT_MAC, GUEST_MAC, Packet, arp, lldp, padded, protocol};
use colo_tests::segment::{ACK, RST, SYN, Segment};

use super::capture::{self, Named};

/// The ports of the well-formed frames: 0x1f90 and 0x9c40.
pub(super) const SERVER: u16 = 8080;
pub(super) const CLIENT: u16 = 40_000;
/// Both ports of the malformed ones.
pub(super) const MALFORMED: u16 = 9;
/// VLAN identifiers.
pub(super) const OUTER_TAG: u16 = 0x123;
pub(super) const INNER_TAG: u16 = 0x456;

/// What a bypass rule finds in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// No IP, or a header that is cut or impossible.
    Nothing,
    /// Addresses and protocol.
    Addresses,
    /// That, and the ports, source first.
    Ports(u16, u16),
}

/// A frame and what is to be seen in it.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) frame: Vec<u8>,
    pub(super) sees: Sees,
    pub(super) ipv6: bool,
    /// A TCP header that ends early, or whose length lies: nothing for the sequence rewriter.
    pub(super) lies: bool,
    /// A TCP segment, not a fragment, whose reset flag can be read.
    pub(super) resets: bool,
    /// VLAN identifiers.
    pub(super) tags: [u16; 2],
}

const BOTH: Sees = Sees::Ports(SERVER, CLIENT);

impl Class {
    fn new(name: &str, packet: &Packet, frame: Vec<u8>, sees: Sees) -> Self {
        let family = if packet.is_v4() { "IPv4" } else { "IPv6" };
        Self {
            name: format!("{family}: {name}"),
            frame,
            sees,
            ipv6: !packet.is_v4(),
            lies: false,
            resets: false,
            tags: [0; 2],
        }
    }

    fn lies(self) -> Self {
        Self { lies: true, ..self }
    }

    fn resets(self) -> Self {
        Self { resets: true, ..self }
    }

    fn sees(self, sees: Sees) -> Self {
        Self { sees, ..self }
    }

    fn tags(self, tags: [u16; 2]) -> Self {
        Self { tags, ..self }
    }

    /// For everybody, by the group bit of its destination.
    pub(super) fn floods(&self) -> bool {
        self.frame[0] & 1 != 0
    }
}

/// Every class, its frame read from the file.
pub(super) fn classes() -> Vec<Class> {
    let stored = capture::stored("classes");
    let mut classes = make();
    assert_eq!(stored.len(), classes.len(), "the file is of another time");
    for (class, stored) in classes.iter_mut().zip(stored) {
        assert_eq!(class.name, stored.name, "the file is of another time");
        class.frame = stored.frame;
    }
    classes
}

#[test]
fn the_file_of_classes_is_what_the_code_makes() {
    let made = make().into_iter().map(|Class { name, frame, .. }| Named { name, frame });
    capture::assert_stored("classes", &made.collect::<Vec<_>>());
}

fn make() -> Vec<Class> {
    let mut all = no_ip();
    for packet in Packet::families() {
        all.extend(whole(&packet));
        all.extend(tagged(&packet));
        all.extend(pieces(&packet));
        all.extend(segments(&packet));
    }
    all.extend(ipv4_only());
    all.extend(extension_headers());
    all.extend(malformed::every_class().into_iter().map(known_fault));
    all
}

fn udp(packet: &Packet) -> Vec<u8> {
    packet.udp(SERVER, CLIENT, b"datagram")
}

fn tcp() -> Segment {
    Segment::new(SERVER, CLIENT).sequence(0x0102_0304).acknowledgement(0x0506_0708).payload(b"page")
}

/// What has no IP header where one is looked for.
fn no_ip() -> Vec<Class> {
    let class = |name: &str, frame: Vec<u8>| Class {
        name: name.into(),
        ..Class::new("", &Packet::v4(), frame, Sees::Nothing)
    };
    let ethernet =
        |kind: u16, rest: &[u8]| [&CLIENT_MAC[..], &GUEST_MAC, &kind.to_be_bytes(), rest].concat();
    let packet = &udp(&Packet::v4())[14..];
    vec![
        class("ARP", arp()),
        class("ARP, cut after its operation", arp()[..22].to_vec()),
        class("ARP, padded", padded(arp(), 60)),
        class("LLDP", lldp()),
        class("an EtherType that nobody has", ethernet(0x88b5, &[0; 46])),
        class("IPv4 EtherType in the wrong byte order", ethernet(0x0008, packet)),
        class("IPv4 in 802.3 with LLC and SNAP", {
            let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], packet].concat();
            ethernet(snap.len() as u16, &snap)
        }),
        class(
            "IPv4 in PPPoE",
            ethernet(0x8864, &[&[0x11, 0, 0, 1, 0, 32, 0, 0x21], packet].concat()),
        ),
        class("a tag of QinQ's older EtherType", {
            ethernet(0x9100, &[&[0, 5, 8, 0], packet].concat())
        }),
        class("a tag in the wrong byte order", ethernet(0x0081, &[&[0, 5, 8, 0], packet].concat())),
        class("MPLS", ethernet(0x8847, &[&[0, 1, 1, 64], packet].concat())),
    ]
}

fn whole(packet: &Packet) -> Vec<Class> {
    let class = |name: &str, frame: Vec<u8>, sees| Class::new(name, packet, frame, sees);
    vec![
        class("UDP", udp(packet), BOTH),
        class("UDP without payload", packet.udp(SERVER, CLIENT, &[]), BOTH),
        class("UDP, padded to sixty bytes", padded(packet.udp(SERVER, CLIENT, &[]), 80), BOTH),
        class(
            "UDP, ports in the wrong byte order",
            packet.udp(SERVER.swap_bytes(), CLIENT.swap_bytes(), b"datagram"),
            Sees::Ports(SERVER.swap_bytes(), CLIENT.swap_bytes()),
        ),
        class(
            "UDP, ports exchanged",
            packet.udp(CLIENT, SERVER, b"datagram"),
            Sees::Ports(CLIENT, SERVER),
        ),
        class("UDP, a frame of 1,514 bytes", sized(packet, 1514), BOTH),
        class("UDP, a frame of 9,014 bytes", sized(packet, 9014), BOTH),
        class("TCP", tcp().frame(packet), BOTH),
        class("ICMP echo", packet.echo(1, 2, b"ping"), Sees::Addresses),
        class("GRE", packet.carrying(protocol::GRE, &[0, 0, 8, 0, 0x1f, 0x90]), Sees::Addresses),
        class("ESP", packet.carrying(50, &[0x1f, 0x90, 0x9c, 0x40]), Sees::Addresses),
    ]
}

fn sized(packet: &Packet, length: usize) -> Vec<u8> {
    let headers = packet.udp(SERVER, CLIENT, &[]).len();
    packet.udp(SERVER, CLIENT, &vec![0x5a; length - headers])
}

fn tagged(packet: &Packet) -> Vec<Class> {
    let class = |name: &str, frame: Vec<u8>, sees| Class::new(name, packet, frame, sees);
    let one = packet.clone().tagged(OUTER_TAG);
    let two = one.clone().tagged(INNER_TAG);
    let three = two.clone().tagged(7);
    let reset = |packet: &Packet| tcp().flags(RST | ACK).frame(packet);
    let prioritised = {
        let mut frame = reset(&one);
        // Priority 7 and drop eligible, IEEE 802.1Q section 9.6.
        frame[14] |= 0xf0;
        frame
    };
    vec![
        class("a tag", udp(&one), BOTH),
        class("two tags", udp(&two), BOTH),
        class("three tags", udp(&three), Sees::Nothing),
        class("priority without a VLAN", udp(&packet.clone().tagged(0)), BOTH),
        class("a tag with priority", prioritised, BOTH).tags([OUTER_TAG, 0]).resets(),
        class("RST behind a tag", reset(&one), BOTH).tags([OUTER_TAG, 0]).resets(),
        class("RST behind two tags", reset(&two), BOTH).tags([OUTER_TAG, INNER_TAG]).resets(),
        class("RST behind three tags", reset(&three), Sees::Nothing),
    ]
}

fn pieces(packet: &Packet) -> Vec<Class> {
    let class = |name: String, frame: Vec<u8>| Class::new(&name, packet, frame, Sees::Addresses);
    let mut all = Vec::new();
    // 256 bytes: the offset is 32 units, 0x0020, which is more-fragments in the wrong byte order.
    let datagram = packet.udp_datagram(SERVER, CLIENT, &[0x1f; 600]);
    for (index, frame) in packet.fragments(protocol::UDP, &datagram, 256).into_iter().enumerate() {
        all.push(class(format!("UDP, piece {index}"), frame));
    }
    let segment = tcp().flags(RST | ACK).payload(&[0x04; 600]).bytes(packet);
    for (index, frame) in packet.fragments(protocol::TCP, &segment, 256).into_iter().enumerate() {
        all.push(class(format!("RST with data, piece {index}"), frame));
    }
    // RFC 791 allows a first piece of eight bytes; the flags come with the second.
    let tiny = packet.fragments(protocol::TCP, &segment[..24], 8).remove(0);
    all.push(class("RST, a first piece of eight bytes".into(), tiny).lies());
    all
}

/// Where the TCP header begins in an untagged frame without options or extension headers.
fn transport(packet: &Packet) -> usize {
    if packet.is_v4() { 34 } else { 54 }
}

fn segments(packet: &Packet) -> Vec<Class> {
    let class = |name: &str, frame: Vec<u8>| Class::new(name, packet, frame, BOTH);
    let tcp_at = transport(packet);
    let reset = tcp().flags(RST | ACK).frame(packet);
    let changed = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    // Of the IP header's length field, and what it counts beside the payload.
    let (length_at, header) = if packet.is_v4() { (16, 20) } else { (18, 0) };
    let ends =
        |frame: &[u8], payload: u16| changed(frame, length_at, &(header + payload).to_be_bytes());
    let with_options = tcp().timestamps(1, 2).flags(RST).frame(packet);
    vec![
        class("SYN", tcp().flags(SYN).frame(packet)),
        class("RST", reset.clone()).resets(),
        class("RST without ACK", tcp().flags(RST).frame(packet)).resets(),
        class("RST with options", with_options.clone()).resets(),
        // PSH is RST with the bits of its half reversed, SYN and CWR a nibble apart.
        class("all flags but RST", tcp().flags(!RST).frame(packet)),
        class("RST, ports in the wrong byte order", {
            Segment::new(SERVER.swap_bytes(), CLIENT.swap_bytes()).flags(RST).frame(packet)
        })
        .sees(Sees::Ports(SERVER.swap_bytes(), CLIENT.swap_bytes()))
        .resets(),
        class("RST, the frame ends after the flags", reset[..tcp_at + 14].to_vec()).lies().resets(),
        class("RST, the frame ends before the flags", reset[..tcp_at + 13].to_vec()).lies(),
        class("TCP, the frame ends after the ports", reset[..tcp_at + 4].to_vec()).lies(),
        class("TCP, the frame ends inside the ports", reset[..tcp_at + 3].to_vec())
            .sees(Sees::Nothing),
        class("RST, the datagram ends inside the header", ends(&reset, 19)).lies().resets(),
        class("RST, the datagram ends before the header", ends(&reset, 0)).lies().resets(),
        class("RST, the datagram ends inside the options", ends(&with_options, 31)).lies().resets(),
        class("RST, the datagram ends with the options", ends(&with_options, 32)).resets(),
        class("RST, a header of four words", changed(&reset, tcp_at + 12, &[0x40])).lies().resets(),
        class("RST, a header of no words", changed(&reset, tcp_at + 12, &[0x00])).lies().resets(),
        class("RST, a header of fifteen words", changed(&reset, tcp_at + 12, &[0xf0]))
            .lies()
            .resets(),
        class("RST, the datagram goes on beyond the frame", ends(&reset, 1400)).resets(),
    ]
}

fn ipv4_only() -> Vec<Class> {
    let packet = Packet::v4();
    let class = |name: &str, frame: Vec<u8>, sees| Class::new(name, &packet, frame, sees);
    let fragment = |word: u16| {
        let mut frame = tcp().flags(RST).frame(&packet);
        frame[20..22].copy_from_slice(&word.to_be_bytes());
        frame
    };
    let ihl = |byte: u8| {
        let mut frame = udp(&packet);
        frame[14] = byte;
        frame
    };
    // The ports would be where the datagram's length and checksum are.
    let six_words = ihl(0x46);
    let checksum = u16::from_be_bytes([six_words[40], six_words[41]]);
    let length_and_checksum = Sees::Ports(8 + 8, checksum);
    let options = packet.clone().options(&[1; 40]);
    vec![
        class("forty bytes of options", udp(&options), BOTH),
        class("RST behind options", tcp().flags(RST).frame(&options), BOTH).resets(),
        class("options that end with the frame", udp(&options)[..54].to_vec(), Sees::Nothing),
        class("don't fragment is no fragment", fragment(0x4000), BOTH).resets(),
        class("the reserved bit is no fragment", fragment(0x8000), BOTH).resets(),
        class("more fragments", fragment(0x2000), Sees::Addresses),
        class("a piece 32 units in", fragment(0x0020), Sees::Addresses),
        class("a piece 64 units in, don't fragment", fragment(0x4040), Sees::Addresses),
        class("the last possible piece", fragment(0x1fff), Sees::Addresses),
        class("a header of no words", ihl(0x40), Sees::Nothing),
        class("a header of sixteen bytes", ihl(0x44), Sees::Nothing),
        class("a header of six words, none of them options", six_words, length_and_checksum),
        class("version 5", ihl(0x55), Sees::Nothing),
    ]
}

fn extension_headers() -> Vec<Class> {
    use protocol::{DESTINATION_OPTIONS, HOP_BY_HOP, ROUTING};
    const AUTHENTICATION: u8 = 51;
    const NO_NEXT: u8 = 59;
    let v6 = Packet::v6();
    let class = |name: &str, frame: Vec<u8>, sees| Class::new(name, &v6, frame, sees);
    let padding = [1, 4, 0, 0, 0, 0];
    let chain = |headers: &[(u8, usize)]| {
        headers.iter().fold(v6.clone(), |packet, (header, units)| {
            let mut body = padding.to_vec();
            body.resize(6 + units * 8, 0);
            packet.extension(*header, &body)
        })
    };
    let reset = |packet: &Packet| tcp().flags(RST).frame(packet);
    // Chained by hand: a header that `Packet` does not know, in front of a segment.
    let by_hand = |number: u8, header: &[u8]| {
        let segment = tcp().flags(RST).bytes(&v6);
        v6.carrying(number, &[header, &segment].concat())
    };
    let integrity = {
        // Six words: RFC 4302 section 2.2 counts them less two.
        let mut header = vec![protocol::TCP, 4];
        header.resize(24, 0xaa);
        header
    };
    let fragment = |next: u8, word: u16| [&[next, 0xff][..], &word.to_be_bytes(), &[0; 4]].concat();
    let atomic = fragment(protocol::TCP, 0);
    let twice = [fragment(protocol::FRAGMENT, 0), atomic.clone()].concat();
    let jumbogram = {
        let mut frame = v6.clone().extension(HOP_BY_HOP, &[0xc2, 4, 0, 1, 0, 0]);
        frame = frame.traffic_class(0);
        let mut frame = reset(&frame);
        frame[18..20].fill(0);
        frame
    };
    vec![
        class("hop-by-hop options", udp(&chain(&[(HOP_BY_HOP, 0)])), BOTH),
        class("RST behind hop-by-hop options", reset(&chain(&[(HOP_BY_HOP, 0)])), BOTH).resets(),
        class(
            "three headers of different lengths",
            reset(&chain(&[(HOP_BY_HOP, 1), (ROUTING, 2), (DESTINATION_OPTIONS, 3)])),
            BOTH,
        )
        .resets(),
        class("six headers", reset(&chain(&[(DESTINATION_OPTIONS, 0); 6])), BOTH).resets(),
        class("seven headers", reset(&chain(&[(DESTINATION_OPTIONS, 0); 7])), Sees::Nothing),
        class(
            "a header of two kilobytes that is there",
            reset(&chain(&[(DESTINATION_OPTIONS, 255)])),
            BOTH,
        )
        .resets(),
        class(
            "a header of two kilobytes that is not",
            by_hand(DESTINATION_OPTIONS, &[protocol::TCP, 255, 1, 4, 0, 0, 0, 0]),
            Sees::Nothing,
        ),
        class(
            "headers that lead back to hop-by-hop",
            {
                let mut packet = v6.carrying(HOP_BY_HOP, &[0; 64]);
                packet[54..].fill(0);
                packet
            },
            Sees::Nothing,
        ),
        class("an authentication header", by_hand(AUTHENTICATION, &integrity), BOTH).resets(),
        class(
            "an authentication header that is cut",
            v6.carrying(AUTHENTICATION, &integrity[..16]),
            Sees::Nothing,
        ),
        class("an atomic fragment", by_hand(protocol::FRAGMENT, &atomic), BOTH).resets(),
        class("an atomic fragment in another", by_hand(protocol::FRAGMENT, &twice), BOTH).resets(),
        class(
            "reserved bits of a fragment header",
            by_hand(protocol::FRAGMENT, &fragment(protocol::TCP, 0x0006)),
            BOTH,
        )
        .resets(),
        class(
            "more fragments",
            by_hand(protocol::FRAGMENT, &fragment(protocol::TCP, 0x0001)),
            Sees::Addresses,
        ),
        class(
            "a piece 32 units in",
            by_hand(protocol::FRAGMENT, &fragment(protocol::TCP, 0x0100)),
            Sees::Addresses,
        ),
        class("no next header", v6.carrying(NO_NEXT, &[0x1f, 0x90, 0x9c, 0x40]), Sees::Addresses),
        class("a mobility header", by_hand(135, &[6, 0, 0, 0, 0, 0, 0, 0]), Sees::Addresses),
        class("a jumbogram", jumbogram, BOTH).lies().resets(),
    ]
}

/// What is to be seen in a frame of the harness's malformed classes.
fn known_fault(malformed: malformed::Malformed) -> Class {
    let ports = Sees::Ports(MALFORMED, MALFORMED);
    let fault = malformed.fault.rsplit(": ").next().expect("there is a last one");
    let (sees, lies) = match fault {
        "cut inside a VLAN tag"
        | "cut inside an inner tag"
        | "no header at all"
        | "header cut after ten bytes"
        | "header cut after thirty bytes"
        | "version 6 under the IPv4 EtherType"
        | "version 4 under the IPv6 EtherType"
        | "version 0"
        | "header length below five words"
        | "header length beyond the frame"
        | "no payload where UDP should be"
        | "hop-by-hop header cut"
        | "extension header longer than the packet"
        | "destination options cut"
        | "fragment header cut" => (Sees::Nothing, false),
        // The lengths of IP are not asked for: a rule has no need to know where the datagram ends.
        "total length below the header length"
        | "total length zero"
        | "total length beyond the frame"
        | "payload length beyond the frame"
        | "UDP header cut"
        | "UDP length below eight"
        | "UDP length beyond the packet" => (ports, false),
        "TCP header cut"
        | "TCP data offset below five words"
        | "TCP data offset beyond the segment" => (ports, true),
        "ICMP header cut" => (Sees::Addresses, false),
        other => panic!("say what the programs see of this class: {other}"),
    };
    Class {
        name: malformed.fault.clone(),
        frame: malformed.frame,
        sees,
        ipv6: malformed.fault.contains("IPv6: "),
        lies,
        resets: false,
        tags: [0; 2],
    }
}
