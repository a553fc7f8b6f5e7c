//! What must hold of a soak.

use std::fmt;

use serde_json::{Value, json};

use super::sample::Sample;
use crate::median::median;

/// The first part of the samples is warm-up: a fifth, and until the flow table is full.
const WARM_UP: usize = 5;
/// By how much resident memory may have grown over what is judged: one part in a hundred of it,
/// or 1 MiB, whichever is more. A leak of 16 bytes for each flow of an hour is fifty.
const GROWTH: f64 = 0.01;
const GROWTH_KIB: f64 = 1024.0;
/// By how many frames of the 32,768 the occupied ones may have grown.
const GROWTH_FRAMES: f64 = 256.0;
/// Latencies are compared in the quiet seconds of the first and of the last quarter: that which one in
/// ten seconds did not exceed. What else runs on the machine makes other seconds longer; what grows with
/// the flows or frames that have been makes all of them longer.
const QUIET: usize = 10;
/// How much longer p50 may be then: a factor, and so many microseconds on top. The longer latencies are
/// the machine's scheduler's: shown, not judged.
const SLOWER: f64 = 2.0;
const SLOWER_MICROSECONDS: f64 = 100.0;
/// The share of what was to be sent that was.
const KEPT_UP: f64 = 0.5;

/// One thing that must hold.
struct Finding {
    what: &'static str,
    holds: bool,
    seen: String,
}

/// Everything that must hold.
pub(super) struct Verdict {
    findings: Vec<Finding>,
    figures: Value,
}

