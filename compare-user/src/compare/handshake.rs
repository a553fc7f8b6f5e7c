//! SYNs and incarnations of a TCP flow (DESIGN.md section 4.1, rules 5 and 7).

use super::config::AckGate;
use super::flow::{Known, Stream};
use super::held::{NIL, Segment};
use super::sequence::Sequence;
use super::turn::Turn;
use super::verdict::{Discard, Release, Side};
use super::{Comparator, Incoming};
use crate::frame::TcpFields;

/// What the primary may have acknowledged, at most, when a SYN of the secondary's comes that was on its
/// way at a checkpoint: a first window.
const LATE_WITHIN: u32 = 1 << 16;

impl Stream {
    /// Whether a SYN of the secondary's that comes after a checkpoint can be one of this incarnation: it
    /// then acknowledges what the primary acknowledged in the beginning.
    fn may_be_late(&self, segment: &Segment) -> bool {
        let since = self.primary_acknowledged.0.wrapping_sub(segment.acknowledgement.0);
        !segment.has(TcpFields::ACK) || !self.known.primary_acknowledged || since < LATE_WITHIN
    }
}

impl<F> Comparator<F> {
    /// The primary's SYN or SYN-ACK begins a new incarnation. It leaves when the secondary has
    /// begun it too: a client that answers must find both replicas ready for the answer. Numbers
    /// are not compared: the two initial ones differ until a checkpoint.
    pub(super) fn primary_syn(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: Segment,
        turn: &mut impl Turn<F>,
    ) {
        let stream = self.flows.get_mut(flow).stream();
        let repeated = stream.known.primary_syn && stream.origin == segment.start;
        if !repeated {
            self.supersede(flow, turn);
            let entry = self.flows.get_mut(flow);
            entry.blocked = false;
            let stream = entry.stream();
            stream.mark = segment.start;
            stream.origin = segment.start;
            stream.begun = turn.now().moment();
            stream.newest = Sequence(0);
            stream.island = (segment.start, segment.start);
            stream.known = Known { mark: true, primary_syn: true, ..Known::default() };
            self.adopt_next(flow, &segment, turn);
        }
        let stream = self.flows.get_mut(flow).stream();
        stream.note_primary_acknowledgement(&segment);
        let seen = !stream.waits_for_syn() && segment.end.at_or_before(stream.mark);
        if seen && stream.acknowledges_enough(&segment) {
            let why = if repeated { Release::Retransmission } else { Release::Matched };
            stream.note_acknowledgement_left(&segment);
            self.release_segment(flow, incoming, &segment, why, turn);
            return self.advance(flow, turn);
        }
        if let Some(record) = self.hold(flow, incoming, segment, turn) {
            let stream = self.flows.get_mut(flow).stream();
            stream.primary.insert(&mut self.slab, record);
            self.advance(flow, turn);
        }
    }

