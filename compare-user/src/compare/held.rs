//! The frames that the comparator holds: one slab of records, threaded by index into the lists
//! that each rule needs. Nothing here allocates after construction.
//!
//! A record is on at most one *age list* (all held frames in order of arrival, so that deadlines
//! are found from the front at a cost that does not grow with the number of flows), at most one
//! *queue* of its flow, and at most one of the content index (datagrams) or a straggler heap
//! (TCP); the latter two share their link fields.

use super::clock::Timestamp;
use super::content::Span;
use super::sequence::Sequence;
use super::verdict::{Checksum, Side};
use crate::frame::{Headers, TcpFields};

/// Index that points nowhere.
pub(super) const NIL: u32 = u32::MAX;

/// What a record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Unused.
    Free,
    /// A frame of this side.
    Frame(Side),
    /// No frame any more: the hash of a datagram that a flush released, kept to recognise the
    /// secondary's late copy.
    Ghost,
}

/// TCP fields of a held segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Segment {
    /// First payload byte (of a SYN: the number after the SYN's own).
    pub(super) start: Sequence,
    /// One past the last payload byte.
    pub(super) end: Sequence,
    pub(super) acknowledgement: Sequence,
    /// The sender's time (RFC 7323), if it `is_timed`.
    pub(super) timestamp: Sequence,
    /// The flags byte of the header.
    pub(super) flags: u8,
    /// It has a timestamp that matters: there are none of SYNs, and only where the slower replica's
    /// acknowledgements leave.
    pub(super) is_timed: bool,
}

impl Role {
    /// Where content of this role is indexed. Ghosts lie apart from frames: of a flow that
    /// repeats itself there may be thousands with the hash of a live frame.
    fn indexed_as(self, hash: u64) -> u64 {
        if self == Self::Ghost { !hash } else { hash }
    }
}

impl Segment {
    const EMPTY: Self = Self {
        start: Sequence(0),
        end: Sequence(0),
        acknowledgement: Sequence(0),
        timestamp: Sequence(0),
        flags: 0,
        is_timed: false,
    };

    pub(super) fn new(headers: &Headers, fields: &TcpFields) -> Self {
        let syn = u32::from(fields.flags & TcpFields::SYN != 0);
        let start = Sequence(fields.sequence).advanced(syn);
        Self {
            start,
            end: start.advanced(headers.end - u32::from(headers.content)),
            acknowledgement: Sequence(fields.acknowledgement),
            flags: fields.flags,
            ..Self::EMPTY
        }
    }

    /// Whether whoever gets this segment need not get `other`, which came later.
    pub(super) fn says_all_of(&self, other: &Self) -> bool {
        let ends = TcpFields::SYN | TcpFields::FIN | TcpFields::RST;
        self.start == other.start
            && self.end == other.end
            && self.flags & (ends | TcpFields::ACK) == other.flags & (ends | TcpFields::ACK)
            && other.acknowledgement.at_or_before(self.acknowledgement)
    }

    /// The same segment at another place of the stream.
    pub(super) fn moved_to(self, start: Sequence) -> Self {
        Self { start, end: start.advanced(self.end.distance_from(self.start)), ..self }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it neither begins nor ends its stream.
    pub(super) fn is_plain(&self) -> bool {
        !self.has(TcpFields::SYN | TcpFields::FIN | TcpFields::RST)
    }

    /// Whether it is an acknowledgement and nothing else.
    pub(super) fn is_bare(&self) -> bool {
        self.is_empty() && self.is_plain()
    }

    /// Whether the byte at `mark` is part of the payload.
    #[inline]
    pub(super) fn spans(&self, mark: Sequence) -> bool {
        self.start.at_or_before(mark) && mark.before(self.end)
    }
}

/// One held frame, or a ghost.
#[derive(Debug)]
pub(super) struct Held<F> {
    pub(super) frame: Option<F>,
    pub(super) role: Role,
    /// Past the compare timeout, and reported.
    pub(super) expired: bool,
    /// Waits at the gate for itself only: an acknowledgement, or bytes that are there or have left
    /// already.
    pub(super) yields: bool,
    /// In the content index.
    indexed: bool,
    /// Of a waiting primary segment: the secondary's that has said its beginning, and of that one the
    /// primary's (`partly_said.rs`). [`NIL`] for all others.
    pub(super) companion: u32,
    /// Since when it is a companion.
    pub(super) joined: Timestamp,
    /// Bytes from the beginning of a waiting primary segment that have left, from a companion.
    pub(super) left: u32,
    pub(super) checksum: Checksum,
    pub(super) flow: u32,
    pub(super) arrived: Timestamp,
    pub(super) span: Span,
    pub(super) segment: Segment,
    /// Content hash, once needed.
    pub(super) hash: u64,
    age: Links,
    queue: Links,
    /// Content index: previous and next of the same bucket. Straggler heap: first child and next
    /// sibling.
    pub(super) tree: Links,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    pub(super) previous: u32,
    pub(super) next: u32,
}

const UNLINKED: Links = Links { previous: NIL, next: NIL };

impl<F> Held<F> {
    /// Where in its frame a segment has the byte at `at`, which is not before its start.
    #[inline]
    pub(super) fn place(&self, at: Sequence) -> usize {
        self.span.start() + at.distance_from(self.segment.start) as usize
    }

