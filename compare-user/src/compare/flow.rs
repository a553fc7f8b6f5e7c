//! The flows: what is remembered of each, and the table that finds them.

use super::clock::Timestamp;
use super::held::{List, NIL, Segment};
use super::segments::Segments;
use super::sequence::Sequence;
use super::verdict::Side;
use crate::frame::FlowKey;

/// State of a TCP flow (DESIGN.md section 4.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    /// Held primary segments that are not compared to their end.
    pub(super) primary: Segments,
    /// Waiting secondary segments.
    pub(super) secondary: Segments,
    /// Primary segments compared to their end, waiting for the secondary's acknowledgement; in
    /// stream order.
    pub(super) gated: List,
    /// What the secondary sent from its next SYN on, while the primary has not begun that
    /// incarnation.
    pub(super) next: List,
    /// Both streams have been compared equal up to here.
    pub(super) mark: Sequence,
    /// First payload byte of the stream, or where it was first seen.
    pub(super) origin: Sequence,
    /// Highest acknowledgement seen from each side.
    pub(super) primary_acknowledged: Sequence,
    pub(super) secondary_acknowledged: Sequence,
    /// Highest acknowledgement that has left; kept where the slower replica's leave.
    pub(super) acknowledged: Sequence,
    /// The latest time (RFC 7323) of the primary's segments, and of what the secondary said that was found
    /// right; kept where the slower replica's acknowledgements leave. Zero before the first: should one
    /// truly be zero, the next takes its place, and that is later.
    pub(super) newest: Sequence,
    /// When the primary began this incarnation, as [`Timestamp::moment`].
    pub(super) begun: u32,
    /// What has left beyond a gap: its beginning and end, which are equal if nothing has (`island.rs`).
    pub(super) island: (Sequence, Sequence),
    /// Where each side's stream ends, once it said so.
    pub(super) primary_end: Sequence,
    pub(super) secondary_end: Sequence,
    /// The secondary's initial sequence number of this incarnation.
    pub(super) secondary_initial: Sequence,
    /// Low half of where the secondary's latest retransmission began, if the primary has not
    /// retransmitted since; kept where the slower replica's leave. Enough to know it again: if it is
    /// another after all, the client hears what both have said once more than it must.
    pub(super) repeated: u16,
    pub(super) known: Known,
}

/// Which fields of a [`Stream`] mean something.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Known {
    pub(super) mark: bool,
    pub(super) primary_acknowledged: bool,
    pub(super) secondary_acknowledged: bool,
    pub(super) acknowledged: bool,
    pub(super) repeated: bool,
    pub(super) primary_end: bool,
    pub(super) secondary_end: bool,
    /// `origin` comes from the primary's SYN.
    pub(super) primary_syn: bool,
    pub(super) secondary_syn: bool,
    /// A checkpoint has made the secondary one that sent the primary's SYN.
    pub(super) syn_shared: bool,
}

/// State of a datagram flow (DESIGN.md section 4.2).
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagrams {
    /// Held primary datagrams, in order of arrival.
    pub(super) primary: List,
    /// Waiting secondary datagrams, in order of arrival.
    pub(super) secondary: List,
    /// The first waiting secondary datagram that is not in the content index; those behind it
    /// are not either.
    pub(super) unindexed: u32,
    /// In the comparator's queue of contested flows.
    pub(super) contested: bool,
}

/// What kind of comparison a flow gets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Stream(Stream),
    Datagrams(Datagrams),
}

impl Kind {
    pub(super) const STREAM: Self = Self::Stream(Stream {
        primary: Segments::EMPTY,
        secondary: Segments::EMPTY,
        gated: List::EMPTY,
        next: List::EMPTY,
        mark: Sequence(0),
        origin: Sequence(0),
        primary_acknowledged: Sequence(0),
        secondary_acknowledged: Sequence(0),
        acknowledged: Sequence(0),
        newest: Sequence(0),
        begun: 0,
        island: (Sequence(0), Sequence(0)),
        primary_end: Sequence(0),
        secondary_end: Sequence(0),
        secondary_initial: Sequence(0),
        repeated: 0,
        known: Known {
            mark: false,
            primary_acknowledged: false,
            secondary_acknowledged: false,
            acknowledged: false,
            repeated: false,
            primary_end: false,
            secondary_end: false,
            primary_syn: false,
            secondary_syn: false,
            syn_shared: false,
        },
    });

    pub(super) const DATAGRAMS: Self = Self::Datagrams(Datagrams {
        primary: List::EMPTY,
        secondary: List::EMPTY,
        unindexed: NIL,
        contested: false,
    });
}

