//! `colo-xdp doctor`: can this host do it, and if not, what to change.

use std::fmt::Write;
use std::process::ExitCode;

use serde::Serialize;

use crate::kernel::device::{Offloads, Peer};
use crate::kernel::probe::{Capability, Host, Jit, Support};
use crate::kernel::{Attached, Claim, Device, FaultKind, KernelError, verify};

const EXAMPLE: &str = "\
Example:
  colo-xdp doctor tap0 eth1      the host, the guest's tap and the NIC
  colo-xdp doctor --json | jq '.checks[] | select(.status != \"ok\")'

Exit codes: 0 it can work (warnings included), 3 missing privilege, 4 missing kernel
feature, 5 a device that cannot be used";

/// Tells whether this host can run the comparator, and what to change if not.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Args {
    /// Devices to look at: guest-facing, link, NIC.
    #[arg(value_name = "DEV")]
    devices: Vec<String>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Bytes of a frame that fit one 4,096-byte chunk of frame memory: the kernel keeps 256 of them
/// free in front (XDP_PACKET_HEADROOM).
const FRAME_ROOM: u32 = 4096 - 256;
/// Ethernet header and two VLAN tags, which the MTU does not count.
const LINK_HEADERS: u32 = 14 + 2 * 4;
/// Frame memory of a small lane: 16,384 frames of 4,096 bytes.
const FRAME_MEMORY: u64 = 64 << 20;

/// What QEMU's virtio-net must not offload, for frames to leave the guest as they go on the wire.
const VIRTIO_OFFLOADS: &str = "csum=off,guest_csum=off,gso=off,host_tso4=off,host_tso6=off,\
    host_ecn=off,host_ufo=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off";

/// Runs the checks and prints them.
///
/// # Errors
/// None so far; what is found wrong is in the output and the exit code.
pub(super) fn run(args: &Args) -> Result<ExitCode, KernelError> {
    let mut checks = host(&Host::probe());
    for device in &args.devices {
        checks.extend(self::device(device));
    }
    let report = Report::new(checks);
    let text = if args.json { report.json() } else { report.text() };
    print!("{text}");
    Ok(ExitCode::from(report.exit_code))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Check {
    /// `host` or a device.
    subject: String,
    check: &'static str,
    status: Status,
    seen: String,
    /// What to change, unless all is well.
    remedy: Option<String>,
    #[serde(skip)]
    fault: Option<FaultKind>,
}

impl Check {
    fn ok(subject: &str, check: &'static str, seen: impl Into<String>) -> Self {
        let (subject, seen) = (subject.into(), seen.into());
        Self { subject, check, status: Status::Ok, seen, remedy: None, fault: None }
    }

    fn warn(self, remedy: impl Into<String>) -> Self {
        Self { status: Status::Warn, remedy: Some(remedy.into()), ..self }
    }

    fn fail(self, fault: FaultKind, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { status: Status::Fail, remedy, fault: Some(fault), ..self }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    exit_code: u8,
    checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        // Without privilege the kernel hides its features: name the first thing to mend.
        let order = [FaultKind::Privilege, FaultKind::KernelFeature, FaultKind::Device];
        let failed = |kind: &FaultKind| checks.iter().any(|check| check.fault == Some(*kind));
        let fault = order.into_iter().find(failed);
        Self { ok: fault.is_none(), exit_code: fault.map_or(0, FaultKind::exit_code), checks }
    }

    fn json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("strings and numbers only");
        json + "\n"
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut subject = "";
        let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
        for check in &self.checks {
            if check.subject != subject {
                subject = &check.subject;
                line(subject.into());
            }
            let status = match check.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            line(format!("  {status:<5} {:<16} {}", check.check, check.seen));
            if let Some(remedy) = &check.remedy {
                line(format!("        {:<16} -> {remedy}", ""));
            }
        }
        let count = |status| self.checks.iter().filter(|check| check.status == status).count();
        let (warnings, failures) = (count(Status::Warn), count(Status::Fail));
        let verdict = if self.ok { "can" } else { "cannot" };
        line(format!("colo-xdp {verdict} run here (failures: {failures}, warnings: {warnings})"));
        text
    }
}

