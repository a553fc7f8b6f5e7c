//! `cargo xtask bench proxy`: what a client gets out of a guest through mirror, comparator and
//! relay, beside what it gets without them.
//!
//! `trial` puts one load on one variant, in a network of its own; here the trials are put in turn
//! and `report` says what they found. docs/performance.md explains the figures.

mod report;
mod trial;

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use report::Report;
use trial::Variant;

/// Fewest and most seconds of one trial.
const SHORTEST: f64 = 0.2;
const LONGEST: f64 = 60.0;

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Seconds for which connections are kept busy in each trial
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Rounds, each with every variant once under every load
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Three rounds of one second each
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,
    /// Print one JSON object on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// More options for `colo-xdp run`, such as --max-queue-size 8192
    #[arg(last = true, value_name = "RUN-OPTION")]
    run: Vec<String>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (SHORTEST..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err(format!("must be between {SHORTEST} and {LONGEST}")),
    }
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Opens two thousand connections, eight at a time.
    SetUp,
    /// Downloads over so many connections.
    ToClient(u16),
    /// Uploads over so many connections.
    ToGuest(u16),
}

impl Load {
    const ALL: [Self; 5] =
        [Self::SetUp, Self::ToClient(1), Self::ToClient(32), Self::ToGuest(1), Self::ToGuest(32)];

    /// How the load generator calls it: a word, and how many connections.
    fn arguments(self) -> (&'static str, u16) {
        match self {
            Self::SetUp => ("set-up", 0),
            Self::ToClient(connections) => ("client", connections),
            Self::ToGuest(connections) => ("guest", connections),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, connections) = match self {
            Self::SetUp => return f.write_str("connection set-up"),
            Self::ToClient(connections) => ("guest to client", connections),
            Self::ToGuest(connections) => ("client to guest", connections),
        };
        let plural = if *connections == 1 { "" } else { "s" };
        write!(f, "{direction}, {connections} connection{plural}")
    }
}

/// Measures `binary` with `load` as client and guests.
///
/// # Errors
/// Without root, or when a trial cannot be made. That connections get stuck in one is a finding.
pub(crate) fn run(options: &Options, binary: &Path, load: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it makes namespaces and devices");
    let (seconds, rounds) =
        if options.quick { (1.0, 3) } else { (options.seconds, options.rounds) };
    let stand = trial::Stand { binary, load, seconds, run: &options.run };
    let mut report = Report::new(rounds, &stand);
    for round in 1..=rounds {
        for load in Load::ALL {
            let mut trials = Vec::with_capacity(Variant::ALL.len());
            for variant in Variant::ALL {
                let trial = stand.run(variant, load)?;
                let name = variant.name();
                eprintln!("round {round} of {rounds}: {load}: {name}: {}", trial.gist());
                trials.push(trial);
            }
            report.add(load, trials);
        }
    }
    if options.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
}