/// One tracked flow.
///
/// In the order in which a frame meets the fields, what it meets rarely last: with many flows the
/// cost of a frame is the cache lines of its flow.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Flow {
    pub(super) key: FlowKey,
    /// Next flow of the same bucket.
    chained: u32,
    /// [`Timestamp::coarse`] of the last frame.
    used: u32,
    /// The checkpoint that the state below belongs to.
    pub(super) epoch: u32,
    /// Frames held, per side.
    primary_held: u16,
    secondary_held: u16,
    /// A divergence has been reported since the last checkpoint.
    pub(super) reported: bool,
    /// A difference is proven: nothing more is compared before the next checkpoint.
    pub(super) blocked: bool,
    pub(super) kind: Kind,
    /// Neighbours in the order of last use.
    older: u32,
    newer: u32,
}

impl Flow {
    pub(super) fn held(&self, side: Side) -> u16 {
        match side {
            Side::Primary => self.primary_held,
            Side::Secondary => self.secondary_held,
        }
    }

    pub(super) fn held_mut(&mut self, side: Side) -> &mut u16 {
        match side {
            Side::Primary => &mut self.primary_held,
            Side::Secondary => &mut self.secondary_held,
        }
    }

    /// State of a TCP flow.
    ///
    /// # Panics
    /// When the flow is not TCP; the key decides the kind, so that cannot be.
    #[inline]
    pub(super) fn stream(&mut self) -> &mut Stream {
        match &mut self.kind {
            Kind::Stream(stream) => stream,
            Kind::Datagrams(_) => unreachable!("the key of a TCP flow names TCP"),
        }
    }

    /// State of a datagram flow.
    ///
    /// # Panics
    /// When the flow is TCP; the key decides the kind, so that cannot be.
    #[inline]
    pub(super) fn datagrams(&mut self) -> &mut Datagrams {
        match &mut self.kind {
            Kind::Datagrams(datagrams) => datagrams,
            Kind::Stream(_) => unreachable!("the key of a datagram flow does not name TCP"),
        }
    }

    /// The time that a TCP segment which leaves has to be given in place of its own, for a client that has
    /// seen a later one drops it (RFC 7323 section 5).
    #[inline]
    pub(super) fn timestamp_for(&mut self, segment: &Segment) -> Option<u32> {
        if !segment.is_timed {
            return None;
        }
        let stream = self.stream();
        stream.note_timestamp(segment);
        (stream.newest != segment.timestamp).then_some(stream.newest.0)
    }

    fn holds_any(&self) -> bool {
        self.primary_held != 0 || self.secondary_held != 0
    }
}

/// All tracked flows of a lane. Memory is reserved when it is made and touched as flows come.
pub(super) struct FlowTable {
    flows: Vec<Flow>,
    limit: usize,
    /// Bucket heads, two per flow so that chains are short; zero is empty, else index + 1, so
    /// that untouched memory stays untouched.
    buckets: Box<[u32]>,
    seed: u64,
    /// Ends of the order of last use, exact to [`Timestamp::coarse`].
    oldest: u32,
    newest: u32,
    /// Flows that hold frames now.
    pub(super) holding: usize,
    /// Slot of a flow that was evicted and whose place is to be used next.
    vacant: u32,
    pub(super) evicted: u64,
}

/// The answer to a look-up that may add a flow.
pub(super) enum Lookup {
    /// The flow, old or new.
    Found(u32),
    /// The table is full and every flow holds frames.
    Full,
}

impl FlowTable {
    pub(super) fn new(limit: u32, seed: u64) -> Self {
        let limit = limit.max(1) as usize;
        Self {
            flows: Vec::with_capacity(limit),
            limit,
            buckets: vec![0; (limit * 2).next_power_of_two()].into_boxed_slice(),
            seed,
            oldest: NIL,
            newest: NIL,
            holding: 0,
            vacant: NIL,
            evicted: 0,
        }
    }

    #[inline]
    pub(super) fn get(&self, flow: u32) -> &Flow {
        &self.flows[flow as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, flow: u32) -> &mut Flow {
        &mut self.flows[flow as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len() - usize::from(self.vacant != NIL)
    }

    /// Indices of all tracked flows.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + use<> {
        let vacant = self.vacant;
        (0..self.flows.len() as u32).filter(move |&flow| flow != vacant)
    }

    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(self.seed)
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        (hash >> 20) as usize & (self.buckets.len() - 1)
    }

    /// First half of a look-up, for a batch: the index of the first flow in the bucket, plus one.
    /// Independent loads of several frames overlap in the memory system.
    #[inline]
    pub(super) fn probe(&self, hash: u64) -> u32 {
        self.buckets[self.bucket(hash)]
    }

    /// Second half, for a batch: touches the flow that `probe` named.
    #[inline]
    pub(super) fn touch(&self, probed: u32) -> u32 {
        match probed.checked_sub(1) {
            Some(flow) => {
                let flow = self.get(flow);
                u32::from(flow.key.source[0]) ^ u32::from(flow.blocked)
            }
            None => 0,
        }
    }