impl Verdict {
    /// Judges what was seen each second.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let judged = &samples[warm_up(samples)..];
        let mut verdict = Self { findings: Vec::new(), figures: json!({}) };
        verdict.memory(judged);
        verdict.latency(judged);
        let unaccounted = samples.iter().filter(|sample| sample.unaccounted != 0).count();
        verdict.add(
            "books balanced",
            unaccounted == 0 && !samples.is_empty(),
            format!("{unaccounted} of {} looks found a frame in no known place", samples.len()),
        );
        let evicted = samples.last().map_or(0, |sample| sample.evicted);
        verdict.add("flows come and go", evicted > 0, format!("{evicted} made room for others"));
        verdict
    }

    fn add(&mut self, what: &'static str, holds: bool, seen: String) {
        self.findings.push(Finding { what, holds, seen });
    }

    fn memory(&mut self, judged: &[Sample]) {
        let resident = judged.iter().map(|sample| sample.resident);
        let mean = resident.clone().sum::<f64>() / judged.len().max(1) as f64;
        let grown = growth(judged, |sample| sample.resident);
        let most = (mean * GROWTH).max(GROWTH_KIB);
        self.add(
            "memory flat",
            grown <= most && !judged.is_empty(),
            format!("{mean:.0} KiB, grown by {grown:.0} KiB (at most {most:.0})"),
        );
        let occupied = growth(judged, |sample| sample.occupied);
        let peak = judged.iter().map(|sample| sample.occupied).fold(0.0, f64::max);
        self.add(
            "frame memory flat",
            occupied <= GROWTH_FRAMES && !judged.is_empty(),
            format!("{peak:.0} frames occupied at most, grown by {occupied:.0}"),
        );
        self.figures["resident_kib"] = json!({ "mean": mean, "growth": grown });
        self.figures["occupied_frames"] = json!({ "most": peak, "growth": occupied });
        let least = resident.clone().fold(f64::INFINITY, f64::min);
        self.figures["resident_kib"]["least"] = least.into();
        self.figures["resident_kib"]["most"] = resident.fold(0.0, f64::max).into();
    }

    fn latency(&mut self, judged: &[Sample]) {
        let quarter = judged.len() / 4;
        let (first, last) = (&judged[..quarter], &judged[judged.len() - quarter..]);
        let of = |part: &[Sample], index: usize| -> Vec<f64> {
            part.iter().filter_map(|sample| Some(sample.latency?[index])).collect()
        };
        for (index, name) in Sample::LATENCIES.into_iter().enumerate() {
            let part = |part| json!({ "quiet": quiet(of(part, index)), "median": median(of(part, index)) });
            self.figures["latency_microseconds"][name] = json!({
                "median": median(of(judged, index)),
                "first_quarter": part(first),
                "last_quarter": part(last),
            });
        }
        let (before, after) = (quiet(of(first, 0)), quiet(of(last, 0)));
        let holds = before
            .zip(after)
            .is_some_and(|(before, after)| after <= before * SLOWER + SLOWER_MICROSECONDS);
        let [before, after] =
            [before, after].map(|value| value.map_or("?".to_owned(), |it| format!("{it:.0}")));
        self.add(
            "latency stable",
            holds,
            format!(
                "p50 {before} us in the quiet seconds of the first quarter, {after} us in those of the \
                 last"
            ),
        );
    }

    /// Judges the counts of sender and comparator.
    pub(super) fn add_counts(
        &mut self,
        sender: &Value,
        summary: &Value,
        parted: u64,
        checkpoints: u64,
    ) {
        let count = |value: &Value, name: &str| value[name].as_u64();
        let (sent, arrived) = (count(sender, "sent"), count(sender, "delivered"));
        self.add(
            "nothing lost",
            sent.is_some()
                && sent == arrived
                && sender["intact"] == true
                && count(summary, "lost") == Some(0)
                && count(summary, "frames_unaccounted") == Some(0),
            format!(
                "{} pairs sent, {} frames arrived, intact: {}; the comparator lost {}, {} \
                 unaccounted for",
                sender["sent"],
                sender["delivered"],
                sender["intact"],
                summary["lost"],
                summary["frames_unaccounted"]
            ),
        );
        let found = count(summary, "divergences");
        self.add(
            "every difference found, and nothing else",
            found == Some(parted) && parted > 0,
            format!("{parted} planted, {} found", summary["divergences"]),
        );
        let done = count(summary, "checkpoints");
        self.add(
            "every checkpoint done",
            done == Some(checkpoints),
            format!("{checkpoints} told, {} done", summary["checkpoints"]),
        );
        let (seconds, target) = (sender["seconds"].as_f64(), sender["target"].as_f64());
        let steady = sender["steady"].as_f64();
        let rate = steady.zip(seconds).map_or(0.0, |(pairs, seconds)| pairs / seconds);
        let target = target.unwrap_or(f64::INFINITY);
        self.add(
            "the load was kept up",
            rate >= target * KEPT_UP,
            format!("{rate:.0} pairs/s of {target:.0}"),
        );
        for name in ["sent", "maximum", "target", "seconds", "flows"] {
            self.figures[name] = sender[name].clone();
        }
        self.figures["pairs_per_second"] = rate.into();
        self.figures["divergences"] = parted.into();
        self.figures["checkpoints"] = checkpoints.into();
    }

    /// Whether everything holds.
    pub(super) fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.holds)
    }

    pub(super) fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|it| json!({ "what": it.what, "holds": it.holds, "seen": it.seen }))
            .collect();
        json!({ "all_well": self.is_well(), "findings": findings, "figures": self.figures })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
        for Finding { what, holds, seen } in &self.findings {
            let word = if *holds { "ok" } else { "NOT" };
            writeln!(f, "{word:3} {what:width$}  {seen}")?;
        }
        let latency = &self.figures["latency_microseconds"];
        let part = |name: &str| latency[name]["median"].as_f64().unwrap_or(f64::NAN);
        let [p50, p99, p999] = Sample::LATENCIES.map(part);
        write!(f, "latency: {p50:.0} us (p50), {p99:.0} us (p99), {p999:.0} us (p99.9)")
    }
}

/// What one in [`QUIET`] values does not exceed.
fn quiet(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / QUIET).copied()
}

/// How many samples are not judged.
fn warm_up(samples: &[Sample]) -> usize {
    let is_full = samples.iter().position(|sample| sample.evicted > 0);
    is_full.unwrap_or(samples.len()).max(samples.len() / WARM_UP)
}

