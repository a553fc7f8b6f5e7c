//! Load for `cargo xtask bench xdp`: sends the same frames as both guests and measures how fast
//! they come out at the other end. One JSON line says what was found.
//!
//! Runs in the network namespace of the guests' ends and of the NIC's peer. One AF_XDP socket
//! sends on each guest's end ([`guests`]). On the peer an XDP program ([`sink`]) counts every
//! frame that is released, adds up the numbers that the frames carry, and drops it.
//!
//! - [`stream`], first: a window of pairs is under way at most, and what the sink counts opens it
//!   again, so the load follows the slower side and nothing overflows.
//! - [`bursts`], then: the comparator is stopped while a burst fills its rings; then it alone runs.
//!
//! Everything is bounded in time and count.

mod bursts;
mod frames;
mod guests;
mod processor;
mod sink;
mod stream;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use frames::Protocol;
use guests::Guests;
use serde_json::{Value, json};
use sink::Sink;

/// Sends the same frames as two guests and measures how fast they are released.
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
    anyhow::ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id: arguments.core }),
        "cannot pin to core {}",
        arguments.core
    );
    let sink = Sink::attach(&arguments.sink)?;
    let frames = frames::Frames::new(arguments.protocol, arguments.size.into(), arguments.flows);
    let mut guests = Guests::open([&arguments.primary, &arguments.secondary], frames)?;
    let stream = stream::run(&arguments.stream, &mut guests, &sink, arguments.comparator)?;
    guests.drain(&sink)?;
    let bursts = bursts::run(&arguments.bursts, &mut guests, &sink, arguments.comparator)?;
    guests.drain(&sink)?;
    let (sent, sum) = guests.close();
    let delivered = sink.frames();
    Ok(json!({
        "sent": sent,
        "delivered": delivered,
        "lost": sent.saturating_sub(delivered),
        // The frames that came out are those that went in, none of them twice.
        "intact": delivered == sent && sink.sum() == sum,
        "stream": stream,
        "bursts": bursts,
    }))
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
