//! Opens the ports of a lane, with the memory that their frames lie in.

use std::os::fd::AsFd as _;

use crossbeam_channel::Sender;

use super::Args;
use super::steering::Opened;
use crate::cli::Failure;
use crate::compare::Side;
use crate::kernel::FaultKind;
use crate::lane::Berth;
use crate::port::arena::Arena;
use crate::port::chardev::{ChardevPort, Direction, LinkError, Vnet};
use crate::port::spec::{ChardevSpec, PortSpec, XdpSpec};
use crate::port::xsk::{Region, RegionConfig, XskError, XskErrorKind, XskOptions, XskPort};
use crate::port::{Memory, MixedPort, Port};

/// Entries of each ring. Twice the window that PLATFORM measurements needed at full speed.
const RING: u32 = 2048;

/// Frames lent for receiving on the output device, which only sends: enough that a zero-copy
/// driver does not cut the host off from its queue.
const OUTPUT_RECEIVE: u32 = 64;

/// The ports of one lane.
pub(super) struct Ports<P: Port> {
    pub(super) store: P::Store,
    pub(super) inputs: Vec<Berth<P>>,
    pub(super) output: Berth<P>,
    /// The output is a device that takes frames from memory itself.
    pub(super) zero_copy_output: bool,
    /// What each port got, for people.
    pub(super) obtained: Vec<String>,
}

/// A port that is open, and what it got.
struct Found<P: Port> {
    berth: Berth<P>,
    zero_copy: bool,
    obtained: String,
}

impl From<XskError> for Failure {
    fn from(error: XskError) -> Self {
        let kind = match error.kind() {
            XskErrorKind::Privilege => FaultKind::Privilege,
            XskErrorKind::KernelFeature => FaultKind::KernelFeature,
            XskErrorKind::Device => FaultKind::Device,
            _ => FaultKind::Runtime,
        };
        Self::of(kind, error.to_string())
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let kind = if error.is_privilege() { FaultKind::Privilege } else { FaultKind::Device };
        Self::of(kind, error.to_string())
    }
}

/// Three sockets: ordinary memory will do, and no privilege is needed. `None` when a device is
/// among the ports.
pub(super) fn sockets(args: &Args) -> Result<Option<Ports<ChardevPort<Arena>>>, Failure> {
    let ports = (args.primary.chardev(), args.secondary.chardev(), args.out.chardev());
    let (Some(primary), Some(secondary), Some(out)) = ports else {
        return Ok(None);
    };
    let primary = socket(args, Some(Side::Primary), primary, |port| port)?;
    let secondary = socket(args, Some(Side::Secondary), secondary, |port| port)?;
    let output = socket(args, None, out, |port| port)?;
    let store = Arena::new(args.frames, args.frame_size as usize);
    Ok(Some(Ports::of(store, vec![primary, secondary], output)))
}

/// The memory for [`mixed`]. Making it takes longest of all.
pub(super) fn region(args: &Args) -> Result<Region, Failure> {
    Ok(Region::new(region_config(args))?)
}

/// Devices, and sockets among them: frames lie where the devices can address them.
pub(super) fn mixed(
    args: &Args,
    mut region: Region,
    opened: &Sender<Opened>,
) -> Result<Ports<MixedPort>, Failure> {
    let mut inputs = Vec::new();
    for (side, spec) in [(Side::Primary, &args.primary), (Side::Secondary, &args.secondary)] {
        match spec {
            PortSpec::Chardev(spec) => inputs.push(socket(args, Some(side), spec, in_region)?),
            PortSpec::Xdp(spec) => {
                for queue in spec.queues.clone() {
                    let options = XskOptions {
                        receive_frames: receive_share(args),
                        ..queue_options(spec, queue)
                    };
                    inputs.push(queue_port(Some(side), spec, options, &mut region, opened)?);
                }
            }
        }
    }
    let output = match &args.out {
        PortSpec::Chardev(spec) => socket(args, None, spec, in_region)?,
        PortSpec::Xdp(spec) => {
            let options = XskOptions {
                receive_frames: OUTPUT_RECEIVE,
                ..queue_options(spec, *spec.queues.start())
            };
            queue_port(None, spec, options, &mut region, opened)?
        }
    };
    Ok(Ports::of(region, inputs, output))
}

