//! The comparator: a pure state machine. `(side, frame, now)` goes in; releases, discards,
//! divergences and checkpoint requests come out of a [`Sink`].
//!
//! It does no I/O, asks no clock, starts no thread, and allocates nothing once it is made. Frames
//! are opaque values of a [`FrameStore`]; their bytes are read where they lie.
//!
//! | file | what |
//! |---|---|
//! | `flow` | the table of flows and what is known of each |
//! | `held` | the frames that are held, in order of age, and the index of their contents |
//! | `segments` | one side of a TCP flow by sequence number |
//! | `stream` | the rules for TCP |
//! | `island` | what lies beyond a gap in a TCP stream |
//! | `partly_said` | a TCP segment of which the secondary has said the beginning |
//! | `handshake` | SYNs and incarnations of a TCP flow |
//! | `datagram` | the rules for everything else |
//! | `deadline` | timeouts, grace and repeated requests |
//! | `flush` | checkpoint, failover, rearm |
//! | `turn` | what holds for the length of one call |
//! | `verdict` | what comes out |

mod clock;
mod config;
mod content;
mod counters;
mod datagram;
mod deadline;
mod flow;
mod flush;
mod handshake;
mod held;
mod island;
mod partly_said;
mod segments;
mod sequence;
mod stream;
mod turn;
mod verdict;

use std::collections::VecDeque;

pub use clock::Timestamp;
pub use config::{AckGate, Config};
pub use counters::Counters;
pub use verdict::{Amendment, Checksum, Discard, Divergence, Exhibit, Reason, Release, Side, Sink};

use crate::frame::{Class, FlowKey, FrameStore, Headers};
use content::{ContentHasher, Span};
use flow::{FlowTable, Kind, Lookup};
use held::{Arrival, Slab};
use turn::{Call, Turn};

/// Frames that are looked up together, so that their memory accesses overlap.
const BATCH: usize = 32;

/// A frame on its way to a decision.
struct Incoming<'a, F> {
    frame: F,
    side: Side,
    headers: &'a Headers,
    hash: u64,
    checksum: Checksum,
}

/// Where and how two outputs were found to differ.
struct Finding {
    reason: Reason,
    side: Side,
    offset: u32,
    /// Record and offset in its frame.
    primary: Option<(u32, usize)>,
    secondary: Option<(u32, usize)>,
}

/// Compares the output of two replicas. `F` is the frame type of the [`FrameStore`] in use.
pub struct Comparator<F> {
    config: Config,
    flows: FlowTable,
    slab: Slab<F>,
    hasher: ContentHasher,
    counters: Counters,
    /// Counts checkpoints; a flow whose own epoch is behind is brought up to date when touched.
    epoch: u32,
    /// Flows whose epoch is before this one forget their streams: comparison was off meanwhile.
    rearmed: u32,
    /// When the outstanding checkpoint was last asked for.
    requested: Option<Timestamp>,
    /// A full flow table has been reported since the last checkpoint.
    table_reported: bool,
    /// Datagram flows with an unmatched head and unmatched secondary frames, and since when.
    contested: VecDeque<(u32, Timestamp)>,
    /// TCP flows whose first primary segment has got a companion, and since when.
    partly_said: VecDeque<(u32, Timestamp)>,
    /// After failover: the survivor, whose frames pass uncompared.
    standalone: Option<Side>,
    /// Headers and flow hashes of the batch at hand.
    batch: Vec<(Headers, u64)>,
}

