//! Both guests and the network: the load generator, in a process of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use colo_tests::Wires;
use serde_json::Value;

/// How long it may say nothing: it speaks every second, once it has measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// Running. Dropping it kills it.
pub(super) struct Sender {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Result<Value>>,
    /// Lines about seconds that were read while another was waited for.
    seconds: std::collections::VecDeque<Value>,
    last: Option<Value>,
}

impl Sender {
    /// Starts it at the far ends of `wires`, for `seconds` of load.
    pub(super) fn start(program: &Path, wires: &Wires, share: f64, seconds: f64) -> Result<Self> {
        let [primary, secondary, sink] = wires.peers();
        let mut command = Command::new(program);
        command
            .args(["--primary", primary, "--secondary", secondary, "--sink", sink, "soak"])
            .args(["--share", &share.to_string(), "--seconds", &seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = wires.far().run(|| command.spawn().context("cannot start pair_sender"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("standard output is piped")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                let value = serde_json::from_str(&line).context("pair_sender printed no JSON");
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, lines, seconds: Default::default(), last: None })
    }

    /// The next event called `name`.
    pub(super) fn event(&mut self, name: &str) -> Result<Value> {
        loop {
            let Some(line) = self.line()? else { bail!("pair_sender ended before any {name}") };
            if line["event"] == name {
                return Ok(line);
            }
            self.seconds.push_back(line);
        }
    }

    /// What it says about the next second; none when there is no more.
    pub(super) fn second(&mut self) -> Result<Option<Value>> {
        if let Some(second) = self.seconds.pop_front() {
            return Ok(Some(second));
        }
        match self.line()? {
            Some(line) if line["event"] == "second" => Ok(Some(line)),
            Some(line) if line["event"].is_null() => {
                self.last = Some(line);
                Ok(None)
            }
            Some(line) => bail!("pair_sender said something else than expected: {line}"),
            None => Ok(None),
        }
    }

    fn line(&mut self) -> Result<Option<Value>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line.map(Some),
            Err(RecvTimeoutError::Timeout) => Err(anyhow!("pair_sender says nothing any more")),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    /// The guests are to differ, in one byte.
    pub(super) fn part(&mut self) -> Result<()> {
        self.say("part")
    }

    /// The guests are equal again.
    pub(super) fn reconcile(&mut self) -> Result<()> {
        self.say("reconcile")
    }

    fn say(&mut self, word: &str) -> Result<()> {
        let input = self.input.as_mut().context("pair_sender was told to end")?;
        match writeln!(input, "{word}") {
            // It has just ended, in time; what it has found is yet to be read.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            told => told.context("telling pair_sender"),
        }
    }

    /// Waits for its end; returns what it has found.
    pub(super) fn end(&mut self) -> Result<Value> {
        self.input = None;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("pair_sender: {status}");
        }
        self.last.take().context("pair_sender did not say what it had found")
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
