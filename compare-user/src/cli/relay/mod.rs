//! `colo-xdp relay`: the secondary's host.

mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::log::Log;
use super::loss::OnLoss;
use super::{Failure, duration};
use crate::checkpoint::QmpSpec;
use crate::kernel::{
    DEFAULT_PIN_DIRECTORY, Device, KernelError, Mode, Relay, RelayOptions, TunnelSpec, parse_mac,
};

/// Connect the secondary guest to the comparator, with the primary's TCP sequence numbers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  colo-xdp relay --guest tap0 --link eth1 --nic eth0 \\
      --vxlan vni=42,local=10.0.0.2,remote=10.0.0.1 \\
      --control /run/colo-relay.sock --qmp unix:/run/vm1/qmp.sock
  colo-xdp ctl --control /run/colo-relay.sock failover

The relay learns of checkpoints and of the loss of the primary from --qmp, or from
`ctl checkpoint` and `ctl failover`. After a crash the programs go on relaying, and the next
start takes them over with what they have learned.
Durations take a unit; a bare number is milliseconds.")]
pub(super) struct Args {
    /// The secondary guest's device.
    #[arg(long, value_name = "DEVICE")]
    guest: String,
    /// The device towards the primary's host.
    #[arg(long, value_name = "DEVICE")]
    link: String,
    /// The NIC that the guest uses after failover, in the primary's place.
    #[arg(long, value_name = "DEVICE")]
    nic: Option<String>,
    /// An Ethernet address of the guest; repeatable. Not given: learned from what it sends.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
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
    /// QMP socket of the KVM COLO secondary, as unix:PATH: tells of checkpoints and of the end of
    /// COLO.
    #[arg(long, value_name = "ADDRESS")]
    qmp: Option<QmpSpec>,
    /// When the secondary leaves COLO: go on relaying, or put it on the network. QEMU leaves COLO
    /// too when only the connection between the hosts is lost: choose hold if something else
    /// decides which guest goes on [default: failover with --nic, else hold].
    #[arg(long, value_enum, value_name = "ACTION", requires = "qmp", hide_default_value = true)]
    on_colo_exit: Option<OnLoss>,
    /// Connections remembered, each with the offset of its sequence numbers.
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    connections: u32,
    /// How long a connection without traffic is remembered; TCP keep-alive usually speaks every
    /// two hours.
    #[arg(long, value_name = "TIME", default_value = "2h15m", value_parser = duration::parse_timeout)]
    idle_timeout: Duration,
    /// How the programs are attached: auto takes native XDP where the device can.
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = clap::builder::ValueParser::new(str::parse::<Mode>))]
    mode: Mode,
    /// After a clean exit too, let the programs go on.
    #[arg(long)]
    keep: bool,
    /// Let the XDP programs log.
    #[arg(long)]
    debug_xdp: bool,
}

impl Args {
    fn options(&self) -> RelayOptions {
        RelayOptions {
            guest: self.guest.clone(),
            link: self.link.clone(),
            nic: self.nic.clone(),
            guest_macs: self.guest_mac.clone(),
            tunnel: self.vxlan,
            mode: self.mode,
            connections: self.connections,
            idle_timeout: self.idle_timeout,
            pin: Some(DEFAULT_PIN_DIRECTORY.into()),
            debug: self.debug_xdp,
        }
    }

    fn on_colo_exit(&self) -> OnLoss {
        let usual = if self.nic.is_some() { OnLoss::Failover } else { OnLoss::Hold };
        self.on_colo_exit.unwrap_or(usual)
    }

    /// Rejects what the parts allow and the whole does not.
    fn check(&self) -> Result<(), Failure> {
        let devices = [
            ("--guest", Some(&self.guest)),
            ("--link", Some(&self.link)),
            ("--nic", self.nic.as_ref()),
        ];
        for (index, (option, device)) in devices.iter().enumerate() {
            let same = |(_, seen): &&(_, _)| device.is_some() && seen == device;
            if let (Some(device), Some((other, _))) = (device, devices[..index].iter().find(same)) {
                return Err(Failure::usage(format!(
                    "{other} and {option} both name {device}: each needs one of its own"
                )));
            }
        }
        if self.on_colo_exit == Some(OnLoss::Failover) && self.nic.is_none() {
            return Err(Failure::usage("--on-colo-exit failover takes --nic: where to go on"));
        }
        Ok(())
    }

    /// Frames of the guest's MTU must fit the link with their outer headers; the ones that do not
    /// are counted and lost for the secondary.
    fn check_overhead(&self) -> Result<(), KernelError> {
        let Some(tunnel) = &self.vxlan else { return Ok(()) };
        let (guest, link) = (Device::find(&self.guest)?, Device::find(&self.link)?);
        let needed = guest.mtu + tunnel.overhead();
        if link.mtu < needed {
            tracing::warn!(
                link = link.name,
                mtu = link.mtu,
                needed,
                guest_mtu = guest.mtu,
                "the guest's longest frames do not fit the tunnel: raise the link's MTU or lower \
                 the guest's"
            );
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args, log: Log) -> Result<ExitCode, Failure> {
    args.check()?;
    args.check_overhead()?;
    let relay = Relay::attach(args.options())?;
    supervisor::supervise(args, relay, log)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    use super::*;

    fn parse(arguments: &str) -> Result<Box<Args>, clap::Error> {
        let words = ["colo-xdp", "relay"].into_iter().chain(arguments.split_whitespace());
        match Cli::try_parse_from(words)?.command {
            Command::Relay(args) => Ok(args),
            _ => unreachable!("relay was named"),
        }
    }

    fn refusal(arguments: &str) -> String {
        match parse(arguments) {
            Ok(args) => args.check().expect_err("refused").message,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_relay_takes_two_devices_and_has_documented_defaults() {
        let args = parse("--guest tap0 --link eth1").expect("enough");
        args.check().expect("it makes sense");
        let options = args.options();
        assert_eq!((options.connections, options.mode), (65_536, Mode::Auto));
        assert_eq!(options.idle_timeout, Duration::from_secs(135 * 60));
        assert_eq!(args.on_colo_exit(), OnLoss::Hold, "there is nowhere to go");
        let args = parse("--guest tap0 --link eth1 --nic eth0 --guest-mac 52:54:00:00:00:01");
        let args = args.expect("more than enough");
        assert_eq!(args.on_colo_exit(), OnLoss::Failover);
        assert_eq!(args.options().guest_macs, [[0x52, 0x54, 0, 0, 0, 1]]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (arguments, said) in [
            ("--guest tap0", "--link"),
            ("--guest tap0 --link tap0", "--guest and --link both name tap0"),
            ("--guest tap0 --link eth1 --nic eth1", "--link and --nic both name eth1"),
            ("--guest tap0 --link eth1 --vxlan vni=1", "local is missing"),
            ("--guest tap0 --link eth1 --guest-mac 01:00:5e:00:00:01", "group"),
            ("--guest tap0 --link eth1 --mode fast", "mode `fast`"),
            ("--guest tap0 --link eth1 --connections 0", "0 is not in 16..=16777216"),
            ("--guest tap0 --link eth1 --on-colo-exit hold", "--qmp"),
            (
                "--guest tap0 --link eth1 --qmp unix:/q --on-colo-exit failover",
                "--on-colo-exit failover takes --nic",
            ),
        ] {
            let refusal = refusal(arguments);
            assert!(refusal.contains(said), "{arguments}: {refusal}");
        }
    }
}
