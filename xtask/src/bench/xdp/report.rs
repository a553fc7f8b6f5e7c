//! Medians and ratios, as a table or as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::Case;
use super::trial::{Mode, Stand, Trial};
use crate::median::median;

/// Everything that was measured.
pub(super) struct Report {
    settings: Value,
    cases: Vec<(Case, Vec<Vec<Trial>>)>,
    idle: f64,
}

impl Report {
    pub(super) fn new(rounds: u8, stand: &Stand<'_>) -> Self {
        let settings = json!({
            "rounds": rounds,
            "seconds": stand.seconds,
            "window": stand.window,
            "sender_core": stand.sender_core,
            "lane_core": stand.lane_core,
            "realtime": stand.realtime,
        });
        Self { settings, cases: Vec::new(), idle: 0.0 }
    }

    /// Adds one round: a trial of each mode, in the order of [`Mode::ALL`].
    pub(super) fn add(&mut self, case: Case, round: Vec<Trial>) {
        match self.cases.last_mut() {
            Some((last, rounds)) if last == &case => rounds.push(round),
            _ => self.cases.push((case, vec![round])),
        }
    }

    /// The share of a core that an idle lane uses.
    pub(super) fn idle(&mut self, share: f64) {
        self.idle = share;
    }

    pub(super) fn json(&self) -> Value {
        let cases: Vec<Value> =
            self.cases.iter().map(|(case, rounds)| case_json(case, rounds)).collect();
        json!({ "settings": self.settings, "idle_core_share": self.idle, "cases": cases })
    }
}

/// The figures of one mode over all rounds of a case.
struct Column {
    mode: Mode,
    rate: f64,
    processor: f64,
    waited: f64,
    per_call: f64,
    alone: Option<f64>,
    lost: u64,
    intact: bool,
    /// Rate beside that of the first mode in the same round: median, least, most.
    ratio: [f64; 3],
    /// The same of the time that the lane alone takes.
    alone_ratio: Option<f64>,
}

impl Column {
    fn of(index: usize, rounds: &[Vec<Trial>]) -> Self {
        let trials = || rounds.iter().map(|round| &round[index]);
        let middle = |figure: fn(&Trial) -> f64| median(trials().map(figure)).unwrap_or(f64::NAN);
        let ratios = || rounds.iter().map(|round| round[index].rate / round[0].rate);
        Self {
            mode: Mode::ALL[index],
            rate: middle(|trial| trial.rate),
            processor: middle(|trial| trial.processor),
            waited: middle(|trial| trial.waited),
            per_call: middle(|trial| trial.per_call),
            alone: median(trials().filter_map(|trial| trial.alone)),
            lost: trials().map(|trial| trial.lost).sum(),
            intact: trials().all(|trial| trial.intact),
            ratio: [
                median(ratios()).unwrap_or(f64::NAN),
                ratios().fold(f64::INFINITY, f64::min),
                ratios().fold(f64::NEG_INFINITY, f64::max),
            ],
            alone_ratio: median(
                rounds.iter().filter_map(|round| Some(round[0].alone? / round[index].alone?)),
            ),
        }
    }
}

fn columns(rounds: &[Vec<Trial>]) -> impl Iterator<Item = Column> {
    (0..Mode::ALL.len()).map(|index| Column::of(index, rounds))
}

fn case_json(case: &Case, rounds: &[Vec<Trial>]) -> Value {
    let modes: Vec<Value> = columns(rounds)
        .map(|column| {
            let [ratio, least, most] = column.ratio;
            json!({
                "mode": column.mode.name(),
                "pairs_per_second": column.rate,
                "ratio_to_forward_only": { "median": ratio, "least": least, "most": most },
                "processor_ns_per_pair": column.processor,
                "sender_waited_share": column.waited,
                "frames_per_send_call": column.per_call,
                "lane_alone_ns_per_pair": column.alone,
                "lane_alone_ratio": column.alone_ratio,
                "lost": column.lost,
                "intact": column.intact,
            })
        })
        .collect();
    json!({ "protocol": case.protocol, "size": case.size, "flows": case.flows, "modes": modes })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = |name: &str| &self.settings[name];
        writeln!(
            f,
            "\n{} rounds of {} s, window of {} pairs, sender on core {}, lane on core {}{}; medians\n",
            setting("rounds"),
            setting("seconds"),
            setting("window"),
            setting("sender_core"),
            setting("lane_core"),
            if setting("realtime") == true { ", real-time priority" } else { "" },
        )?;
        writeln!(
            f,
            "{:24} {:13} {:>9} {:>6} {:>13} {:>6} {:>9} {:>9} {:>6} {:>5}",
            "load",
            "mode",
            "pairs/s",
            "ratio",
            "(least-most)",
            "lost",
            "CPU/pair",
            "alone",
            "ratio",
            "wait"
        )?;
        for (case, rounds) in &self.cases {
            for column in columns(rounds) {
                row(f, case, &column)?;
            }
        }
        writeln!(
            f,
            "\n\
             pairs/s   released, at the rate of the slower of sender and comparator\n\
             ratio     to forward-only in the same round\n\
             CPU/pair  user and system time of the comparator's process; a busy lane always uses\n          \
                       its whole core, which also carries the softirq of the NIC's veth\n\
             alone     time per pair while bursts of 1,024 pairs come out of the lane's rings with\n          \
                       nothing else running, and its ratio: what the lane's core can do\n\
             wait      share of the time in which the sender waited for the comparator\n\n\
             An idle lane with --poll adaptive uses {:.1} % of a core.",
            self.idle * 100.0
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, case: &Case, column: &Column) -> fmt::Result {
    let [ratio, least, most] = column.ratio;
    let first = column.mode == Mode::ForwardOnly;
    let load = if first { case.to_string() } else { String::new() };
    let nanoseconds = |value: f64| format!("{value:.0} ns");
    let damaged = if column.intact || column.lost > 0 { "" } else { "  NOT WHAT WAS SENT" };
    writeln!(
        f,
        "{load:24} {:13} {:>9.0} {ratio:>6.3} {:>13} {:>6} {:>9} {:>9} {:>6} {:>4.0}%{damaged}",
        column.mode.name(),
        column.rate,
        format!("({least:.3}-{most:.3})"),
        column.lost,
        nanoseconds(column.processor),
        column.alone.map(nanoseconds).unwrap_or_default(),
        column.alone_ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
        column.waited * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let trial = |rate, alone| Trial {
            rate,
            processor: 0.0,
            waited: 0.0,
            alone: Some(alone),
            per_call: 1.0,
            lost: 1,
            intact: false,
        };
        // The machine was half as fast in the second round; the ratio was the same.
        let rounds = vec![
            vec![trial(100.0, 10.0), trial(90.0, 12.5), trial(80.0, 10.0)],
            vec![trial(50.0, 20.0), trial(45.0, 25.0), trial(40.0, 20.0)],
        ];
        let comparing = Column::of(1, &rounds);
        assert_eq!(comparing.ratio, [0.9; 3]);
        assert_eq!(comparing.alone_ratio, Some(0.8));
        assert_eq!(comparing.lost, 2);
        assert!(!comparing.intact);
    }
}
