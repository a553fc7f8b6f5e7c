//! The rules for TCP (DESIGN.md section 4.1).
//!
//! A primary segment passes two places: the queue by sequence number, until all its bytes have
//! been compared, and the gate, until the secondary has acknowledged as much as it does.

use super::config::AckGate;
use super::content::first_difference;
use super::flow::{Kind, Stream};
use super::held::{NIL, Segment, Slab};
use super::sequence::Sequence;
use super::turn::Turn;
use super::verdict::{Amendment, Discard, Reason, Release, Side};
use super::{Comparator, Finding, Incoming};
use crate::frame::{TcpFields, timestamp};

/// Keeps the latest of the numbers seen so far, if there was one.
#[inline]
pub(super) fn keep_later(known: &mut bool, latest: &mut Sequence, seen: Sequence) {
    *latest = if *known { latest.later(seen) } else { seen };
    *known = true;
}

impl Stream {
    /// Whether the secondary has acknowledged what `segment` acknowledges.
    pub(super) fn acknowledges_enough(&self, segment: &Segment) -> bool {
        if !segment.has(TcpFields::ACK) || segment.has(TcpFields::RST) {
            return true;
        }
        self.known.secondary_acknowledged
            && segment.acknowledgement.at_or_before(self.secondary_acknowledged)
    }

    pub(super) fn note_primary_acknowledgement(&mut self, segment: &Segment) {
        if segment.has(TcpFields::ACK) {
            let known = &mut self.known.primary_acknowledged;
            keep_later(known, &mut self.primary_acknowledged, segment.acknowledgement);
        }
    }

    pub(super) fn note_secondary_acknowledgement(&mut self, segment: &Segment) {
        if segment.has(TcpFields::ACK) {
            let known = &mut self.known.secondary_acknowledged;
            keep_later(known, &mut self.secondary_acknowledged, segment.acknowledgement);
        }
    }

    /// A time that the client has been told of, or will be.
    #[inline]
    pub(super) fn note_timestamp(&mut self, segment: &Segment) {
        if segment.is_timed {
            self.newest = match self.newest {
                Sequence(0) => segment.timestamp,
                newest => newest.later(segment.timestamp),
            };
        }
    }

    /// An acknowledgement has left.
    pub(super) fn note_acknowledgement_left(&mut self, segment: &Segment) {
        if segment.has(TcpFields::ACK) && !segment.has(TcpFields::RST) {
            let known = &mut self.known.acknowledged;
            keep_later(known, &mut self.acknowledged, segment.acknowledgement);
        }
    }

    /// Whether a bare ACK of the secondary tells the client something new that the primary's cannot:
    /// more than has left and no more than both have; or, while something of the primary's waits for
    /// the secondary, that this is still all that it has.
    fn is_told_by_secondary(&self, segment: &Segment) -> bool {
        let number = segment.acknowledgement;
        let both_have =
            self.known.primary_acknowledged && number.at_or_before(self.primary_acknowledged);
        let is_new = self.known.acknowledged && self.acknowledged.before(number);
        let is_repeated = self.known.acknowledged
            && self.acknowledged == number
            && !self.gated.is_empty()
            && number.before(self.primary_acknowledged);
        segment.has(TcpFields::ACK) && both_have && (is_new || is_repeated)
    }

    /// Whether the primary says what came before the first that was seen of it. A comparator that died
    /// may have held just that, so nobody has compared it.
    #[inline]
    fn begins_before_what_was_seen(&self, segment: &Segment) -> bool {
        !self.known.primary_syn && segment.start.before(self.origin)
    }

    /// The stream begins earlier than was thought. What has been compared of it since lies beyond a gap.
    #[cold]
    fn begin_earlier(&mut self, start: Sequence) {
        if self.origin != self.mark {
            self.island = (self.origin, self.mark);
        }
        self.origin = start;
        self.mark = start;
    }

