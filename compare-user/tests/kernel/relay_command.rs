//! `colo-xdp relay` as it is run: control socket, the secondary's QMP, the announcement.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use compare_user::compare::Side;
use compare_user::control::{self, Request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::network::{Wire, device, in_namespace, ip, veth};

/// How long anything that must happen may take, in an emulated machine on a busy host too.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is not to happen would have by then.
const SILENCE: Duration = Duration::from_millis(300);

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// The program between three devices.
struct Relay {
    child: Child,
    events: Receiver<Value>,
    directory: TempDir,
}

impl Relay {
    /// The devices of every test.
    fn devices() {
        for (name, peer) in [("guest", "inside"), ("link0", "primary"), ("nic", "switch")] {
            veth(name, peer);
        }
    }

    fn start(directory: TempDir, arguments: &str) -> Self {
        let control = directory.path().join("control");
        let mut child = Command::new(env!("CARGO_BIN_EXE_colo-xdp"))
            .args(["relay", "--guest", "guest", "--link", "link0", "--json", "--control"])
            .arg(control)
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let events = events(child.stdout.take().unwrap());
        let mut relay = Self { child, events, directory };
        let ready = relay.event("ready");
        let count = if arguments.contains("--nic") { 3 } else { 2 };
        assert_eq!(ready["devices"].as_array().map(Vec::len), Some(count), "{ready}");
        relay
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// The next event, which must have this name.
    #[track_caller]
    fn event(&mut self, name: &str) -> Value {
        let event = self.events.recv_timeout(PATIENCE).expect("an event");
        assert_eq!(event["event"], name, "{event}");
        event
    }

    #[track_caller]
    fn no_event(&mut self) {
        if let Ok(event) = self.events.recv_timeout(SILENCE) {
            panic!("an event that must not come: {event}");
        }
    }

    fn ask(&self, request: &Request) -> Value {
        control::ask(&self.socket(), request).unwrap()
    }

    #[track_caller]
    fn refusal(&self, request: &Request) -> String {
        let answer = self.ask(request);
        assert_eq!(answer["ok"], false, "{answer}");
        answer["error"].as_str().unwrap().to_owned()
    }

    fn end(mut self) -> Value {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let summary = self.event("summary");
        assert!(self.child.wait().unwrap().success());
        summary
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn events(output: ChildStdout) -> Receiver<Value> {
    let (sender, events) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
        }
    });
    events
}

/// A scripted secondary QEMU in COLO.
struct Qemu {
    stream: UnixStream,
    asked: Receiver<Value>,
}

impl Qemu {
    /// Accepts the relay and answers whatever it asks.
    fn accept(listener: &UnixListener) -> Self {
        let (mut stream, _) = listener.accept().unwrap();
        say(&mut stream, &json!({ "QMP": { "version": {}, "capabilities": [] } }));
        let (lines, mut answers) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let question: Value = serde_json::from_str(&line).expect("JSON");
                let answer = json!({ "status": "colo", "mode": "secondary" });
                say(&mut answers, &json!({ "return": answer, "id": question["id"] }));
                let _ = sender.send(question);
            }
        });
        Self { stream, asked }
    }

    /// Waits until the relay knows that COLO is on.
    fn await_look(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let question = self.asked.recv_timeout(left).expect("a question");
            if question["execute"] == "query-colo-status" {
                return;
            }
        }
    }

    fn event(&mut self, name: &str, data: &Value) {
        say(&mut self.stream, &json!({ "event": name, "data": data, "timestamp": {} }));
    }
}

fn say(stream: &mut UnixStream, message: &Value) {
    let _ = stream.write_all(format!("{message}\r\n").as_bytes());
}

