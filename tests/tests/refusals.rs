//! What cannot work is refused in one line that names the cause, with an exit code of its own.

use colo_tests::comparator::run_to_exit;
use colo_tests::{Plan, Result, Role, Topology, needs_root};

const USAGE: i32 = 2;
const PRIVILEGE: i32 = 3;
const DEVICE: i32 = 5;
/// An account without any privilege (Debian's nobody).
const NOBODY: u32 = 65_534;

/// Runs with these three ports; expects `code` and one line that contains `named`.
fn refused(
    topology: &Topology,
    user: Option<u32>,
    ports: [&str; 3],
    code: i32,
    named: &str,
) -> Result {
    let [primary, secondary, out] = ports;
    let arguments = ["run", "--primary", primary, "--secondary", secondary, "--out", out];
    let output = run_to_exit(Some(topology.host()), user, &arguments)?;
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{ports:?}: {message}");
    assert_eq!(message.trim().lines().count(), 1, "{ports:?}: {message}");
    assert!(message.contains(named), "{ports:?}: {message} does not name {named}");
    assert!(output.stdout.is_empty(), "errors do not go to stdout");
    Ok(())
}

#[test]
fn what_cannot_work_is_refused_in_one_line() -> Result {
    needs_root!();
    let topology = Topology::new(Plan::default())?;
    let [a, b, c] = Role::ALL.map(|role| format!("xdp:{}", topology.device(role)));
    let (a, b, c) = (a.as_str(), b.as_str(), c.as_str());
    let with = |option: &str| format!("{a},{option}");

    // Devices.
    refused(&topology, None, ["xdp:nosuch0", b, c], DEVICE, "nosuch0")?;
    refused(&topology, None, [a, b, "xdp:nosuch0"], DEVICE, "nosuch0")?;
    refused(&topology, None, [&with("queues=7-9"), b, c], DEVICE, "queue")?;
    refused(&topology, None, [&with("zerocopy=on"), b, c], DEVICE, "zero")?;
    refused(&topology, None, ["xdp:a-name-beyond-15-bytes", b, c], DEVICE, "a-name-beyond")?;
    // The same device for two ports.
    refused(&topology, None, [a, a, c], USAGE, topology.device(Role::Primary))?;
    refused(&topology, None, [a, b, b], USAGE, topology.device(Role::Secondary))?;
    // Syntax.
    refused(&topology, None, ["xdp:", b, c], USAGE, "xdp:")?;
    refused(&topology, None, ["wire:eth0", b, c], USAGE, "wire")?;
    refused(&topology, None, ["eth0", b, c], USAGE, "eth0")?;
    refused(&topology, None, [&with("mode=warp"), b, c], USAGE, "warp")?;
    refused(&topology, None, [&with("queues=3-1"), b, c], USAGE, "3-1")?;
    refused(&topology, None, [&with("queues=x"), b, c], USAGE, "queues")?;
    refused(&topology, None, [&with("colour=red"), b, c], USAGE, "colour")?;
    // Privilege.
    refused(&topology, Some(NOBODY), [a, b, c], PRIVILEGE, "CAP_")?;
    Ok(())
}

#[test]
fn a_refusal_leaves_nothing_behind() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let primary = format!("xdp:{}", topology.device(Role::Primary));
    let secondary = format!("xdp:{}", topology.device(Role::Secondary));
    refused(&topology, None, [&primary, &secondary, "xdp:nosuch0"], DEVICE, "nosuch0")?;
    let links = topology.host().command("ip", &["-d", "link", "show"])?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert!(!links.contains("prog/xdp"), "{links}");
    let frame = colo_tests::Packet::v4().udp(1, 2, b"as before");
    topology.primary.send(&frame)?;
    topology.client.capture().expect(&[frame])
}

#[test]
fn options_are_checked_before_anything_is_touched() -> Result {
    for arguments in [
        &["run"][..],
        &["run", "--primary", "xdp:a", "--secondary", "xdp:b"],
        &["frobnicate"],
        &[
            "run",
            "--primary",
            "xdp:a",
            "--secondary",
            "xdp:b",
            "--out",
            "xdp:c",
            "--compare-timeout",
            "soon",
        ],
        &[
            "run",
            "--primary",
            "xdp:a",
            "--secondary",
            "xdp:b",
            "--out",
            "xdp:c",
            "--bypass",
            "proto=udq",
        ],
        &[
            "run",
            "--primary",
            "xdp:a",
            "--secondary",
            "xdp:b",
            "--out",
            "xdp:c",
            "--frame-size",
            "1000",
        ],
    ] {
        let output = run_to_exit(None, None, arguments)?;
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {message}");
        assert!(!message.is_empty(), "{arguments:?}");
    }
    Ok(())
}
