//! The real binary as the relay on the secondary host, running.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::Result;
use crate::namespace::Namespace;
use crate::ordinary::OrdinaryUser;
use crate::program::{Outcome, Place, Program, binary};

/// A relay that is about to be started.
#[derive(Debug, Clone)]
pub struct RelayLaunch {
    binary: PathBuf,
    arguments: Vec<OsString>,
}

impl RelayLaunch {
    /// `colo-xdp relay` between the guest's device and the replication link.
    #[must_use]
    pub fn between(guest: &str, link: &str) -> Self {
        let arguments = ["relay", "--guest", guest, "--link", link].map(OsString::from);
        Self { binary: binary(), arguments: arguments.into() }
    }

    /// Another binary than [`binary`] names.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.binary);
        self
    }

    /// With the device that takes the guest's frames after a failover.
    #[must_use]
    pub fn nic(self, device: &str) -> Self {
        self.arguments(&["--nic", device])
    }

    /// With more arguments.
    #[must_use]
    pub fn arguments<A: AsRef<str>>(mut self, arguments: &[A]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| argument.as_ref().into()));
        self
    }

    /// The command line as a person would type it, without what only the harness needs.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.arguments.iter().fold(String::from("colo-xdp"), |line, argument| {
            line + " " + &argument.to_string_lossy()
        })
    }

    /// Starts it in `namespace` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready; the message has its log.
    pub fn start(self, namespace: &Namespace) -> Result<Relay> {
        let program = Program::start(&self.binary, &self.arguments, Place::Inside(namespace))?;
        Ok(Relay { program })
    }

    /// As [`RelayLaunch::start`], as an ordinary user.
    ///
    /// # Errors
    /// As [`RelayLaunch::start`].
    pub fn start_as(self, user: &OrdinaryUser, namespace: &Namespace) -> Result<Relay> {
        let place = Place::As(user, namespace);
        Ok(Relay { program: Program::start(&self.binary, &self.arguments, place)? })
    }
}

/// A running relay. Dropping it kills it; [`Relay::stop`] ends it properly.
///
/// What it shares with every other [`Program`] is reached through it.
#[derive(Debug)]
pub struct Relay {
    program: Program,
}

impl Deref for Relay {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Relay {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

impl Relay {
    /// Ends it with SIGTERM and expects exit code 0 within the promised time.
    ///
    /// # Errors
    /// When that is not how it ends.
    pub fn stop(self) -> Result<Outcome> {
        let outcome = self.program.end_with(Signal::SIGTERM)?;
        outcome.check_exit()?;
        Ok(outcome)
    }

    /// As [`Program::kill`].
    ///
    /// # Errors
    /// As [`Program::kill`].
    pub fn kill(self) -> Result {
        self.program.kill()
    }
}
