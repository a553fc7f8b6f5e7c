//! Puts a comparator together: programs, memory, ports, lane.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Args;
use super::steering::{Opened, Steering};
use crate::cli::Failure;
use crate::compare::{Comparator, Config, Side};
use crate::kernel::{Claim, Device, Pass};
use crate::lane::{Berth, Command, Lane, LaneOptions, Wiring};
use crate::observe::{Event, LaneStatus};
use crate::port::Port as _;
use crate::port::spec::XdpSpec;
use crate::port::xsk::{
    Obtained, Region, RegionConfig, XskError, XskErrorKind, XskOptions, XskPort,
};

/// Events that may wait for the supervisor; each is a divergence or a change of state.
const EVENTS: usize = 4096;

/// Entries of each ring. Twice the window that PLATFORM measurements needed at full speed.
const RING: u32 = 2048;

/// Frames lent for receiving on the output device, which only sends: enough that a zero-copy
/// driver does not cut the host off from its queue.
const OUTPUT_RECEIVE: u32 = 64;

/// Ethernet header and two VLAN tags, which the MTU does not count.
const LINK_HEADERS: usize = 14 + 2 * 4;

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
    thread: Option<JoinHandle<Box<LaneStatus>>>,
    /// Keeps other instances off the output device.
    _claim: Claim,
    /// Lets a zero-copy output device transmit.
    _pass: Option<Pass>,
}

