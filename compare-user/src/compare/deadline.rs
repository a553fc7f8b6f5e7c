//! What happens because time passes.

use super::flow::Kind;
use super::held::{NIL, Role};
use super::turn::{Call, Turn};
use super::verdict::{Discard, Reason, Side, Sink};
use super::{Comparator, Finding, Timestamp};
use crate::frame::FrameStore;

impl<F> Comparator<F> {
    /// Finds what is due: held frames past the timeout, datagrams past their grace, an
    /// unanswered checkpoint request. Call it every few milliseconds; its cost depends on how
    /// much is due, not on how many flows there are.
    pub fn tick<S, K>(&mut self, now: Timestamp, store: &S, sink: &mut K)
    where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        let turn = &mut Call { store, sink, now };
        self.settle_contested(turn);
        self.release_parts(turn);
        self.expire_held(turn);
        self.forget_ghosts(turn);
        self.ask_again(turn);
    }

    fn settle_contested(&mut self, turn: &mut impl Turn<F>) {
        while let Some(&(flow, since)) = self.contested.front() {
            if turn.now().since(since) <= self.config.reorder_grace {
                return;
            }
            self.contested.pop_front();
            // The slot may belong to another flow by now; settling that one does no harm.
            if let Kind::Datagrams(datagrams) = &mut self.flows.get_mut(flow).kind
                && std::mem::take(&mut datagrams.contested)
            {
                self.settle(flow, turn);
            }
        }
    }

    fn expire_held(&mut self, turn: &mut impl Turn<F>) {
        loop {
            let record = self.slab.waiting.head;
            if record == NIL {
                return;
            }
            let held = self.slab.get(record);
            let (flow, span, segment) = (held.flow, held.span, held.segment);
            let is_compared = held.companion != NIL;
            if turn.now().since(held.arrived) < self.config.compare_timeout {
                return;
            }
            let side = if held.role == Role::Frame(Side::Primary) {
                Side::Primary
            } else {
                Side::Secondary
            };
            if side == Side::Secondary && self.excuse(flow, record, turn) {
                self.remove_secondary_datagram(flow, record);
                self.discard_held(record, Discard::LateCopy, turn);
                continue;
            }
            if side == Side::Secondary && is_compared {
                // It has been compared.
                self.discard_held(record, Discard::Compared, turn);
                continue;
            }
            self.slab.expire_oldest();
            let offset = match &self.flows.get(flow).kind {
                Kind::Stream(stream) => segment.start.distance_from(stream.origin),
                Kind::Datagrams(_) => 0,
            };
            let exhibit = Some((record, span.start()));
            let (primary, secondary) = match side {
                Side::Primary => (exhibit, None),
                Side::Secondary => (None, exhibit),
            };
            let finding = Finding { reason: Reason::Timeout, side, offset, primary, secondary };
            self.diverge(flow, finding, turn);
        }
    }

    fn forget_ghosts(&mut self, turn: &mut impl Turn<F>) {
        // A copy that arrives within one timeout of the flush is asked about at the latest one
        // timeout after that.
        let lifetime = self.config.compare_timeout * 2;
        while self.slab.ghosts.head != NIL
            && turn.now().since(self.slab.get(self.slab.ghosts.head).arrived) > lifetime
        {
            self.slab.forget_ghost(self.slab.ghosts.head);
        }
    }

    fn ask_again(&mut self, turn: &mut impl Turn<F>) {
        if let Some(asked) = self.requested
            && turn.now().since(asked) >= self.config.request_interval
        {
            self.requested = None;
            self.request(turn);
        }
    }
}
