//! `colo-xdp ctl`: ask a running comparator or relay.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::Failure;
use crate::compare::Side;
use crate::control::{self, Request};

/// Ask a running comparator or relay, over its control socket.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colo-xdp ctl status                                         the comparator's counters
  colo-xdp ctl --control /run/colo-relay.sock failover        promote the secondary

A relay answers status, checkpoint, failover, rearm and log; it refuses the rest.")]
pub(super) struct Args {
    /// The control socket, as given to `run` or `relay`.
    #[arg(long, value_name = "PATH", default_value = "/run/colo-xdp.sock")]
    control: PathBuf,
    /// Print the answer as one line of JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counters, what is held, where the frames are.
    Status,
    /// Tracked flows (comparator).
    Flows {
        /// At most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// A checkpoint completed. Comparator: release what the primary has held, drop the secondary's.
    /// Relay: both guests' sequence numbers are the same from now on.
    Checkpoint,
    /// One side is lost. Comparator: release what the survivor has held and go on without comparing.
    /// Relay: put the secondary on the network in the primary's place.
    Failover {
        /// The side that goes on [default: primary for a comparator, secondary for a relay].
        #[arg(long, value_enum)]
        survivor: Option<Survivor>,
    },
    /// Two equal guests run again: compare, or relay.
    Rearm,
    /// What is logged to standard error from now on: off, error, warn, info, debug or trace, or per
    /// module, such as warn,compare_user::checkpoint=debug.
    Log { level: String },
    /// Flows that pass uncompared, in the kernel (comparator).
    Bypass {
        #[command(subcommand)]
        change: Bypass,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Survivor {
    Primary,
    Secondary,
}

#[derive(Debug, Subcommand)]
enum Bypass {
    /// Add a rule, such as proto=udp,addr=10.0.0.0/8,port=53,side=any.
    Add { rule: String },
    /// Delete a rule, written as it is listed.
    Del { rule: String },
    /// List the rules.
    List,
}

impl Command {
    fn request(&self) -> Request {
        match self {
            Self::Status => Request::Status,
            Self::Flows { limit } => Request::Flows { limit: *limit },
            Self::Checkpoint => Request::Checkpoint,
            Self::Failover { survivor } => Request::Failover {
                survivor: survivor.map(|survivor| match survivor {
                    Survivor::Primary => Side::Primary,
                    Survivor::Secondary => Side::Secondary,
                }),
            },
            Self::Rearm => Request::Rearm,
            Self::Log { level } => Request::Log { level: level.clone() },
            Self::Bypass { change: Bypass::Add { rule } } => {
                Request::BypassAdd { rule: rule.clone() }
            }
            Self::Bypass { change: Bypass::Del { rule } } => {
                Request::BypassDelete { rule: rule.clone() }
            }
            Self::Bypass { change: Bypass::List } => Request::BypassList,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let answer = control::ask(&args.control, &args.command.request()).map_err(|error| {
        Failure::runtime(format!(
            "{}: {error}; is `colo-xdp run` or `relay` running with this --control?",
            args.control.display()
        ))
    })?;
    let ok = answer["ok"] == Value::Bool(true);
    if args.json {
        println!("{answer}");
    } else if !ok {
        eprintln!("colo-xdp: refused: {}", answer["error"].as_str().unwrap_or("no reason given"));
    } else {
        print!("{}", plain(&answer, 0));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// An answer as indented lines of `name: value`.
fn plain(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !(depth == 0 && *name == "ok"))
            .map(|(name, value)| match value {
                Value::Object(_) | Value::Array(_) => {
                    format!("{indent}{name}:\n{}", plain(value, depth + 1))
                }
                _ => format!("{indent}{name}: {}\n", plain(value, depth)),
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::Object(_) => format!("{indent}-\n{}", plain(item, depth + 1)),
                _ => format!("{indent}- {}\n", plain(item, depth)),
            })
            .collect(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
