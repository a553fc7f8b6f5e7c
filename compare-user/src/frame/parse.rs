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
use super::key::{FlowKey, NO_TAG};
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
        match link(store.run(frame, 0), store.len(frame)) {
            Ok(headers) => headers,
            Err(class) => Self::without_flow(class),
        }
    }

    /// Headers of a frame that is not compared.
    fn without_flow(class: Class) -> Self {
        Self {
            class,
            key: FlowKey::NONE,
            network: 0,
            transport: 0,
            content: 0,
            hole: 0,
            end: 0,
            fragment: 0,
        }
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
#[inline]
fn link(run: &[u8], len: usize) -> Result<Headers, Class> {
    let ethernet =
        Ethernet2HeaderSlice::from_slice(run).map_err(|_| malformed(Malformed::Ethernet))?;
    let mut ether_type = ethernet.ether_type();
    let mut network = Ethernet2Header::LEN;
    let mut vlan = [NO_TAG; 3];
    if is_tag(ether_type) {
        for slot in &mut vlan {
            let tag = SingleVlanHeaderSlice::from_slice(&run[network..])
                .map_err(|_| malformed(Malformed::Ethernet))?;
            *slot = tag.vlan_identifier().value();
            ether_type = tag.ether_type();
            network += SingleVlanHeader::LEN;
            if !is_tag(ether_type) {
                break;
            }
        }
    }
    match ether_type {
        EtherType::IPV4 => ipv4(run, len, network, vlan),
        EtherType::IPV6 => ipv6(run, len, network, vlan),
        EtherType::ARP => Err(Class::Pass(PassReason::Arp)),
        // Also a fourth tag, and the length field of an 802.3 frame.
        _ => Err(Class::Pass(PassReason::NotIp)),
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
fn malformed(layer: Malformed) -> Class {
    Class::Malformed(layer)
}

#[inline]
fn ipv4(run: &[u8], len: usize, network: usize, vlan: [u16; 3]) -> Result<Headers, Class> {
    let header =
        Ipv4HeaderSlice::from_slice(&run[network..]).map_err(|_| malformed(Malformed::Ipv4))?;
    let transport = network + header.slice().len();
    let end = network + usize::from(header.total_len());
    if end < transport || end > len {
        return Err(malformed(Malformed::Ipv4));
    }
    let [mut source, mut destination] = [[0; 16]; 2];
    source[..4].copy_from_slice(&header.source());
    destination[..4].copy_from_slice(&header.destination());
    let key = FlowKey { source, destination, vlan, family: 4, ..FlowKey::NONE };
    let readable = &run[..end.min(run.len())];
    let protocol = header.protocol();
    if header.is_fragmenting_payload() {
        let offset = header.fragments_offset().byte_offset();
        let more = header.more_fragments();
        return fragment(datagram(key, protocol, network, transport, end), offset, more)
            .ok_or(malformed(Malformed::Ipv4));
    }
    match protocol {
        ip_number::IGMP => Err(Class::Pass(PassReason::GroupMembership)),
        ip_number::AUTH => {
            let auth = IpAuthHeaderSlice::from_slice(&readable[transport..])
                .map_err(|_| malformed(Malformed::Ipv4))?;
            let inner = transport + auth.slice().len();
            upper(readable, datagram(key, auth.next_header(), network, inner, end))
        }
        _ => upper(readable, datagram(key, protocol, network, transport, end)),
    }
}

#[inline]
fn ipv6(run: &[u8], len: usize, network: usize, vlan: [u16; 3]) -> Result<Headers, Class> {
    let header =
        Ipv6HeaderSlice::from_slice(&run[network..]).map_err(|_| malformed(Malformed::Ipv6))?;
    let transport = network + Ipv6Header::LEN;
    let end = transport + usize::from(header.payload_length());
    let protocol = header.next_header();
    if end > len || (end == transport && protocol != ip_number::IPV6_NO_NEXT_HEADER) {
        return Err(malformed(Malformed::Ipv6));
    }
    let key = FlowKey {
        source: header.source(),
        destination: header.destination(),
        vlan,
        family: 6,
        ..FlowKey::NONE
    };
    let readable = &run[..end.min(run.len())];
    let headers = datagram(key, protocol, network, transport, end);
    if is_extension(protocol) { extensions(readable, headers) } else { upper(readable, headers) }
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

/// Walks the extension headers that start at `headers.transport`.
fn extensions(readable: &[u8], headers: Headers) -> Result<Headers, Class> {
    let cut = malformed(Malformed::Ipv6);
    let Headers { key, network, end, .. } = headers;
    let (network, end) = (usize::from(network), end as usize);
    let mut at = usize::from(headers.transport);
    let mut protocol = IpNumber(key.protocol);
    for _ in 0..MAX_EXTENSIONS {
        let rest = readable.get(at..).ok_or(cut)?;
        match protocol {
            ip_number::IPV6_FRAGMENTATION_HEADER => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| cut)?;
                protocol = header.next_header();
                at += header.slice().len();
                if header.is_fragmenting_payload() {
                    let offset = header.fragment_offset().byte_offset();
                    let whole = datagram(key, protocol, network, at, end);
                    return fragment(whole, offset, header.more_fragments()).ok_or(cut);
                }
            }
            ip_number::AUTH => {
                let header = IpAuthHeaderSlice::from_slice(rest).map_err(|_| cut)?;
                protocol = header.next_header();
                at += header.slice().len();
            }
            protocol_number if is_extension(protocol_number) => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| cut)?;
                protocol = header.next_header();
                at += header.slice().len();
            }
            _ => break,
        }
    }
    upper(readable, datagram(key, protocol, network, at, end))
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

/// A datagram whose whole IP payload is compared; the upper layer refines it.
#[inline]
fn datagram(
    key: FlowKey,
    protocol: IpNumber,
    network: usize,
    transport: usize,
    end: usize,
) -> Headers {
    Headers {
        class: Class::Datagram,
        key: FlowKey { protocol: protocol.0, ..key },
        network: network as u16,
        transport: transport as u16,
        content: transport as u16,
        hole: 0,
        end: end as u32,
        fragment: 0,
    }
}

/// One fragment, at `offset` bytes into its datagram. None when it cannot be part of one: cut
/// off a multiple of eight bytes although more follow, or reaching beyond the largest datagram.
#[inline]
fn fragment(mut headers: Headers, offset: u16, more: bool) -> Option<Headers> {
    let length = headers.end - u32::from(headers.transport);
    let reach = u32::from(offset) + length;
    if (more && !length.is_multiple_of(8)) || reach > MAX_DATAGRAM {
        return None;
    }
    headers.key.fragment = 1;
    headers.fragment = u32::from(offset) << 1 | u32::from(more);
    if offset == 0
        && let Some(at) = checksum_offset(headers.key.protocol, headers.key.family)
        && u32::from(at) + 2 <= length
    {
        headers.hole = headers.transport + at;
    }
    Some(headers)
}

/// The upper-layer header at `headers.transport`. `readable` ends where the IP payload does, or
/// with the frame's first run.
#[inline]
fn upper(readable: &[u8], mut headers: Headers) -> Result<Headers, Class> {
    let transport = headers.transport;
    let segment = &readable[usize::from(transport)..];
    match (IpNumber(headers.key.protocol), headers.key.family) {
        (ip_number::TCP, _) => {
            let tcp = TcpHeaderSlice::from_slice(segment).map_err(|_| malformed(Malformed::Tcp))?;
            headers.key.source_port = tcp.source_port();
            headers.key.destination_port = tcp.destination_port();
            headers.content = transport + tcp.slice().len() as u16;
            headers.class = Class::Tcp(TcpFields {
                sequence: tcp.sequence_number(),
                acknowledgement: tcp.acknowledgment_number(),
                flags: tcp.slice()[TCP_FLAGS],
            });
        }
        (ip_number::UDP, _) => {
            let udp = UdpHeaderSlice::from_slice(segment).map_err(|_| malformed(Malformed::Udp))?;
            let length = usize::from(udp.length());
            if length < UdpHeader::LEN || usize::from(transport) + length > headers.end as usize {
                return Err(malformed(Malformed::Udp));
            }
            headers.key.source_port = udp.source_port();
            headers.key.destination_port = udp.destination_port();
            headers.content = transport + 4;
            headers.hole = transport + 6;
        }
        (ip_number::ICMP, 4) | (ip_number::IPV6_ICMP, 6) => {
            if segment.len() < Icmpv6Header::MIN_LEN {
                return Err(malformed(Malformed::Icmp));
            }
            if headers.key.family == 6 {
                icmpv6_passes(segment[0])?;
            }
            headers.hole = transport + 2;
        }
        _ => {}
    }
    Ok(headers)
}

/// Stops at the ICMPv6 messages that are not the guest's output but the link's housekeeping.
#[inline]
fn icmpv6_passes(message: u8) -> Result<(), Class> {
    if NEIGHBOUR_DISCOVERY.contains(&message) {
        return Err(Class::Pass(PassReason::NeighbourDiscovery));
    }
    if MLD.contains(&message) {
        return Err(Class::Pass(PassReason::GroupMembership));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