impl<P: Port> Ports<P> {
    fn of(store: P::Store, inputs: Vec<Found<P>>, output: Found<P>) -> Self {
        let obtained = inputs.iter().chain([&output]).map(|found| found.obtained.clone()).collect();
        Self {
            store,
            inputs: inputs.into_iter().map(|found| found.berth).collect(),
            zero_copy_output: output.zero_copy,
            output: output.berth,
            obtained,
        }
    }
}

fn in_region(port: ChardevPort<Region>) -> MixedPort {
    MixedPort::Chardev(Box::new(port))
}

/// Opens a socket. It comes back by itself, so a lane never has to open it again.
fn socket<S: Memory, P: Port<Store = S>>(
    args: &Args,
    side: Option<Side>,
    spec: &ChardevSpec,
    wrap: impl FnOnce(ChardevPort<S>) -> P,
) -> Result<Found<P>, Failure> {
    let direction = if side.is_some() { Direction::Receive } else { Direction::Send };
    let vnet = match (args.vnet_hdr, &args.primary) {
        (false, _) => Vnet::Off,
        (true, PortSpec::Chardev(_)) => Vnet::Carried,
        // The secondary's header is read and dropped, whatever the primary's kind.
        (true, PortSpec::Xdp(_)) => Vnet::Blank,
    };
    let port = ChardevPort::open(spec, direction, vnet)?;
    let role = if spec.server { "listening" } else { "connecting" };
    let headers = if args.vnet_hdr { ", vnet headers" } else { "" };
    let obtained = format!("{spec}: {role}{headers}");
    let reopen = |_: &mut S| Err("a socket is never closed for good".to_owned());
    Ok(Found { berth: Berth::new(side, wrap(port), Box::new(reopen)), zero_copy: false, obtained })
}

/// Opens one queue of a device now, and knows how to open it again.
fn queue_port(
    side: Option<Side>,
    spec: &XdpSpec,
    options: XskOptions,
    region: &mut Region,
    opened: &Sender<Opened>,
) -> Result<Found<MixedPort>, Failure> {
    let port = XskPort::open(region, options.clone())?;
    let zero_copy = port.obtained().zero_copy;
    let obtained = format!("{spec}: {}", port.obtained());
    let opened = side.map(|_| opened.clone());
    announce(&port, &options, opened.as_ref())?;
    let reopen = move |region: &mut Region| {
        let port = XskPort::open(region, options.clone()).map_err(|error| error.to_string())?;
        announce(&port, &options, opened.as_ref()).map_err(|failure| failure.message)?;
        Ok(MixedPort::Xsk(Box::new(port)))
    };
    let berth = Berth::new(side, MixedPort::Xsk(Box::new(port)), Box::new(reopen));
    Ok(Found { berth, zero_copy, obtained })
}

/// Hands a socket to the control side, to be steered to.
fn announce(
    port: &XskPort,
    options: &XskOptions,
    opened: Option<&Sender<Opened>>,
) -> Result<(), Failure> {
    if let Some(opened) = opened {
        let socket = port
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Failure::runtime(format!("{}: {error}", options.device)))?;
        // The receiver lives as long as the process supervises.
        let _ =
            opened.send(Opened { device: options.device.clone(), queue: options.queue, socket });
    }
    Ok(())
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
    let specs = [&args.primary, &args.secondary].into_iter().filter_map(PortSpec::xdp);
    let queues: usize = specs.map(|spec| spec.queues.clone().count()).sum();
    let users = u32::try_from(queues).unwrap_or(u32::MAX) + 1;
    (args.frames / 4 / users).clamp(1, RING)
}

fn queue_options(spec: &XdpSpec, queue: u32) -> XskOptions {
    XskOptions {
        zero_copy: spec.zero_copy,
        rx_ring: RING,
        tx_ring: RING,
        ..XskOptions::new(&spec.device, queue)
    }
}
