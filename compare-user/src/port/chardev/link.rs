//! A stream socket that comes back: a client that connects again, a server that takes one peer
//! after the other. No call blocks.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
    setsockopt, sockopt,
};

use crate::listening::{self, addresses};
use crate::port::spec::{Address, ChardevSpec};

/// Pause after the first failed attempt to connect; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How often a server without a peer looks for one. It sleeps on the listening socket besides,
/// so this only bounds what a spinning lane spends.
const LOOK: Duration = Duration::from_millis(1);

/// Seconds of silence after which a TCP peer is asked whether it is still there, how often it is
/// asked again, and how many silent answers mean that it is gone. Without, a server whose peer's
/// host vanished would never take the next one.
const KEEPALIVE: (u32, u32, u32) = (5, 2, 3);

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address cannot be listened on.
    #[error("{spec}: cannot listen: {cause}; {}", remedy(cause))]
    Listen {
        /// The port as it was given.
        spec: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The host name has no address.
    #[error("{spec}: cannot resolve the host: {cause}; give an address, such as 127.0.0.1")]
    Resolve {
        /// The port as it was given.
        spec: String,
        /// What the resolver said.
        cause: io::Error,
    },
}

impl LinkError {
    /// Whether a privilege is missing, as opposed to anything else.
    #[must_use]
    pub fn is_privilege(&self) -> bool {
        matches!(self, Self::Listen { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied)
    }
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "choose another address",
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        io::ErrorKind::NotFound => "the directory does not exist: make it first",
        io::ErrorKind::PermissionDenied => "choose a place that this user may use, or run as root",
        _ => "choose another address",
    }
}

/// Where the other end is.
#[derive(Debug)]
enum Remote {
    Unix(UnixAddr),
    Inet(SocketAddr),
}

#[derive(Debug)]
enum Endpoint {
    /// `path` is removed from the file system in the end.
    UnixServer {
        listener: UnixListener,
        path: PathBuf,
    },
    TcpServer {
        listener: TcpListener,
    },
    /// Attempts go through the addresses in turn.
    Client {
        remotes: Vec<Remote>,
        turn: usize,
    },
}

#[derive(Debug)]
enum State {
    /// A server without a peer, or a client between two attempts.
    Waiting,
    Connecting(OwnedFd),
    Connected(OwnedFd),
}

/// How far a link is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// A server waits for its peer.
    Listening,
    /// A client tries to reach its peer.
    Connecting,
    /// The peer is there.
    Connected,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listening => "listening",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
        })
    }
}

/// What a transfer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes went through.
    Bytes(usize),
    /// None can, now.
    Blocked,
    /// The peer is gone; the errno, where it did not just close.
    Ended(Option<Errno>),
}

/// The socket and how it comes back.
#[derive(Debug)]
pub struct Link {
    endpoint: Endpoint,
    state: State,
    /// When a link that waits does something again.
    next: Instant,
    pause: Duration,
}

impl Link {
    /// Listens, or begins to connect. A client need not find its peer.
    ///
    /// # Errors
    /// When the address cannot be listened on, or a host name cannot be resolved.
    pub fn open(spec: &ChardevSpec) -> Result<Self, LinkError> {
        let named = || spec.to_string();
        let listen = |cause| LinkError::Listen { spec: named(), cause };
        let resolve = |cause| LinkError::Resolve { spec: named(), cause };
        let endpoint = match (&spec.address, spec.server) {
            (Address::Unix(path), true) => Endpoint::UnixServer {
                listener: listen_unix(path).map_err(listen)?,
                path: path.clone(),
            },
            (Address::Unix(path), false) => {
                let remote = UnixAddr::new(path).map_err(|errno| resolve(errno.into()))?;
                Endpoint::Client { remotes: vec![Remote::Unix(remote)], turn: 0 }
            }
            (Address::Tcp { host, port }, true) => {
                addresses(host, *port).map_err(resolve)?;
                let listener = listening::tcp(host, *port).map_err(listen)?;
                listener.set_nonblocking(true).map_err(listen)?;
                Endpoint::TcpServer { listener }
            }
            (Address::Tcp { host, port }, false) => {
                let remotes = addresses(host, *port).map_err(resolve)?;
                Endpoint::Client {
                    remotes: remotes.into_iter().map(Remote::Inet).collect(),
                    turn: 0,
                }
            }
        };
        let next = Instant::now();
        Ok(Self { endpoint, state: State::Waiting, next, pause: FIRST_PAUSE })
    }

