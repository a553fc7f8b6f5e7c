//! What the whole machine does.

use anyhow::Context;
use colo_tests::Result;

/// Processor time of all cores since the start of the machine, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    idle: u64,
    total: u64,
}

impl Machine {
    /// Now, from the first line of `/proc/stat` (proc_stat(5)).
    pub(crate) fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [idle, waiting] = [3, 4].map(|index| ticks.get(index).copied().unwrap_or(0));
        Ok(Self { idle: idle + waiting, total: ticks.iter().sum() })
    }

    /// The share of all cores that was busy since `before`.
    pub(crate) fn busy_since(self, before: Self) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        1.0 - self.idle.saturating_sub(before.idle) as f64 / total as f64
    }
}
