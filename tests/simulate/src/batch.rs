//! Many seeds at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::oracle::{Rule, Violation};
use crate::scenario::Scenario;
use crate::world::{Outcome, World};

/// A seed that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// It.
    pub seed: u64,
    /// What was broken.
    pub violation: Violation,
}

/// What came of a batch.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Calls of the comparator in all.
    pub steps: u64,
    /// Those that failed, by number.
    pub failures: Vec<Failure>,
    /// What was met.
    pub coverage: Coverage,
    /// How long it took.
    pub took: Duration,
    /// The seed that took longest.
    pub slowest: (Duration, u64),
}

/// Runs a scenario. A panic of the comparator is a violation.
#[must_use]
pub fn run(scenario: &Scenario, trace: bool) -> Outcome {
    let play = || {
        let mut world = World::new(scenario);
        world.trace = trace.then(Default::default);
        world.run()
    };
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = said.unwrap_or_else(|| "a panic".to_owned());
        Outcome {
            violation: Some(Violation { rule: Rule::Panic, text, time: 0 }),
            coverage: Coverage::default(),
            steps: 0,
            trace: Vec::new(),
        }
    })
}

/// Runs seeds `from..from + count` on `workers` threads, until `most` have failed. `progress` is called
/// now and then with how many are done and have failed.
pub fn batch(
    from: u64,
    count: u64,
    workers: usize,
    most: usize,
    progress: impl Fn(u64, usize) + Sync,
) -> Report {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let seed = from + index;
                    let began = Instant::now();
                    let outcome = run(&Scenario::of(seed), false);
                    let took = began.elapsed();
                    let mut report =
                        report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    report.seeds += 1;
                    report.steps += outcome.steps;
                    report.coverage.merge(&outcome.coverage);
                    report.slowest = report.slowest.max((took, seed));
                    if let Some(violation) = outcome.violation {
                        report.failures.push(Failure { seed, violation });
                    }
                    if report.failures.len() >= most {
                        stop.store(true, Ordering::Relaxed);
                    }
                    progress(report.seeds, report.failures.len());
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.failures.sort_by_key(|failure| failure.seed);
    report.took = started.elapsed();
    report
}
