//! The rules for datagrams: UDP, ICMP, fragments, every other protocol (DESIGN.md section 4.2).
//!
//! Primary frames leave in order of arrival. The head is compared with the oldest waiting
//! secondary frame first: in ordered traffic that is its partner, and nothing is ever hashed. Only
//! when it is not are the waiting frames put into the content index, each once.

use super::content::{Difference, Span, compared_header, datagram_difference, same_datagram};
use super::flow::Kind;
use super::held::{Held, List, NIL, Role, Segment, Slab};
use super::turn::Turn;
use super::verdict::{Discard, Reason, Release, Side};
use super::{Comparator, Finding, Incoming};
use crate::frame::FrameStore;

/// A primary datagram that looks for its partner.
enum Ours<'a, F> {
    Arriving(&'a F, &'a Span),
    Held(u32),
}

impl<F> Ours<'_, F> {
    fn view<'a>(&'a self, slab: &'a Slab<F>) -> (&'a F, &'a Span) {
        match self {
            Self::Arriving(frame, span) => (frame, span),
            Self::Held(record) => (slab.frame(*record), &slab.get(*record).span),
        }
    }
}

impl<F> Comparator<F> {
    #[inline]
    pub(super) fn datagram(&mut self, incoming: Incoming<'_, F>, turn: &mut impl Turn<F>) {
        let Some(flow) = self.flow_of(&incoming, &Kind::DATAGRAMS, turn.now()) else {
            return self.no_flow(incoming, turn);
        };
        match incoming.side {
            Side::Primary => self.primary_datagram(flow, incoming, turn),
            Side::Secondary => self.secondary_datagram(flow, incoming, turn),
        }
    }

    #[inline]
    fn primary_datagram(&mut self, flow: u32, incoming: Incoming<'_, F>, turn: &mut impl Turn<F>) {
        if self.flows.get_mut(flow).datagrams().primary.is_empty() {
            let span = Span::new(incoming.headers);
            let ours = Ours::Arriving(&incoming.frame, &span);
            if let Some(partner) = self.partner(flow, &ours, turn.store()) {
                self.remove_secondary_datagram(flow, partner);
                self.discard_held(partner, Discard::Compared, turn);
                let amendment = incoming.checksum.into();
                return self.release(incoming.frame, Release::Matched, amendment, turn);
            }
        }
        if let Some(record) = self.hold(flow, incoming, Segment::default(), turn) {
            let datagrams = self.flows.get_mut(flow).datagrams();
            self.slab.enqueue(&mut datagrams.primary, record);
            self.contest(flow, turn);
        }
    }

    #[inline]
    fn secondary_datagram(
        &mut self,
        flow: u32,
        incoming: Incoming<'_, F>,
        turn: &mut impl Turn<F>,
    ) {
        let head = self.flows.get_mut(flow).datagrams().primary.head;
        if head != NIL {
            let ours = (self.slab.frame(head), &self.slab.get(head).span);
            let theirs = (&incoming.frame, &Span::new(incoming.headers));
            if same_datagram(turn.store(), ours, theirs) {
                self.release_head(flow, turn);
                self.discard(incoming.frame, Side::Secondary, Discard::Compared, turn);
                return self.match_heads(flow, turn);
            }
        }
        if self.flows.get(flow).held(Side::Secondary) >= self.config.queue_limit {
            self.drop_late_copies(flow, turn);
        }
        if let Some(record) = self.hold(flow, incoming, Segment::default(), turn) {
            let datagrams = self.flows.get_mut(flow).datagrams();
            self.slab.enqueue(&mut datagrams.secondary, record);
            if datagrams.unindexed == NIL {
                datagrams.unindexed = record;
            }
            self.contest(flow, turn);
        }
    }

    /// Releases the head of the primary queue.
    #[inline]
    fn release_head(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        let datagrams = self.flows.get_mut(flow).datagrams();
        let head = datagrams.primary.head;
        self.slab.dequeue(&mut datagrams.primary, head);
        self.release_held(head, Release::Matched, turn);
    }

