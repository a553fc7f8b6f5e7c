//! One `colo-xdp` process: what it reports, what it logs, how it is asked and how it ends.
//!
//! [`crate::Comparator`] is `colo-xdp run`, [`crate::Relay`] is `colo-xdp relay`; both print one
//! JSON object per line and listen on a control socket, and that part is here.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::Result;
use crate::control::{Control, Status};
use crate::leftovers::{self, Leftover};
use crate::namespace::Namespace;
use crate::ordinary::{self, OrdinaryUser};
use crate::process::{processor_time, run_to_end, tied_to_this_thread, wait};

/// How long a start may take on a busy machine before the test gives up.
const START: Duration = Duration::from_secs(10);
/// How long an exit may take before the process is killed.
const EXIT: Duration = Duration::from_secs(5);
/// What the program promises: SIGINT and SIGTERM end it within this time.
pub const PROMISED_EXIT: Duration = Duration::from_secs(1);
/// How long an event may take to be reported.
const EVENT: Duration = Duration::from_secs(5);

/// The binary under test: `COLO_XDP_BINARY`, or the release build of this workspace.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("COLO_XDP_BINARY") {
        return path.into();
    }
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("release/colo-xdp")
}

/// Runs the binary to its end, for cases in which it must not start: in `namespace` if given, as
/// `user` if given.
///
/// # Errors
/// When it cannot be started, or has not ended after five seconds.
pub fn run_to_exit(
    namespace: Option<&Namespace>,
    user: Option<u32>,
    arguments: &[&str],
) -> Result<Output> {
    let mut program = binary();
    ensure_exists(&program)?;
    let copy = TempDir::new()?;
    if user.is_some() {
        // Another user may not be allowed to enter the directory of the build.
        program = copy.path().join("colo-xdp");
        std::fs::copy(binary(), &program)?;
        std::fs::set_permissions(copy.path(), Permissions::from_mode(0o755))?;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut run = || run_to_end(&mut command, None, EXIT);
    match namespace {
        Some(namespace) => namespace.run(run),
        None => run(),
    }
}

fn ensure_exists(binary: &Path) -> Result {
    ensure!(
        binary.exists(),
        "there is no {}: build it (cargo xtask build-ebpf --release && cargo build --release -p \
         compare-user), or name another in COLO_XDP_BINARY",
        binary.display()
    );
    Ok(())
}

/// Where a program is to run, and as whom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In this namespace, as this user, with the user's copy of the program.
    As(&'a OrdinaryUser, &'a Namespace),
    /// In this namespace.
    Inside(&'a Namespace),
    /// In the namespace that the test itself is in. No sweep would find it there after the test is
    /// killed, so it ends with the calling thread.
    Here,
}

/// A running `colo-xdp`. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    control: Control,
    events: Receiver<Result<Value>>,
    unread: VecDeque<Value>,
    log: Arc<Mutex<String>>,
    directory: TempDir,
    stopped: bool,
}

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// Time from the signal to the end.
    pub took: Duration,
    /// Its last event: the counters.
    pub summary: Status,
    /// Events that nobody had taken, the summary aside.
    pub unread: Vec<Value>,
    /// What it logged.
    pub log: String,
}

impl Outcome {
    /// Checks what every proper end has in common: exit code 0 within a second.
    ///
    /// # Errors
    /// When it was not so; the message has the log.
    pub fn check_exit(&self) -> Result {
        ensure!(self.status.success(), "{}: {}", self.status, self.log);
        ensure!(self.took <= PROMISED_EXIT, "it took {} ms to end", self.took.as_millis());
        Ok(())
    }
}

impl Program {
    /// Starts `binary` with `arguments`, reporting in JSON and listening on a control socket of
    /// its own, and waits until it is ready.
    pub(crate) fn start(binary: &Path, arguments: &[OsString], place: Place<'_>) -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        leftovers::remember(Leftover::Directory(directory.path().to_owned()));
        ensure_exists(binary)?;
        let socket = directory.path().join("control");
        let mut command = match place {
            Place::Inside(_) => Command::new(binary),
            Place::As(user, _) => {
                chown(directory.path(), Some(ordinary::USER), Some(ordinary::USER))?;
                user.command()
            }
            Place::Here => {
                let mut command = tied_to_this_thread(None);
                command.arg(binary);
                command
            }
        };
        command.args(arguments).args(["--json", "--control"]).arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C reaches the harness alone, which then stops things in order.
        command.process_group(0);
        let child = match place {
            Place::Inside(namespace) | Place::As(_, namespace) => {
                namespace.run(|| Ok(command.spawn()?))
            }
            Place::Here => Ok(command.spawn()?),
        };
        let child = child.context("cannot start colo-xdp")?;
        leftovers::remember(Leftover::Process(child.id()));
        let control = Control::new(binary, socket);
        let mut program = Self::around(child, control, directory)?;
        program.event_within("ready", START)?;
        Ok(program)
    }

