//! Frames from meanings. Written from the RFCs, not with the product's parser in view: whatever the
//! design says is never compared is random in every frame.

use fastrand::Rng;

use crate::chance::{happens, one_of};
use crate::meaning::Address;

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's.
pub const UDP: u8 = 17;
/// ICMP's.
pub const ICMP: u8 = 1;
/// ICMPv6's.
pub const ICMPV6: u8 = 58;
/// A protocol that nobody looks into.
pub const GRE: u8 = 47;

/// A frame, and where its compared bytes are.
pub struct Built {
    /// The frame.
    pub bytes: Vec<u8>,
    /// First compared byte.
    pub content_at: usize,
    /// One past the last.
    pub content_end: usize,
    /// The checksum field holds the sum of the pseudo header only.
    pub partial_checksum: bool,
}

/// The fields of a TCP header that mean something.
pub struct Tcp {
    /// On the wire.
    pub sequence: u32,
    /// On the wire; None without the flag.
    pub acknowledgement: Option<u32>,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

/// Where a fragment lies in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// In bytes; a multiple of eight.
    pub offset: u16,
    /// Others follow.
    pub more: bool,
}

fn random(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

fn link(address: &Address, ether_type: u16, rng: &mut Rng) -> Vec<u8> {
    let mut frame = random(rng, 12);
    for &vlan in &address.vlan {
        frame.extend(one_of(rng, &[0x8100_u16, 0x88a8, 0x9100]).to_be_bytes());
        // Priority and drop eligibility may differ.
        frame.extend((vlan | rng.u16(..) & 0xf000).to_be_bytes());
    }
    frame.extend(ether_type.to_be_bytes());
    frame
}

/// Ethernet, tags and IP around a payload. Returns the frame and where the payload begins.
fn network(
    address: &Address,
    place: Option<Place>,
    payload: &[u8],
    rng: &mut Rng,
) -> (Vec<u8>, usize) {
    let mut frame = link(address, if address.v6 { 0x86dd } else { 0x0800 }, rng);
    if address.v6 {
        ipv6(&mut frame, address, place, payload, rng);
    } else {
        ipv4(&mut frame, address, place, payload, rng);
    }
    let at = frame.len();
    frame.extend(payload);
    (frame, at)
}

fn ipv4(
    frame: &mut Vec<u8>,
    address: &Address,
    place: Option<Place>,
    payload: &[u8],
    rng: &mut Rng,
) {
    let options = if happens(rng, 100) { 4 * rng.usize(1..=2) } else { 0 };
    let header = 20 + options;
    frame.extend([0x40 | (header / 4) as u8, rng.u8(..)]);
    frame.extend(((header + payload.len()) as u16).to_be_bytes());
    frame.extend(rng.u16(..).to_be_bytes());
    let fragment = place.map_or(if rng.bool() { 0x4000 } else { 0 }, |place| {
        (place.offset / 8) | (u16::from(place.more) << 13)
    });
    frame.extend(fragment.to_be_bytes());
    frame.extend([rng.u8(1..), address.protocol]);
    frame.extend(rng.u16(..).to_be_bytes());
    frame.extend(&address.source[..4]);
    frame.extend(&address.destination[..4]);
    frame.extend(random(rng, options));
}

fn ipv6(
    frame: &mut Vec<u8>,
    address: &Address,
    place: Option<Place>,
    payload: &[u8],
    rng: &mut Rng,
) {
    // Destination options before the fragment header: only one side may have them.
    let options = if happens(rng, 100) { 8 } else { 0 };
    let fragment = if place.is_some() { 8 } else { 0 };
    frame.extend((0x6000_0000 | rng.u32(..) & 0x0fff_ffff).to_be_bytes());
    frame.extend(((options + fragment + payload.len()) as u16).to_be_bytes());
    let inner = if place.is_some() { 44 } else { address.protocol };
    frame.extend([if options > 0 { 60 } else { inner }, rng.u8(1..)]);
    frame.extend(address.source);
    frame.extend(address.destination);
    if options > 0 {
        frame.extend([inner, 0]);
        frame.extend(random(rng, 6));
    }
    if let Some(place) = place {
        frame.extend([address.protocol, 0]);
        frame.extend((place.offset | u16::from(place.more)).to_be_bytes());
        frame.extend(rng.u32(..).to_be_bytes());
    }
}

fn finish(
    mut bytes: Vec<u8>,
    content_at: usize,
    content_end: usize,
    partial_checksum: bool,
    rng: &mut Rng,
) -> Built {
    // Padding is what the sender's memory held.
    let short = 60_usize.saturating_sub(bytes.len());
    let padding = short + if happens(rng, 50) { rng.usize(1..20) } else { 0 };
    bytes.extend(random(rng, padding));
    Built { bytes, content_at, content_end, partial_checksum }
}

/// Folded sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo_header(address: &Address, length: usize) -> u16 {
    let used = if address.v6 { 16 } else { 4 };
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    let mut sum = words(&address.source[..used])
        + words(&address.destination[..used])
        + u64::from(address.protocol)
        + length as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum field: partial now and then, otherwise a number that is not the pseudo header's sum.
fn checksum(address: &Address, length: usize, rng: &mut Rng) -> (u16, bool) {
    let partial = pseudo_header(address, length);
    if happens(rng, 20) {
        return (partial, true);
    }
    let other = rng.u16(1..);
    if other == partial { (partial ^ 0x8000 | 1, false) } else { (other, false) }
}

/// A TCP segment.
pub fn tcp(address: &Address, header: &Tcp, payload: &[u8], rng: &mut Rng) -> Built {
    let (from, to) = address.ports.expect("TCP has ports");
    let options = 4 * one_of(rng, &[0, 3, 3, 5]);
    let length = 20 + options + payload.len();
    let (checksum, partial) = checksum(address, length, rng);
    let mut segment = Vec::with_capacity(length);
    segment.extend(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment.extend(header.sequence.to_be_bytes());
    segment.extend(header.acknowledgement.unwrap_or_else(|| rng.u32(..)).to_be_bytes());
    let flags = u8::from(header.fin)
        | (u8::from(header.syn) << 1)
        | (u8::from(header.rst) << 2)
        | (u8::from(rng.bool()) << 3)
        | (u8::from(header.acknowledgement.is_some()) << 4);
    segment.extend([(((20 + options) / 4) << 4) as u8, flags]);
    segment.extend(rng.u16(..).to_be_bytes());
    segment.extend(checksum.to_be_bytes());
    segment.extend(rng.u16(..).to_be_bytes());
    segment.extend(random(rng, options));
    segment.extend(payload);
    let (frame, at) = network(address, None, &segment, rng);
    let (content_at, end) = (at + 20 + options, frame.len());
    finish(frame, content_at, end, partial, rng)
}

/// A whole UDP datagram. Its length is compared, its checksum is not.
pub fn udp(address: &Address, payload: &[u8], rng: &mut Rng) -> Built {
    let (from, to) = address.ports.expect("UDP has ports");
    let length = 8 + payload.len();
    let (checksum, partial) = checksum(address, length, rng);
    let mut datagram = Vec::with_capacity(length);
    datagram.extend(from.to_be_bytes());
    datagram.extend(to.to_be_bytes());
    datagram.extend((length as u16).to_be_bytes());
    datagram.extend(checksum.to_be_bytes());
    datagram.extend(payload);
    let (frame, at) = network(address, None, &datagram, rng);
    let end = frame.len();
    finish(frame, at + 4, end, partial, rng)
}

/// Anything else in IP, whole or a fragment: `payload` is all that IP carries. What lies at a checksum's
/// place in it is not compared.
pub fn other(address: &Address, place: Option<Place>, payload: &[u8], rng: &mut Rng) -> Built {
    let mut payload = payload.to_vec();
    if let Some(at) = hole(address, place, payload.len()) {
        payload[at..at + 2].copy_from_slice(&rng.u16(..).to_be_bytes());
    }
    let (frame, at) = network(address, place, &payload, rng);
    let end = frame.len();
    finish(frame, at, end, false, rng)
}

/// Where the two bytes of a checksum lie that is not compared.
#[must_use]
pub fn hole(address: &Address, place: Option<Place>, length: usize) -> Option<usize> {
    let at = match (address.protocol, address.v6) {
        (TCP, _) => 16,
        (UDP, _) => 6,
        (ICMP, false) | (ICMPV6, true) => 2,
        _ => return None,
    };
    let first = place.is_none_or(|place| place.offset == 0);
    (first && length >= at + 2).then_some(at)
}

/// A frame that is no output of the guest.
pub fn uncompared(address: &Address, rng: &mut Rng) -> Built {
    let bytes = match rng.u8(0..5) {
        0 => [link(address, 0x0806, rng), random(rng, 28)].concat(),
        1 => [link(address, 0x88cc, rng), random(rng, 46)].concat(),
        2 => {
            let igmp = Address { v6: false, protocol: 2, ..address.clone() };
            network(&igmp, None, &random(rng, 8), rng).0
        }
        kind => {
            let icmp = Address { v6: true, protocol: ICMPV6, ..address.clone() };
            let message =
                if kind == 3 { rng.u8(133..=137) } else { one_of(rng, &[130, 131, 132, 143]) };
            let body = [vec![message, 0, 0, 0], random(rng, 20)].concat();
            network(&icmp, None, &body, rng).0
        }
    };
    let end = bytes.len();
    finish(bytes, end, end, false, rng)
}

/// A frame that contradicts itself. It names the flow of `address`.
pub fn malformed(address: &Address, rng: &mut Rng) -> Built {
    let plain = Address { v6: false, protocol: UDP, ports: None, ..address.clone() };
    let (mut bytes, at) = network(&plain, None, &random(rng, 30), rng);
    let ip = 14 + 4 * plain.vlan.len();
    match rng.u8(0..5) {
        0 => bytes.truncate(ip + 10),
        1 => bytes[ip] = 0x44,
        2 => bytes[ip + 2] = 0xff,
        // A UDP length below its header's, and one beyond the packet.
        3 => bytes[at + 4..at + 6].copy_from_slice(&7_u16.to_be_bytes()),
        _ => bytes[at + 4..at + 6].copy_from_slice(&0xff00_u16.to_be_bytes()),
    }
    let end = bytes.len();
    Built { bytes, content_at: end, content_end: end, partial_checksum: false }
}
