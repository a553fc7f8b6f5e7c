//! `cargo xtask soak`: the comparator under half its load for long, while flows come and go, the
//! guests are made equal every second and differ every ten.
//!
//! `sender` is both guests and the network, `sample` what is looked at each second, `verdict` what
//! must hold of it, `picture` how it looks.

mod picture;
mod sample;
mod sender;
mod verdict;

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use colo_tests::{Comparator, Launch, Wires};
use nix::sys::signal::Signal;
use sample::Sample;
use sender::Sender;
use serde_json::{Value, json};
use verdict::Verdict;

use crate::workspace;

/// Flows that the comparator may track: few enough that the table is full after some seconds, and
/// every new flow takes the place of an old one.
const MAX_FLOWS: &str = "4096";
/// Seconds between two divergences.
const PARTING: u64 = 10;
/// How long guests that have parted go on before they are made equal again.
const APART: Duration = Duration::from_millis(300);
/// Between two lines about the progress where there is no terminal.
const PROGRESS: u64 = 30;
/// Shortest and longest run, in minutes.
const MINUTES: std::ops::RangeInclusive<f64> = 0.25..=1440.0;

/// How to soak.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask soak --minutes 60
  cargo xtask soak --minutes 1 --json")]
pub(crate) struct Options {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = minutes)]
    minutes: f64,
    /// Share of the measured maximum that is sent
    #[arg(long, value_name = "RATIO", default_value_t = 0.5, value_parser = share)]
    share: f64,
    /// Where soak.json and soak.svg go [default: target/soak]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Run nothing: judge and draw again what an earlier run has written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "share"])]
    from: Option<PathBuf>,
    /// Print the verdict as one JSON object on standard output; progress goes to standard error
    #[arg(long)]
    json: bool,
}

impl Options {
    /// What `cargo xtask test` takes: the flow table is full after a third of it.
    pub(crate) fn short() -> Self {
        Self { minutes: 0.75, share: 0.5, out: None, from: None, json: false }
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if MINUTES.contains(&minutes) => Ok(minutes),
        _ => Err(format!("must be between {} and {}", MINUTES.start(), MINUTES.end())),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.01..=1.0).contains(&share) => Ok(share),
        _ => Err("must be between 0.01 and 1".to_owned()),
    }
}

/// Soaks the binary, with the load generator as both guests and the network; `programs` builds them.
///
/// # Errors
/// Without root, when a program fails, and when the verdict is not that all is well.
pub(crate) fn run(
    options: &Options,
    programs: impl FnOnce() -> Result<[PathBuf; 2]>,
) -> Result<()> {
    let report = match &options.from {
        Some(file) => Report::read(file)?,
        None => soak(options, &programs()?)?,
    };
    let out = options.out.clone().unwrap_or_else(|| workspace::target_dir().join("soak"));
    report.write(&out)?;
    if options.json {
        println!("{}", report.verdict.json());
    } else {
        println!("{}", report.verdict);
    }
    eprintln!("written: {0}/soak.json, {0}/soak.svg", out.display());
    ensure!(report.verdict.is_well(), "not all is well");
    Ok(())
}

fn soak(options: &Options, [binary, sender]: &[PathBuf; 2]) -> Result<Report> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it makes namespaces and devices");
    let wires = Wires::new()?;
    let comparator = Launch::between_devices(wires.devices())
        .binary(binary)
        .arguments(&["--max-flows", MAX_FLOWS])
        .start(wires.host())?;
    let sender = Sender::start(sender, &wires, options.share, options.minutes * 60.0)?;
    let mut soak = Soak { comparator, sender, samples: Vec::new(), parted: 0 };
    soak.watch(options.minutes)?;
    soak.conclude()
}

/// A soak under way.
struct Soak {
    comparator: Comparator,
    sender: Sender,
    samples: Vec<Sample>,
    /// Differences that were planted, each found and answered.
    parted: u64,
}

/// What came of it.
struct Report {
    samples: Vec<Sample>,
    /// The sender's and the comparator's last words.
    sender: Value,
    summary: Value,
    /// Differences that were planted, each found and answered; and checkpoints.
    parted: u64,
    checkpoints: u64,
    verdict: Verdict,
}

