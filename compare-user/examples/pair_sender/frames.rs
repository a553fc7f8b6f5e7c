//! The frames of a run: one template, in which a few fields change from frame to frame.

use std::io::Write as _;

use etherparse::PacketBuilder;

use crate::guests::{Pair, Script};

/// Client's and guest's addresses (RFC 5737).
const GUEST: [u8; 4] = [192, 0, 2, 1];
const CLIENT: [u8; 4] = [192, 0, 2, 2];
const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

/// First client port; a flow's number is added.
const FIRST_PORT: u16 = 20_000;

/// Where the destination port stands, after Ethernet and IPv4 without options.
const PORT_AT: usize = 36;
/// Where TCP's sequence number stands.
const SEQUENCE_AT: usize = 38;
/// Where the frame's own number stands: the first payload bytes of TCP, and within UDP's.
pub(crate) const TAG_AT: usize = 54;
/// A word that makes up for what the changing fields add to the checksum.
const BALANCE_AT: usize = 62;
/// Ethernet, IPv4 and TCP headers.
const TCP_HEADERS: usize = 54;
/// Ethernet, IPv4 and UDP headers.
const UDP_HEADERS: usize = 42;

/// What the frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// Datagrams.
    Udp,
    /// Segments of established connections.
    Tcp,
}

/// An endless sequence of frames, all different, with valid checksums.
pub(crate) struct Frames {
    template: Vec<u8>,
    protocol: Protocol,
    flows: u16,
    flow: u16,
    /// Segments sent on each flow so far.
    turn: u32,
    tag: u64,
}

impl Frames {
    pub(crate) fn new(protocol: Protocol, size: usize, flows: u16) -> Self {
        let link = PacketBuilder::ethernet2(GUEST_MAC, CLIENT_MAC).ipv4(GUEST, CLIENT, 64);
        let mut template = Vec::with_capacity(size);
        // The payload is the same in all but the tag: comparing it costs what any payload costs.
        let written = match protocol {
            Protocol::Udp => link.udp(80, 0).write(&mut template, &filler(size - UDP_HEADERS)),
            Protocol::Tcp => link
                .tcp(80, 0, 0, 0xffff)
                .ack(1)
                .psh()
                .write(&mut template, &filler(size - TCP_HEADERS)),
        };
        written.expect("a vector takes any frame");
        assert_eq!(template.len(), size);
        Self { template, protocol, flows, flow: 0, turn: 0, tag: 0 }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let _ = (&mut self.template[at..]).write(bytes);
    }
}

impl Script for Frames {
    /// The same frame of both guests.
    fn next(&mut self) -> Pair<'_> {
        self.tag += 1;
        let mut changed = [0; 8];
        let port = FIRST_PORT + self.flow;
        self.put(PORT_AT, &port.to_be_bytes());
        changed[0] = port;
        if self.protocol == Protocol::Tcp {
            let payload = (self.template.len() - TCP_HEADERS) as u32;
            let sequence = self.turn.wrapping_mul(payload).to_be_bytes();
            self.put(SEQUENCE_AT, &sequence);
            words(&sequence, &mut changed[1..3]);
        }
        let tag = self.tag.to_be_bytes();
        self.put(TAG_AT, &tag);
        words(&tag, &mut changed[3..7]);
        self.put(BALANCE_AT, &balance(&changed).to_be_bytes());
        self.flow += 1;
        if self.flow == self.flows {
            self.flow = 0;
            self.turn = self.turn.wrapping_add(1);
        }
        Pair { frames: [&self.template; 2], number: u64::from_ne_bytes(tag) }
    }
}

/// Payload in which every changing field is zero: TCP's tag and balance are its first ten bytes,
/// UDP's come after twelve.
fn filler(length: usize) -> Vec<u8> {
    (0..length).map(|at| if at < BALANCE_AT + 2 - UDP_HEADERS { 0 } else { at as u8 }).collect()
}

/// Reads bytes as 16-bit words.
fn words(bytes: &[u8], into: &mut [u16]) {
    for (word, pair) in into.iter_mut().zip(bytes.chunks_exact(2)) {
        *word = u16::from_be_bytes([pair[0], pair[1]]);
    }
}

/// The word that brings the one's complement sum of `changed` to zero (RFC 1071).
fn balance(changed: &[u16]) -> u16 {
    let sum: u32 = changed.iter().map(|&word| u32::from(word)).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
