//! As much of a frame's headers as a bypass rule or the sequence rewriter can ask for.

use aya_ebpf::programs::XdpContext;
use compare_ebpf::{FAMILY_IPV4, FAMILY_IPV6};

use crate::bytes::load;

/// Offset of the EtherType in an untagged frame.
pub(crate) const ETHERTYPE: u32 = 12;
/// EtherTypes, in the byte order of the frame.
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();
const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();
/// The identifier in a tag, without priority.
const VLAN_IDENTIFIER: u16 = 0x0fff_u16.to_be();

/// IP protocol numbers.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// IPv6 extension headers that are followed. RFC 8200 section 4.1 recommends an order with six
/// headers, of which destination options may occur twice.
const EXTENSION_HEADERS: u32 = 7;

/// The addresses, protocol and ports of a frame.
pub(crate) struct Flow {
    /// `FAMILY_IPV4` or `FAMILY_IPV6`.
    pub(crate) family: u8,
    /// IP protocol behind the extension headers; of a fragment, the fragment header's.
    pub(crate) protocol: u8,
    /// Addresses as in the header; an IPv4 address fills the first word.
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
    /// Ports in network byte order, zero where there are none: other protocols, and fragments, of
    /// which only the first carries them (all of a datagram go one way).
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// VLAN identifiers, outer one first, in network byte order; zero for none.
    pub(crate) tags: [u16; 2],
    /// Where in its datagram the frame is.
    pub(crate) piece: Piece,
    /// Offset in the frame of what follows the IP headers.
    pub(crate) transport: u32,
    /// Offset in the frame at which the datagram, or this piece of it, ends: from the IP header.
    pub(crate) end: u32,
}

/// What part of an IP datagram a frame has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// All of it.
    Whole,
    /// The beginning, with the transport header.
    First,
    /// What follows.
    Later,
}

/// `struct iphdr`, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_and_length: u8,
    _service: u8,
    total: u16,
    _identification: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
}

/// `struct ipv6hdr`, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version: u8,
    _flow: [u8; 3],
    payload: u16,
    next: u8,
    _hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// The first four bytes of any IPv6 extension header.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExtensionHeader {
    next: u8,
    length: u8,
    /// Offset and more-fragments bit, in a fragment header.
    fragment: u16,
}

/// The first four bytes of TCP and UDP.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ports {
    source: u16,
    destination: u16,
}

impl Flow {
    /// Reads a frame: Ethernet, up to two VLAN tags, IPv4 or IPv6, ports of TCP and UDP. `None`
    /// if it is no IP, or ends inside a header.
    #[inline(always)]
    pub(crate) fn of(frame: &XdpContext) -> Option<Self> {
        let mut offset = ETHERTYPE;
        let mut ethertype: u16 = load(frame, offset)?;
        let mut tags = [0; 2];
        for tag in &mut tags {
            if ethertype == VLAN || ethertype == SERVICE_VLAN {
                let [control, inner]: [u16; 2] = load(frame, offset + 2)?;
                *tag = control & VLAN_IDENTIFIER;
                offset += 4;
                ethertype = inner;
            }
        }
        match ethertype {
            IPV4 => Self::ipv4(frame, offset + 2, tags),
            IPV6 => Self::ipv6(frame, offset + 2, tags),
            _ => None,
        }
    }

    #[inline(always)]
    fn ipv4(frame: &XdpContext, offset: u32, tags: [u16; 2]) -> Option<Self> {
        let header: Ipv4Header = load(frame, offset)?;
        let length = u32::from(header.version_and_length & 0xf) * 4;
        if header.version_and_length >> 4 != 4 || length < 20 {
            return None;
        }
        let mut flow = Self {
            family: FAMILY_IPV4,
            protocol: header.protocol,
            source: [header.source, 0, 0, 0],
            destination: [header.destination, 0, 0, 0],
            source_port: 0,
            destination_port: 0,
            tags,
            // Thirteen bits of offset and the more-fragments bit, RFC 791 section 3.1.
            piece: if header.fragment & 0x1fff_u16.to_be() != 0 {
                Piece::Later
            } else if header.fragment & 0x2000_u16.to_be() != 0 {
                Piece::First
            } else {
                Piece::Whole
            },
            transport: offset + length,
            end: offset + u32::from(u16::from_be(header.total)),
        };
        if flow.piece == Piece::Whole {
            flow.ports(frame)?;
        }
        Some(flow)
    }

    #[inline(always)]
    fn ipv6(frame: &XdpContext, offset: u32, tags: [u16; 2]) -> Option<Self> {
        let header: Ipv6Header = load(frame, offset)?;
        if header.version >> 4 != 6 {
            return None;
        }
        let mut flow = Self {
            family: FAMILY_IPV6,
            protocol: header.next,
            source: header.source,
            destination: header.destination,
            source_port: 0,
            destination_port: 0,
            tags,
            piece: Piece::Whole,
            transport: offset + size_of::<Ipv6Header>() as u32,
            end: offset + size_of::<Ipv6Header>() as u32 + u32::from(u16::from_be(header.payload)),
        };
        for _ in 0..EXTENSION_HEADERS {
            let length_unit = match flow.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => 8,
                AUTHENTICATION => 4,
                _ => {
                    flow.ports(frame)?;
                    return Some(flow);
                }
            };
            let header: ExtensionHeader = load(frame, flow.transport)?;
            // Offset and more-fragments bit, RFC 8200 section 4.5. Both zero: an atomic fragment,
            // which is a whole datagram.
            let is_fragment = flow.protocol == FRAGMENT;
            let is_piece = is_fragment && header.fragment & 0xfff9_u16.to_be() != 0;
            // Lengths: RFC 8200 section 4 (8 bytes and 8 per unit), RFC 4302 section 2.2 (8 bytes
            // and 4 per unit); the fragment header has none.
            let more = if is_fragment { 0 } else { u32::from(header.length) };
            flow.protocol = header.next;
            flow.transport += 8 + more * length_unit;
            if is_piece {
                let is_later = header.fragment & 0xfff8_u16.to_be() != 0;
                flow.piece = if is_later { Piece::Later } else { Piece::First };
                return Some(flow);
            }
        }
        None
    }

    /// Reads the ports if the protocol has any.
    #[inline(always)]
    fn ports(&mut self, frame: &XdpContext) -> Option<()> {
        if self.protocol == TCP || self.protocol == UDP {
            let ports: Ports = load(frame, self.transport)?;
            self.source_port = ports.source;
            self.destination_port = ports.destination;
        }
        Some(())
    }
}
