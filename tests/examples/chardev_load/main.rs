//! QEMU's colo-compare and colo-xdp under the same load, in turn: `cargo xtask bench chardev`.
//!
//! One thread plays both guests and the client over unix sockets, with at most 256 pairs under way,
//! and checks content and order of everything that leaves. Each load is put to fresh processes, the
//! two comparators in alternating rounds, so that both see the same weather on the machine.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: text on the terminal is what it makes"
)]

mod driver;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use colo_tests::Result;
use colo_tests::contender::{Contender, Make, Properties};
use colo_tests::process::processor_time;
use driver::Driver;
use serde::Serialize;
use traffic::{LOADS, Load, Traffic};

/// Rounds of each comparator under each load.
const ROUNDS: usize = 3;
/// Time before anything is counted: caches, allocators, clock rates.
const WARM_UP: Duration = Duration::from_millis(300);
/// A moderate rate, at which nothing queues: 5,000 pairs a second.
const INTERVAL: Duration = Duration::from_micros(200);

/// What one round of one comparator gave.
#[derive(Debug, Clone, Serialize)]
struct Round {
    pairs_per_second: f64,
    /// Processor time of the comparator, user and system, in microseconds.
    cpu_per_pair: f64,
    p50_microseconds: f64,
    p99_microseconds: f64,
    /// Requests for a checkpoint; the streams are identical, so that each is a false one.
    requests: u64,
    out_of_order: u64,
    /// Pairs that never left.
    lost: u64,
    pairs: u64,
}

/// Both comparators under one load: the median round of each.
#[derive(Debug, Serialize)]
struct Comparison {
    load: Load,
    qemu: Round,
    colo_xdp: Round,
    /// colo-xdp's processor time per pair as a part of QEMU's.
    cpu_ratio: f64,
    /// colo-xdp's throughput as a multiple of QEMU's.
    throughput_ratio: f64,
    /// colo-xdp's 99th percentile as a part of QEMU's.
    p99_ratio: f64,
}

fn main() -> Result {
    let options = Options::parse()?;
    let mut comparisons = Vec::new();
    if !options.json {
        println!("{}", heading());
    }
    for load in LOADS {
        let comparison = compare(load, options.time)?;
        if !options.json {
            println!("{}", rows(&comparison));
        }
        comparisons.push(comparison);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&comparisons)?);
    }
    Ok(())
}

struct Options {
    /// Time per round and kind of measurement.
    time: Duration,
    json: bool,
}

impl Options {
    /// The options that `cargo xtask bench chardev` hands on.
    fn parse() -> Result<Self> {
        let mut options = Self { time: Duration::from_secs(2), json: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--seconds" => {
                    let value = arguments.next().context("--seconds takes a number")?;
                    options.time = Duration::try_from_secs_f64(value.parse()?)?;
                }
                other => anyhow::bail!("unknown argument {other}"),
            }
        }
        ensure!(options.time >= Duration::from_millis(100), "--seconds: at least 0.1");
        Ok(options)
    }
}

fn compare(load: Load, time: Duration) -> Result<Comparison> {
    let traffic = Traffic::new(load);
    let mut rounds = [const { Vec::new() }; 2];
    for number in 0..ROUNDS {
        for (make, rounds) in Make::ALL.iter().zip(&mut rounds) {
            let round = measure(*make, load, &traffic, time)
                .with_context(|| format!("{make} under {}", load.name))?;
            eprintln!("{}, round {}: {make}: {round:?}", load.name, number + 1);
            rounds.push(round);
        }
    }
    let [qemu, colo_xdp] = rounds.map(|rounds| median(&rounds));
    Ok(Comparison {
        load,
        cpu_ratio: colo_xdp.cpu_per_pair / qemu.cpu_per_pair,
        throughput_ratio: colo_xdp.pairs_per_second / qemu.pairs_per_second,
        p99_ratio: colo_xdp.p99_microseconds / qemu.p99_microseconds,
        qemu,
        colo_xdp,
    })
}

fn measure(make: Make, load: Load, traffic: &Traffic, time: Duration) -> Result<Round> {
    let contender = Contender::start(make, &Properties::default())?;
    let mut driver = Driver::new(&contender, traffic, load.flows)?;
    let mut stuck = !driver.saturate(WARM_UP)?;
    let (released, cpu, start) = (driver.released, processor_time(contender.id())?, Instant::now());
    stuck |= !driver.saturate(time)?;
    let took = start.elapsed();
    let cpu = processor_time(contender.id())? - cpu;
    let pairs = driver.released - released;
    ensure!(pairs > 0, "nothing left; log:\n{}", contender.log());
    stuck |= !driver.drain()?;
    let lost = driver.under_way();
    // Of a comparator that is stuck nothing more can be learnt.
    let mut latencies = if stuck { Vec::new() } else { driver.pace(INTERVAL, time)? };
    latencies.sort_unstable();
    let round = Round {
        pairs_per_second: pairs as f64 / took.as_secs_f64(),
        cpu_per_pair: cpu.as_secs_f64() * 1e6 / pairs as f64,
        p50_microseconds: percentile(&latencies, 50),
        p99_microseconds: percentile(&latencies, 99),
        requests: driver.requests,
        out_of_order: driver.out_of_order,
        lost,
        pairs: driver.released,
    };
    // With pairs inside it could not end well, and the number lost says so.
    if !stuck {
        contender.finish()?;
    }
    Ok(round)
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
}

/// Each number's median on its own; what must not happen is added up.
fn median(rounds: &[Round]) -> Round {
    let middle = |number: fn(&Round) -> f64| {
        let mut numbers: Vec<f64> = rounds.iter().map(number).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    };
    let sum = |number: fn(&Round) -> u64| rounds.iter().map(number).sum();
    Round {
        pairs_per_second: middle(|round| round.pairs_per_second),
        cpu_per_pair: middle(|round| round.cpu_per_pair),
        p50_microseconds: middle(|round| round.p50_microseconds),
        p99_microseconds: middle(|round| round.p99_microseconds),
        requests: sum(|round| round.requests),
        out_of_order: sum(|round| round.out_of_order),
        lost: sum(|round| round.lost),
        pairs: sum(|round| round.pairs),
    }
}

fn heading() -> String {
    format!(
        "unix sockets, one driver, {} pairs under way; medians of {ROUNDS} alternating rounds, \
         requests and frames added up; latency at {:.0} pairs/s\n\n\
         | load | comparator | pairs/s | CPU us/pair | p50 us | p99 us | requests | out of order \
         | lost |\n|---|---|---|---|---|---|---|---|---|",
        driver::WINDOW,
        1.0 / INTERVAL.as_secs_f64(),
    )
}

fn rows(comparison: &Comparison) -> String {
    let Comparison { load, qemu, colo_xdp, cpu_ratio, throughput_ratio, p99_ratio } = comparison;
    let row = |make: Make, round: &Round| {
        format!(
            "| {} | {make} | {:.0} | {:.2} | {:.0} | {:.0} | {} of {} | {} | {} |",
            load.name,
            round.pairs_per_second,
            round.cpu_per_pair,
            round.p50_microseconds,
            round.p99_microseconds,
            round.requests,
            round.pairs,
            round.out_of_order,
            round.lost,
        )
    };
    format!(
        "{}\n{}\n| {} | ratio | {throughput_ratio:.2} | {cpu_ratio:.2} | | {p99_ratio:.2} | | | |",
        row(Make::Qemu, qemu),
        row(Make::ColoXdp, colo_xdp),
        load.name,
    )
}