/// By how much a value grows over the samples, by the line that fits it best (least squares).
fn growth(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let time = |sample: &Sample| sample.at.as_secs_f64();
    let (mean_time, mean_value) = (mean(&time), mean(&value));
    let mut covariance = 0.0;
    let mut variance = 0.0;
    for sample in samples {
        let distance = time(sample) - mean_time;
        covariance += distance * (value(sample) - mean_value);
        variance += distance * distance;
    }
    let span = match samples {
        [first, .., last] if variance > 0.0 => time(last) - time(first),
        _ => return 0.0,
    };
    covariance / variance * span
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An hour of samples, as `change` makes them from the second.
    fn hour(change: impl Fn(f64, &mut Sample)) -> Vec<Sample> {
        (0..3600)
            .map(|second| {
                let at = f64::from(second);
                // Noise that is as likely up as down.
                let noise = f64::from(second * 7919 % 101) - 50.0;
                let mut sample = Sample {
                    at: Duration::from_secs_f64(at),
                    resident: 90_000.0 + noise * 4.0,
                    occupied: 100.0 + noise,
                    unaccounted: 0,
                    flows: 16_384,
                    evicted: if second < 20 { 0 } else { 1000 },
                    lost: 0,
                    divergences: 0,
                    rate: 100_000.0,
                    machine: Some(1.0),
                    latency: Some([80.0 + noise / 5.0, 300.0 + noise, 900.0 + noise * 5.0]),
                };
                change(at, &mut sample);
                sample
            })
            .collect()
    }

    fn failing(samples: &[Sample]) -> Vec<&'static str> {
        let verdict = Verdict::of(samples);
        verdict.findings.iter().filter(|it| !it.holds).map(|it| it.what).collect()
    }

    #[test]
    fn an_even_hour_with_noise_is_well() {
        assert_eq!(failing(&hour(|_, _| {})), Vec::<&str>::new());
    }

    #[test]
    fn memory_that_grows_by_little_every_second_is_found() {
        // Twenty bytes for each of a thousand flows a second would be 20 KiB a second.
        let leaking = hour(|at, sample| sample.resident += at);
        assert_eq!(failing(&leaking), ["memory flat"]);
        let leaking = hour(|at, sample| sample.occupied += at / 5.0);
        assert_eq!(failing(&leaking), ["frame memory flat"]);
    }

    #[test]
    fn what_happens_in_the_warm_up_is_not_held_against_it() {
        let filling = hour(|at, sample| {
            if at < 600.0 {
                sample.resident -= (600.0 - at) * 50.0;
                sample.latency = Some([5000.0; 3]);
            }
        });
        assert_eq!(failing(&filling), Vec::<&str>::new());
    }

    #[test]
    fn latency_that_creeps_up_is_found() {
        let creeping = hour(|at, sample| {
            if let Some([p50, ..]) = &mut sample.latency {
                *p50 += at / 5.0;
            }
        });
        assert_eq!(failing(&creeping), ["latency stable"]);
    }

    #[test]
    fn a_machine_that_is_busy_for_long_but_not_always_is_not_held_against_it() {
        let busy = hour(|at, sample| {
            if at > 2000.0 && at % 5.0 < 4.0 {
                sample.latency = Some([5000.0, 30_000.0, 60_000.0]);
            }
        });
        assert_eq!(failing(&busy), Vec::<&str>::new());
    }

    #[test]
    fn one_frame_in_no_known_place_is_found() {
        let off = hour(|at, sample| {
            if at == 1000.0 {
                sample.unaccounted = 1;
            }
        });
        assert_eq!(failing(&off), ["books balanced"]);
    }

    #[test]
    fn nothing_seen_is_not_well() {
        assert!(!Verdict::of(&[]).is_well());
        let quiet = hour(|_, sample| sample.latency = None);
        assert_eq!(failing(&quiet), ["latency stable"]);
    }

    #[test]
    fn the_counts_must_add_up() {
        let judge = |sender: Value, summary: Value, parted| {
            let mut verdict = Verdict::of(&hour(|_, _| {}));
            verdict.add_counts(&sender, &summary, parted, 9);
            verdict.is_well()
        };
        let sender = json!({
            "sent": 1000, "delivered": 1000, "intact": true, "seconds": 10.0, "target": 100.0,
            "steady": 990
        });
        let summary = json!({
            "lost": 0, "frames_unaccounted": 0, "divergences": 3, "checkpoints": 9
        });
        assert!(judge(sender.clone(), summary.clone(), 3));
        assert!(!judge(sender.clone(), summary.clone(), 2));
        assert!(!judge(json!({}), json!({}), 3));
        for (name, value) in [("lost", 1), ("frames_unaccounted", 1), ("checkpoints", 8)] {
            let mut summary = summary.clone();
            summary[name] = value.into();
            assert!(!judge(sender.clone(), summary, 3), "{name}");
        }
        for (name, value) in
            [("delivered", json!(999)), ("intact", json!(false)), ("steady", json!(400))]
        {
            let mut sender = sender.clone();
            sender[name] = value;
            assert!(!judge(sender, summary.clone(), 3), "{name}");
        }
    }
}
