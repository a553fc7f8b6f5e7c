//! Sockets to a peer that comes and goes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{setsockopt, sockopt};

use super::address::Address;
use super::{Ended, Inbox};
use crate::listening;

/// First pause before connecting again; doubled each time up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause. A connection that lasted longer is taken for a good one.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Pause of a server after it has disconnected a peer, so that one that is always at fault costs
/// little.
const SERVER_PAUSE: Duration = Duration::from_millis(20);

/// Bytes read at once.
const PIECE: usize = 16_384;

/// A connected peer. Reads and writes never block.
pub(super) struct Connection {
    stream: Stream,
    outbox: VecDeque<u8>,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Connection {
    fn new(stream: Stream) -> io::Result<Self> {
        match &stream {
            Stream::Unix(stream) => stream.set_nonblocking(true)?,
            Stream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                // A host that vanished is found within half a minute.
                setsockopt(stream, sockopt::KeepAlive, &true)?;
                setsockopt(stream, sockopt::TcpKeepIdle, &10)?;
                setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
                setsockopt(stream, sockopt::TcpKeepCount, &4)?;
            }
        }
        Ok(Self { stream, outbox: VecDeque::new() })
    }

    /// Sends `bytes` after what is still unsent.
    pub(super) fn enqueue(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
    }

    /// Bytes the peer has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.outbox.len()
    }

    /// Writes what the peer takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let (bytes, _) = self.outbox.as_slices();
            let written = match &mut self.stream {
                Stream::Unix(stream) => stream.write(bytes),
                Stream::Tcp(stream) => stream.write(bytes),
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads one piece and passes it to `take`; nothing if nothing is there.
    pub(super) fn read(&mut self, take: impl FnOnce(&[u8])) -> io::Result<()> {
        let mut piece = [0; PIECE];
        let read = match &mut self.stream {
            Stream::Unix(stream) => stream.read(&mut piece),
            Stream::Tcp(stream) => stream.read(&mut piece),
        };
        match read {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(count) => {
                take(&piece[..count]);
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What to wait for: more to read if `readable`, and room for what is unsent.
    pub(super) fn interest(&self, readable: bool) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, readable);
        flags.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        let descriptor = match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        };
        (descriptor, flags)
    }
}

/// The place where a peer is found, again and again.
pub(super) struct Endpoint {
    address: Address,
    listener: Option<Listener>,
    pause: Duration,
    complained: bool,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Endpoint {
    /// A place to connect to.
    pub(super) fn client(address: Address) -> Self {
        Self { address, listener: None, pause: Duration::ZERO, complained: false }
    }

    /// Listens. A unix socket is made with mode 0600, because its peer may release held frames.
    pub(super) fn server(address: Address) -> io::Result<Self> {
        let listener = match &address {
            Address::Unix(path) => {
                let listener = listening::unix(path)?;
                listener.set_nonblocking(true)?;
                Listener::Unix(listener)
            }
            Address::Tcp { host, port } => {
                let listener = listening::tcp(host, *port)?;
                listener.set_nonblocking(true)?;
                Listener::Tcp(listener)
            }
        };
        Ok(Self { address, listener: Some(listener), pause: Duration::ZERO, complained: false })
    }

    /// Waits for the next peer. `missed` is called for a request that finds none.
    pub(super) fn next<S>(
        &mut self,
        inbox: &Inbox<S>,
        mut missed: impl FnMut(),
    ) -> Result<Connection, Ended> {
        let mut not_before = Instant::now() + self.pause;
        loop {
            if inbox.requested()? {
                missed();
            }
            let pause = not_before.saturating_duration_since(Instant::now());
            if !pause.is_zero() {
                inbox.wait(None, pause);
                continue;
            }
            match self.attempt() {
                Ok(connection) => {
                    self.complained = false;
                    return Ok(connection);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    inbox.wait(self.acceptable(), LONGEST_PAUSE);
                }
                Err(error) => {
                    self.complain(&error);
                    self.lengthen_pause();
                    not_before = Instant::now() + self.pause;
                }
            }
        }
    }

    /// A connection is over that lasted for `lasted`.
    pub(super) fn closed(&mut self, lasted: Duration) {
        if self.listener.is_some() {
            self.pause = SERVER_PAUSE;
        } else if lasted > LONGEST_PAUSE {
            self.pause = SHORTEST_PAUSE;
        } else {
            self.lengthen_pause();
        }
    }

    fn lengthen_pause(&mut self) {
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }

    /// The first failure in a row is worth a line; that it goes on is not.
    fn complain(&mut self, error: &io::Error) {
        if self.complained {
            tracing::debug!(peer = %self.address, %error, "still no connection");
        } else {
            tracing::warn!(peer = %self.address, %error, "no connection yet; trying again");
        }
        self.complained = true;
    }

    fn acceptable(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let descriptor = match self.listener.as_ref()? {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        };
        Some((descriptor, PollFlags::POLLIN))
    }

    fn attempt(&self) -> io::Result<Connection> {
        let stream = match (&self.listener, &self.address) {
            (Some(Listener::Unix(listener)), _) => Stream::Unix(listener.accept()?.0),
            (Some(Listener::Tcp(listener)), _) => Stream::Tcp(listener.accept()?.0),
            (None, Address::Unix(path)) => Stream::Unix(UnixStream::connect(path)?),
            (None, Address::Tcp { host, port }) => Stream::Tcp(connect_tcp(host, *port)?),
        };
        Connection::new(stream)
    }
}

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in listening::addresses(host, port)? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
