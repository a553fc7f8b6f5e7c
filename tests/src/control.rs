//! `colo-xdp ctl` against a running comparator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::Result;
use crate::process::run_to_end;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at the status of a comparator.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The control side of one comparator.
#[derive(Debug, Clone)]
pub struct Control {
    binary: PathBuf,
    socket: PathBuf,
}

impl Control {
    pub(crate) fn new(binary: &Path, socket: PathBuf) -> Self {
        Self { binary: binary.to_owned(), socket }
    }

    /// Runs `colo-xdp ctl` with these arguments and returns what it printed; null when nothing.
    ///
    /// # Errors
    /// When it fails or prints something other than JSON.
    pub fn call(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.binary);
        command.args(["ctl", "--json", "--control"]).arg(&self.socket).args(arguments);
        let output = run_to_end(&mut command, None, ANSWER)?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(
                "ctl {}: {}: {}{text}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text)
            .with_context(|| format!("ctl {} printed: {text}", arguments.join(" ")))
    }

    /// The status now.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn status(&self) -> Result<Status> {
        Ok(Status(self.call(&["status"])?))
    }

    /// Waits for a status that satisfies `condition`; `what` names it for the message.
    ///
    /// # Errors
    /// When it does not come within `within`; the message has the last status.
    pub fn await_status(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + within;
        loop {
            let status = self.status()?;
            if condition(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "waited in vain for {what}: {}", status.0);
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Counters of a comparator, from `ctl status` or the summary at its end.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

impl Status {
    /// The counter at `name`; a dot leads into an object, as in `frames.free`.
    ///
    /// # Panics
    /// When there is no such counter: the names are part of the interface.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        name.split('.')
            .try_fold(&self.0, |value, part| value.get(part))
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no counter {name} in {}", self.0))
    }

    /// Checks that every frame is in exactly one place.
    ///
    /// # Errors
    /// When the places do not add up to the total.
    pub fn check_conservation(&self) -> Result {
        let places = ["free", "receive", "transmit", "held", "pending"]
            .map(|place| self.count(&format!("frames.{place}")));
        let (sum, total) = (places.iter().sum::<u64>(), self.count("frames.total"));
        ensure!(
            sum == total && self.count("frames.unaccounted") == 0,
            "{sum} of {total} frames are accounted for: {}",
            self.0
        );
        Ok(())
    }
}
