//! What a socket port counts.

use serde::Serialize;

use super::framing::Fault;
use super::link::Condition;

/// Totals since the port was opened, by cause.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// How far the connection is.
    pub connection: Option<Condition>,
    /// Frames received, or sent whole.
    pub frames: u64,
    /// Bytes received or sent, framing included.
    pub bytes: u64,
    /// Connections that came about.
    pub connections: u64,
    /// Connections that ended, whoever ended them.
    pub disconnections: u64,
    /// Of these, ended here because the peer sent a frame of length zero.
    pub faults_empty: u64,
    /// The same, for a frame beyond the largest.
    pub faults_too_long: u64,
    /// The same, for a vnet header that cannot be.
    pub faults_header: u64,
    /// Frames whose connection ended before they did: discarded, or on an output sent again whole.
    pub partial_frames: u64,
    /// Bytes that the peer of an output sent; ignored.
    pub bytes_ignored: u64,
    /// Times that reading stopped because frame memory was short: the peer waits.
    pub memory_waits: u64,
    /// Times that a peer took no more.
    pub peer_waits: u64,
    /// System calls that receive.
    pub receive_calls: u64,
    /// System calls that send.
    pub send_calls: u64,
}

impl Statistics {
    pub(super) fn count_fault(&mut self, fault: Fault) {
        let counter = match fault {
            Fault::Empty => &mut self.faults_empty,
            Fault::TooLong { .. } => &mut self.faults_too_long,
            Fault::Header { .. } => &mut self.faults_header,
        };
        *counter += 1;
    }
}
