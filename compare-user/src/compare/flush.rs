//! Checkpoint, failover, rearm and shutdown.

use super::flow::Kind;
use super::held::{List, NIL, Role};
use super::segments::Segments;
use super::stream::keep_later;
use super::turn::{Call, Turn};
use super::verdict::{Checksum, Discard, Release, Side, Sink};
use super::{Comparator, Timestamp};
use crate::frame::{FlowKey, FrameStore, Headers};

impl<F> Comparator<F> {
    /// The guests are equal: every held primary frame leaves, oldest first; every waiting
    /// secondary frame is dropped; TCP marks move to the end of what was released.
    pub fn checkpoint_done<S, K>(&mut self, now: Timestamp, store: &S, sink: &mut K)
    where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        self.counters.checkpoints += 1;
        self.flush(Side::Primary, &mut Call { store, sink, now });
    }

    /// One side is lost: what the survivor has held leaves, and from now on its frames pass
    /// uncompared, until [`Comparator::rearm`].
    pub fn failover<S, K>(&mut self, survivor: Side, now: Timestamp, store: &S, sink: &mut K)
    where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        self.flush(survivor, &mut Call { store, sink, now });
        self.standalone = Some(survivor);
    }

    /// The other end has reset a connection at `at`, and both guests have had the time to say what they
    /// had begun to say: what is held of it is dropped, for one guest may have said more than the other.
    /// A connection that has begun since on the same ports is left alone.
    pub fn connection_reset<S, K>(
        &mut self,
        key: &FlowKey,
        at: Timestamp,
        now: Timestamp,
        store: &S,
        sink: &mut K,
    ) where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        let Some(flow) = self.flows.find(key) else { return };
        self.bring_up_to_date(flow);
        if let Kind::Stream(stream) = &self.flows.get(flow).kind
            && (!stream.known.primary_syn || at.moment().wrapping_sub(stream.begun) as i32 >= 0)
        {
            self.drop_held(flow, &mut Call { store, sink, now });
        }
    }

    /// Drops what both sides have held of a stream.
    fn drop_held(&mut self, flow: u32, turn: &mut impl Turn<F>) {
        loop {
            let stream = self.flows.get_mut(flow).stream();
            let record = match stream.gated.head {
                NIL => stream
                    .primary
                    .remove_first(&mut self.slab)
                    .or_else(|| stream.secondary.remove_first(&mut self.slab)),
                gated => {
                    self.slab.dequeue(&mut stream.gated, gated);
                    Some(gated)
                }
            };
            let Some(record) = record else { return };
            self.discard_held(record, Discard::Reset, turn);
        }
    }

    /// Two equal guests run again: compare from here on. What was known of the streams is
    /// forgotten, because it is out of date.
    pub fn rearm(&mut self) {
        if self.standalone.take().is_some() {
            self.epoch += 1;
            self.rearmed = self.epoch;
        }
    }

    /// Releases everything held, so that nothing is lost when the comparator ends.
    pub fn shut_down<S, K>(&mut self, now: Timestamp, store: &S, sink: &mut K)
    where
        S: FrameStore<Frame = F>,
        K: Sink<S>,
    {
        let survivor = self.standalone.unwrap_or(Side::Primary);
        self.flush(survivor, &mut Call { store, sink, now });
    }

    /// Empties every queue: frames of `survivor` leave, those of the other side are dropped.
    fn flush(&mut self, survivor: Side, turn: &mut impl Turn<F>) {
        self.epoch += 1;
        self.requested = None;
        self.table_reported = false;
        self.contested.clear();
        self.partly_said.clear();
        while let Some(record) = self.slab.oldest() {
            let flow = self.slab.get(record).flow;
            self.bring_up_to_date(flow);
            let leaves = self.slab.get(record).role == Role::Frame(survivor);
            let ghost = if leaves { self.note_flushed(record, turn) } else { None };
            if leaves {
                if survivor == Side::Secondary {
                    // Judged on arrival as one that would not leave.
                    let headers = Headers::parse(turn.store(), self.slab.frame(record));
                    let checksum = Checksum::of(turn.store(), self.slab.frame(record), &headers);
                    self.slab.get_mut(record).checksum = checksum;
                }
                self.release_held(record, Release::Flushed, turn);
            } else {
                self.discard_held(record, Discard::Flushed, turn);
            }
            if let Some(hash) = ghost {
                self.slab.leave_ghost(flow, hash, turn.now());
            }
        }
    }

    /// Moves the TCP mark past a segment that is about to be flushed; of a datagram, returns the
    /// hash by which its late copy is recognised.
    fn note_flushed(&mut self, record: u32, turn: &mut impl Turn<F>) -> Option<u64> {
        let held = self.slab.get(record);
        let (flow, segment) = (held.flow, held.segment);
        match &mut self.flows.get_mut(flow).kind {
            Kind::Stream(stream) => {
                if stream.known.mark {
                    stream.mark = stream.mark.later(segment.end);
                }
                stream.note_acknowledgement_left(&segment);
                None
            }
            Kind::Datagrams(_) => Some(self.ghost_hash(record, turn.store())),
        }
    }

    /// By what the late copy of a datagram is recognised: its content and its flow. Not the flow's slot
    /// alone, which may be another flow's by then.
    pub(super) fn ghost_hash(&mut self, record: u32, store: &impl FrameStore<Frame = F>) -> u64 {
        let held = self.slab.get(record);
        let (flow, span) = (held.flow, held.span);
        let content = self.hasher.hash(store, self.slab.frame(record), &span, flow);
        content ^ self.flows.hash(&self.flows.get(flow).key)
    }

    /// Applies to a flow what happened to all flows since it was last touched. Costs nothing at
    /// the checkpoint itself, however many flows there are.
    #[inline]
    pub(super) fn bring_up_to_date(&mut self, flow: u32) {
        let entry = self.flows.get_mut(flow);
        if entry.epoch == self.epoch {
            return;
        }
        let forget = entry.epoch < self.rearmed;
        entry.epoch = self.epoch;
        entry.reported = false;
        entry.blocked = false;
        match &mut entry.kind {
            Kind::Stream(_) if forget => entry.kind = Kind::STREAM,
            Kind::Datagrams(_) if forget => entry.kind = Kind::DATAGRAMS,
            Kind::Stream(stream) => {
                // Whatever was queued is being flushed, by the walk in order of age.
                stream.primary = Segments::EMPTY;
                stream.secondary = Segments::EMPTY;
                stream.gated = List::EMPTY;
                stream.next = List::EMPTY;
                if stream.has_island() {
                    // The client has it, and acknowledges it once it has what lay before.
                    stream.mark = stream.mark.later(stream.island.1);
                    stream.island.1 = stream.island.0;
                }
                stream.known.repeated = false;
                stream.known.primary_end = false;
                stream.known.secondary_end = false;
                stream.known.syn_shared = stream.known.primary_syn;
                // The secondary is the primary now: it has received what the primary has.
                if stream.known.primary_acknowledged {
                    let known = &mut stream.known.secondary_acknowledged;
                    keep_later(
                        known,
                        &mut stream.secondary_acknowledged,
                        stream.primary_acknowledged,
                    );
                }
            }
            Kind::Datagrams(datagrams) => {
                datagrams.primary = List::EMPTY;
                datagrams.secondary = List::EMPTY;
                datagrams.unindexed = NIL;
                datagrams.contested = false;
            }
        }
    }
}
