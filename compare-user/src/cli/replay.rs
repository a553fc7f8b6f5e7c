//! `colo-xdp replay`: compare two captures offline.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::observe::DivergenceReport;
use crate::port::pcap::CaptureError;
use crate::replay::{self, FlowVerdict, Verdict};

/// Equal flows listed one by one; more are only counted.
const LISTED: usize = 50;

/// Compare two captures offline; needs no privileges.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Captures are pcap or pcapng, Ethernet, of each guest's egress. Frames that a guest would receive
in the same capture are compared too if both captures have them.

Example:
  tcpdump -i tap0 -w primary.pcap inbound
  colo-xdp replay primary.pcap secondary.pcap")]
pub(super) struct Args {
    /// Capture of the primary's output.
    primary: PathBuf,
    /// Capture of the secondary's output.
    secondary: PathBuf,
    /// Print the verdict as one JSON object.
    #[arg(long)]
    json: bool,
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        Self::runtime(error.to_string())
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let verdict = replay::replay(&args.primary, &args.secondary)?;
    if args.json {
        let text =
            serde_json::to_string(&verdict).map_err(|error| Failure::runtime(error.to_string()))?;
        println!("{text}");
    } else {
        print(&verdict);
    }
    Ok(if verdict.equal { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print(verdict: &Verdict) {
    let (equal, different): (Vec<_>, Vec<_>) = verdict.flows.iter().partition(|flow| flow.equal);
    for flow in equal.iter().take(LISTED) {
        println!("equal      {}", counted(flow));
    }
    if equal.len() > LISTED {
        println!("           ... and {} more equal flows", equal.len() - LISTED);
    }
    for flow in &different {
        println!("DIFFERENT  {}", counted(flow));
        if let Some(report) = &flow.divergence {
            println!("  {}", first_difference(report));
        }
    }
    if verdict.cut > 0 {
        println!("note: {} packets were cut by the capture's snap length", verdict.cut);
    }
    println!(
        "{}: {} of {} flows equal; {} frames against {}, {} not compared",
        if verdict.equal { "EQUAL" } else { "DIFFERENT" },
        equal.len(),
        verdict.flows.len(),
        verdict.counters.primary_received,
        verdict.counters.secondary_received,
        verdict.counters.passed + verdict.counters.malformed,
    );
}

fn counted(flow: &FlowVerdict) -> String {
    let aligned = if flow.aligned { ", initial sequence numbers aligned" } else { "" };
    format!(
        "{} ({} frames against {}{aligned})",
        flow.flow, flow.primary_frames, flow.secondary_frames
    )
}

fn first_difference(report: &DivergenceReport) -> String {
    let text = report.to_string();
    if replay::is_unmatched(report) {
        let at = report.offset;
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        return format!(
            "from byte {at} on, the {} has output that the other capture lacks\n{rest}",
            match report.side {
                crate::compare::Side::Primary => "primary",
                crate::compare::Side::Secondary => "secondary",
            }
        );
    }
    // The flow stands in the line above.
    text.split_once(": ").map_or(text.clone(), |(_, rest)| rest.to_owned())
}
