//! The frames of a soak: many flows of every kind at once, which come and go, and now and then a pair
//! that differs.

use etherparse::PacketBuilder;

use crate::guests::{Pair, Script};
use crate::sink::SAMPLED;

/// Where every frame's number stands: the first bytes of an IPv6 TCP payload, and within all others.
pub(crate) const NUMBER_AT: usize = 14 + 40 + 20;

const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// RFC 5737 and RFC 3849: for documentation.
const GUEST_V4: [u8; 4] = [192, 0, 2, 1];
const CLIENT_V4: [u8; 4] = [192, 0, 2, 2];
const GUEST_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const CLIENT_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Flows differ in their ports; both count from here, the client's first.
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 60_000;

/// The FIN bit, in TCP's fourteenth byte.
const FIN: u8 = 1;

/// One kind of flow.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// 4 or 6.
    version: u8,
    is_tcp: bool,
    /// Bytes of a frame with payload.
    size: usize,
}

/// Taken in turn by new flows: small and large, datagrams and streams, both families.
const KINDS: [Kind; 4] = [
    Kind { version: 4, is_tcp: false, size: 96 },
    Kind { version: 4, is_tcp: true, size: 1514 },
    Kind { version: 6, is_tcp: false, size: 512 },
    Kind { version: 6, is_tcp: true, size: 220 },
];

impl Kind {
    fn transport_at(self) -> usize {
        14 + if self.version == 4 { 20 } else { 40 }
    }

    fn payload_at(self) -> usize {
        self.transport_at() + if self.is_tcp { 20 } else { 8 }
    }

    fn checksum_at(self) -> usize {
        self.transport_at() + if self.is_tcp { 16 } else { 6 }
    }

    /// A frame in which everything that changes is zero.
    fn frame(self, payload: usize, is_opening: bool) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(GUEST_MAC, CLIENT_MAC);
        let network = if self.version == 4 {
            link.ipv4(GUEST_V4, CLIENT_V4, 64)
        } else {
            link.ipv6(GUEST_V6, CLIENT_V6, 64)
        };
        let mut payload: Vec<u8> = (0..payload).map(|at| at as u8).collect();
        let number_at = NUMBER_AT - self.payload_at();
        if let Some(number) = payload.get_mut(number_at..number_at + 8) {
            number.fill(0);
        }
        let mut frame = Vec::new();
        let written = if self.is_tcp {
            let segment = network.tcp(0, 0, 0, 0xffff).ack(1);
            let segment = if is_opening { segment.syn() } else { segment.psh() };
            segment.write(&mut frame, &payload)
        } else {
            network.udp(0, 0).write(&mut frame, &payload)
        };
        written.expect("a vector takes any frame");
        frame
    }
}

/// A frame whose changing fields are filled in again and again.
struct Template {
    frame: Vec<u8>,
    kind: Kind,
    /// The one's complement sum of everything that does not change.
    constant: u32,
}

impl Template {
    fn new(kind: Kind, payload: usize, is_opening: bool) -> Self {
        let frame = kind.frame(payload, is_opening);
        let at = kind.checksum_at();
        let constant = u32::from(!u16::from_be_bytes([frame[at], frame[at + 1]]));
        Self { frame, kind, constant }
    }

    fn payload(&self) -> usize {
        self.frame.len() - self.kind.payload_at()
    }

    /// Fills in the fields; `number` only where there is payload.
    fn fill(&mut self, ports: [u16; 2], sequence: u32, ends: bool, number: Option<u64>) {
        let (at, mut sum) = (self.kind.transport_at(), self.constant);
        sum += self.put(at, &ports[0].to_be_bytes());
        sum += self.put(at + 2, &ports[1].to_be_bytes());
        if self.kind.is_tcp {
            sum += self.put(at + 4, &sequence.to_be_bytes());
            let fin = if ends { FIN } else { 0 };
            self.frame[at + 13] = self.frame[at + 13] & !FIN | fin;
            sum += u32::from(fin);
        }
        if let Some(number) = number {
            sum += self.put(NUMBER_AT, &number.to_le_bytes());
        }
        // RFC 1071; twice, because the first may carry.
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let checksum = match !(sum as u16) {
            // RFC 768: zero says that there is none.
            0 if !self.kind.is_tcp => 0xffff,
            checksum => checksum,
        };
        self.put(self.kind.checksum_at(), &checksum.to_be_bytes());
    }

    /// Puts bytes at an even place; returns what they add to a checksum.
    fn put(&mut self, at: usize, bytes: &[u8]) -> u32 {
        self.frame[at..at + bytes.len()].copy_from_slice(bytes);
        bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
    }
}

/// A flow that is under way.
#[derive(Debug, Clone, Copy)]
struct Flow {
    /// Counts all flows of the run.
    id: u32,
    kind: usize,
    /// Frames said so far.
    said: u32,
    sequence: u32,
}

