//! The pair at work: comparator with its mirror on one host, relay on the other, services in both
//! guests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::network::{GUEST_MAC, Host, Network, Plan, Side};
use super::wire::Direction;
use crate::Result;
use crate::comparator::{Comparator, Launch};
use crate::control::Status;
use crate::namespace::Namespace;
use crate::program::{Outcome, Program, binary};
use crate::relay::{Relay, RelayLaunch};
use crate::service::Services;

/// How long frames may go on being held after a test has all its answers: what came late still
/// finds its partner, or is found out as a divergence after the comparator's timeout of 3 s.
const SETTLING: Duration = Duration::from_secs(6);

/// A pair that is about to be started.
#[derive(Debug, Clone)]
pub struct PairLaunch {
    plan: Plan,
    binary: PathBuf,
    comparator: Vec<String>,
    relay: Vec<String>,
    learn: bool,
}

impl PairLaunch {
    /// On a network of this plan. Both sides are told the guest's Ethernet address.
    #[must_use]
    pub fn on(plan: Plan) -> Self {
        Self { plan, binary: binary(), comparator: Vec::new(), relay: Vec::new(), learn: false }
    }

    /// Another binary than [`binary`] names.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.binary);
        self
    }

    /// With more arguments for `colo-xdp run`.
    #[must_use]
    pub fn comparator(mut self, arguments: &[&str]) -> Self {
        self.comparator.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// With more arguments for `colo-xdp relay`.
    #[must_use]
    pub fn relay(mut self, arguments: &[&str]) -> Self {
        self.relay.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Neither side is told the guest's Ethernet address.
    #[must_use]
    pub fn learning(mut self) -> Self {
        self.learn = true;
        self
    }

    /// How the relay of `network` is started.
    #[must_use]
    pub fn relay_launch(&self, network: &Network) -> RelayLaunch {
        let host = &network.secondary;
        RelayLaunch::between(&host.guest_device, &host.link)
            .binary(&self.binary)
            .nic(&host.nic)
            .arguments(&self.both(network, Side::Secondary))
            .arguments(&self.relay)
    }

    /// How the comparator of `network` is started.
    #[must_use]
    pub fn comparator_launch(&self, network: &Network) -> Launch {
        let host = &network.primary;
        let arguments = [
            vec!["--mirror".to_owned(), host.nic.clone()],
            self.both(network, Side::Primary),
            self.comparator.clone(),
        ]
        .concat();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Launch::between_devices([&host.guest_device, &host.link, &host.nic])
            .binary(&self.binary)
            .arguments(&arguments)
    }

    /// What both sides take.
    fn both(&self, network: &Network, side: Side) -> Vec<String> {
        let mac = (!self.learn).then(|| vec!["--guest-mac".to_owned(), GUEST_MAC.to_owned()]);
        let vxlan = network.vxlan(side).map(|vxlan| vec!["--vxlan".to_owned(), vxlan]);
        [mac, vxlan].into_iter().flatten().flatten().collect()
    }

    /// Builds the network and starts everything on it.
    ///
    /// # Errors
    /// As [`Network::new`] and [`PairLaunch::start_on`].
    pub fn start(self) -> Result<Pair> {
        let network = Network::new(self.plan)?;
        self.start_on(network)
    }

    /// Starts everything on `network`, which takes the place of the plan.
    ///
    /// # Errors
    /// As [`RelayLaunch::start`], [`Launch::start`] and [`Services::start`].
    pub fn start_on(self, network: Network) -> Result<Pair> {
        // The relay first: its program on the link is what lets the link take mirrored frames.
        let relay = self.relay_launch(&network).start(&network.secondary.namespace)?;
        let comparator = self.comparator_launch(&network).start(&network.primary.namespace)?;
        Ok(Pair {
            launch: self,
            comparator: Some(comparator),
            relay: Some(relay),
            primary: Services::start(&network.primary.guest)?,
            secondary: Services::start(&network.secondary.guest)?,
            network,
        })
    }
}

/// The pair, running. Dropping it kills both programs; [`Pair::finish`] ends them properly and
/// checks the books.
#[derive(Debug)]
pub struct Pair {
    launch: PairLaunch,
    // In this order: programs end before what they work on.
    comparator: Option<Comparator>,
    relay: Option<Relay>,
    /// What runs on the primary guest.
    pub primary: Services,
    /// What runs on the secondary guest.
    pub secondary: Services,
    /// Hosts, guests, client.
    pub network: Network,
}

/// How a pair ended: none for a program that was lost on the way.
#[derive(Debug)]
pub struct Ended {
    /// The comparator.
    pub comparator: Option<Outcome>,
    /// The relay.
    pub relay: Option<Outcome>,
}

impl Ended {
    /// Expects that the comparator never found anything to complain about.
    ///
    /// # Errors
    /// When it did, or was lost.
    pub fn check_identical(&self) -> Result {
        let comparator = self.comparator.as_ref().context("the comparator was lost")?;
        let summary = &comparator.summary;
        for counter in ["divergences", "checkpoint_requests"] {
            let count = summary.count(counter);
            ensure!(
                count == 0,
                "{counter} is {count}, between identical guests: {}\n{:?}",
                summary.0,
                comparator.unread
            );
        }
        ensure!(summary.count("matched") > 0, "nothing was compared: {}", summary.0);
        Ok(())
    }
}

impl Pair {
    /// A pair on this network, with these arguments for `colo-xdp run`.
    ///
    /// # Errors
    /// As [`PairLaunch::start`].
    pub fn new(plan: Plan, comparator: &[&str]) -> Result<Self> {
        PairLaunch::on(plan).comparator(comparator).start()
    }

    /// Where the client is.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.network.client
    }

    /// The comparator.
    ///
    /// # Panics
    /// When it was lost.
    pub fn comparator(&mut self) -> &mut Comparator {
        self.comparator.as_mut().expect("the comparator was not lost")
    }

    /// The relay.
    ///
    /// # Panics
    /// When it was lost.
    pub fn relay(&mut self) -> &mut Relay {
        self.relay.as_mut().expect("the relay was not lost")
    }

    /// Tells both programs that the guests are equal now, and waits until both have acted on it.
    ///
    /// # Errors
    /// When either does not.
    pub fn checkpoint(&mut self) -> Result {
        checkpoint(self.relay())?;
        checkpoint(self.comparator())
    }

    /// Tells only the comparator so: what is held leaves, while the secondary's connections keep
    /// the numbers that they have. For guests that no checkpoint has really made equal.
    ///
    /// # Errors
    /// When it does not act on it.
    pub fn release(&mut self) -> Result {
        checkpoint(self.comparator())
    }

    /// The comparator crashes.
    ///
    /// # Errors
    /// When it is lost already.
    pub fn kill_comparator(&mut self) -> Result {
        self.comparator.take().context("it was lost before")?.kill()
    }

    /// Ends [`Pair::kill_comparator`]: another one is started on the same devices.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn restart_comparator(&mut self) -> Result {
        let launch = self.launch.comparator_launch(&self.network);
        self.comparator = Some(launch.start(&self.network.primary.namespace)?);
        Ok(())
    }

    /// The relay crashes.
    ///
    /// # Errors
    /// When it is lost already.
    pub fn kill_relay(&mut self) -> Result {
        self.relay.take().context("it was lost before")?.kill()
    }

    /// Ends [`Pair::kill_relay`]: another one is started on the same devices.
    ///
    /// # Errors
    /// As [`RelayLaunch::start`].
    pub fn restart_relay(&mut self) -> Result {
        let launch = self.launch.relay_launch(&self.network);
        self.relay = Some(launch.start(&self.network.secondary.namespace)?);
        Ok(())
    }

    /// The secondary host loses power.
    ///
    /// # Errors
    /// When it has lost it already.
    pub fn lose_secondary(&mut self) -> Result {
        lose(self.relay.take().map(Relay::kill), &self.network.secondary)
    }

    /// The primary host loses power.
    ///
    /// # Errors
    /// When it has lost it already.
    pub fn lose_primary(&mut self) -> Result {
        lose(self.comparator.take().map(Comparator::kill), &self.network.primary)
    }

    /// Waits until the comparator holds nothing any more.
    ///
    /// # Errors
    /// When that does not come about by itself.
    pub fn settle(&mut self) -> Result<Status> {
        let nothing_held = |status: &Status| status.count("held") == 0;
        self.comparator().control().await_status("held = 0", SETTLING, nothing_held)
    }

    /// Ends both programs that are left, and checks what must hold after every test: nothing is
    /// held, every frame is accounted for, none is lost, no program stays behind on a device.
    ///
    /// But for those that came while the rings of an input were full: a sender that finds the
    /// limit of a path by filling its queues (RFC 9438) finds these too, and sends them again.
    ///
    /// # Errors
    /// When one of these does not hold.
    pub fn finish(self) -> Result<Ended> {
        self.end(true)
    }

    /// As [`Pair::finish`], after a test that made the comparator lose frames.
    ///
    /// # Errors
    /// As [`Pair::finish`].
    pub fn finish_despite_loss(self) -> Result<Ended> {
        self.end(false)
    }

    fn end(mut self, nothing_lost: bool) -> Result<Ended> {
        let comparator = match self.comparator.is_some() {
            true => Some(self.end_comparator(nothing_lost)?),
            false => None,
        };
        let relay = self.relay.take().map(Relay::stop).transpose()?;
        let ended = [(Side::Primary, comparator.is_some()), (Side::Secondary, relay.is_some())];
        for (side, _) in ended.iter().filter(|(_, properly)| *properly) {
            self.network.host(*side).expect_no_programs()?;
        }
        Ok(Ended { comparator, relay })
    }

    fn end_comparator(&mut self, nothing_lost: bool) -> Result<Outcome> {
        self.settle()?.check_conservation()?;
        let comparator = self.comparator.take().context("the comparator was lost")?;
        let outcome = comparator.end_with(nix::sys::signal::Signal::SIGTERM)?;
        outcome.check_exit()?;
        let summary = &outcome.summary;
        let unaccounted = summary.count("frames_unaccounted");
        ensure!(unaccounted == 0, "{unaccounted} frames are unaccounted for: {}", summary.0);
        if nothing_lost {
            let (lost, overflowed) = (summary.count("lost"), overflowed(&summary.0));
            ensure!(lost == overflowed, "{lost} lost, {overflowed} at full rings: {}", summary.0);
        }
        Ok(outcome)
    }
}

