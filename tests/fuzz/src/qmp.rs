//! QMP: whatever QEMU says and whenever, a session never says what is not a command, asks for no
//! checkpoint that nobody wanted, reports none that QEMU did not end, and remembers no more than a
//! few lines' worth.

use std::time::{Duration, Instant};

use compare_user::checkpoint::qmp::lines::{LONGEST, Line, Lines};
use compare_user::checkpoint::qmp::session::{Effect, Session};
use compare_user::checkpoint::qmp::{QemuRole, QmpStatus};
use serde_json::Value;

use crate::memory;

/// Most bytes of a peer's text that a status quotes: 120 of the peer's, thrice as many if they are no
/// UTF-8, and our own words around it.
const QUOTED: usize = 600;

/// Part of a line without end.
static BLANKS: [u8; 65_536] = [b' '; 65_536];

/// As often in one input: enough for a line that is too long and part of the next, and no more, or the
/// fuzzer would spend its time on them.
const MOST_BLANKS: usize = 20;

/// Input: bit 0 of the first byte whether this is a secondary's QEMU; then text, in which some control
/// characters, which JSON does not have, are events of other kinds:
///
/// | character | event |
/// |---|---|
/// | 1 | a tenth of a second passes |
/// | 2 | eleven seconds pass |
/// | 3 | a checkpoint is wanted |
/// | 4 | the connection ends and the next one begins |
/// | 5 | what stands before it arrives in a piece of its own |
/// | 6 | 64 KiB without the end of a line |
pub fn check(input: &[u8]) {
    let Some((&kind, script)) = input.split_first() else { return };
    let role = if kind & 1 == 1 { QemuRole::Secondary } else { QemuRole::Primary };
    let start = Instant::now();
    let mut conversation = Conversation {
        role,
        session: Session::new("qemu".into(), role, start),
        lines: Lines::default(),
        now: start,
        last_id: 0,
        wanted: 0,
        asked: 0,
        resumed: 0,
        done: 0,
        unheard: Vec::new(),
        blanks: 0,
    };
    conversation.session.connected(start);
    let ((), usage) = memory::used(|| conversation.follow(script));
    // The JSON in a line takes two bytes there at the least and 32 here, more in maps. A line without
    // end is stored up to its limit: once in a buffer that has doubled, once in the one before while
    // its bytes move, once as a line.
    let long = script.iter().filter(|&&byte| byte == 6).count() * 65_536;
    let most = 400 * script.len() + 5 * long.min(LONGEST + 65_536) + 65_536;
    assert!(usage.peak <= most, "{usage:?} for {} bytes", script.len());
}

struct Conversation {
    role: QemuRole,
    session: Session,
    lines: Lines,
    now: Instant,
    last_id: u64,
    /// Checkpoints that were wanted, and that QEMU was asked for.
    wanted: usize,
    asked: usize,
    /// `RESUME`s that QEMU sent, and checkpoints that were reported.
    resumed: usize,
    done: usize,
    /// What arrived of a line that has not ended: the second reader's own.
    unheard: Vec<u8>,
    /// Parts of lines without end so far.
    blanks: usize,
}

impl Conversation {
    fn follow(&mut self, script: &[u8]) {
        let mut rest = script;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| (1..=6).contains(byte)).unwrap_or(rest.len());
            self.arrive(&rest[..end]);
            match rest.get(end) {
                Some(1) => self.pass(Duration::from_millis(100)),
                Some(2) => self.pass(Duration::from_secs(11)),
                Some(3) => {
                    self.wanted += 1;
                    self.session.request(self.now);
                }
                Some(4) => self.reconnect(),
                Some(6) if self.blanks < MOST_BLANKS => {
                    self.blanks += 1;
                    self.arrive(&BLANKS);
                }
                _ => {}
            }
            self.examine();
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
        let expected = memory::uncounted(|| self.expected_lines(bytes));
        let mut expected = expected.into_iter();
        while let Some(line) = self.lines.next_line() {
            match (line, expected.next()) {
                (Line::Whole(line), Some(Some(expected))) => {
                    assert_eq!(line, expected, "the line that was sent");
                    self.resumed += usize::from(memory::uncounted(|| is_resume(&line)));
                    self.session.line(&line, self.now);
                }
                (Line::TooLong, Some(None)) => self.session.unreadable_line(),
                (line, expected) => panic!("{line:?}, where {expected:?} was sent"),
            }
            self.examine();
        }
        assert_eq!(expected.next(), None, "every line that was sent");
    }

    /// The lines that end in `bytes`; `None` for one that was too long. Blank ones do not count.
    fn expected_lines(&mut self, bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.unheard.extend_from_slice(part);
            if self.unheard.pop_if(|byte| *byte == b'\n').is_some() {
                let line = std::mem::take(&mut self.unheard);
                if line.len() > LONGEST {
                    lines.push(None);
                } else if !line.trim_ascii().is_empty() {
                    lines.push(Some(line));
                }
            }
        }
        lines
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.session.tick(self.now).is_err() {
            self.reconnect();
        }
    }

    fn reconnect(&mut self) {
        self.session.disconnected("the fuzzer said so");
        self.examine();
        self.lines = Lines::default();
        self.unheard.clear();
        self.session.connected(self.now);
    }

    /// Looks at what the session wants done.
    fn examine(&mut self) {
        let effects = self.session.effects();
        assert!(effects.len() <= 8, "one event has few effects: {effects:?}");
        for effect in &effects {
            match effect {
                Effect::Send(line) => self.examine_command(line),
                Effect::Ready => assert!(self.session.status.connected),
                Effect::CheckpointDone => self.done += 1,
                Effect::ColoEnded(cause) => assert!(cause.len() <= QUOTED, "{cause}"),
            }
        }
        assert!(self.done <= self.resumed, "a checkpoint that QEMU did not end");
        // One that QEMU swallowed is asked for again, after its RESUME.
        assert!(self.asked <= self.wanted + self.resumed, "a checkpoint that nobody wanted");
        let _ = self.session.deadline();
        examine_status(&self.session.status);
    }

    fn examine_command(&mut self, line: &str) {
        memory::uncounted(|| {
            let text = line.strip_suffix('\n').expect("a command is a line");
            let command: Value = serde_json::from_str(text).expect("of JSON");
            let id = command["id"].as_u64().expect("with a number");
            assert!(id > self.last_id, "which is new");
            self.last_id = id;
            match command["execute"].as_str().expect("and a name") {
                "qmp_capabilities" | "query-migrate" | "query-colo-status" => {}
                "query-migrate-parameters" => {
                    assert_eq!(self.role, QemuRole::Primary, "a secondary cannot be asked");
                    self.asked += 1;
                }
                "migrate-set-parameters" => {
                    assert_eq!(self.role, QemuRole::Primary);
                    let arguments = command["arguments"].as_object().expect("with an argument");
                    assert_eq!(arguments.len(), 1);
                    let delay = &arguments["x-checkpoint-delay"];
                    assert_eq!(delay.as_u64(), self.session.status.checkpoint_delay);
                }
                other => panic!("{other} is not ours to say"),
            }
        });
    }
}

fn examine_status(status: &QmpStatus) {
    let texts = [&status.version, &status.migration, &status.colo_mode, &status.last_error];
    for text in texts.into_iter().flatten() {
        assert!(text.len() <= QUOTED, "no more than is worth showing: {text}");
        assert!(!text.chars().any(char::is_control), "nothing that disturbs a terminal: {text:?}");
    }
}

fn is_resume(line: &[u8]) -> bool {
    serde_json::from_slice(line).is_ok_and(|message: Value| message["event"] == "RESUME")
}
