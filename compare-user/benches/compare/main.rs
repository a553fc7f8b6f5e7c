//! The comparator in memory, beside a floor that parses both frames, hashes both keys and
//! compares the bytes: the least that any comparator must do.
//!
//! Frames lie in a bounded pool and are patched for each pair (flow, sequence number, datagram
//! number) outside the measured time, for floor and comparator alike, so that the difference
//! between the two is the comparator. `cargo bench -p compare-user --bench compare` prints
//! criterion's figures and then the table of ratios, measured in turns so that what else the
//! machine does falls on both; with `-- table` only the table.

// A benchmark talks to whoever started it.
#![allow(clippy::print_stdout)]

mod pool;
mod table;
mod traffic;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use traffic::{Floor, Kind, Load, Measured, Replicas};

/// Pairs between two looks at the clock where the number of flows is what varies: the window of
/// the reference measurements.
const BLOCK: usize = 256;

/// The same where the reordering varies: room for the largest window.
const REORDER_BLOCK: usize = 1024;

const FLOWS: [usize; 4] = [1, 1_000, 100_000, 1_000_000];
const WINDOWS: [usize; 4] = [1, 16, 256, 1024];

fn by_flows(kind: Kind, flows: usize) -> Load {
    Load { kind, flows, window: 1, block: BLOCK }
}

fn by_window(kind: Kind, window: usize) -> Load {
    Load { kind, flows: 1, window, block: REORDER_BLOCK }
}

fn measure(criterion: &mut Criterion, name: String, parameter: String, run: &mut dyn Measured) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    group.sample_size(15).warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_millis(1500));
    group.bench_function(BenchmarkId::from_parameter(parameter), |bencher| {
        bencher.iter_custom(|pairs| run.pairs(pairs));
    });
    group.finish();
}

fn criterion_figures(criterion: &mut Criterion) {
    for kind in [Kind::Udp, Kind::Tcp] {
        let floor = &mut Floor::new(by_flows(kind, 1));
        measure(criterion, format!("{kind}/floor"), "1 flow".into(), floor);
        for flows in FLOWS {
            let run = &mut Replicas::new(by_flows(kind, flows));
            measure(criterion, format!("{kind}/flows"), flows.to_string(), run);
        }
        for window in WINDOWS {
            let run = &mut Replicas::new(by_window(kind, window));
            measure(criterion, format!("{kind}/reordered"), window.to_string(), run);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_test = arguments.iter().any(|argument| argument == "--test");
    let table_only = arguments.iter().any(|argument| argument == "table");
    if !table_only {
        let mut criterion = Criterion::default().configure_from_args();
        criterion_figures(&mut criterion);
        criterion.final_summary();
    }
    if !is_test {
        table::print();
    }
}