fn host(host: &Host) -> Vec<Check> {
    let mut checks = vec![kernel(host), privileges(host), locked_memory(host)];
    let features = [
        ("AF_XDP sockets", &host.af_xdp, "CONFIG_XDP_SOCKETS=y"),
        ("XDP programs", &host.xdp, "CONFIG_BPF_SYSCALL=y"),
        ("XSKMAP", &host.xskmap, "CONFIG_XDP_SOCKETS=y"),
        ("DEVMAP", &host.devmap, "CONFIG_BPF_SYSCALL=y, CONFIG_NET=y"),
        ("multi-buffer", &host.multi_buffer, "Linux 5.18 or later"),
    ];
    for (name, support, needs) in features {
        checks.push(feature(name, support, needs));
    }
    let jit = |seen| Check::ok("host", "JIT compiler", seen);
    checks.push(match host.jit {
        Jit::On => jit("on"),
        Jit::Off => jit("off").warn("sysctl net.core.bpf_jit_enable=1 (interpreted XDP is slow)"),
        Jit::Unknown => jit("not visible in this network namespace"),
    });
    let btf = |seen| Check::ok("host", "BTF", seen);
    checks.push(if host.btf {
        btf("present")
    } else {
        btf("absent").warn("CONFIG_DEBUG_INFO_BTF=y (only tools that inspect programs miss it)")
    });
    checks.push(bpffs(host));
    checks.push(verifier(host));
    checks.push(programs());
    checks
}

fn kernel(host: &Host) -> Check {
    let check = Check::ok("host", "kernel", &host.release);
    if host.release.starts_with("6.17.") {
        return check.warn("6.17.0 and the first 6.17.y can panic in copy-mode AF_XDP: update");
    }
    check
}

fn privileges(host: &Host) -> Check {
    let needed = [Capability::NetAdmin, Capability::NetRaw, Capability::Bpf, Capability::SysAdmin];
    let missing = needed.into_iter().filter(|capability| !host.capabilities.has(*capability));
    let missing: Vec<_> = missing.map(Capability::name).collect();
    if missing.is_empty() {
        return Check::ok("host", "privileges", "sufficient");
    }
    Check::ok("host", "privileges", format!("missing: {}", missing.join(", "))).fail(
        FaultKind::Privilege,
        "run as root, or on a copy that only the right users may run `setcap \
         cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock,cap_sys_admin+ep`",
    )
}

fn locked_memory(host: &Host) -> Check {
    let check = |seen: String| Check::ok("host", "locked memory", seen);
    if host.capabilities.has(Capability::IpcLock) || host.locked_memory == u64::MAX {
        return check("unlimited".into());
    }
    let check = check(format!("at most {} KiB", host.locked_memory / 1024));
    if host.locked_memory >= FRAME_MEMORY {
        return check;
    }
    check.warn("`ulimit -l unlimited` or CAP_IPC_LOCK: frame memory counts against the limit")
}

fn feature(name: &'static str, support: &Support, needs: &str) -> Check {
    match support {
        Support::Yes => Check::ok("host", name, "supported"),
        Support::No => {
            let remedy = format!("needs a kernel with {needs}");
            Check::ok("host", name, "absent").fail(FaultKind::KernelFeature, remedy)
        }
        Support::Unknown(why) => {
            Check::ok("host", name, format!("unknown: {why}")).warn("ask again as root")
        }
    }
}

fn bpffs(host: &Host) -> Check {
    if host.bpffs {
        return Check::ok("host", "bpffs", "mounted on /sys/fs/bpf");
    }
    let check = Check::ok("host", "bpffs", "not mounted");
    if host.capabilities.has(Capability::SysAdmin) {
        return Check { seen: "not mounted; `run` mounts it".into(), ..check };
    }
    check.warn("`mount -t bpf bpf /sys/fs/bpf` as root: failing closed needs it")
}

/// Whether this kernel takes our programs.
fn verifier(host: &Host) -> Check {
    let check = |seen: String| Check::ok("host", "verifier", seen);
    let may = |capability| host.capabilities.has(capability);
    if !may(Capability::Bpf) || !may(Capability::NetAdmin) {
        return check("unknown: needs CAP_BPF and CAP_NET_ADMIN".into()).warn("ask again as root");
    }
    let verdicts = match verify(false) {
        Ok(verdicts) => verdicts,
        Err(error) => return check("not asked".into()).fail(error.kind(), error.to_string()),
    };
    let refused = verdicts.iter().find_map(|verdict| verdict.instructions.as_ref().err());
    match refused {
        None => check("accepts every program".into()),
        Some(error) => check("refuses a program".into()).fail(error.kind(), error.to_string()),
    }
}

