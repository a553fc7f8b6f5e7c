//! A comparator between socket chardevs: QEMU's colo-compare, or colo-xdp in its place.
//!
//! Both get the same properties and the same four sockets, so that a test or a load drives either
//! without knowing which it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::Result;
use crate::chardev::{Framing, Message, Peer};
use crate::comparator::{Comparator, Launch};
use crate::leftovers::{self, Leftover};
use crate::qemu::{self, Qemu};

/// Which comparator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// QEMU's colo-compare.
    Qemu,
    /// The binary under test.
    ColoXdp,
}

impl Make {
    /// Both, the reference first.
    pub const ALL: [Self; 2] = [Self::Qemu, Self::ColoXdp];
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "QEMU",
            Self::ColoXdp => "colo-xdp",
        })
    }
}

/// The properties of colo-compare that both know.
#[derive(Debug, Clone, Copy)]
pub struct Properties {
    /// `vnet_hdr_support`.
    pub framing: Framing,
    /// `compare_timeout`.
    pub compare_timeout: Duration,
    /// `expired_scan_cycle`.
    pub expired_scan_cycle: Duration,
    /// `max_queue_size`.
    pub max_queue_size: u32,
}

impl Default for Properties {
    /// QEMU's own.
    fn default() -> Self {
        Self {
            framing: Framing::Plain,
            compare_timeout: Duration::from_millis(3000),
            expired_scan_cycle: Duration::from_millis(1000),
            max_queue_size: 1024,
        }
    }
}

impl Properties {
    /// As the default, but nothing grows too old: for cases that are not about time.
    #[must_use]
    pub fn without_timeouts(framing: Framing) -> Self {
        let long = Duration::from_secs(600);
        Self { framing, compare_timeout: long, expired_scan_cycle: long, ..Self::default() }
    }
}

/// A running comparator and the far end of its four chardevs.
#[derive(Debug)]
pub struct Contender {
    // First, so that the peers go before the process.
    /// `primary_in`.
    pub primary: Peer,
    /// `secondary_in`.
    pub secondary: Peer,
    /// `outdev`.
    pub out: Peer,
    /// `notify_dev`.
    pub notify: Peer,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Qemu(Qemu),
    ColoXdp(Box<Comparator>, Sockets),
}

/// The directory of colo-xdp's sockets; dropping it removes it.
#[derive(Debug)]
struct Sockets(TempDir);

impl Sockets {
    fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        leftovers::remember(Leftover::Directory(directory.path().to_owned()));
        Ok(Self(directory))
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        leftovers::forget(&Leftover::Directory(self.0.path().to_owned()));
    }
}

/// What a comparator says on notify_dev when the guests differ.
pub const REQUEST: &str = "DO_CHECKPOINT";
/// What a Xen COLO frame says when they are equal again.
const CHECKPOINT_DONE: &str = "COLO_CHECKPOINT";
/// What a Xen COLO frame says first on notify_dev.
const HELLO: &str = "COLO_USERSPACE_PROXY_INIT";
/// What the comparator answers.
const HELLO_ANSWER: &str = "COLO_COMPARE_GET_XEN_INIT";
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a frame that needs no comparison may take before it is taken for lost.
const PROBE: Duration = Duration::from_millis(100);

/// Names of the sockets, which are also those of QEMU's chardevs.
const SOCKETS: [&str; 4] = ["primary", "secondary", "out", "notify"];

impl Contender {
    /// Starts one and connects to all its chardevs.
    ///
    /// # Errors
    /// When it does not start; the message has its log.
    pub fn start(make: Make, properties: &Properties) -> Result<Self> {
        match make {
            Make::Qemu => {
                let qemu = colo_compare(properties)?.start(None)?;
                let paths = SOCKETS.map(|name| qemu.socket(name));
                let peers = connect(&paths, properties.framing).with_context(|| qemu.log())?;
                Ok(Self::around(peers, Process::Qemu(qemu)))
            }
            Make::ColoXdp => {
                let (comparator, sockets) = colo_xdp(properties)?;
                let paths = SOCKETS.map(|name| sockets.0.path().join(name));
                let peers =
                    connect(&paths, properties.framing).with_context(|| comparator.log())?;
                Ok(Self::around(peers, Process::ColoXdp(Box::new(comparator), sockets)))
            }
        }
    }

    fn around([primary, secondary, out, notify]: [Peer; 4], process: Process) -> Self {
        Self { primary, secondary, out, notify, process }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        match &self.process {
            Process::Qemu(qemu) => qemu.id(),
            Process::ColoXdp(comparator, _) => comparator.id(),
        }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        match &self.process {
            Process::Qemu(qemu) => qemu.log(),
            Process::ColoXdp(comparator, _) => comparator.log(),
        }
    }

