//! The same scripted cases go to QEMU's colo-compare and to colo-xdp.
//!
//! A verdict is which primary frames are released, in which order, and whether a checkpoint is
//! asked for. The verdicts are equal, except where the case says by name in what colo-xdp does
//! better, and then each verdict is as written down.

mod case;
mod datagram;
mod flush;
mod fragment;
mod malformed;
mod referee;
mod tcp;
mod timeout;
mod uncompared;
mod vnet;

use std::thread;

use anyhow::{Context, ensure};
use case::{Case, Expected, Flow, Verdict};
use colo_tests::chardev::Framing;
use colo_tests::contender::{Make, Properties};
use colo_tests::{Result, needs_qemu};
use referee::Referee;

/// Runs the cases against both comparators at once, each on flows of its own.
///
/// # Errors
/// When a verdict is not the expected one; the message has every such case.
fn compare(cases: &[Case], properties: Properties) -> Result {
    let wrong: Vec<String> = thread::scope(|scope| {
        let start = |make| (make, scope.spawn(move || run(make, cases, &properties)));
        let runs = Make::ALL.map(start);
        runs.into_iter()
            .map(|(make, run)| {
                run.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    .with_context(|| make.to_string())
            })
            .collect::<Result<Vec<_>>>()
    })?
    .concat();
    ensure!(wrong.is_empty(), "{} verdicts differ:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn run(make: Make, cases: &[Case], properties: &Properties) -> Result<Vec<String>> {
    let mut referee = Referee::new(make, properties)?;
    let mut wrong = Vec::new();
    for (number, case) in (1..).zip(cases) {
        let expected = expected(make, &case.expected);
        let asks = expected.is_some_and(|verdict| verdict.asked);
        let verdict = referee
            .judge(&(case.script)(&Flow::new(number)), asks)
            .with_context(|| case.name.clone())?;
        if let Some(expected) = expected.filter(|expected| **expected != verdict) {
            wrong.push(format!("{make}: {}: {verdict:?}, not {expected:?}", case.name));
        }
    }
    referee.finish()?;
    Ok(wrong)
}

/// What this comparator is to make of it; none when that is not the same every time.
fn expected(make: Make, expected: &Expected) -> Option<&Verdict> {
    match (make, expected) {
        (_, Expected::Equal(verdict)) => Some(verdict),
        (Make::Qemu, Expected::Apart { qemu, .. }) => qemu.as_ref(),
        (Make::ColoXdp, Expected::Apart { colo_xdp, .. }) => Some(colo_xdp),
    }
}

/// Every case that is not about time, in the order of the modules.
fn untimed() -> Vec<Case> {
    [
        tcp::cases(),
        datagram::cases(),
        uncompared::cases(),
        fragment::cases(),
        malformed::cases(),
        flush::cases(),
    ]
    .concat()
}

#[test]
fn verdicts_without_vnet_headers() -> Result {
    needs_qemu!();
    compare(&untimed(), Properties::without_timeouts(Framing::Plain))
}

#[test]
fn verdicts_with_vnet_headers() -> Result {
    needs_qemu!();
    let cases = [untimed(), vnet::cases()].concat();
    compare(&cases, Properties::without_timeouts(Framing::Vnet))
}

#[test]
fn verdicts_about_time() -> Result {
    needs_qemu!();
    // Side by side: each of them mostly waits.
    let cases = timeout::cases();
    thread::scope(|scope| {
        let runs: Vec<_> = cases
            .chunks(4)
            .map(|cases| scope.spawn(|| compare(cases, timeout::PROPERTIES)))
            .collect();
        runs.into_iter()
            .try_for_each(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[test]
fn there_are_enough_cases_and_every_exception_says_what_is_better() {
    let all = [untimed(), vnet::cases(), timeout::cases()].concat();
    assert!(all.len() >= 80, "{} cases", all.len());
    for (index, case) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|other| other.name != case.name), "two are {}", case.name);
        if let Expected::Apart { qemu, colo_xdp, better } = &case.expected {
            assert!(qemu.as_ref() != Some(colo_xdp), "{} is no exception", case.name);
            assert!(!better.is_empty(), "{} does not say why", case.name);
        }
    }
}
