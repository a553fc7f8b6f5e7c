//! What the process may do once it runs, as root and as an ordinary user.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use colo_tests::capture::SILENCE;
use colo_tests::comparator::{binary, run_to_exit};
use colo_tests::ordinary::{self, Grant, OrdinaryUser};
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::{
    Launch, Namespace, Plan, Program, RelayLaunch, Result, Role, Stage, Topology, needs_root,
    threads,
};
use tempfile::TempDir;

/// Longer than the comparator takes to notice that a device is back, on a busy machine.
const RETURN: Duration = Duration::from_secs(5);

// linux/capability.h.
const DAC_OVERRIDE: u64 = 1 << 1;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const IPC_LOCK: u64 = 1 << 14;
const BPF: u64 = 1 << 39;

const SUPERVISOR: u64 = NET_ADMIN | BPF;
const LANE: u64 = NET_RAW | IPC_LOCK;

/// The filter that a thread has, as its status says (`SECCOMP_MODE_FILTER`).
const FILTERED: u64 = 2;
const UNFILTERED: u64 = 0;

/// Expects these threads, each by its name with the capabilities that it keeps, and that every one
/// has given up the rest. `bounded` is whether it could empty its bounding set.
fn expect_threads(program: &Program, expected: &[(&str, u64)], bounded: bool) -> Result {
    expect_threads_with(program, expected, bounded, FILTERED)
}

fn expect_threads_with(
    program: &Program,
    expected: &[(&str, u64)],
    bounded: bool,
    filter: u64,
) -> Result {
    let mut wanted: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
    wanted.sort_unstable();
    // A thread gives itself its name, and confines itself, first thing in its life.
    let deadline = Instant::now() + RETURN;
    let threads = loop {
        let threads = threads::of(program.id())?;
        let mut names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
        names.sort_unstable();
        let mut confined = true;
        for thread in &threads {
            confined &= thread.capabilities("CapEff")? & !(SUPERVISOR | LANE | DAC_OVERRIDE) == 0;
            confined &= thread.number("Seccomp")? == filter;
        }
        if names == wanted && confined {
            break threads;
        }
        ensure!(Instant::now() < deadline, "{names:?}, not {wanted:?}, confined: {confined}");
        thread::sleep(Duration::from_millis(5));
    };
    for thread in &threads {
        let (name, kept) = expected
            .iter()
            .find(|(name, _)| *name == thread.name)
            .with_context(|| format!("thread {} is one of them", thread.name))?;
        for (set, held) in [("CapPrm", *kept), ("CapEff", *kept), ("CapInh", 0), ("CapAmb", 0)] {
            assert_eq!(thread.capabilities(set)?, held, "{set} of {name}");
        }
        if bounded {
            assert_eq!(thread.capabilities("CapBnd")?, 0, "CapBnd of {name}");
        }
        assert_eq!(thread.number("NoNewPrivs")?, 1, "{name}");
    }
    Ok(())
}

/// Expects that the process which runs the command of `--on-divergence` has nothing of its own.
fn expect_idle_helper(program: &Program) -> Result {
    let id = program.id();
    // Made by the thread that was the only one then.
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let [helper] = children.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("one child, not {children:?}");
    };
    for thread in threads::of(helper.parse()?)? {
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(thread.capabilities(set)?, 0, "{set}");
        }
    }
    Ok(())
}

