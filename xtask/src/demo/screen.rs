//! What the person sees.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr, stdout};
use std::time::Duration;

use serde_json::Value;

/// Between two live lines that replace each other.
const REDRAW: Duration = Duration::from_millis(50);
/// Between two live lines that do not.
const SPARSE: Duration = Duration::from_secs(1);

/// Where the story and its result are shown.
///
/// With `--json` standard output carries the result alone and the story goes to standard error.
pub(super) struct Screen {
    json: bool,
    redraws: bool,
    /// A line that the next one replaces is on the screen.
    open_line: Cell<bool>,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let redraws = if json { stderr().is_terminal() } else { stdout().is_terminal() };
        Self { json, redraws, open_line: Cell::new(false) }
    }

    /// One line, or several.
    pub(super) fn say(&self, text: &str) {
        let close = if self.open_line.replace(false) { "\n" } else { "" };
        self.write(&format!("{close}{text}\n"));
    }

    /// The heading of a part of the story.
    pub(super) fn heading(&self, text: &str) {
        self.say(&format!("\n{text}"));
    }

    /// A line that shows how things stand: on a terminal it replaces the one before it, elsewhere
    /// it is a line of its own, so callers show it only when something has changed.
    pub(super) fn live(&self, text: &str) {
        if self.redraws {
            self.open_line.set(true);
            self.write(&format!("\r\x1b[K{text}"));
        } else {
            self.write(&format!("{text}\n"));
        }
    }

    /// How often live lines should come: often where they replace each other.
    pub(super) fn pace(&self) -> Duration {
        if self.redraws { REDRAW } else { SPARSE }
    }

    /// The result: with `--json` the one object on standard output.
    pub(super) fn result(&self, result: &Value) {
        if self.json {
            println!("{result}");
        }
    }

    fn write(&self, text: &str) {
        // A terminal that went away is no reason to leave namespaces behind.
        let _ = if self.json {
            stderr().write_all(text.as_bytes()).and_then(|()| stderr().flush())
        } else {
            stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush())
        };
    }
}

/// Bytes around `at` in hexadecimal and as text, the one at `at` in brackets.
pub(super) fn excerpt(bytes: &[u8], at: usize) -> String {
    /// Bytes on either side.
    const AROUND: usize = 9;
    let range = at.saturating_sub(AROUND)..(at + AROUND).min(bytes.len());
    let (mut hex, mut text) = (String::new(), String::new());
    for index in range {
        let byte = bytes[index];
        let shown = if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
        if index == at {
            let _ = write!(hex, " [{byte:02x}]");
            let _ = write!(text, "[{shown}]");
        } else {
            let _ = write!(hex, " {byte:02x}");
            text.push(shown);
        }
    }
    format!("{hex}   {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_marks_the_byte() {
        assert_eq!(excerpt(b"ab\ncd", 3), " 61 62 0a [63] 64   ab.[c]d");
        assert_eq!(excerpt(b"x", 0), " [78]   [x]");
    }

    #[test]
    fn an_excerpt_shows_only_what_is_near() {
        let bytes = [b'.'; 100];
        assert_eq!(excerpt(&bytes, 50).matches("2e").count(), 18);
    }
}
