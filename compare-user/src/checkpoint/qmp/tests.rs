//! The connection, against a scripted QEMU on a socket of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::NOTICES;

const PATIENCE: Duration = Duration::from_secs(5);

/// A QEMU that waits for its client.
struct Qemu {
    listener: UnixListener,
    agent: Agent<QmpStatus>,
    heard: Receiver<Notice>,
    _directory: TempDir,
}

/// One connection to it.
struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Qemu {
    fn new() -> Self {
        Self::heard_as(QemuRole::Primary)
    }

    fn heard_as(role: QemuRole) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("the directory is ours");
        let (notices, heard) = crossbeam_channel::bounded(NOTICES);
        let agent = start(&QmpSpec { path }, role, notices).expect("a thread");
        Self { listener, agent, heard, _directory: directory }
    }

    /// Accepts the client and answers it up to the first look at the migration.
    fn negotiate(&self, migration: &str) -> Monitor {
        let (stream, _) = self.listener.accept().expect("it connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut monitor = Monitor { stream, lines };
        monitor.say(&json!({ "QMP": { "version": {}, "capabilities": [] } }));
        monitor.answer("qmp_capabilities", &json!({}));
        assert!(matches!(self.next(), Notice::Connected { .. }));
        monitor.answer("query-migrate", &json!({ "status": migration }));
        monitor.answer("query-colo-status", &json!({ "mode": "primary" }));
        monitor
    }

    fn next(&self) -> Notice {
        self.heard.recv_timeout(PATIENCE).expect("a notice")
    }
}

impl Monitor {
    fn say(&mut self, message: &Value) {
        self.stream.write_all(format!("{message}\r\n").as_bytes()).expect("it reads");
    }

    fn event(&mut self, name: &str) {
        self.say(&json!({ "event": name, "timestamp": {} }));
    }

    /// Answers `command`, and on the way to it every look at the migration as before.
    fn answer(&mut self, command: &str, answer: &Value) -> Value {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("it asks");
            let question: Value = serde_json::from_str(&line).expect("JSON");
            let id = &question["id"];
            if question["execute"] == command {
                self.say(&json!({ "return": answer, "id": id }));
                return question;
            }
            let status = json!({ "status": "colo", "mode": "primary" });
            self.say(&json!({ "return": status, "id": id }));
        }
    }
}

#[test]
fn a_divergence_asks_for_a_checkpoint_and_resume_is_its_end() {
    let qemu = Qemu::new();
    let mut monitor = qemu.negotiate("colo");
    qemu.agent.request();
    monitor.answer("query-migrate-parameters", &json!({ "x-checkpoint-delay": 20_000 }));
    let set = monitor.answer("migrate-set-parameters", &json!({}));
    assert_eq!(set["arguments"]["x-checkpoint-delay"], 20_000);
    monitor.event("STOP");
    monitor.event("RESUME");
    assert_eq!(qemu.next(), Notice::Done);
    assert_eq!(qemu.agent.status()["requests"], 1);
}

#[test]
fn garbage_half_lines_and_a_line_without_end_are_survived() {
    let qemu = Qemu::new();
    let mut monitor = qemu.negotiate("colo");
    monitor.stream.write_all(b"\xff\x00 garbage\n{\"event\":\n").expect("it reads");
    monitor.stream.write_all(&vec![b'{'; 3 << 20]).expect("it reads");
    monitor.stream.write_all(b"\n{\"event\":\"STOP\"}\n{\"eve").expect("it reads");
    std::thread::sleep(Duration::from_millis(20));
    monitor.stream.write_all(b"nt\":\"RESUME\"}\n").expect("it reads");
    assert_eq!(qemu.next(), Notice::Done);
    assert_eq!(qemu.agent.status()["unintelligible"], 3);
}

#[test]
fn the_loss_of_a_qemu_in_colo_is_told_and_its_return_served() {
    let qemu = Qemu::new();
    drop(qemu.negotiate("colo"));
    assert!(matches!(qemu.next(), Notice::Lost { .. }));
    assert!(matches!(qemu.next(), Notice::ColoEnded { .. }));
    // Asked for while nobody is there, made as soon as somebody is.
    qemu.agent.request();
    let mut monitor = qemu.negotiate("active");
    monitor.answer("query-migrate-parameters", &json!({ "x-checkpoint-delay": 1 }));
    drop(monitor);
    assert!(matches!(qemu.next(), Notice::Lost { .. }));
    let _again = qemu.negotiate("none");
    assert_eq!(qemu.agent.status()["lost"], 2);
}

#[test]
fn a_secondary_tells_of_checkpoints_and_its_loss_is_only_reported() {
    let qemu = Qemu::heard_as(QemuRole::Secondary);
    let mut monitor = qemu.negotiate("colo");
    monitor.event("STOP");
    monitor.event("RESUME");
    assert_eq!(qemu.next(), Notice::Done);
    drop(monitor);
    assert!(matches!(qemu.next(), Notice::Lost { .. }));
    // The next thing that is heard is its return.
    let _again = qemu.negotiate("none");
}

#[test]
fn last_words_before_the_end_are_heard() {
    let qemu = Qemu::new();
    let mut monitor = qemu.negotiate("colo");
    monitor.say(&json!({ "event": "COLO_EXIT", "data": { "mode": "primary", "reason": "error" } }));
    drop(monitor);
    let ended = Notice::ColoEnded { cause: "COLO_EXIT, reason error".into() };
    assert_eq!(qemu.next(), ended);
    assert!(matches!(qemu.next(), Notice::Lost { .. }), "and not the end of COLO again");
    let _again = qemu.negotiate("none");
}

#[test]
fn dropping_the_agent_closes_the_connection() {
    let qemu = Qemu::new();
    let mut monitor = qemu.negotiate("none");
    drop(qemu.agent);
    let mut rest = String::new();
    while monitor.lines.read_line(&mut rest).expect("an end") > 0 {}
}