    /// Held segments of the old incarnation leave, in stream order; what the secondary has
    /// waiting of it is dropped.
    fn supersede(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            let stream = self.flows.get_mut(flow).stream();
            let gated = stream.gated.head;
            if gated == NIL {
                break;
            }
            self.slab.dequeue(&mut stream.gated, gated);
            self.release_held(gated, Release::Superseded, turn);
        }
        while let Some(record) =
            self.flows.get_mut(flow).stream().primary.remove_first(&mut self.slab)
        {
            self.release_held(record, Release::Superseded, turn);
        }
        while let Some(record) =
            self.flows.get_mut(flow).stream().secondary.remove_first(&mut self.slab)
        {
            self.discard_held(record, Discard::Flushed, turn);
        }
    }

    pub(super) fn secondary_syn(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: Segment,
        initial: Sequence,
        turn: &mut impl Turn<F>,
    ) {
        let stream = self.flows.get_mut(flow).stream();
        if !stream.next.is_empty() {
            return self.hold_for_next(flow, incoming, segment, turn);
        }
        let known = stream.known;
        let own = known.secondary_syn && stream.secondary_initial == initial;
        let shared = known.syn_shared && stream.origin == segment.start;
        if own || shared {
            // One of its own numbers, after a checkpoint, is one that was on its way: nobody waits for an
            // answer to it.
            let is_late = known.syn_shared && !shared;
            let gate = self.config.ack_gate;
            if gate == AckGate::Slower && !is_late && stream.must_be_challenged() {
                return self.release_segment(flow, incoming, &segment, Release::Slower, turn);
            }
            let why = Discard::Retransmission;
            return self.discard(incoming.frame, Side::Secondary, why, turn);
        }
        // After a checkpoint one may come that was on its way: it still belongs to the primary's.
        let is_late = known.syn_shared && stream.may_be_late(&segment);
        if !known.primary_syn || known.secondary_syn || known.syn_shared && !is_late {
            return self.hold_for_next(flow, incoming, segment, turn);
        }
        let waiting = stream.primary.first(&self.slab).map(|first| self.slab.get(first).segment);
        if !is_late && waiting.is_some_and(|waiting| answers_another(&segment, &waiting)) {
            return self.discard(incoming.frame, Side::Secondary, Discard::Flushed, turn);
        }
        stream.known.secondary_syn = true;
        stream.secondary_initial = initial;
        stream.note_secondary_acknowledgement(&segment);
        if segment.is_empty() {
            self.discard(incoming.frame, Side::Secondary, Discard::Compared, turn);
        } else {
            // Data on a SYN (RFC 7413) is the start of the stream, by whatever number.
            let segment = segment.moved_to(stream.origin);
            if let Some(record) = self.hold(flow, incoming, segment, turn) {
                let stream = self.flows.get_mut(flow).stream();
                stream.secondary.insert(&mut self.slab, record);
            }
        }
        self.advance(flow, turn);
    }

    /// Keeps what the secondary sends in an incarnation that the primary has not begun.
    pub(super) fn hold_for_next(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: Segment,
        turn: &mut impl Turn<F>,
    ) {
        let stream = self.flows.get_mut(flow).stream();
        let head = stream.next.head;
        if head != NIL
            && segment.has(TcpFields::SYN)
            && self.slab.get(head).segment.start == segment.start
        {
            let why = Discard::Retransmission;
            return self.discard(incoming.frame, Side::Secondary, why, turn);
        }
        if let Some(record) = self.hold(flow, incoming, segment, turn) {
            let stream = self.flows.get_mut(flow).stream();
            self.slab.enqueue(&mut stream.next, record);
        }
    }

    /// The primary has begun, with `begun`, the incarnation that the secondary began before it: what the
    /// secondary sent in it, up to a further SYN, is taken up as if it came now. What it sent in another
    /// before it is dropped.
    fn adopt_next(&mut self, flow: u32, begun: &Segment, turn: &mut impl Turn<F>) {
        let mut syn_seen = false;
        let mut of_another = false;
        loop {
            let stream = self.flows.get_mut(flow).stream();
            let record = stream.next.head;
            if record == NIL {
                return;
            }
            let segment = self.slab.get(record).segment;
            if segment.has(TcpFields::SYN) {
                if syn_seen {
                    return;
                }
                of_another = answers_another(&segment, begun);
                syn_seen = !of_another;
            }
            if of_another {
                self.slab.dequeue(&mut stream.next, record);
                self.discard_held(record, Discard::Flushed, turn);
                continue;
            }
            if segment.has(TcpFields::SYN) {
                stream.known.secondary_syn = true;
                stream.secondary_initial = Sequence(segment.start.0.wrapping_sub(1));
                self.slab.get_mut(record).segment = segment.moved_to(stream.origin);
            }
            stream.note_secondary_acknowledgement(&segment);
            if segment.has(TcpFields::FIN) {
                stream.secondary_end = segment.end;
                stream.known.secondary_end = true;
            }
            self.slab.dequeue(&mut stream.next, record);
            if segment.is_empty() {
                self.discard_held(record, Discard::Compared, turn);
            } else {
                stream.secondary.insert(&mut self.slab, record);
            }
        }
    }
}

/// Whether a SYN-ACK of the secondary's answers another SYN of the client's than the primary's does: then
/// it is of another connection on the same ports. Both guests have the client's numbers as they are.
fn answers_another(theirs: &Segment, ours: &Segment) -> bool {
    let both = |flags| theirs.has(flags) && ours.has(flags);
    both(TcpFields::SYN) && both(TcpFields::ACK) && theirs.acknowledgement != ours.acknowledgement
}
