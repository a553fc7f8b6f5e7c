//! The ratios that DESIGN.md section 9 sets aims for.

use crate::traffic::{Floor, Kind, Measured, Replicas};
use crate::{FLOWS, WINDOWS, by_flows, by_window};

/// Turns of floor and comparator.
const TURNS: usize = 21;

/// Pairs per turn, at least: long enough that looking at the clock does not count.
const PAIRS: usize = 40_000;

/// Nanoseconds per pair: the median of the blocks of one turn, which an interruption does not
/// move.
fn turn(run: &mut dyn Measured) -> f64 {
    let blocks = PAIRS.div_ceil(run.pairs_per_block());
    let mut times: Vec<f64> = (0..blocks).map(|_| run.block().as_nanos() as f64).collect();
    median(&mut times) / run.pairs_per_block() as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median nanoseconds per pair of each, taken in turns.
fn in_turns(runs: &mut [&mut dyn Measured]) -> Vec<f64> {
    let mut times = vec![Vec::new(); runs.len()];
    for _ in 0..TURNS {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            times.push(turn(*run));
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

fn row(kind: Kind, what: &str, run: f64, floor: f64, base: f64) {
    println!(
        "{:<10} {what:<22} {run:>8.1} {floor:>8.1} {:>8.2} {:>8.2}",
        kind.to_string(),
        run / floor,
        run / base
    );
}

pub(crate) fn print() {
    println!(
        "\n{:<10} {:<22} {:>8} {:>8} {:>8} {:>8}",
        "payload", "load", "ns/pair", "floor", "x floor", "x first"
    );
    for kind in [Kind::Udp, Kind::Tcp] {
        for flows in FLOWS {
            let mut floor = Floor::new(by_flows(kind, flows));
            let mut first = Replicas::new(by_flows(kind, 1));
            let mut run = Replicas::new(by_flows(kind, flows));
            let times = in_turns(&mut [&mut floor, &mut first, &mut run]);
            row(kind, &format!("{flows} flows"), times[2], times[0], times[1]);
        }
        for window in WINDOWS {
            let mut floor = Floor::new(by_window(kind, window));
            let mut first = Replicas::new(by_window(kind, 1));
            let mut run = Replicas::new(by_window(kind, window));
            let times = in_turns(&mut [&mut floor, &mut first, &mut run]);
            row(kind, &format!("reordered by {window}"), times[2], times[0], times[1]);
        }
    }
}
