//! From the bytes of a frame to its [`Headers`].
//!
//! This runs once for every frame of both guests, so it reads each header once, through
//! etherparse's header slices (which check a length and borrow), and builds nothing else.
//! Only the frame's first run is read: headers that do not lie in it are taken as cut.

use etherparse::{
    EtherType, Ethernet2Header, Ethernet2HeaderSlice, Icmpv6Header, IpAuthHeaderSlice, IpNumber,
    Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6Header, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
    SingleVlanHeader, SingleVlanHeaderSlice, TcpHeaderSlice, UdpHeader, UdpHeaderSlice, ip_number,
};

use super::headers::{Class, Headers, Malformed, PassReason, TcpFields};
use super::key::FlowKey;
use super::store::FrameStore;

/// Extension headers that are followed before the rest is taken as an opaque payload.
///
/// RFC 8200 section 4.1 lists seven, of which a sender uses each once. A longer chain is not
/// malformed, and stopping there is safe: everything behind is compared byte by byte. Eight of
/// the largest (2,048 bytes each) also keep every offset within `u16`.
const MAX_EXTENSIONS: usize = 8;

/// Largest end of a fragment within its datagram: IP lengths are 16 bits wide.
const MAX_DATAGRAM: u32 = 65_535;

/// The flags byte of a TCP header.
const TCP_FLAGS: usize = 13;

/// ICMPv6 messages of group membership: MLD query, report, done (RFC 2710), MLDv2 report
/// (RFC 3810).
const MLD: [u8; 4] = [130, 131, 132, 143];

/// ICMPv6 messages of neighbour discovery (RFC 4861): router solicitation to redirect.
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

impl Headers {
    /// Finds the headers of `frame`.
    ///
    /// Never fails: a frame that is not IP, or that contradicts itself, says so in
    /// [`Headers::class`]. For [`Class::Tcp`] and [`Class::Datagram`] the offsets satisfy
    /// `network <= transport <= content <= end <= store.len(frame)`, and a `hole` lies with both
    /// its bytes in `content..end`.
    ///
    /// Readings of the standards that are not obvious:
    /// - An IPv6 payload length of zero is legal only when nothing follows (next header 59,
    ///   RFC 8200 section 4.7) or in a jumbogram (RFC 2675). No port delivers a frame of more
    ///   than 65,535 bytes of payload, so every other such frame is malformed.
    /// - An IPv6 fragment header with offset zero and no more fragments is stepped over
    ///   (RFC 6946: such an atomic fragment is a whole datagram).
    /// - A fragment's protocol is the one its fragment header names, on every fragment alike;
    ///   extension headers inside the fragmentable part are compared as payload.
    /// - Authentication headers are stepped over in both families: their sequence number
    ///   differs between the guests as the IP identification does.
    /// - Bytes of the IP payload behind the UDP length are compared: RFC 9868 puts options there.
    /// - ICMP and ICMPv6 messages are at least eight bytes long (RFC 792, RFC 4443).
    #[inline]
    #[must_use]
    pub fn parse<S: FrameStore>(store: &S, frame: &S::Frame) -> Self {
        let mut headers = Self::UNKNOWN;
        headers.parse_again(store, frame);
        headers
    }

    /// The last word of a layer.
    #[inline]
    fn is(&mut self, class: Class) {
        self.class = class;
    }

    /// Headers of no frame yet.
    pub const UNKNOWN: Self = Self {
        class: Class::Pass(PassReason::NotIp),
        key: FlowKey::NONE,
        network: 0,
        transport: 0,
        content: 0,
        hole: 0,
        end: 0,
        fragment: 0,
    };

    /// [`Headers::parse`] into the place of other headers: a copy of the freshly written fields
    /// would wait for each of them, which takes longer than parsing.
    #[inline]
    pub fn parse_again<S: FrameStore>(&mut self, store: &S, frame: &S::Frame) {
        *self = Self::UNKNOWN;
        link(self, store.run(frame, 0), store.len(frame));
    }
}

