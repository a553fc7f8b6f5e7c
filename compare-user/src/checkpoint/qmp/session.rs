//! The protocol, without sockets or clock: lines and the time go in, [`Effect`]s come out.
//!
//! QEMU announces a checkpoint with `STOP` and ends it with `RESUME`, whoever asked for it: this
//! program, another client, or QEMU's own timer. Each `RESUME` of a primary in COLO therefore means
//! that the guests are equal. A request made while the guest is stopped may be swallowed, so it is
//! kept until `RESUME` and made then.
//!
//! A secondary announces the same checkpoints in the same way: its `RESUME` comes when it has
//! loaded the primary's state. `query-migrate` says `colo` on both sides. Only a primary takes
//! requests, so a secondary is listened to and looked at, no more. And while a primary that nobody
//! can ask any more leaves the state of both guests open, a secondary whose monitor is gone is
//! gone itself: there is nothing left that could take over.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::checkpoint::worth_a_line;

/// How long a greeting or an answer may take. QEMU answers within milliseconds, and within one
/// checkpoint when that is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the state of the migration is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Longest text of a peer that is kept or logged.
const QUOTED: usize = 120;

/// What `ctl status` shows.
#[derive(Debug, Default, Clone, Serialize)]
pub struct QmpStatus {
    /// Where QEMU is.
    pub peer: String,
    /// The connection is there and negotiated.
    pub connected: bool,
    /// Negotiated connections so far.
    pub connections: u64,
    /// QEMU's version.
    pub version: Option<String>,
    /// `query-migrate`'s status: `none`, `active`, `colo`, `completed`, ...
    pub migration: Option<String>,
    /// `query-colo-status`'s mode: `none`, `primary`, `secondary`.
    pub colo_mode: Option<String>,
    /// This QEMU is in COLO, on the side that it was asked as: checkpoints are taken.
    pub in_colo: bool,
    /// The guest is stopped, as it is during a checkpoint.
    pub stopped: bool,
    /// `x-checkpoint-delay`, in milliseconds, when it was last read.
    pub checkpoint_delay: Option<u64>,
    /// Checkpoint requests that QEMU accepted.
    pub requests: u64,
    /// Checkpoints that ended, asked for or not.
    pub checkpoints: u64,
    /// Commands that QEMU refused.
    pub refused: u64,
    /// Lines that are not QMP, or not what was asked for.
    pub unintelligible: u64,
    /// Connections that were lost.
    pub lost: u64,
    /// The latest refusal or unintelligible line.
    pub last_error: Option<String>,
}

/// The side of COLO that QEMU is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QemuRole {
    /// It takes checkpoints when asked.
    Primary,
    /// It is made equal to the primary at each checkpoint.
    Secondary,
}

impl QemuRole {
    /// As `query-colo-status` and `COLO_EXIT` say it.
    fn mode(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }

    fn is_other(self, mode: &str) -> bool {
        ["primary", "secondary"].contains(&mode) && mode != self.mode()
    }
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// This line goes to QEMU.
    Send(String),
    /// Negotiation is complete.
    Ready,
    /// The guests are equal.
    CheckpointDone,
    /// This QEMU is no longer in COLO.
    ColoEnded(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The greeting is waited for since then.
    Greeting(Instant),
    Negotiating,
    Ready,
}

/// What is known about COLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colo {
    Off,
    On,
    /// `COLO_EXIT` was seen. The migration may still call itself `colo` until failover is ordered.
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Capabilities,
    Migration,
    ColoStatus,
    Parameters,
    Delay,
}