/// Frames that the kernel had no room for in the rings of the inputs.
fn overflowed(summary: &Value) -> u64 {
    let ports = summary["ports"].as_array().into_iter().flatten();
    let kernel =
        ports.filter(|port| port["role"] != "out").map(|port| &port["statistics"]["kernel"]);
    let full = kernel.flat_map(|kernel| [&kernel["fill_ring_empty"], &kernel["rx_ring_full"]]);
    full.filter_map(Value::as_u64).sum()
}

impl Drop for Pair {
    /// Here with a program still running because a test failed half-way: says how things stand.
    #[allow(clippy::print_stderr, reason = "it belongs to the report of a failing test")]
    fn drop(&mut self) {
        let programs = [
            self.comparator.as_deref().map(|it| ("comparator", it)),
            self.relay.as_deref().map(|it| ("relay", it)),
        ];
        let running: Vec<_> = programs.into_iter().flatten().collect();
        if running.is_empty() {
            return;
        }
        for (name, program) in running {
            match program.status() {
                Ok(status) => eprintln!("{name}: {}", status.0),
                Err(error) => eprintln!("{name}: {error:#}"),
            }
        }
        if let Some(Ok(flows)) = self.comparator.as_ref().map(|it| it.control().call(&["flows"])) {
            eprintln!("flows: {flows}");
        }
        let network = &self.network;
        for (name, namespace) in [
            ("client", &network.client),
            ("primary guest", &network.primary.guest),
            ("secondary guest", &network.secondary.guest),
        ] {
            if let Ok(sockets) = namespace.command("ss", &["-Htnio"]) {
                eprintln!("{name}:\n{}", String::from_utf8_lossy(&sockets.stdout));
            }
        }
        for (name, wire) in network.wires() {
            let carried = Direction::BOTH.map(|direction| wire.carried(direction));
            eprintln!("wire {name}: {carried:?}");
        }
    }
}

fn checkpoint(program: &mut Program) -> Result {
    program.control().call(&["checkpoint"])?;
    program.event("checkpoint-done")?;
    Ok(())
}

fn lose(killed: Option<Result>, host: &Host) -> Result {
    killed.context("it was lost before")??;
    host.power_off()
}
