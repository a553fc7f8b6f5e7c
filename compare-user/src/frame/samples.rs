//! Frames for tests, put together layer by layer, and a store that splits them.

use etherparse::{Ipv4Header, TcpHeader, TcpHeaderSlice, UdpHeader};

use super::store::FrameStore;

pub(crate) const SOURCE: [u8; 4] = [10, 0, 0, 1];
pub(crate) const DESTINATION: [u8; 4] = [10, 0, 0, 2];
pub(crate) const SOURCE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const DESTINATION6: [u8; 16] =
    [0x20, 1, 0x0d, 0xb8, 0xff, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const NO_NEXT_HEADER: u8 = 59;

/// An untagged Ethernet frame.
pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    tagged(&[], ether_type, payload)
}

/// An Ethernet frame with tags, outermost first, as EtherType and tag control.
pub(crate) fn tagged(tags: &[(u16, u16)], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (tag, control) in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(control.to_be_bytes());
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet.
pub(crate) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |_| {})
}

/// An IPv4 packet whose header `edit` changes before its checksum is computed.
pub(crate) fn ipv4_with(
    protocol: u8,
    payload: &[u8],
    edit: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let length = payload.len().try_into().expect("payload fits into a datagram");
    let mut header = Ipv4Header::new(length, 64, protocol.into(), SOURCE, DESTINATION)
        .expect("payload fits into a datagram");
    edit(&mut header);
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], payload].concat()
}

/// One fragment of an IPv4 datagram; `offset` in bytes.
pub(crate) fn ipv4_fragment(protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |header| {
        header.fragment_offset = (offset / 8).try_into().expect("13 bits");
        header.more_fragments = more;
    })
}

/// An IPv6 packet; `payload` starts with the extension headers, if any.
pub(crate) fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("payload fits into a datagram");
    let [high, low] = length.to_be_bytes();
    let start = [0x60, 0, 0, 0, high, low, next_header, 64];
    [&start[..], &SOURCE6, &DESTINATION6, payload].concat()
}

/// An IPv6 extension header of the general form, `8 * (more + 1)` bytes, then `rest`.
pub(crate) fn extension(next_header: u8, more: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 8 * (usize::from(more) + 1)];
    header[0] = next_header;
    header[1] = more;
    [&header[..], rest].concat()
}

/// An authentication header with a 12-byte integrity check value, then `rest`.
pub(crate) fn authentication(next_header: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = [0; 24];
    header[0] = next_header;
    header[1] = 4;
    [&header[..], rest].concat()
}

/// An IPv6 fragment header, then `rest`; `offset` in bytes.
pub(crate) fn fragment_header(next_header: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [&[next_header, 0, high, low, 1, 2, 3, 4], rest].concat()
}

/// A TCP segment from port 1000 to 2000, sequence 7, acknowledgement 9, PSH and ACK.
pub(crate) fn tcp(payload: &[u8]) -> Vec<u8> {
    tcp_with(payload, |_| {})
}

/// A TCP segment whose header `edit` changes.
pub(crate) fn tcp_with(payload: &[u8], edit: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut header = TcpHeader::new(1000, 2000, 7, 512);
    header.ack = true;
    header.psh = true;
    header.acknowledgment_number = 9;
    edit(&mut header);
    [&header.to_bytes()[..], payload].concat()
}

/// A TCP segment between the sample addresses, in one of three kinds of frame: IPv6, IPv4, and IPv4 with a
/// tag. Its checksum is etherparse's.
pub(crate) fn in_network(network: usize, mut segment: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    let header = TcpHeaderSlice::from_slice(&segment).expect("a header");
    let sum = match network {
        0 => header.calc_checksum_ipv6_raw(SOURCE6, DESTINATION6, payload),
        _ => header.calc_checksum_ipv4_raw(SOURCE, DESTINATION, payload),
    };
    let sum = sum.expect("it fits").to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    match network {
        0 => ethernet(IPV6, &ipv6(TCP, &segment)),
        1 => ethernet(IPV4, &ipv4(TCP, &segment)),
        _ => tagged(&[(0x8100, 5)], IPV4, &ipv4(TCP, &segment)),
    }
}

/// A UDP datagram from port 1000 to 2000.
pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("payload fits into a datagram");
    let header = UdpHeader { source_port: 1000, destination_port: 2000, length, checksum: 0x1234 };
    [&header.to_bytes()[..], payload].concat()
}

/// An ICMP or ICMPv6 message of the type given.
pub(crate) fn icmp(message: u8, payload: &[u8]) -> Vec<u8> {
    [&[message, 0, 0xab, 0xcd, 0, 1, 0, 2], payload].concat()
}

/// A store whose frames are lists of chunks.
pub(crate) struct Chunked;

/// Splits `frame` at the offsets given, which ascend.
pub(crate) fn split(frame: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for end in at.iter().copied().chain([frame.len()]) {
        chunks.push(frame[start..end].to_vec());
        start = end;
    }
    chunks
}

impl FrameStore for Chunked {
    type Frame = Vec<Vec<u8>>;

    fn len(&self, frame: &Self::Frame) -> usize {
        frame.iter().map(Vec::len).sum()
    }

    fn run<'a>(&'a self, frame: &'a Self::Frame, mut at: usize) -> &'a [u8] {
        for chunk in frame {
            if at < chunk.len() {
                return &chunk[at..];
            }
            at -= chunk.len();
        }
        &[]
    }
}