fn rarp_senders(wire: &mut Wire) -> Vec<[u8; 6]> {
    let mut frames = wire.drain();
    frames.retain(|frame| frame[12..14] == [0x80, 0x35]);
    frames.iter().map(|frame| frame[6..12].try_into().unwrap()).collect()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn requests_are_answered_in_every_mode_and_those_without_use_are_refused_with_a_reason() {
    in_namespace(|| {
        Relay::devices();
        let mut relay = Relay::start(directory(), "--nic nic --guest-mac 52:54:00:00:00:01");
        let status = relay.ask(&Request::Status);
        assert_eq!(status["mode"], "relaying", "{status}");
        assert_eq!(status["guest_macs"], json!(["52:54:00:00:00:01"]), "{status}");
        assert!(status["connections"]["limit"].as_u64() >= Some(65_536), "{status}");
        for device in ["guest", "link0", "nic"] {
            assert!(status["devices"][device].is_object(), "{status}");
        }
        assert_eq!(relay.ask(&Request::Checkpoint)["forgotten"], 0);
        relay.event("checkpoint-done");
        let primary = Request::Failover { survivor: Some(Side::Primary) };
        assert!(relay.refusal(&primary).contains("no primary"));
        assert!(relay.refusal(&Request::Flows { limit: 1 }).contains("no flows"));
        assert!(relay.refusal(&Request::BypassList).contains("no bypass"));

        assert_eq!(relay.ask(&Request::Failover { survivor: None })["connections"], 0);
        relay.event("failed-over");
        assert_eq!(relay.ask(&Request::Status)["mode"], "failed-over");
        assert!(relay.refusal(&Request::Checkpoint).contains("rearm first"));
        assert_eq!(relay.ask(&Request::Rearm)["ok"], true);
        relay.event("rearmed");
        assert_eq!(relay.ask(&Request::Status)["mode"], "relaying");
        let summary = relay.end();
        assert_eq!(summary["connections"]["checkpoints"], 1, "{summary}");
        for name in ["guest", "link0", "nic"] {
            assert_eq!(device(name).attached().unwrap(), None, "as it was found");
        }
    });
}

#[test]
fn without_a_nic_there_is_nowhere_to_fail_over_to() {
    in_namespace(|| {
        Relay::devices();
        let relay = Relay::start(directory(), "");
        assert!(relay.refusal(&Request::Failover { survivor: None }).contains("--nic"));
        assert_eq!(relay.ask(&Request::Status)["mode"], "relaying");
        relay.end();
    });
}

#[test]
fn a_checkpoint_of_the_secondary_forgets_offsets_and_its_exit_puts_it_on_the_network() {
    in_namespace(|| {
        Relay::devices();
        let mut switch = Wire::open(&device("switch"));
        let directory = directory();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qmp = format!("--qmp unix:{}", path.display());
        let mut relay =
            Relay::start(directory, &format!("{qmp} --nic nic --guest-mac 52:54:00:00:00:01"));
        let mut qemu = Qemu::accept(&listener);
        relay.event("peer-connected");
        qemu.await_look();
        for _ in 0..2 {
            qemu.event("STOP", &json!({}));
            qemu.event("RESUME", &json!({}));
            assert_eq!(relay.event("checkpoint-done")["forgotten"], 0);
        }
        let status = relay.ask(&Request::Status);
        let known =
            ["in_colo", "colo_mode", "checkpoints", "requests"].map(|it| &status["qmp"][it]);
        assert_eq!(known, [&json!(true), &json!("secondary"), &json!(2), &json!(0)]);

        qemu.event("COLO_EXIT", &json!({ "mode": "secondary", "reason": "error" }));
        let ended = relay.event("colo-ended");
        assert_eq!(
            (&ended["cause"], &ended["action"]),
            (&json!("COLO_EXIT, reason error"), &json!("failover"))
        );
        relay.event("failed-over");
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(rarp_senders(&mut switch), [GUEST; 5]);
        // It goes on with the numbers it has.
        qemu.event("RESUME", &json!({}));
        relay.no_event();
        assert_eq!(relay.ask(&Request::Status)["mode"], "failed-over");
        relay.end();
    });
}

#[test]
fn a_dead_secondary_is_reported_and_its_exit_is_only_reported_when_told_to_hold() {
    in_namespace(|| {
        Relay::devices();
        let directory = directory();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qmp = format!("--qmp unix:{}", path.display());
        let mut relay = Relay::start(directory, &format!("{qmp} --nic nic --on-colo-exit hold"));
        let mut qemu = Qemu::accept(&listener);
        relay.event("peer-connected");
        qemu.await_look();
        qemu.event("COLO_EXIT", &json!({ "mode": "secondary", "reason": "request" }));
        assert_eq!(relay.event("colo-ended")["action"], "hold");
        relay.no_event();
        qemu.stream.shutdown(std::net::Shutdown::Both).unwrap();
        relay.event("peer-lost");
        let again = Qemu::accept(&listener);
        relay.event("peer-connected");
        again.await_look();
        // In COLO again, and dead: nothing is left to take over.
        again.stream.shutdown(std::net::Shutdown::Both).unwrap();
        relay.event("peer-lost");
        relay.no_event();
        assert_eq!(relay.ask(&Request::Status)["mode"], "relaying");
        relay.end();
    });
}

#[test]
fn a_device_that_goes_is_reported_and_taken_again_when_it_returns() {
    in_namespace(|| {
        Relay::devices();
        let mut relay = Relay::start(directory(), "--nic nic");
        ip("link del link0");
        assert_eq!(relay.event("port-lost")["device"], "link0");
        veth("link0", "primary");
        assert_eq!(relay.event("port-restored")["device"], "link0");
        relay.end();
    });
}

#[test]
fn with_keep_the_programs_go_on_and_the_next_start_takes_them_over() {
    in_namespace(|| {
        Relay::devices();
        let mut relay = Relay::start(directory(), "--nic nic --keep");
        relay.ask(&Request::Failover { survivor: None });
        relay.event("failed-over");
        relay.end();
        assert!(device("guest").attached().unwrap().is_some());

        let relay = Relay::start(directory(), "--nic nic");
        assert_eq!(relay.ask(&Request::Status)["mode"], "failed-over");
        relay.end();
        assert_eq!(device("guest").attached().unwrap(), None);
    });
}
