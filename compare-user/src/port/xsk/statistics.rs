//! What a socket has counted, in the kernel and here.

use serde::Serialize;
use xsk_rs::socket::XdpStatistics;

/// Counts of one port since it was opened: the kernel's own of the socket, and ours.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Interface name.
    pub device: String,
    /// Receive and transmit queue.
    pub queue: u32,
    /// The kernel's counters of the socket.
    pub kernel: KernelStatistics,
    /// Ours.
    pub port: PortStatistics,
}

/// `struct xdp_statistics` of a socket. Every count but the last is of frames lost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KernelStatistics {
    /// Received frames dropped for a reason that has no counter of its own: larger than a chunk
    /// on a socket without multi-buffer, above all.
    pub rx_dropped: u64,
    /// Received frames dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Received frames dropped because the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Fill ring entries that were no chunk.
    pub rx_invalid: u64,
    /// TX ring entries that could not be sent, and completed unsent.
    pub tx_invalid: u64,
    /// Times the kernel looked for something to send and found nothing. Not a loss.
    pub tx_ring_empty: u64,
}

impl From<XdpStatistics> for KernelStatistics {
    fn from(kernel: XdpStatistics) -> Self {
        Self {
            rx_dropped: kernel.rx_dropped(),
            rx_ring_full: kernel.rx_ring_full(),
            fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
            rx_invalid: kernel.rx_invalid_descs(),
            tx_invalid: kernel.tx_invalid_descs(),
            tx_ring_empty: kernel.tx_ring_empty_descs(),
        }
    }
}

/// What a port itself counts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PortStatistics {
    /// Frames handed to the lane.
    pub received: u64,
    /// Frames put on the TX ring.
    pub transmitted: u64,
    /// Chunks that came back on the completion ring.
    pub completed: u64,
    /// Received frames given up because they have more than 18 chunks.
    pub chains_dropped: u64,
    /// Received frames given up because the lane's memory had no room to copy them to (ports
    /// with memory of their own only).
    pub no_memory: u64,
    /// Frames given up because they have several chunks and this socket has no multi-buffer.
    pub unsendable: u64,
    /// Times a frame had to wait because the TX ring or the completion ring had no room.
    pub back_pressure: u64,
    /// Times fewer chunks were free than the fill ring was to have.
    pub fill_short: u64,
    /// System calls made to start transmission.
    pub wakeups: u64,
    /// Those of them after which something was left to send (EAGAIN, EBUSY, ENOBUFS).
    pub wakeups_again: u64,
    /// Those of them refused because the device is down.
    pub device_down: u64,
    /// Ring entries that named a chunk which the kernel should not have had. Always 0 unless the
    /// kernel or this program is at fault.
    pub strangers: u64,
}