impl LaneHandle {
    fn send(&self, command: Command) -> Result<(), String> {
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

    /// Ends the lane and returns its last word.
    pub(super) fn stop(&mut self) -> Result<Box<LaneStatus>, Failure> {
        // A lane that has ended by itself panicked; joining tells.
        let _ = self.send(Command::Stop);
        let thread = self.thread.take().ok_or_else(|| Failure::runtime("stopped twice"))?;
        thread.join().map_err(|_| Failure::runtime("the lane panicked; see the message above"))
    }
}

impl From<XskError> for Failure {
    fn from(error: XskError) -> Self {
        use crate::kernel::FaultKind;
        let kind = match error.kind() {
            XskErrorKind::Privilege => FaultKind::Privilege,
            XskErrorKind::KernelFeature => FaultKind::KernelFeature,
            XskErrorKind::Device => FaultKind::Device,
            _ => FaultKind::Runtime,
        };
        Self::of(kind, error.to_string())
    }
}

/// Attaches the programs, opens the ports and starts the lane. Frames are steered from the
/// moment the sockets are registered; before that they go where `--on-exit` says.
pub(super) fn assemble(args: &Args) -> Result<Assembled, Failure> {
    for spec in [&args.primary, &args.secondary] {
        Device::find(&spec.device)?;
    }
    let output = Device::find(&args.out.device)?;
    let claim = Claim::take(&args.out.device)?;
    // Making the memory takes longest. Until it is there, a running guest is not disturbed.
    let mut region = Region::new(region_config(args))?;
    let mut steering = Steering::attach(args)?;
    let mut obtained: Vec<String> = Vec::new();
    let mut inputs = Vec::new();
    for (side, spec) in [(Side::Primary, &args.primary), (Side::Secondary, &args.secondary)] {
        for queue in spec.queues.clone() {
            let options =
                XskOptions { receive_frames: receive_share(args), ..port_options(spec, queue) };
            let berth = open(Some(side), options, &mut region, &steering.opener)?;
            obtained.push(format!("{spec}: {}", berth.1));
            inputs.push(berth.0);
        }
    }
    let options = XskOptions {
        receive_frames: OUTPUT_RECEIVE,
        ..port_options(&args.out, *args.out.queues.start())
    };
    let (out, out_obtained) = open(None, options, &mut region, &steering.opener)?;
    let pass = out_obtained.zero_copy.then(|| Pass::attach(&output)).transpose()?;
    obtained.push(format!("{}: {out_obtained}", args.out));
    obtained.extend(steering.obtained().map(|(device, mode)| format!("steer on {device}: {mode}")));
    let (lane, events) = start(args, region, inputs, out, output.mtu as usize, claim, pass)?;
    steering.register_opened()?;
    Ok(Assembled { steering, lane, events, obtained })
}

fn region_config(args: &Args) -> RegionConfig {
    RegionConfig {
        frames: args.frames,
        frame_size: args.frame_size,
        fill_ring: RING,
        completion_ring: RING,
        huge_pages: false,
    }
}

/// Three quarters of the memory may be held; the rest is shared by the receiving queues and what
/// is being sent.
fn receive_share(args: &Args) -> u32 {
    let queues = args.primary.queues.clone().count() + args.secondary.queues.clone().count();
    let users = u32::try_from(queues).unwrap_or(u32::MAX) + 1;
    (args.frames / 4 / users).clamp(1, RING)
}

fn port_options(spec: &XdpSpec, queue: u32) -> XskOptions {
    XskOptions {
        zero_copy: spec.zero_copy,
        rx_ring: RING,
        tx_ring: RING,
        ..XskOptions::new(&spec.device, queue)
    }
}

/// Opens a port now, and knows how to open it again.
fn open(
    side: Option<Side>,
    options: XskOptions,
    region: &mut Region,
    opened: &Sender<Opened>,
) -> Result<(Berth<XskPort>, Obtained), Failure> {
    let port = XskPort::open(region, options.clone())?;
    let obtained = port.obtained().clone();
    let opened = side.map(|_| opened.clone());
    announce(&port, &options, opened.as_ref())?;
    let reopen = move |region: &mut Region| {
        let port = XskPort::open(region, options.clone()).map_err(|error| error.to_string())?;
        announce(&port, &options, opened.as_ref()).map_err(|failure| failure.message)?;
        Ok(port)
    };
    Ok((Berth::new(side, port, Box::new(reopen)), obtained))
}

/// Hands a socket to the control side, to be steered to.
fn announce(
    port: &XskPort,
    options: &XskOptions,
    opened: Option<&Sender<Opened>>,
) -> Result<(), Failure> {
    if let Some(opened) = opened {
        let descriptor: BorrowedFd<'_> = port.descriptor();
        let socket = descriptor
            .try_clone_to_owned()
            .map_err(|error| Failure::runtime(format!("{}: {error}", options.device)))?;
        // The receiver lives as long as the process supervises.
        let _ =
            opened.send(Opened { device: options.device.clone(), queue: options.queue, socket });
    }
    Ok(())
}

fn start(
    args: &Args,
    region: Region,
    inputs: Vec<Berth<XskPort>>,
    output: Berth<XskPort>,
    mtu: usize,
    claim: Claim,
    pass: Option<Pass>,
) -> Result<(LaneHandle, Receiver<Event>), Failure> {
    let internal = |error: nix::Error| Failure::runtime(format!("making an eventfd: {error}"));
    let doorbell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map(Arc::new)
        .map_err(internal)?;
    let (commands, orders) = crossbeam_channel::unbounded();
    let (events, heard) = crossbeam_channel::bounded(EVENTS);
    let wiring = Wiring { commands: orders, doorbell: Arc::clone(&doorbell), events };
    let options = LaneOptions {
        polling: args.polling(),
        compare: args.compare == super::OnOff::On,
        longest: mtu + LINK_HEADERS,
    };
    let comparator = Comparator::new(comparator_config(args));
    let core = args.core;
    let thread = std::thread::Builder::new()
        .name("lane".into())
        .spawn(move || {
            if let Some(id) = core
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                tracing::warn!(core = id, "the lane could not be pinned");
            }
            Lane::new(region, inputs, output, comparator, options, wiring).run()
        })
        .map_err(|error| Failure::runtime(format!("starting the lane: {error}")))?;
    let handle =
        LaneHandle { commands, doorbell, thread: Some(thread), _claim: claim, _pass: pass };
    Ok((handle, heard))
}

fn comparator_config(args: &Args) -> Config {
    Config {
        queue_limit: args.max_queue_size,
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
