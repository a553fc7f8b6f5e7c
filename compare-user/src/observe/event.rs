//! What happens, as a person or a program is told.

use std::fmt;

use serde::Serialize;

use super::{DivergenceReport, LaneStatus, RelayStatus};

/// Something worth telling; one JSON object per line with `--json`.
///
/// What happens to a comparator and to a relay alike has the same name in both; where they have
/// different things to say about it, there are two variants.
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
    /// The secondary's frames can come no longer.
    LinkLost {
        /// The device or socket that they came from.
        device: String,
        /// What was found.
        cause: String,
        /// What follows, as `--on-link-loss` says: `hold` or `failover`.
        action: &'static str,
    },
    /// They can again. After a failover that changes nothing until `ctl rearm`.
    LinkRestored {
        /// The device or socket.
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
        /// What follows, as `--on-qmp-loss` or `--on-colo-exit` says: `hold` or `failover`.
        action: &'static str,
    },
    /// A relay's programs are attached.
    #[serde(rename = "ready")]
    RelayReady {
        /// What each device obtained.
        devices: Vec<String>,
        /// The control socket.
        control: Option<String>,
    },
    /// A relay was told of a checkpoint: both guests use the same sequence numbers.
    #[serde(rename = "checkpoint-done")]
    OffsetsForgotten {
        /// Connections that had an offset.
        forgotten: u64,
    },
    /// A relay has put the secondary on the network.
    FailedOver {
        /// Connections whose sequence numbers go on being rewritten.
        connections: u64,
    },
    /// A relay's last word, on a clean exit.
    #[serde(rename = "summary")]
    RelaySummary {
        /// The state, as `ctl status` shows it.
        #[serde(flatten)]
        status: Box<RelayStatus>,
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
            Self::Ready { ports, control } => ready(f, ports, control.as_deref()),
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
            Self::Rearmed => f.write_str("two guests again"),
            Self::PortLost { device, cause } => write!(f, "lost {device}: {cause}"),
            Self::PortRestored { device } => write!(f, "{device} is back"),
            Self::LinkLost { device, cause, action } => {
                write!(f, "lost the secondary on {device}: {cause}; {action}")
            }
            Self::LinkRestored { device } => write!(f, "the secondary is back on {device}"),
            Self::PeerConnected { peer } => write!(f, "connected: {peer}"),
            Self::PeerLost { peer, cause } => write!(f, "lost {peer}: {cause}"),
            Self::ColoEnded { cause, action } => write!(f, "COLO has ended: {cause}; {action}"),
            Self::RelayReady { devices, control } => ready(f, devices, control.as_deref()),
            Self::OffsetsForgotten { forgotten } => {
                write!(f, "checkpoint done: {forgotten} connections had an offset")
            }
            Self::FailedOver { connections } => write!(
                f,
                "failed over: the secondary is on the network, {connections} connections keep \
                 their offset"
            ),
            Self::RelaySummary { status } => status.fmt(f),
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

fn ready(f: &mut fmt::Formatter<'_>, obtained: &[String], control: Option<&str>) -> fmt::Result {
    write!(f, "ready: {}", obtained.join(", "))?;
    match control {
        Some(path) => write!(f, "; control socket {path}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(event: &Event) -> Value {
        serde_json::to_value(event).expect("JSON")
    }

    #[test]
    fn a_relay_says_ready_checkpoint_done_and_summary_as_a_comparator_does() {
        let devices = vec!["relay on tap0: native".to_owned()];
        let ready = Event::RelayReady { devices: devices.clone(), control: None };
        assert_eq!(
            written(&ready),
            json!({ "event": "ready", "devices": devices, "control": null })
        );
        let done = Event::OffsetsForgotten { forgotten: 3 };
        assert_eq!(written(&done), json!({ "event": "checkpoint-done", "forgotten": 3 }));
        let failed_over = Event::FailedOver { connections: 2 };
        assert_eq!(written(&failed_over), json!({ "event": "failed-over", "connections": 2 }));
        let summary = Event::RelaySummary { status: Box::default() };
        let summary = written(&summary);
        assert_eq!((&summary["event"], &summary["mode"]), (&json!("summary"), &json!("relaying")));
        assert!(summary.get("qmp").is_none(), "nobody asked for it");
    }
}
