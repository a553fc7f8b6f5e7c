//! One load on one variant.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Load;

/// What is between client and guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// A bridge, and no secondary.
    Plain,
    /// The proxy after a failover to the primary.
    Standalone,
    /// Both guests, the primary's frames leave unseen.
    Forwarding,
    /// The proxy at work.
    Comparing,
}

impl Variant {
    pub(super) const ALL: [Self; 4] =
        [Self::Plain, Self::Standalone, Self::Forwarding, Self::Comparing];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Standalone => "standalone",
            Self::Forwarding => "forwarding",
            Self::Comparing => "comparing",
        }
    }

    /// Its place in a round.
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// With what trials are made, and for how long.
pub(super) struct Stand<'a> {
    pub(super) binary: &'a Path,
    pub(super) load: &'a Path,
    pub(super) seconds: f64,
    pub(super) run: &'a [String],
}

/// What got through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found {
    /// Bits of content a second.
    Goodput(f64),
    /// Time to open a connection, in microseconds.
    SetUp { p50: f64, p99: f64 },
}

/// What one trial found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trial {
    /// Or why nothing did.
    pub(super) found: Result<Found, String>,
    /// Processor time of the comparator, as a share of one core.
    pub(super) comparator: f64,
    /// The share of all cores that was busy.
    pub(super) machine: f64,
    /// Segments that client and primary sent again.
    pub(super) retransmitted: u64,
    /// Requests for a checkpoint, between identical guests.
    pub(super) requests: u64,
    /// Frames that the comparator, or the kernel before it, had no room for.
    pub(super) lost: u64,
    /// Frames that are nowhere.
    pub(super) unaccounted: u64,
}

impl Stand<'_> {
    /// Makes one trial.
    ///
    /// # Errors
    /// When the load generator fails.
    pub(super) fn run(&self, variant: Variant, load: Load) -> Result<Trial> {
        let (word, connections) = load.arguments();
        let mut command = Command::new(self.load);
        command
            .env("COLO_XDP_BINARY", self.binary)
            .args([variant.name(), word, &connections.to_string(), &self.seconds.to_string()])
            .args(self.run)
            .stdin(Stdio::null());
        let output = command.output().context("cannot start proxy_load")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "proxy_load: {}: {}", output.status, said.trim());
        let value: Value =
            serde_json::from_slice(&output.stdout).context("proxy_load printed no JSON")?;
        Trial::from(&value)
            .with_context(|| format!("proxy_load said something else than expected: {value}"))
    }
}

impl Trial {
    /// None when a field is missing.
    fn from(value: &Value) -> Option<Self> {
        let (used, books) = (&value["used"], &value["books"]);
        // Without a comparator there are no books.
        let count = |name: &str| if books.is_null() { Some(0) } else { books[name].as_u64() };
        Some(Self {
            found: match value["failure"].as_str() {
                Some(failure) => Err(failure.to_owned()),
                None => Ok(Found::from(&value["found"])?),
            },
            comparator: used["comparator_core_share"].as_f64()?,
            machine: used["machine_busy_share"].as_f64()?,
            retransmitted: used["retransmitted_segments"].as_u64()?,
            requests: count("checkpoint_requests")?,
            lost: count("lost")?,
            unaccounted: count("unaccounted")?,
        })
    }

    /// The trial in a few words.
    pub(super) fn gist(&self) -> String {
        match &self.found {
            Ok(Found::Goodput(rate)) => format!("{:.0} Mbit/s", rate / 1e6),
            Ok(Found::SetUp { p50, p99 }) => format!("p50 {p50:.0} us, p99 {p99:.0} us"),
            Err(failure) => format!("STUCK: {failure}"),
        }
    }

    /// More is better: bits a second, or connections that could be opened one after the other.
    pub(super) fn rate(&self) -> Option<f64> {
        match self.found {
            Ok(Found::Goodput(rate)) => Some(rate),
            Ok(Found::SetUp { p50, .. }) => Some(1e6 / p50),
            Err(_) => None,
        }
    }
}

impl Found {
    fn from(value: &Value) -> Option<Self> {
        if let Some(rate) = value["bits_per_second"].as_f64() {
            return Some(Self::Goodput(rate));
        }
        let [p50, p99] = ["p50_microseconds", "p99_microseconds"].map(|name| value[name].as_f64());
        Some(Self::SetUp { p50: p50?, p99: p99? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value() -> Value {
        json!({
            "found": { "bits_per_second": 2e9 },
            "used": {
                "comparator_core_share": 0.5,
                "machine_busy_share": 0.75,
                "retransmitted_segments": 3,
            },
            "books": { "checkpoint_requests": 1, "lost": 2, "unaccounted": 0 },
        })
    }

    #[test]
    fn variants_are_in_the_order_of_their_index() {
        for (index, variant) in Variant::ALL.into_iter().enumerate() {
            assert_eq!(variant.index(), index);
        }
    }

    #[test]
    fn a_trial_is_read_from_what_the_generator_prints() {
        let trial = Trial::from(&value()).expect("every field is there");
        assert_eq!(trial.found, Ok(Found::Goodput(2e9)));
        assert_eq!((trial.requests, trial.lost, trial.retransmitted), (1, 2, 3));
        assert_eq!(trial.rate(), Some(2e9));
    }

    #[test]
    fn without_a_comparator_there_are_no_books() {
        let mut plain = value();
        plain["books"] = Value::Null;
        let trial = Trial::from(&plain).expect("every field is there");
        assert_eq!((trial.requests, trial.lost, trial.unaccounted), (0, 0, 0));
    }

    #[test]
    fn connections_that_got_stuck_are_a_finding() {
        let mut stuck = value();
        stuck["failure"] = "after 10 bytes".into();
        let trial = Trial::from(&stuck).expect("every field is there");
        assert_eq!(trial.gist(), "STUCK: after 10 bytes");
        assert_eq!(trial.rate(), None);
    }

    #[test]
    fn a_missing_field_is_no_trial() {
        let mut short = value();
        short["books"] = json!({ "lost": 0 });
        assert_eq!(Trial::from(&short), None);
    }
}
