//! A comparator under observation: what goes in is known, what comes out is written down, and
//! when the test ends every frame must be accounted for.

use std::collections::HashMap;
use std::time::Duration;

use compare_user::compare::{
    Amendment, Comparator, Config, Discard, Divergence, Reason, Release, Side, Sink, Timestamp,
};
use compare_user::frame::{FlowKey, Headers, HeapFrame, HeapFrames};

use crate::wire::{Bytes, heap};

/// A divergence as the sink saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) flow: String,
    pub(crate) reason: Reason,
    pub(crate) side: Side,
    pub(crate) offset: u32,
    pub(crate) waited: Duration,
    /// The byte that each exhibit points at; none at the frame's end.
    pub(crate) primary: Option<(Bytes, usize)>,
    pub(crate) secondary: Option<(Bytes, usize)>,
}

/// What the comparator said, in order.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) released: Vec<(Bytes, Release, Amendment)>,
    pub(crate) discarded: Vec<(Side, Discard, Bytes)>,
    pub(crate) divergences: Vec<Seen>,
    pub(crate) requests: usize,
}

impl Sink<HeapFrames> for Record {
    fn release(&mut self, frame: HeapFrame, why: Release, amendment: Amendment) {
        self.released.push((frame.0.into_vec(), why, amendment));
    }

    fn discard(&mut self, frame: HeapFrame, side: Side, why: Discard) {
        self.discarded.push((side, why, frame.0.into_vec()));
    }

    fn diverged(&mut self, _: &HeapFrames, divergence: &Divergence<'_, HeapFrames>) {
        self.divergences.push(Seen {
            flow: divergence.flow.to_string(),
            reason: divergence.reason,
            side: divergence.side,
            offset: divergence.offset,
            waited: divergence.waited,
            primary: divergence.primary.as_ref().map(|shown| (shown.frame.0.to_vec(), shown.at)),
            secondary: divergence
                .secondary
                .as_ref()
                .map(|shown| (shown.frame.0.to_vec(), shown.at)),
        });
    }

    fn checkpoint_wanted(&mut self) {
        self.requests += 1;
    }
}

/// A comparator, its clock, and the record of what it said.
pub(crate) struct Rig {
    pub(crate) comparator: Comparator<HeapFrame>,
    pub(crate) record: Record,
    pub(crate) now: Timestamp,
    offered: Vec<Bytes>,
}

/// Millisecond durations read better in tests.
pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A rig whose configuration differs from a small default.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { flow_limit: 64, held_limit: 4096, ..Config::default() };
        change(&mut config);
        Self {
            comparator: Comparator::new(config),
            record: Record::default(),
            now: Timestamp::ORIGIN,
            offered: Vec::new(),
        }
    }

    pub(crate) fn offer(&mut self, side: Side, frame: impl Into<Bytes>) {
        let frame = frame.into();
        let given = heap(&frame);
        self.offered.push(frame);
        self.comparator.offer(side, given, self.now, &HeapFrames, &mut self.record);
    }

    pub(crate) fn offer_batch(&mut self, side: Side, frames: Vec<Bytes>) {
        let mut given = frames.iter().map(|frame| heap(frame)).collect();
        self.offered.extend(frames);
        self.comparator.offer_batch(side, &mut given, self.now, &HeapFrames, &mut self.record);
        assert!(given.is_empty(), "a batch is taken whole");
    }

    pub(crate) fn primary(&mut self, frame: impl Into<Bytes>) {
        self.offer(Side::Primary, frame);
    }

    pub(crate) fn secondary(&mut self, frame: impl Into<Bytes>) {
        self.offer(Side::Secondary, frame);
    }

    /// The same frame from both, the primary first.
    pub(crate) fn both(&mut self, frame: impl Into<Bytes>) {
        let frame = frame.into();
        self.primary(frame.clone());
        self.secondary(frame);
    }

    /// Lets time pass, with a tick at its end.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.comparator.tick(self.now, &HeapFrames, &mut self.record);
    }

    pub(crate) fn checkpoint(&mut self) {
        self.comparator.checkpoint_done(self.now, &HeapFrames, &mut self.record);
    }

    pub(crate) fn failover(&mut self, survivor: Side) {
        self.comparator.failover(survivor, self.now, &HeapFrames, &mut self.record);
    }

    /// The other end of a connection has reset it at some time, which is told now.
    pub(crate) fn reset_at(&mut self, key: &FlowKey, at: Timestamp) {
        self.comparator.connection_reset(key, at, self.now, &HeapFrames, &mut self.record);
    }

    /// The other end of the connection of `frame` has reset it now.
    pub(crate) fn reset(&mut self, frame: impl Into<Bytes>) {
        let key = Headers::parse(&HeapFrames, &heap(&frame.into())).key;
        self.reset_at(&key, self.now);
    }

    pub(crate) fn shut_down(&mut self) {
        self.comparator.shut_down(self.now, &HeapFrames, &mut self.record);
    }

    /// Frames that left, in order.
    pub(crate) fn released(&self) -> Vec<Bytes> {
        self.record.released.iter().map(|(frame, ..)| frame.clone()).collect()
    }

    /// Why they left.
    pub(crate) fn reasons(&self) -> Vec<Release> {
        self.record.released.iter().map(|(_, why, _)| *why).collect()
    }

    /// Why frames were given back to memory.
    pub(crate) fn discards(&self) -> Vec<(Side, Discard)> {
        self.record.discarded.iter().map(|(side, why, _)| (*side, *why)).collect()
    }

    /// The only divergence.
    pub(crate) fn divergence(&self) -> &Seen {
        let [seen] = self.record.divergences.as_slice() else {
            panic!("expected one divergence: {:?}", self.record.divergences);
        };
        seen
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.record.divergences.is_empty() && self.record.requests == 0
    }

    pub(crate) fn held(&self) -> u32 {
        self.comparator.counters().held()
    }

    /// Every frame that went in came out once or is held: by the counters, and by the bytes that
    /// the sink was given.
    pub(crate) fn assert_conserved(&self) {
        let counters = self.comparator.counters();
        let received = counters.primary_received + counters.secondary_received;
        assert_eq!(received as usize, self.offered.len(), "every frame is counted on arrival");
        let accounted = counters.released
            + counters.discarded
            + counters.lost
            + u64::from(counters.primary_held)
            + u64::from(counters.secondary_held);
        assert_eq!(accounted, received, "received = released + discarded + lost + held");
        assert_eq!(self.record.released.len() as u64, counters.released);
        let lost = self.record.discarded.iter().filter(|(_, why, _)| why.is_loss()).count();
        assert_eq!(lost as u64, counters.lost);
        assert_eq!((self.record.discarded.len() - lost) as u64, counters.discarded);
        assert_eq!(self.record.requests as u64, counters.checkpoint_requests);
        assert_eq!(self.record.divergences.len() as u64, counters.divergences);

        let mut within: HashMap<&[u8], i64> = HashMap::new();
        for frame in &self.offered {
            *within.entry(frame).or_default() += 1;
        }
        let released = self.record.released.iter().map(|(frame, ..)| frame);
        for frame in released.chain(self.record.discarded.iter().map(|(.., frame)| frame)) {
            let left = within.get_mut(frame.as_slice()).expect("only what went in comes out");
            *left -= 1;
            assert!(*left >= 0, "a frame came out twice");
        }
        let still_within: i64 = within.values().sum();
        assert_eq!(still_within as u64, u64::from(counters.held()));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.assert_conserved();
        self.shut_down();
        self.assert_conserved();
        assert_eq!(self.held(), 0, "a clean end leaves nothing held");
    }
}
