//! What happens, as a person or a program is told.

use std::fmt;

use serde::Serialize;

use super::{DivergenceReport, LaneStatus};

/// Something worth telling; one JSON object per line with `--json`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Ports are open, programs attached, the lane runs.
    Ready {
        /// What each port obtained.
        ports: Vec<String>,
        /// The control socket.
        control: Option<String>,
    },
    /// Two outputs are not the same.
    Divergence(Box<DivergenceReport>),
    /// A checkpoint is wanted.
    CheckpointRequested,
    /// A checkpoint completed.
    CheckpointDone {
        /// Primary frames that left.
        released: u64,
        /// Secondary frames that were dropped.
        dropped: u64,
    },
    /// Comparison is off; the survivor's frames pass.
    Standalone {
        /// Which side survives.
        survivor: crate::compare::Side,
        /// Held frames that left.
        released: u64,
    },
    /// Comparison is on again.
    Rearmed,
    /// A device is gone; what is held stays held.
    PortLost {
        /// Interface name.
        device: String,
        /// What the kernel said.
        cause: String,
    },
    /// The device is back in use.
    PortRestored {
        /// Interface name.
        device: String,
    },
    /// Whoever takes checkpoints is there.
    PeerConnected {
        /// Which one, and where.
        peer: String,
    },
    /// It is gone, or was disconnected because it broke the protocol; it is waited for.
    PeerLost {
        /// Which one, and where.
        peer: String,
        /// Why.
        cause: String,
    },
    /// The guests are no longer in COLO, or nobody can say any more whether they are.
    ColoEnded {
        /// What was seen.
        cause: String,
        /// What follows, as `--on-qmp-loss` says: `hold` or `failover`.
        action: &'static str,
    },
    /// The last word, on a clean exit.
    Summary {
        /// Totals of the run.
        #[serde(flatten)]
        status: Box<LaneStatus>,
        /// Frames that are in no known place: zero.
        frames_unaccounted: i64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { ports, control } => {
                write!(f, "ready: {}", ports.join(", "))?;
                match control {
                    Some(path) => write!(f, "; control socket {path}"),
                    None => Ok(()),
                }
            }
            Self::Divergence(report) => write!(f, "divergence: {report}"),
            Self::CheckpointRequested => f.write_str("checkpoint requested"),
            Self::CheckpointDone { released, dropped } => {
                write!(f, "checkpoint done: {released} held frames released, {dropped} dropped")
            }
            Self::Standalone { survivor, released } => write!(
                f,
                "standalone: frames of the {survivor:?} pass uncompared; {released} held frames \
                 released"
            ),
            Self::Rearmed => f.write_str("comparing again"),
            Self::PortLost { device, cause } => write!(f, "lost {device}: {cause}"),
            Self::PortRestored { device } => write!(f, "{device} is back"),
            Self::PeerConnected { peer } => write!(f, "connected: {peer}"),
            Self::PeerLost { peer, cause } => write!(f, "lost {peer}: {cause}"),
            Self::ColoEnded { cause, action } => write!(f, "COLO has ended: {cause}; {action}"),
            Self::Summary { status, frames_unaccounted } => write!(
                f,
                "released {}, of these {} compared equal; divergences {}, checkpoints {}, lost {}, \
                 frames unaccounted for {frames_unaccounted}",
                status.counters.released,
                status.counters.matched,
                status.counters.divergences,
                status.counters.checkpoints,
                status.lost
            ),
        }
    }
}
