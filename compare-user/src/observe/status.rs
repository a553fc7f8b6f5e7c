//! The state of a lane, as `ctl status` and the final summary show it.

use serde::Serialize;

use crate::compare::{Counters, Side};
use crate::frame::FlowKey;

/// Where the frames of a lane are. Each is in exactly one place, so that the places add up.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Books {
    /// Frames that exist.
    pub total: usize,
    /// Free.
    pub free: usize,
    /// With the kernel for receiving: fill ring, RX ring and between.
    pub receive: usize,
    /// With the kernel for sending: TX ring, completion ring and between.
    pub transmit: usize,
    /// Held by the comparator.
    pub held: usize,
    /// Released, waiting for room on the output port.
    pub pending: usize,
    /// What is missing (or, negative, counted twice): always zero.
    pub unaccounted: i64,
}

impl Books {
    /// Adds the places up.
    #[must_use]
    pub fn balanced(mut self) -> Self {
        let placed = self.free + self.receive + self.transmit + self.held + self.pending;
        let count = |frames: usize| i64::try_from(frames).unwrap_or(i64::MAX);
        self.unaccounted = count(self.total) - count(placed);
        self
    }
}

/// One port.
#[derive(Debug, Clone, Serialize)]
pub struct PortStatus {
    /// Interface, or socket as it was given.
    pub name: String,
    /// What it does in the lane: `primary`, `secondary`, `out`.
    pub role: &'static str,
    /// False after its device was lost and until it is back, or while no peer is connected.
    pub up: bool,
    /// Frames the kernel dropped before they reached the lane.
    pub kernel_dropped: u64,
    /// Everything else that the port counts.
    pub statistics: serde_json::Value,
}

/// The state of a lane.
#[derive(Debug, Clone, Serialize)]
pub struct LaneStatus {
    /// What the comparator counted.
    #[serde(flatten)]
    pub counters: Counters,
    /// Primary and secondary frames held.
    pub held: u32,
    /// Secondary frames that did their work or were dropped with a flush.
    pub secondary_dropped: u64,
    /// Frames that a guest sent and that nobody will see: dropped at a limit or by the kernel.
    pub lost: u64,
    /// Checksums that a guest had left to offload hardware and that the lane completed.
    pub checksums_completed: u64,
    /// Frames longer than the output device sends; dropped.
    pub oversized: u64,
    /// Frames shorter than the output device sends; dropped.
    pub runts: u64,
    /// Released frames that the output had not taken when the run ended; dropped.
    pub unsent: u64,
    /// Divergence reports that nobody took in time.
    pub events_dropped: u64,
    /// While comparison is off: the side whose frames pass.
    pub standalone: Option<Side>,
    /// A checkpoint has been asked for and has not completed.
    pub checkpoint_outstanding: bool,
    /// Where the frames are.
    pub frames: Books,
    /// The ports.
    pub ports: Vec<PortStatus>,
}

/// One flow.
#[derive(Debug, Clone, Serialize)]
pub struct FlowStatus {
    /// The flow.
    pub flow: FlowKey,
    /// Primary frames held.
    pub primary_held: u16,
    /// Secondary frames waiting.
    pub secondary_held: u16,
    /// A divergence was reported since the last checkpoint.
    pub diverged: bool,
}