impl Soak {
    /// Looks at everything once a second until the sender ends.
    fn watch(&mut self, minutes: f64) -> Result<()> {
        let maximum = self.sender.event("maximum")?;
        eprintln!(
            "at most {:.0} pairs/s go through; {:.0} are sent, for {minutes} min",
            maximum["pairs_per_second"].as_f64().unwrap_or(0.0),
            maximum["target"].as_f64().unwrap_or(0.0)
        );
        let begun = Instant::now();
        while let Some(second) = self.sender.second()? {
            let number = self.samples.len() as u64;
            if number % PARTING == PARTING / 2 {
                self.part().with_context(|| format!("the difference of second {number}"))?;
            }
            self.checkpoint()?;
            let status = self.comparator.status()?;
            let sample = Sample::take(begun.elapsed(), &second, &status.0, self.comparator.id())?;
            progress(&sample, number);
            self.samples.push(sample);
        }
        Ok(())
    }

    /// Has the guests differ in one byte, and expects that this and nothing else is found.
    fn part(&mut self) -> Result<()> {
        self.sender.part()?;
        let planted = self.sender.event("planted")?;
        let found = self.comparator.event("divergence")?;
        self.comparator.event("checkpoint-requested")?;
        let flow = &found["flow"];
        for (wanted, got) in [
            (&planted["protocol"], &flow["protocol"]),
            (&planted["guest_port"], &flow["source_port"]),
            (&planted["client_port"], &flow["destination_port"]),
        ] {
            ensure!(wanted == got, "planted: {planted}; found: {found}");
        }
        let is_v6 = flow["source"].as_str().is_some_and(|address| address.contains(':'));
        ensure!(
            found["reason"] == "payload" && (planted["version"] == 6) == is_v6,
            "planted: {planted}; found: {found}"
        );
        self.parted += 1;
        std::thread::sleep(APART);
        Ok(())
    }

    /// The guests are equal now.
    fn checkpoint(&mut self) -> Result<()> {
        self.comparator.control().call(&["checkpoint"])?;
        self.comparator.event("checkpoint-done")?;
        self.sender.reconcile()
    }

    /// Ends both programs and judges.
    fn conclude(mut self) -> Result<Report> {
        let sender = self.sender.end()?;
        let checkpoints = self.samples.len() as u64;
        let outcome = self.comparator.end_with(Signal::SIGTERM)?;
        outcome.check_exit()?;
        Ok(Report::of(self.samples, sender, outcome.summary.0, self.parted, checkpoints))
    }
}

impl Report {
    fn of(
        samples: Vec<Sample>,
        sender: Value,
        summary: Value,
        parted: u64,
        checkpoints: u64,
    ) -> Self {
        let mut verdict = Verdict::of(&samples);
        verdict.add_counts(&sender, &summary, parted, checkpoints);
        Self { samples, sender, summary, parted, checkpoints, verdict }
    }

    /// Reads what [`Report::write`] has written, and judges it anew.
    fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let value: Value = serde_json::from_str(&text)?;
        let samples = value["samples"].as_array().context("no samples")?;
        let samples = samples.iter().map(Sample::read).collect::<Result<_>>()?;
        let count = |name| value[name].as_u64().with_context(|| format!("no {name}"));
        let (parted, checkpoints) = (count("parted")?, count("checkpoints")?);
        Ok(Self::of(
            samples,
            value["sender"].clone(),
            value["summary"].clone(),
            parted,
            checkpoints,
        ))
    }

    fn write(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let samples: Vec<Value> = self.samples.iter().map(Sample::json).collect();
        let text = json!({
            "verdict": self.verdict.json(),
            "parted": self.parted,
            "checkpoints": self.checkpoints,
            "sender": self.sender,
            "summary": self.summary,
            "samples": samples,
        });
        let path = out.join("soak.json");
        std::fs::write(&path, format!("{text:#}\n")).with_context(|| path.display().to_string())?;
        picture::draw(&self.samples, &out.join("soak.svg"))
    }
}

fn progress(sample: &Sample, number: u64) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{sample}");
        let _ = std::io::stderr().flush();
    } else if number.is_multiple_of(PROGRESS) {
        eprintln!("{sample}");
    }
}
