//! `--on-divergence`: a command that learns of a divergence from its environment.
//!
//! | variable | what it has |
//! |---|---|
//! | `COLO_XDP_REASON` | `payload`, `length`, `stream-end`, `timeout`, `queue-full`, `memory`, `flow-table` |
//! | `COLO_XDP_FLOW` | the flow, as it is printed |
//! | `COLO_XDP_OFFSET` | bytes into the stream or the datagram |
//! | `COLO_XDP_SIDE` | `primary` or `secondary`: the one found wanting |
//! | `COLO_XDP_WAITED_MS` | how long the older frame had waited |
//! | `COLO_XDP_CONTROL` | the control socket, if there is one |
//! | `COLO_XDP_REPORT` | the whole report, one line of JSON |
//!
//! The command goes to `sh -c`, what operators expect of a line on a command line. Nothing that
//! came from the network is part of that line: it only ever stands in the environment, and there
//! only as numbers, addresses and hexadecimal bytes.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde::Serialize;

use crate::observe::DivergenceReport;

/// Shortest time between two starts of the command.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs the command: one at a time, and at most one a second. Never blocks.
#[derive(Debug)]
pub struct OnDivergence {
    reports: Sender<Box<DivergenceReport>>,
    shared: Arc<Shared>,
    /// The latest one that came while the command could not be started.
    missed: Option<Box<DivergenceReport>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// From the moment a report is handed over until the next may be.
    busy: AtomicBool,
    started: AtomicU64,
    failed: AtomicU64,
    suppressed: AtomicU64,
}

/// What `ctl status` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OnDivergenceStatus {
    /// Commands started.
    pub started: u64,
    /// Of these, those that could not be started or ended with another status than 0.
    pub failed: u64,
    /// Divergences for which none was started at once, because one still ran or a second had not
    /// passed.
    pub suppressed: u64,
}

impl OnDivergence {
    /// A runner of `command`. `control` is the path of the control socket.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(command: &str, control: Option<&Path>) -> io::Result<Self> {
        let (reports, heard) = crossbeam_channel::bounded(1);
        let shared = Arc::new(Shared::default());
        let runner = Runner {
            command: command.to_owned(),
            control: control.map(|path| path.as_os_str().to_owned()),
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("on-divergence".into())
            .spawn(move || runner.run(&heard))?;
        Ok(Self { reports, shared, missed: None })
    }

    /// Runs the command for this divergence, or counts it and keeps it for
    /// [`OnDivergence::repeat`].
    pub fn run(&mut self, report: &DivergenceReport) {
        self.missed = Some(Box::new(report.clone()));
        if !self.repeat() {
            self.shared.suppressed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The checkpoint is still wanted: runs the command for the latest divergence that it has not
    /// been run for. Without this, a divergence just after a checkpoint would be told to nobody.
    /// True if the command is started.
    pub fn repeat(&mut self) -> bool {
        if self.missed.is_none() || self.shared.busy.swap(true, Ordering::AcqRel) {
            return false;
        }
        // There is room: the runner took the last one before it became free.
        self.missed.take().is_some_and(|report| self.reports.try_send(report).is_ok())
    }

    /// The guests are equal: what has not been told need not be.
    pub fn forget(&mut self) {
        self.missed = None;
    }

    /// What was counted.
    #[must_use]
    pub fn status(&self) -> OnDivergenceStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OnDivergenceStatus {
            started: count(&self.shared.started),
            failed: count(&self.shared.failed),
            suppressed: count(&self.shared.suppressed),
        }
    }
}

struct Runner {
    command: String,
    control: Option<OsString>,
    shared: Arc<Shared>,
}

impl Runner {
    fn run(&self, reports: &Receiver<Box<DivergenceReport>>) {
        for report in reports {
            let start = Instant::now();
            self.shared.started.fetch_add(1, Ordering::Relaxed);
            match self.run_one(&report) {
                Ok(status) if status.success() => {}
                Ok(status) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(command = self.command, %status, "--on-divergence");
                }
                Err(error) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(command = self.command, %error, "--on-divergence");
                }
            }
            std::thread::sleep(INTERVAL.saturating_sub(start.elapsed()));
            self.shared.busy.store(false, Ordering::Release);
        }
    }

    fn run_one(&self, report: &DivergenceReport) -> io::Result<ExitStatus> {
        // Standard output belongs to the events.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.command])
            .stdin(Stdio::null())
            .stdout(Stdio::from(output))
            // Ctrl-C ends the comparator, not a command in the middle of its work.
            .process_group(0)
            .env("COLO_XDP_REASON", word(&report.reason))
            .env("COLO_XDP_FLOW", report.flow.to_string())
            .env("COLO_XDP_OFFSET", report.offset.to_string())
            .env("COLO_XDP_SIDE", word(&report.side))
            .env("COLO_XDP_WAITED_MS", report.waited.as_millis().to_string())
            .env("COLO_XDP_REPORT", serde_json::to_string(report)?);
        match &self.control {
            Some(path) => command.env("COLO_XDP_CONTROL", path),
            None => command.env_remove("COLO_XDP_CONTROL"),
        };
        command.status()
    }
}

