//! Identical streams of both guests: any number of flows, every frame different.

use std::net::{IpAddr, Ipv4Addr};

use colo_tests::chardev::{Framing, Message};
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::segment::Segment;
use serde::Serialize;

/// Ethernet and IPv4 headers.
const TRANSPORT: usize = 14 + 20;
/// Bytes of the serial number that starts every payload.
const SERIAL: usize = 8;

/// Which frames.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Load {
    /// For people.
    pub(crate) name: &'static str,
    /// TCP, or else UDP.
    pub(crate) tcp: bool,
    /// Bytes of payload per frame.
    pub(crate) payload: usize,
    /// Flows that take turns.
    pub(crate) flows: u32,
}

/// Payload of a UDP datagram in a frame of 64 bytes.
const UDP_64: usize = 64 - TRANSPORT - 8;
/// What a 1500-byte packet carries beside headers and timestamps.
const TCP_FULL: usize = 1448;

/// What is measured.
pub(crate) const LOADS: [Load; 4] = [
    Load { name: "UDP 64 B, 1 flow", tcp: false, payload: UDP_64, flows: 1 },
    Load { name: "UDP 64 B, 1,000 flows", tcp: false, payload: UDP_64, flows: 1000 },
    Load { name: "TCP 1448 B, 1 flow", tcp: true, payload: TCP_FULL, flows: 1 },
    Load { name: "TCP 1448 B, 1,000 flows", tcp: true, payload: TCP_FULL, flows: 1000 },
];

/// Makes the frames of a load, any of them at any time.
///
/// Frame `n` is frame `n / flows` of flow `n % flows`. A template per flow is patched with the
/// serial number, the sequence number and the checksum, so that making one costs a copy.
pub(crate) struct Traffic {
    load: Load,
    /// On the wire, length included; the serial and the sequence number are zero.
    templates: Vec<Template>,
    serial_at: usize,
}

struct Template {
    wire: Vec<u8>,
    /// One's complement sum of all that the checksum covers.
    sum: u32,
}

impl Traffic {
    pub(crate) fn new(load: Load) -> Self {
        let header = if load.tcp { 20 } else { 8 };
        let templates = (0..load.flows).map(|flow| template(load, flow)).collect();
        Self { load, templates, serial_at: 4 + TRANSPORT + header }
    }

    /// Bytes of one frame on the wire.
    pub(crate) fn wire_length(&self) -> usize {
        self.templates[0].wire.len()
    }

    /// Appends frame `serial` as it stands on the wire.
    pub(crate) fn append(&self, serial: u64, wire: &mut Vec<u8>) {
        let flows = u64::from(self.load.flows);
        let template = &self.templates[(serial % flows) as usize];
        let start = wire.len();
        wire.extend_from_slice(&template.wire);
        let frame = &mut wire[start..];
        let number = serial.to_be_bytes();
        frame[self.serial_at..][..SERIAL].copy_from_slice(&number);
        let mut sum = template.sum + words(&number);
        let checksum_at = if self.load.tcp {
            let sequence = ((serial / flows) as u32).wrapping_mul(self.load.payload as u32);
            frame[4 + TRANSPORT + 4..][..4].copy_from_slice(&sequence.to_be_bytes());
            sum += words(&sequence.to_be_bytes());
            4 + TRANSPORT + 16
        } else {
            4 + TRANSPORT + 6
        };
        let folded = !fold(sum);
        // Zero would mean that a datagram has none (RFC 768).
        let folded = if folded == 0 { 0xffff } else { folded };
        frame[checksum_at..][..2].copy_from_slice(&folded.to_be_bytes());
    }

    /// The serial number in a frame, without its length on the wire.
    pub(crate) fn serial(&self, frame: &[u8]) -> Option<u64> {
        let bytes = frame.get(self.serial_at - 4..)?.get(..SERIAL)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }

    /// Flow and position in the flow of frame `serial`.
    pub(crate) fn place(&self, serial: u64) -> (usize, u64) {
        let flows = u64::from(self.load.flows);
        ((serial % flows) as usize, serial / flows)
    }
}

fn template(load: Load, flow: u32) -> Template {
    let [_, _, high, low] = flow.to_be_bytes();
    let source = IpAddr::from(Ipv4Addr::new(10, 1, high, low));
    let packet = Packet::between(source, Ipv4Addr::new(10, 2, 0, 1).into());
    let mut payload = bytes(u64::from(flow), load.payload);
    payload[..SERIAL].fill(0);
    let mut frame = if load.tcp {
        Segment::new(80, 40_000).acknowledgement(1).payload(&payload).frame(&packet)
    } else {
        packet.udp(4000, 5000, &payload)
    };
    let checksum_at = TRANSPORT + if load.tcp { 16 } else { 6 };
    let whole = u16::from_be_bytes([frame[checksum_at], frame[checksum_at + 1]]);
    frame[checksum_at..][..2].fill(0);
    let mut wire = Vec::new();
    Framing::Plain.encode(&Message::plain(&frame), &mut wire);
    Template { wire, sum: u32::from(!whole) }
}

/// The sum of 16-bit words.
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
