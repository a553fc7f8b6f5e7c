//! A steady load for hours: half of what goes through, or another share of it.
//!
//! First the most that goes through is measured, with this load itself. Then pairs are sent at the
//! pace that follows from it, and once a second a line of JSON says what arrived and how long it took.
//! Whoever has started this tells it on standard input when the guests are to part (`part`) and when
//! they are equal again (`reconcile`); the end of the input, or the time, is the end.

use std::collections::VecDeque;
use std::io::{BufRead as _, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::guests::{Guests, STALL};
use crate::mixture::{Mixture, Planted};
use crate::sink::Sink;

/// Pairs under way at most, those aside that are kept back: a quarter of a ring.
const WINDOW: u64 = 512;
/// Pairs handed to the sockets at a time.
const BATCH: u64 = 64;
/// Between two looks at the clock while there is nothing to send.
const REST: Duration = Duration::from_micros(200);
/// A backlog longer than this is not made up for: the machine was busy with something else.
const BACKLOG: Duration = Duration::from_millis(20);
/// The maximum is that of the best of this many parts of the measurement.
const PARTS: u32 = 5;
/// A sampled pair that has not arrived after so long has been overtaken by many others, or lost;
/// which of the two the counts tell.
const OVERDUE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for which the maximum is measured.
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    measure: f64,
    /// The share of the maximum that is sent.
    #[arg(long, value_name = "RATIO", default_value_t = 0.5)]
    share: f64,
    /// Seconds of the load.
    #[arg(long, value_name = "N")]
    seconds: f64,
    /// Flows at a time.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    flows: u16,
    /// Frames of a flow; then another takes its place.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    life: u32,
}

impl Options {
    pub(crate) fn script(&self) -> Mixture {
        Mixture::new(self.flows, self.life)
    }
}

/// What is said on standard input.
enum Word {
    Part,
    Reconcile,
    End,
}

/// A pair that is under way.
struct Sample {
    number: u64,
    sent: u64,
}

struct Soak<'a> {
    guests: &'a mut Guests<Mixture>,
    sink: &'a Sink,
    under_way: VecDeque<Sample>,
    /// Nanoseconds from sending to arrival, of this second.
    took: Vec<u64>,
    overdue: u64,
}

/// Runs it; returns what was found beside what the lines have said.
pub(crate) fn run(
    options: &Options,
    guests: &mut Guests<Mixture>,
    sink: &Sink,
) -> anyhow::Result<Value> {
    let words = listen();
    let mut soak = Soak { guests, sink, under_way: VecDeque::new(), took: Vec::new(), overdue: 0 };
    let maximum = soak.maximum(Duration::from_secs_f64(options.measure))?;
    let rate = maximum * options.share;
    say(&json!({ "event": "maximum", "pairs_per_second": maximum, "target": rate }))?;
    let before = soak.guests.sent();
    let seconds = soak.steady(rate, Duration::from_secs_f64(options.seconds), &words)?;
    Ok(json!({
        "maximum": maximum,
        "target": rate,
        "seconds": seconds,
        "steady": soak.guests.sent() - before,
        "flows": soak.guests.script.begun(),
    }))
}

/// Reads standard input on a thread of its own, which ends with the process.
fn listen() -> Receiver<Word> {
    let (sender, words) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let word = match line.as_str() {
                "part" => Word::Part,
                "reconcile" => Word::Reconcile,
                _ => break,
            };
            if sender.send(word).is_err() {
                return;
            }
        }
        let _ = sender.send(Word::End);
    });
    words
}

fn say(line: &Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("nobody listens any more")
}

