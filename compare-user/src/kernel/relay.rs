//! The programs on the secondary's host, which carry frames between the link and the guest.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use compare_ebpf::Tally;
use serde::Serialize;

use super::attach::Mode;
use super::error::KernelError;
use super::tunnel::TunnelSpec;

/// What to relay.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The secondary guest's device.
    pub guest: String,
    /// The link to the primary's host.
    pub link: String,
    /// The NIC that the guest's frames use after failover.
    pub nic: Option<String>,
    /// The guest's addresses; none if they are learned from what it sends.
    pub guest_macs: Vec<[u8; 6]>,
    /// The tunnel that the link is.
    pub tunnel: Option<TunnelSpec>,
    /// Native or generic.
    pub mode: Mode,
    /// Connections with an offset that are remembered.
    pub connections: u32,
    /// How long a connection without traffic is remembered.
    pub idle_timeout: Duration,
    /// Directory on a bpffs for what outlives the process.
    pub pin: Option<PathBuf>,
    /// Lets the programs log.
    pub debug: bool,
}

/// A change of the relay's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange {
    /// A device is gone.
    Lost {
        /// Interface name.
        device: String,
        /// What was found.
        cause: String,
    },
    /// It is back, with its program on it.
    Restored {
        /// Interface name.
        device: String,
    },
}

/// What the sequence rewriter knows and has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionCounts {
    /// Connections that fit.
    pub limit: u32,
    /// Connections with an offset learned since the last checkpoint.
    pub tracked: u64,
}

/// The relay.
pub struct Relay(Infallible);

#[allow(missing_docs, reason = "replaced by the programs' own module")]
#[allow(clippy::missing_errors_doc, reason = "as above")]
impl Relay {
    pub fn attach(options: RelayOptions) -> Result<Self, KernelError> {
        Err(KernelError::failed(options.guest, "attaching the relay", "no such program"))
    }

    #[must_use]
    pub fn obtained(&self) -> Vec<String> {
        match self.0 {}
    }

    pub fn checkpoint(&mut self) -> Result<u64, KernelError> {
        match self.0 {}
    }

    pub fn fail_over(&mut self) -> Result<u64, KernelError> {
        match self.0 {}
    }

    pub fn rearm(&mut self) -> Result<(), KernelError> {
        match self.0 {}
    }

    #[must_use]
    pub fn failed_over(&self) -> bool {
        match self.0 {}
    }

    pub fn maintain(&mut self) -> Vec<DeviceChange> {
        match self.0 {}
    }

    #[allow(clippy::type_complexity, reason = "devices, each with its outcomes")]
    pub fn outcomes(&self) -> Result<Vec<(String, Vec<(&'static str, Tally)>)>, KernelError> {
        match self.0 {}
    }

    pub fn connections(&mut self) -> Result<ConnectionCounts, KernelError> {
        match self.0 {}
    }

    pub fn guest_macs(&self) -> Result<Vec<[u8; 6]>, KernelError> {
        match self.0 {}
    }

    pub fn drain_debug_log(&mut self) {
        match self.0 {}
    }

    pub fn detach(self) -> Result<(), KernelError> {
        match self.0 {}
    }

    pub fn leave(self) {
        match self.0 {}
    }
}