    /// Whether the client must hear from the secondary what both have said: the secondary repeats
    /// itself again and again, and the primary does not.
    ///
    /// Either the client has heard it, and the link has lost its acknowledgement: that now comes once
    /// more. Or it has not, because the primary's segment is longer than the part of it that the
    /// secondary has sent so far: the secondary will not go on before that part is acknowledged.
    fn must_be_repeated(&mut self, segment: &Segment) -> bool {
        let both_said = self.known.mark && segment.end.at_or_before(self.mark);
        let both_have = self.known.primary_acknowledged
            && segment.acknowledgement.at_or_before(self.primary_acknowledged);
        if segment.has(TcpFields::RST) || !both_said || segment.has(TcpFields::ACK) && !both_have {
            return false;
        }
        if segment.is_empty() {
            let has_ended = self.known.primary_end && self.primary_end == segment.end;
            let all_left = self.primary.is_empty() && self.gated.is_empty();
            if !segment.has(TcpFields::FIN) || !has_ended || !all_left {
                return false;
            }
        }
        let start = segment.start.0 as u16;
        let again = self.known.repeated && self.repeated == start;
        self.repeated = start;
        self.known.repeated = true;
        again
    }

    /// Whether the client must hear a SYN-ACK of the secondary's that it has answered already: its
    /// answer, which the link has lost, then comes once more. It must have the primary's, or it would
    /// take this one; it has if the primary has said something since.
    pub(super) fn must_be_challenged(&self) -> bool {
        !self.waits_for_syn() && (!self.primary.is_empty() || !self.gated.is_empty())
    }

    /// A reset follows what is held, whatever lies between: the number of a FIN, which is no byte, or
    /// bytes that were lost and that a guest which resets does not send again.
    fn close_up<F>(&self, segment: Segment, slab: &Slab<F>) -> Segment {
        let last = self.primary.last().map_or(self.mark, |last| slab.get(last).segment.end);
        let is_apart =
            segment.is_empty() && segment.has(TcpFields::RST) && last.before(segment.start);
        if is_apart { segment.moved_to(last) } else { segment }
    }

    /// A SYN of the primary that still waits for the secondary's.
    pub(super) fn waits_for_syn(&self) -> bool {
        self.known.primary_syn && !self.known.secondary_syn && !self.known.syn_shared
    }
}

/// What the two streams say at the compared mark.
enum Step {
    /// Nothing more can be decided now.
    Wait,
    /// The first segment of this side has been compared to its end.
    Compared(Side),
    /// These are to be compared up to here.
    Compare(u32, u32, Sequence),
    /// This side's segment goes on where the other side has ended its stream.
    PastEnd(Side, u32),
}

impl<F> Comparator<F> {
    #[inline]
    pub(super) fn segment(
        &mut self,
        incoming: Incoming<'_, F>,
        fields: &TcpFields,
        turn: &mut impl Turn<F>,
    ) {
        let Some(flow) = self.flow_of(&incoming, &Kind::STREAM, turn.now()) else {
            return self.no_flow(incoming, turn);
        };
        let mut segment = Segment::new(incoming.headers, fields);
        if self.config.ack_gate == AckGate::Slower && !segment.has(TcpFields::SYN) {
            let value = timestamp::value(turn.store(), &incoming.frame, incoming.headers);
            segment.is_timed = value.is_some();
            segment.timestamp = Sequence(value.unwrap_or_default());
        }
        match (incoming.side, segment.has(TcpFields::SYN)) {
            (Side::Primary, false) => self.primary_segment(flow, incoming, segment, turn),
            (Side::Primary, true) => self.primary_syn(flow, incoming, segment, turn),
            (Side::Secondary, false) => self.secondary_segment(flow, incoming, segment, turn),
            (Side::Secondary, true) => {
                self.secondary_syn(flow, incoming, segment, Sequence(fields.sequence), turn);
            }
        }
    }