impl Asked {
    fn command(self) -> &'static str {
        match self {
            Self::Capabilities => "qmp_capabilities",
            Self::Migration => "query-migrate",
            Self::ColoStatus => "query-colo-status",
            Self::Parameters => "query-migrate-parameters",
            Self::Delay => "migrate-set-parameters",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Question {
    id: u64,
    asked: Asked,
    since: Instant,
}

/// One client's view of QEMU.
#[derive(Debug)]
pub struct Session {
    role: QemuRole,
    stage: Stage,
    next_id: u64,
    questions: Vec<Question>,
    next_look: Instant,
    colo: Colo,
    /// A checkpoint is wanted and QEMU has not been asked.
    wanted: bool,
    /// A `RESUME` came while COLO was not known to be on.
    doubtful_resume: bool,
    /// This QEMU knows `query-colo-status`.
    knows_colo_status: bool,
    effects: Vec<Effect>,
    /// For `ctl status`.
    pub status: QmpStatus,
}

impl Session {
    /// A session with QEMU at `peer`, before the first connection.
    pub fn new(peer: String, role: QemuRole, now: Instant) -> Self {
        Self {
            role,
            stage: Stage::Greeting(now),
            next_id: 0,
            questions: Vec::new(),
            next_look: now,
            colo: Colo::Off,
            wanted: false,
            doubtful_resume: false,
            knows_colo_status: true,
            effects: Vec::new(),
            status: QmpStatus { peer, ..QmpStatus::default() },
        }
    }

    /// A connection was made: its greeting is next. A checkpoint that is wanted stays wanted.
    pub fn connected(&mut self, now: Instant) {
        let mut fresh = Self::new(String::new(), self.role, now);
        std::mem::swap(&mut fresh.status, &mut self.status);
        // An answer to an earlier connection's question cannot be mistaken for one to this one's.
        fresh.next_id = self.next_id;
        fresh.wanted = self.wanted;
        *self = fresh;
        self.status.stopped = false;
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, cause: &str) {
        if self.stage == Stage::Ready {
            self.status.lost += 1;
        }
        self.status.connected = false;
        match self.role {
            QemuRole::Primary => {
                self.leave_colo(Colo::Off, || format!("the QMP connection is lost: {cause}"));
            }
            QemuRole::Secondary => {
                self.colo = Colo::Off;
                self.status.in_colo = false;
            }
        }
    }

    /// What is to be done, since the last call.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Session::tick`] has something to do.
    pub fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Greeting(since) => since + PATIENCE,
            Stage::Negotiating | Stage::Ready => self.next_look,
        }
    }

    /// Asks for what is due.
    ///
    /// # Errors
    /// When QEMU has not answered in time.
    pub fn tick(&mut self, now: Instant) -> Result<(), String> {
        if let Stage::Greeting(since) = self.stage
            && now.duration_since(since) >= PATIENCE
        {
            return Err("no greeting; does another client hold the QMP socket?".into());
        }
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK;
        // A stopped guest may be one whose memory is being copied under the lock that QMP needs.
        let overdue = |question: &&Question| now.duration_since(question.since) >= PATIENCE;
        if !self.status.stopped
            && let Some(question) = self.questions.iter().find(overdue)
        {
            return Err(format!("no answer to {}", question.asked.command()));
        }
        if self.stage == Stage::Ready {
            self.look(now);
        }
        Ok(())
    }

    fn look(&mut self, now: Instant) {
        self.ask_once(Asked::Migration, now);
        if self.knows_colo_status {
            self.ask_once(Asked::ColoStatus, now);
        }
    }

    /// A checkpoint is wanted. A secondary cannot be asked for one.
    pub fn request(&mut self, now: Instant) {
        if self.role == QemuRole::Secondary {
            return;
        }
        let under_way =
            self.questions.iter().any(|q| matches!(q.asked, Asked::Parameters | Asked::Delay));
        if !under_way {
            self.wanted = true;
            self.pursue(now);
        }
    }

    /// Starts asking for a checkpoint, if one is wanted and QEMU would not swallow it.
    fn pursue(&mut self, now: Instant) {
        if self.wanted && self.stage == Stage::Ready && !self.status.stopped {
            self.wanted = false;
            self.ask(Asked::Parameters, json!(null), now);
        }
    }

    fn ask_once(&mut self, asked: Asked, now: Instant) {
        if !self.questions.iter().any(|question| question.asked == asked) {
            self.ask(asked, json!(null), now);
        }
    }