    /// Releases heads for as long as they find partners among the waiting secondary frames.
    #[inline]
    fn match_heads(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            let datagrams = self.flows.get_mut(flow).datagrams();
            let head = datagrams.primary.head;
            if head == NIL || datagrams.secondary.is_empty() {
                return;
            }
            let Some(partner) = self.partner(flow, &Ours::Held(head), turn.store()) else {
                return self.contest(flow, turn);
            };
            self.remove_secondary_datagram(flow, partner);
            self.discard_held(partner, Discard::Compared, turn);
            self.release_head(flow, turn);
        }
    }

    /// The waiting secondary frame that is the same output as `ours`; of several the oldest.
    #[inline]
    fn partner(
        &mut self,
        flow: u32,
        ours: &Ours<'_, F>,
        store: &impl FrameStore<Frame = F>,
    ) -> Option<u32> {
        let datagrams = self.flows.get_mut(flow).datagrams();
        let List { head: oldest, tail: youngest } = datagrams.secondary;
        if oldest == NIL {
            return None;
        }
        // Of several that are in the index already, one is found there as fast.
        let direct = oldest == datagrams.unindexed || oldest == youngest;
        if direct && self.is_same(store, ours, self.slab.get(oldest)) {
            return Some(oldest);
        }
        if !self.index_waiting(flow, store) {
            return None;
        }
        let (frame, span) = ours.view(&self.slab);
        let hash = self.hasher.hash(store, frame, span, flow);
        let role = Role::Frame(Side::Secondary);
        self.slab.find(role, flow, hash, |waiting| self.is_same(store, ours, waiting))
    }

    #[inline]
    fn is_same(
        &self,
        store: &impl FrameStore<Frame = F>,
        ours: &Ours<'_, F>,
        waiting: &Held<F>,
    ) -> bool {
        let theirs = waiting.frame.as_ref().expect("waiting records hold a frame");
        same_datagram(store, ours.view(&self.slab), (theirs, &waiting.span))
    }

    /// Puts what waits and is not yet indexed into the content index. False if nothing but the
    /// head waits: that one has been compared already.
    fn index_waiting(&mut self, flow: u32, store: &impl FrameStore<Frame = F>) -> bool {
        let datagrams = self.flows.get_mut(flow).datagrams();
        if datagrams.secondary.head == datagrams.secondary.tail {
            return false;
        }
        let mut record = std::mem::replace(&mut datagrams.unindexed, NIL);
        while record != NIL {
            let span = self.slab.get(record).span;
            let hash = self.hasher.hash(store, self.slab.frame(record), &span, flow);
            self.slab.get_mut(record).hash = hash;
            self.slab.index(record);
            record = self.slab.after(record);
        }
        true
    }

    /// Takes a record out of the queue of waiting secondary datagrams.
    #[inline]
    pub(super) fn remove_secondary_datagram(&mut self, flow: u32, record: u32) {
        let datagrams = self.flows.get_mut(flow).datagrams();
        if datagrams.unindexed == record {
            datagrams.unindexed = self.slab.after(record);
        }
        self.slab.dequeue(&mut datagrams.secondary, record);
    }

    /// Notes that both queues of a flow hold frames that do not match: either the partner of the
    /// head comes within the grace, or that is a divergence.
    #[inline]
    fn contest(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        let entry = self.flows.get_mut(flow);
        let reported = entry.reported;
        let datagrams = entry.datagrams();
        if reported || datagrams.contested {
            return;
        }
        if !datagrams.primary.is_empty() && !datagrams.secondary.is_empty() {
            self.settle(flow, turn);
        }
    }

    /// Decides a flow whose head has no partner: a divergence once the oldest waiting secondary
    /// frame has waited longer than the grace, else to be looked at again.
    pub(super) fn settle(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            let datagrams = self.flows.get_mut(flow).datagrams();
            let (ours, theirs) = (datagrams.primary.head, datagrams.secondary.head);
            if ours == NIL || theirs == NIL {
                return;
            }
            let waited = turn.now().since(self.slab.get(theirs).arrived);
            let grace = self.config.reorder_grace;
            if !grace.is_zero() && waited <= grace {
                datagrams.contested = true;
                if self.contested.len() == self.contested.capacity() {
                    self.forget_uncontested();
                }
                self.contested.push_back((flow, turn.now()));
                return;
            }
            if self.excuse(flow, theirs, turn) {
                self.remove_secondary_datagram(flow, theirs);
                self.discard_held(theirs, Discard::LateCopy, turn);
                continue;
            }
            return self.datagrams_differ(flow, ours, theirs, turn);
        }
    }

    /// Makes room in the queue of contested flows: those that still are hold two frames at least,
    /// so that they fit, however many came and went within the grace.
    #[cold]
    fn forget_uncontested(&mut self) {
        let flows = &mut self.flows;
        self.contested.retain(|&(flow, _)| match &mut flows.get_mut(flow).kind {
            Kind::Datagrams(datagrams) => {
                let still = !datagrams.primary.is_empty() && !datagrams.secondary.is_empty();
                datagrams.contested &= still;
                still
            }
            Kind::Stream(_) => false,
        });
    }

    fn datagrams_differ(&mut self, flow: u32, ours: u32, theirs: u32, turn: &mut impl Turn<F>) {
        let (our_span, their_span) = (self.slab.get(ours).span, self.slab.get(theirs).span);
        let difference = datagram_difference(
            turn.store(),
            (self.slab.frame(ours), &our_span),
            (self.slab.frame(theirs), &their_span),
        );
        let (reason, at) = match difference {
            Some(Difference::Byte(at)) => (Reason::Payload, at),
            // The same as the oldest, yet unmatched: cannot be, as the head was just tried.
            None | Some(Difference::Length) => (Reason::Length, 0),
        };
        let skipped = compared_header(&self.flows.get(flow).key);
        let finding = Finding {
            reason,
            side: Side::Secondary,
            offset: u32::try_from(at.saturating_sub(skipped)).unwrap_or(u32::MAX),
            primary: Some((ours, our_span.start() + at)),
            secondary: Some((theirs, their_span.start() + at)),
        };
        self.diverge(flow, finding, turn);
    }

    /// Whether a waiting secondary datagram is the late copy of one that a flush released; if
    /// so, that ghost is used up. Asked only when the frame would otherwise be a divergence: as
    /// long as it may still match a primary frame of the same content, it does.
    pub(super) fn excuse(&mut self, flow: u32, record: u32, turn: &mut impl Turn<F>) -> bool {
        if self.slab.ghosts.is_empty() || !matches!(self.flows.get(flow).kind, Kind::Datagrams(_)) {
            return false;
        }
        let arrived = self.slab.get(record).arrived;
        let hash = self.ghost_hash(record, turn.store());
        let timeout = self.config.compare_timeout;
        let ghost = self
            .slab
            .find(Role::Ghost, flow, hash, |ghost| arrived.since(ghost.arrived) <= timeout);
        if let Some(ghost) = ghost {
            self.slab.forget_ghost(ghost);
        }
        ghost.is_some()
    }

    /// Makes room in a full secondary queue by dropping late copies from its old end.
    #[cold]
    fn drop_late_copies(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            let oldest = self.flows.get_mut(flow).datagrams().secondary.head;
            if oldest == NIL || !self.excuse(flow, oldest, turn) {
                return;
            }
            self.remove_secondary_datagram(flow, oldest);
            self.discard_held(oldest, Discard::LateCopy, turn);
        }
    }
}
