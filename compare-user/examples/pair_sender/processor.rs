//! Processor time of another process.

use std::time::Duration;

use anyhow::Context;

/// Time spent since the process started. The kernel counts it in ticks, and a tick that falls
/// into a softirq on top of the process counts as the process's system time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessorTime {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl ProcessorTime {
    /// Reads `/proc/PID/stat`.
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{process}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        // The second field, the name, may itself have spaces and brackets.
        let (_, fields) = text.rsplit_once(')').with_context(|| path.clone())?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        let mut next = || -> anyhow::Result<Duration> {
            let ticks = times.next().with_context(|| path.clone())??;
            // USER_HZ is 100 wherever Linux runs.
            Ok(Duration::from_millis(ticks * 10))
        };
        Ok(Self { user: next()?, system: next()? })
    }
}