    fn ask(&mut self, asked: Asked, arguments: Value, now: Instant) {
        self.next_id += 1;
        let id = self.next_id;
        let mut line = json!({ "execute": asked.command(), "id": id });
        if !arguments.is_null() {
            line["arguments"] = arguments;
        }
        self.questions.push(Question { id, asked, since: now });
        self.effects.push(Effect::Send(format!("{line}\n")));
    }

    /// A line from QEMU.
    pub fn line(&mut self, line: &[u8], now: Instant) {
        let message: Value = match serde_json::from_slice(line) {
            Ok(message @ Value::Object(_)) => message,
            Ok(_) => return self.complain("not an object", line),
            Err(_) => return self.complain("not JSON", line),
        };
        if let Some(greeting) = message.get("QMP") {
            self.greeted(greeting, line, now);
        } else if let Some(event) = message.get("event") {
            match event.as_str() {
                Some(name) if self.stage == Stage::Ready => self.event(name, &message["data"], now),
                _ => self.complain("an event without name or before its time", line),
            }
        } else if let Some(answer) = message.get("return") {
            match self.question(&message) {
                Some(asked) => self.answered(asked, answer, line, now),
                None => self.complain("an answer to nothing", line),
            }
        } else if let Some(error) = message.get("error") {
            let asked = self.question(&message);
            self.refused(asked, error, now);
        } else {
            self.complain("neither event nor answer", line);
        }
    }

    /// A line that was too long to be read.
    pub fn unreadable_line(&mut self) {
        self.complain("a line without end", b"");
    }

    /// The question that a reply belongs to, now answered.
    fn question(&mut self, reply: &Value) -> Option<Asked> {
        let id = reply.get("id")?.as_u64()?;
        let index = self.questions.iter().position(|question| question.id == id)?;
        Some(self.questions.swap_remove(index).asked)
    }

    fn greeted(&mut self, greeting: &Value, line: &[u8], now: Instant) {
        if !matches!(self.stage, Stage::Greeting(_)) {
            return self.complain("a second greeting", line);
        }
        let qemu = &greeting["version"]["qemu"];
        let part = |name: &str| qemu[name].as_u64();
        self.status.version = match (part("major"), part("minor"), part("micro")) {
            (Some(major), Some(minor), Some(micro)) => Some(format!("{major}.{minor}.{micro}")),
            _ => None,
        };
        self.stage = Stage::Negotiating;
        self.next_look = now + PATIENCE;
        self.ask(Asked::Capabilities, json!(null), now);
    }

    fn answered(&mut self, asked: Asked, answer: &Value, line: &[u8], now: Instant) {
        if !answer.is_object() {
            return self.complain("an answer that is no object", line);
        }
        let text = |name: &str| answer[name].as_str().map(|text| clip(text.as_bytes()));
        match asked {
            Asked::Capabilities => {
                self.stage = Stage::Ready;
                self.status.connected = true;
                self.status.connections += 1;
                self.effects.push(Effect::Ready);
                self.next_look = now + LOOK;
                self.look(now);
                self.pursue(now);
            }
            Asked::Migration => {
                // Without a migration there is no status.
                self.migration_is(text("status").unwrap_or_else(|| "none".into()));
            }
            Asked::ColoStatus => match text("mode") {
                Some(mode) => {
                    if self.role.is_other(&mode) && self.status.colo_mode.as_ref() != Some(&mode) {
                        let wanted = self.role.mode();
                        tracing::warn!(peer = self.status.peer, mode, wanted, "the wrong QEMU");
                    }
                    self.status.colo_mode = Some(mode);
                }
                None => self.complain("a COLO status without mode", line),
            },
            Asked::Parameters => match answer["x-checkpoint-delay"].as_u64() {
                Some(delay) => {
                    self.status.checkpoint_delay = Some(delay);
                    if self.status.stopped {
                        // A checkpoint began meanwhile; after it.
                        self.wanted = true;
                    } else {
                        self.ask(Asked::Delay, json!({ "x-checkpoint-delay": delay }), now);
                    }
                }
                None => self.complain("parameters without x-checkpoint-delay", line),
            },
            Asked::Delay => self.status.requests += 1,
        }
    }

