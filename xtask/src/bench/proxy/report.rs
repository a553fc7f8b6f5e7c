//! Medians and ratios, as a table or as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::Load;
use super::trial::{Found, Stand, Trial, Variant};
use crate::median::median;

/// What the aim is about: comparing beside standalone.
const AIM: f64 = 0.7;

/// Everything that was measured.
pub(super) struct Report {
    settings: Value,
    /// For each load its rounds, each with one trial of every variant.
    loads: Vec<(Load, Vec<Vec<Trial>>)>,
}

impl Report {
    pub(super) fn new(rounds: u8, stand: &Stand<'_>) -> Self {
        let settings =
            json!({ "rounds": rounds, "seconds": stand.seconds, "run_options": stand.run });
        Self { settings, loads: Load::ALL.map(|load| (load, Vec::new())).into() }
    }

    /// Adds one round under one load: a trial of each variant, in the order of [`Variant::ALL`].
    pub(super) fn add(&mut self, load: Load, round: Vec<Trial>) {
        if let Some((_, rounds)) = self.loads.iter_mut().find(|(other, _)| *other == load) {
            rounds.push(round);
        }
    }

    pub(super) fn json(&self) -> Value {
        let loads: Vec<Value> =
            self.loads.iter().map(|(load, rounds)| load_json(*load, rounds)).collect();
        json!({ "settings": self.settings, "loads": loads })
    }
}

/// The figures of one variant over all rounds of a load: medians, and what must not happen added
/// up.
struct Column {
    variant: Variant,
    rate: Option<f64>,
    latency: Option<[f64; 2]>,
    /// Beside the plain variant, and beside the standalone one, in the same round.
    of_plain: Option<f64>,
    of_standalone: Option<f64>,
    comparator: f64,
    machine: f64,
    retransmitted: f64,
    requests: u64,
    lost: u64,
    unaccounted: u64,
    stuck: usize,
}

impl Column {
    fn of(variant: Variant, rounds: &[Vec<Trial>]) -> Self {
        let trials = || rounds.iter().map(|round| &round[variant.index()]);
        let middle = |figure: fn(&Trial) -> f64| median(trials().map(figure)).unwrap_or(f64::NAN);
        let beside = |other: Variant| {
            median(rounds.iter().filter_map(|round| {
                Some(round[variant.index()].rate()? / round[other.index()].rate()?)
            }))
        };
        let latency = |pick: fn([f64; 2]) -> f64| {
            median(trials().filter_map(|trial| match trial.found {
                Ok(Found::SetUp { p50, p99 }) => Some(pick([p50, p99])),
                _ => None,
            }))
        };
        Self {
            variant,
            rate: median(trials().filter_map(Trial::rate)),
            latency: latency(|[p50, _]| p50).zip(latency(|[_, p99]| p99)).map(Into::into),
            of_plain: beside(Variant::Plain),
            of_standalone: beside(Variant::Standalone),
            comparator: middle(|trial| trial.comparator),
            machine: middle(|trial| trial.machine),
            retransmitted: middle(|trial| trial.retransmitted as f64),
            requests: trials().map(|trial| trial.requests).sum(),
            lost: trials().map(|trial| trial.lost).sum(),
            unaccounted: trials().map(|trial| trial.unaccounted).sum(),
            stuck: trials().filter(|trial| trial.found.is_err()).count(),
        }
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "variant": self.variant.name(),
            "comparator_core_share": self.comparator,
            "machine_busy_share": self.machine,
            "retransmitted_segments": self.retransmitted,
            "checkpoint_requests": self.requests,
            "lost": self.lost,
            "unaccounted": self.unaccounted,
            "stuck_trials": self.stuck,
        });
        match self.latency {
            Some([p50, p99]) => {
                value["p50_microseconds"] = p50.into();
                value["p99_microseconds"] = p99.into();
            }
            None => {
                value["bits_per_second"] = self.rate.into();
                value["ratio_to_plain"] = self.of_plain.into();
                value["ratio_to_standalone"] = self.of_standalone.into();
            }
        }
        value
    }
}

fn columns(rounds: &[Vec<Trial>]) -> impl Iterator<Item = Column> {
    Variant::ALL.into_iter().map(|variant| Column::of(variant, rounds))
}

fn load_json(load: Load, rounds: &[Vec<Trial>]) -> Value {
    let (word, connections) = load.arguments();
    let variants: Vec<Value> = columns(rounds).map(|column| column.json()).collect();
    json!({ "load": word, "connections": connections, "variants": variants })
}

