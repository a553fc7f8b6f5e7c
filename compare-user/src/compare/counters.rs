//! What the comparator counts.

use serde::Serialize;

/// Totals since the comparator was made, and gauges of what is held now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Primary frames taken in.
    pub primary_received: u64,
    /// Secondary frames taken in.
    pub secondary_received: u64,
    /// Frames released, for whatever reason.
    pub released: u64,
    /// Of these, released because the secondary produced the same.
    pub matched: u64,
    /// Of these, not subject to comparison.
    pub passed: u64,
    /// Of these, released by checkpoint, failover or shutdown.
    pub flushed: u64,
    /// Of these, frames of the secondary, which was behind: acknowledgements, and repetitions of what
    /// had left.
    pub from_slower_secondary: u64,
    /// Frames of either side that contradict themselves.
    pub malformed: u64,
    /// Frames given back to memory: the secondary's (after failover: the lost side's), and of the
    /// primary's those of the next two counts.
    pub discarded: u64,
    /// Acknowledgements of the primary that later ones have replaced.
    pub superseded: u64,
    /// Segments of the primary held in connections that the other end has reset.
    pub reset: u64,
    /// Frames dropped at a limit: output that a guest produced and nobody will see.
    pub lost: u64,
    /// Flows found divergent, counted once per flow and checkpoint.
    pub divergences: u64,
    /// Checkpoint requests made.
    pub checkpoint_requests: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Flows forgotten to make room for new ones.
    pub flows_evicted: u64,
    /// Primary frames held now.
    pub primary_held: u32,
    /// Secondary frames held now.
    pub secondary_held: u32,
    /// Flows tracked now.
    pub flows: u32,
}

impl Counters {
    /// Frames of both sides held now.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.primary_held + self.secondary_held
    }
}
