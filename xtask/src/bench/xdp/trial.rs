//! One run of the binary under one load.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use colo_tests::{Launch, Wires};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Case;
use crate::median::median;

/// How the comparator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Releases the primary's frames and drops the secondary's without looking at them.
    ForwardOnly,
    /// Compares.
    Comparing,
    /// Compares, and sleeps when there is nothing to do.
    Adaptive,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::ForwardOnly, Self::Comparing, Self::Adaptive];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ForwardOnly => "forward-only",
            Self::Comparing => "comparing",
            Self::Adaptive => "adaptive",
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::ForwardOnly => ["--poll", "busy", "--compare", "off"],
            Self::Comparing => ["--poll", "busy", "--compare", "on"],
            Self::Adaptive => ["--poll", "adaptive", "--compare", "on"],
        }
    }

    /// Bursts tell what a pair costs the lane's core, which polling has no part in.
    fn bursts(self) -> &'static str {
        if self == Self::Adaptive { "0" } else { "100" }
    }
}

/// Where trials run, and for how long.
pub(super) struct Stand<'a> {
    pub(super) wires: &'a Wires,
    pub(super) binary: &'a Path,
    pub(super) sender: &'a Path,
    pub(super) sender_core: usize,
    pub(super) lane_core: usize,
    pub(super) seconds: f64,
    pub(super) window: u16,
    pub(super) realtime: bool,
}

/// What one run found.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    /// Pairs that came out per second.
    pub(super) rate: f64,
    /// Processor time of the comparator's process per pair, in nanoseconds.
    pub(super) processor: f64,
    /// Share of the time for which the sender waited for the comparator.
    pub(super) waited: f64,
    /// What a pair took while bursts came out, in nanoseconds: the median.
    pub(super) alone: Option<f64>,
    /// Frames released per system call that sends.
    pub(super) per_call: f64,
    /// Pairs that did not come out.
    pub(super) lost: u64,
    /// Whether what came out was what went in.
    pub(super) intact: bool,
}

impl Stand<'_> {
    /// Starts the comparator, loads it, stops it.
    ///
    /// # Errors
    /// When either program fails. Lost pairs are no error here: they are reported.
    pub(super) fn run(&self, case: Case, mode: Mode) -> Result<Trial> {
        let core = self.lane_core.to_string();
        let comparator = Launch::between_devices(self.wires.devices())
            .binary(self.binary)
            .arguments(&mode.arguments())
            .arguments(&["--core", &core])
            .start(self.wires.host())?;
        let found = self.load(case, mode, comparator.id())?;
        let outcome = comparator.end_with(Signal::SIGTERM)?;
        ensure!(outcome.status.success(), "{}: {}", outcome.status, outcome.log);
        Trial::from(&found, &outcome.summary.0).with_context(|| {
            format!("pair_sender or colo-xdp said something else than expected: {found}")
        })
    }

    fn load(&self, case: Case, mode: Mode, comparator: u32) -> Result<Value> {
        let [primary, secondary, sink] = self.wires.peers();
        let mut command = Command::new(self.sender);
        command
            .args(["--primary", primary, "--secondary", secondary, "--sink", sink])
            .arg("bench")
            .args(["--protocol", case.protocol, "--size", &case.size.to_string()])
            .args(["--flows", &case.flows.to_string(), "--window", &self.window.to_string()])
            .args(["--seconds", &self.seconds.to_string(), "--bursts", mode.bursts()])
            .args(["--core", &self.sender_core.to_string()])
            .args(["--comparator", &comparator.to_string()])
            .stdin(Stdio::null());
        let output =
            self.wires.far().run(|| command.output().context("cannot start pair_sender"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pair_sender: {}: {}", output.status, said.trim());
        serde_json::from_slice(&output.stdout).context("pair_sender printed no JSON")
    }
}

impl Trial {
    /// None when a field is missing.
    fn from(found: &Value, summary: &Value) -> Option<Self> {
        let stream = &found["stream"];
        let (seconds, pairs) = (stream["seconds"].as_f64()?, stream["pairs"].as_f64()?);
        let processor = stream["user_seconds"].as_f64()? + stream["system_seconds"].as_f64()?;
        let out = summary["ports"].as_array()?.iter().find(|port| port["role"] == "out")?;
        let sent = &out["statistics"]["port"];
        Some(Self {
            rate: pairs / seconds,
            processor: processor * 1e9 / pairs.max(1.0),
            waited: stream["waited_seconds"].as_f64()? / seconds,
            alone: found["bursts"]["nanoseconds_per_pair"]
                .as_array()
                .and_then(|paces| median(paces.iter().filter_map(Value::as_f64))),
            per_call: sent["transmitted"].as_f64()? / sent["wakeups"].as_f64()?.max(1.0),
            lost: found["lost"].as_u64()?,
            intact: found["intact"].as_bool()?,
        })
    }
}