/// Where the checksum lies in the upper-layer header, for the protocols whose checksum we know.
#[inline]
pub(super) fn checksum_offset(protocol: u8, family: u8) -> Option<u16> {
    match (IpNumber(protocol), family) {
        (ip_number::TCP, _) => Some(16),
        (ip_number::UDP, _) => Some(6),
        (ip_number::ICMP, 4) | (ip_number::IPV6_ICMP, 6) => Some(2),
        _ => None,
    }
}

/// Ethernet and VLAN tags. `run` is the first run of a frame that is `len` bytes long.
///
/// Like every layer below, fills in its part of `headers`; the last one says what class it is.
#[inline]
fn link(headers: &mut Headers, run: &[u8], len: usize) {
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(run) else {
        return headers.is(Class::Malformed(Malformed::Ethernet));
    };
    let mut ether_type = ethernet.ether_type();
    let mut network = Ethernet2Header::LEN;
    if is_tag(ether_type) {
        for slot in &mut headers.key.vlan {
            let Ok(tag) = SingleVlanHeaderSlice::from_slice(&run[network..]) else {
                return headers.is(Class::Malformed(Malformed::Ethernet));
            };
            *slot = tag.vlan_identifier().value();
            ether_type = tag.ether_type();
            network += SingleVlanHeader::LEN;
            if !is_tag(ether_type) {
                break;
            }
        }
    }
    headers.network = network as u16;
    match ether_type {
        EtherType::IPV4 => ipv4(headers, run, len, network),
        EtherType::IPV6 => ipv6(headers, run, len, network),
        EtherType::ARP => headers.is(Class::Pass(PassReason::Arp)),
        // Also a fourth tag, and the length field of an 802.3 frame.
        _ => headers.is(Class::Pass(PassReason::NotIp)),
    }
}

#[inline]
fn is_tag(ether_type: EtherType) -> bool {
    matches!(
        ether_type,
        EtherType::VLAN_TAGGED_FRAME
            | EtherType::PROVIDER_BRIDGING
            | EtherType::VLAN_DOUBLE_TAGGED_FRAME
    )
}

#[inline]
fn ipv4(headers: &mut Headers, run: &[u8], len: usize, network: usize) {
    let Ok(header) = Ipv4HeaderSlice::from_slice(&run[network..]) else {
        return headers.is(Class::Malformed(Malformed::Ipv4));
    };
    let transport = network + header.slice().len();
    let end = network + usize::from(header.total_len());
    if end < transport || end > len {
        return headers.is(Class::Malformed(Malformed::Ipv4));
    }
    headers.key.source = widened(header.source());
    headers.key.destination = widened(header.destination());
    headers.key.family = 4;
    headers.end = end as u32;
    let readable = &run[..end.min(run.len())];
    let protocol = header.protocol();
    if header.is_fragmenting_payload() {
        let offset = header.fragments_offset().byte_offset();
        return fragment(headers, protocol, transport, offset, header.more_fragments());
    }
    match protocol {
        ip_number::IGMP => headers.is(Class::Pass(PassReason::GroupMembership)),
        ip_number::AUTH => authenticated(headers, readable, transport),
        _ => upper(headers, readable, protocol, transport),
    }
}

/// An IPv4 authentication header at `at`, and what it authenticates.
#[cold]
fn authenticated(headers: &mut Headers, readable: &[u8], at: usize) {
    match IpAuthHeaderSlice::from_slice(&readable[at..]) {
        Ok(auth) => upper(headers, readable, auth.next_header(), at + auth.slice().len()),
        Err(_) => headers.is(Class::Malformed(Malformed::Ipv4)),
    }
}

/// An IPv4 address as the key holds it. Written as one number: sixteen single bytes would have to
/// be gathered again when the key is hashed.
#[inline]
fn widened(address: [u8; 4]) -> [u8; 16] {
    u128::from(u32::from_le_bytes(address)).to_le_bytes()
}

