//! Limits and times of the comparator (DESIGN.md section 4.3 gives the defaults).

use std::time::Duration;

/// When a primary TCP segment without payload may leave.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum AckGate {
    /// Only segments with payload, SYN, FIN or RST wait; a bare ACK leaves at once.
    #[default]
    Payload,
    /// A bare ACK too waits until the secondary has acknowledged as much.
    All,
    /// As `All`, and the acknowledgements of whichever replica is behind are the ones that leave, the
    /// secondary's too: a client then sees what both have, repeats what one of them lacks, and is
    /// told by that one's SACK blocks what that is. For links that may lose a copy of what the
    /// primary has received. The secondary's timestamps must be in the primary's clock, as the relay
    /// makes them.
    Slower,
    /// Acknowledgements are not looked at. For comparing captures, which end before the last
    /// acknowledgement; never on a live path.
    Off,
}

impl AckGate {
    /// Whether a bare ACK has to wait.
    pub(super) fn holds_bare(self) -> bool {
        matches!(self, Self::All | Self::Slower)
    }
}

/// Limits and times. All memory that they ask for is reserved when the comparator is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// Frames held per flow and side, before new ones are dropped.
    pub queue_limit: u16,
    /// Flows tracked at once.
    pub flow_limit: u32,
    /// Frames held at once over all flows and both sides: the share of frame memory that may be
    /// held.
    pub held_limit: u32,
    /// Age at which a held frame of either side is a divergence.
    pub compare_timeout: Duration,
    /// While a checkpoint is outstanding, ask again after this long.
    pub request_interval: Duration,
    /// How long a secondary datagram may wait unmatched beside an unmatched primary head before
    /// that is a divergence; zero reports at once.
    pub reorder_grace: Duration,
    /// When bare acknowledgements may leave.
    pub ack_gate: AckGate,
    /// Seed of the flow and payload hashes. Random in production, so that a client cannot choose
    /// ports that collide; fixed in tests.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_limit: 1024,
            flow_limit: 1 << 20,
            held_limit: 24_576,
            compare_timeout: Duration::from_millis(3000),
            request_interval: Duration::from_millis(1000),
            reorder_grace: Duration::from_millis(2),
            ack_gate: AckGate::Payload,
            seed: 0,
        }
    }
}
