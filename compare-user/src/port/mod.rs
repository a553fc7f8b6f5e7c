//! Ports: where frames come from and go to.

pub mod arena;
pub mod chardev;
mod mixed;
pub mod pcap;
pub mod spec;
pub mod xsk;

pub use mixed::MixedPort;

use std::collections::VecDeque;

use nix::poll::PollFd;

use crate::frame::FrameStore;

/// Frames of a port's store.
pub type FrameOf<P> = <<P as Port>::Store as FrameStore>::Frame;

/// Frames that a port has handed to the kernel (or a peer) and not got back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Lent for receiving: fill ring, RX ring, and in the kernel between the two.
    pub receive: usize,
    /// Being sent: TX ring, completion ring, and in the kernel between the two.
    pub transmit: usize,
}

/// Why a port stopped working. The lane keeps what it holds and reports it.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The device is gone or down for good; the port may come back when it returns.
    #[error("device {device} is gone: {cause}")]
    DeviceGone {
        /// Interface name.
        device: String,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// Any other failure of a system call.
    #[error("{device}: {operation} failed: {cause}")]
    Io {
        /// Interface name or socket path.
        device: String,
        /// The operation that failed.
        operation: &'static str,
        /// What the kernel said.
        cause: std::io::Error,
    },
}

/// Frame memory that a lane can give frames back to and write into.
pub trait Memory: FrameStore {
    /// Copies a frame in. `prefix` goes with the frame and is not part of it: a virtio-net header
    /// of at most [`chardev::framing::LONGEST_HEADER`] bytes, or nothing.
    ///
    /// `None` when memory is short; the frame is to be offered again later.
    fn allocate(&mut self, prefix: &[u8], bytes: &[u8]) -> Option<Self::Frame>;

    /// The prefix of a frame that [`Memory::allocate`] made. Of a frame that came another way it
    /// has no defined content.
    fn prefix<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// Gives a frame's memory back.
    fn recycle(&mut self, frame: Self::Frame);

    /// Overwrites bytes of a frame, from offset `at`.
    ///
    /// # Panics
    /// When the frame does not have these bytes.
    fn write(&mut self, frame: &Self::Frame, at: usize, bytes: &[u8]);

    /// Frames that exist.
    fn total(&self) -> usize;

    /// Frames that are free.
    fn free(&self) -> usize;

    /// Units of memory, as counted by `total`, that `frame` occupies.
    fn occupies(&self, frame: &Self::Frame) -> usize;
}

/// Where a lane receives frames from or releases frames to.
///
/// Frames live in a store that all ports of a lane share; a port borrows the store for the
/// length of a call. No call blocks.
pub trait Port {
    /// The memory that the frames live in.
    type Store: Memory;

    /// Appends at most `limit` received frames to `into`.
    ///
    /// # Errors
    /// When the device is gone or a system call fails; frames already appended stay valid.
    fn receive(
        &mut self,
        store: &mut Self::Store,
        into: &mut Vec<FrameOf<Self>>,
        limit: usize,
    ) -> Result<(), PortError>;

    /// Takes frames from the front of `from` until the port has no room. What it leaves stays
    /// with the caller.
    ///
    /// # Errors
    /// As [`Port::receive`]; no frame is lost.
    fn transmit(
        &mut self,
        store: &mut Self::Store,
        from: &mut VecDeque<FrameOf<Self>>,
    ) -> Result<(), PortError>;

    /// Housekeeping, once per turn of the lane: takes back completed frames, lends free frames
    /// for receiving, wakes the kernel where it asks for it.
    ///
    /// # Errors
    /// As [`Port::receive`].
    fn service(&mut self, store: &mut Self::Store) -> Result<(), PortError>;

    /// Interface or socket, for people.
    fn name(&self) -> &str;

    /// False once the port's device is gone; checked now and then, because an idle socket on a
    /// removed device reports no error.
    fn is_alive(&self) -> bool;

    /// False while the port waits for its peer.
    fn is_up(&self) -> bool {
        true
    }

    /// True once the port has been up, however shortly.
    fn was_up(&self) -> bool {
        true
    }

    /// True if frames that are not received wait with the peer instead of being lost, and if
    /// [`Port::wait`] tells when frames can be sent again.
    fn has_back_pressure(&self) -> bool {
        false
    }

    /// Gives everything that is with the kernel back to `store` and closes the port.
    fn close(self, store: &mut Self::Store);

    /// Frames the kernel dropped because this port's rings had no room, since it was opened.
    fn kernel_dropped(&self) -> u64;

    /// Everything else that the port counts, for people.
    fn statistics(&self) -> serde_json::Value;

    /// What an idle lane waits on until the port can go on: until it is readable, a peer is there
    /// or, if it [has back-pressure](Port::has_back_pressure), frames can be sent again. `None`
    /// when only time helps.
    fn wait(&self) -> Option<PollFd<'_>>;

    /// Frames that are with the kernel or the peer.
    fn in_flight(&self) -> InFlight;
}
