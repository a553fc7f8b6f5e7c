//! The real binary as the comparator, running.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::Result;
use crate::namespace::Namespace;
use crate::ordinary::OrdinaryUser;
pub use crate::program::{Outcome, PROMISED_EXIT, binary, run_to_exit};
use crate::program::{Place, Program};
use crate::topology::{Role, Topology};

/// A comparator that is about to be started.
#[derive(Debug, Clone)]
pub struct Launch {
    binary: PathBuf,
    ports: [String; 3],
    options: Vec<OsString>,
}

impl Launch {
    /// `colo-xdp run` between the devices of `topology`.
    #[must_use]
    pub fn on(topology: &Topology) -> Self {
        Self::between_devices(Role::ALL.map(|role| topology.device(role)))
    }

    /// `colo-xdp run` between these devices: primary, secondary, output.
    #[must_use]
    pub fn between_devices(devices: [&str; 3]) -> Self {
        let ports = devices.map(|device| format!("xdp:{device}"));
        Self { binary: binary(), ports, options: Vec::new() }
    }

    /// `colo-xdp run` between these ports: primary, secondary, output.
    #[must_use]
    pub fn between(ports: [String; 3]) -> Self {
        Self { binary: binary(), ports, options: Vec::new() }
    }

    /// Another binary than [`binary`] names.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.binary);
        self
    }

    /// With more on every port, as `mode=generic`.
    #[must_use]
    pub fn port_option(mut self, option: &str) -> Self {
        for port in &mut self.ports {
            port.push(',');
            port.push_str(option);
        }
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.options.extend(arguments.iter().map(OsString::from));
        self
    }

    /// The command line as a person would type it, without what only the harness needs.
    #[must_use]
    pub fn command_line(&self) -> String {
        let mut line = String::from("colo-xdp run");
        for (role, port) in Role::ALL.iter().zip(&self.ports) {
            line.extend([" ", role.option(), " ", port]);
        }
        for option in &self.options {
            line.extend([" ", &option.to_string_lossy()]);
        }
        line
    }

    /// Starts it in `namespace` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready; the message has its log.
    pub fn start(self, namespace: &Namespace) -> Result<Comparator> {
        self.start_at(Place::Inside(namespace))
    }

    /// As [`Launch::start`], as an ordinary user.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start_as(self, user: &OrdinaryUser, namespace: &Namespace) -> Result<Comparator> {
        self.start_at(Place::As(user, namespace))
    }

    /// As [`Launch::start`], in the namespace that the test itself is in: for ports that are no
    /// devices. It ends with the calling thread.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start_here(self) -> Result<Comparator> {
        self.start_at(Place::Here)
    }

    fn start_at(self, place: Place<'_>) -> Result<Comparator> {
        let mut arguments = vec![OsString::from("run")];
        for (role, port) in Role::ALL.iter().zip(&self.ports) {
            arguments.extend([role.option().into(), port.into()]);
        }
        arguments.extend(self.options);
        Ok(Comparator { program: Program::start(&self.binary, &arguments, place)? })
    }
}

/// A running comparator. Dropping it kills it; [`Comparator::stop`] ends it properly.
///
/// What it shares with every other [`Program`] is reached through it.
#[derive(Debug)]
pub struct Comparator {
    program: Program,
}

impl Deref for Comparator {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Comparator {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

impl Outcome {
    /// Checks what every proper end of a comparator has in common: exit code 0 within a second,
    /// nothing lost, every frame accounted for.
    ///
    /// # Errors
    /// When one of these does not hold.
    pub fn check(&self) -> Result {
        self.check_exit()?;
        for counter in ["lost", "frames_unaccounted"] {
            let count = self.summary.count(counter);
            ensure!(count == 0, "{counter} is {count} at the end: {}", self.summary.0);
        }
        Ok(())
    }
}

impl Comparator {
    /// Ends it with SIGTERM and checks what [`Outcome::check`] says, and before it that every
    /// frame is in one place.
    ///
    /// # Errors
    /// When any of that fails.
    pub fn stop(self) -> Result<Outcome> {
        self.status()?.check_conservation()?;
        let outcome = self.end_with(Signal::SIGTERM)?;
        outcome.check()?;
        Ok(outcome)
    }

    /// As [`Program::end_with`].
    ///
    /// # Errors
    /// As [`Program::end_with`].
    pub fn end_with(self, signal: Signal) -> Result<Outcome> {
        self.program.end_with(signal)
    }

    /// As [`Program::await_end`].
    ///
    /// # Errors
    /// As [`Program::await_end`].
    pub fn await_end(self) -> Result<Outcome> {
        self.program.await_end()
    }

    /// As [`Program::kill`].
    ///
    /// # Errors
    /// As [`Program::kill`].
    pub fn kill(self) -> Result {
        self.program.kill()
    }
}
