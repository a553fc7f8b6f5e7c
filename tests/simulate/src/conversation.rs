//! Flows: who talks to whom about what.

use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;

use crate::chance::{Part, generator, happens, one_of};
use crate::endpoint::{self, Endpoint, Script, State, habits};
use crate::meaning::{Address, Replica, Segment};
use crate::packet::{self, Built, GRE, ICMP, ICMPV6, Place, TCP, Tcp, UDP};
use crate::scenario::{Gate, Scenario};
use crate::time::{MICROSECOND, MILLISECOND, Time};

/// A flow.
pub struct Conversation {
    /// What its frames have in common.
    pub address: Address,
    /// The secondary was told to say something else.
    pub differing: bool,
    /// When it begins.
    pub begins: Time,
    /// What it is.
    pub kind: Kind,
    /// The guests' generators.
    pub dice: [Rng; 2],
}

/// The two kinds.
pub enum Kind {
    /// A TCP connection after another.
    Stream(Box<Connections>),
    /// Datagrams by the clock.
    Datagrams(Datagrams),
}

/// TCP on one pair of ports.
pub struct Connections {
    /// The two guests.
    pub guests: [Endpoint; 2],
    /// The other end.
    pub client: Endpoint,
    /// The client's generator.
    pub dice: Rng,
    /// The guests open the connection.
    pub active: bool,
    /// The comparator sees it first in the middle.
    pub joined: bool,
    /// How often they connect.
    pub incarnations: u32,
    /// How often it was looked whether the next one can begin.
    pub attempts: u32,
    /// How long the client takes nothing, from when.
    pub shut: Option<(Time, Time)>,
    /// The flow's seed, for its numbers and bytes.
    seed: u64,
    /// Where the difference lies.
    pub plant: Option<Plant>,
}

/// How the secondary differs.
#[derive(Debug, Clone, Copy)]
pub enum Plant {
    /// This byte.
    Byte(i64, u8),
    /// Its stream is longer, or shorter, by so much.
    Length(i64),
}

/// Datagrams: both guests send the same ones, at about the same times.
pub struct Datagrams {
    /// How many.
    pub count: u32,
    /// Every so often.
    pub interval: Time,
    /// A guest is this late at most.
    pub jitter: Time,
    /// The next of each guest's is in the queue of events.
    pub due: [bool; 2],
    /// Number of each guest's next one.
    pub next: [u32; 2],
    /// Contents come again after so many.
    cycle: u32,
    longest: usize,
    fragments: bool,
    /// The one of the secondary's that differs, and how.
    pub plant: Option<(u32, Odd)>,
    /// Now and then a frame that is not compared, of a thousand.
    pub noise: u32,
    seed: u64,
}

/// How a datagram of the secondary's differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// A byte.
    Byte,
    /// One byte more.
    Longer,
    /// It is not sent.
    Missing,
    /// A fragment that lies elsewhere.
    Elsewhere,
}

impl Conversation {
    /// Flow `number` of a scenario. Four neighbours differ in one part of their address only.
    #[must_use]
    pub fn new(scenario: &Scenario, number: u32) -> Self {
        let group = u64::from(number / 4);
        let mut rng = generator(scenario.seed, Part::Flow, group);
        let stream = happens(&mut rng, scenario.streams);
        let mut address = Self::address(&mut rng, stream, number / 4);
        let rng = &mut generator(scenario.seed, Part::Flow, 1 << 32 | u64::from(number));
        Self::vary(&mut address, number % 4);
        let differing = happens(rng, scenario.differing);
        let begins = rng.u64(0..=Time::from(scenario.faulty) * MILLISECOND / 2);
        let kind = if stream {
            Kind::Stream(Box::new(Connections::new(scenario, number, differing, rng)))
        } else {
            Kind::Datagrams(Datagrams::new(scenario, &address, differing, rng))
        };
        let dice = [Part::Primary, Part::Secondary]
            .map(|part| generator(scenario.seed, part, u64::from(number)));
        Self { address, differing, begins, kind, dice }
    }

