//! What clients get out of a guest through the whole proxy, or without it: one trial of
//! `cargo xtask bench proxy`.
//!
//! Builds the network, starts what the variant asks for, and puts one load on it; all content is
//! verified. Prints one JSON object.

#![allow(
    clippy::print_stdout,
    reason = "a command-line tool: what it found goes to standard output"
)]

mod path;
mod processor;

use std::time::Duration;

use anyhow::{bail, ensure};
use colo_tests::Result;
use colo_tests::load::{Bound, Crowd, Streams, Style};
use colo_tests::pair::Family;
use colo_tests::service::port;
use path::{Path, Variant};
use serde_json::{Value, json};

/// Until windows and caches have grown.
const WARM_UP: Duration = Duration::from_millis(500);
/// Connections whose set-up is timed, and how many of them at a time.
const SET_UPS: usize = 2_000;
const SET_UPS_AT_A_TIME: usize = 8;
/// The longest time for which set-ups are begun.
const SET_UPS_WITHIN: Duration = Duration::from_secs(30);

/// What the client does.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// Opens many short connections.
    SetUp,
    /// Keeps so many connections busy.
    Streams(Bound, usize),
}

fn main() -> Result {
    let Options { variant, load, during, run } = Options::parse()?;
    let path = Path::open(variant, &run)?;
    let before = path.gauge()?;
    let found = match load {
        Load::SetUp => set_up(&path),
        Load::Streams(bound, connections) => stream(&path, bound, connections, during),
    };
    let used = path.gauge()?.since(&before);
    let mut trial = match found {
        Ok(found) => json!({ "found": found, "books": path.close()? }),
        // A finding too: connections that get stuck belong into the report.
        Err(error) => json!({ "failure": format!("{error:#}"), "books": path.abandon()? }),
    };
    trial["used"] = used.json();
    println!("{trial}");
    Ok(())
}

/// What `cargo xtask bench proxy` hands on.
struct Options {
    variant: Variant,
    load: Load,
    /// How long streams are kept busy.
    during: Duration,
    /// More arguments for `colo-xdp run`.
    run: Vec<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        const USAGE: &str =
            "usage: proxy_load VARIANT set-up|client|guest CONNECTIONS SECONDS [RUN-OPTION]...";
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [variant, load, connections, seconds, run @ ..] = arguments.as_slice() else {
            bail!(USAGE)
        };
        let load = match load.as_str() {
            "set-up" => Load::SetUp,
            "client" => Load::Streams(Bound::ForClient, connections.parse()?),
            "guest" => Load::Streams(Bound::ForGuest, connections.parse()?),
            _ => bail!(USAGE),
        };
        let during = Duration::try_from_secs_f64(seconds.parse()?)?;
        Ok(Self { variant: variant.parse()?, load, during, run: run.to_vec() })
    }
}

/// Times the opening of many short connections, over both families.
fn set_up(path: &Path) -> Result<Value> {
    let crowd = Crowd {
        connections: SET_UPS,
        at_a_time: SET_UPS_AT_A_TIME,
        style: Style::Short,
        seed: 1,
        within: SET_UPS_WITHIN,
    };
    let servers = Family::BOTH.map(|family| family.at(port::PAGES));
    let tally = path.client().run(|| Ok(crowd.run(&servers)))?;
    tally.check(SET_UPS)?;
    let microseconds = |percent| tally.set_up.percentile(percent).as_secs_f64() * 1e6;
    Ok(json!({
        "connections": tally.verified,
        "at_a_time": SET_UPS_AT_A_TIME,
        "p50_microseconds": microseconds(50),
        "p99_microseconds": microseconds(99),
        "connections_per_second": tally.verified as f64 / tally.took.as_secs_f64(),
    }))
}

/// Keeps connections busy one way, and says how much got through.
fn stream(path: &Path, bound: Bound, connections: usize, during: Duration) -> Result<Value> {
    // A single connection is an IPv4 one; many are of both families by turns.
    let servers = Family::BOTH.map(|family| family.at(port::PAGES));
    let streams = Streams { connections, bound, seed: 1, warm_up: WARM_UP, during };
    let transfer = path.client().run(|| streams.run(&servers))?;
    ensure!(transfer.bytes > 0, "nothing was transferred");
    Ok(json!({ "bits_per_second": transfer.bits_per_second() }))
}
