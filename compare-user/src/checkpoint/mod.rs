//! Who is told about a divergence, and who says that a checkpoint is done.
//!
//! | taker | told by | answers with |
//! |---|---|---|
//! | Xen's COLO frame, [`notify`] | `DO_CHECKPOINT` on a socket | `COLO_CHECKPOINT` on the same socket |
//! | a KVM COLO primary, [`qmp`] | the migration parameter `x-checkpoint-delay` | the event `RESUME` |
//! | a command, [`OnDivergence`] | its environment | `colo-xdp ctl checkpoint` |
//!
//! The monitor of a COLO secondary is no taker, but it tells of the same checkpoints, and a relay
//! hears of them there.
//!
//! Each taker has a thread of its own, which waits in `poll(2)` on its peer and on a doorbell. It
//! is asked through a channel that holds one request, because a request that nobody has seen yet
//! stands for all that come after it, and it answers with [`Notice`]s. That channel is bounded: a
//! peer that floods is slowed down to the pace at which its messages are acted on.

mod address;
mod connection;
pub mod message;
pub mod notify;
pub(crate) mod on_divergence;
pub mod qmp;

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use serde_json::Value;

pub use address::{Address, AddressError, NotifySpec, QmpSpec};
pub use on_divergence::{CommandProcess, OnDivergence, OnDivergenceStatus};

/// Notices that may wait for whoever acts on them.
pub const NOTICES: usize = 64;

/// How long a taker sleeps when nothing happens; only a bound, everything wakes it.
const IDLE: Duration = Duration::from_secs(60);

/// True for the first of many equal complaints, and ever more rarely after it: a peer decides how
/// much of what cannot be used it sends, not how much is logged.
fn worth_a_line(seen: u64) -> bool {
    seen.is_power_of_two()
}

/// What a taker reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The peer is there and understood.
    Connected {
        /// Which peer, for people.
        peer: String,
    },
    /// The peer is gone, or was disconnected because it broke the protocol. It is waited for.
    Lost {
        /// Which peer, for people.
        peer: String,
        /// Why.
        cause: String,
    },
    /// The two guests are equal: what is held may leave, and sequence numbers are the same.
    Done,
    /// The guests are no longer in COLO, or nobody can say any more whether they are.
    ColoEnded {
        /// What was seen.
        cause: String,
    },
}

/// The control side's end of a taker with a peer. Dropping it ends the taker.
#[derive(Debug)]
pub struct Agent<S> {
    /// None once it is being dropped.
    requests: Option<Sender<()>>,
    doorbell: Arc<EventFd>,
    status: Arc<Mutex<S>>,
    /// Removed from the file system when the agent goes.
    socket_file: Option<PathBuf>,
}

impl<S: Serialize> Agent<S> {
    /// Asks for a checkpoint. Never blocks.
    pub fn request(&self) {
        if let Some(requests) = &self.requests {
            // Full: one that nobody has seen yet is waiting, and it stands for this one too.
            let _ = requests.try_send(());
        }
        self.ring();
    }

    /// What the taker knows and has counted.
    #[must_use]
    pub fn status(&self) -> Value {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_value(&*status).unwrap_or(Value::Null)
    }
}

impl<S> Agent<S> {
    fn ring(&self) {
        // A full doorbell has been rung already.
        let _ = self.doorbell.write(1);
    }
}

impl<S> Drop for Agent<S> {
    fn drop(&mut self) {
        // The thread sees the closed channel and ends. It is not waited for: it may be in the
        // middle of connecting.
        self.requests = None;
        self.ring();
        if let Some(path) = &self.socket_file {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The taker has been told to end.
#[derive(Debug)]
struct Ended;

/// Why a connection is served no longer.
enum End {
    /// The taker has been told to end.
    Told,
    /// The peer is gone, or broke the protocol.
    Peer(String),
}

impl From<Ended> for End {
    fn from(_: Ended) -> Self {
        Self::Told
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Peer(error.to_string())
    }
}

/// A taker's end of its channels.
struct Inbox<S> {
    requests: Receiver<()>,
    doorbell: Arc<EventFd>,
    notices: Sender<Notice>,
    status: Arc<Mutex<S>>,
}

/// Both ends of the channels of a taker.
fn wire<S>(
    status: S,
    socket_file: Option<PathBuf>,
    notices: Sender<Notice>,
) -> std::io::Result<(Agent<S>, Inbox<S>)> {
    let doorbell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let doorbell = Arc::new(doorbell);
    let status = Arc::new(Mutex::new(status));
    let (sender, requests) = crossbeam_channel::bounded(1);
    let inbox =
        Inbox { requests, doorbell: Arc::clone(&doorbell), notices, status: Arc::clone(&status) };
    Ok((Agent { requests: Some(sender), doorbell, status, socket_file }, inbox))
}

impl<S> Inbox<S> {
    /// True if a checkpoint has been asked for since the last call.
    fn requested(&self) -> Result<bool, Ended> {
        match self.requests.try_recv() {
            Ok(()) => Ok(true),
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => Err(Ended),
        }
    }

    /// Reports; waits while too many reports are unread.
    fn tell(&self, notice: Notice) -> Result<(), Ended> {
        self.notices.send(notice).map_err(|_| Ended)
    }

    /// Changes what [`Agent::status`] shows.
    fn note(&self, change: impl FnOnce(&mut S)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sleeps until `descriptor` is ready for `interest`, the doorbell rings or `patience` is over.
    fn wait(&self, descriptor: Option<(BorrowedFd<'_>, PollFlags)>, patience: Duration) {
        let doorbell = PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN);
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        // An error here is an interruption; the caller looks at everything again.
        let _ = match descriptor {
            Some((descriptor, interest)) => {
                nix::poll::poll(&mut [doorbell, PollFd::new(descriptor, interest)], timeout)
            }
            None => nix::poll::poll(&mut [doorbell], timeout),
        };
        let _ = self.doorbell.read();
    }
}
