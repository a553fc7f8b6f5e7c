//! Puts a comparator together: programs, memory, ports, lane.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Args;
use super::ports::{self, Ports};
use super::steering::Steering;
use crate::cli::Failure;
use crate::compare::{Comparator, Config};
use crate::kernel::{Claim, Device, FaultKind, Passing};
use crate::lane::{Command, Lane, LaneOptions, Presence, Wiring};
use crate::observe::{Event, LaneStatus};
use crate::port::Port;
use crate::port::spec::{PortSpec, XdpSpec};
use crate::privilege;

/// Events that may wait for the supervisor; each is a divergence or a change of state.
const EVENTS: usize = 4096;

/// Ethernet header: no device sends less.
const ETHERNET_HEADER: usize = 14;

/// Ethernet header and two VLAN tags, which the MTU does not count.
const LINK_HEADERS: usize = ETHERNET_HEADER + 2 * 4;

/// How long a lane with devices spins without work before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// A comparator that runs.
pub(super) struct Assembled {
    pub(super) steering: Steering,
    pub(super) lane: LaneHandle,
    pub(super) events: Receiver<Event>,
    /// What each port got, for people.
    pub(super) obtained: Vec<String>,
}

/// The control side's end of a lane.
pub(super) struct LaneHandle {
    commands: Sender<Command>,
    doorbell: Arc<EventFd>,
    /// Whether the secondary's frames can come.
    pub(super) secondary: Arc<Presence>,
    thread: Option<JoinHandle<Box<LaneStatus>>>,
    held: Held,
}

/// What a lane needs its output device to be while it runs.
#[derive(Default)]
struct Held {
    /// Keeps other instances off the queue.
    _claim: Option<Claim>,
    /// Lets a zero-copy device transmit.
    passing: Option<Passing>,
}

impl LaneHandle {
    /// Sends a command and does not wait.
    pub(super) fn send(&self, command: Command) -> Result<(), String> {
        self.commands.send(command).map_err(|_| "the lane has ended".to_owned())?;
        // A full doorbell has been rung already.
        let _ = self.doorbell.write(1);
        Ok(())
    }

    /// Sends a command and waits for its answer.
    pub(super) fn ask<T>(
        &self,
        command: impl FnOnce(Sender<T>) -> Command,
        patience: Duration,
    ) -> Result<T, String> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(command(reply))?;
        answer.recv_timeout(patience).map_err(|_| "the lane does not answer".to_owned())
    }

    /// Sees to it that the output can go on sending, whatever became of its device and of others
    /// who use it.
    pub(super) fn tend_output(&mut self) {
        if let Some(passing) = &mut self.held.passing
            && let Err(error) = passing.tend()
        {
            tracing::warn!(%error, "the output's XDP program");
        }
    }

    /// Ends the lane and returns its last word.
    pub(super) fn stop(&mut self) -> Result<Box<LaneStatus>, Failure> {
        // A lane that has ended by itself panicked; joining tells.
        let _ = self.send(Command::Stop);
        let thread = self.thread.take().ok_or_else(|| Failure::runtime("stopped twice"))?;
        thread.join().map_err(|_| Failure::runtime("the lane panicked; see the message above"))
    }
}

/// Attaches the programs, opens the ports and starts the lane. Frames are steered from the
/// moment the sockets are registered; before that they go where `--on-exit` says.
pub(super) fn assemble(args: &Args) -> Result<Assembled, Failure> {
    if let Some(mut ports) = ports::sockets(args)? {
        let obtained = std::mem::take(&mut ports.obtained);
        let (lane, events) = start(args, ports, 0..=usize::MAX, Held::default())?;
        return Ok(Assembled { steering: Steering::attach(args)?, lane, events, obtained });
    }
    let (output, claim) = match args.out.xdp() {
        Some(spec) => {
            let (device, claim) = take_output(spec)?;
            (Some(device), Some(claim))
        }
        None => (None, None),
    };
    for spec in [&args.primary, &args.secondary].into_iter().filter_map(|port| port.xdp()) {
        Device::find(&spec.device)?;
    }
    // Until the memory is there, a running guest is not disturbed.
    let region = ports::region(args)?;
    let mut steering = Steering::attach(args)?;
    let mut ports = ports::mixed(args, region, &steering.opener)?;
    let mut obtained = std::mem::take(&mut ports.obtained);
    obtained.extend(steering.obtained().map(|(device, mode)| format!("steer on {device}: {mode}")));
    obtained.extend(steering.mirror_obtained());
    let lengths = output.as_ref().map_or(0..=usize::MAX, |device| {
        ETHERNET_HEADER..=ports.store.longest_sent().min(device.mtu as usize + LINK_HEADERS)
    });
    let passing = output
        .filter(|_| ports.zero_copy_output)
        .map(|device| Passing::ensure(&device))
        .transpose()?;
    let (lane, events) = start(args, ports, lengths, Held { _claim: claim, passing })?;
    steering.register_opened()?;
    Ok(Assembled { steering, lane, events, obtained })
}

