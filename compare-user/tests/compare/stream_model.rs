//! Pairs of guests that produce the same TCP streams, each with its own segmentation,
//! acknowledgements and retransmissions, over a network that reorders and duplicates.
//!
//! The oracle knows the streams from before they were cut into segments; it shares nothing with
//! the comparator but the frames.

use std::collections::HashMap;
use std::time::Duration;

use compare_user::compare::{Config, Reason, Release, Side};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::rig::Rig;
use crate::wire::{Bytes, Network, data, pattern, segment};

/// How one guest turns its stream into segments.
#[derive(Debug, Clone)]
struct Habits {
    /// Lengths of its segments, used in turn.
    lengths: Vec<usize>,
    /// After each segment: how far its acknowledgement moves, and whether it says so at once.
    acknowledges: Vec<(u32, bool)>,
    /// After each segment: an earlier range that it sends again.
    repeats: Vec<Option<(Index, Index)>>,
    fin_on_data: bool,
    initial: u32,
}

/// What the network does to one guest's segments.
#[derive(Debug, Clone)]
struct Path {
    /// How many places each frame may fall back.
    delays: Vec<usize>,
    duplicates: Vec<bool>,
}

#[derive(Debug, Clone, Copy)]
enum Plant {
    Nothing,
    /// The secondary's byte here differs.
    Byte(Index),
    /// The secondary's stream ends here.
    Cut(Index),
}

#[derive(Debug, Clone)]
struct Connection {
    network: Network,
    length: usize,
    /// Where the numbers of the stream, and of what the guests acknowledge, begin.
    sequence: u32,
    acknowledgement: u32,
    /// Begins with a handshake; else it is first seen in mid-stream.
    handshake: bool,
    ours: Habits,
    theirs: Habits,
    our_path: Path,
    their_path: Path,
    plant: Plant,
}

/// What the oracle knows of a frame.
#[derive(Debug, Clone, Copy)]
struct Meaning {
    flow: usize,
    start: usize,
    end: usize,
    /// Progress acknowledged.
    acknowledged: Option<u32>,
    syn: bool,
    fin: bool,
    /// Sent before, in whole or in part.
    repeat: bool,
}

/// Progress that both guests have acknowledged in the end.
const ALL_ACKNOWLEDGED: u32 = 1000;

impl Connection {
    fn port(flow: usize) -> u16 {
        4000 + flow as u16
    }

    /// Frames of one side in the order in which its path delivers them.
    fn frames(&self, flow: usize, side: Side) -> Vec<(Bytes, Meaning)> {
        let (habits, path) = match side {
            Side::Primary => (&self.ours, &self.our_path),
            Side::Secondary => (&self.theirs, &self.their_path),
        };
        let mut content = pattern(flow as u8, self.length);
        if side == Side::Secondary {
            match self.plant {
                Plant::Nothing => {}
                Plant::Byte(at) => content[at.index(self.length)] ^= 0x40,
                Plant::Cut(at) => content.truncate(at.index(self.length)),
            }
        }
        let mut sent = Vec::new();
        if self.handshake {
            let meaning = Meaning {
                flow,
                start: 0,
                end: 0,
                acknowledged: Some(0),
                syn: true,
                fin: false,
                repeat: false,
            };
            let initial = match side {
                Side::Primary => self.sequence.wrapping_sub(1),
                Side::Secondary => habits.initial,
            };
            let syn = segment(initial).syn().ack(self.acknowledgement);
            sent.push((syn.on(&self.network).port(Self::port(flow)).frame(), meaning));
        }
        let opening = sent.len();
        self.send_stream(flow, &content, habits, &mut sent);
        let mut stream = sent.split_off(opening);
        if self.handshake || side == Side::Secondary {
            stream = path.deliver(stream);
        }
        sent.extend(stream);
        sent
    }

    fn send_stream(
        &self,
        flow: usize,
        content: &[u8],
        habits: &Habits,
        sent: &mut Vec<(Bytes, Meaning)>,
    ) {
        let mut send = |start: usize, end: usize, acknowledged: u32, fin: bool, repeat: bool| {
            let number = self.acknowledgement.wrapping_add(acknowledged);
            let mut frame = data(self.sequence.wrapping_add(start as u32), &content[start..end])
                .ack(number)
                .on(&self.network)
                .port(Self::port(flow));
            if fin {
                frame = frame.fin();
            }
            let acknowledged = Some(acknowledged);
            sent.push((
                frame.frame(),
                Meaning { flow, start, end, acknowledged, syn: false, fin, repeat },
            ));
        };
        let (mut at, mut acknowledged) = (0, 0);
        let mut lengths = habits.lengths.iter().cycle();
        let mut acknowledges = habits.acknowledges.iter().cycle();
        let mut repeats = habits.repeats.iter().cycle();
        while at < content.len() {
            let length = *lengths.next().expect("never empty");
            let end = (at + length).min(content.len());
            let last = end == content.len();
            send(at, end, acknowledged, last && habits.fin_on_data, false);
            at = end;
            let (step, at_once) = *acknowledges.next().expect("never empty");
            acknowledged = (acknowledged + step).min(ALL_ACKNOWLEDGED);
            if at_once {
                send(at, at, acknowledged, false, false);
            }
            if let Some((from, to)) = repeats.next().expect("never empty") {
                let from = from.index(end);
                send(from, from + 1 + to.index(end - from), acknowledged, false, true);
            }
        }
        send(at, at, ALL_ACKNOWLEDGED, true, false);
    }
}

