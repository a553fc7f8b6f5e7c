//! A steady load with a window.

use std::time::{Duration, Instant};

use compare_user::port::PortError;
use serde_json::{Value, json};

use crate::guests::{Guests, STALL, Script};
use crate::processor::ProcessorTime;
use crate::sink::Sink;

/// Pairs handed to the sockets at a time: two system calls a batch.
const BATCH: u64 = 64;

/// How often the clock is read, in batches: a look at it must not cost what it measures.
const LOOK: u32 = 16;

/// Most pairs of one run, whatever the time: about ten minutes at the highest rate seen.
const MOST_PAIRS: u64 = 500_000_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pairs under way at most.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=1024))]
    window: u16,
    /// Seconds that are measured.
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before them.
    #[arg(long, value_name = "N", default_value_t = 0.3)]
    warm_up: f64,
}

/// What is known at one moment.
struct Reading {
    at: Instant,
    delivered: u64,
    comparator: ProcessorTime,
}

impl Reading {
    fn take(sink: &Sink, comparator: u32) -> anyhow::Result<Self> {
        let comparator = ProcessorTime::of(comparator)?;
        Ok(Self { at: Instant::now(), delivered: sink.frames(), comparator })
    }
}

/// Sends for as long as `options` say and measures the second part of it.
pub(crate) fn run(
    options: &Options,
    guests: &mut Guests<impl Script>,
    sink: &Sink,
    comparator: u32,
) -> anyhow::Result<Value> {
    let window = u64::from(options.window);
    let mut send = |seconds: f64| {
        keep_full(guests, sink, window, Instant::now() + Duration::from_secs_f64(seconds))
    };
    let warm = send(options.warm_up)?;
    let start = Reading::take(sink, comparator)?;
    let sending = if warm.flowing { send(options.seconds)? } else { warm };
    let end = Reading::take(sink, comparator)?;
    Ok(json!({
        "stalled": !sending.flowing,
        "waited_seconds": sending.waited.as_secs_f64(),
        "seconds": (end.at - start.at).as_secs_f64(),
        "pairs": end.delivered - start.delivered,
        "user_seconds": (end.comparator.user - start.comparator.user).as_secs_f64(),
        "system_seconds": (end.comparator.system - start.comparator.system).as_secs_f64(),
    }))
}

/// How sending went.
struct Sending {
    /// False if the window stayed closed for too long.
    flowing: bool,
    /// Time for which it was closed: the sender waited for the comparator.
    waited: Duration,
}

/// Keeps the window full until `until`.
fn keep_full(
    guests: &mut Guests<impl Script>,
    sink: &Sink,
    window: u64,
    until: Instant,
) -> Result<Sending, PortError> {
    let mut moved = (sink.frames(), Instant::now());
    let mut rounds = 0u32;
    let mut waited = Duration::ZERO;
    let mut closed: Option<Instant> = None;
    loop {
        let delivered = sink.frames();
        let room = (window + delivered).saturating_sub(guests.sent());
        if room > 0 && guests.sent() < MOST_PAIRS {
            waited += closed.take().map_or(Duration::ZERO, |since| since.elapsed());
            guests.send(BATCH.min(room) as usize)?;
        } else {
            closed.get_or_insert_with(Instant::now);
            std::hint::spin_loop();
        }
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(LOOK) {
            let now = Instant::now();
            if delivered != moved.0 {
                moved = (delivered, now);
            }
            let flowing = now - moved.1 <= STALL;
            if now >= until || !flowing {
                return Ok(Sending { flowing, waited });
            }
        }
    }
}
