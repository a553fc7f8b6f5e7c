//! What the subcommands that run until they are told to end have in common: signals, a control
//! socket, events on standard output.

use std::io::Write as _;
use std::path::Path;

use crossbeam_channel::{Receiver, never};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::control::{Call, Server};
use crate::observe::Event;
use crate::privilege::{self, Role};

/// Requests that may wait for their answers.
const CALLS: usize = 16;

/// Ways to talk to the process. Dropping it closes the control socket.
pub(super) struct Service {
    /// SIGINT, SIGTERM or SIGHUP: the end is wanted.
    pub(super) signals: Receiver<i32>,
    /// What clients of the control socket ask.
    pub(super) calls: Receiver<Call>,
    /// The control socket, as events name it.
    control: Option<String>,
    _server: Option<Server>,
}

impl Service {
    /// Watches signals and, if there is to be one, listens on the control socket.
    ///
    /// # Errors
    /// When the control socket cannot be had.
    pub(super) fn start(control: Option<&Path>) -> Result<Self, Failure> {
        let signals = watch_signals()?;
        let (server, calls) = match control {
            Some(path) => listen(path).map(|(server, calls)| (Some(server), calls))?,
            None => (None, never()),
        };
        let control = control.map(|path| path.display().to_string());
        Ok(Self { signals, calls, control, _server: server })
    }

    /// Where the control socket is.
    pub(super) fn control(&self) -> Option<String> {
        self.control.clone()
    }
}

fn watch_signals() -> Result<Receiver<i32>, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::runtime(format!("watching signals: {error}")))?;
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let watch = move || {
        privilege::confine_or_exit(Role::Signals);
        for signal in signals.forever() {
            let _ = sender.try_send(signal);
        }
    };
    let started = std::thread::Builder::new().name("signals".into()).spawn(watch);
    started.map_err(|error| Failure::runtime(format!("watching signals: {error}")))?;
    Ok(receiver)
}

fn listen(path: &Path) -> Result<(Server, Receiver<Call>), Failure> {
    let (sender, calls) = crossbeam_channel::bounded(CALLS);
    let server = Server::start(path, sender).map_err(|error| {
        Failure::runtime(format!("control socket {}: {error}; choose another path", path.display()))
    })?;
    Ok((server, calls))
}

/// Tells whoever reads standard output: a line for people, or one JSON object.
///
/// A reader that has gone, or a disk that is full, is no reason to stop carrying frames: what cannot
/// be written is logged instead.
pub(super) fn tell(json: bool, event: &Event) {
    let line = match json {
        false => event.to_string(),
        true => match serde_json::to_string(event) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "an event cannot be written as JSON");
                return;
            }
        },
    };
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::error!(%error, event = line, "standard output takes no events");
    }
}