    /// The flow of `key`, if it is tracked.
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        let mut entry = self.buckets[self.bucket(self.hash(key))];
        while entry != 0 {
            let flow = &self.flows[entry as usize - 1];
            if flow.key.is(key) {
                return Some(entry - 1);
            }
            entry = flow.chained;
        }
        None
    }

    /// The flow of `key`, added as `kind` if it is new.
    #[inline]
    pub(super) fn find_or_add(
        &mut self,
        key: &FlowKey,
        hash: u64,
        kind: &Kind,
        epoch: u32,
        now: Timestamp,
    ) -> Lookup {
        let mut entry = self.buckets[self.bucket(hash)];
        while entry != 0 {
            let flow = &self.flows[entry as usize - 1];
            if flow.key.is(key) {
                self.mark_used(entry - 1, now);
                return Lookup::Found(entry - 1);
            }
            entry = flow.chained;
        }
        self.add(key, hash, kind, epoch, now)
    }

    #[cold]
    fn add(&mut self, key: &FlowKey, hash: u64, kind: &Kind, epoch: u32, now: Timestamp) -> Lookup {
        if self.flows.len() == self.limit && self.vacant == NIL && !self.evict_idlest(now) {
            return Lookup::Full;
        }
        let bucket = self.bucket(hash);
        let flow = Flow {
            key: *key,
            chained: self.buckets[bucket],
            older: NIL,
            newer: NIL,
            used: now.coarse(),
            epoch,
            primary_held: 0,
            secondary_held: 0,
            reported: false,
            blocked: false,
            kind: *kind,
        };
        let index = if self.vacant == NIL {
            self.flows.push(flow);
            self.flows.len() as u32 - 1
        } else {
            let index = std::mem::replace(&mut self.vacant, NIL);
            self.flows[index as usize] = flow;
            index
        };
        self.buckets[bucket] = index + 1;
        self.append_newest(index);
        Lookup::Found(index)
    }

    #[inline]
    fn mark_used(&mut self, flow: u32, now: Timestamp) {
        let coarse = now.coarse();
        if self.get(flow).used != coarse {
            self.get_mut(flow).used = coarse;
            self.unlink(flow);
            self.append_newest(flow);
        }
    }

    /// Forgets the flow that has been idle longest and holds nothing. False if every flow holds
    /// frames. Flows that hold frames are moved to the young end on the way, so that the next
    /// search does not meet them again.
    fn evict_idlest(&mut self, now: Timestamp) -> bool {
        if self.holding >= self.len() {
            return false;
        }
        loop {
            let candidate = self.oldest;
            if !self.get(candidate).holds_any() {
                self.remove(candidate);
                return true;
            }
            self.get_mut(candidate).used = now.coarse();
            self.unlink(candidate);
            self.append_newest(candidate);
        }
    }

    fn remove(&mut self, flow: u32) {
        self.unlink(flow);
        let bucket = self.bucket(self.hash(&self.get(flow).key));
        let chained = self.get(flow).chained;
        if self.buckets[bucket] == flow + 1 {
            self.buckets[bucket] = chained;
        } else {
            let mut before = self.buckets[bucket] - 1;
            while self.get(before).chained != flow + 1 {
                before = self.get(before).chained - 1;
            }
            self.get_mut(before).chained = chained;
        }
        self.vacant = flow;
        self.evicted += 1;
    }

    fn append_newest(&mut self, flow: u32) {
        let newest = self.newest;
        let entry = self.get_mut(flow);
        entry.older = newest;
        entry.newer = NIL;
        if newest == NIL {
            self.oldest = flow;
        } else {
            self.get_mut(newest).newer = flow;
        }
        self.newest = flow;
    }

    fn unlink(&mut self, flow: u32) {
        let (older, newer) = (self.get(flow).older, self.get(flow).newer);
        if older == NIL {
            self.oldest = newer;
        } else {
            self.get_mut(older).newer = newer;
        }
        if newer == NIL {
            self.newest = older;
        } else {
            self.get_mut(newer).older = older;
        }
    }

    /// Notes that the flow holds one frame more.
    #[inline]
    pub(super) fn count_held(&mut self, flow: u32, side: Side) {
        let entry = self.get_mut(flow);
        let first = !entry.holds_any();
        *entry.held_mut(side) += 1;
        self.holding += usize::from(first);
    }

    /// Notes that the flow holds one frame less.
    #[inline]
    pub(super) fn count_let_go(&mut self, flow: u32, side: Side) {
        let entry = self.get_mut(flow);
        *entry.held_mut(side) -= 1;
        let last = !entry.holds_any();
        self.holding -= usize::from(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_flow_takes_at_most_192_bytes() {
        for limit in [1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1_500_000] {
            let table = FlowTable::new(limit, 0);
            let flows = table.flows.capacity() * size_of::<Flow>();
            let buckets = size_of_val(&*table.buckets);
            let each = (flows + buckets) / limit as usize;
            assert!(each <= 192, "{each} bytes at a limit of {limit}");
        }
    }
}
