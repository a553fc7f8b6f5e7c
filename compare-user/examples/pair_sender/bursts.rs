//! What the comparator's core costs by itself.
//!
//! In a stream the slower core sets the pace, and the sender, which makes two frames for each that
//! is released, is the slower one. So here the comparator's process is stopped, a burst is put
//! into its rings, and then it alone works. The pace is the slope between two readings of the
//! sink's counter while the burst comes out, so neither waking up nor the last frame counts.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::guests::{Guests, STALL, Script};
use crate::sink::Sink;

/// Pairs of a burst. A ring has 2,048 entries.
const BURST: usize = 1024;

/// Pairs sent at a time: a veth queues 256 frames (`VETH_RING_SIZE` in drivers/net/veth.c).
const BATCH: usize = 64;

/// From the signal to where no thread of the comparator runs user code any more: a running one is
/// interrupted at once, one that waits for its core acts on the signal before anything else.
const STOPPING: Duration = Duration::from_micros(200);

/// Between two looks at the counter, whose cache line the comparator's core needs for itself.
const LOOK: Duration = Duration::from_micros(5);

/// The first part of a burst, in which the caches and the branch predictor settle.
const SETTLED: u64 = BURST as u64 / 4;

/// Between two bursts, so that other processes get their turn there and not within.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of bursts.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(..=10_000))]
    bursts: u16,
}

/// Keeps the comparator stopped; dropping it lets it go on, on every way out.
struct Stopped(Pid);

impl Stopped {
    fn stop(process: Pid) -> anyhow::Result<Self> {
        kill(process, Signal::SIGSTOP).context("stopping the comparator")?;
        std::thread::sleep(STOPPING);
        Ok(Self(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended; then the counter tells.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Sends the bursts; returns what a pair took in each of them, in nanoseconds, in order.
pub(crate) fn run(
    options: &Options,
    guests: &mut Guests<impl Script>,
    sink: &Sink,
    comparator: u32,
) -> anyhow::Result<Value> {
    let process = Pid::from_raw(i32::try_from(comparator).context("no process id")?);
    let mut nanoseconds = Vec::with_capacity(options.bursts.into());
    for _ in 0..options.bursts {
        let stopped = Stopped::stop(process)?;
        for _ in 0..BURST / BATCH {
            guests.send(BATCH)?;
        }
        drop(stopped);
        match pace(guests.sent(), sink) {
            Pace::Nanoseconds(pace) => nanoseconds.push(pace),
            Pace::NotSeen => {}
            Pace::Stalled => return Ok(json!({ "stalled": true })),
        }
        // Completions.
        guests.send(0)?;
        std::thread::sleep(PAUSE);
    }
    Ok(json!({ "stalled": false, "nanoseconds_per_pair": nanoseconds }))
}

/// How fast a burst came out.
enum Pace {
    /// Time per frame.
    Nanoseconds(f64),
    /// This core was busy with something else meanwhile.
    NotSeen,
    /// Not all of it came out.
    Stalled,
}

/// Watches the counter go up to `target`.
fn pace(target: u64, sink: &Sink) -> Pace {
    let begun = target - BURST as u64 + SETTLED;
    let deadline = Instant::now() + STALL;
    let (mut first, mut last) = (None, None);
    loop {
        let reading = (Instant::now(), sink.frames());
        if reading.1 >= target {
            break;
        }
        if reading.0 > deadline {
            return Pace::Stalled;
        }
        if reading.1 >= begun {
            first.get_or_insert(reading);
            last = Some(reading);
        }
        while reading.0.elapsed() < LOOK {
            std::hint::spin_loop();
        }
    }
    match (first, last) {
        (Some((from, low)), Some((to, high))) if high > low => {
            Pace::Nanoseconds((to - from).as_nanos() as f64 / (high - low) as f64)
        }
        _ => Pace::NotSeen,
    }
}
