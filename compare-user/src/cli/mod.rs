//! The command line: one file per subcommand.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where people are spoken to")]

mod ctl;
mod doctor;
mod duration;
mod log;
mod loss;
mod relay;
mod replay;
mod run;
mod service;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::log::Log;
use crate::kernel::{FaultKind, KernelError};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; `replay`: the captures are equal
  1  `replay`: the captures differ; `ctl`: the comparator or relay refused
  2  usage
  3  missing privilege
  4  missing kernel feature
  5  device
  6  runtime fault";

/// Compares the network output of two replicas of a virtual machine outside the hypervisor.
#[derive(Debug, Parser)]
#[command(name = "colo-xdp", version, after_help = EXIT_CODES)]
struct Cli {
    /// What is logged to standard error: error, warn, info, debug, or per module.
    #[arg(long, global = true, env = "COLO_XDP_LOG", default_value = "warn", value_name = "LEVEL")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Relay(Box<relay::Args>),
    Replay(replay::Args),
    Ctl(ctl::Args),
    Doctor(doctor::Args),
}

/// Why a subcommand ended without doing its work: one line and an exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    fn of(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { code: kind.exit_code(), message: message.into() }
    }

    fn runtime(message: impl Into<String>) -> Self {
        Self::of(FaultKind::Runtime, message)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::of(error.kind(), error.to_string())
    }
}

/// Runs the program; what `main` returns.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let log = match Log::start(&cli.log) {
        Ok(log) => log,
        Err(failure) => return fail(&failure),
    };
    let result = match &cli.command {
        Command::Run(args) => run::run(args, log),
        Command::Relay(args) => relay::run(args, log),
        Command::Replay(args) => replay::run(args),
        Command::Ctl(args) => ctl::run(args),
        Command::Doctor(args) => doctor::run(args).map_err(Failure::from),
    };
    result.unwrap_or_else(|failure| fail(&failure))
}

/// Help and version as they are; a mistake as one line, like every other failure.
fn refuse(error: &clap::Error) -> ExitCode {
    let help = clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == help {
        error.exit();
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    fail(&Failure::usage(line.trim_start_matches("error: ").to_owned() + "; see --help"))
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("colo-xdp: {}", failure.message);
    ExitCode::from(failure.code)
}
