//! What is between client and guest.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use colo_tests::control::Status;
use colo_tests::pair::{Network, Pair, PairLaunch, Plan};
use colo_tests::process::processor_time;
use colo_tests::service::Services;
use colo_tests::{Namespace, Result};
use serde_json::{Value, json};

use crate::processor::Machine;

/// What runs on the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// A bridge on the primary host, and no secondary: what there is without COLO.
    Plain,
    /// The proxy after a failover to the primary: XDP forwards both ways, nothing goes to the
    /// secondary, the comparator has no part in it.
    Standalone,
    /// The proxy with both guests, without comparison: the primary's frames leave as they come
    /// out of the rings, the secondary's are dropped.
    Forwarding,
    /// The proxy at work.
    Comparing,
}

impl FromStr for Variant {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "plain" => Self::Plain,
            "standalone" => Self::Standalone,
            "forwarding" => Self::Forwarding,
            "comparing" => Self::Comparing,
            other => bail!("no variant is called {other}"),
        })
    }
}

/// The scene, ready for its loads.
pub(crate) enum Path {
    /// With a bridge.
    Plain { network: Box<Network>, _services: Services },
    /// With colo-xdp.
    Proxy { pair: Box<Pair>, comparator: u32, variant: Variant },
}

impl Path {
    /// Builds it; the comparator gets the options in `run` beside those of the variant.
    pub(crate) fn open(variant: Variant, run: &[String]) -> Result<Self> {
        let arguments: &[&str] = match variant {
            Variant::Plain => {
                let network = Box::new(Network::new(Plan::default())?);
                network.forward_plainly()?;
                let services = Services::start(&network.primary.guest)?;
                return Ok(Self::Plain { network, _services: services });
            }
            Variant::Standalone => &["--standalone"],
            Variant::Forwarding => &["--compare", "off"],
            Variant::Comparing => &[],
        };
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let launch = PairLaunch::on(Plan::default()).comparator(arguments).comparator(&run);
        let mut pair = Box::new(launch.start()?);
        let comparator = pair.comparator().id();
        Ok(Self::Proxy { pair, comparator, variant })
    }

    fn network(&self) -> &Network {
        match self {
            Self::Plain { network, .. } => network,
            Self::Proxy { pair, .. } => &pair.network,
        }
    }

    pub(crate) fn client(&self) -> &Namespace {
        &self.network().client
    }

    /// What has been used up to now.
    pub(crate) fn gauge(&self) -> Result<Gauge> {
        let network = self.network();
        let mut retransmitted = 0;
        for station in [&network.client, &network.primary.guest] {
            retransmitted += station.tcp_counter("RetransSegs")?;
        }
        let comparator = match self {
            Self::Plain { .. } => Duration::ZERO,
            Self::Proxy { comparator, .. } => processor_time(*comparator)?,
        };
        Ok(Gauge { at: Instant::now(), retransmitted, comparator, machine: Machine::now()? })
    }

    /// Ends it. Returns what the comparator has counted, after a look at whether the frames took
    /// the path that the variant means; null without a comparator.
    pub(crate) fn close(self) -> Result<Value> {
        let Self::Proxy { mut pair, variant, .. } = self else { return Ok(Value::Null) };
        let status = pair.settle()?;
        check_path(&status, variant)?;
        let ended = pair.finish_despite_loss()?;
        let Some(comparator) = ended.comparator else { bail!("the comparator was lost") };
        Ok(books(&status, comparator.summary.count("frames_unaccounted")))
    }

    /// Ends it after its load got stuck, as it comes. Returns what the comparator had counted.
    pub(crate) fn abandon(self) -> Result<Value> {
        let Self::Proxy { mut pair, .. } = self else { return Ok(Value::Null) };
        let status = pair.comparator().status()?;
        Ok(books(&status, status.count("frames.unaccounted")))
    }
}

/// Expects that the frames went where the variant says.
fn check_path(status: &Status, variant: Variant) -> Result {
    let (mirrored, alone) = (mirror(status, "mirrored"), mirror(status, "primary_only"));
    let compared = status.count("matched") + status.count("primary_received");
    let as_meant = match variant {
        Variant::Plain => true,
        Variant::Standalone => mirrored == 0 && alone > 0 && compared == 0,
        Variant::Forwarding => mirrored > 0 && alone == 0 && status.count("matched") == 0,
        Variant::Comparing => mirrored > 0 && alone == 0 && status.count("matched") > 0,
    };
    ensure!(as_meant, "the frames did not take the way of {variant:?}: {}", status.0);
    Ok(())
}

/// Frames that the mirror counted under one outcome.
fn mirror(status: &Status, outcome: &str) -> u64 {
    status.0["mirror"]["outcomes"][outcome]["packets"].as_u64().unwrap_or(0)
}

/// The counters that say whether all went well, and which way the acknowledgements went.
fn books(status: &Status, unaccounted: u64) -> Value {
    let mut books = json!({ "unaccounted": unaccounted });
    for counter in ["divergences", "checkpoint_requests", "lost", "matched"] {
        books[counter] = status.count(counter).into();
    }
    // For whoever looks into a trial; no figure of the report follows from them.
    for counter in ["acknowledged_by_secondary", "superseded"] {
        books[counter] = status.0[counter].clone();
    }
    // Frames that the kernel had no room for, by the device's role.
    for port in status.0["ports"].as_array().into_iter().flatten() {
        let role = port["role"].as_str().unwrap_or("port");
        books[format!("{role}_dropped_by_kernel")] = port["kernel_dropped"].clone();
    }
    books
}

/// Counts and times up to a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauge {
    at: Instant,
    retransmitted: u64,
    comparator: Duration,
    machine: Machine,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// Segments that the client and the primary sent again.
    retransmitted: u64,
    /// Processor time of the comparator's process, as a share of one core.
    comparator: f64,
    /// The share of all cores that was busy.
    machine: f64,
}

impl Used {
    pub(crate) fn json(self) -> Value {
        json!({
            "retransmitted_segments": self.retransmitted,
            "comparator_core_share": self.comparator,
            "machine_busy_share": self.machine,
        })
    }
}

impl Gauge {
    pub(crate) fn since(self, before: &Self) -> Used {
        let took = self.at.duration_since(before.at).as_secs_f64();
        Used {
            retransmitted: self.retransmitted - before.retransmitted,
            comparator: (self.comparator - before.comparator).as_secs_f64() / took,
            machine: self.machine.busy_since(before.machine),
        }
    }
}
