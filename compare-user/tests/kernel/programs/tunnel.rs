//! VXLAN: frames that leave through a tunnel, and what arrives where its other end is.

use std::net::IpAddr;

use colo_tests::packet::{CLIENT_MAC, GUEST_MAC, Packet, arp, lldp, padded, protocol};
use colo_tests::segment::Segment;
use compare_user::kernel::TunnelSpec;

use super::capture::{self, Named};
use super::classes::{CLIENT, SERVER};
use crate::network::ip;

/// The Ethernet address of the link's device.
pub(super) const LOCAL: [u8; 6] = GUEST_MAC;
/// That of the tunnel's next hop.
pub(super) const NEXT_HOP: [u8; 6] = CLIENT_MAC;

/// No byte like another: in the wrong order it is another VNI.
const VNI: u32 = 0x00ab_cdef;
/// RFC 7348 section 4.
const PORT: u16 = 4789;
/// The dynamic port that goes with the VNI.
const SOURCE_PORT: u16 = 0xc000 | (VNI & 0x3fff) as u16;
/// The flag that says that there is a VNI, RFC 7348 section 5.
const HAS_VNI: u8 = 0x08;

/// What the tunnel's datagrams go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// This host, the other one, and a third.
    fn hosts(self) -> [IpAddr; 3] {
        let hosts = match self {
            Self::V4 => ["10.9.0.1", "10.9.0.2", "10.9.0.3"],
            Self::V6 => ["fd00:9::1", "fd00:9::2", "fd00:9::3"],
        };
        hosts.map(|host| host.parse().unwrap())
    }

    pub(super) fn spec(self) -> TunnelSpec {
        let [local, remote, _] = self.hosts();
        TunnelSpec { vni: VNI, local, remote, port: PORT }
    }

    /// Addresses on the link's device; the next hop is known, or does not answer.
    pub(super) fn set_up(self, link: &str, known: bool) {
        let [local, remote, _] = self.hosts();
        let prefix = if self == Self::V4 { "24" } else { "64 nodad" };
        let spelled = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        ip(&format!("link set {link} address {}", spelled(LOCAL)));
        if self == Self::V6 {
            let disabled = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
            std::fs::write(disabled, "0").unwrap();
        }
        ip(&format!("addr add {local}/{prefix} dev {link}"));
        if known {
            ip(&format!(
                "neigh add {remote} lladdr {} dev {link} nud permanent",
                spelled(NEXT_HOP)
            ));
        }
    }

    fn name(self) -> &'static str {
        if self == Self::V4 { "over IPv4" } else { "over IPv6" }
    }

    /// Bytes of the outer headers.
    fn overhead(self) -> usize {
        if self == Self::V4 { 50 } else { 70 }
    }
}

/// A VXLAN datagram, without UDP checksum, as RFC 7348 section 5 and RFC 6935 have it.
struct Outer {
    packet: Packet,
    ports: (u16, u16),
    flags: u8,
    vni: u32,
}

impl Outer {
    /// From the other host to this one.
    fn arriving(underlay: Underlay) -> Self {
        let [local, remote, _] = underlay.hosts();
        Self {
            packet: Packet::between(remote, local).dont_fragment(),
            ports: (SOURCE_PORT, PORT),
            flags: HAS_VNI,
            vni: VNI << 8,
        }
    }

    /// From this host to the other one.
    fn leaving(underlay: Underlay) -> Self {
        let [local, remote, _] = underlay.hosts();
        Self { packet: Packet::between(local, remote).dont_fragment(), ..Self::arriving(underlay) }
    }

    fn frame(&self, inner: &[u8]) -> Vec<u8> {
        let header = [&[self.flags, 0, 0, 0], &self.vni.to_be_bytes()[..], inner].concat();
        let mut frame = self.packet.udp(self.ports.0, self.ports.1, &header);
        let checksum = frame.len() - inner.len() - 8 - 2;
        frame[checksum..checksum + 2].fill(0);
        frame
    }
}

/// A frame of the guest, and how it leaves through the tunnel.
pub(super) struct Leaving {
    pub(super) name: String,
    pub(super) inner: Vec<u8>,
    /// None if the link has no room for it.
    pub(super) outer: Option<Vec<u8>>,
}

/// Frames for the tunnel, read from the file.
pub(super) fn leaving(underlay: Underlay) -> Vec<Leaving> {
    let mut stored = capture::stored("leaving").into_iter();
    let mut all = Vec::new();
    while let Some(Named { name, frame }) = stored.next() {
        let outer = (!name.ends_with("too long")).then(|| stored.next().unwrap().frame);
        if name.contains(underlay.name()) {
            all.push(Leaving { name, inner: frame, outer });
        }
    }
    assert!(!all.is_empty());
    all
}