    #[inline]
    fn primary_segment(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: Segment,
        turn: &mut impl Turn<F>,
    ) {
        let ack_gate = self.config.ack_gate;
        let stream = self.flows.get_mut(flow).stream();
        if !stream.known.mark {
            // Seen first in mid-stream.
            stream.mark = segment.start;
            stream.origin = segment.start;
            stream.known.mark = true;
            // What the secondary said before that finds no partner any more.
            self.advance(flow, turn);
        } else if !segment.is_empty() && stream.begins_before_what_was_seen(&segment) {
            stream.begin_earlier(segment.start);
        }
        let stream = self.flows.get_mut(flow).stream();
        stream.note_primary_acknowledgement(&segment);
        stream.note_timestamp(&segment);
        if segment.has(TcpFields::FIN) {
            stream.primary_end = segment.end;
            stream.known.primary_end = true;
        }
        let enough = ack_gate == AckGate::Off || stream.acknowledges_enough(&segment);
        let ends = segment.has(TcpFields::FIN | TcpFields::RST);
        if segment.is_bare() {
            let head = stream.gated.head;
            let overtakes = head != NIL && !self.slab.get(head).segment.is_bare();
            if !ack_gate.holds_bare() || enough && !overtakes {
                stream.note_acknowledgement_left(&segment);
                return self.release_segment(flow, incoming, &segment, Release::NoPayload, turn);
            }
            if ack_gate == AckGate::Slower && !self.supersede_acknowledgement(flow, &segment, turn)
            {
                return self.discard(incoming.frame, Side::Primary, Discard::Superseded, turn);
            }
            return self.hold_at_gate(flow, incoming, segment, true, turn);
        }
        let nothing_before = stream.primary.is_empty() && stream.gated.is_empty();
        let segment = stream.close_up(segment, &self.slab);
        if segment.is_empty() && segment.has(TcpFields::RST) && nothing_before {
            // All that it follows has left, or was never seen (a refusal carries number zero).
            return self.release_segment(flow, incoming, &segment, Release::NoPayload, turn);
        }
        // A FIN says that the stream ends here: what waits of the secondary's may say otherwise.
        let contradicted = segment.has(TcpFields::FIN) && !stream.secondary.is_empty();
        let follows = ends && (!nothing_before || contradicted);
        if segment.end.at_or_before(stream.mark) && !follows {
            if enough {
                stream.note_acknowledgement_left(&segment);
                stream.known.repeated = false;
                let why =
                    if segment.is_empty() { Release::NoPayload } else { Release::Retransmission };
                return self.release_segment(flow, incoming, &segment, why, turn);
            }
            return self.hold_at_gate(flow, incoming, segment, !ends, turn);
        }
        if stream.primary.is_empty() && self.meet(flow, &incoming, &segment, turn) {
            // What waits for no acknowledgement needs no place in a full queue.
            let stream = self.flows.get_mut(flow).stream();
            if enough && place_at_gate(&self.slab, stream.gated.tail, &segment, false) == NIL {
                stream.note_acknowledgement_left(&segment);
                self.release_segment(flow, incoming, &segment, Release::Matched, turn);
            } else {
                self.hold_at_gate(flow, incoming, segment, false, turn);
            }
        } else if ack_gate == AckGate::Slower && self.repeats_held(flow, &segment) {
            self.discard(incoming.frame, Side::Primary, Discard::Superseded, turn);
        } else if let Some(record) = self.hold(flow, incoming, segment, turn) {
            let stream = self.flows.get_mut(flow).stream();
            // Said again, it may acknowledge more than what came between.
            let last = stream.primary.last().map(|last| self.slab.get(last).segment.end);
            let again = last.is_some_and(|last| segment.end.at_or_before(last));
            self.slab.get_mut(record).yields = again && !ends;
            stream.primary.insert(&mut self.slab, record);
            let alone = stream.secondary.is_empty() && !stream.has_island();
            if alone && !stream.known.secondary_end && !follows {
                // New bytes that nothing can be said of: the ordinary way of a primary ahead.
                return;
            }
        }
        self.advance(flow, turn);
    }

    /// Whether the primary says again what a segment that is held says. That one will leave, with the
    /// time of the latest; of two the client would report one as a duplicate (RFC 2883), from which both
    /// guests conclude that nothing was lost and send nothing again until their next timeout.
    fn repeats_held(&mut self, flow: u32, segment: &Segment) -> bool {
        let waiting = self.flows.get_mut(flow).stream().primary;
        let repeats = |last| segment.start.at_or_before(self.slab.get(last).segment.start);
        waiting.last().is_some_and(repeats)
            && self
                .first_from(&waiting, segment.start)
                .and_then(|first| self.first_that(first, |held| held.says_all_of(segment)))
                .is_some()
    }