    fn address(rng: &mut Rng, stream: bool, group: u32) -> Address {
        let v6 = rng.bool();
        let mut source = [0; 16];
        let mut destination = [0; 16];
        let used = if v6 { 16 } else { 4 };
        rng.fill(&mut source[..used]);
        rng.fill(&mut destination[..used]);
        // Groups never share an address, whatever chance says.
        destination[..4].copy_from_slice(&(0x0a00_0000 | group).to_be_bytes());
        let protocol = if stream {
            TCP
        } else {
            one_of(rng, &[UDP, UDP, UDP, GRE, if v6 { ICMPV6 } else { ICMP }])
        };
        let fragment = !stream && rng.u8(0..4) == 0;
        let ports = (matches!(protocol, TCP | UDP) && !fragment)
            .then(|| (rng.u16(1..), rng.u16(1..60_000)));
        let tags = one_of(rng, &[0, 0, 0, 1, 2, 3]);
        let vlan = (0..tags).map(|_| rng.u16(1..4000)).collect();
        Address { vlan, v6, source, destination, protocol, ports, fragment }
    }

    /// What is different in the neighbours of a flow.
    fn vary(address: &mut Address, neighbour: u32) {
        match neighbour {
            0 => {}
            1 => match address.vlan.last_mut() {
                Some(tag) => *tag ^= 1,
                None => address.vlan.push(7),
            },
            2 => match &mut address.ports {
                Some((_, to)) => *to += 1,
                // The same protocol, whole instead of in fragments or the other way round.
                None if address.protocol == GRE => address.fragment = !address.fragment,
                None => address.source[3] ^= 1,
            },
            _ => address.source[if address.v6 { 15 } else { 3 }] ^= 2,
        }
    }
}