    /// Where what has not left of a waiting primary segment begins.
    #[inline]
    pub(super) fn rest(&self) -> Sequence {
        self.segment.start.advanced(self.left)
    }

    /// Whether a segment of the secondary's has bytes from the beginning of what has not left of this one,
    /// and ends within it.
    #[inline]
    pub(super) fn is_begun_by(&self, theirs: &Segment) -> bool {
        theirs.spans(self.rest()) && theirs.end.before(self.segment.end)
    }
}

/// Ends of a doubly linked list of records.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(super) fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

impl<F> Held<F> {
    const UNUSED: Self = Self {
        frame: None,
        role: Role::Free,
        expired: false,
        yields: false,
        indexed: false,
        companion: NIL,
        joined: Timestamp::ORIGIN,
        left: 0,
        checksum: Checksum::AsFound,
        flow: 0,
        arrived: Timestamp::ORIGIN,
        span: Span::EMPTY,
        segment: Segment::EMPTY,
        hash: 0,
        age: UNLINKED,
        queue: UNLINKED,
        tree: UNLINKED,
    };
}

/// Everything needed to hold a frame.
#[derive(Debug)]
pub(super) struct Arrival<F> {
    pub(super) frame: F,
    pub(super) side: Side,
    pub(super) flow: u32,
    pub(super) now: Timestamp,
    pub(super) span: Span,
    pub(super) segment: Segment,
    pub(super) checksum: Checksum,
}

/// Selects which links of a record a list uses.
type Thread<F> = fn(&mut Held<F>) -> &mut Links;

/// The slab, its age lists and the content index.
#[derive(Debug)]
pub(super) struct Slab<F> {
    records: Vec<Held<F>>,
    /// Free records, chained by `queue.next`.
    free: u32,
    limit: usize,
    /// Frames held now.
    frames: usize,
    /// Held frames younger than the timeout, oldest first.
    pub(super) waiting: List,
    /// Held frames past the timeout, oldest first; all older than any in `waiting`.
    pub(super) expired: List,
    /// Ghosts, oldest first.
    pub(super) ghosts: List,
    /// Content index: bucket heads. The head's `previous` is the bucket's tail, so that equal
    /// contents are found first in, first out.
    buckets: Box<[u32]>,
}

impl<F> Slab<F> {
    /// Room for `limit` held frames, and half as many ghosts.
    pub(super) fn new(limit: u32) -> Self {
        let limit = limit as usize;
        let records = limit + limit / 2;
        let buckets = records.next_power_of_two().max(64);
        Self {
            records: Vec::with_capacity(records),
            free: NIL,
            limit,
            frames: 0,
            waiting: List::EMPTY,
            expired: List::EMPTY,
            ghosts: List::EMPTY,
            buckets: vec![NIL; buckets].into_boxed_slice(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames == self.limit
    }

    #[inline]
    pub(super) fn get(&self, record: u32) -> &Held<F> {
        &self.records[record as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, record: u32) -> &mut Held<F> {
        &mut self.records[record as usize]
    }

    /// The frame of a record that holds one.
    #[inline]
    pub(super) fn frame(&self, record: u32) -> &F {
        self.get(record).frame.as_ref().expect("a record in a flow's queue holds a frame")
    }

    /// Stores a frame and puts it at the young end of the age list.
    ///
    /// # Panics
    /// When the slab is full; callers ask [`Slab::is_full`] first.
    #[inline]
    pub(super) fn hold(&mut self, arrival: Arrival<F>) -> u32 {
        assert!(!self.is_full(), "held frames stay within their limit");
        let record = self.take_free();
        // Field by field: a record is two cache lines, and moving it whole costs more than all
        // else that is done here.
        let held = self.get_mut(record);
        held.frame = Some(arrival.frame);
        held.role = Role::Frame(arrival.side);
        held.expired = false;
        held.yields = false;
        held.indexed = false;
        held.companion = NIL;
        held.left = 0;
        held.checksum = arrival.checksum;
        held.flow = arrival.flow;
        held.arrived = arrival.now;
        held.span = arrival.span;
        held.segment = arrival.segment;
        self.frames += 1;
        let mut waiting = self.waiting;
        self.append(&mut waiting, record, |held| &mut held.age);
        self.waiting = waiting;
        record
    }

    fn take_free(&mut self) -> u32 {
        if self.free != NIL {
            let record = self.free;
            self.free = self.get(record).queue.next;
            return record;
        }
        if self.records.len() == self.records.capacity() {
            // Every record is a frame or a ghost, and frames are within their limit.
            let oldest = self.ghosts.head;
            self.forget_ghost(oldest);
            return self.take_free();
        }
        let record = u32::try_from(self.records.len()).expect("the held limit is a u32");
        self.records.push(Held::UNUSED);
        record
    }

    /// Takes the frame out of a record that is no longer in any queue, and frees the record.
    #[inline]
    pub(super) fn take(&mut self, record: u32) -> F {
        self.leave_age_list(record);
        self.unindex(record);
        self.frames -= 1;
        let held = self.get_mut(record);
        let frame = held.frame.take().expect("a record is taken once");
        self.put_free(record);
        frame
    }

    fn put_free(&mut self, record: u32) {
        let free = self.free;
        let held = self.get_mut(record);
        held.role = Role::Free;
        held.queue.next = free;
        self.free = record;
    }

    fn leave_age_list(&mut self, record: u32) {
        let from_expired = self.get(record).expired;
        let mut list = if from_expired { self.expired } else { self.waiting };
        self.unlink(&mut list, record, |held| &mut held.age);
        if from_expired {
            self.expired = list;
        } else {
            self.waiting = list;
        }
    }

    /// Marks the oldest waiting record as past its deadline.
    pub(super) fn expire_oldest(&mut self) {
        let record = self.waiting.head;
        self.leave_age_list(record);
        self.get_mut(record).expired = true;
        let mut expired = self.expired;
        self.append(&mut expired, record, |held| &mut held.age);
        self.expired = expired;
    }

    /// The oldest held frame of all.
    pub(super) fn oldest(&self) -> Option<u32> {
        [self.expired.head, self.waiting.head].into_iter().find(|&record| record != NIL)
    }

    /// All held frames, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &F> {
        [self.expired.head, self.waiting.head].into_iter().flat_map(move |head| {
            std::iter::successors((head != NIL).then_some(head), move |&record| {
                Some(self.get(record).age.next).filter(|&next| next != NIL)
            })
            .map(move |record| self.frame(record))
        })
    }

    /// Leaves the hash of a flushed datagram behind, for the secondary's late copy.
    pub(super) fn leave_ghost(&mut self, flow: u32, hash: u64, now: Timestamp) {
        let spare = self.records.capacity() - self.records.len();
        if self.free == NIL && spare == 0 && self.ghosts.is_empty() {
            return;
        }
        let record = self.take_free();
        let ghost = self.get_mut(record);
        ghost.role = Role::Ghost;
        ghost.indexed = false;
        ghost.flow = flow;
        ghost.arrived = now;
        ghost.hash = Role::Ghost.indexed_as(hash);
        self.index(record);
        let mut ghosts = self.ghosts;
        self.append(&mut ghosts, record, |held| &mut held.age);
        self.ghosts = ghosts;
    }

    pub(super) fn forget_ghost(&mut self, record: u32) {
        let mut ghosts = self.ghosts;
        self.unlink(&mut ghosts, record, |held| &mut held.age);
        self.ghosts = ghosts;
        self.unindex(record);
        self.put_free(record);
    }

    /// Appends a record to a queue of its flow.
    #[inline]
    pub(super) fn enqueue(&mut self, queue: &mut List, record: u32) {
        self.append(queue, record, |held| &mut held.queue);
    }

    /// Puts a record into a queue of its flow, behind `before`; in front of all if that is `NIL`.
    pub(super) fn enqueue_after(&mut self, queue: &mut List, before: u32, record: u32) {
        let next = if before == NIL { queue.head } else { self.after(before) };
        self.get_mut(record).queue = Links { previous: before, next };
        *if before == NIL { &mut queue.head } else { &mut self.get_mut(before).queue.next } =
            record;
        *if next == NIL { &mut queue.tail } else { &mut self.get_mut(next).queue.previous } =
            record;
    }

    /// Takes a record out of a queue of its flow.
    #[inline]
    pub(super) fn dequeue(&mut self, queue: &mut List, record: u32) {
        self.unlink(queue, record, |held| &mut held.queue);
    }

    /// The record before `record` in its queue.
    pub(super) fn before(&self, record: u32) -> u32 {
        self.get(record).queue.previous
    }

    /// The record after `record` in its queue.
    pub(super) fn after(&self, record: u32) -> u32 {
        self.get(record).queue.next
    }

    #[inline]
    fn append(&mut self, list: &mut List, record: u32, thread: Thread<F>) {
        *thread(self.get_mut(record)) = Links { previous: list.tail, next: NIL };
        if list.tail == NIL {
            list.head = record;
        } else {
            thread(self.get_mut(list.tail)).next = record;
        }
        list.tail = record;
    }

    #[inline]
    fn unlink(&mut self, list: &mut List, record: u32, thread: Thread<F>) {
        let Links { previous, next } = *thread(self.get_mut(record));
        if previous == NIL {
            list.head = next;
        } else {
            thread(self.get_mut(previous)).next = next;
        }
        if next == NIL {
            list.tail = previous;
        } else {
            thread(self.get_mut(next)).previous = previous;
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        // The high half: multiplication leaves it the better mixed.
        (hash >> 32) as usize & (self.buckets.len() - 1)
    }

    /// Puts a record, whose hash is set, into the content index, behind its equals.
    pub(super) fn index(&mut self, record: u32) {
        let bucket = self.bucket(self.get(record).hash);
        let head = self.buckets[bucket];
        if head == NIL {
            self.get_mut(record).tree = Links { previous: record, next: NIL };
            self.buckets[bucket] = record;
        } else {
            let tail = self.get(head).tree.previous;
            self.get_mut(tail).tree.next = record;
            self.get_mut(record).tree = Links { previous: tail, next: NIL };
            self.get_mut(head).tree.previous = record;
        }
        self.get_mut(record).indexed = true;
    }

    fn unindex(&mut self, record: u32) {
        if !self.get(record).indexed {
            return;
        }
        self.get_mut(record).indexed = false;
        let bucket = self.bucket(self.get(record).hash);
        let Links { previous, next } = self.get(record).tree;
        let head = self.buckets[bucket];
        if head == record {
            self.buckets[bucket] = next;
        } else {
            self.get_mut(previous).tree.next = next;
        }
        // The tail is found through the head: keep that link right.
        if next != NIL {
            self.get_mut(next).tree.previous = previous;
        } else if head != record {
            self.get_mut(head).tree.previous = previous;
        }
    }

    /// The oldest indexed record of this role, flow and hash for which `accept` holds.
    pub(super) fn find(
        &self,
        role: Role,
        flow: u32,
        hash: u64,
        mut accept: impl FnMut(&Held<F>) -> bool,
    ) -> Option<u32> {
        let hash = role.indexed_as(hash);
        let mut record = self.buckets[self.bucket(hash)];
        while record != NIL {
            let held = self.get(record);
            if held.hash == hash && held.flow == flow && held.role == role && accept(held) {
                return Some(record);
            }
            record = held.tree.next;
        }
        None
    }

    /// Frames held now, of both sides.
    #[cfg(test)]
    pub(super) fn frames(&self) -> usize {
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(frame: u32, flow: u32) -> Arrival<u32> {
        Arrival {
            frame,
            side: Side::Secondary,
            flow,
            now: Timestamp::default(),
            span: Span::default(),
            segment: Segment::default(),
            checksum: Checksum::AsFound,
        }
    }

    fn hold_indexed(slab: &mut Slab<u32>, frame: u32, hash: u64) -> u32 {
        let record = slab.hold(arrival(frame, 1));
        slab.get_mut(record).hash = hash;
        slab.index(record);
        record
    }

    #[test]
    fn equal_contents_are_found_first_in_first_out() {
        let mut slab = Slab::new(8);
        for frame in 0..4 {
            hold_indexed(&mut slab, frame, 7 << 32);
        }
        for frame in 0..4 {
            let found = slab.find(Role::Frame(Side::Secondary), 1, 7 << 32, |_| true);
            assert_eq!(slab.take(found.expect("still indexed")), frame);
        }
        assert_eq!(slab.find(Role::Frame(Side::Secondary), 1, 7 << 32, |_| true), None);
    }

    #[test]
    fn leaving_the_index_from_any_place_keeps_the_others_findable() {
        for leaver in 0..3 {
            let mut slab = Slab::new(8);
            let records: Vec<u32> =
                (0..3).map(|frame| hold_indexed(&mut slab, frame, 9 << 32)).collect();
            slab.take(records[leaver]);
            let added = hold_indexed(&mut slab, 9, 9 << 32);
            let mut left = Vec::new();
            while let Some(found) = slab.find(Role::Frame(Side::Secondary), 1, 9 << 32, |_| true) {
                left.push(slab.take(found));
            }
            let mut expected: Vec<u32> = (0..3).filter(|&frame| frame as usize != leaver).collect();
            expected.push(9);
            assert_eq!(left, expected, "leaver {leaver}, added as record {added}");
        }
    }

    #[test]
    fn ghosts_make_room_for_frames() {
        let mut slab = Slab::new(4);
        for flow in 0..100 {
            slab.leave_ghost(flow, u64::from(flow) << 32, Timestamp::default());
        }
        let records: Vec<u32> = (0..4).map(|frame| slab.hold(arrival(frame, 0))).collect();
        assert!(slab.is_full());
        assert_eq!(slab.oldest(), Some(records[0]));
    }
}