/// The word by which a value goes in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use super::*;
    use crate::compare::{Divergence, Reason, Side};
    use crate::frame::samples::{IPV4, UDP, ethernet, ipv4, udp};
    use crate::frame::{Headers, HeapFrame, HeapFrames};

    fn report() -> DivergenceReport {
        let frame = HeapFrame::from(&ethernet(IPV4, &ipv4(UDP, &udp(b"x")))[..]);
        DivergenceReport::new(
            &HeapFrames,
            &Divergence {
                flow: &Headers::parse(&HeapFrames, &frame).key,
                reason: Reason::StreamEnd,
                side: Side::Secondary,
                offset: 7,
                waited: Duration::from_millis(12),
                primary: None,
                secondary: None,
            },
        )
    }

    fn await_true(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_command_finds_the_divergence_in_its_environment() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let seen = directory.path().join("seen");
        let command = format!(
            "echo \"$COLO_XDP_REASON|$COLO_XDP_FLOW|$COLO_XDP_OFFSET|$COLO_XDP_SIDE|\
             $COLO_XDP_WAITED_MS|$COLO_XDP_CONTROL\" > {0}.part; \
             echo \"$COLO_XDP_REPORT\" >> {0}.part; mv {0}.part {0}",
            seen.display()
        );
        let control = PathBuf::from("/run/control");
        let mut runner = OnDivergence::start(&command, Some(&control)).expect("a thread");
        runner.run(&report());
        await_true("the command", || seen.exists());
        let text = std::fs::read_to_string(&seen).expect("written");
        let (words, json) = text.split_once('\n').expect("two lines");
        let source = Ipv4Addr::from(crate::frame::samples::SOURCE);
        assert!(words.starts_with("stream-end|"), "{words}");
        assert!(words.contains(&source.to_string()), "{words}");
        assert!(words.ends_with("|7|secondary|12|/run/control"), "{words}");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(json["offset"], 7);
    }

    #[test]
    fn one_runs_at_a_time_and_at_most_one_a_second() {
        let mut runner = OnDivergence::start("exit 3", None).expect("a thread");
        let start = Instant::now();
        for _ in 0..10 {
            runner.run(&report());
        }
        await_true("a failure", || runner.status().failed == 1);
        runner.run(&report());
        assert_eq!(
            runner.status(),
            OnDivergenceStatus { started: 1, failed: 1, suppressed: 10 },
            "within a second of the first"
        );
        await_true("the next", || {
            runner.run(&report());
            runner.status().started == 2
        });
        assert!(start.elapsed() >= INTERVAL);
    }

    #[test]
    fn one_that_was_suppressed_is_run_when_the_request_is_repeated_unless_it_is_settled() {
        let mut runner = OnDivergence::start("true", None).expect("a thread");
        runner.run(&report());
        runner.run(&report());
        await_true("the repetition", || runner.repeat());
        await_true("the command", || runner.status().started == 2);
        assert!(!runner.repeat(), "it has been told");

        runner.run(&report());
        runner.forget();
        await_true("the end of the second", || !runner.shared.busy.load(Ordering::Acquire));
        assert!(!runner.repeat(), "the guests are equal");
    }
}
