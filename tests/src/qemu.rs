//! QEMU without a guest: its colo-compare stand-alone, or its netdevs and filters.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::Result;
use crate::leftovers::{self, Leftover};
use crate::namespace::Namespace;
use crate::process::tied_to_this_thread;

/// The program, unless `COLO_QEMU` names another.
const PROGRAM: &str = "qemu-system-x86_64";
/// How long QEMU may take to offer its sockets on a busy machine.
pub const START: Duration = Duration::from_secs(20);

/// The QEMU that tests use: `COLO_QEMU`, or the one on PATH.
#[must_use]
pub fn program() -> Option<PathBuf> {
    if let Some(path) = env::var_os("COLO_QEMU") {
        return Some(path.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(PROGRAM)).find(|path| path.is_file())
}

/// Whether tests against QEMU can run; says on stderr what is skipped when they cannot.
///
/// # Panics
/// Without QEMU under `CI=true`, where nothing may be skipped.
#[must_use]
#[allow(clippy::print_stderr, reason = "a skip must be seen by the person who runs the tests")]
pub fn can_run(test: &str) -> bool {
    if program().is_some() {
        return true;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{test} needs {PROGRAM}, CI skips nothing");
    eprintln!("SKIPPED {test}: needs {PROGRAM} (cargo xtask setup installs it)");
    false
}

/// Leaves the calling test, as skipped, unless QEMU is there.
#[macro_export]
macro_rules! needs_qemu {
    () => {
        if !$crate::qemu::can_run(module_path!()) {
            return Ok(());
        }
    };
}

/// A QEMU that runs; dropping it kills it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    log: PathBuf,
    directory: TempDir,
}

/// A QEMU that is about to be started: no machine, no guest, no display, no default devices.
#[derive(Debug)]
pub struct Launch {
    arguments: Vec<String>,
    directory: TempDir,
}

impl Launch {
    /// With a directory for its sockets.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("colo-qemu-")?;
        leftovers::remember(Leftover::Directory(directory.path().to_owned()));
        let arguments = ["-M", "none", "-nodefaults", "-display", "none"].map(str::to_owned);
        Ok(Self { arguments: arguments.into(), directory })
    }

    /// The path of a socket called `name`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// With one more option and its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// With a unix-socket chardev called `name` that waits for a peer in the background.
    #[must_use]
    pub fn server(self, name: &str) -> Self {
        let path = self.socket(name);
        let value = format!("socket,id={name},path={},server=on,wait=off", path.display());
        self.option("-chardev", &value)
    }

    /// With a unix-socket chardev called `name` that is connected to `path`.
    #[must_use]
    pub fn client(self, name: &str, path: &Path) -> Self {
        let value = format!("socket,id={name},path={},reconnect=1", path.display());
        self.option("-chardev", &value)
    }

    /// What a person would type.
    #[must_use]
    pub fn command_line(&self) -> String {
        format!("{PROGRAM} {}", self.arguments.join(" "))
    }

    /// Starts it, in `namespace` if given. It is killed with the calling thread, whatever ends
    /// that.
    ///
    /// # Errors
    /// When there is no QEMU or it cannot be started.
    pub fn start(self, namespace: Option<&Namespace>) -> Result<Qemu> {
        let program = program().with_context(|| format!("there is no {PROGRAM}"))?;
        let log = self.directory.path().join("log");
        let mut command = tied_to_this_thread(namespace);
        command.arg(program).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        leftovers::remember(Leftover::Process(child.id()));
        Ok(Qemu { child, log, directory: self.directory })
    }
}

impl Qemu {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The path of a socket called `name`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it said on stderr.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Checks that it still runs.
    ///
    /// # Errors
    /// When it has ended; the message has its log.
    pub fn check(&mut self) -> Result {
        if let Some(status) = self.child.try_wait()? {
            bail!("QEMU has ended: {status}: {}", self.log().trim());
        }
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It holds nothing that a proper end would save.
        let _ = self.child.kill();
        let _ = self.child.wait();
        leftovers::forget(&Leftover::Process(self.child.id()));
        leftovers::forget(&Leftover::Directory(self.directory.path().to_owned()));
    }
}
