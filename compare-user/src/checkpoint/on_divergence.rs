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
//!
//! The command is run by a process of its own, [`CommandProcess`], that is started before the
//! comparator gives up its privileges and its right to start programs: the command has the rights
//! that colo-xdp was started with. What the comparator can make that process do is run this one
//! command with these variables.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};

use crate::observe::DivergenceReport;
use crate::privilege::{self, Role};

/// Shortest time between two starts of the command.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the names of the command's variables begin with.
const PREFIX: &str = "COLO_XDP_";

/// Name of the subcommand that is the process's main function.
pub(crate) const SUBCOMMAND: &str = "on-divergence";

/// The process that runs the command, as the comparator sees it. It ends when this is dropped and
/// the command that may be running has ended.
pub struct CommandProcess {
    orders: Box<dyn Write + Send>,
    answers: Box<dyn BufRead + Send>,
}

/// A command's variables by name.
type Variables = BTreeMap<String, String>;

/// How a command ended.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    success: bool,
    /// In words.
    how: String,
}

impl CommandProcess {
    /// Starts it: this program again, with other work to do. `control` is the path of the control
    /// socket.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &str, control: Option<&Path>) -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe");
        match control {
            Some(path) => process.env("COLO_XDP_CONTROL", path),
            None => process.env_remove("COLO_XDP_CONTROL"),
        };
        let mut process = process
            .args([SUBCOMMAND, "--", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C ends the comparator, not a command in the middle of its work.
            .process_group(0)
            .spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(orders), Some(answers)) => {
                Ok(Self { orders: Box::new(orders), answers: Box::new(BufReader::new(answers)) })
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Runs the command with these variables and waits for its end.
    fn run(&mut self, variables: &Variables) -> io::Result<Ending> {
        let mut line = serde_json::to_string(variables)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes())?;
        self.orders.flush()?;
        line.clear();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("the process that runs it is gone: start colo-xdp again"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl std::fmt::Debug for CommandProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandProcess").finish_non_exhaustive()
    }
}

/// What the process does: runs `command` once for each line of variables, and tells how it ended.
///
/// # Errors
/// When the other end is gone in the middle of something, or does not keep to this.
pub(crate) fn serve(
    command: &str,
    orders: impl BufRead,
    mut answers: impl Write,
) -> io::Result<()> {
    for line in orders.lines() {
        let variables: Variables = serde_json::from_str(&line?)?;
        let ending = match run_one(command, &variables) {
            Ok(status) => Ending { success: status.success(), how: status.to_string() },
            Err(error) => Ending { success: false, how: error.to_string() },
        };
        let mut line = serde_json::to_string(&ending)?;
        line.push('\n');
        answers.write_all(line.as_bytes())?;
        answers.flush()?;
    }
    Ok(())
}

fn run_one(command: &str, variables: &Variables) -> io::Result<ExitStatus> {
    // Standard output is the comparator's.
    let output = io::stderr().as_fd().try_clone_to_owned()?;
    Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        // The end of whoever started this process is not the end of a command at work.
        .process_group(0)
        .envs(variables.iter().filter(|(name, _)| name.starts_with(PREFIX)))
        .status()
}

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
    /// Lets `process` run its command.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(process: CommandProcess) -> io::Result<Self> {
        let (reports, heard) = crossbeam_channel::bounded(1);
        let shared = Arc::new(Shared::default());
        let mut runner = Runner { process, shared: Arc::clone(&shared) };
        std::thread::Builder::new().name("on-divergence".into()).spawn(move || {
            privilege::confine_or_exit(Role::Command);
            runner.run(&heard);
        })?;
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
    process: CommandProcess,
    shared: Arc<Shared>,
}

impl Runner {
    fn run(&mut self, reports: &Receiver<Box<DivergenceReport>>) {
        for report in reports {
            let start = Instant::now();
            self.shared.started.fetch_add(1, Ordering::Relaxed);
            let ending = variables(&report).and_then(|it| self.process.run(&it));
            match ending {
                Ok(Ending { success: true, .. }) => {}
                Ok(Ending { how, .. }) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(how, "--on-divergence");
                }
                Err(error) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "--on-divergence");
                }
            }
            std::thread::sleep(INTERVAL.saturating_sub(start.elapsed()));
            self.shared.busy.store(false, Ordering::Release);
        }
    }
}

/// What a command learns of a divergence.
fn variables(report: &DivergenceReport) -> io::Result<Variables> {
    let mut variables = Variables::new();
    let mut set = |name: &str, value: String| {
        variables.insert(format!("{PREFIX}{name}"), value);
    };
    set("REASON", word(&report.reason));
    set("FLOW", report.flow.to_string());
    set("OFFSET", report.offset.to_string());
    set("SIDE", word(&report.side));
    set("WAITED_MS", report.waited.as_millis().to_string());
    set("REPORT", serde_json::to_string(report)?);
    Ok(variables)
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
    use std::os::unix::net::UnixStream;

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

    /// The process, as a thread of this one.
    fn process(command: &str) -> CommandProcess {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        let command = command.to_owned();
        std::thread::spawn(move || {
            let orders = BufReader::new(theirs.try_clone().expect("a descriptor"));
            // The end of a test may come in the middle.
            let _ = serve(&command, orders, theirs);
        });
        let answers = BufReader::new(ours.try_clone().expect("a descriptor"));
        CommandProcess { orders: Box::new(ours), answers: Box::new(answers) }
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
             $COLO_XDP_WAITED_MS\" > {0}.part; \
             echo \"$COLO_XDP_REPORT\" >> {0}.part; mv {0}.part {0}",
            seen.display()
        );
        let mut runner = OnDivergence::start(process(&command)).expect("a thread");
        runner.run(&report());
        await_true("the command", || seen.exists());
        let text = std::fs::read_to_string(&seen).expect("written");
        let (words, json) = text.split_once('\n').expect("two lines");
        let source = Ipv4Addr::from(crate::frame::samples::SOURCE);
        assert!(words.starts_with("stream-end|"), "{words}");
        assert!(words.contains(&source.to_string()), "{words}");
        assert!(words.ends_with("|7|secondary|12"), "{words}");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(json["offset"], 7);
    }

    #[test]
    fn one_runs_at_a_time_and_at_most_one_a_second() {
        let mut runner = OnDivergence::start(process("exit 3")).expect("a thread");
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
        let mut runner = OnDivergence::start(process("true")).expect("a thread");
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

    #[test]
    fn only_variables_of_its_own_reach_the_command() {
        let mut process = process("test -z \"$LD_PRELOAD\" && test \"$COLO_XDP_FLOW\" = seen");
        let variables = [("LD_PRELOAD", "/tmp/evil.so"), ("COLO_XDP_FLOW", "seen")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let ending = process.run(&Variables::from(variables)).expect("it ran");
        assert!(ending.success, "{}", ending.how);
    }

    #[test]
    fn that_the_process_is_gone_is_a_failure_and_not_a_wait() {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        drop(theirs);
        let answers = BufReader::new(ours.try_clone().expect("a descriptor"));
        let process = CommandProcess { orders: Box::new(ours), answers: Box::new(answers) };
        let mut runner = OnDivergence::start(process).expect("a thread");
        runner.run(&report());
        await_true("the failure", || runner.status().failed == 1);
    }
}