    fn hold_at_gate(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: Segment,
        yields: bool,
        turn: &mut impl Turn<F>,
    ) {
        if let Some(record) = self.hold(flow, incoming, segment, turn) {
            self.slab.get_mut(record).yields = yields;
            self.queue_at_gate(flow, record);
        }
    }

    /// Puts a segment at its place among those that wait for the secondary's acknowledgement.
    fn queue_at_gate(&mut self, flow: u32, record: u32) {
        let gated = &mut self.flows.get_mut(flow).stream().gated;
        let placed = self.slab.get(record);
        let after = place_at_gate(&self.slab, gated.tail, &placed.segment, placed.yields);
        self.slab.enqueue_after(gated, after, record);
    }

    #[inline]
    fn secondary_segment(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: Segment,
        turn: &mut impl Turn<F>,
    ) {
        let stream = self.flows.get_mut(flow).stream();
        if !stream.next.is_empty() {
            return self.hold_for_next(flow, incoming, segment, turn);
        }
        if stream.waits_for_syn() {
            // Of the incarnation that the primary has left: its numbers mean nothing in this one.
            return self.discard(incoming.frame, Side::Secondary, Discard::Flushed, turn);
        }
        stream.note_secondary_acknowledgement(&segment);
        if segment.has(TcpFields::FIN) {
            stream.secondary_end = segment.end;
            stream.known.secondary_end = true;
        }
        let old = stream.known.mark && segment.end.at_or_before(stream.mark);
        stream.known.repeated &= segment.is_empty() || old;
        if segment.is_bare() && self.config.ack_gate == AckGate::Slower {
            return self.slower_acknowledgement(flow, incoming, &segment, turn);
        }
        if segment.is_empty() || old {
            // What waits for this acknowledgement goes first.
            self.advance(flow, turn);
            if self.config.ack_gate == AckGate::Slower
                && self.flows.get_mut(flow).stream().must_be_repeated(&segment)
            {
                return self.release_repetition(flow, incoming, &segment, turn);
            }
            let why = if segment.is_empty() { Discard::Compared } else { Discard::Retransmission };
            return self.discard(incoming.frame, Side::Secondary, why, turn);
        } else if self.meet(flow, &incoming, &segment, turn) {
            self.discard(incoming.frame, Side::Secondary, Discard::Compared, turn);
        } else if let Some(record) = self.hold(flow, incoming, segment, turn) {
            let stream = self.flows.get_mut(flow).stream();
            stream.secondary.insert(&mut self.slab, record);
        }
        self.advance(flow, turn);
    }

    /// Releases what the secondary repeats of that which both have said. Nobody has compared this copy of
    /// it: it leaves whole if the primary's segment waits and says the same, and else without payload.
    #[cold]
    fn release_repetition(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: &Segment,
        turn: &mut impl Turn<F>,
    ) {
        let entry = self.flows.get_mut(flow);
        let timestamp = entry.timestamp_for(segment);
        let waiting = entry.stream().primary.first(&self.slab);
        let is_whole = segment.is_empty()
            || waiting.is_some_and(|waiting| self.says_same(waiting, &incoming, segment, turn));
        if let Some(waiting) = waiting.filter(|_| is_whole) {
            self.note_beginning_left(waiting, segment);
        }
        let checksum = incoming.checksum;
        let without_payload = !is_whole;
        let amendment = Amendment { timestamp, without_payload, ..checksum.into() };
        self.release(incoming.frame, Release::Slower, amendment, turn);
    }

