//! What simulations have exercised. An oracle that never meets a case proves nothing of it: a batch in
//! which a counter stays zero that ought to move has failed.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Debug, Clone, Default)]
pub struct Coverage(BTreeMap<&'static str, u64>);

/// What a thousand seeds must all meet.
pub const EXPECTED: &[&str] = &[
    "released: matched",
    "released: retransmission",
    "released: without what has left",
    "released: no payload",
    "released: passed",
    "released: malformed",
    "released: flushed",
    "released: standalone",
    "released: superseded",
    "released: secondary's acknowledgement",
    "released: secondary's end again",
    "released: secondary's beginning of what waits",
    "released: secondary's repetition",
    "released: secondary's repetition, without payload",
    "released: secondary's SYN-ACK",
    "released: beyond a gap",
    "dropped: compared",
    "dropped: retransmission",
    "dropped: late copy",
    "dropped: superseded acknowledgement",
    "dropped: reset connection",
    "dropped: full queue",
    "dropped: full memory",
    "dropped: full flow table",
    "reported: payload",
    "reported: length",
    "reported: stream end",
    "reported: timeout",
    "reported: full queue",
    "reported: full memory",
    "reported: full flow table",
    "requests",
    "requests repeated",
    "checkpoints",
    "failovers to the primary",
    "failovers to the secondary",
    "rearmed",
    "resets told",
    "flows evicted",
    "flows seen in mid-stream",
    "flows that begin earlier than was seen",
    "incarnations",
    "incarnations begun by the secondary",
    "sequence numbers wrapped",
    "acknowledgements wrapped",
    "FIN released",
    "RST released",
    "window probes",
    "fragments",
    "tagged frames",
    "IPv6 frames",
    "partial checksums",
    "differences planted",
    "differences found",
    "frames lost by the network",
    "frames twice",
    "frames late",
    "frames damaged",
    "frames dropped at a ring",
    "link failures",
    "output stalls",
    "lane stalls",
    "streams ended well",
    "gates closed",
    "timeouts due",
];

impl Coverage {
    /// One more.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// So many more.
    pub fn add(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Adds another simulation's.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            self.add(what, *count);
        }
    }

    /// What should have been met and was not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        EXPECTED.iter().copied().filter(|what| !self.0.contains_key(what)).collect()
    }

    /// All counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, count)| (*what, *count))
    }
}