impl Flow {
    fn new(id: u32) -> Self {
        // Spread over the whole space, so that wraps are among them.
        Self {
            id,
            kind: id as usize % KINDS.len(),
            said: 0,
            sequence: id.wrapping_mul(0x9e37_79b9),
        }
    }

    /// The guest's port and the client's.
    fn ports(self) -> [u16; 2] {
        let number = self.id / KINDS.len() as u32;
        [number / PORTS % PORTS, number % PORTS].map(|port| (FIRST_PORT + port) as u16)
    }
}

/// A pair that was made to differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planted {
    /// 4 or 6.
    pub(crate) version: u8,
    pub(crate) is_tcp: bool,
    /// The guest's and the client's.
    pub(crate) ports: [u16; 2],
}

/// Flows that come and go.
pub(crate) struct Mixture {
    /// Of each kind the frame with payload, and the one that opens a flow where there is one.
    templates: [(Template, Option<Template>); KINDS.len()],
    /// The secondary's frame, where it differs.
    differing: Vec<u8>,
    flows: Vec<Flow>,
    turn: usize,
    next_flow: u32,
    life: u32,
    number: u64,
    /// The next frame with payload is to differ.
    is_parting: bool,
    planted: Option<Planted>,
    /// The flow whose guests have parted, until they are equal again.
    parted: Option<u32>,
    withheld: u64,
    sampled: Vec<u64>,
}

impl Mixture {
    /// `flows` at a time, each of which ends after `life` frames.
    pub(crate) fn new(flows: u16, life: u32) -> Self {
        let templates = KINDS.map(|kind| {
            let opening = kind.is_tcp.then(|| Template::new(kind, 0, true));
            (Template::new(kind, kind.size - kind.payload_at(), false), opening)
        });
        // As if they had begun one after the other.
        let flows: Vec<Flow> = (0..flows)
            .map(|id| Flow { said: u32::from(id) % life, ..Flow::new(id.into()) })
            .collect();
        Self {
            templates,
            differing: Vec::new(),
            turn: 0,
            next_flow: flows.len() as u32,
            flows,
            life,
            number: 0,
            is_parting: false,
            planted: None,
            parted: None,
            withheld: 0,
            sampled: Vec::new(),
        }
    }

    /// Flows begun so far.
    pub(crate) fn begun(&self) -> u32 {
        self.next_flow
    }

    /// The secondary is to differ from the primary, once, soon.
    pub(crate) fn part(&mut self) {
        self.is_parting = true;
    }

    /// What differed, told once.
    pub(crate) fn take_planted(&mut self) -> Option<Planted> {
        self.planted.take()
    }

    /// Both guests are equal again.
    pub(crate) fn reconcile(&mut self) {
        self.parted = None;
        self.withheld = 0;
    }

    /// Pairs of the flow that has parted: they do not arrive before the guests are equal again.
    pub(crate) fn withheld(&self) -> u64 {
        self.withheld
    }

    /// The numbers of the pairs since the last call whose arrival is noted and that nothing keeps
    /// back.
    pub(crate) fn take_sampled(&mut self) -> impl Iterator<Item = u64> {
        self.sampled.drain(..)
    }
}

impl Script for Mixture {
    fn next(&mut self) -> Pair<'_> {
        self.turn = (self.turn + 1) % self.flows.len();
        let flow = &mut self.flows[self.turn];
        if flow.said == self.life {
            *flow = Flow::new(self.next_flow);
            self.next_flow += 1;
        }
        let (data, opening) = &mut self.templates[flow.kind];
        let (template, is_opening) = match opening {
            Some(opening) if flow.said == 0 => (opening, true),
            _ => (data, false),
        };
        flow.said += 1;
        let ends = flow.said == self.life;
        // Every pair has a number; a frame without payload has no room for it.
        self.number += 1;
        let number = (!is_opening).then_some(self.number);
        let ports = flow.ports();
        template.fill(ports, flow.sequence, ends, number);
        let said = template.payload() as u32 + u32::from(is_opening || ends);
        flow.sequence = flow.sequence.wrapping_add(said);

        let mut secondary = &template.frame;
        if self.is_parting && !is_opening {
            self.is_parting = false;
            self.parted = Some(flow.id);
            let Kind { version, is_tcp, .. } = template.kind;
            self.planted = Some(Planted { version, is_tcp, ports });
            self.differing.clone_from(&template.frame);
            if let Some(byte) = self.differing.last_mut() {
                *byte = !*byte;
            }
            secondary = &self.differing;
        }
        if self.parted == Some(flow.id) {
            self.withheld += 1;
        } else {
            self.sampled.extend(number.filter(|number| number.is_multiple_of(SAMPLED)));
        }
        Pair { frames: [&template.frame, secondary], number: number.unwrap_or(0) }
    }
}
