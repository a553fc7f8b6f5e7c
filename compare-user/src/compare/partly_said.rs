//! A TCP segment of the primary's of which the secondary has said the beginning, and not gone on.
//!
//! Where the two cut the stream at different places, the segments of one end within those of the other.
//! That is nothing in a stream that flows. But after a retransmission timeout a guest sends one segment and
//! waits until all of it is acknowledged (RFC 5681 section 3.1). The client acknowledges what has left, that
//! is where a segment of the *primary's* ends; the rest of the secondary's segment is the beginning of the
//! primary's next, which waits for the secondary to go on: each waits for the other until the secondary's
//! next timeout, and so for every segment of a window that was lost.
//!
//! So, where the slower replica's segments leave, the secondary's segment stays with the primary's, as its
//! *companion*, and if the secondary has not gone on within the grace, it leaves in its place: cut off what
//! left before. The primary's leaves later without that beginning: a client that gets bytes twice says so
//! (RFC 2883), from which both guests conclude that nothing had been lost.

use super::Comparator;
use super::config::AckGate;
use super::content::first_difference;
use super::flow::Kind;
use super::held::{NIL, Role, Segment};
use super::sequence::Sequence;
use super::turn::Turn;
use super::verdict::{Amendment, Checksum, Discard, Release, Side};
use crate::frame::{Headers, TcpFields};

/// Companions that can wait for their time at once; beyond that, the secondary's next timeout helps.
pub(super) const AT_ONCE: usize = 1 << 14;

impl<F> Comparator<F> {
    /// Whether the secondary's of two segments at the mark, one of which arrives on `side`, ends within
    /// the primary's: then both are held.
    #[inline]
    pub(super) fn is_to_accompany(
        &self,
        flow: u32,
        side: Side,
        arriving: &Segment,
        waiting: &Segment,
    ) -> bool {
        if self.config.ack_gate != AckGate::Slower || arriving.end == waiting.end {
            return false;
        }
        let (ours, theirs) = match side {
            Side::Primary => (arriving, waiting),
            Side::Secondary => (waiting, arriving),
        };
        let has_room =
            !self.slab.is_full() && self.flows.get(flow).held(side) < self.config.queue_limit;
        theirs.end.before(ours.end) && has_room
    }

    /// Keeps a segment of the secondary's that has been compared to its end with the primary's first, if it
    /// has said the beginning of that one. False if it has done its work.
    #[inline]
    pub(super) fn accompanies(&mut self, flow: u32, record: u32, turn: &mut impl Turn<F>) -> bool {
        if self.config.ack_gate != AckGate::Slower {
            return false;
        }
        let waiting = self.flows.get_mut(flow).stream().primary;
        let Some(waiting) = waiting.first(&self.slab) else { return false };
        let (ours, theirs) = (self.slab.get(waiting), self.slab.get(record).segment);
        let fits = ours.companion == NIL && ours.is_begun_by(&theirs);
        let has_room = self.partly_said.len() < self.partly_said.capacity();
        if !fits || !has_room || !theirs.is_plain() || !ours.segment.is_plain() {
            return false;
        }
        self.slab.get_mut(waiting).companion = record;
        let companion = self.slab.get_mut(record);
        companion.companion = waiting;
        companion.joined = turn.now();
        self.partly_said.push_back((flow, turn.now()));
        true
    }

    /// One of two companions goes. What the primary's segment had is dropped with it.
    #[cold]
    pub(super) fn part_company(&mut self, record: u32, turn: &mut impl Turn<F>) {
        let other = std::mem::replace(&mut self.slab.get_mut(record).companion, NIL);
        self.slab.get_mut(other).companion = NIL;
        if self.slab.get(record).role == Role::Frame(Side::Primary) {
            self.discard_held(other, Discard::Compared, turn);
        }
    }

    /// Releases companions whose time has come.
    pub(super) fn release_parts(&mut self, turn: &mut impl Turn<F>) {
        while let Some(&(flow, since)) = self.partly_said.front() {
            if turn.now().since(since) <= self.config.reorder_grace {
                return;
            }
            self.partly_said.pop_front();
            self.release_part(flow, turn);
        }
    }

    /// Releases the companion of a flow's first segment, if there is one and it may leave.
    fn release_part(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        let entry = self.flows.get_mut(flow);
        // The slot may belong to another flow by now, or what it held has been flushed.
        if entry.blocked || entry.epoch != self.epoch {
            return;
        }
        let Kind::Stream(stream) = &mut entry.kind else { return };
        let Some(waiting) = stream.primary.first(&self.slab) else { return };
        let ours = self.slab.get(waiting);
        let companion = ours.companion;
        if companion == NIL {
            return;
        }
        let (theirs, joined) = (self.slab.get(companion).segment, self.slab.get(companion).joined);
        if turn.now().since(joined) <= self.config.reorder_grace {
            // A later one, whose time comes.
            return;
        }
        let both_have = !theirs.has(TcpFields::ACK)
            || stream.known.primary_acknowledged
                && theirs.acknowledgement.at_or_before(stream.primary_acknowledged);
        if !theirs.end.at_or_before(stream.mark) {
            // The stream was found to begin earlier: this lies beyond a gap.
            return;
        }
        if !stream.gated.is_empty() || !both_have {
            self.partly_said.push_back((flow, turn.now()));
            return;
        }
        let from = ours.rest();
        // Said again, it may have left meanwhile. And what the primary has said again need not have been
        // compared with this copy.
        if !theirs.spans(from) || !self.is_same_from(from, waiting, companion, turn) {
            return self.discard_held(companion, Discard::Compared, turn);
        }
        let without_first = from.distance_from(theirs.start);
        self.note_beginning_left(waiting, &theirs);
        // Judged on arrival as one that would not leave.
        let headers = Headers::parse(turn.store(), self.slab.frame(companion));
        let checksum = Checksum::of(turn.store(), self.slab.frame(companion), &headers);
        let timestamp = self.flows.get_mut(flow).timestamp_for(&theirs);
        let (frame, ..) = self.let_go(companion, turn);
        let amendment = Amendment { checksum, timestamp, without_payload: false, without_first };
        self.release(frame, Release::Slower, amendment, turn);
    }

    /// Whether the secondary's segment says the same as the primary's, from here to its end.
    fn is_same_from(&self, from: Sequence, ours: u32, theirs: u32, turn: &impl Turn<F>) -> bool {
        let [our, their] = [ours, theirs]
            .map(|record| (self.slab.frame(record), self.slab.get(record).place(from)));
        let length = self.slab.get(theirs).segment.end.distance_from(from) as usize;
        first_difference(turn.store(), our, their, length).is_none()
    }

    /// The client gets a segment of the secondary's: what that has of the beginning of the primary's waiting
    /// one will not leave again.
    pub(super) fn note_beginning_left(&mut self, waiting: u32, theirs: &Segment) {
        let ours = self.slab.get_mut(waiting);
        if ours.is_begun_by(theirs) {
            ours.left = theirs.end.distance_from(ours.segment.start);
        }
    }
}
