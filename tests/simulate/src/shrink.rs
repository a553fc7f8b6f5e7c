//! A failing scenario made smaller: fewer flows, fewer kinds of trouble, less time, fewer bytes.

use crate::batch::run;
use crate::oracle::Rule;
use crate::scenario::{Happening, Path, Scenario};

/// Makes `scenario`, which breaks `rule`, smaller for as long as it still does, and within `runs` runs.
#[must_use]
pub fn shrink(scenario: &Scenario, rule: Rule, mut runs: u32) -> Scenario {
    let mut best = scenario.clone();
    let mut smaller = true;
    while smaller {
        smaller = false;
        for candidate in candidates(&best) {
            if candidate == best {
                continue;
            }
            if runs == 0 {
                return best;
            }
            runs -= 1;
            if run(&candidate, false).violation.is_some_and(|violation| violation.rule == rule) {
                best = candidate;
                smaller = true;
                break;
            }
        }
    }
    best
}

fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let with = |change: &dyn Fn(&mut Scenario)| {
        let mut changed = scenario.clone();
        change(&mut changed);
        changed
    };
    // Halves and quarters of the flows first, then each without one.
    let count = scenario.flows.len();
    for parts in [2, 4, 8] {
        if count >= parts {
            for part in 0..parts {
                let (from, to) = (count * part / parts, count * (part + 1) / parts);
                all.push(with(&|it| it.flows = scenario.flows[from..to].to_vec()));
            }
        }
    }
    if count <= 40 {
        for index in 0..count {
            if count > 1 {
                all.push(with(&|it| {
                    it.flows.remove(index);
                }));
            }
        }
    }
    for index in 0..scenario.happenings.len() {
        all.push(with(&|it| {
            it.happenings.remove(index);
        }));
    }
    let paths: [fn(&mut Scenario) -> &mut Path; 6] = [
        |it| &mut it.from_primary,
        |it| &mut it.from_secondary,
        |it| &mut it.inbound,
        |it| &mut it.to_primary,
        |it| &mut it.to_secondary,
        |it| &mut it.outbound,
    ];
    for path in paths {
        let parts: [fn(&mut Path) -> &mut u32; 5] = [
            |it| &mut it.loss,
            |it| &mut it.twice,
            |it| &mut it.late,
            |it| &mut it.damage,
            |it| &mut it.jitter,
        ];
        for part in parts {
            all.push(with(&|it| *part(path(it)) = 0));
        }
    }
    all.push(with(&|it| it.every = 0));
    all.push(with(&|it| it.differing = 0));
    all.push(with(&|it| it.unusual = 0));
    all.push(with(&|it| it.batch = 1));
    all.push(with(&|it| it.chunk = 4096));
    all.push(with(&|it| it.answer = 0));
    all.push(with(&|it| it.limits.queue = 1024));
    all.push(with(&|it| it.limits.held = 24_576));
    all.push(with(&|it| it.limits.flows = 2 * it.flows.len() as u32 + 16));
    all.push(with(&|it| it.faulty /= 2));
    all.push(with(&|it| it.faulty = it.faulty * 3 / 4));
    all.push(with(&|it| it.bytes = (it.bytes / 2).max(1)));
    all.push(with(&|it| it.datagrams = (it.datagrams / 2).max(1)));
    for index in 0..scenario.happenings.len() {
        all.push(with(&|it| {
            let (Happening::SecondaryLost(length)
            | Happening::PrimaryLost(length)
            | Happening::LinkDown(length)
            | Happening::OutputStalled(length)
            | Happening::LaneStalled(length)) = &mut it.happenings[index].1
            else {
                return;
            };
            *length /= 2;
        }));
    }
    all
}
