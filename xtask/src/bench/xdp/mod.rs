//! `cargo xtask bench xdp`: two guests, the comparator and a network on three veth pairs.
//!
//! `trial` runs the real binary once under one load; here the trials are put in turn and
//! `report` says what they found. docs/performance.md explains the figures.

mod report;
mod trial;

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use colo_tests::{Launch, Wires};
use report::Report;
use trial::{Mode, Stand, Trial};

use crate::command;

/// How long an idle lane is watched: processor time is counted in hundredths of a second.
const IDLE: Duration = Duration::from_secs(5);

/// Most seconds of one trial.
const LONGEST: f64 = 60.0;

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Seconds of load in each run
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Rounds, each with every mode once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Pairs under way at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    window: u16,
    /// Three rounds of half a second each
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,
    /// Run with real-time priority, on a machine that others use; they keep a twentieth of both
    /// cores meanwhile
    #[arg(long)]
    realtime: bool,
    /// Print one JSON object on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err(format!("must be between 0.1 and {LONGEST}")),
    }
}

/// What the guests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    protocol: &'static str,
    size: u16,
    flows: u16,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, size, flows } = self;
        write!(f, "{protocol} {size} B, {flows} flow{}", if *flows == 1 { "" } else { "s" })
    }
}

/// Smallest and largest frames of an MTU of 1,500, few flows and many.
const CASES: [Case; 6] = [
    Case { protocol: "udp", size: 64, flows: 1 },
    Case { protocol: "udp", size: 64, flows: 1000 },
    Case { protocol: "udp", size: 1514, flows: 1 },
    Case { protocol: "udp", size: 1514, flows: 1000 },
    Case { protocol: "tcp", size: 1514, flows: 1 },
    Case { protocol: "tcp", size: 1514, flows: 1000 },
];

/// Measures with `binary` as the comparator and `sender` as both guests and the network.
///
/// # Errors
/// Without root or with a single core, and when a run fails. Everything made is removed first.
pub(crate) fn run(options: &Options, binary: &Path, sender: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it makes namespaces and devices");
    let cores = thread::available_parallelism()?.get();
    ensure!(cores >= 2, "needs two cores: one sends, one compares");
    let (seconds, rounds) =
        if options.quick { (0.5, 3) } else { (options.seconds, options.rounds) };
    if options.realtime {
        // Sender and comparator inherit it. The kernel leaves the rest a share
        // (`sched_rt_runtime_us`), so that nothing starves for good.
        let own = std::process::id().to_string();
        command::run(Command::new("chrt").args(["--fifo", "--pid", "1", &own]))?;
    }
    let wires = Wires::new()?;
    let stand = Stand {
        wires: &wires,
        binary,
        sender,
        // The first core serves the machine's interrupts; it gets the sender.
        sender_core: cores - 2,
        lane_core: cores - 1,
        seconds,
        window: options.window,
        realtime: options.realtime,
    };
    let mut report = Report::new(rounds, &stand);
    for case in CASES {
        for round in 1..=rounds {
            eprintln!("{case}: round {round} of {rounds}");
            let trials: Vec<Trial> =
                Mode::ALL.iter().map(|mode| stand.run(case, *mode)).collect::<Result<_>>()?;
            report.add(case, trials);
        }
    }
    eprintln!("an idle lane, {} s", IDLE.as_secs());
    report.idle(idle(&stand)?);
    if options.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
}

/// The share of a core that an adaptive lane uses without any traffic.
fn idle(stand: &Stand<'_>) -> Result<f64> {
    let core = stand.lane_core.to_string();
    let comparator = Launch::between_devices(stand.wires.devices())
        .binary(stand.binary)
        .arguments(&["--poll", "adaptive", "--core", &core])
        .start(stand.wires.host())?;
    // Past the start.
    thread::sleep(Duration::from_millis(200));
    let before = comparator.processor_time()?;
    thread::sleep(IDLE);
    let used = comparator.processor_time()? - before;
    comparator.stop()?;
    Ok(used.as_secs_f64() / IDLE.as_secs_f64())
}