impl Path {
    /// Reorders and duplicates. Frame `n` is delivered as if it were number `n + delay`.
    fn deliver(&self, frames: Vec<(Bytes, Meaning)>) -> Vec<(Bytes, Meaning)> {
        let mut delays = self.delays.iter().cycle();
        let mut duplicates = self.duplicates.iter().cycle();
        let mut delivered: Vec<(usize, (Bytes, Meaning))> = Vec::new();
        for (number, frame) in frames.into_iter().enumerate() {
            if *duplicates.next().expect("never empty") {
                delivered.push((number + delays.next().expect("never empty"), frame.clone()));
            }
            delivered.push((number + delays.next().expect("never empty"), frame));
        }
        delivered.sort_by_key(|(place, _)| *place);
        delivered.into_iter().map(|(_, frame)| frame).collect()
    }
}

/// What the network has been told, and what the secondary has produced so far, of one flow.
struct Progress {
    produced: Vec<bool>,
    secondary_acknowledged: u32,
    secondary_syn: bool,
    /// All bytes before this have been released.
    released: usize,
}

/// Checks what is released as it is released.
struct Oracle<'a> {
    connections: &'a [Connection],
    meanings: HashMap<Bytes, Meaning>,
    flows: Vec<Progress>,
    /// Releases of the record that have been judged.
    judged: usize,
}

impl<'a> Oracle<'a> {
    fn new(connections: &'a [Connection]) -> Self {
        let flows = connections
            .iter()
            .map(|connection| Progress {
                produced: vec![false; connection.length],
                secondary_acknowledged: 0,
                secondary_syn: false,
                released: 0,
            })
            .collect();
        Self { connections, meanings: HashMap::new(), flows, judged: 0 }
    }

    /// A secondary frame is about to be offered.
    fn produced(&mut self, meaning: &Meaning) {
        let flow = &mut self.flows[meaning.flow];
        flow.produced[meaning.start..meaning.end].fill(true);
        flow.secondary_syn |= meaning.syn;
        flow.secondary_acknowledged =
            flow.secondary_acknowledged.max(meaning.acknowledged.unwrap_or(0));
    }

    fn judge(&mut self, rig: &Rig) {
        for (frame, why, _) in &rig.record.released[self.judged..] {
            let meaning = self.meanings[frame];
            let connection = &self.connections[meaning.flow];
            let flow = &mut self.flows[meaning.flow];
            assert_ne!(*why, Release::Superseded);
            let bare = meaning.start == meaning.end && !meaning.fin && !meaning.syn;
            if bare {
                continue;
            }
            let produced = &flow.produced[meaning.start..meaning.end];
            assert!(produced.iter().all(|seen| *seen), "released before the secondary made it");
            assert!(
                meaning.acknowledged.unwrap_or(0) <= flow.secondary_acknowledged,
                "acknowledges what the secondary has not"
            );
            assert!(flow.secondary_syn || !connection.handshake, "a byte before the handshake");
            // A path that reorders the primary's frames reorders acknowledgements too, and those
            // alone may hold an earlier segment longer than a later one. What is sent again may
            // leave before the segment that it repeats a part of.
            let in_order = connection.our_path.delays.iter().all(|delay| *delay == 0);
            if in_order && !meaning.repeat {
                assert!(meaning.start <= flow.released, "left before the bytes that precede it");
            }
            flow.released = flow.released.max(meaning.end);
            match connection.plant {
                Plant::Nothing => {}
                Plant::Byte(at) | Plant::Cut(at) => {
                    let limit = at.index(connection.length);
                    assert!(meaning.end <= limit, "released beyond the difference");
                    assert!(!meaning.fin || matches!(connection.plant, Plant::Cut(_)));
                }
            }
        }
        self.judged = rig.record.released.len();
    }
}

