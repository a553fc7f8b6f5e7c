//! Those who take checkpoints, played by the test: Xen's COLO frame and a COLO primary's QMP.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Result;

/// How long the comparator may take to say something.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory with the socket of one peer.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// A new one.
    ///
    /// # Errors
    /// When no directory can be made.
    pub fn new() -> Result<Self> {
        Ok(Self { directory: TempDir::with_prefix("colo-")? })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

/// The far end of `--notify`.
#[derive(Debug)]
pub struct NotifyPeer {
    stream: UnixStream,
    vnet: bool,
}

impl NotifyPeer {
    /// Accepts the comparator on `listener`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn accept(listener: &UnixListener, vnet: bool) -> Result<Self> {
        Self::around(accept(listener)?, vnet)
    }

    /// Connects to the comparator.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn connect(path: &Path, vnet: bool) -> Result<Self> {
        Self::around(UnixStream::connect(path)?, vnet)
    }

    fn around(stream: UnixStream, vnet: bool) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, vnet })
    }

    /// Sends a message, with the vnet word if the comparator runs with `--vnet-hdr`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn say(&mut self, text: &str) -> Result {
        let mut bytes = u32::try_from(text.len())?.to_be_bytes().to_vec();
        if self.vnet {
            bytes.extend([0; 4]);
        }
        bytes.extend(text.bytes());
        self.send(&bytes)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result {
        self.stream.write_all(bytes).context("the comparator does not read")
    }

    /// Expects this message next.
    ///
    /// # Errors
    /// When another comes, or none in time.
    pub fn expect(&mut self, text: &str) -> Result {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).with_context(|| format!("no {text}"))?;
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length < 1000, "a message of {length} bytes");
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message)?;
        let message = String::from_utf8_lossy(&message);
        ensure!(message == text, "{message} instead of {text}");
        Ok(())
    }

    /// Expects that the comparator disconnects.
    ///
    /// # Errors
    /// When it does not, or says something first.
    pub fn expect_end(&mut self) -> Result {
        // A reset, when it had not read to the end.
        let end = self.stream.read(&mut [0; 1]);
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        ensure!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(reset), "no end: {end:?}");
        Ok(())
    }
}

/// A COLO primary's monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// What `query-migrate` is answered.
    pub migration: &'static str,
}

impl Monitor {
    /// Accepts the comparator on `listener` and negotiates.
    ///
    /// # Errors
    /// When it does not come or does not negotiate.
    pub fn accept(listener: &UnixListener, migration: &'static str) -> Result<Self> {
        let stream = accept(listener)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut monitor = Self { stream, lines, migration };
        let version = json!({ "qemu": { "major": 11, "minor": 1, "micro": 3 } });
        monitor.say(&json!({ "QMP": { "version": version, "capabilities": [] } }))?;
        monitor.answer("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn say(&mut self, message: &Value) -> Result {
        self.stream
            .write_all(format!("{message}\r\n").as_bytes())
            .context("the comparator does not read")
    }

    /// Sends an event.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn event(&mut self, name: &str, data: &Value) -> Result {
        self.say(&json!({ "event": name, "data": data, "timestamp": {} }))
    }

    /// Waits for `command`, answers it and returns it; looks at the state are answered meanwhile.
    ///
    /// # Errors
    /// When it does not come.
    pub fn answer(&mut self, command: &str, answer: &Value) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < deadline, "no {command}");
            let mut line = String::new();
            self.lines.read_line(&mut line).with_context(|| format!("no {command}"))?;
            let question: Value = serde_json::from_str(&line)?;
            let id = &question["id"];
            if question["execute"] == command {
                self.say(&json!({ "return": answer, "id": id }))?;
                return Ok(question);
            }
            let looks = [json!("query-migrate"), json!("query-colo-status")];
            ensure!(looks.contains(&question["execute"]), "{question} instead of {command}");
            self.say(&json!({
                "return": { "status": self.migration, "mode": "primary" }, "id": id
            }))?;
        }
    }

    /// Expects a checkpoint request, as QEMU sees it, and accepts it.
    ///
    /// # Errors
    /// When none comes.
    pub fn accept_request(&mut self) -> Result {
        let delay = json!({ "x-checkpoint-delay": 12_345 });
        self.answer("query-migrate-parameters", &delay)?;
        let set = self.answer("migrate-set-parameters", &json!({}))?;
        ensure!(set["arguments"] == delay, "not the value it has: {set}");
        Ok(())
    }
}

fn accept(listener: &UnixListener) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "the comparator does not connect");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
