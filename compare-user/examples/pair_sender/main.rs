//! Load for `cargo xtask bench xdp` and `cargo xtask soak`: sends as both guests and looks at what
//! comes out at the other end. The last line of JSON says what was found.
//!
//! Runs in the network namespace of the guests' ends and of the NIC's peer. One AF_XDP socket
//! sends on each guest's end ([`guests`]). On the peer an XDP program ([`sink`]) counts every
//! frame that is released, adds up the numbers that the frames carry, and drops it.
//!
//! A benchmark has two loads of like frames ([`frames`]):
//! - [`stream`], first: a window of pairs is under way at most, and what the sink counts opens it
//!   again, so the load follows the slower side and nothing overflows.
//! - [`bursts`], then: the comparator is stopped while a burst fills its rings; then it alone runs.
//!
//! [`soak`] has frames of all kinds in flows that come and go ([`mixture`]), at a steady pace.
//!
//! Everything is bounded in time and count.

mod bursts;
mod frames;
mod guests;
mod mixture;
mod processor;
mod sink;
mod soak;
mod stream;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use frames::{Frames, Protocol};
use guests::{Guests, Script};
use serde_json::{Value, json};
use sink::{Reading, Sink};

/// Sends as two guests and looks at what is released.
#[derive(Debug, Parser)]
struct Arguments {
    /// The primary guest's end.
    #[arg(long, value_name = "DEV")]
    primary: String,
    /// The secondary guest's end.
    #[arg(long, value_name = "DEV")]
    secondary: String,
    /// The far end of the NIC.
    #[arg(long, value_name = "DEV")]
    sink: String,
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// As much as goes through, of like frames.
    Bench(Bench),
    /// A share of it for long, of frames of all kinds.
    Soak(soak::Options),
}

#[derive(Debug, clap::Args)]
struct Bench {
    /// What the frames carry.
    #[arg(long, value_enum, default_value = "udp")]
    protocol: Protocol,
    /// Bytes of a frame.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1514))]
    size: u16,
    /// Flows, taken in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    flows: u16,
    /// Core to run on.
    #[arg(long, value_name = "N")]
    core: usize,
    /// The comparator's process.
    #[arg(long, value_name = "PID")]
    comparator: u32,
    #[command(flatten)]
    stream: stream::Options,
    #[command(flatten)]
    bursts: bursts::Options,
}

fn run(arguments: &Arguments) -> anyhow::Result<Value> {
    let devices = [&arguments.primary, &arguments.secondary];
    match &arguments.load {
        Load::Bench(bench) => {
            anyhow::ensure!(
                core_affinity::set_for_current(core_affinity::CoreId { id: bench.core }),
                "cannot pin to core {}",
                bench.core
            );
            let reading = Reading { number_at: frames::TAG_AT, arrivals: false };
            let sink = Sink::attach(&arguments.sink, reading)?;
            let frames = Frames::new(bench.protocol, bench.size.into(), bench.flows);
            let mut guests = Guests::open(devices, frames)?;
            let stream = stream::run(&bench.stream, &mut guests, &sink, bench.comparator)?;
            guests.drain(&sink)?;
            let bursts = bursts::run(&bench.bursts, &mut guests, &sink, bench.comparator)?;
            finish(guests, &sink, &json!({ "stream": stream, "bursts": bursts }))
        }
        Load::Soak(soak) => {
            let reading = Reading { number_at: mixture::NUMBER_AT, arrivals: true };
            let sink = Sink::attach(&arguments.sink, reading)?;
            let mut guests = Guests::open(devices, soak.script())?;
            let soak = soak::run(soak, &mut guests, &sink)?;
            finish(guests, &sink, &soak)
        }
    }
}

/// Waits for what is under way, closes the sockets and adds up.
fn finish(mut guests: Guests<impl Script>, sink: &Sink, found: &Value) -> anyhow::Result<Value> {
    guests.drain(sink)?;
    let (sent, sum) = guests.close();
    let delivered = sink.frames();
    let mut result = json!({
        "sent": sent,
        "delivered": delivered,
        "lost": sent.saturating_sub(delivered),
        // The frames that came out are those that went in, none of them twice.
        "intact": delivered == sent && sink.sum() == sum,
    });
    if let (Some(result), Some(found)) = (result.as_object_mut(), found.as_object()) {
        result.extend(found.clone());
    }
    Ok(result)
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(result) => {
            // Nobody left to read it is no reason to fail.
            let _ = writeln!(std::io::stdout(), "{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "pair_sender: {error:#}");
            ExitCode::FAILURE
        }
    }
}