/// What a command of `--on-divergence` has written, once it has.
fn written(path: &Path) -> Result<String> {
    let deadline = Instant::now() + RETURN;
    while !path.exists() {
        ensure!(Instant::now() < deadline, "the command has not run");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(std::fs::read_to_string(path)?)
}

/// Both guests say the same; then they differ, and a checkpoint releases what the primary has said.
fn compare_and_diverge(stage: &mut Stage, seed: u64) -> Result {
    let frames: Vec<_> = (0..40).map(|n| Packet::v4().udp(1, 2, &bytes(seed + n, 200))).collect();
    stage.exchange(&frames)?;
    let ours = Packet::v6().udp(3, 4, b"yes");
    stage.primary(&[&ours])?;
    stage.secondary(&[Packet::v6().udp(3, 4, b"no!")])?;
    stage.comparator.event("divergence")?;
    stage.client().expect_nothing(SILENCE)?;
    stage.checkpoint()?;
    stage.client().expect(&[ours])
}

#[test]
fn as_root_every_thread_keeps_only_what_its_task_takes() -> Result {
    needs_root!();
    let directory = TempDir::with_prefix("colo-")?;
    let qmp = format!("unix:{}", directory.path().join("qmp").display());
    let notify = format!("chardev:unix:{},server", directory.path().join("notify").display());
    let seen = directory.path().join("seen");
    let command =
        format!("grep CapEff /proc/self/status > {0}.part; mv {0}.part {0}", seen.display());
    let arguments = ["--qmp", &qmp, "--notify", &notify, "--on-divergence", &command];
    let mut stage = Stage::plain(&arguments)?;
    let expected = [
        ("colo-xdp", SUPERVISOR),
        ("lane", LANE),
        ("signals", 0),
        ("control", 0),
        // To connect to the socket of a QEMU that runs as somebody else.
        ("qmp", DAC_OVERRIDE),
        ("notify", 0),
        ("on-divergence", 0),
    ];
    expect_threads(&stage.comparator, &expected, true)?;
    expect_idle_helper(&stage.comparator)?;
    compare_and_diverge(&mut stage, 1)?;
    stage.finish()?;
    // The command has what root has.
    let own = std::fs::read_to_string("/proc/self/status")?;
    let text = written(&seen)?;
    assert!(own.contains(text.trim()), "{text} is not in {own}");

    let place = |name: &str| format!("chardev:unix:{}", directory.path().join(name).display());
    let ports = [place("a") + ",server", place("b") + ",server", place("c") + ",server"];
    let comparator = Launch::between(ports).start_here()?;
    let threads = [("colo-xdp", 0), ("lane", 0), ("signals", 0), ("control", 0)];
    expect_threads(&comparator, &threads, true)?;
    comparator.stop()?;
    let ports = [place("a"), place("b"), place("c")];
    let comparator = Launch::between(ports).start_here()?;
    let threads = [("colo-xdp", 0), ("lane", DAC_OVERRIDE), ("signals", 0), ("control", 0)];
    expect_threads(&comparator, &threads, true)?;
    comparator.stop()?;
    Ok(())
}

#[test]
fn an_ordinary_user_compares_loses_devices_and_fails_over() -> Result {
    needs_root!();
    let user = OrdinaryUser::new(&binary(), Grant::File)?;
    let topology = Topology::new(Plan::default())?;
    let directory = TempDir::with_prefix("colo-")?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))?;
    let seen = directory.path().join("seen");
    // The command has the user's rights and no others.
    let command = format!(
        "id -u > {0}.part; grep CapEff /proc/self/status >> {0}.part; \
         echo \"$COLO_XDP_REASON\" >> {0}.part; mv {0}.part {0}",
        seen.display()
    );
    let nic = topology.device(Role::Out).to_owned();
    let arguments = ["--mirror", &nic, "--on-divergence", &command, "--reorder-grace", "500ms"];
    let comparator =
        Launch::on(&topology).arguments(&arguments).start_as(&user, topology.host())?;
    let mut stage = Stage { comparator, topology };
    let expected = [
        ("colo-xdp", SUPERVISOR),
        ("lane", LANE),
        ("signals", 0),
        ("control", 0),
        ("on-divergence", 0),
    ];
    // Without CAP_SETPCAP the bounding set stays, and no_new_privs makes it idle.
    expect_threads(&stage.comparator, &expected, false)?;
    expect_idle_helper(&stage.comparator)?;
    compare_and_diverge(&mut stage, 1)?;
    let text = written(&seen)?;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, [&ordinary::USER.to_string(), "CapEff:\t0000000000000000", "payload"]);

    for role in Role::ALL {
        stage.topology.unplug(role)?;
        stage.comparator.event_within("port-lost", RETURN)?;
        stage.topology.plug(role)?;
        stage.comparator.event_within("port-restored", RETURN)?;
        compare_and_diverge(&mut stage, 100)?;
    }
    stage.comparator.control().call(&["bypass", "add", "proto=udp,port=53"])?;
    stage.comparator.control().call(&["failover"])?;
    let alone = Packet::v4().udp(7, 8, b"uncompared");
    stage.primary(&[&alone])?;
    stage.client().expect(&[alone])?;
    stage.comparator.control().call(&["rearm"])?;
    compare_and_diverge(&mut stage, 200)?;

    // After a crash nothing leaves, and the next start of the same user takes over.
    let Stage { comparator, mut topology } = stage;
    comparator.kill()?;
    let frame = Packet::v4().udp(1, 2, b"meanwhile");
    topology.primary.send(&frame)?;
    topology.client.capture().expect_nothing(SILENCE)?;
    let mut comparator = Launch::on(&topology).start_as(&user, topology.host())?;
    comparator.no_event("divergence", Duration::ZERO)?;
    let mut stage = Stage { comparator, topology };
    compare_and_diverge(&mut stage, 300)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_service_manager_may_give_the_capabilities_too() -> Result {
    needs_root!();
    let user = OrdinaryUser::new(&binary(), Grant::Ambient)?;
    let topology = Topology::new(Plan::default())?;
    let comparator = Launch::on(&topology).start_as(&user, topology.host())?;
    let mut stage = Stage { comparator, topology };
    let threads = [("colo-xdp", SUPERVISOR), ("lane", LANE), ("signals", 0), ("control", 0)];
    expect_threads(&stage.comparator, &threads, false)?;
    compare_and_diverge(&mut stage, 1)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn the_control_socket_is_the_users_who_started_it() -> Result {
    needs_root!();
    let user = OrdinaryUser::new(&binary(), Grant::File)?;
    let topology = Topology::new(Plan::default())?;
    let comparator = Launch::on(&topology).start_as(&user, topology.host())?;
    let socket = comparator.control_path();
    let found = std::fs::metadata(&socket)?;
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, ordinary::USER));
    let ask = |mut command: Command| {
        let command = command.args(["ctl", "--control"]).arg(&socket).arg("status");
        command.stdin(Stdio::null()).output()
    };
    let own = ask(user.command())?;
    ensure!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    // Somebody else, even if the directory lets them in.
    let directory = socket.parent().context("it is in a directory")?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    let path = socket.to_string_lossy();
    let arguments = ["ctl", "--control", &path, "checkpoint"];
    let other = run_to_exit(None, Some(ordinary::USER - 1), &arguments)?;
    assert_eq!(other.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&other.stderr).contains("Permission denied"));
    // And no other user may run the copy that has the capabilities.
    let stranger = ordinary::USER - 1;
    let refused = Command::new(user.program()).arg("doctor").uid(stranger).gid(stranger).output();
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
    comparator.stop()?;
    Ok(())
}