fn make_leaving() -> Vec<Named> {
    let mut all = Vec::new();
    for underlay in Underlay::ALL {
        // An MTU of 1,500 bytes, less what the outer headers take.
        let longest = 1514 - underlay.overhead();
        let sized = |length: usize| {
            let headers = Packet::v4().udp(SERVER, CLIENT, &[]).len();
            Packet::v4().udp(SERVER, CLIENT, &vec![0x5a; length - headers])
        };
        let header = Packet::v4().udp(SERVER, CLIENT, &[])[..14].to_vec();
        let segment = Segment::new(SERVER, CLIENT).payload(b"odd").frame(&Packet::v6().tagged(5));
        for (name, inner) in [
            ("nothing but an Ethernet header", header),
            ("a datagram", sized(60)),
            ("a tagged segment of odd length", segment),
            ("256 bytes, whose length has one byte", sized(256)),
            ("the longest", sized(longest)),
            ("too long", sized(longest + 1)),
        ] {
            let name = format!("{}, {name}", underlay.name());
            let outer = Outer::leaving(underlay).frame(&inner);
            all.push(Named { name: name.clone(), frame: inner });
            if !name.ends_with("too long") {
                all.push(Named { name: format!("{name}, after"), frame: outer });
            }
        }
    }
    all
}

#[test]
fn the_file_of_frames_that_leave_through_a_tunnel_is_what_the_code_makes() {
    capture::assert_stored("leaving", &make_leaving());
}

/// What a program is to make of a frame on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrives {
    /// This comes out of the tunnel.
    Inner(Vec<u8>),
    /// The host's business.
    Host,
    /// Another VNI.
    OtherVni,
    /// Another host.
    ForeignPeer,
    /// Dropped.
    Malformed,
}

/// A frame on a link that is a tunnel.
pub(super) struct Arriving {
    pub(super) name: String,
    pub(super) frame: Vec<u8>,
    pub(super) arrives: Arrives,
}

/// What arrives where the tunnel ends, read from the file.
pub(super) fn arriving(underlay: Underlay) -> Vec<Arriving> {
    let mut stored = capture::stored("arriving").into_iter();
    let mut all = Vec::new();
    for mut made in make_arriving() {
        let Named { name, frame } = stored.next().expect("the file is of another time");
        assert_eq!(name, made.name, "the file is of another time");
        made.frame = frame;
        if let Arrives::Inner(inner) = &mut made.arrives {
            *inner = stored.next().unwrap().frame;
        }
        if made.name.starts_with(underlay.name()) {
            all.push(made);
        }
    }
    all
}

#[test]
fn the_file_of_frames_that_arrive_through_a_tunnel_is_what_the_code_makes() {
    let mut all = Vec::new();
    for Arriving { name, frame, arrives } in make_arriving() {
        all.push(Named { name: name.clone(), frame });
        if let Arrives::Inner(inner) = arrives {
            all.push(Named { name: format!("{name}, after"), frame: inner });
        }
    }
    capture::assert_stored("arriving", &all);
}

fn make_arriving() -> Vec<Arriving> {
    let mut all = Vec::new();
    for underlay in Underlay::ALL {
        let cases = [
            sound(underlay),
            elsewhere(underlay),
            cut(underlay),
            lying(underlay),
            if underlay == Underlay::V4 { ipv4_only() } else { ipv6_only() },
        ];
        let named = cases.into_iter().flatten().map(|(name, frame, arrives)| Arriving {
            name: format!("{}, {name}", underlay.name()),
            frame,
            arrives,
        });
        all.extend(named);
    }
    all
}

type Case = (String, Vec<u8>, Arrives);

fn inner() -> Vec<u8> {
    Packet::v4().udp(SERVER, CLIENT, b"datagram")
}

fn case(name: &str, frame: Vec<u8>, arrives: Arrives) -> Case {
    (name.into(), frame, arrives)
}

