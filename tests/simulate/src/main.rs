//! Runs simulations, and makes a failing one smaller.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: text on the terminal is what it makes"
)]

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use colo_simulate::batch::{self, Failure, Report};
use colo_simulate::scenario::Scenario;
use colo_simulate::shrink::shrink;

/// Simulate the comparator: model guests, a network in which things go wrong, and an oracle.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate")]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this seed alone, with a trace if it fails
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Run this scenario, as a failing run has printed it
    #[arg(long, conflicts_with_all = ["seeds", "from", "seed"])]
    scenario: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Stop after this many failures
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Say nothing on standard error
    #[arg(long)]
    quiet: bool,
    /// Do not make failing scenarios smaller
    #[arg(long)]
    no_shrink: bool,
    /// Threads; as many as there are processors if not given
    #[arg(long)]
    workers: Option<usize>,
    /// Print the scenario and the last steps also when it succeeds
    #[arg(long)]
    trace: bool,
}

/// Fewer seeds than this need not meet everything.
const ENOUGH: u64 = 1000;
/// Runs spent on making a failing scenario smaller.
const SHRINK_RUNS: u32 = 600;

fn main() -> ExitCode {
    // Panics are caught and reported with their seed.
    std::panic::set_hook(Box::new(|_| {}));
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    if let Some(text) = &options.scenario {
        let scenario = serde_json::from_str(text).context("--scenario is not one")?;
        return Ok(single(options, &scenario));
    }
    if let Some(seed) = options.seed {
        return Ok(single(options, &Scenario::of(seed)));
    }
    let workers = options
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let shown = Mutex::new(Instant::now());
    let every = Duration::from_secs(if std::io::stderr().is_terminal() { 1 } else { 15 });
    let report =
        batch::batch(options.from, options.seeds, workers, options.failures, |done, failed| {
            let Ok(mut last) = shown.try_lock() else { return };
            if last.elapsed() >= every && !options.quiet {
                *last = Instant::now();
                eprintln!("  {done} of {} seeds, {failed} failed", options.seeds);
            }
        });
    let missing = if report.seeds >= ENOUGH { report.coverage.missing() } else { Vec::new() };
    if options.json {
        println!("{}", as_json(&report, &missing));
    } else {
        print_report(&report, &missing);
    }
    for failure in report.failures.iter().filter(|_| !options.quiet) {
        explain(options, failure);
    }
    Ok(report.failures.is_empty() && missing.is_empty())
}

fn single(options: &Options, scenario: &Scenario) -> bool {
    let outcome = batch::run(scenario, false);
    if options.trace {
        println!("{}", serde_json::to_string(scenario).unwrap_or_default());
        batch::run(scenario, true).trace.iter().for_each(|line| println!("{line}"));
    }
    let seed = scenario.seed;
    let Some(violation) = outcome.violation else {
        if options.json {
            println!(
                "{}",
                serde_json::json!({ "seed": seed, "steps": outcome.steps, "violation": null })
            );
        } else {
            for (what, count) in outcome.coverage.iter() {
                println!("{count:>10}  {what}");
            }
            println!("seed {seed}: all rules kept in {} calls", outcome.steps);
        }
        return true;
    };
    if options.json {
        let rule = format!("{:?}", violation.rule);
        println!(
            "{}",
            serde_json::json!({ "seed": seed, "rule": rule, "violation": violation.to_string() })
        );
    }
    eprintln!("seed {seed}: {violation}");
    show_shrunk(options, scenario, violation.rule);
    false
}

fn explain(options: &Options, failure: &Failure) {
    eprintln!("\nseed {}: {}", failure.seed, failure.violation);
    eprintln!("  again: cargo xtask simulate --seed {}", failure.seed);
    show_shrunk(options, &Scenario::of(failure.seed), failure.violation.rule);
}

fn show_shrunk(options: &Options, scenario: &Scenario, rule: colo_simulate::oracle::Rule) {
    let small =
        if options.no_shrink { scenario.clone() } else { shrink(scenario, rule, SHRINK_RUNS) };
    let outcome = batch::run(&small, true);
    eprintln!("  smallest scenario found:");
    let text = serde_json::to_string(&small).unwrap_or_default();
    eprintln!("  cargo xtask simulate --scenario '{text}'");
    if let Some(violation) = &outcome.violation {
        eprintln!("  {violation}");
    }
    let from = outcome.trace.len().saturating_sub(
        if options.seed.is_some() || options.scenario.is_some() { 40_000 } else { 40 },
    );
    outcome.trace[from..].iter().for_each(|line| eprintln!("    {line}"));
}

fn print_report(report: &Report, missing: &[&str]) {
    for (what, count) in report.coverage.iter() {
        println!("{count:>12}  {what}");
    }
    let seconds = report.took.as_secs_f64();
    let each = seconds * 1000.0 / report.seeds.max(1) as f64;
    println!(
        "{} seeds, {} calls of the comparator, {} failed, in {seconds:.1} s ({each:.2} ms each; the slowest, {}, {:.0} ms)",
        report.seeds,
        report.steps,
        report.failures.len(),
        report.slowest.1,
        report.slowest.0.as_secs_f64() * 1000.0,
    );
    if !missing.is_empty() {
        println!("never met, so that nothing is proven of it: {}", missing.join(", "));
    }
}

fn as_json(report: &Report, missing: &[&str]) -> serde_json::Value {
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|failure| {
            serde_json::json!({
                "seed": failure.seed,
                "rule": format!("{:?}", failure.violation.rule),
                "violation": failure.violation.to_string(),
            })
        })
        .collect();
    let coverage: serde_json::Map<_, _> =
        report.coverage.iter().map(|(what, count)| (what.to_owned(), count.into())).collect();
    serde_json::json!({
        "seeds": report.seeds,
        "calls": report.steps,
        "failed": failures,
        "never_met": missing,
        "seconds": report.took.as_secs_f64(),
        "coverage": coverage,
    })
}
