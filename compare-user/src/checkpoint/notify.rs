//! notify_dev: the socket on which QEMU's colo-compare talks to Xen's COLO frame.
//!
//! To the peer: `DO_CHECKPOINT` for a divergence, and `COLO_COMPARE_GET_XEN_INIT` as the answer to
//! `COLO_USERSPACE_PROXY_INIT`. From the peer: `COLO_CHECKPOINT` when the guests are equal. Other
//! messages are counted and ignored, as is a known one with a terminating zero byte.
//!
//! A request that finds no peer is not kept: a peer that connects expects to speak first, and the
//! comparator repeats its request every `--expired-scan-cycle` while it is outstanding.

use std::io;
use std::time::Instant;

use crossbeam_channel::Sender;
use serde::Serialize;

use super::connection::{Connection, Endpoint};
use super::message::{MessageReader, framed};
use super::{Address, Agent, End, Ended, Inbox, Notice, NotifySpec, wire};
use crate::privilege::{self, Role};

const REQUEST: &str = "DO_CHECKPOINT";
const DONE: &[u8] = b"COLO_CHECKPOINT";
const HELLO: &[u8] = b"COLO_USERSPACE_PROXY_INIT";
const HELLO_ANSWER: &str = "COLO_COMPARE_GET_XEN_INIT";

/// What a message from the peer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The guests are equal.
    CheckpointDone,
    /// The peer is there and wants an answer.
    Hello,
    /// Nothing that is known.
    Unknown,
}

impl Heard {
    /// What `message` says.
    #[must_use]
    pub fn in_message(message: &[u8]) -> Self {
        match message {
            DONE => Self::CheckpointDone,
            HELLO => Self::Hello,
            _ => Self::Unknown,
        }
    }
}

/// While a peer leaves this much unread it is not listened to.
const UNSENT_LIMIT: usize = 65_536;

/// What `ctl status` shows.
#[derive(Debug, Default, Clone, Serialize)]
pub struct NotifyStatus {
    /// Where the peer is.
    pub peer: String,
    /// It is connected.
    pub connected: bool,
    /// Connections so far.
    pub connections: u64,
    /// `DO_CHECKPOINT`s handed to the peer's socket.
    pub requests: u64,
    /// Requests that found no peer.
    pub requests_unsent: u64,
    /// `COLO_CHECKPOINT`s.
    pub checkpoints: u64,
    /// Messages that are not known.
    pub unknown: u64,
    /// Connections that ended because the peer broke the framing.
    pub faults: u64,
}

/// Connects or listens, and serves one peer after the other until the agent is dropped.
///
/// `vnet`: messages from the peer carry the length of a vnet header, as its frames do.
///
/// # Errors
/// When a server cannot listen.
pub fn start(
    spec: &NotifySpec,
    vnet: bool,
    notices: Sender<Notice>,
) -> io::Result<Agent<NotifyStatus>> {
    let (endpoint, socket_file) = match (&spec.address, spec.server) {
        (address, false) => (Endpoint::client(address.clone()), None),
        (Address::Unix(path), true) => {
            (Endpoint::server(spec.address.clone())?, Some(path.clone()))
        }
        (Address::Tcp { .. }, true) => (Endpoint::server(spec.address.clone())?, None),
    };
    let peer = format!("notify {}", spec.address);
    let status = NotifyStatus { peer: spec.address.to_string(), ..NotifyStatus::default() };
    let (agent, inbox) = wire(status, socket_file, notices)?;
    let taker = Taker { peer, vnet, endpoint, inbox };
    let role = match &spec.address {
        Address::Unix(_) => Role::UnixPeer { connects: !spec.server },
        Address::Tcp { .. } => Role::TcpPeer,
    };
    std::thread::Builder::new().name("notify".into()).spawn(move || {
        privilege::confine_or_exit(role);
        // Only ever ends because it was told to.
        let Err(Ended) = taker.run();
    })?;
    Ok(agent)
}

struct Taker {
    peer: String,
    vnet: bool,
    endpoint: Endpoint,
    inbox: Inbox<NotifyStatus>,
}

impl Taker {
    fn run(mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            let inbox = &self.inbox;
            let missed = || inbox.note(|status| status.requests_unsent += 1);
            let mut connection = self.endpoint.next(inbox, missed)?;
            let since = Instant::now();
            inbox.note(|status| {
                status.connected = true;
                status.connections += 1;
            });
            inbox.tell(Notice::Connected { peer: self.peer.clone() })?;
            let Err(end) = self.serve(&mut connection);
            self.inbox.note(|status| status.connected = false);
            match end {
                End::Told => return Err(Ended),
                End::Peer(cause) => {
                    self.inbox.tell(Notice::Lost { peer: self.peer.clone(), cause })?;
                }
            }
            drop(connection);
            self.endpoint.closed(since.elapsed());
        }
    }

    fn serve(&self, connection: &mut Connection) -> Result<std::convert::Infallible, End> {
        let mut reader = MessageReader::new(self.vnet);
        let mut request_unsent = false;
        loop {
            request_unsent &= connection.unsent() > 0;
            // One that the peer has not taken yet stands for all that come after it.
            if self.inbox.requested()? && !request_unsent {
                connection.enqueue(&framed(REQUEST));
                request_unsent = true;
                self.inbox.note(|status| status.requests += 1);
            }
            connection.flush()?;
            let readable = connection.unsent() < UNSENT_LIMIT;
            self.inbox.wait(Some(connection.interest(readable)), super::IDLE);
            if readable {
                connection.read(|bytes| reader.push(bytes))?;
                self.heed_all(&mut reader, connection)?;
            }
        }
    }

    fn heed_all(&self, reader: &mut MessageReader, connection: &mut Connection) -> Result<(), End> {
        loop {
            match reader.next_message() {
                Ok(None) => return Ok(()),
                Ok(Some(message)) => self.heed(&message, connection)?,
                Err(fault) => {
                    self.inbox.note(|status| status.faults += 1);
                    return Err(End::Peer(fault.to_string()));
                }
            }
        }
    }

    fn heed(&self, message: &[u8], connection: &mut Connection) -> Result<(), End> {
        match Heard::in_message(message) {
            Heard::CheckpointDone => {
                self.inbox.note(|status| status.checkpoints += 1);
                self.inbox.tell(Notice::Done)?;
            }
            Heard::Hello => connection.enqueue(&framed(HELLO_ANSWER)),
            Heard::Unknown => {
                let mut seen = 0;
                self.inbox.note(|status| {
                    status.unknown += 1;
                    seen = status.unknown;
                });
                if super::worth_a_line(seen) {
                    let start = &message[..message.len().min(64)];
                    let text = String::from_utf8_lossy(start);
                    tracing::warn!(peer = self.peer, ?text, seen, "unknown message ignored");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