    /// Whether a held segment has all that an arriving one says, byte for byte.
    fn says_same(
        &self,
        held: u32,
        incoming: &Incoming<'_, F>,
        segment: &Segment,
        turn: &impl Turn<F>,
    ) -> bool {
        let record = self.slab.get(held);
        let (ours, theirs) = (&record.segment, segment);
        let covers = ours.start.at_or_before(theirs.start) && theirs.end.at_or_before(ours.end);
        // Where the stream ends is for the client to hear from the primary.
        covers
            && !theirs.has(TcpFields::FIN)
            && first_difference(
                turn.store(),
                (&incoming.frame, usize::from(incoming.headers.content)),
                (self.slab.frame(held), record.place(theirs.start)),
                theirs.end.distance_from(theirs.start) as usize,
            )
            .is_none()
    }

    /// A bare ACK of the secondary: first it lets go what of the primary's waits for it; if the
    /// primary has nothing to say that the client may know, it leaves itself.
    fn slower_acknowledgement(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        segment: &Segment,
        turn: &mut impl Turn<F>,
    ) {
        self.advance(flow, turn);
        let entry = self.flows.get_mut(flow);
        let blocked = entry.blocked;
        let stream = entry.stream();
        // What of the primary's waits with payload says as much itself, unless it waits for just what the
        // client has to be told of: that the secondary lacks something. That is so of all at the gate.
        let goes_first = stream.primary.first(&self.slab).is_none_or(|waiting| {
            segment.acknowledgement.before(self.slab.get(waiting).segment.acknowledgement)
        });
        if goes_first && stream.is_told_by_secondary(segment) && !blocked {
            stream.note_acknowledgement_left(segment);
            return self.release_segment(flow, incoming, segment, Release::Slower, turn);
        }
        self.discard(incoming.frame, Side::Secondary, Discard::Compared, turn);
    }

    /// Drops a bare ACK of the primary that waits last: a later one has come, and what lies between
    /// the two is told by the secondary when it has it. False if it is the one that has come that is
    /// the earlier.
    fn supersede_acknowledgement(
        &mut self,
        flow: u32,
        segment: &Segment,
        turn: &mut impl Turn<F>,
    ) -> bool {
        let stream = self.flows.get_mut(flow).stream();
        let tail = stream.gated.tail;
        if tail == NIL || !self.slab.get(tail).segment.is_bare() {
            return true;
        }
        if segment.acknowledgement.before(self.slab.get(tail).segment.acknowledgement) {
            return false;
        }
        self.slab.dequeue(&mut stream.gated, tail);
        self.discard_held(tail, Discard::Superseded, turn);
        true
    }

    /// Compares an arriving segment with what the other side has waiting from the mark on. True
    /// if all of it was found equal, so that it need not be held: it takes no place in a full
    /// queue, and ordinary traffic holds only one frame of each pair. What ends a stream, and a
    /// difference, is left to [`Self::advance`], which finds it with both frames held.
    #[inline]
    fn meet(
        &mut self,
        flow: u32,
        incoming: &Incoming<'_, F>,
        segment: &Segment,
        turn: &mut impl Turn<F>,
    ) -> bool {
        let blocked = self.flows.get(flow).blocked;
        let stream = self.flows.get_mut(flow).stream();
        let ready = stream.known.mark && !stream.waits_for_syn() && !blocked;
        if !ready || segment.has(TcpFields::FIN | TcpFields::RST) {
            return false;
        }
        loop {
            let stream = self.flows.get_mut(flow).stream();
            let mark = stream.mark;
            let waiting = match incoming.side {
                Side::Primary => stream.secondary.first(&self.slab),
                Side::Secondary => stream.primary.first(&self.slab),
            };
            let Some(waiting) = waiting else { return false };
            let held = self.slab.get(waiting);
            let other = held.segment;
            if !segment.spans(mark)
                || !other.spans(mark)
                || other.has(TcpFields::FIN | TcpFields::RST)
            {
                return false;
            }
            if self.is_to_accompany(flow, incoming.side, segment, &other) {
                return false;
            }
            let until = segment.end.earlier(other.end);
            let own_place =
                usize::from(incoming.headers.content) + mark.distance_from(segment.start) as usize;
            let place = held.place(mark);
            let found = first_difference(
                turn.store(),
                (&incoming.frame, own_place),
                (self.slab.frame(waiting), place),
                until.distance_from(mark) as usize,
            );
            if found.is_some() {
                return false;
            }
            let stream = self.flows.get_mut(flow).stream();
            stream.mark = until;
            stream.note_timestamp(segment);
            stream.note_timestamp(&other);
            if other.end == until {
                self.compared(flow, incoming.side.other(), turn);
            }
            if segment.end == until {
                return true;
            }
        }
    }