impl Soak<'_> {
    /// Pairs that may be sent now without any ring running over.
    fn room(&self) -> u64 {
        let may_be_missing = WINDOW + self.guests.script.withheld();
        (may_be_missing + self.sink.frames()).saturating_sub(self.guests.sent())
    }

    /// What goes through in a second while the window is kept full.
    fn maximum(&mut self, during: Duration) -> anyhow::Result<f64> {
        let mut best = 0.0_f64;
        for _ in 0..PARTS {
            let (begun, before) = (Instant::now(), self.sink.frames());
            let mut moved = (before, begun);
            while begun.elapsed() < during / PARTS {
                match self.room().min(BATCH) {
                    0 => std::hint::spin_loop(),
                    room => self.guests.send(room as usize)?,
                }
                let arrived = self.sink.frames();
                if arrived != moved.0 {
                    moved = (arrived, Instant::now());
                }
                anyhow::ensure!(moved.1.elapsed() <= STALL, "nothing arrives any more");
            }
            let pairs = self.sink.frames() - before;
            best = best.max(pairs as f64 / begun.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Sends `rate` pairs a second. Returns for how many seconds.
    fn steady(
        &mut self,
        rate: f64,
        during: Duration,
        words: &Receiver<Word>,
    ) -> anyhow::Result<f64> {
        // Those of the measurement.
        drop(self.guests.script.take_sampled());
        let begun = Instant::now();
        let (mut paced_from, mut paced) = (begun, 0u64);
        let mut told = (begun, self.guests.sent(), self.sink.frames());
        while begun.elapsed() < during {
            match words.try_recv() {
                Ok(Word::Part) => self.guests.script.part(),
                Ok(Word::Reconcile) => self.guests.script.reconcile(),
                Ok(Word::End) => break,
                Err(_) => {}
            }
            let due = (paced_from.elapsed().as_secs_f64() * rate) as u64;
            if due.saturating_sub(paced) as f64 > rate * BACKLOG.as_secs_f64() {
                (paced_from, paced) = (Instant::now(), 0);
                continue;
            }
            let count = due.saturating_sub(paced).min(self.room()).min(BATCH);
            self.send(count)?;
            paced += count;
            if let Some(planted) = self.guests.script.take_planted() {
                say(&told_of(planted))?;
            }
            if told.0.elapsed() >= Duration::from_secs(1) {
                let (sent, arrived) = (self.guests.sent(), self.sink.frames());
                self.tell(told.0.elapsed(), sent - told.1, arrived - told.2)?;
                told = (Instant::now(), sent, arrived);
            }
            if count < BATCH {
                thread::sleep(REST);
            }
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Sends, notes what is to be timed, and looks what has arrived.
    fn send(&mut self, count: u64) -> anyhow::Result<()> {
        let sent = monotonic()?;
        self.guests.send(count as usize)?;
        let samples = self.guests.script.take_sampled();
        self.under_way.extend(samples.map(|number| Sample { number, sent }));
        let (sink, took, overdue) = (self.sink, &mut self.took, &mut self.overdue);
        self.under_way.retain(|sample| match sink.arrival(sample.number) {
            Some(arrived) => {
                took.push(arrived.saturating_sub(sample.sent));
                false
            }
            None => {
                let waits = sent.saturating_sub(sample.sent) <= OVERDUE.as_nanos() as u64;
                *overdue += u64::from(!waits);
                waits
            }
        });
        Ok(())
    }

    /// Says how the last second went.
    fn tell(&mut self, seconds: Duration, sent: u64, arrived: u64) -> anyhow::Result<()> {
        self.took.sort_unstable();
        let microseconds = |thousandth: usize| {
            let rank = (self.took.len() * thousandth).div_ceil(1000).max(1);
            self.took.get(rank - 1).map(|nanoseconds| *nanoseconds as f64 / 1e3)
        };
        say(&json!({
            "event": "second",
            "seconds": seconds.as_secs_f64(),
            "sent": sent,
            "arrived": arrived,
            "samples": self.took.len(),
            "overdue": self.overdue,
            "p50": microseconds(500),
            "p99": microseconds(990),
            "p999": microseconds(999),
            "flows": self.guests.script.begun(),
        }))?;
        self.took.clear();
        Ok(())
    }
}

/// As the comparator names a flow.
fn told_of(planted: Planted) -> Value {
    let Planted { version, is_tcp, ports } = planted;
    let protocol = if is_tcp { "tcp" } else { "udp" };
    json!({
        "event": "planted",
        "version": version,
        "protocol": protocol,
        "guest_port": ports[0],
        "client_port": ports[1],
    })
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic() -> anyhow::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(now.as_nanos() as u64)
}
