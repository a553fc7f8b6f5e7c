//! `cargo xtask bench chardev`: hands over to the load generator.

use std::{path::Path, process::Command};

use anyhow::Result;
use clap::Args;

use crate::command;

/// How to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Time per round and kind of measurement; there are 48 of them
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    seconds: f64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `load`, which starts `binary` and QEMU in turn.
///
/// # Errors
/// A comparator does not start, changes a frame, or does not end as it should.
pub(crate) fn run(options: &Options, binary: &Path, load: &Path) -> Result<()> {
    let mut command = Command::new(load);
    command.env("COLO_XDP_BINARY", binary).args(["--seconds", &options.seconds.to_string()]);
    if options.json {
        command.arg("--json");
    }
    Ok(command::run(&mut command)?)
}
