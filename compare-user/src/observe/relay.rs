//! The state of a relay, as `ctl status` and the final summary show it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::kernel::ConnectionCounts;

/// What a relay does with the secondary's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelayMode {
    /// They go to the comparator, over the link.
    #[default]
    Relaying,
    /// They go to the network.
    FailedOver,
}

/// Frames with one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counted {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The state of a relay.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RelayStatus {
    /// Relaying, or failed over.
    pub mode: RelayMode,
    /// What the programs counted, by device and outcome.
    pub devices: BTreeMap<String, BTreeMap<&'static str, Counted>>,
    /// The sequence rewriter.
    pub connections: ConnectionCounts,
    /// The guest's Ethernet addresses, given or learned.
    pub guest_macs: Vec<String>,
    /// The secondary QEMU, with `--qmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qmp: Option<Value>,
}

impl fmt::Display for RelayStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets: u64 =
            self.devices.values().flat_map(BTreeMap::values).map(|counted| counted.packets).sum();
        let mode = match self.mode {
            RelayMode::Relaying => "relaying",
            RelayMode::FailedOver => "failed over",
        };
        let tracked = self.connections.tracked;
        write!(f, "{mode}: {packets} frames, {tracked} connections tracked")
    }
}
