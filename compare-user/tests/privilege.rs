//! What a confined thread may do and what is the end of its process, role by role.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

/// Runs `confined`, which does one thing on a confined thread. Test binaries are in
/// target/PROFILE/deps, examples beside them.
fn confined(seccomp: &str, role: &str, deed: &str) -> Output {
    let tests = std::env::current_exe().unwrap();
    let directory = tests.parent().unwrap();
    let program = directory.with_file_name("examples").join("confined");
    assert!(program.exists(), "no confined: run `cargo build -p compare-user --examples`");
    // With a backtrace, for which a panic reads files. Once will do: it takes long.
    let backtrace = if role == "lane" { "1" } else { "0" };
    let command = &mut Command::new(program);
    command.args([seccomp, role, deed]).env("RUST_BACKTRACE", backtrace).output().unwrap()
}

fn permitted(role: &str, deed: &str) {
    let output = confined("on", role, deed);
    let (said, log) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    let log = String::from_utf8_lossy(&log);
    assert!(output.status.success(), "{role}, {deed}: {}: {said}{log}", output.status);
    assert!(said.contains("done"), "{role}, {deed}: {said}{log}");
}

/// Expects the end of the process, and one line that names call and thread.
fn refused(role: &str, deed: &str, number: libc::c_long) {
    let output = confined("on", role, deed);
    let (said, log) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    let log = String::from_utf8_lossy(&log);
    assert_eq!(output.status.code(), Some(6), "{role}, {deed}: {said}{log}");
    assert!(said.is_empty(), "{role}, {deed}: it went on: {said}");
    assert_eq!(log.lines().count(), 1, "{role}, {deed}: {log}");
    assert!(log.starts_with("colo-xdp: the "), "{log}");
    assert!(log.contains(&format!("system call {number},")), "{role}, {deed}: {log}");
    assert!(log.contains("--seccomp off"), "{log} has no next step");
}

/// As [`refused`], while signals are blocked: the kernel ends the process, and no line is written.
fn refused_silently(role: &str, deed: &str) {
    let output = confined("on", role, deed);
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{role}, {deed}: {}", output.status);
    assert!(output.stdout.is_empty(), "{role}, {deed}: it went on");
}

const ROLES: [&str; 11] = [
    "supervisor",
    "supervisor-of-sockets",
    "lane",
    "lane-of-sockets",
    "control",
    "signals",
    "unix-client",
    "unix-server",
    "tcp",
    "command",
    "reader",
];

#[test]
fn every_role_may_live_and_read() {
    for role in ROLES {
        permitted(role, "live");
        permitted(role, "read-file");
    }
}

#[test]
fn no_role_starts_programs_writes_files_or_looks_into_others() {
    for role in ROLES {
        // The C library blocks signals before it makes a process or a thread.
        refused_silently(role, "program");
        refused(role, "fork", libc::SYS_clone);
        refused(role, "user-namespace", libc::SYS_unshare);
        refused(role, "write-file", libc::SYS_openat);
        refused(role, "make-file", libc::SYS_openat);
        refused(role, "ptrace", libc::SYS_ptrace);
        refused(role, "kill", libc::SYS_kill);
        refused(role, "uring", libc::SYS_io_uring_setup);
        refused(role, "packet", libc::SYS_socket);
    }
}

#[test]
fn a_deed_is_for_those_whose_task_it_is() {
    let deeds = [
        ("bpf", libc::SYS_bpf, &["supervisor"][..]),
        ("xdp", libc::SYS_socket, &["lane"]),
        ("netlink", libc::SYS_socket, &["supervisor", "supervisor-of-sockets", "tcp"]),
        (
            "inet",
            libc::SYS_socket,
            &["supervisor", "supervisor-of-sockets", "lane", "lane-of-sockets", "tcp"],
        ),
        (
            "unix",
            libc::SYS_socket,
            &[
                "supervisor",
                "supervisor-of-sockets",
                "lane",
                "lane-of-sockets",
                "unix-client",
                "tcp",
            ],
        ),
        ("executable", libc::SYS_mmap, &["tcp"]),
    ];
    for (deed, number, whose) in deeds {
        for role in ROLES {
            if whose.contains(&role) {
                permitted(role, deed);
            } else {
                refused(role, deed, number);
            }
        }
    }
}

#[test]
fn a_peer_over_tcp_has_its_name_looked_up() {
    permitted("tcp", "resolve");
}

#[test]
fn only_the_control_sockets_thread_starts_threads() {
    for role in ROLES {
        if role == "control" {
            permitted(role, "thread");
        } else {
            refused_silently(role, "thread");
        }
    }
}

#[test]
fn log_and_off_let_it_pass_and_no_new_privs_is_set_whatever_the_filter() {
    for mode in ["log", "off"] {
        let output = confined(mode, "reader", "uring");
        assert!(output.status.success(), "{mode}: {}", output.status);
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("done"));
    }
    for (mode, seccomp) in [("on", 2), ("log", 2), ("off", 0)] {
        let output = confined(mode, "reader", "status");
        let status = String::from_utf8_lossy(&output.stdout);
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
            lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
        };
        assert_eq!(field("NoNewPrivs").as_deref(), Some("1"), "{mode}: {status}");
        assert_eq!(field("Seccomp"), Some(seccomp.to_string()), "{mode}: {status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let held = u64::from_str_radix(&field(set).unwrap(), 16).unwrap();
            assert_eq!(held, 0, "{mode}: {set} of a reader: {status}");
        }
    }
}