    /// Whether a peer is there.
    #[inline]
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// Whether the peer is reached over TCP.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        match &self.endpoint {
            Endpoint::UnixServer { .. } => false,
            Endpoint::TcpServer { .. } => true,
            Endpoint::Client { remotes, .. } => matches!(remotes.first(), Some(Remote::Inet(_))),
        }
    }

    /// How far the link is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match (&self.state, &self.endpoint) {
            (State::Connected(_), _) => Condition::Connected,
            (_, Endpoint::Client { .. }) => Condition::Connecting,
            _ => Condition::Listening,
        }
    }

    /// Gets on with finding a peer. True if it was found just now.
    ///
    /// # Errors
    /// What stood in the way of this attempt; there will be another.
    pub fn advance(&mut self) -> io::Result<bool> {
        if self.is_connected() {
            return Ok(false);
        }
        let now = Instant::now();
        if now < self.next {
            return Ok(false);
        }
        let advanced = match &self.endpoint {
            Endpoint::Client { .. } => self.connect(),
            Endpoint::UnixServer { listener, .. } => {
                accepted(listener.accept().map(|(stream, _)| stream.into()))
            }
            Endpoint::TcpServer { listener } => {
                accepted(listener.accept().map(|(stream, _)| stream.into()))
            }
        };
        match advanced {
            Ok(Some(socket)) => {
                if self.is_tcp() {
                    if is_connected_to_itself(&socket) {
                        self.state = State::Waiting;
                        self.retreat(now);
                        return Err(Errno::ECONNREFUSED.into());
                    }
                    tune(&socket);
                }
                self.state = State::Connected(socket);
                Ok(true)
            }
            Ok(None) => {
                self.next = now + LOOK;
                Ok(false)
            }
            Err(cause) => {
                self.state = State::Waiting;
                self.retreat(now);
                Err(cause)
            }
        }
    }

    /// The connection is good: the next one that ends is followed by a quick attempt.
    #[inline]
    pub fn proven(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Closes the connection. A server can take the next peer at once; a client pauses.
    pub fn disconnect(&mut self) {
        self.state = State::Waiting;
        let now = Instant::now();
        match self.endpoint {
            Endpoint::Client { .. } => self.retreat(now),
            _ => self.next = now,
        }
    }

    /// What to wait on while nothing can be done: a connection for `events`, otherwise for a peer.
    /// `None` when only time helps.
    #[must_use]
    pub fn wait(&self, events: PollFlags) -> Option<PollFd<'_>> {
        let (descriptor, events) = match (&self.state, &self.endpoint) {
            (State::Connected(socket), _) => (socket.as_fd(), events),
            (State::Connecting(socket), _) => (socket.as_fd(), PollFlags::POLLOUT),
            (State::Waiting, Endpoint::UnixServer { listener, .. }) => {
                (listener.as_fd(), PollFlags::POLLIN)
            }
            (State::Waiting, Endpoint::TcpServer { listener }) => {
                (listener.as_fd(), PollFlags::POLLIN)
            }
            (State::Waiting, Endpoint::Client { .. }) => return None,
        };
        Some(PollFd::new(descriptor, events))
    }

    /// Receives into `buffer`, which must not be empty.
    pub fn receive(&self, buffer: &mut [u8]) -> Transfer {
        let State::Connected(socket) = &self.state else {
            return Transfer::Blocked;
        };
        match socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Transfer::Ended(None),
            outcome => transfer(outcome),
        }
    }

    /// Sends what fits.
    pub fn send(&self, slices: &[IoSlice<'_>]) -> Transfer {
        let State::Connected(socket) = &self.state else {
            return Transfer::Blocked;
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        transfer(socket::sendmsg::<()>(socket.as_raw_fd(), slices, &[], flags, None))
    }

    fn retreat(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Starts an attempt or looks how it goes; the socket once it is connected.
    fn connect(&mut self) -> io::Result<Option<OwnedFd>> {
        let Endpoint::Client { remotes, turn } = &mut self.endpoint else {
            return Ok(None);
        };
        if let State::Connecting(socket) = &self.state {
            if !is_writable(socket.as_fd()) {
                return Ok(None);
            }
            let outcome = socket::getsockopt(socket, sockopt::SocketError)?;
            if outcome != 0 {
                return Err(io::Error::from_raw_os_error(outcome));
            }
            return match std::mem::replace(&mut self.state, State::Waiting) {
                State::Connecting(socket) => Ok(Some(socket)),
                _ => Ok(None),
            };
        }
        let remote = &remotes[*turn % remotes.len()];
        *turn += 1;
        let (socket, begun) = begin(remote)?;
        match begun {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::EINPROGRESS) => {
                self.state = State::Connecting(socket);
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Endpoint::UnixServer { path, .. } = &self.endpoint {
            // Whoever removed it before was in their right.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = listening::unix(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts to connect. A unix socket whose backlog is full says EAGAIN, which is a failed attempt.
fn begin(remote: &Remote) -> io::Result<(OwnedFd, Result<(), Errno>)> {
    let (family, address): (_, &dyn SockaddrLike) = match remote {
        Remote::Unix(address) => (AddressFamily::Unix, address),
        Remote::Inet(address @ SocketAddr::V4(_)) => {
            (AddressFamily::Inet, &SockaddrStorage::from(*address))
        }
        Remote::Inet(address) => (AddressFamily::Inet6, &SockaddrStorage::from(*address)),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    let begun = socket::connect(socket.as_raw_fd(), address);
    Ok((socket, begun))
}

/// Transfers name what they want per call, so an accepted socket need not be set non-blocking.
fn accepted(outcome: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match outcome {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_writable(socket: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(socket, PollFlags::POLLOUT)];
    matches!(nix::poll::poll(&mut set, PollTimeout::ZERO), Ok(count) if count > 0)
}

/// A client on the same host as a server that is away may be given the server's port as its own,
/// and then finds itself (RFC 9293 section 3.5, simultaneous open).
fn is_connected_to_itself(socket: &OwnedFd) -> bool {
    let local = socket::getsockname::<SockaddrStorage>(socket.as_raw_fd());
    local.is_ok() && local == socket::getpeername::<SockaddrStorage>(socket.as_raw_fd())
}

/// Small frames at once, and a peer that vanished is noticed. A socket that refuses works without.
fn tune(socket: &OwnedFd) {
    let (idle, interval, count) = KEEPALIVE;
    let outcome = setsockopt(socket, sockopt::TcpNoDelay, &true)
        .and_then(|()| setsockopt(socket, sockopt::KeepAlive, &true))
        .and_then(|()| setsockopt(socket, sockopt::TcpKeepIdle, &idle))
        .and_then(|()| setsockopt(socket, sockopt::TcpKeepInterval, &interval))
        .and_then(|()| setsockopt(socket, sockopt::TcpKeepCount, &count));
    if let Err(errno) = outcome {
        tracing::debug!(%errno, "setting TCP options");
    }
}

fn transfer(outcome: nix::Result<usize>) -> Transfer {
    match outcome {
        Ok(count) => Transfer::Bytes(count),
        Err(Errno::EAGAIN | Errno::EINTR) => Transfer::Blocked,
        Err(errno) => Transfer::Ended(Some(errno)),
    }
}
