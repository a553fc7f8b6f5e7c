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
    /// The machine's load average: processes that ran or waited for a processor, in the last minute.
    pub(super) machine: Option<f64>,
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
                machine: None,
                latency,
            })
        };
        let sample = parse().with_context(|| format!("not as expected: {second} {status}"))?;
        Ok(Self { resident: resident(process)?, machine: Some(machine()?), ..sample })
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

impl Sample {
    /// Reads what [`Sample::json`] has written.
    pub(super) fn read(value: &Value) -> Result<Self> {
        let parse = || {
            let latency = &value["latency_microseconds"];
            let latency = [0, 1, 2].map(|index| latency[index].as_f64());
            Some(Self {
                at: Duration::try_from_secs_f64(value["seconds"].as_f64()?).ok()?,
                resident: value["resident_kib"].as_f64()?,
                occupied: value["occupied_frames"].as_f64()?,
                unaccounted: value["unaccounted"].as_i64()?,
                flows: value["flows"].as_u64()?,
                evicted: value["flows_evicted"].as_u64()?,
                lost: value["lost"].as_u64()?,
                divergences: value["divergences"].as_u64()?,
                rate: value["pairs_per_second"].as_f64()?,
                machine: value["load_average"].as_f64(),
                latency: match latency {
                    [Some(p50), Some(p99), Some(p999)] => Some([p50, p99, p999]),
                    _ => None,
                },
            })
        };
        parse().with_context(|| format!("not a sample: {value}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() -> Result<()> {
        let second = json!({ "arrived": 500, "seconds": 1.0, "p50": 1.0, "p99": 2.0, "p999": 3.0 });
        let status = json!({
            "frames": { "held": 1, "pending": 2, "transmit": 3, "unaccounted": 0 },
            "flows": 4, "flows_evicted": 5, "lost": 6, "divergences": 7,
        });
        let taken = Sample::take(Duration::from_secs(8), &second, &status, std::process::id())?;
        assert_eq!((taken.occupied, taken.rate), (6.0, 500.0));
        let read = Sample::read(&taken.json())?;
        assert_eq!(read.json(), taken.json());
        assert_eq!((read.at, read.latency), (taken.at, Some([1.0, 2.0, 3.0])));
        Ok(())
    }
}
