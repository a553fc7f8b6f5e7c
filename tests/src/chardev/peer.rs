//! The far end of one chardev.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Framing, Message};
use crate::Result;

/// Between two attempts to connect.
const TRY_AGAIN: Duration = Duration::from_millis(5);
/// How long a comparator may take to accept bytes before the test gives up.
const WRITE: Duration = Duration::from_secs(10);

/// A connection to a unix-socket chardev, as a filter or a management program would hold.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    to: Framing,
    from: Framing,
    bytes: Vec<u8>,
    messages: VecDeque<Message>,
}

impl Peer {
    /// Connects to the socket at `path`, which may take until `within` to be there.
    ///
    /// # Errors
    /// When nobody accepts in time.
    pub fn connect(path: &Path, framing: Framing, within: Duration) -> Result<Self> {
        Self::connect_with(path, framing, framing, within)
    }

    /// As [`Peer::connect`], with another framing for what is sent than for what comes back:
    /// notify_dev has the vnet word only towards the comparator.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub fn connect_with(path: &Path, to: Framing, from: Framing, within: Duration) -> Result<Self> {
        let deadline = Instant::now() + within;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("connecting to {}", path.display()));
                }
                Err(_) => thread::sleep(TRY_AGAIN),
            }
        };
        stream.set_write_timeout(Some(WRITE))?;
        Ok(Self { stream, to, from, bytes: Vec::new(), messages: VecDeque::new() })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the far end has gone or accepts nothing for ten seconds.
    pub fn send(&mut self, message: &Message) -> Result {
        let mut wire = Vec::with_capacity(self.to.prefix() + message.bytes.len());
        self.to.encode(message, &mut wire);
        self.send_raw(&wire)
    }

    /// Sends a text message, as notify_dev has them.
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub fn send_text(&mut self, text: &str) -> Result {
        self.send(&Message::plain(text.as_bytes()))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub fn send_raw(&mut self, wire: &[u8]) -> Result {
        self.stream.write_all(wire).context("the comparator does not take what is sent")
    }

    /// The next message; none when `within` passes first.
    ///
    /// # Errors
    /// When the far end has gone or breaks the framing.
    pub fn receive(&mut self, within: Duration) -> Result<Option<Message>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // A timeout of zero would mean none.
            self.stream.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the comparator has closed the connection"),
                Ok(length) => self.take(&chunk[..length])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result {
        self.bytes.extend_from_slice(chunk);
        let mut start = 0;
        while let Some((message, length)) = self.from.decode(&self.bytes[start..])? {
            start += length;
            self.messages.push_back(message);
        }
        self.bytes.drain(..start);
        Ok(())
    }

    /// Waits for the next message and takes it for text.
    ///
    /// # Errors
    /// When none comes within `within`, or as [`Peer::receive`].
    pub fn expect_text(&mut self, text: &str, within: Duration) -> Result {
        let message = self.receive(within)?.with_context(|| format!("no {text} came"))?;
        let got = String::from_utf8_lossy(&message.bytes).into_owned();
        ensure!(got == text, "expected {text}, got {got:?}");
        Ok(())
    }

    /// Whether the far end closes the connection within `within`; messages that come before are
    /// kept.
    ///
    /// # Errors
    /// When the framing is broken.
    pub fn is_closed_within(&mut self, within: Duration) -> Result<bool> {
        let deadline = Instant::now() + within;
        let mut chunk = [0; 65_536];
        while Instant::now() < deadline {
            self.stream.set_read_timeout(Some(Duration::from_millis(5)))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(true),
                Ok(length) => self.take(&chunk[..length])?,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(true),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// The socket, for a caller that moves bytes itself and has received nothing yet.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}
