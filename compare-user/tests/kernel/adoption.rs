//! A pinned program outlives its owner, and the next owner takes it over without a gap.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use compare_user::kernel::{AttachedMode, FaultKind, Mode, Outcome, Steer};

use crate::network::{
    Wire, assert_all_went, device, ethernet, in_namespace, ip, ipv4_received, options, pinned,
    pins, udp, veth, wait_until,
};

/// Another process that holds the program on a device; killed with the value.
struct Owner(Child);

impl Owner {
    /// `steer_hold`. Test binaries are in target/PROFILE/deps, examples beside them.
    fn program() -> Command {
        let tests = std::env::current_exe().unwrap();
        let program = tests.parent().unwrap().with_file_name("examples").join("steer_hold");
        assert!(program.exists(), "no steer_hold: run `cargo build -p compare-user --examples`");
        Command::new(program)
    }

    fn start(device: &str, mode: &str) -> Self {
        let child = Self::program().args([device, mode]).stdout(Stdio::piped()).spawn().unwrap();
        let mut owner = Self(child);
        let mut line = String::new();
        BufReader::new(owner.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        owner
    }

    /// `kill -9`, and wait until it is gone.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guest that never stops sending, on a thread of its own until the value is dropped.
struct Guest {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Guest {
    fn start(frame: Vec<u8>) -> Self {
        let mut inside = Wire::open(&device("inside"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                inside.send(&frame);
                sent += 1;
            }
            sent
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops it; the number of frames it has sent.
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A frame that the host's IPv4 layer counts, if it gets there.
fn frame_for_the_host() -> Vec<u8> {
    ethernet(device("guest").mac.unwrap(), 0x0800, &udp((1, 1000), (1, 2000)))
}

#[test]
fn the_program_outlives_a_killed_owner_and_is_taken_over() {
    in_namespace(|| {
        veth("guest", "inside");
        let guest = device("guest");
        let owner = Owner::start("guest", "native");
        let program = guest.attached().unwrap().unwrap().program_id;
        let sender = Guest::start(frame_for_the_host());

        owner.kill();
        let left = guest.attached().unwrap().unwrap();
        assert_eq!((left.program_id, left.pinned_by_us), (program, true));

        let steer = Steer::attach(&pinned("guest", Mode::Auto)).unwrap();
        assert!(steer.adopted());
        assert_eq!(steer.mode(), AttachedMode::Native);
        assert_ne!(guest.attached().unwrap().unwrap().program_id, program);
        wait_until(|| steer.outcomes().unwrap()[Outcome::NoSocketDropped].packets > 100);
        assert!(sender.stop() > 100);
        assert_eq!(ipv4_received(), 0, "frames leaked to the stack");

        steer.detach().unwrap();
        assert_eq!(guest.attached().unwrap(), None);
        Wire::open(&device("inside")).send(&frame_for_the_host());
        wait_until(|| ipv4_received() == 1);
    });
}

#[test]
fn without_privilege_the_error_names_what_is_missing() {
    in_namespace(|| {
        // A user without capabilities, `nobody` on most systems. It may not be allowed to enter
        // the directory of the build.
        let copy = tempfile::tempdir().unwrap();
        std::fs::set_permissions(copy.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = copy.path().join("steer_hold");
        std::fs::copy(Owner::program().get_program(), &program).unwrap();
        let output = Command::new(program).args(["lo", "generic"]).uid(65534).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(FaultKind::Privilege.exit_code())));
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains("CAP_BPF") && line.contains("run as root"), "{line}");
        assert_eq!(device("lo").attached().unwrap(), None);
    });
}

#[test]
fn changing_the_mode_of_a_pinned_program_leaks_nothing() {
    in_namespace(|| {
        veth("guest", "inside");
        Owner::start("guest", "native").kill();
        let sender = Guest::start(frame_for_the_host());
        for (mode, obtained) in [
            (Mode::Generic, AttachedMode::Generic),
            (Mode::Native, AttachedMode::Native),
            (Mode::Generic, AttachedMode::Generic),
        ] {
            let steer = Steer::attach(&pinned("guest", mode)).unwrap();
            assert!(steer.adopted());
            assert_eq!(steer.mode(), obtained);
            assert_eq!(device("guest").attached().unwrap().unwrap().mode, obtained);
            wait_until(|| steer.outcomes().unwrap()[Outcome::NoSocketDropped].packets > 100);
            steer.leave_closed();
        }
        sender.stop();
        assert_eq!(ipv4_received(), 0, "frames leaked to the stack");

        Steer::attach(&pinned("guest", Mode::Auto)).unwrap().detach().unwrap();
        Wire::open(&device("inside")).send(&frame_for_the_host());
        wait_until(|| ipv4_received() == 1);
    });
}

#[test]
fn a_mode_that_the_device_refuses_leaves_the_old_program_in_place() {
    in_namespace(|| {
        Steer::attach(&pinned("lo", Mode::Generic)).unwrap().leave_closed();
        let error = Steer::attach(&pinned("lo", Mode::Native)).err().unwrap();
        assert_eq!(error.kind(), FaultKind::Device);
        let left = device("lo").attached().unwrap().unwrap();
        assert_eq!((left.mode, left.pinned_by_us), (AttachedMode::Generic, true));
        Steer::attach(&pinned("lo", Mode::Auto)).unwrap().detach().unwrap();
    });
}

#[test]
fn the_pin_of_a_device_that_was_made_again_is_replaced() {
    in_namespace(|| {
        veth("guest", "inside");
        Owner::start("guest", "auto").kill();
        ip("link del guest");
        veth("guest", "inside");
        assert_eq!(pins().len(), 1);
        let steer = Steer::attach(&pinned("guest", Mode::Auto)).unwrap();
        assert!(!steer.adopted());
        Wire::open(&device("inside")).send(&frame_for_the_host());
        assert_all_went(&steer, Outcome::NoSocketDropped, 1);
        steer.detach().unwrap();
        assert!(pins().is_empty());
    });
}

#[test]
fn a_pin_that_follows_a_renamed_device_is_not_torn_off_it() {
    in_namespace(|| {
        veth("guest", "inside");
        Owner::start("guest", "auto").kill();
        ip("link set guest down");
        ip("link set guest name moved");
        ip("link add guest type veth peer name other");
        let error = Steer::attach(&pinned("guest", Mode::Auto)).err().unwrap().to_string();
        assert!(error.contains("renamed"), "{error}");
        assert!(device("moved").attached().unwrap().is_some());
        assert_eq!(device("guest").attached().unwrap(), None);
    });
}

#[test]
fn an_owner_that_does_not_pin_adopts_and_then_goes_with_its_process() {
    in_namespace(|| {
        veth("guest", "inside");
        Owner::start("guest", "auto").kill();
        let steer = Steer::attach(&options("guest", Mode::Auto)).unwrap();
        assert!(steer.adopted());
        assert!(pins().is_empty());
        assert!(device("guest").attached().unwrap().is_some());
        drop(steer);
        wait_until(|| device("guest").attached().unwrap().is_none());
    });
}

#[test]
fn a_living_owner_in_another_process_keeps_its_device() {
    in_namespace(|| {
        veth("guest", "inside");
        let owner = Owner::start("guest", "auto");
        let before = device("guest").attached().unwrap();
        let error = Steer::attach(&pinned("guest", Mode::Auto)).err().unwrap().to_string();
        assert!(error.contains(&format!("(pid {})", owner.0.id())), "{error}");
        assert_eq!(device("guest").attached().unwrap(), before);
        owner.kill();
        assert!(Steer::attach(&pinned("guest", Mode::Auto)).unwrap().adopted());
    });
}
