//! `cargo xtask demo`: in some 20 seconds, what the program is for.
//!
//! As root: namespaces, real devices, the real binary, and two guests played by this process
//! (`live`). Without root: the same traffic in two capture files, and `colo-xdp replay`
//! (`captures`). `traffic` is what the guests say, `screen` is what the person sees.

mod captures;
mod live;
mod screen;
mod traffic;

use std::{path::Path, time::Duration};

use anyhow::Context;
use screen::Screen;

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
    /// How long the story takes, in seconds
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
    let result = if nix::unistd::geteuid().is_root() {
        live::tell(&screen, binary, length).context("the demo did not go as it should")?
    } else {
        captures::tell(&screen, binary).context("the demo did not go as it should")?
    };
    screen.result(&result);
    Ok(())
}
