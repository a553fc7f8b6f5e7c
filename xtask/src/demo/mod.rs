//! `cargo xtask demo`: in less than a minute, what the program is for.
//!
//! As root, two acts on real devices in namespaces with the real binary: first two guests played
//! by this process, frame by frame (`live`), then ordinary servers on two hosts, of which first the
//! one and then the other is lost (`servers`). Without root: the traffic of the first act in two
//! capture files, and `colo-xdp replay` (`captures`). `traffic` is what the played guests say,
//! `screen` is what the person sees.

mod captures;
mod live;
mod screen;
mod servers;
mod traffic;

use std::{path::Path, time::Duration};

use anyhow::Context;
use screen::Screen;
use serde_json::Value;

/// Shortest demo: below this there is no time for a single exchange to be seen.
const SHORTEST: u64 = 2;
/// Longest demo.
const LONGEST: u64 = 600;

/// What the person wants.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object on standard output; the story goes to standard error
    #[arg(long)]
    json: bool,
    /// How long the first act takes, in seconds; the second takes about 20
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(SHORTEST..=LONGEST))]
    seconds: u64,
}

/// Tells the story with the real `binary`.
///
/// # Errors
/// When the comparator does not do what the story says. Everything made is removed first.
pub(crate) fn run(options: &Options, binary: &Path) -> anyhow::Result<()> {
    let screen = Screen::new(options.json);
    let length = Duration::from_secs(options.seconds);
    let result = tell(&screen, binary, length).context("the demo did not go as it should")?;
    screen.result(&result);
    Ok(())
}

/// The first act's result, with the second act's below `servers`.
fn tell(screen: &Screen, binary: &Path, length: Duration) -> anyhow::Result<Value> {
    if !nix::unistd::geteuid().is_root() {
        return captures::tell(screen, binary);
    }
    let mut result = live::tell(screen, binary, length)?;
    result["servers"] = servers::tell(screen, binary, length)?;
    Ok(result)
}
