//! The log on standard error, and changing what goes into it while it runs.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use super::Failure;

/// Words that stand for a level; any other word alone would silence everything but one module.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The log that was started.
pub(super) struct Log {
    filter: Handle<EnvFilter, Registry>,
}

impl Log {
    /// Starts the log.
    ///
    /// # Errors
    /// When `level` is none.
    pub(super) fn start(level: &str) -> Result<Self, Failure> {
        let filter =
            parse(level).map_err(|error| Failure::usage(format!("--log {level}: {error}")))?;
        let (filter, handle) = reload::Layer::new(filter);
        let colours = std::io::stderr().is_terminal();
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
        tracing_subscriber::registry().with(filter).with(lines).init();
        Ok(Self { filter: handle })
    }

    /// Changes what is logged.
    ///
    /// # Errors
    /// When `level` is none.
    pub(super) fn set(&self, level: &str) -> Result<(), String> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|error| error.to_string())
    }
}

/// A level, or a list of levels and `MODULE=LEVEL`.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let wrong =
        |part: &str| format!("'{part}' is no level: write {} or MODULE=LEVEL", LEVELS.join(", "));
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level.trim().to_ascii_lowercase().as_str()) {
            return Err(wrong(part));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules_are_taken_and_words_are_not() {
        for good in ["warn", "DEBUG", "off", "warn,compare_user::checkpoint=debug"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "warn,", "compare_user=loud", "9"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
