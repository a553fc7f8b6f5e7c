//! What lies beyond a gap in a TCP stream.
//!
//! A segment that was lost before the comparator can only be sent again by the guest that sent it, and
//! that guest learns of the loss from the client, which sees nothing while all that follows is held. So,
//! where the slower replica's acknowledgements leave too, segments beyond a gap that both have said leave
//! before it is closed: the client's SACK blocks then tell both guests what is missing, within a round
//! trip instead of a retransmission timeout. One run of segments for each stream, the *island*, has left
//! in this way; when the mark reaches its beginning it goes on at its end.

use super::Comparator;
use super::config::AckGate;
use super::content::first_difference;
use super::flow::Stream;
use super::held::{NIL, Segment};
use super::segments::Segments;
use super::sequence::Sequence;
use super::turn::Turn;
use super::verdict::{Discard, Release};

/// Held segments looked at for one that is wanted: what a call may cost has a bound.
const LOOKED_AT: usize = 64;

/// As [`LOOKED_AT`], from either end of what the primary has waiting: where one guest has begun to send
/// again what was lost, a whole window may wait, and the other guest's latest is at the end of it.
const LOOKED_FROM_EITHER_END: usize = 512;

impl Stream {
    pub(super) fn has_island(&self) -> bool {
        self.island.0 != self.island.1
    }

    /// The mark has come to the island: what is on it has been compared.
    #[inline]
    pub(super) fn cross_island(&mut self) {
        if self.has_island() && self.island.0.at_or_before(self.mark) {
            self.mark = self.mark.later(self.island.1);
            self.island.1 = self.island.0;
        }
    }
}

impl<F> Comparator<F> {
    /// Releases what both have said beyond a gap that has been there for longer than segments are out of
    /// order on a link.
    pub(super) fn release_beyond_gap(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        if self.config.ack_gate != AckGate::Slower || self.flows.get(flow).blocked {
            return;
        }
        while self.extend_island(flow, turn) {}
    }

    /// Adds one segment to the island, or begins one. False if there is none that may leave.
    fn extend_island(&mut self, flow: u32, turn: &mut impl Turn<F>) -> bool {
        let stream = self.flows.get_mut(flow).stream();
        let ready = stream.known.mark && !stream.waits_for_syn() && stream.gated.is_empty();
        if !ready || stream.primary.is_empty() || stream.secondary.is_empty() {
            return false;
        }
        let (mark, island) = (stream.mark, stream.has_island().then_some(stream.island));
        let (primary, theirs) = (stream.primary, stream.secondary.front());
        let from = island.map_or(mark, |(_, end)| end);
        let Some(theirs) =
            self.first_that(theirs, |segment| !segment.is_empty() && from.before(segment.end))
        else {
            return false;
        };
        // Up to the mark the ordinary way goes on; beyond it, from where the secondary has something.
        let their_start = self.slab.get(theirs).segment.start;
        let from = match island {
            Some((_, end)) => end,
            None => their_start.later(mark.advanced(1)),
        };
        let Some(ours) = self.first_from(&primary, from) else { return false };
        let held = self.slab.get(ours);
        let (segment, arrived) = (held.segment, held.arrived);
        let is_next = island.is_none_or(|(_, end)| end == segment.start);
        let is_old = turn.now().since(arrived) >= self.config.reorder_grace;
        let plain = segment.is_plain();
        let enough = self.flows.get_mut(flow).stream().acknowledges_enough(&segment);
        if !is_next || island.is_none() && !is_old || !plain || !enough {
            return false;
        }
        if !self.is_said_by(theirs, ours, turn) {
            return false;
        }
        self.put_on_island(flow, ours, theirs, turn);
        true
    }

    /// The first of the segments in order that begins at `from` or beyond, looked for from the end that is
    /// nearer.
    pub(super) fn first_from(&self, segments: &Segments, from: Sequence) -> Option<u32> {
        let (mut front, mut back) = (segments.front(), segments.last()?);
        let start = |record: u32| self.slab.get(record).segment.start;
        if start(back).before(from) {
            return None;
        }
        let is_near_front = from.at_or_before(start(front))
            || from.distance_from(start(front)) < start(back).distance_from(from);
        for _ in 0..LOOKED_FROM_EITHER_END {
            if is_near_front {
                if from.at_or_before(start(front)) {
                    return Some(front);
                }
                front = self.slab.after(front);
            } else {
                let earlier = self.slab.before(back);
                if earlier == NIL || start(earlier).before(from) {
                    return Some(back);
                }
                back = earlier;
            }
        }
        None
    }

    /// The first of the records from `record` on, in their queue, whose segment is wanted.
    pub(super) fn first_that(
        &self,
        mut record: u32,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Option<u32> {
        for _ in 0..LOOKED_AT {
            if record == NIL {
                return None;
            }
            if wanted(&self.slab.get(record).segment) {
                return Some(record);
            }
            record = self.slab.after(record);
        }
        None
    }

    /// Whether the secondary's segments from `theirs` on have all the bytes of `ours`.
    fn is_said_by(&self, mut theirs: u32, ours: u32, turn: &impl Turn<F>) -> bool {
        let segment = self.slab.get(ours).segment;
        let mut at = segment.start;
        for _ in 0..LOOKED_AT {
            if theirs == NIL {
                return false;
            }
            let held = self.slab.get(theirs);
            if held.segment.spans(at) {
                let until = segment.end.earlier(held.segment.end);
                let found = first_difference(
                    turn.store(),
                    (self.slab.frame(ours), self.slab.get(ours).place(at)),
                    (self.slab.frame(theirs), held.place(at)),
                    until.distance_from(at) as usize,
                );
                if found.is_some() {
                    // A divergence, which is found when the mark comes here.
                    return false;
                }
                at = until;
                if at == segment.end {
                    return true;
                }
            } else if at.before(held.segment.start) {
                return false;
            }
            theirs = self.slab.after(theirs);
        }
        false
    }

    /// Releases a segment of the primary's, and drops the secondary's whose bytes are all on the island.
    fn put_on_island(&mut self, flow: u32, ours: u32, theirs: u32, turn: &mut impl Turn<F>) {
        let segment = self.slab.get(ours).segment;
        let stream = self.flows.get_mut(flow).stream();
        let begin = if stream.has_island() { stream.island.0 } else { segment.start };
        stream.island = (begin, segment.end);
        stream.note_acknowledgement_left(&segment);
        stream.note_timestamp(&self.slab.get(theirs).segment);
        stream.primary.remove_in_order(&mut self.slab, ours);
        self.release_held(ours, Release::Matched, turn);
        let mut record = theirs;
        for _ in 0..LOOKED_AT {
            if record == NIL {
                return;
            }
            let (theirs, next) = (self.slab.get(record).segment, self.slab.after(record));
            if segment.end.before(theirs.end) {
                return;
            }
            if begin.at_or_before(theirs.start) && theirs.is_plain() {
                let stream = self.flows.get_mut(flow).stream();
                stream.secondary.remove_in_order(&mut self.slab, record);
                self.discard_held(record, Discard::Compared, turn);
            }
            record = next;
        }
    }
}
