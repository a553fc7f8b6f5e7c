//! How things stand at one moment.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One look.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Since the load began.
    pub(super) at: Duration,
    /// Resident memory of the comparator's process, in KiB.
    pub(super) resident: f64,
    /// Frames of its memory that are neither free nor lent to the kernel for receiving.
    pub(super) occupied: f64,
    /// Frames in no known place.
    pub(super) unaccounted: i64,
    /// Flows that it tracks.
    pub(super) flows: u64,
    /// Flows that it has forgotten to make room.
    pub(super) evicted: u64,
    /// Frames that were lost so far.
    pub(super) lost: u64,
    /// Divergences found so far.
    pub(super) divergences: u64,
    /// Pairs of which the client's side got a frame, per second.
    pub(super) rate: f64,
    /// Processes that ran or waited for a processor, in the last minute: this machine has others.
    pub(super) machine: f64,
    /// From sending to arrival in this second, in microseconds, as [`Sample::LATENCIES`] says.
    pub(super) latency: Option<[f64; 3]>,
}

impl Sample {
    /// What the latencies are.
    pub(super) const LATENCIES: [&'static str; 3] = ["p50", "p99", "p99.9"];

    /// Puts together what the sender said of the last second, what the comparator says, and what
    /// the kernel knows of its process.
    pub(super) fn take(at: Duration, second: &Value, status: &Value, process: u32) -> Result<Self> {
        let parse = || {
            let count = |name: &str| status[name].as_u64();
            let frames = |name: &str| status["frames"][name].as_f64();
            let latency = ["p50", "p99", "p999"].map(|name| second[name].as_f64());
            let latency = match latency {
                [Some(p50), Some(p99), Some(p999)] => Some([p50, p99, p999]),
                _ => None,
            };
            Some(Self {
                at,
                resident: 0.0,
                occupied: frames("held")? + frames("pending")? + frames("transmit")?,
                unaccounted: status["frames"]["unaccounted"].as_i64()?,
                flows: count("flows")?,
                evicted: count("flows_evicted")?,
                lost: count("lost")?,
                divergences: count("divergences")?,
                rate: second["arrived"].as_f64()? / second["seconds"].as_f64()?,
                machine: 0.0,
                latency,
            })
        };
        let sample = parse().with_context(|| format!("not as expected: {second} {status}"))?;
        Ok(Self { resident: resident(process)?, machine: machine()?, ..sample })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "seconds": self.at.as_secs_f64(),
            "resident_kib": self.resident,
            "occupied_frames": self.occupied,
            "unaccounted": self.unaccounted,
            "flows": self.flows,
            "flows_evicted": self.evicted,
            "lost": self.lost,
            "divergences": self.divergences,
            "pairs_per_second": self.rate,
            "load_average": self.machine,
            "latency_microseconds": self.latency,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} s: {:.0} pairs/s, {:.1} MiB, {} flows ({} forgotten), {} divergences, {} lost",
            self.at.as_secs_f64(),
            self.rate,
            self.resident / 1024.0,
            self.flows,
            self.evicted,
            self.divergences,
            self.lost
        )?;
        match self.latency {
            Some([p50, p99, p999]) => write!(f, ", {p50:.0}/{p99:.0}/{p999:.0} us"),
            None => Ok(()),
        }
    }
}

/// `VmRSS` (proc_pid_status(5)), in KiB.
fn resident(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(number.parse()?)
}

/// The first load average (proc_loadavg(5)).
fn machine() -> Result<f64> {
    let averages = std::fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split_whitespace().next().context("no load average")?.parse()?)
}
