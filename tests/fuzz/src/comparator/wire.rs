//! Frames of a few flows, cheap to make. The bytes of a stream follow from their place in it, so that
//! segments overlap with the same content unless they are damaged.

use etherparse::{EtherType, IpHeaders, IpNumber};
use etherparse::{PacketBuilder, PacketBuilderStep, ip_number};

const GUEST: [u8; 4] = [10, 0, 0, 1];
const CLIENT: [u8; 4] = [10, 0, 0, 9];
const GUEST_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const CLIENT_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// A TCP segment. What is near zero in it is near the start of the stream, which lies before the wrap
/// of the sequence numbers for half of the flows.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Bits 0 to 3 the client's port, bit 4 IPv6, bit 5 a tag, bit 6 whether the stream begins just
    /// before the wrap.
    pub(super) flow: u8,
    /// As on the wire.
    pub(super) flags: u8,
    /// In fours of bytes, from the start of the stream, as a signed number; and so the next.
    pub(super) sequence: u8,
    pub(super) acknowledgement: u8,
    /// Bits 0 to 5 bytes of payload; bits 6 and 7 are added to the sequence number, so that every
    /// byte can be a boundary.
    pub(super) length: u8,
    /// Zero, or what the last byte of the payload differs by.
    pub(super) damage: u8,
}

impl Segment {
    pub(super) const NONE: Self =
        Self { flow: 0, flags: 0, sequence: 0, acknowledgement: 0, length: 0, damage: 0 };
}

/// Where the stream of a flow starts.
fn start(flow: u8) -> u32 {
    if flow & 0x40 == 0 { 10_000 } else { 64_u32.wrapping_neg() }
}

fn fours(offset: u8) -> u32 {
    (i32::from(offset.cast_signed()) * 4).cast_unsigned()
}

pub(super) fn segment(it: &Segment) -> Vec<u8> {
    let place = fours(it.sequence).wrapping_add(u32::from(it.length >> 6));
    let mut payload: Vec<u8> = (0..u32::from(it.length & 0x3f))
        .map(|at| content(it.flow, place.wrapping_add(at)))
        .collect();
    damage(&mut payload, it.damage);
    let port = 4000 + u16::from(it.flow & 0x0f);
    let sequence = start(it.flow).wrapping_add(place);
    let mut frame = Vec::with_capacity(128);
    let step = network(it.flow).tcp(80, port, sequence, 1000);
    let step = if it.flags & 0x10 == 0 {
        step
    } else {
        step.ack(start(it.flow ^ 0x40).wrapping_add(fours(it.acknowledgement)))
    };
    let step = if it.flags & 0x01 == 0 { step } else { step.fin() };
    let step = if it.flags & 0x02 == 0 { step } else { step.syn() };
    let step = if it.flags & 0x04 == 0 { step } else { step.rst() };
    let step = if it.flags & 0x08 == 0 { step } else { step.psh() };
    step.write(&mut frame, &payload).expect("payload fits");
    // Bit 5: only the pseudo-header sum in the checksum field, as of a guest that offloads.
    if it.flags & 0x20 != 0 {
        offload(&mut frame, payload.len());
    }
    frame
}

/// Leaves to the device what a guest with checksum offload leaves to it. Only IPv4 without a tag.
fn offload(frame: &mut [u8], payload: usize) {
    let Some(ip) = frame.get(14..).filter(|_| frame[12..14] == EtherType::IPV4.0.to_be_bytes())
    else {
        return;
    };
    let length = (20 + payload) as u32;
    let words = ip[12..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum::<u32>() + u32::from(ip_number::TCP.0) + length;
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[50..52].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}

pub(super) fn datagram(flow: u8, number: u8, length: u8, difference: u8) -> Vec<u8> {
    let mut payload = vec![number % 4; usize::from(length % 32)];
    damage(&mut payload, difference);
    let mut frame = Vec::with_capacity(96);
    let step = network(flow);
    let written = match flow >> 6 {
        0 | 1 => step.udp(53, 4000 + u16::from(flow & 0x0f)).write(&mut frame, &payload),
        2 if flow & 0x10 == 0 => {
            step.icmpv4_echo_reply(7, number.into()).write(&mut frame, &payload)
        }
        2 => step.icmpv6_echo_reply(7, number.into()).write(&mut frame, &payload),
        _ => step.write(&mut frame, IpNumber(47 + (number & 1)), &payload),
    };
    written.expect("payload fits");
    frame
}

/// A fragment of a UDP datagram over IPv4.
pub(super) fn fragment(flow: u8, number: u8, length: u8, difference: u8) -> Vec<u8> {
    let mut payload = vec![number % 4; 8 * usize::from(length % 8)];
    damage(&mut payload, difference);
    let mut frame = Vec::with_capacity(96);
    let step = network(flow & !0x30);
    step.write(&mut frame, ip_number::UDP, &payload).expect("payload fits");
    let word = u16::from(number % 4) | if flow & 0x40 == 0 { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    frame
}

fn content(flow: u8, place: u32) -> u8 {
    (place as u8).wrapping_mul(31) ^ (place >> 8) as u8 ^ flow
}

fn damage(payload: &mut [u8], difference: u8) {
    // Most damages are none, or hardly two frames would be equal.
    if difference > 0xc0
        && let Some(last) = payload.last_mut()
    {
        *last ^= difference;
    }
}

fn network(flow: u8) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
    let headers = if flow & 0x10 == 0 {
        let header = etherparse::Ipv4Header::new(0, 64, ip_number::UDP, GUEST, CLIENT);
        IpHeaders::Ipv4(header.expect("an empty payload fits"), Default::default())
    } else {
        let header = etherparse::Ipv6Header {
            hop_limit: 64,
            source: GUEST_V6,
            destination: CLIENT_V6,
            ..Default::default()
        };
        IpHeaders::Ipv6(header, Default::default())
    };
    if flow & 0x20 == 0 {
        ethernet.ip(headers)
    } else {
        ethernet.single_vlan(7.try_into().expect("twelve bits")).ip(headers)
    }
}
