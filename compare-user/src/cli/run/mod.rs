//! `colo-xdp run`: compare two guests' egress and release what matches.

mod assembly;
mod link;
mod ports;
mod steering;
mod supervisor;
mod takers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::log::Log;
use super::loss::OnLoss;
use super::{Failure, duration};
use crate::checkpoint::{CommandProcess, NotifySpec, QmpSpec};
use crate::compare::AckGate;
use crate::kernel::{
    BypassRule, DEFAULT_PIN_DIRECTORY, EmptySlot, MirrorOptions, Mode, TunnelSpec, parse_mac,
};
use crate::lane::Polling;
use crate::port::spec::{Address, PortSpec};
use crate::privilege::{self, Role, Seccomp};

/// Compare two guests' egress and release what matches.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  colo-xdp run --primary xdp:tap0 --secondary xdp:vxlan0 --out xdp:eth0 \\
      --control /run/colo-xdp.sock --core 3 --qmp unix:/run/vm1/qmp.sock
  colo-xdp ctl --control /run/colo-xdp.sock status

PORT is xdp:DEVICE[,queues=A-B][,mode=auto|native|generic][,zerocopy=auto|on|off], or a QEMU
socket chardev, chardev:unix:PATH[,server] or chardev:tcp:HOST:PORT[,server]; a client connects
again when its peer went away, a server without a HOST takes peers of this host only.
Durations take a unit; a bare number is milliseconds.")]
pub(super) struct Args {
    /// Where the primary guest's egress comes from.
    #[arg(long, value_name = "PORT")]
    primary: PortSpec,
    /// Where the secondary guest's egress comes from.
    #[arg(long, value_name = "PORT")]
    secondary: PortSpec,
    /// Where released frames go. Comparators may share a NIC, on a queue each: queues=1-1.
    #[arg(long, value_name = "PORT")]
    out: PortSpec,
    /// Copy what this NIC receives for the primary guest to the secondary, over the link that
    /// --secondary names.
    #[arg(long, value_name = "DEVICE")]
    mirror: Option<String>,
    /// An Ethernet address of the guest; repeatable. Not given: learned from what it sends.
    #[arg(long, value_name = "MAC", requires = "mirror", value_parser = parse_mac)]
    guest_mac: Vec<[u8; 6]>,
    /// The link is a VXLAN tunnel: vni=N,local=ADDRESS,remote=ADDRESS[,port=4789].
    #[arg(long, value_name = "TUNNEL")]
    vxlan: Option<TunnelSpec>,
    /// Control socket for `ctl`; made with mode 0600.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print events as JSON, one object per line.
    #[arg(long)]
    json: bool,
    /// Spin, or sleep when there is nothing to do.
    #[arg(long, value_enum, default_value = "adaptive")]
    poll: Poll,
    /// Core to pin the lane to.
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Frames of memory shared by all devices.
    #[arg(long, value_name = "N", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(1024..=4_194_304))]
    frames: u32,
    /// Bytes per frame of memory; longer frames take several.
    #[arg(long, value_name = "BYTES", default_value_t = 2048, value_parser = frame_size)]
    frame_size: u32,
    /// What happens to the guests' frames after a crash: nothing leaves, or the kernel takes them.
    #[arg(long, value_enum, default_value = "closed")]
    on_exit: OnExit,
    /// After a clean exit too, let nothing leave until the next start.
    #[arg(long)]
    keep_closed: bool,
    /// Start without comparing: the primary's frames pass in the kernel until `ctl rearm`.
    #[arg(long)]
    standalone: bool,
    /// Flows that pass uncompared in the kernel, such as proto=udp,port=53; repeatable.
    #[arg(long, value_name = "RULE")]
    bypass: Vec<BypassRule>,
    /// `off` releases everything uncompared from user space: the floor for benchmarks.
    #[arg(long, value_enum, default_value = "on", hide = true)]
    compare: OnOff,
    /// Age at which a held frame is a divergence.
    #[arg(long, value_name = "TIME", default_value = "3000", value_parser = duration::parse_timeout)]
    compare_timeout: Duration,
    /// Xen's COLO frame, as QEMU's notify_dev: chardev:unix:PATH[,server] or
    /// chardev:tcp:HOST:PORT[,server].
    #[arg(long, value_name = "PORT")]
    notify: Option<NotifySpec>,
    /// Frames on chardev ports, and messages of the --notify peer, carry a virtio-net header or its
    /// length, as with QEMU's vnet_hdr_support.
    #[arg(long)]
    vnet_hdr: bool,
    /// QMP socket of the KVM COLO primary, as unix:PATH: asked for checkpoints, tells when done.
    #[arg(long, value_name = "ADDRESS")]
    qmp: Option<QmpSpec>,
    /// When COLO ends or its QMP connection is lost: go on holding, or release what the primary has
    /// held and let it pass uncompared.
    #[arg(long, value_enum, default_value = "hold", requires = "qmp")]
    on_qmp_loss: OnLoss,
    /// When the secondary's device is gone or has no carrier, or the peer of its socket has left:
    /// go on holding, or release what the primary has held and let it pass uncompared.
    #[arg(long, value_enum, value_name = "ACTION", default_value = "hold")]
    on_link_loss: OnLoss,
    /// Command for `sh -c` at a divergence, with COLO_XDP_REASON, COLO_XDP_FLOW and more in its
    /// environment; one at a time, at most one a second.
    #[arg(long, value_name = "COMMAND")]
    on_divergence: Option<String>,
    /// Frames held per flow and side [default: 8192 with --mirror, else 1024]. With --mirror it should be
    /// more than the segments of the clients' largest TCP window.
    #[arg(long, value_name = "N", hide_default_value = true, value_parser = clap::value_parser!(u16).range(1..))]
    max_queue_size: Option<u16>,
    /// While a checkpoint is outstanding, ask again this often.
    #[arg(long, value_name = "TIME", default_value = "1000", value_parser = duration::parse_timeout)]
    expired_scan_cycle: Duration,
    /// How long a secondary datagram may be out of order; 0 reports at once. With --ack-gate slower also
    /// how long a TCP stream waits for the secondary to close a gap or to go on in the middle of a segment.
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = duration::parse)]
    reorder_grace: Duration,
    /// Which primary segments wait for the secondary's acknowledgement: those with payload; all, bare
    /// acknowledgements too; or as all, with those of the slower guest leaving in place of the other's,
    /// so that a client repeats what the link has lost [default: slower with --mirror, else payload].
    #[arg(long, value_enum, value_name = "SEGMENTS", hide_default_value = true)]
    ack_gate: Option<Gate>,
    /// Flows tracked at once.
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    max_flows: u32,
    /// Let the XDP programs log what they do not steer.
    #[arg(long)]
    debug_xdp: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Poll {
    Busy,
    Adaptive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnExit {
    Closed,
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Gate {
    Payload,
    All,
    Slower,
}

fn frame_size(text: &str) -> Result<u32, String> {
    match text {
        "2048" => Ok(2048),
        "4096" => Ok(4096),
        _ => Err("must be 2048 or 4096".into()),
    }
}

/// Why a flow cannot be let past the comparator.
const NO_BYPASS: &str = "flows pass by in the kernel only where all three ports are xdp:DEVICE";

/// What only one port can have: the device, or the address of the socket.
fn place_of(port: &PortSpec) -> String {
    match port {
        PortSpec::Xdp(spec) => spec.device.clone(),
        PortSpec::Chardev(spec) => spec.to_string().trim_end_matches(",server").to_owned(),
    }
}

impl Args {
    /// Both sides' copies of a flow must take the same way, and the way leads to a device.
    fn can_bypass(&self) -> bool {
        self.ports().iter().all(|port| port.xdp().is_some())
    }

    /// The mirror that was asked for; `check` has found the devices that it takes.
    fn mirror_options(&self) -> Option<MirrorOptions> {
        let (primary, secondary) = (self.primary.xdp()?, self.secondary.xdp()?);
        Some(MirrorOptions {
            nic: self.mirror.clone()?,
            mode: Mode::Auto,
            primary: primary.device.clone(),
            link: secondary.device.clone(),
            macs: self.guest_mac.clone(),
            tunnel: self.vxlan,
            pin: DEFAULT_PIN_DIRECTORY.into(),
            debug: self.debug_xdp,
        })
    }

    /// The mirror copies between devices, and a device has one XDP program.
    fn check_mirror(&self) -> Result<(), Failure> {
        let devices = [("--primary", self.primary.xdp()), ("--secondary", self.secondary.xdp())];
        if let Some(nic) = &self.mirror {
            for (option, port) in devices {
                let Some(port) = port else {
                    return Err(Failure::usage(format!("--mirror: {option} must be xdp:DEVICE")));
                };
                if port.device == *nic {
                    return Err(Failure::usage(format!(
                        "--mirror and {option} both name {nic}: each needs a device of its own"
                    )));
                }
            }
        }
        if self.ack_gate == Some(Gate::Slower) && self.vnet_hdr {
            return Err(Failure::usage(
                "--ack-gate slower: frames of the secondary leave too, and have lost their \
                 --vnet-hdr headers",
            ));
        }
        if self.vxlan.is_some() && self.secondary.xdp().is_none() {
            return Err(Failure::usage("--vxlan: --secondary must be xdp:DEVICE"));
        }
        Ok(())
    }

    fn ports(&self) -> [&PortSpec; 3] {
        [&self.primary, &self.secondary, &self.out]
    }

    /// What the lane's thread does.
    fn lane_role(&self) -> Role {
        let connects = |port: &PortSpec| {
            port.chardev().is_some_and(|it| !it.server && matches!(it.address, Address::Unix(_)))
        };
        Role::Lane { devices: self.has_devices(), connects: self.ports().into_iter().any(connects) }
    }

    fn has_devices(&self) -> bool {
        self.ports().into_iter().any(|port| port.xdp().is_some())
    }

    fn polling(&self) -> Polling {
        match self.poll {
            Poll::Busy => Polling::Busy,
            Poll::Adaptive => Polling::Adaptive,
        }
    }

    fn empty_slot(&self) -> EmptySlot {
        match self.on_exit {
            OnExit::Closed => EmptySlot::Drop,
            OnExit::Open => EmptySlot::Pass,
        }
    }

    /// QEMU's default, or what a whole TCP window needs: one guest may be that much ahead.
    fn max_queue_size(&self) -> u16 {
        self.max_queue_size.unwrap_or(if self.mirror.is_some() { 8192 } else { 1024 })
    }

    fn ack_gate(&self) -> AckGate {
        let usual = if self.mirror.is_some() { Gate::Slower } else { Gate::Payload };
        match self.ack_gate.unwrap_or(usual) {
            Gate::Payload => AckGate::Payload,
            Gate::All => AckGate::All,
            Gate::Slower => AckGate::Slower,
        }
    }

    /// Rejects what the parts allow and the whole does not.
    fn check(&self) -> Result<(), Failure> {
        let ports =
            [("--primary", &self.primary), ("--secondary", &self.secondary), ("--out", &self.out)];
        for (index, (option, port)) in ports.iter().enumerate() {
            let place = place_of(port);
            if let Some((other, _)) =
                ports[..index].iter().find(|(_, seen)| place_of(seen) == place)
            {
                return Err(Failure::usage(format!(
                    "{other} and {option} both name {place}: each port needs one of its own"
                )));
            }
        }
        self.check_mirror()?;
        if !self.bypass.is_empty() && !self.can_bypass() {
            return Err(Failure::usage(format!("--bypass: {NO_BYPASS}")));
        }
        if let Some(core) = self.core {
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            if !cores.iter().any(|known| known.id == core) {
                let known: Vec<String> = cores.iter().map(|core| core.id.to_string()).collect();
                return Err(Failure::usage(format!(
                    "--core {core}: this process may run on cores {}",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args, seccomp: Seccomp, log: Log) -> Result<ExitCode, Failure> {
    args.check()?;
    let start = |command| CommandProcess::start(command, args.control.as_deref());
    let command = args.on_divergence.as_deref().map(start).transpose();
    let command = command.map_err(|error| Failure::runtime(format!("--on-divergence: {error}")))?;
    privilege::begin(seccomp)?;
    let assembled = assembly::assemble(args)?;
    supervisor::supervise(args, assembled, command, log)
}