    fn refused(&mut self, asked: Option<Asked>, error: &Value, now: Instant) {
        let class = error["class"].as_str().unwrap_or_default();
        if asked == Some(Asked::ColoStatus) && class == "CommandNotFound" {
            // Nothing that matters depends on it.
            self.knows_colo_status = false;
            return;
        }
        let what = asked.map_or("a command", Asked::command);
        let reason = clip(error["desc"].as_str().unwrap_or("no reason given").as_bytes());
        self.status.refused += 1;
        if worth_a_line(self.status.refused) {
            tracing::warn!(peer = self.status.peer, what, reason, "QEMU refused");
        }
        self.status.last_error = Some(format!("{what} was refused: {reason}"));
        if asked == Some(Asked::Capabilities) {
            // Nothing else may be said; unless it greets again, it is disconnected in a while.
            self.stage = Stage::Greeting(now);
        }
    }

    fn event(&mut self, name: &str, data: &Value, now: Instant) {
        match name {
            "STOP" => self.status.stopped = true,
            "RESUME" => self.resumed(now),
            "COLO_EXIT" => self.colo_exit(data),
            // Sent when some client has turned on the capability `events`.
            "MIGRATION" => {
                if let Some(status) = data["status"].as_str() {
                    self.migration_is(clip(status.as_bytes()));
                }
            }
            _ => {}
        }
    }

    fn resumed(&mut self, now: Instant) {
        self.status.stopped = false;
        match self.colo {
            Colo::On => self.checkpoint_done(),
            Colo::Off => {
                // COLO may have begun since the last look.
                self.doubtful_resume = true;
                self.ask_once(Asked::Migration, now);
            }
            Colo::Left => {}
        }
        self.pursue(now);
    }

    fn checkpoint_done(&mut self) {
        self.status.checkpoints += 1;
        // One flush serves several that are done by the time it is made.
        if self.effects.last() != Some(&Effect::CheckpointDone) {
            self.effects.push(Effect::CheckpointDone);
        }
    }

    fn colo_exit(&mut self, data: &Value) {
        if data["mode"].as_str().is_some_and(|mode| self.role.is_other(mode)) {
            let wanted = self.role.mode();
            tracing::warn!(
                peer = self.status.peer,
                wanted,
                "the wrong QEMU's COLO_EXIT is ignored"
            );
            return;
        }
        let reason = clip(data["reason"].as_str().unwrap_or("none").as_bytes());
        if self.colo == Colo::Off {
            // COLO may have begun since the last look.
            self.enter_colo();
        }
        self.leave_colo(Colo::Left, || format!("COLO_EXIT, reason {reason}"));
    }

    fn migration_is(&mut self, status: String) {
        match (self.colo, status == "colo") {
            (Colo::Off | Colo::On, true) => {
                self.enter_colo();
                if std::mem::take(&mut self.doubtful_resume) {
                    self.checkpoint_done();
                }
            }
            (_, false) => {
                self.leave_colo(Colo::Off, || format!("the migration is {status}"));
            }
            (Colo::Left, true) => {}
        }
        self.doubtful_resume = false;
        self.status.migration = Some(status);
    }

    fn enter_colo(&mut self) {
        self.colo = Colo::On;
        self.status.in_colo = true;
    }

    fn leave_colo(&mut self, to: Colo, cause: impl FnOnce() -> String) {
        let was = std::mem::replace(&mut self.colo, to);
        self.status.in_colo = false;
        if was == Colo::On {
            self.effects.push(Effect::ColoEnded(cause()));
        }
    }

    fn complain(&mut self, what: &str, line: &[u8]) {
        self.status.unintelligible += 1;
        let line = clip(line);
        if worth_a_line(self.status.unintelligible) {
            let seen = self.status.unintelligible;
            tracing::warn!(peer = self.status.peer, what, line, seen, "ignored from QMP");
        }
        self.status.last_error = Some(format!("{what}: {line}"));
    }
}

/// The start of what a peer said, without what would disturb a terminal.
fn clip(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(QUOTED)]);
    text.chars().map(|c| if c.is_control() { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests;
