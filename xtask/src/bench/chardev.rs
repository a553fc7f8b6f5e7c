//! Builds both sides in release and hands over to the load generator.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    build_ebpf::{self, Flavour},
    command, release, setup, workspace,
};

/// The load generator: an example of the tests crate, so that it is built for release.
const LOAD: &str = "chardev_load";

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Time per round and kind of measurement; there are 48 of them
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    seconds: f64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// # Errors
/// As [`super::run`].
pub(crate) fn run(options: &Options) -> Result<()> {
    build_ebpf::build(&setup::ensure_for_tests()?, Flavour::Release)?;
    let binary = release::build()?;
    let mut build = Command::new(workspace::cargo());
    build.current_dir(workspace::root()).args([
        "build",
        "--release",
        "--package",
        "colo-tests",
        "--example",
        LOAD,
    ]);
    command::run(&mut build)?;
    let mut load = Command::new(workspace::target_dir().join("release/examples").join(LOAD));
    load.env("COLO_XDP_BINARY", binary).args(["--seconds", &options.seconds.to_string()]);
    if options.json {
        load.arg("--json");
    }
    Ok(command::run(&mut load)?)
}
