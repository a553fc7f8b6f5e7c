//! What a frame carries. The simulator knows it because it made the frame; the oracle judges by it and
//! never reads a header.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::time::Time;

/// Which of the two guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replica {
    /// The one whose output leaves.
    Primary,
    /// The one whose output is compared with it.
    Secondary,
}

impl Replica {
    /// Both, the primary first.
    pub const BOTH: [Self; 2] = [Self::Primary, Self::Secondary];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    /// 0 and 1.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What makes two frames belong to one flow, in the simulator's own words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// VLAN identifiers, outermost first.
    pub vlan: Vec<u16>,
    /// IPv6 instead of IPv4, which uses the first four bytes of the addresses.
    pub v6: bool,
    /// The guest.
    pub source: [u8; 16],
    /// The other end.
    pub destination: [u8; 16],
    /// IP protocol.
    pub protocol: u8,
    /// Of TCP and UDP that is not in fragments.
    pub ports: Option<(u16, u16)>,
    /// Fragments form flows of their own.
    pub fragment: bool,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for end in [&self.source, &self.destination] {
            if self.v6 {
                write!(f, "{} ", Ipv6Addr::from(*end))?;
            } else {
                write!(f, "{} ", Ipv4Addr::new(end[0], end[1], end[2], end[3]))?;
            }
        }
        write!(f, "protocol {}", self.protocol)?;
        if let Some((from, to)) = self.ports {
            write!(f, " ports {from} {to}")?;
        }
        if self.fragment {
            f.write_str(" fragments")?;
        }
        if !self.vlan.is_empty() {
            write!(f, " vlan {:?}", self.vlan)?;
        }
        Ok(())
    }
}

/// A TCP segment by places in its stream: byte 0 is the first after the SYN, and the end of a stream is
/// one place. Sequence numbers, which wrap, exist only in the frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// Which connection on these ports.
    pub incarnation: u32,
    /// First byte.
    pub start: i64,
    /// One past the last byte.
    pub end: i64,
    /// Everything of the other end's stream before this place has come.
    pub ack: Option<i64>,
    /// Begins the connection.
    pub syn: bool,
    /// The number of a SYN on the wire: the two guests choose their own.
    pub initial: u32,
    /// Ends the stream.
    pub fin: bool,
    /// Ends the connection.
    pub rst: bool,
    /// Bytes that the sender will take.
    pub window: i64,
    /// Bytes of it have been sent before.
    pub repeat: bool,
    /// Asks whether the window is open.
    pub probe: bool,
    /// Bytes that differ from what the guests agree on: place and difference.
    pub flips: Vec<(i64, u8)>,
    /// The network damaged it: its sender did not say `flips`.
    pub damaged: bool,
}

impl Segment {
    /// No bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Says only how far its sender has got.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.is_empty() && !self.syn && !self.fin && !self.rst
    }

    /// How the byte at `place` differs from what was agreed on; zero if it does not.
    #[must_use]
    pub fn flip_at(&self, place: i64) -> u8 {
        self.flips.iter().find(|flip| flip.0 == place).map_or(0, |flip| flip.1)
    }
}

/// A datagram, or a fragment of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Number in its guest's sequence.
    pub number: u32,
    /// Equal for datagrams that are the same output.
    pub identity: u64,
}

/// What kind of frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Part of a TCP connection.
    Segment(Segment),
    /// Compared as a whole.
    Datagram(Datagram),
    /// ARP, neighbour discovery and the like.
    Uncompared,
    /// Lengths that lie, headers that are cut.
    Malformed,
}

/// A frame as its maker knows it.
#[derive(Debug, Clone)]
pub struct Meaning {
    /// Whose it is.
    pub side: Replica,
    /// Index of its flow.
    pub flow: u32,
    /// What it says.
    pub content: Content,
    /// Of a fragment.
    pub place: Option<crate::packet::Place>,
    /// First compared byte in the frame.
    pub content_at: usize,
    /// One past the last.
    pub content_end: usize,
    /// The field was left to offload hardware.
    pub partial_checksum: bool,
    /// When the comparator was given it.
    pub offered: Time,
}

impl Meaning {
    /// The payload is taken out of a segment, and with it the end that it has.
    pub fn lose_payload(&mut self) {
        if let Content::Segment(segment) = &mut self.content {
            (segment.end, segment.fin) = (segment.start, false);
            segment.flips.clear();
        }
    }

    /// The first bytes are taken out of the payload of a segment.
    pub fn lose_first(&mut self, bytes: u32) {
        if let Content::Segment(segment) = &mut self.content {
            segment.start += i64::from(bytes);
            segment.flips.retain(|flip| flip.0 >= segment.start);
        }
    }

    /// The segment, if it is one.
    #[must_use]
    pub fn segment(&self) -> Option<&Segment> {
        match &self.content {
            Content::Segment(segment) => Some(segment),
            _ => None,
        }
    }
}
