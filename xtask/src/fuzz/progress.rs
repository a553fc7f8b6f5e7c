//! What libFuzzer writes to its log.

use std::fmt;

/// How far a target is: its latest status line,
/// `#4096 pulse  cov: 3335 ft: 11835 corp: 603/7337b lim: 17 exec/s: 2998 rss: 182Mb`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Inputs tried.
    runs: u64,
    /// Places in the code that were reached.
    places: u64,
    /// Inputs that reach something that no other does.
    inputs: u64,
}

impl Progress {
    pub(super) fn read(log: &[u8]) -> Self {
        let text = String::from_utf8_lossy(log);
        text.lines().rev().find_map(Self::line).unwrap_or_default()
    }

    fn line(line: &str) -> Option<Self> {
        let (runs, rest) = line.strip_prefix('#')?.split_once(char::is_whitespace)?;
        let field = |name: &str| -> Option<u64> {
            let rest = &rest[rest.find(name)? + name.len()..];
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        Some(Self { runs: runs.parse().ok()?, places: field("cov:")?, inputs: field("corp:")? })
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, places, inputs } = self;
        write!(f, "{runs} runs, {places} places reached, {inputs} inputs kept")
    }
}

/// The file with the input that a target failed on, from
/// `artifact_prefix='DIR/'; Test unit written to DIR/crash-0123`.
pub(super) fn artifact(log: &str) -> Option<&str> {
    log.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

/// The lines that say what happened: a panic's two, and a sanitizer's or libFuzzer's one.
pub(super) fn complaint(log: &str) -> impl Iterator<Item = &str> {
    let mut follows = false;
    log.lines().filter(move |line| {
        let panic = line.contains("panicked at");
        let shown = panic || std::mem::take(&mut follows) || line.starts_with("==");
        follows = panic;
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
INFO: Seed: 1
#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb
#4096\tpulse  cov: 3335 ft: 11835 corp: 603/7337b lim: 17 exec/s: 2998 rss: 182Mb
\tNEW_FUNC[1/2]: 0x55 in name
thread '<unnamed>' panicked at tests/fuzz/src/qmp.rs:51:5:
a frame came out twice
stack backtrace:
==123== ERROR: libFuzzer: deadly signal
artifact_prefix='/x/'; Test unit written to /x/crash-07e3
";

    #[test]
    fn the_latest_status_line_counts() {
        assert_eq!(
            Progress::read(LOG.as_bytes()),
            Progress { runs: 4096, places: 3335, inputs: 603 }
        );
        assert_eq!(Progress::read(b"INFO: nothing yet"), Progress::default());
    }

    #[test]
    fn a_failure_is_shown_with_its_input() {
        assert_eq!(artifact(LOG), Some("/x/crash-07e3"));
        let shown: Vec<_> = complaint(LOG).collect();
        assert_eq!(shown.len(), 3);
        assert_eq!(shown[1], "a frame came out twice");
        assert_eq!(artifact("INFO: Seed: 1"), None);
    }
}