impl<F> Comparator<F> {
    /// A comparator with room for everything that `config` allows.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            flows: FlowTable::new(config.flow_limit, config.seed),
            slab: Slab::new(config.held_limit),
            hasher: ContentHasher::new(config.seed.rotate_left(32)),
            counters: Counters::default(),
            epoch: 1,
            rearmed: 0,
            requested: None,
            table_reported: false,
            contested: VecDeque::with_capacity(config.held_limit as usize),
            partly_said: VecDeque::with_capacity(partly_said::AT_ONCE),
            standalone: None,
            batch: vec![(Headers::UNKNOWN, 0); BATCH],
            config,
        }
    }

    /// Totals and gauges.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            flows: u32::try_from(self.flows.len()).unwrap_or(u32::MAX),
            flows_evicted: self.flows.evicted,
            ..self.counters
        }
    }

    /// The survivor, while comparison is off after a failover.
    #[must_use]
    pub fn standalone(&self) -> Option<Side> {
        self.standalone
    }

    /// True while a checkpoint has been asked for and has not completed.
    #[must_use]
    pub fn checkpoint_outstanding(&self) -> bool {
        self.requested.is_some()
    }

    /// Calls `each` with every tracked flow: key, frames held of the primary and the secondary,
    /// and whether a divergence was reported since the last checkpoint.
    pub fn for_each_flow(&self, mut each: impl FnMut(&FlowKey, u16, u16, bool)) {
        for index in self.flows.indices() {
            let flow = self.flows.get(index);
            let reported = flow.reported && flow.epoch == self.epoch;
            each(&flow.key, flow.held(Side::Primary), flow.held(Side::Secondary), reported);
        }
    }

    /// All held frames, oldest first.
    pub fn held_frames(&self) -> impl Iterator<Item = &F> {
        self.slab.iter()
    }

    /// Takes in one frame of `side`.
    pub fn offer<S, K>(&mut self, side: Side, frame: F, now: Timestamp, store: &S, sink: &mut K)
    where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        let headers = Headers::parse(store, &frame);
        let hash = self.flows.hash(&headers.key);
        self.judge(side, frame, &headers, hash, &mut Call { store, sink, now });
    }

    /// Takes in all of `frames`, in order. Does what [`Comparator::offer`] on each would, with
    /// the look-ups of many frames overlapping in the memory system: with a million flows nearly
    /// every look-up misses the caches.
    pub fn offer_batch<S, K>(
        &mut self,
        side: Side,
        frames: &mut Vec<F>,
        now: Timestamp,
        store: &S,
        sink: &mut K,
    ) where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        let turn = &mut Call { store, sink, now };
        let mut batch = std::mem::take(&mut self.batch);
        let mut rest = frames.drain(..);
        while !rest.as_slice().is_empty() {
            let taken = rest.as_slice().len().min(BATCH);
            let entries = &mut batch[..taken];
            // Not in one loop: the hash reads in words what was written in smaller pieces, and
            // would wait for each of them to reach the cache.
            for ((headers, _), frame) in entries.iter_mut().zip(rest.as_slice()) {
                headers.parse_again(store, frame);
            }
            for (headers, hash) in entries.iter_mut() {
                *hash = self.flows.hash(&headers.key);
            }
            self.warm(entries);
            for ((headers, hash), frame) in entries.iter().zip(rest.by_ref()) {
                self.judge(side, frame, headers, *hash, turn);
            }
        }
        drop(rest);
        self.batch = batch;
    }

    /// Below this the table is in the first cache anyway.
    const COLD_FLOWS: usize = 256;

    /// Brings the buckets and flows of a batch into the caches. First all buckets, then all
    /// flows: loads that do not depend on each other are in flight together.
    #[inline]
    fn warm(&self, batch: &[(Headers, u64)]) {
        if self.flows.len() < Self::COLD_FLOWS {
            return;
        }
        let mut probes = [0; BATCH];
        for (probe, (_, hash)) in probes.iter_mut().zip(batch) {
            *probe = self.flows.probe(*hash);
        }
        let touched = probes.iter().fold(0, |sum, &probe| sum ^ self.flows.touch(probe));
        std::hint::black_box(touched);
    }

    #[inline]
    fn judge(
        &mut self,
        side: Side,
        frame: F,
        headers: &Headers,
        hash: u64,
        turn: &mut impl Turn<F>,
    ) {
        match side {
            Side::Primary => self.counters.primary_received += 1,
            Side::Secondary => self.counters.secondary_received += 1,
        }
        if matches!(headers.class, Class::Malformed(_)) {
            self.counters.malformed += 1;
        }
        // Only what leaves needs a complete checksum.
        let leaves = side == self.standalone.unwrap_or(Side::Primary);
        let checksum =
            if leaves { Checksum::of(turn.store(), &frame, headers) } else { Checksum::AsFound };
        if self.standalone.is_some() {
            return self.pass(leaves, frame, side, Release::Standalone, checksum, turn);
        }
        let incoming = Incoming { frame, side, headers, hash, checksum };
        match headers.class {
            Class::Tcp(fields) => self.segment(incoming, &fields, turn),
            Class::Datagram => self.datagram(incoming, turn),
            Class::Pass(_) => {
                self.counters.passed += u64::from(leaves);
                self.pass(leaves, incoming.frame, side, Release::Passed, checksum, turn);
            }
            Class::Malformed(_) => {
                self.pass(leaves, incoming.frame, side, Release::Malformed, checksum, turn);
            }
        }
    }

    /// Decides a frame that is not compared.
    fn pass(
        &mut self,
        leaves: bool,
        frame: F,
        side: Side,
        why: Release,
        checksum: Checksum,
        turn: &mut impl Turn<F>,
    ) {
        if leaves {
            self.release(frame, why, checksum.into(), turn);
        } else if why == Release::Standalone {
            self.discard(frame, side, Discard::Standalone, turn);
        } else {
            self.discard(frame, side, Discard::NotCompared, turn);
        }
    }

    /// The flow of a frame, brought up to date with the last checkpoint. None without room for
    /// another flow.
    #[inline]
    fn flow_of(&mut self, incoming: &Incoming<'_, F>, kind: &Kind, now: Timestamp) -> Option<u32> {
        let key = &incoming.headers.key;
        match self.flows.find_or_add(key, incoming.hash, kind, self.epoch, now) {
            Lookup::Found(flow) => {
                self.bring_up_to_date(flow);
                Some(flow)
            }
            Lookup::Full => None,
        }
    }

    /// Drops a frame for whose flow there is no room, which is a divergence.
    #[cold]
    fn no_flow(&mut self, incoming: Incoming<'_, F>, turn: &mut impl Turn<F>) {
        if !self.table_reported {
            self.table_reported = true;
            self.counters.divergences += 1;
            turn.diverged(&Divergence {
                flow: &incoming.headers.key,
                reason: Reason::FlowTable,
                side: incoming.side,
                offset: 0,
                waited: std::time::Duration::ZERO,
                primary: None,
                secondary: None,
            });
            self.request(turn);
        }
        self.discard(incoming.frame, incoming.side, Discard::FlowsFull, turn);
    }

    /// Holds a frame, or drops it at a limit, which is a divergence.
    #[inline]
    fn hold(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: held::Segment,
        turn: &mut impl Turn<F>,
    ) -> Option<u32> {
        let side = incoming.side;
        if self.flows.get(flow).held(side) >= self.config.queue_limit {
            return self.refuse(flow, incoming, Reason::QueueFull, Discard::QueueFull, turn);
        }
        if self.slab.is_full() {
            return self.refuse(flow, incoming, Reason::Memory, Discard::MemoryFull, turn);
        }
        let record = self.slab.hold(Arrival {
            frame: incoming.frame,
            side,
            flow,
            now: turn.now(),
            span: Span::new(incoming.headers),
            segment,
            checksum: incoming.checksum,
        });
        self.flows.count_held(flow, side);
        *self.held_gauge(side) += 1;
        Some(record)
    }

    #[cold]
    fn refuse(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        reason: Reason,
        discard: Discard,
        turn: &mut impl Turn<F>,
    ) -> Option<u32> {
        let side = incoming.side;
        self.discard(incoming.frame, side, discard, turn);
        self.diverge(
            flow,
            Finding { reason, side, offset: 0, primary: None, secondary: None },
            turn,
        );
        None
    }

    /// Takes a frame that is no longer in any queue out of the held ones.
    #[inline]
    fn let_go(&mut self, record: u32, turn: &mut impl Turn<F>) -> (F, Side, Checksum) {
        if self.slab.get(record).companion != held::NIL {
            self.part_company(record, turn);
        }
        let (flow, checksum) = (self.slab.get(record).flow, self.slab.get(record).checksum);
        let held::Role::Frame(side) = self.slab.get(record).role else {
            unreachable!("ghosts are in no queue")
        };
        let frame = self.slab.take(record);
        self.flows.count_let_go(flow, side);
        *self.held_gauge(side) -= 1;
        (frame, side, checksum)
    }

    fn held_gauge(&mut self, side: Side) -> &mut u32 {
        match side {
            Side::Primary => &mut self.counters.primary_held,
            Side::Secondary => &mut self.counters.secondary_held,
        }
    }

    #[inline]
    fn release_held(&mut self, record: u32, why: Release, turn: &mut impl Turn<F>) {
        let held = self.slab.get(record);
        let without_first = held.left;
        let timestamp = self.flows.get_mut(held.flow).timestamp_for(&held.segment);
        let (frame, _, checksum) = self.let_go(record, turn);
        let amendment = Amendment { checksum, timestamp, without_payload: false, without_first };
        self.release(frame, why, amendment, turn);
    }

    /// Releases a TCP segment on its arrival.
    #[inline]
    fn release_segment(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: &held::Segment,
        why: Release,
        turn: &mut impl Turn<F>,
    ) {
        let timestamp = self.flows.get_mut(flow).timestamp_for(segment);
        let checksum = incoming.checksum;
        let amendment = Amendment { timestamp, ..checksum.into() };
        self.release(incoming.frame, why, amendment, turn);
    }

    #[inline]
    fn discard_held(&mut self, record: u32, why: Discard, turn: &mut impl Turn<F>) {
        let (frame, side, _) = self.let_go(record, turn);
        self.discard(frame, side, why, turn);
    }

    #[inline]
    fn release(&mut self, frame: F, why: Release, amendment: Amendment, turn: &mut impl Turn<F>) {
        self.counters.released += 1;
        match why {
            Release::Matched => self.counters.matched += 1,
            Release::Flushed => self.counters.flushed += 1,
            Release::Slower => self.counters.from_slower_secondary += 1,
            _ => {}
        }
        turn.release(frame, why, amendment);
    }

    #[inline]
    fn discard(&mut self, frame: F, side: Side, why: Discard, turn: &mut impl Turn<F>) {
        if why.is_loss() {
            self.counters.lost += 1;
        } else {
            self.counters.discarded += 1;
            self.counters.superseded += u64::from(why == Discard::Superseded);
            self.counters.reset += u64::from(why == Discard::Reset && side == Side::Primary);
        }
        turn.discard(frame, side, why);
    }

    /// Reports a divergence of a flow, once until the next checkpoint, and asks for one.
    #[cold]
    fn diverge(&mut self, flow: u32, finding: Finding, turn: &mut impl Turn<F>) {
        let entry = self.flows.get_mut(flow);
        if std::mem::replace(&mut entry.reported, true) {
            return;
        }
        self.counters.divergences += 1;
        let exhibit = |side: Option<(u32, usize)>| {
            side.map(|(record, at)| Exhibit { frame: self.slab.frame(record), at })
        };
        let waited = [finding.primary, finding.secondary]
            .into_iter()
            .flatten()
            .map(|(record, _)| turn.now().since(self.slab.get(record).arrived))
            .max();
        turn.diverged(&Divergence {
            flow: &self.flows.get(flow).key,
            reason: finding.reason,
            side: finding.side,
            offset: finding.offset,
            waited: waited.unwrap_or_default(),
            primary: exhibit(finding.primary),
            secondary: exhibit(finding.secondary),
        });
        self.request(turn);
    }

    /// Asks for a checkpoint unless one is outstanding.
    fn request(&mut self, turn: &mut impl Turn<F>) {
        if self.requested.is_none() {
            self.requested = Some(turn.now());
            self.counters.checkpoint_requests += 1;
            turn.checkpoint_wanted();
        }
    }
}
