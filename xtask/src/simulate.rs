//! `cargo xtask simulate`: builds the simulator and runs it.
//!
//! A program of its own, because it contains the comparator, which embeds the XDP object that xtask
//! builds.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{command, release};

/// Examples for `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask simulate
  cargo xtask simulate --seeds 100000 --from 1
  cargo xtask simulate --seed 42
  cargo xtask simulate --seeds 1000 --json

All options: cargo xtask simulate -- --help";

/// Passed on to the simulator.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Options of the simulator
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the simulator for release and runs it.
///
/// # Errors
/// The machine lacks something, a build failed, or a rule was broken.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut simulate = Command::new(release::build_simulator()?);
    Ok(command::run(simulate.args(&options.arguments))?)
}

/// What `cargo xtask test` runs: these seeds, on all cores.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_seeds(seeds: u32) -> Result<()> {
    run(&Options { arguments: vec!["--seeds".to_owned(), seeds.to_string()] })
}