impl Connections {
    /// Whether the client ends the connection at a moment of its own, when one guest may have said more
    /// than the other.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.client.script.resets || self.client.script.aborts_at.is_some()
    }

    fn new(scenario: &Scenario, number: u32, differing: bool, rng: &mut Rng) -> Self {
        let unusual = happens(rng, scenario.unusual);
        let rounds = rng.u32(1..6);
        let most = i64::from(scenario.bytes / rounds).max(1);
        let (mut asked, mut said) = (0, 0);
        let mut server = Vec::new();
        let mut client = Vec::new();
        for round in 0..rounds {
            let request = rng.i64(1..=(most / 4).max(1));
            let response = rng.i64(0..=most);
            let greets = round == 0 && rng.bool();
            client.push((said, asked + request));
            server.push((if greets { 0 } else { asked + request }, said + response));
            asked += request;
            said += response;
        }
        let mut of_guest = Script { turns: server, closes: rng.bool(), ..Script::default() };
        let mut of_client =
            Script { turns: client, closes: !of_guest.closes || rng.bool(), ..Script::default() };
        if unusual {
            match rng.u8(0..5) {
                0 => of_guest.resets = true,
                1 => of_client.resets = true,
                2 => of_client.aborts_at = Some(rng.i64(0..=said)),
                _ => {}
            }
        }
        let active = rng.u8(0..4) == 0;
        let joined = rng.u8(0..6) == 0;
        let plant = differing.then(|| match rng.u8(0..4) {
            0 => Plant::Length(one_of(rng, &[-1, 1, -20, 30, 2_000])),
            _ => Plant::Byte(rng.i64(0..=of_guest.total().max(1) - 1), rng.u8(1..)),
        });
        let state = if active { State::Closed } else { State::Listening };
        let longest = endpoint::longest(rng);
        // One that cuts finer what it says again waits for ever for the rest of a segment of the primary's,
        // unless the slower replica is heard.
        let may_cut = scenario.gate == Gate::Slower && !scenario.is_recoverable();
        let finer = may_cut && (scenario.seed ^ u64::from(number)).is_multiple_of(4);
        let guests = Replica::BOTH.map(|side| {
            let mut habits = habits(side, longest, rng);
            if finer && side == Replica::Secondary {
                habits.again = (longest / 3).max(1);
            }
            Endpoint::new(state, of_guest.clone(), habits)
        });
        let longest = endpoint::longest(rng);
        let own = habits(Replica::Primary, longest, rng);
        let shut = unusual.then(|| {
            let from = rng.u64(0..400) * MILLISECOND;
            (from, from + rng.u64(1..300) * MILLISECOND)
        });
        let waiting = if active { State::Listening } else { State::Closed };
        let mut all = Self {
            guests,
            client: Endpoint::new(waiting, of_client, own),
            dice: generator(scenario.seed, Part::Client, u64::from(number)),
            active,
            joined,
            incarnations: if unusual && !joined { rng.u32(1..4) } else { 1 },
            attempts: 0,
            shut,
            seed: rng.u64(..),
            plant,
        };
        all.plant(plant);
        if joined {
            all.client.join(0, 0);
            all.guests.iter_mut().for_each(|guest| guest.join(0, 0));
        }
        all
    }

    fn plant(&mut self, plant: Option<Plant>) {
        let secondary = &mut self.guests[Replica::Secondary.index()];
        match plant {
            None => {}
            Some(Plant::Byte(place, difference)) => secondary.flips = vec![(place, difference)],
            Some(Plant::Length(by)) => {
                if let Some(last) = secondary.script.turns.last_mut() {
                    last.1 = (last.1 + by).max(0);
                }
                let total = secondary.script.total();
                secondary.script.turns.iter_mut().for_each(|turn| turn.1 = turn.1.min(total));
            }
        }
    }

    /// Both say the same from here on: what the primary does, which after its loss may be what the
    /// secondary did.
    pub fn make_equal(&mut self) {
        self.plant = None;
        let [primary, secondary] = &mut self.guests;
        secondary.flips.clone_from(&primary.flips);
        secondary.script.clone_from(&primary.script);
    }

    /// A checkpoint: the secondary is the primary now.
    pub fn copy_to_secondary(&mut self) {
        let [primary, secondary] = &mut self.guests;
        *secondary = primary.copied(secondary);
    }

    /// The primary is lost, and a copy of the survivor takes its place.
    pub fn copy_to_primary(&mut self) {
        let [primary, secondary] = &mut self.guests;
        *primary = secondary.copied(primary);
        // The survivor's numbers went on being rewritten.
        (primary.lineage, secondary.lineage) = (Replica::Primary, Replica::Primary);
    }

    fn number(&self, incarnation: u32, who: u64) -> u32 {
        let mut rng = Rng::with_seed(self.seed ^ u64::from(incarnation) << 8 ^ who << 40);
        // Half of them wrap within the stream.
        if rng.bool() { rng.u32(0..4_000).wrapping_neg() } else { rng.u32(..) }
    }

    fn byte(&self, incarnation: u32, place: i64) -> u8 {
        let mixed = (place as u64 ^ self.seed ^ u64::from(incarnation) << 32)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as u8
    }

    /// The frame of a guest's segment, which gets the number of its SYN.
    pub fn frame(
        &self,
        address: &Address,
        segment: &mut Segment,
        lineage: Replica,
        rng: &mut Rng,
    ) -> Built {
        let incarnation = segment.incarnation;
        let initial = self.number(incarnation, lineage.index() as u64);
        segment.initial = initial;
        let first = self.number(incarnation, Replica::Primary.index() as u64).wrapping_add(1);
        let sequence = if segment.syn { initial } else { first.wrapping_add(segment.start as u32) };
        let theirs = self.number(incarnation, 2).wrapping_add(1);
        let header = Tcp {
            sequence,
            acknowledgement: segment.ack.map(|ack| theirs.wrapping_add(ack as u32)),
            syn: segment.syn,
            fin: segment.fin,
            rst: segment.rst,
        };
        let payload: Vec<u8> = (segment.start..segment.end)
            .map(|place| self.byte(incarnation, place) ^ segment.flip_at(place))
            .collect();
        packet::tcp(address, &header, &payload, rng)
    }

    /// Whether numbers wrap within a segment, of the stream and of the acknowledgement.
    #[must_use]
    pub fn wraps(&self, segment: &Segment) -> (bool, bool) {
        let first = self.number(segment.incarnation, 0).wrapping_add(1);
        let start = first.wrapping_add(segment.start as u32);
        let theirs = self.number(segment.incarnation, 2).wrapping_add(1);
        let ack = segment.ack.unwrap_or(0);
        (
            start.wrapping_add((segment.end - segment.start) as u32) < start && !segment.is_empty(),
            ack > 0 && theirs.wrapping_add(ack as u32) < theirs,
        )
    }
}