/// All XDP programs of this network namespace.
fn programs() -> Check {
    let names = nix::net::if_::if_nameindex();
    let names = names.iter().flat_map(|names| names.iter());
    let found = names.filter_map(|interface| {
        let device = Device::find(interface.name().to_str().ok()?).ok()?;
        let attached = device.attached().ok()??;
        Some(format!("{}: {}", device.name, describe(&attached)))
    });
    let found: Vec<_> = found.collect();
    let seen = if found.is_empty() { "none attached".into() } else { found.join("; ") };
    Check::ok("host", "XDP in use", seen)
}

fn describe(attached: &Attached) -> String {
    let Attached { program_id, name, mode, pinned_by_us } = attached;
    let owner = if *pinned_by_us { ", pinned by colo-xdp" } else { "" };
    format!("{name} (id {program_id}, {mode}{owner})")
}

fn device(name: &str) -> Vec<Check> {
    let device = match Device::find(name) {
        Ok(device) => device,
        Err(error) => {
            let check = Check::ok(name, "device", "not found");
            return vec![check.fail(error.kind(), error.to_string())];
        }
    };
    let mut checks = vec![
        identity(&device),
        mtu(&device),
        Check::ok(name, "receive queues", device.rx_queues.to_string()),
        in_use(&device),
        attached(&device),
    ];
    checks.extend(driver_features(&device));
    checks.extend(guest_offloads(&device));
    checks
}

fn identity(device: &Device) -> Check {
    let driver = if device.driver.is_empty() { "unknown" } else { &device.driver };
    let state = match (device.up, device.running) {
        (true, true) => "up",
        (true, false) => "up, no carrier",
        (false, _) => "down",
    };
    let mac = device.mac.map_or_else(String::new, |mac| {
        let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(", {}", bytes.join(":"))
    });
    let seen = format!("driver {driver}, index {}{mac}, {state}", device.index);
    let check = Check::ok(&device.name, "device", seen);
    match (device.up, device.running) {
        (true, true) => check,
        (true, false) => check.warn("no carrier: start the guest, or connect the other end"),
        (false, _) => check.warn(format!("ip link set {} up", device.name)),
    }
}

fn mtu(device: &Device) -> Check {
    let frame = device.mtu + LINK_HEADERS;
    let check = Check::ok(&device.name, "MTU", format!("{}, frames up to {frame}", device.mtu));
    if frame <= FRAME_ROOM {
        return check;
    }
    check.warn(format!(
        "ip link set {} mtu {}: beyond it a frame takes several buffers",
        device.name,
        FRAME_ROOM - LINK_HEADERS
    ))
}

fn in_use(device: &Device) -> Check {
    let check = |seen: &str| Check::ok(&device.name, "colo-xdp", seen);
    match Claim::take(&device.name) {
        Ok(_) => check("not running here"),
        Err(KernelError::InUse { holder, .. }) => check(&format!("running here{holder}")),
        Err(error) => check("unknown").warn(error.to_string()),
    }
}

fn attached(device: &Device) -> Check {
    let check = |seen: String| Check::ok(&device.name, "XDP program", seen);
    match device.attached() {
        Ok(None) => check("none".into()),
        Ok(Some(found)) if found.pinned_by_us => check(describe(&found)),
        Ok(Some(found)) => check(describe(&found)).fail(
            FaultKind::Device,
            format!(
                "somebody else's (`bpftool prog show id {}`): detach it, unless {} is only --out",
                found.program_id, device.name
            ),
        ),
        Err(error) => check("unknown".into()).warn(error.to_string()),
    }
}