#[inline]
fn ipv6(headers: &mut Headers, run: &[u8], len: usize, network: usize) {
    let Ok(header) = Ipv6HeaderSlice::from_slice(&run[network..]) else {
        return headers.is(Class::Malformed(Malformed::Ipv6));
    };
    let transport = network + Ipv6Header::LEN;
    let end = transport + usize::from(header.payload_length());
    let protocol = header.next_header();
    if end > len || (end == transport && protocol != ip_number::IPV6_NO_NEXT_HEADER) {
        return headers.is(Class::Malformed(Malformed::Ipv6));
    }
    headers.key.source = header.source();
    headers.key.destination = header.destination();
    headers.key.family = 6;
    headers.end = end as u32;
    let readable = &run[..end.min(run.len())];
    if is_extension(protocol) {
        extensions(headers, readable, protocol, transport);
    } else {
        upper(headers, readable, protocol, transport);
    }
}

#[inline]
fn is_extension(protocol: IpNumber) -> bool {
    matches!(
        protocol,
        ip_number::IPV6_HEADER_HOP_BY_HOP
            | ip_number::IPV6_ROUTE_HEADER
            | ip_number::IPV6_FRAGMENTATION_HEADER
            | ip_number::AUTH
            | ip_number::IPV6_DESTINATION_OPTIONS
    )
}

/// Walks the extension headers, of which the first starts at `at` and is a `protocol` header.
fn extensions(headers: &mut Headers, readable: &[u8], mut protocol: IpNumber, mut at: usize) {
    const CUT: Class = Class::Malformed(Malformed::Ipv6);
    for _ in 0..MAX_EXTENSIONS {
        let rest = &readable[at..];
        let (next, length) = match protocol {
            ip_number::IPV6_FRAGMENTATION_HEADER => {
                let Ok(header) = Ipv6FragmentHeaderSlice::from_slice(rest) else {
                    return headers.is(CUT);
                };
                let (next, length) = (header.next_header(), header.slice().len());
                if header.is_fragmenting_payload() {
                    let offset = header.fragment_offset().byte_offset();
                    return fragment(headers, next, at + length, offset, header.more_fragments());
                }
                (next, length)
            }
            ip_number::AUTH => {
                let Ok(header) = IpAuthHeaderSlice::from_slice(rest) else {
                    return headers.is(CUT);
                };
                (header.next_header(), header.slice().len())
            }
            _ if is_extension(protocol) => {
                let Ok(header) = Ipv6RawExtHeaderSlice::from_slice(rest) else {
                    return headers.is(CUT);
                };
                (header.next_header(), header.slice().len())
            }
            _ => break,
        };
        protocol = next;
        at += length;
    }
    upper(headers, readable, protocol, at);
}

/// The destination in an IPv6 pseudo header: with a routing header that has segments left, the
/// last address of the route and not the one in the IP header (RFC 8200 section 8.1).
///
/// Knows the types that are in use: 2 (RFC 6275) and 4 (segment routing, RFC 8754), which both
/// hold that address eight bytes in.
pub(super) fn final_destination(run: &[u8], headers: &Headers) -> [u8; 16] {
    let network = usize::from(headers.network);
    let mut at = network + Ipv6Header::LEN;
    let mut protocol = run.get(network + 6).copied();
    while let (Some(number), Some(rest)) = (protocol, run.get(at..headers.transport.into())) {
        let [next, length, routing_type, segments_left, _, _, _, _, address @ ..] = rest else {
            break;
        };
        let is_route = IpNumber(number) == ip_number::IPV6_ROUTE_HEADER;
        if is_route && *segments_left > 0 && matches!(routing_type, 2 | 4) {
            return address.first_chunk().copied().unwrap_or(headers.key.destination);
        }
        at += match IpNumber(number) {
            ip_number::IPV6_FRAGMENTATION_HEADER => 8,
            ip_number::AUTH => 4 * (usize::from(*length) + 2),
            _ => 8 * (usize::from(*length) + 1),
        };
        protocol = Some(*next);
    }
    headers.key.destination
}