/// What comes out of the tunnel.
fn sound(underlay: Underlay) -> Vec<Case> {
    let outer = || Outer::arriving(underlay);
    let through = |name: &str, inner: Vec<u8>| {
        let frame = outer().frame(&inner);
        case(name, frame, Arrives::Inner(inner))
    };
    let header = inner()[..14].to_vec();
    vec![
        through("a datagram", inner()),
        through("a tagged segment", Segment::new(1, 2).frame(&Packet::v6().tagged(5))),
        through("a frame that is not IP", lldp()),
        through("nothing but an Ethernet header", header),
        through("a VXLAN datagram of another tunnel", Outer { vni: 0, ..outer() }.frame(&inner())),
        // Two buffers.
        through("a frame of 4,000 bytes", Packet::v4().udp(SERVER, CLIENT, &[7; 4000 - 42])),
        case(
            "reserved bits of the flags",
            Outer { flags: 0xff, ..outer() }.frame(&inner()),
            Arrives::Inner(inner()),
        ),
        case(
            "the reserved byte behind the VNI",
            Outer { vni: VNI << 8 | 0xff, ..outer() }.frame(&inner()),
            Arrives::Inner(inner()),
        ),
        case(
            "any source port",
            Outer { ports: (1, PORT), ..outer() }.frame(&inner()),
            Arrives::Inner(inner()),
        ),
        // A switch pads to sixty bytes, and the padding stays behind the inner frame, which has
        // lengths of its own.
        case(
            "padding behind the datagram",
            padded(outer().frame(&inner()), 150),
            Arrives::Inner(padded(inner(), 150 - underlay.overhead())),
        ),
    ]
}

/// What belongs to the host, another tunnel or another host.
fn elsewhere(underlay: Underlay) -> Vec<Case> {
    let outer = || Outer::arriving(underlay);
    let [local, remote, third] = underlay.hosts();
    let between = |source, destination| Outer {
        packet: Packet::between(source, destination).dont_fragment(),
        ..outer()
    };
    let vni = |vni: u32| Outer { vni: vni << 8, ..outer() }.frame(&inner());
    let other = if underlay == Underlay::V4 { Underlay::V6 } else { Underlay::V4 };
    let tagged = Outer { packet: outer().packet.tagged(5), ..outer() };
    let tcp = {
        let mut frame = outer().frame(&inner());
        let protocol_at = if underlay == Underlay::V4 { 23 } else { 20 };
        frame[protocol_at] = protocol::TCP;
        frame
    };
    vec![
        case("ARP", arp(), Arrives::Host),
        case("LLDP", lldp(), Arrives::Host),
        case("the other family", Outer::arriving(other).frame(&inner()), Arrives::Host),
        case("behind a tag", tagged.frame(&inner()), Arrives::Host),
        case("for another host", between(remote, third).frame(&inner()), Arrives::Host),
        case("from this host to itself", between(local, remote).frame(&inner()), Arrives::Host),
        case("TCP", tcp, Arrives::Host),
        case(
            "another port",
            Outer { ports: (SOURCE_PORT, 8472), ..outer() }.frame(&inner()),
            Arrives::Host,
        ),
        case(
            "the port in the wrong byte order",
            Outer { ports: (SOURCE_PORT, PORT.swap_bytes()), ..outer() }.frame(&inner()),
            Arrives::Host,
        ),
        case(
            "the port as the source's",
            Outer { ports: (PORT, SOURCE_PORT), ..outer() }.frame(&inner()),
            Arrives::Host,
        ),
        case("from a third host", between(third, local).frame(&inner()), Arrives::ForeignPeer),
        case(
            "from a third host, no VNI",
            Outer { flags: 0, ..between(third, local) }.frame(&inner()),
            Arrives::ForeignPeer,
        ),
        case("the next VNI", vni(VNI + 1), Arrives::OtherVni),
        case("the VNI in the wrong byte order", vni(0x00ef_cdab), Arrives::OtherVni),
        case(
            "the VNI a byte too low",
            Outer { vni: VNI, ..outer() }.frame(&inner()),
            Arrives::OtherVni,
        ),
        case("VNI zero", vni(0), Arrives::OtherVni),
    ]
}

/// Frames that end early.
fn cut(underlay: Underlay) -> Vec<Case> {
    let whole = Outer::arriving(underlay).frame(&inner());
    let overhead = underlay.overhead();
    let mut all = Vec::new();
    // Inside each of the outer headers: nothing says yet that the frame is the tunnel's.
    for length in [14, 15, overhead - 17, overhead - 16, overhead - 9, overhead - 8, overhead - 1] {
        let name = format!("a frame that ends after {length} bytes");
        all.push(case(&name, whole[..length].to_vec(), Arrives::Host));
    }
    // Inside the inner frame: its lengths are another's business, those of the datagram are not.
    for length in [overhead, overhead + 13, overhead + 14, whole.len() - 1] {
        let name = format!("a frame that ends after {length} bytes");
        all.push(case(&name, whole[..length].to_vec(), Arrives::Malformed));
    }
    for length in [0, 1, 13] {
        let name = format!("an inner frame of {length} bytes");
        let frame = Outer::arriving(underlay).frame(&inner()[..length]);
        all.push(case(&name, frame, Arrives::Malformed));
    }
    all
}