    /// Says on notify_dev that the checkpoint is done and waits until the flush has begun. Returns
    /// how many requests for a checkpoint came before.
    ///
    /// # Errors
    /// When it does not react.
    pub fn checkpoint(&mut self) -> Result<usize> {
        self.notify.send_text(CHECKPOINT_DONE)?;
        if let Process::ColoXdp(comparator, _) = &mut self.process {
            comparator.event("checkpoint-done")?;
        }
        // QEMU handles one message after the other, and tells nobody about a flush.
        self.notify.send_text(HELLO)?;
        let mut requests = 0;
        loop {
            let message = self.notify.receive(PATIENCE)?;
            let message = message.context("notify_dev gives no answer")?;
            match message.frame() {
                text if text == REQUEST.as_bytes() => requests += 1,
                text if text == HELLO_ANSWER.as_bytes() => return Ok(requests),
                text => bail!("unknown message on notify_dev: {text:?}"),
            }
        }
    }

    /// Ends it; colo-xdp properly, with a check of its exit and of its frames.
    ///
    /// # Errors
    /// When QEMU has ended by itself, or colo-xdp's end is not in order.
    pub fn finish(self) -> Result {
        let Self { process, primary, secondary, out, notify } = self;
        match process {
            Process::Qemu(mut qemu) => qemu.check()?,
            Process::ColoXdp(comparator, _sockets) => {
                let status = comparator.status()?;
                status.check_conservation()?;
                ensure!(status.count("lost") == 0, "frames were lost: {}", status.0);
                comparator.stop()?;
            }
        }
        drop((primary, secondary, out, notify));
        Ok(())
    }
}

/// Connects to the four chardevs and waits until the comparator knows of it: QEMU loses what it
/// releases, and what it asks, until its main loop has accepted the connection.
fn connect(sockets: &[PathBuf; 4], framing: Framing) -> Result<[Peer; 4]> {
    let [primary, secondary, out, notify] = sockets;
    let connect = |path: &Path| Peer::connect(path, framing, qemu::START);
    let mut out = connect(out)?;
    // Only messages to the comparator carry the vnet word.
    let mut notify = Peer::connect_with(notify, framing, Framing::Plain, qemu::START)?;
    let (mut primary, secondary) = (connect(primary)?, connect(secondary)?);
    notify.send_text(HELLO)?;
    notify.expect_text(HELLO_ANSWER, qemu::START)?;
    for attempt in 0..u8::MAX {
        // Not IP: released uncompared.
        let probe = Message::plain(&[attempt; 60]);
        primary.send(&probe)?;
        while let Some(message) = out.receive(PROBE)? {
            if message == probe {
                return Ok([primary, secondary, out, notify]);
            }
        }
    }
    bail!("nothing arrives at the output")
}

/// QEMU's colo-compare with the four chardevs as servers.
fn colo_compare(properties: &Properties) -> Result<qemu::Launch> {
    let mut launch = qemu::Launch::new()?;
    for name in SOCKETS {
        launch = launch.server(name);
    }
    let object = format!(
        "colo-compare,id=compare,primary_in=primary,secondary_in=secondary,outdev=out,\
         notify_dev=notify,iothread=thread,vnet_hdr_support={},compare_timeout={},\
         expired_scan_cycle={},max_queue_size={}",
        if properties.framing == Framing::Vnet { "on" } else { "off" },
        properties.compare_timeout.as_millis(),
        properties.expired_scan_cycle.as_millis(),
        properties.max_queue_size,
    );
    Ok(launch.option("-object", "iothread,id=thread").option("-object", &object))
}

/// colo-xdp with the same chardevs and properties.
fn colo_xdp(properties: &Properties) -> Result<(Comparator, Sockets)> {
    let sockets = Sockets::new()?;
    let port =
        |name: &&str| format!("chardev:unix:{},server", sockets.0.path().join(name).display());
    let [primary, secondary, out, notify] = SOCKETS.each_ref().map(port);
    let mut launch = Launch::between([primary, secondary, out]).arguments(&[
        "--notify",
        &notify,
        "--compare-timeout",
        &properties.compare_timeout.as_millis().to_string(),
        "--expired-scan-cycle",
        &properties.expired_scan_cycle.as_millis().to_string(),
        "--max-queue-size",
        &properties.max_queue_size.to_string(),
    ]);
    if properties.framing == Framing::Vnet {
        launch = launch.arguments(&["--vnet-hdr"]);
    }
    Ok((launch.start_here()?, sockets))
}