const LEGEND: &str = "\
Mbit/s      content that arrived, all of it verified
of plain    ratio to it in the same round; for the set-up, of the p50s
of stand.   ratio to standalone in the same round; the aim for comparing is 0.7
core        processor time of the comparator's process, as a share of one core
machine     share of all cores that was busy, with client and guests
sent again  segments that client and primary retransmitted in a trial
requests    for a checkpoint, of which identical guests give no reason
lost        frames of either guest for which comparator or kernel had no room
stuck       trials whose connections did not get to their end";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = |name: &str| &self.settings[name];
        writeln!(
            f,
            "\n{} rounds of {} s, run options {}; medians, what must not happen added up\n",
            setting("rounds"),
            setting("seconds"),
            setting("run_options"),
        )?;
        writeln!(
            f,
            "{:32} {:11} {:>15} {:>8} {:>9} {:>5} {:>7} {:>10} {:>8} {:>6} {:>7} {:>5}",
            "load",
            "variant",
            "Mbit/s",
            "of plain",
            "of stand.",
            "core",
            "machine",
            "sent again",
            "requests",
            "lost",
            "unacc.",
            "stuck",
        )?;
        for (load, rounds) in &self.loads {
            for column in columns(rounds) {
                row(f, *load, &column)?;
            }
        }
        write!(f, "\n{LEGEND}")
    }
}

fn row(f: &mut fmt::Formatter<'_>, load: Load, column: &Column) -> fmt::Result {
    let first = column.variant == Variant::Plain;
    let name = if first { load.to_string() } else { String::new() };
    let figure = match (column.latency, column.rate) {
        (Some([p50, p99]), _) => format!("p50/99 {p50:.0}/{p99:.0} us"),
        (None, Some(rate)) => format!("{:.0}", rate / 1e6),
        (None, None) => "-".to_owned(),
    };
    let ratio = |ratio: Option<f64>| ratio.map(|it| format!("{it:.2}")).unwrap_or_default();
    let goodput = column.latency.is_none();
    let missed = column.variant == Variant::Comparing
        && goodput
        && column.of_standalone.is_none_or(|ratio| ratio < AIM);
    writeln!(
        f,
        "{name:32} {:11} {figure:>15} {:>8} {:>9} {:>5.2} {:>6.0}% {:>10.0} {:>8} {:>6} {:>7} {:>5}{}",
        column.variant.name(),
        ratio(column.of_plain),
        ratio(column.of_standalone),
        column.comparator,
        column.machine * 100.0,
        column.retransmitted,
        column.requests,
        column.lost,
        column.unaccounted,
        column.stuck,
        if missed { "  AIM MISSED" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(found: Result<Found, String>) -> Trial {
        Trial {
            found,
            comparator: 0.0,
            machine: 0.0,
            retransmitted: 0,
            requests: 1,
            lost: 2,
            unaccounted: 0,
        }
    }

    fn round(rates: [f64; 4]) -> Vec<Trial> {
        rates.map(|rate| trial(Ok(Found::Goodput(rate)))).into()
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let rounds = [
            round([10.0, 8.0, 6.0, 4.0]),
            round([1.0, 0.5, 0.5, 0.25]),
            round([2.0, 2.0, 1.0, 1.0]),
        ];
        let column = Column::of(Variant::Comparing, &rounds);
        assert_eq!((column.of_plain, column.of_standalone), (Some(0.4), Some(0.5)));
    }

    #[test]
    fn a_stuck_trial_has_no_part_in_the_medians_and_is_counted() {
        let mut rounds = vec![round([4.0; 4]), round([8.0; 4])];
        rounds[1][Variant::Comparing.index()] = trial(Err("stuck".to_owned()));
        let column = Column::of(Variant::Comparing, &rounds);
        assert_eq!((column.rate, column.of_standalone), (Some(4.0), Some(1.0)));
        assert_eq!((column.stuck, column.requests, column.lost), (1, 2, 4));
    }

    #[test]
    fn the_set_up_is_told_in_microseconds() {
        let round: Vec<Trial> = [20.0, 25.0, 50.0, 100.0]
            .map(|p50| trial(Ok(Found::SetUp { p50, p99: 10.0 * p50 })))
            .into();
        let column = Column::of(Variant::Comparing, &[round]);
        assert_eq!(column.latency, Some([100.0, 1000.0]));
        assert_eq!(column.json()["p50_microseconds"], 100.0);
    }
}