/// Length fields that lie, and flags.
fn lying(underlay: Underlay) -> Vec<Case> {
    let whole = Outer::arriving(underlay).frame(&inner());
    let changed = |at: usize, by: i32| {
        let mut frame = whole.clone();
        let number = u16::from_be_bytes([frame[at], frame[at + 1]]);
        let number = (i32::from(number) + by) as u16;
        frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
        frame
    };
    let swapped = |at: usize| {
        let mut frame = whole.clone();
        frame.swap(at, at + 1);
        frame
    };
    let udp = underlay.overhead() - 16 + 4;
    let ip = if underlay == Underlay::V4 { 16 } else { 18 };
    let both = |by: i32| {
        let mut frame = changed(ip, by);
        let length = changed(udp, by);
        frame[udp..udp + 2].copy_from_slice(&length[udp..udp + 2]);
        frame
    };
    let zero = |at: usize| {
        let mut frame = whole.clone();
        frame[at..at + 2].fill(0);
        frame
    };
    let flags = |flags: u8| Outer { flags, ..Outer::arriving(underlay) }.frame(&inner());
    let malformed = [
        ("UDP a byte longer than IP", changed(udp, 1)),
        ("UDP a byte shorter than IP", changed(udp, -1)),
        ("IP a byte longer than UDP", changed(ip, 1)),
        ("IP a byte shorter than UDP", changed(ip, -1)),
        ("IP and UDP a byte longer than the frame", both(1)),
        ("UDP's length zero", zero(udp)),
        ("IP's length zero", zero(ip)),
        ("UDP's length in the wrong byte order", swapped(udp)),
        ("IP's length in the wrong byte order", swapped(ip)),
        ("no flags", flags(0)),
        ("all flags but that of the VNI", flags(!HAS_VNI)),
        ("the flag of the VNI in the other half", flags(0x80)),
    ];
    let mut all: Vec<_> = { malformed.into_iter() }
        .map(|(name, frame)| case(name, frame, Arrives::Malformed))
        .collect();
    // IP and UDP agree on less than the frame has: the rest is padding.
    all.push(case("IP and UDP a byte shorter than the frame", both(-1), Arrives::Inner(inner())));
    all
}

fn ipv4_only() -> Vec<Case> {
    let underlay = Underlay::V4;
    let whole = Outer::arriving(underlay).frame(&inner());
    let word = |at: usize, word: u16| {
        let mut frame = whole.clone();
        frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
        frame
    };
    let byte = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        frame
    };
    let options = Outer {
        packet: Outer::arriving(underlay).packet.options(&[1; 4]),
        ..Outer::arriving(underlay)
    };
    vec![
        case("options", options.frame(&inner()), Arrives::Host),
        case("may be fragmented", word(20, 0), Arrives::Inner(inner())),
        case("the reserved bit", word(20, 0x8000), Arrives::Inner(inner())),
        case("a first fragment", word(20, 0x2000), Arrives::Host),
        case("a later fragment", word(20, 0x0020), Arrives::Host),
        case("a later fragment, don't fragment", word(20, 0x4040), Arrives::Host),
        case("the last possible fragment", word(20, 0x1fff), Arrives::Host),
        case("version 6", byte(14, 0x65), Arrives::Host),
        case("a header of four words", byte(14, 0x44), Arrives::Host),
        // Nobody reads the outer checksum: the inner frame has its own.
        case("a wrong header checksum", byte(24, whole[24] ^ 0xff), Arrives::Inner(inner())),
        case(
            "this host's address in the wrong byte order",
            {
                let mut frame = whole.clone();
                frame[30..34].reverse();
                frame
            },
            Arrives::Host,
        ),
    ]
}

fn ipv6_only() -> Vec<Case> {
    let underlay = Underlay::V6;
    let extended = Outer {
        packet: Outer::arriving(underlay)
            .packet
            .extension(protocol::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]),
        ..Outer::arriving(underlay)
    };
    let labelled = Outer {
        packet: Outer::arriving(underlay).packet.flow_label(0xabcde).traffic_class(0xb8),
        ..Outer::arriving(underlay)
    };
    let version = {
        let mut frame = Outer::arriving(underlay).frame(&inner());
        frame[14] = 0x45;
        frame
    };
    vec![
        case("an extension header", extended.frame(&inner()), Arrives::Host),
        case("a flow label and a class", labelled.frame(&inner()), Arrives::Inner(inner())),
        case("version 4", version, Arrives::Host),
    ]
}
