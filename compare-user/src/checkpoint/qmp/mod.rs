//! QMP: the monitor of a KVM COLO primary, or of a secondary.
//!
//! For a comparator, a divergence sets the migration parameter `x-checkpoint-delay` to the value it has, which makes
//! QEMU start a checkpoint at once; the event `RESUME` ends it. `session.rs` has the protocol, this
//! file the connection. A relay listens
//! to the secondary instead, whose `RESUME` says that both guests use the same sequence numbers.

pub mod lines;
pub mod session;

use std::io;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::connection::{Connection, Endpoint};
use super::{Address, Agent, End, Ended, Inbox, Notice, QmpSpec, wire};
use crate::privilege::{self, Role};
use lines::{Line, Lines};
use session::{Effect, Session};

pub use session::{QemuRole, QmpStatus};

/// Connects, and keeps connecting, until the agent is dropped.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    spec: &QmpSpec,
    role: QemuRole,
    notices: Sender<Notice>,
) -> io::Result<Agent<QmpStatus>> {
    let address = Address::Unix(spec.path.clone());
    let status = QmpStatus { peer: address.to_string(), ..QmpStatus::default() };
    let (agent, inbox) = wire(status, None, notices)?;
    let taker = Taker {
        peer: format!("qmp {address}"),
        session: Session::new(address.to_string(), role, Instant::now()),
        endpoint: Endpoint::client(address),
        inbox,
    };
    std::thread::Builder::new().name("qmp".into()).spawn(move || {
        privilege::confine_or_exit(Role::UnixPeer { connects: true });
        // Only ever ends because it was told to.
        let Err(Ended) = taker.run();
    })?;
    Ok(agent)
}

struct Taker {
    peer: String,
    session: Session,
    endpoint: Endpoint,
    inbox: Inbox<QmpStatus>,
}

impl Taker {
    fn run(mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            let mut missed = false;
            let mut connection = self.endpoint.next(&self.inbox, || missed = true)?;
            let since = Instant::now();
            self.session.connected(since);
            if missed {
                self.session.request(since);
            }
            let Err(end) = self.serve(&mut connection);
            let End::Peer(cause) = end else {
                return Err(Ended);
            };
            drop(connection);
            self.lose(cause)?;
            self.endpoint.closed(since.elapsed());
        }
    }

    fn lose(&mut self, cause: String) -> Result<(), Ended> {
        if self.session.status.connected {
            let lost = Notice::Lost { peer: self.peer.clone(), cause: cause.clone() };
            self.inbox.tell(lost)?;
        } else {
            tracing::warn!(peer = self.peer, cause, "disconnected");
        }
        self.session.disconnected(&cause);
        for effect in self.session.effects() {
            if let Effect::ColoEnded(cause) = effect {
                self.inbox.tell(Notice::ColoEnded { cause })?;
            }
        }
        self.inbox.note(|status| status.clone_from(&self.session.status));
        Ok(())
    }

    fn serve(&mut self, connection: &mut Connection) -> Result<std::convert::Infallible, End> {
        let mut lines = Lines::default();
        loop {
            let now = Instant::now();
            if self.inbox.requested()? {
                self.session.request(now);
            }
            self.session.tick(now).map_err(End::Peer)?;
            self.carry_out(connection)?;
            connection.flush()?;
            let patience = self.session.deadline().saturating_duration_since(now);
            self.inbox.wait(Some(connection.interest(true)), patience);
            let read = connection.read(|bytes| lines.push(bytes));
            let now = Instant::now();
            while let Some(line) = lines.next_line() {
                match line {
                    Line::Whole(line) => self.session.line(&line, now),
                    Line::TooLong => self.session.unreadable_line(),
                }
            }
            // The last words before the end count.
            self.carry_out(connection)?;
            read?;
        }
    }

    fn carry_out(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        let effects = self.session.effects();
        self.inbox.note(|status| status.clone_from(&self.session.status));
        for effect in effects {
            match effect {
                Effect::Send(line) => connection.enqueue(line.as_bytes()),
                Effect::Ready => {
                    self.inbox.tell(Notice::Connected { peer: self.peer.clone() })?;
                }
                Effect::CheckpointDone => self.inbox.tell(Notice::Done)?,
                Effect::ColoEnded(cause) => self.inbox.tell(Notice::ColoEnded { cause })?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