/// Offers every frame of every connection, interleaved by `picks`.
fn run(rig: &mut Rig, connections: &[Connection], picks: &[Index], batch: usize) {
    let mut oracle = Oracle::new(connections);
    let mut lines: Vec<(Side, std::collections::VecDeque<(Bytes, Meaning)>)> = Vec::new();
    for (flow, connection) in connections.iter().enumerate() {
        for side in [Side::Primary, Side::Secondary] {
            let frames = connection.frames(flow, side);
            oracle.meanings.extend(frames.iter().cloned());
            lines.push((side, frames.into()));
        }
    }
    let mut picks = picks.iter().cycle();
    while !lines.is_empty() {
        let pick = picks.next().expect("never empty").index(lines.len());
        let (side, line) = &mut lines[pick];
        let taken: Vec<_> = line.drain(..batch.min(line.len())).collect();
        if *side == Side::Secondary {
            taken.iter().for_each(|(_, meaning)| oracle.produced(meaning));
        }
        rig.offer_batch(*side, taken.into_iter().map(|(frame, _)| frame).collect());
        oracle.judge(rig);
        rig.wait(Duration::from_micros(50));
        if lines[pick].1.is_empty() {
            lines.remove(pick);
        }
    }
}

fn habits() -> impl Strategy<Value = Habits> {
    (
        prop::collection::vec(prop_oneof![1..20_usize, 1..700_usize], 1..6),
        prop::collection::vec((0..200_u32, any::<bool>()), 1..6),
        prop::collection::vec(prop::option::weighted(0.3, any::<(Index, Index)>()), 1..6),
        any::<bool>(),
        any::<u32>(),
    )
        .prop_map(|(lengths, acknowledges, repeats, fin_on_data, initial)| Habits {
            lengths,
            acknowledges,
            repeats,
            fin_on_data,
            initial,
        })
}

fn path() -> impl Strategy<Value = Path> {
    (
        prop_oneof![
            Just(vec![0]),
            prop::collection::vec(0..4_usize, 1..20),
            prop::collection::vec(0..100_usize, 1..50),
        ],
        prop::collection::vec(prop::bool::weighted(0.2), 1..10),
    )
        .prop_map(|(delays, duplicates)| Path { delays, duplicates })
}

fn near_the_wrap() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0..3000_u32).prop_map(|before| before.wrapping_neg())]
}

fn connection(plant: impl Strategy<Value = Plant>) -> impl Strategy<Value = Connection> {
    let networks = prop::sample::select(crate::wire::NETWORKS.to_vec());
    (
        (networks, 1..3000_usize, near_the_wrap(), near_the_wrap(), any::<bool>()),
        (habits(), habits(), path(), path(), plant),
    )
        .prop_map(
            |(
                (network, length, sequence, acknowledgement, handshake),
                (ours, theirs, our_path, their_path, plant),
            )| Connection {
                network,
                length,
                sequence,
                acknowledgement,
                handshake,
                ours,
                theirs,
                our_path,
                their_path,
                plant,
            },
        )
}

fn plant() -> impl Strategy<Value = Plant> {
    prop_oneof![
        2 => any::<Index>().prop_map(Plant::Byte),
        1 => any::<Index>().prop_map(Plant::Cut),
    ]
}

fn picks() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 1..100)
}

/// Room for every stream in segments of one byte: limits are another test's.
fn roomy(config: &mut Config) {
    config.queue_limit = 8192;
    config.held_limit = 32_768;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn equal_streams_are_released_whole_in_order_and_without_a_divergence(
        connections in prop::collection::vec(connection(Just(Plant::Nothing)), 1..4),
        picks in picks(),
        batch in 1..40_usize,
    ) {
        let mut rig = Rig::with(roomy);
        run(&mut rig, &connections, &picks, batch);
        prop_assert!(rig.is_clean(), "{:?}", rig.record.divergences);
        prop_assert_eq!(rig.held(), 0, "everything has left");
        rig.assert_conserved();
    }

    #[test]
    fn a_planted_difference_is_reported_where_it_is_and_nothing_beyond_it_leaves(
        mut bad in connection(plant()),
        good in connection(Just(Plant::Nothing)),
        picks in picks(),
        batch in 1..40_usize,
    ) {
        if matches!(bad.plant, Plant::Cut(_)) {
            // A gap on the primary's side would let its first byte beyond the end come early.
            bad.our_path.delays = vec![0];
        }
        let (flow, plant, length) = (Connection::port(0), bad.plant, bad.length);
        let mut rig = Rig::with(roomy);
        run(&mut rig, &[bad, good], &picks, batch);
        let expected = match plant {
            Plant::Byte(at) => (Reason::Payload, at.index(length)),
            Plant::Cut(at) => (Reason::StreamEnd, at.index(length)),
            Plant::Nothing => unreachable!("a difference is planted"),
        };
        let seen = rig.divergence().clone();
        prop_assert_eq!((seen.reason, seen.offset as usize), expected);
        prop_assert!(seen.flow.contains(&format!(":{flow} ")), "{}", seen.flow);
        prop_assert_eq!(rig.record.requests, 1);
        if let (Some((ours, at)), Some((theirs, place))) = (&seen.primary, &seen.secondary) {
            prop_assert_eq!(ours[*at] ^ theirs[*place], 0x40);
        }
        rig.checkpoint();
        prop_assert_eq!(rig.held(), 0);
        rig.assert_conserved();
    }
}
