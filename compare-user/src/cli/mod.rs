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

use std::io::{stdin, stdout};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::log::Log;
use crate::checkpoint::on_divergence;
use crate::kernel::{FaultKind, KernelError};
use crate::privilege::{self, PrivilegeError, Role, Seccomp};

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
    /// What becomes of a system call that a part of the program has no use for: on ends the process
    /// with a line that names it, log has the kernel log it, off installs no filter.
    #[arg(
        long,
        global = true,
        env = "COLO_XDP_SECCOMP",
        default_value = "on",
        value_name = "on|log|off"
    )]
    seccomp: Seccomp,
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
    /// The process that `run --on-divergence` starts for its command.
    #[command(hide = true, name = on_divergence::SUBCOMMAND)]
    OnDivergence {
        command: String,
    },
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

impl From<PrivilegeError> for Failure {
    fn from(error: PrivilegeError) -> Self {
        Self::runtime(error.to_string())
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::of(error.kind(), error.to_string())
    }
}

impl Cli {
    fn run(&self, log: Log) -> Result<ExitCode, Failure> {
        // `run` gives up its rights itself, after it has started what needs them.
        if !matches!(self.command, Command::Run(_) | Command::OnDivergence { .. }) {
            privilege::begin(self.seccomp)?;
        }
        match &self.command {
            Command::Run(args) => run::run(args, self.seccomp, log),
            Command::Relay(args) => relay::run(args, log),
            Command::Replay(args) => {
                privilege::confine(Role::Reader)?;
                replay::run(args)
            }
            Command::Ctl(args) => {
                privilege::confine(Role::UnixPeer { connects: true })?;
                ctl::run(args)
            }
            Command::Doctor(args) => Ok(doctor::run(args)?),
            Command::OnDivergence { command } => {
                privilege::keep_inherited()?;
                let served = on_divergence::serve(command, stdin().lock(), stdout().lock());
                served.map_err(|error| Failure::runtime(format!("--on-divergence: {error}")))?;
                Ok(ExitCode::SUCCESS)
            }
        }
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
    cli.run(log).unwrap_or_else(|failure| fail(&failure))
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