    /// Compares as far as both streams reach, then opens the gate as far as the secondary has
    /// acknowledged.
    #[inline]
    pub(super) fn advance(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            match self.step(flow) {
                Step::Wait => {
                    self.release_beyond_gap(flow, turn);
                    break;
                }
                Step::Compared(side) => self.compared(flow, side, turn),
                Step::Compare(ours, theirs, until) => {
                    if !self.compare(flow, ours, theirs, until, turn) {
                        break;
                    }
                }
                Step::PastEnd(side, record) => {
                    self.past_end(flow, side, record, turn);
                    break;
                }
            }
        }
        self.open_gate(flow, turn);
    }

    /// The first segment of `side` has been compared to its end.
    #[inline]
    fn compared(&mut self, flow: u32, side: Side, turn: &mut impl Turn<F>) {
        let stream = self.flows.get_mut(flow).stream();
        let queue = match side {
            Side::Primary => &mut stream.primary,
            Side::Secondary => &mut stream.secondary,
        };
        let Some(first) = queue.remove_first(&mut self.slab) else { return };
        match side {
            Side::Primary => self.pass_gate(flow, first, turn),
            Side::Secondary => {
                if !self.accompanies(flow, first, turn) {
                    self.discard_held(first, Discard::Compared, turn);
                }
            }
        }
    }

    /// Looks at the first segment of each side and the mark.
    #[inline]
    fn step(&mut self, flow: u32) -> Step {
        let entry = self.flows.get_mut(flow);
        let blocked = entry.blocked;
        let stream = entry.stream();
        if !stream.known.mark || stream.waits_for_syn() {
            return Step::Wait;
        }
        stream.cross_island();
        let mark = stream.mark;
        let theirs = stream.secondary.first(&self.slab);
        if let Some(record) = theirs
            && self.slab.get(record).segment.end.at_or_before(mark)
        {
            return Step::Compared(Side::Secondary);
        }
        let ours = stream.primary.first(&self.slab);
        if let Some(record) = ours
            && self.slab.get(record).segment.end.at_or_before(mark)
        {
            let segment = self.slab.get(record).segment;
            return match theirs {
                Some(theirs) if segment.has(TcpFields::FIN) && segment.end == mark => {
                    if blocked {
                        Step::Wait
                    } else {
                        Step::PastEnd(Side::Secondary, theirs)
                    }
                }
                _ => Step::Compared(Side::Primary),
            };
        }
        if blocked {
            return Step::Wait;
        }
        // From here on both first segments, if any, have bytes above the mark.
        let at_mark = |record: u32| self.slab.get(record).segment.start.at_or_before(mark);
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if at_mark(ours) && at_mark(theirs) => {
                let until =
                    self.slab.get(ours).segment.end.earlier(self.slab.get(theirs).segment.end);
                Step::Compare(ours, theirs, until)
            }
            (Some(ours), _)
                if stream.known.secondary_end && stream.secondary_end.at_or_before(mark) =>
            {
                Step::PastEnd(Side::Primary, ours)
            }
            (_, Some(theirs))
                if stream.known.primary_end && stream.primary_end.at_or_before(mark) =>
            {
                Step::PastEnd(Side::Secondary, theirs)
            }
            _ => Step::Wait,
        }
    }

    /// Compares both streams from the mark up to `until` and moves the mark there. False if they
    /// differ.
    #[inline]
    fn compare(
        &mut self,
        flow: u32,
        ours: u32,
        theirs: u32,
        until: Sequence,
        turn: &mut impl Turn<F>,
    ) -> bool {
        let (mark, origin) = {
            let stream = self.flows.get_mut(flow).stream();
            (stream.mark, stream.origin)
        };
        let [our_place, their_place] =
            [ours, theirs].map(|record| self.slab.get(record).place(mark));
        let found = first_difference(
            turn.store(),
            (self.slab.frame(ours), our_place),
            (self.slab.frame(theirs), their_place),
            until.distance_from(mark) as usize,
        );
        let entry = self.flows.get_mut(flow);
        let Some(at) = found else {
            let stream = entry.stream();
            stream.mark = until;
            stream.note_timestamp(&self.slab.get(theirs).segment);
            return true;
        };
        // The bytes before the difference are equal; the mark says so.
        let equal = u32::try_from(at).unwrap_or(u32::MAX);
        entry.stream().mark = mark.advanced(equal);
        entry.blocked = true;
        let finding = Finding {
            reason: Reason::Payload,
            side: Side::Secondary,
            offset: mark.advanced(equal).distance_from(origin),
            primary: Some((ours, our_place + at)),
            secondary: Some((theirs, their_place + at)),
        };
        self.diverge(flow, finding, turn);
        false
    }

    #[cold]
    fn past_end(&mut self, flow: u32, side: Side, record: u32, turn: &mut impl Turn<F>) {
        let held = self.slab.get(record);
        let (start, segment) = (held.span.start(), held.segment);
        let entry = self.flows.get_mut(flow);
        entry.blocked = true;
        let stream = entry.stream();
        let from = stream.mark.later(segment.start);
        let offset = from.distance_from(stream.origin);
        let exhibit = Some((record, start + from.distance_from(segment.start) as usize));
        let (primary, secondary) = match side {
            Side::Primary => (exhibit, None),
            Side::Secondary => (None, exhibit),
        };
        let reason = Reason::StreamEnd;
        let finding = Finding { reason, side: side.other(), offset, primary, secondary };
        self.diverge(flow, finding, turn);
    }

    /// A primary segment whose bytes are compared: it leaves, or waits for the secondary's
    /// acknowledgement behind those that wait already.
    #[inline]
    fn pass_gate(&mut self, flow: u32, record: u32, turn: &mut impl Turn<F>) {
        let segment = self.slab.get(record).segment;
        let open = self.config.ack_gate == AckGate::Off;
        let stream = self.flows.get_mut(flow).stream();
        if open || stream.gated.is_empty() && stream.acknowledges_enough(&segment) {
            stream.note_acknowledgement_left(&segment);
            self.release_held(record, released_as(&segment), turn);
        } else {
            self.queue_at_gate(flow, record);
        }
    }

    #[inline]
    fn open_gate(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            let entry = self.flows.get_mut(flow);
            let blocked = entry.blocked;
            let stream = entry.stream();
            let head = stream.gated.head;
            if head == NIL {
                return;
            }
            let segment = self.slab.get(head).segment;
            let contradicted = blocked && segment.has(TcpFields::FIN);
            if contradicted || !stream.acknowledges_enough(&segment) {
                return;
            }
            stream.note_acknowledgement_left(&segment);
            self.slab.dequeue(&mut stream.gated, head);
            self.release_held(head, released_as(&segment), turn);
        }
    }
}

/// How a segment that has had its turn is counted.
fn released_as(segment: &Segment) -> Release {
    if segment.is_empty() && !segment.has(TcpFields::SYN) {
        Release::NoPayload
    } else {
        Release::Matched
    }
}

/// Behind which of those that wait for the secondary's acknowledgement a segment has its place, or
/// [`NIL`]: in the order in which they can leave, but that what is new stays in stream order, and an
/// end behind the data that it follows.
fn place_at_gate<F>(slab: &Slab<F>, tail: u32, placed: &Segment, yields: bool) -> u32 {
    let ends = placed.has(TcpFields::FIN | TcpFields::RST);
    let mut after = tail;
    while after != NIL {
        let waiting = slab.get(after);
        // A reset waits for no acknowledgement.
        let acknowledges_more = placed.has(TcpFields::RST)
            || placed.acknowledgement.before(waiting.segment.acknowledgement);
        let steps_back = match ends {
            true => waiting.segment.is_bare(),
            false => waiting.yields || yields,
        };
        if !acknowledges_more || !steps_back {
            break;
        }
        after = slab.before(after);
    }
    after
}