impl Datagrams {
    fn new(scenario: &Scenario, address: &Address, differing: bool, rng: &mut Rng) -> Self {
        let count = rng.u32(1..=scenario.datagrams.max(1));
        let kinds: &[Odd] = match address.fragment {
            true => &[Odd::Byte, Odd::Elsewhere, Odd::Longer],
            false => &[Odd::Byte, Odd::Byte, Odd::Longer, Odd::Missing],
        };
        let plant = differing.then(|| (rng.u32(0..count), one_of(rng, kinds)));
        Self {
            count,
            interval: rng.u64(10..30_000) * MICROSECOND,
            jitter: rng.u64(0..1_000) * MICROSECOND,
            due: [false; 2],
            next: [0; 2],
            cycle: one_of(rng, &[u32::MAX, u32::MAX, 3, 1]),
            longest: one_of(rng, &[4, 60, 1_400]),
            fragments: address.fragment,
            plant,
            noise: one_of(rng, &[0, 0, 100]),
            seed: rng.u64(..),
        }
    }

    /// Datagram `number` as `side` sends it: its frame, where it lies, and what makes it the same output
    /// as another. None if it is not sent.
    pub fn frame(
        &self,
        address: &Address,
        side: Replica,
        number: u32,
        rng: &mut Rng,
    ) -> Option<(Built, Option<Place>, u64)> {
        let odd = match self.plant {
            Some((at, odd)) if at == number && side == Replica::Secondary => Some(odd),
            _ => None,
        };
        let mut content = Rng::with_seed(self.seed ^ u64::from(number % self.cycle) << 20);
        let mut length = content.usize(0..self.longest);
        if !matches!(address.protocol, UDP) {
            length = length.max(8);
        }
        let mut place = None;
        if self.fragments {
            let more = content.bool();
            length = length.max(1).next_multiple_of(8);
            let offset = 8 * content.u16(u16::from(!more)..100);
            place = Some(Place { offset, more });
        }
        let mut payload = vec![0; length];
        content.fill(&mut payload);
        if matches!(address.protocol, ICMPV6) {
            // An echo reply: others are the link's housekeeping.
            payload[0] = 129;
        }
        match odd {
            Some(Odd::Missing) => return None,
            Some(Odd::Byte) if length > 0 => {
                // Not where the checksum lies.
                let last = length - 1;
                payload[last] ^= 1 << content.u8(0..8);
            }
            Some(Odd::Longer) if self.fragments => payload.extend([1; 8]),
            Some(Odd::Longer | Odd::Byte) => payload.push(1),
            Some(Odd::Elsewhere) => {
                if let Some(place) = &mut place {
                    place.offset += 8;
                }
            }
            None => {}
        }
        let built = if address.ports.is_some() {
            packet::udp(address, &payload, rng)
        } else {
            packet::other(address, place, &payload, rng)
        };
        if let Some(at) = packet::hole(address, place, payload.len())
            && address.ports.is_none()
        {
            payload[at..at + 2].fill(0);
        }
        let mut hasher = DefaultHasher::new();
        (payload, place).hash(&mut hasher);
        Some((built, place, hasher.finish()))
    }
}