/// The output's device, with the queue that is sent on to this process alone.
fn take_output(spec: &XdpSpec) -> Result<(Device, Claim), Failure> {
    let device = Device::find(&spec.device)?;
    let (queue, queues) = (*spec.queues.start(), device.tx_queues);
    if queue >= queues {
        // The kernel would bind the socket, and refuse each transmission.
        let (name, wanted) = (&device.name, u64::from(queue) + 1);
        return Err(Failure::of(
            FaultKind::Device,
            format!(
                "{name} sends on {queues} queues, so there is no queue {queue} to send on: see \
                 `ethtool -l {name}`; `ethtool -L {name} combined {wanted}` (or tx) may add some"
            ),
        ));
    }
    let claim = Claim::take_queue(&device.name, queue)?;
    Ok((device, claim))
}

/// `lengths` are those of frames that the output takes.
fn start<P>(
    args: &Args,
    ports: Ports<P>,
    lengths: RangeInclusive<usize>,
    held: Held,
) -> Result<(LaneHandle, Receiver<Event>), Failure>
where
    P: Port + Send + 'static,
    P::Store: Send,
    <P::Store as crate::frame::FrameStore>::Frame: Send,
{
    let internal = |error: nix::Error| Failure::runtime(format!("making an eventfd: {error}"));
    let doorbell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map(Arc::new)
        .map_err(internal)?;
    let (commands, orders) = crossbeam_channel::unbounded();
    let (events, heard) = crossbeam_channel::bounded(EVENTS);
    let secondary = Arc::new(Presence::default());
    let wiring = Wiring {
        commands: orders,
        doorbell: Arc::clone(&doorbell),
        events,
        secondary: Arc::clone(&secondary),
    };
    let options = lane_options(args, lengths);
    let config = comparator_config(args);
    let (core, role) = (args.core, args.lane_role());
    let thread = std::thread::Builder::new()
        .name("lane".into())
        .spawn(move || {
            if let Some(id) = core
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                tracing::warn!(core = id, "the lane could not be pinned");
            }
            privilege::confine_or_exit(role);
            let Ports { store, inputs, output, .. } = ports;
            let comparator = Comparator::new(config);
            Lane::new(store, inputs, output, comparator, options, wiring, Instant::now()).run()
        })
        .map_err(|error| Failure::runtime(format!("starting the lane: {error}")))?;
    let thread = Some(thread);
    Ok((LaneHandle { commands, doorbell, secondary, thread, held }, heard))
}

fn lane_options(args: &Args, lengths: RangeInclusive<usize>) -> LaneOptions {
    let is_socket = |port: &PortSpec| port.chardev().is_some();
    let all_sockets = [&args.primary, &args.secondary, &args.out].into_iter().all(is_socket);
    LaneOptions {
        polling: args.polling(),
        compare: args.compare == super::OnOff::On,
        lengths,
        // Whoever takes the header along with the frame learns from it what is left to do.
        complete_checksums: !(args.vnet_hdr && is_socket(&args.primary) && is_socket(&args.out)),
        // A socket wakes its reader cheaply; spinning would only take time from its peers.
        spin: if all_sockets { Duration::ZERO } else { SPIN },
    }
}

fn comparator_config(args: &Args) -> Config {
    Config {
        queue_limit: args.max_queue_size(),
        flow_limit: args.max_flows,
        held_limit: args.frames / 4 * 3,
        compare_timeout: args.compare_timeout,
        request_interval: args.expired_scan_cycle,
        reorder_grace: args.reorder_grace,
        ack_gate: args.ack_gate(),
        seed: random_seed(),
    }
}

/// A seed that a client cannot know: what the standard library seeds its maps with.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}