    fn around(mut child: Child, control: Control, directory: TempDir) -> Result<Self> {
        let (sender, events) = channel();
        let stdout = child.stdout.take().context("stdout is piped")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                let event = serde_json::from_str(&line)
                    .with_context(|| format!("not a JSON line on stdout: {line}"));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().context("stderr is piped")?;
        let sink = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                sink.push_str(&line);
                sink.push('\n');
            }
        });
        let unread = VecDeque::new();
        Ok(Self { child, control, events, unread, log, directory, stopped: false })
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its control side.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its status now.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn status(&self) -> Result<Status> {
        self.control.status()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Processor time that it has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_time(&self) -> Result<Duration> {
        processor_time(self.id())
    }

    /// The path of its control socket.
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// The first event called `name` that nobody has taken yet.
    ///
    /// # Errors
    /// When none comes within five seconds, or the comparator ends; the message has its log.
    pub fn event(&mut self, name: &str) -> Result<Value> {
        self.event_within(name, EVENT)
    }

    /// As [`Program::event`], with another patience.
    ///
    /// # Errors
    /// As [`Program::event`].
    pub fn event_within(&mut self, name: &str, within: Duration) -> Result<Value> {
        match self.next_event(name, within)? {
            Some(event) => Ok(event),
            None => bail!("no event {name} within {within:?}; log:\n{}", self.log()),
        }
    }

    /// Expects that no event called `name` comes for as long as `during`.
    ///
    /// # Errors
    /// When one does.
    pub fn no_event(&mut self, name: &str, during: Duration) -> Result {
        match self.next_event(name, during)? {
            Some(event) => bail!("no event {name} may come, but this did: {event}"),
            None => Ok(()),
        }
    }

    fn next_event(&mut self, name: &str, within: Duration) -> Result<Option<Value>> {
        let is_named = |event: &Value| event["event"] == name;
        if let Some(event) =
            self.unread.iter().position(is_named).and_then(|index| self.unread.remove(index))
        {
            return Ok(Some(event));
        }
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    let event = event?;
                    if is_named(&event) {
                        return Ok(Some(event));
                    }
                    self.unread.push_back(event);
                }
                Err(Timeout) => return Ok(None),
                Err(Disconnected) => {
                    let status = wait(&mut self.child, EXIT)?;
                    return Err(anyhow!("colo-xdp ended ({status:?}); log:\n{}", self.log()));
                }
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result {
        let id = i32::try_from(self.child.id()).context("process ids fit 31 bits")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("{signal} to colo-xdp"))
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    /// When it does not end within five seconds, or leaves no summary.
    pub fn end_with(self, signal: Signal) -> Result<Outcome> {
        self.signal(signal)?;
        self.await_end()
    }

    /// Waits for the end, which something else has caused.
    ///
    /// # Errors
    /// When it does not end within five seconds, or leaves no summary.
    pub fn await_end(mut self) -> Result<Outcome> {
        let start = Instant::now();
        let status = wait(&mut self.child, EXIT)?;
        let took = start.elapsed();
        let Some(status) = status else {
            bail!("colo-xdp still ran after {} s; log:\n{}", EXIT.as_secs(), self.log());
        };
        self.stopped = true;
        let summary = self.event("summary")?;
        let unread = self.unread.drain(..).collect();
        Ok(Outcome { status, took, summary: Status(summary), unread, log: self.log() })
    }

    /// Kills it with SIGKILL, as a crash would, and waits until the kernel has taken it apart.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(mut self) -> Result {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        self.stopped = true;
        Ok(())
    }
}

impl Drop for Program {
    #[allow(clippy::print_stderr, reason = "the log belongs to the report of a failing test")]
    fn drop(&mut self) {
        leftovers::forget(&Leftover::Process(self.child.id()));
        leftovers::forget(&Leftover::Directory(self.directory.path().to_owned()));
        if !self.stopped {
            // Here because a test failed half-way: say what it had to say.
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("colo-xdp log:\n{}", self.log());
            for event in self.unread.iter().cloned().chain(self.events.try_iter().flatten()) {
                eprintln!("colo-xdp event: {event}");
            }
        }
    }
}