fn driver_features(device: &Device) -> Vec<Check> {
    let features = match device.xdp_features() {
        Ok(features) if features.known => features,
        _ => {
            let seen = "the driver does not tell (Linux 6.3 and later ask it)";
            return vec![Check::ok(&device.name, "driver's XDP", seen)];
        }
    };
    let native = Check::ok(&device.name, "native XDP", if features.native { "yes" } else { "no" });
    let copy = if features.zero_copy { "advertised" } else { "no: frames are copied once" };
    let mut checks = vec![
        if features.native {
            native
        } else {
            native.warn("mode=auto falls back to generic, slower")
        },
        Check::ok(&device.name, "zero-copy", copy),
    ];
    let output = |seen| Check::ok(&device.name, "as --out", seen);
    checks.push(if features.accepts_redirect {
        output("takes redirected frames (bypass, standalone)".into())
    } else {
        // Not a fault of a device that is never the output.
        let remedy = match &device.peer {
            Some(Peer::Here(peer)) => format!("`ethtool -K {peer} gro on` before using it so"),
            Some(Peer::Elsewhere) => {
                "`ethtool -K` its other end `gro on` before using it so".into()
            }
            None => "an XDP program on it may turn that on".into(),
        };
        output(format!("takes no redirected frames now; {remedy}"))
    });
    checks
}

/// What the guest's end leaves to the device, as far as it can be seen from here.
fn guest_offloads(device: &Device) -> Option<Check> {
    let check = |seen: String| Check::ok(&device.name, "guest offloads", seen);
    match (&device.peer, device.driver.as_str()) {
        (Some(Peer::Here(peer)), _) => {
            Some(match Device::find(peer).and_then(|peer| peer.offloads()) {
                Ok(offloads) => judge_offloads(check, peer, offloads),
                Err(error) => check("unknown".into()).warn(error.to_string()),
            })
        }
        (Some(Peer::Elsewhere), _) => Some(
            check("in another network namespace, not visible".into())
                .warn("in there: `ethtool -K` its end `tx off tso off gso off txvlan off`"),
        ),
        (None, "tun") => Some(
            check("set by QEMU, not visible".into())
                .warn(format!("-device virtio-net-pci,...,{VIRTIO_OFFLOADS}")),
        ),
        (None, _) => None,
    }
}

fn judge_offloads(check: impl Fn(String) -> Check, peer: &str, offloads: Offloads) -> Check {
    let harmful = [
        (offloads.tx_checksum, "tx"),
        (offloads.tso, "tso"),
        (offloads.gso, "gso"),
        (offloads.tx_vlan, "txvlan"),
    ];
    let on: Vec<_> = harmful.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if on.is_empty() {
        return check(format!("{peer}: off"));
    }
    let off: Vec<_> = on.iter().map(|name| format!("{name} off")).collect();
    check(format!("{peer}: on: {}", on.join(", "))).warn(format!(
        "ethtool -K {peer} {}: else frames arrive unfinished or beyond the MTU",
        off.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(fault: FaultKind) -> Check {
        Check::ok("host", "kernel", "").fail(fault, "mend it")
    }

    #[test]
    fn the_exit_code_names_the_first_thing_to_mend() {
        let code = |checks| Report::new(checks).exit_code;
        assert_eq!(code(vec![Check::ok("host", "kernel", "").warn("mind it")]), 0);
        assert_eq!(code(vec![failed(FaultKind::Device)]), 5);
        let both = || failed(FaultKind::KernelFeature);
        assert_eq!(code(vec![failed(FaultKind::Device), both()]), 4);
        assert_eq!(code(vec![both(), failed(FaultKind::Privilege)]), 3);
    }

    #[test]
    fn offloads_that_are_on_come_with_the_command_that_turns_them_off() {
        let on = Offloads { tx_checksum: true, tso: false, gso: true, gro: true, tx_vlan: false };
        let check = |seen| Check::ok("tap0", "guest offloads", seen);
        let found = judge_offloads(check, "inside", on);
        assert_eq!(found.status, Status::Warn);
        let remedy = found.remedy.expect("a remedy");
        assert!(remedy.starts_with("ethtool -K inside tx off gso off:"), "{remedy}");
        let off = Offloads { tx_checksum: false, gso: false, ..on };
        assert_eq!(judge_offloads(check, "inside", off).status, Status::Ok);
    }

    #[test]
    fn a_device_that_is_not_there_fails_alone() {
        let checks = device("colo-nobody");
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].fault, Some(FaultKind::Device));
    }

    #[test]
    fn json_holds_every_check_with_its_remedy() {
        let report = Report::new(vec![failed(FaultKind::KernelFeature)]);
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["ok"], false);
        assert_eq!(json["exit_code"], 4);
        assert_eq!(json["checks"][0]["status"], "fail");
        assert_eq!(json["checks"][0]["remedy"], "mend it");
    }
}