/// One fragment, at `offset` bytes into its datagram. Malformed when it cannot be part of one: cut
/// off a multiple of eight bytes although more follow, or reaching beyond the largest datagram.
fn fragment(headers: &mut Headers, protocol: IpNumber, transport: usize, offset: u16, more: bool) {
    let family = headers.key.family;
    let length = headers.end - transport as u32;
    if (more && !length.is_multiple_of(8)) || u32::from(offset) + length > MAX_DATAGRAM {
        let layer = if family == 4 { Malformed::Ipv4 } else { Malformed::Ipv6 };
        return headers.is(Class::Malformed(layer));
    }
    headers.key.protocol = protocol.0;
    headers.key.fragment = 1;
    headers.fragment = u32::from(offset) << 1 | u32::from(more);
    headers.transport = transport as u16;
    headers.content = headers.transport;
    if offset == 0
        && let Some(at) = checksum_offset(protocol.0, family)
        && u32::from(at) + 2 <= length
    {
        headers.hole = headers.transport + at;
    }
    headers.is(Class::Datagram);
}

/// The upper-layer header at `transport`. `readable` ends where the IP payload does, or with the
/// frame's first run.
#[inline]
fn upper(headers: &mut Headers, readable: &[u8], protocol: IpNumber, transport: usize) {
    let segment = &readable[transport..];
    let start = transport as u16;
    headers.key.protocol = protocol.0;
    headers.transport = start;
    headers.content = start;
    match (protocol, headers.key.family) {
        (ip_number::TCP, _) => {
            let Ok(tcp) = TcpHeaderSlice::from_slice(segment) else {
                return headers.is(Class::Malformed(Malformed::Tcp));
            };
            headers.key.source_port = tcp.source_port();
            headers.key.destination_port = tcp.destination_port();
            headers.content = start + tcp.slice().len() as u16;
            headers.is(Class::Tcp(TcpFields {
                sequence: tcp.sequence_number(),
                acknowledgement: tcp.acknowledgment_number(),
                flags: tcp.slice()[TCP_FLAGS],
            }));
        }
        (ip_number::UDP, _) => {
            let Ok(udp) = UdpHeaderSlice::from_slice(segment) else {
                return headers.is(Class::Malformed(Malformed::Udp));
            };
            let length = usize::from(udp.length());
            if length < UdpHeader::LEN || transport + length > headers.end as usize {
                return headers.is(Class::Malformed(Malformed::Udp));
            }
            headers.key.source_port = udp.source_port();
            headers.key.destination_port = udp.destination_port();
            headers.content = start + 4;
            headers.hole = start + 6;
            headers.is(Class::Datagram);
        }
        (ip_number::ICMP, 4) | (ip_number::IPV6_ICMP, 6) => {
            if segment.len() < Icmpv6Header::MIN_LEN {
                return headers.is(Class::Malformed(Malformed::Icmp));
            }
            headers.hole = start + 2;
            let is_v6 = protocol == ip_number::IPV6_ICMP;
            headers.is(if is_v6 { icmpv6(segment[0]) } else { Class::Datagram });
        }
        _ => headers.is(Class::Datagram),
    }
}

/// ICMPv6 carries the guest's output and the link's housekeeping, which passes.
#[inline]
fn icmpv6(message: u8) -> Class {
    if NEIGHBOUR_DISCOVERY.contains(&message) {
        Class::Pass(PassReason::NeighbourDiscovery)
    } else if MLD.contains(&message) {
        Class::Pass(PassReason::GroupMembership)
    } else {
        Class::Datagram
    }
}

#[cfg(test)]
mod tests;
