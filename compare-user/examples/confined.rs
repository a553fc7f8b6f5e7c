//! Does one thing on a thread that has been confined: `confined on|log|off ROLE DEED`.
//!
//! Prints `done` and what came of it, unless the deed was the end of the process.
#![allow(unsafe_code, reason = "system calls that no library makes on purpose")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use compare_user::privilege::{self, Role, Seccomp};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [seccomp, role, deed] = arguments.as_slice() else {
        return say("usage: confined on|log|off ROLE DEED", 2);
    };
    let (Ok(seccomp), Some(role)) = (seccomp.parse::<Seccomp>(), role_named(role)) else {
        return say("no such mode or role", 2);
    };
    // What is refused with a signal need not leave its memory behind.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = privilege::begin(seccomp) {
        return say(&error.to_string(), 3);
    }
    let deed = deed.clone();
    let thread = std::thread::spawn(move || {
        privilege::confine(role).map_err(io::Error::other)?;
        perform(&deed)
    });
    match thread.join() {
        Ok(Ok(())) => say("done", 0),
        Ok(Err(error)) => say(&format!("done: {error}"), 0),
        Err(_) => say("it panicked", 1),
    }
}

fn role_named(name: &str) -> Option<Role> {
    Some(match name {
        "supervisor" => Role::Supervisor { devices: true },
        "supervisor-of-sockets" => Role::Supervisor { devices: false },
        "lane" => Role::Lane { devices: true, connects: true },
        "lane-of-sockets" => Role::Lane { devices: false, connects: true },
        "control" => Role::Control,
        "signals" => Role::Signals,
        "unix-client" => Role::UnixPeer { connects: true },
        "unix-server" => Role::UnixPeer { connects: false },
        "tcp" => Role::TcpPeer,
        "command" => Role::Command,
        "reader" => Role::Reader,
        _ => return None,
    })
}

fn perform(deed: &str) -> io::Result<()> {
    match deed {
        "live" => live(),
        "thread" => {
            std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::Error::other("panic"))
        }
        "program" => Command::new("/bin/true").status().map(drop),
        "fork" => system_call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0]),
        "user-namespace" => system_call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0]),
        "read-file" => File::open("/dev/null").map(drop),
        "write-file" => OpenOptions::new().write(true).open("/dev/null").map(drop),
        "make-file" => File::create("/dev/null").map(drop),
        "executable" => {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a mapping of its own, where the kernel likes; nothing refers to it.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
            if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
        "ptrace" => system_call(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0]),
        "kill" => system_call(libc::SYS_kill, [std::process::id().into(), 0, 0]),
        "uring" => system_call(libc::SYS_io_uring_setup, [0, 0, 0]),
        "bpf" => system_call(libc::SYS_bpf, [-1, 0, 0]),
        "resolve" => ("localhost", 1).to_socket_addrs().map(drop),
        "polls" => polls(),
        "unix" => socket(libc::AF_UNIX),
        "inet" => socket(libc::AF_INET),
        "netlink" => socket(libc::AF_NETLINK),
        "packet" => socket(libc::AF_PACKET),
        "xdp" => socket(libc::AF_XDP),
        "status" => {
            let status = std::fs::read_to_string("/proc/thread-self/status")?;
            io::stdout().write_all(status.as_bytes())
        }
        _ => Err(io::Error::other("no such deed")),
    }
}

/// What every thread does all the time.
fn live() -> io::Result<()> {
    for size in [1_usize, 1 << 12, 1 << 20, 1 << 26] {
        let mut memory = vec![1_u8; size];
        memory.resize(size * 2, 2);
    }
    std::thread::sleep(Duration::from_millis(2));
    std::thread::yield_now();
    let (sender, receiver) = crossbeam_channel::bounded::<()>(1);
    let _ = receiver.recv_timeout(Duration::from_millis(2));
    drop(sender);
    let panicked = std::panic::catch_unwind(|| panic!("on purpose"));
    assert!(panicked.is_err());
    let _ = std::thread::available_parallelism();
    io::stdout().flush()
}

/// Says what a system call costs.
fn polls() -> io::Result<()> {
    const CALLS: u32 = 1_000_000;
    let start = Instant::now();
    for _ in 0..CALLS {
        // SAFETY: no descriptors, and so no pointer to any.
        let _ = unsafe { libc::poll(std::ptr::null_mut(), 0, 0) };
    }
    writeln!(io::stdout(), "{} ns per poll", start.elapsed().as_nanos() / u128::from(CALLS))
}

fn socket(family: i32) -> io::Result<()> {
    system_call(libc::SYS_socket, [family.into(), libc::SOCK_DGRAM.into(), 0])
}

/// One that takes integers, or null pointers in their place. What it opens goes with the process.
fn system_call(number: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<()> {
    let [first, second, third] = arguments;
    // SAFETY: no argument is a pointer to anything; the kernel refuses those that had to be.
    match unsafe { libc::syscall(number, first, second, third, 0, 0, 0) } {
        // A child, if it was a fork: it has nothing to do.
        0 if number == libc::SYS_clone => std::process::exit(0),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn say(line: &str, code: u8) -> ExitCode {
    // Nobody left to read it is no reason to fail.
    let _ = writeln!(io::stdout(), "{line}");
    ExitCode::from(code)
}