/// A relay's devices and their other ends.
const DEVICES: [(&str, &str); 3] = [("guest", "inside"), ("link0", "primary"), ("nic", "switch")];

fn plug(name: &str, peer: &str) -> String {
    format!("link add {name} type veth peer name {peer}\nlink set {name} up\nlink set {peer} up")
}

#[test]
fn a_relay_keeps_what_its_devices_take_whoever_runs_it() -> Result {
    needs_root!();
    let user = OrdinaryUser::new(&binary(), Grant::File)?;
    for ordinary in [false, true] {
        let namespace = Namespace::new("relay")?;
        for (name, peer) in DEVICES {
            namespace.ip(&plug(name, peer))?;
        }
        let launch = RelayLaunch::between("guest", "link0").nic("nic");
        let launch = launch.arguments(&["--guest-mac", "52:54:00:00:00:01"]);
        let start = || match ordinary {
            false => launch.clone().start(&namespace),
            true => launch.clone().start_as(&user, &namespace),
        };
        let mut relay = start()?;
        let threads = [("colo-xdp", SUPERVISOR), ("signals", 0), ("control", 0)];
        expect_threads(&relay, &threads, !ordinary)?;
        relay.control().call(&["checkpoint"])?;
        relay.control().call(&["failover"])?;
        relay.event("failed-over")?;
        relay.control().call(&["rearm"])?;
        for (name, peer) in DEVICES {
            namespace.ip(&format!("link del {name}"))?;
            relay.event_within("port-lost", RETURN)?;
            namespace.ip(&plug(name, peer))?;
            relay.event_within("port-restored", RETURN)?;
        }
        relay.kill()?;
        // What it leaves is taken over.
        start()?.stop()?;
    }
    Ok(())
}

#[test]
fn without_the_filter_it_still_gives_up_its_capabilities() -> Result {
    needs_root!();
    let stage = Stage::plain(&["--seccomp", "off"])?;
    let threads = [("colo-xdp", SUPERVISOR), ("lane", LANE), ("signals", 0), ("control", 0)];
    expect_threads_with(&stage.comparator, &threads, true, UNFILTERED)?;
    stage.finish()?;
    Ok(())
}
