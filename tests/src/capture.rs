//! What reaches the client.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::Result;
use crate::namespace::Namespace;
use crate::packet::GUEST_MAC;
use crate::packet_socket::PacketSocket;

/// How long a frame that must come may take: far more than any real latency, so that a busy
/// machine does not fail a test, and bounded.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long silence is listened to: a frame that is wrongly released leaves within microseconds.
pub const SILENCE: Duration = Duration::from_millis(100);

/// Frames from the guest's Ethernet address that arrive on the client's device, in order.
///
/// Kernel chatter has other source addresses and is not seen.
#[derive(Debug)]
pub struct Capture {
    socket: PacketSocket,
}

impl Capture {
    /// Captures on `device` in the calling thread's namespace.
    pub(crate) fn on(device: &str) -> Result<Self> {
        Ok(Self { socket: PacketSocket::receiver(device)? })
    }

    /// Captures on `device` in `namespace`.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn inside(namespace: &Namespace, device: &str) -> Result<Self> {
        namespace.run(|| Self::on(device))
    }

    /// The next frame, if one arrives within `within`.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn next(&mut self, within: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.socket.receive(left)? {
                Some(frame) if frame.get(6..12) == Some(&GUEST_MAC) => return Ok(Some(frame)),
                Some(_) => {}
                None if Instant::now() >= deadline => return Ok(None),
                None => {}
            }
        }
    }

    /// Expects exactly `frames` next, in this order, byte for byte.
    ///
    /// # Errors
    /// When one does not come, another comes instead, or the capture itself lost one.
    pub fn expect<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        let deadline = Instant::now() + PATIENCE;
        for (index, wanted) in frames.iter().enumerate() {
            let wanted = wanted.as_ref();
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next(left)? {
                Some(got) if got == wanted => {}
                Some(got) => bail!(
                    "frame {} of {}: expected {}, got {}",
                    index + 1,
                    frames.len(),
                    describe(wanted),
                    describe(&got)
                ),
                None => bail!(
                    "frame {} of {} did not arrive: {}",
                    index + 1,
                    frames.len(),
                    describe(wanted)
                ),
            }
        }
        self.check_drops()
    }

    /// Expects exactly `frames` next, in any order: of different flows only each flow's own order
    /// is promised.
    ///
    /// # Errors
    /// As [`Capture::expect`].
    pub fn expect_in_any_order<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        let deadline = Instant::now() + PATIENCE;
        let mut wanted: Vec<&[u8]> = frames.iter().map(AsRef::as_ref).collect();
        while let Some(first) = wanted.first() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(got) = self.next(left)? else {
                bail!("{} frames did not arrive, among them {}", wanted.len(), describe(first));
            };
            match wanted.iter().position(|wanted| *wanted == got) {
                Some(index) => drop(wanted.swap_remove(index)),
                None => bail!("not expected: {}", describe(&got)),
            }
        }
        self.check_drops()
    }

    /// Expects that no frame arrives for as long as `during`.
    ///
    /// # Errors
    /// When one does.
    pub fn expect_nothing(&mut self, during: Duration) -> Result {
        match self.next(during)? {
            None => self.check_drops(),
            Some(frame) => bail!("nothing may arrive, but this did: {}", describe(&frame)),
        }
    }

    /// A capture that loses frames proves nothing.
    fn check_drops(&self) -> Result {
        let dropped = self.socket.dropped()?;
        ensure!(dropped == 0, "the capture itself dropped {dropped} frames");
        Ok(())
    }
}

/// Length and first bytes of a frame, for a message.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    /// Up to the end of a TCP header behind IPv6 and one tag, and a little payload.
    const SHOWN: usize = 96;
    let mut text = format!("{} bytes:", frame.len());
    for byte in frame.iter().take(SHOWN) {
        let _ = write!(text, " {byte:02x}");
    }
    if frame.len() > SHOWN {
        text.push_str(" ...");
    }
    text
}
