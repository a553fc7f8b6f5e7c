//! Lines out of a byte stream, with a bound on what is stored.

/// Longest line. QEMU's answers to what is asked here have a few kilobytes.
pub const LONGEST: usize = 1 << 20;

/// Collects the lines of one connection.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Up to here no line ends.
    searched: usize,
    /// The rest of a line that was too long is still to come.
    skipping: bool,
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Its bytes, without the end.
    Whole(Vec<u8>),
    /// It was longer than [`LONGEST`]. Its bytes are gone; what follows it is read.
    TooLong,
}

impl Lines {
    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line; `None` when more must arrive.
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.buffer.len();
                if self.skipping || self.searched > LONGEST {
                    self.skipping = true;
                    self.clear();
                }
                return None;
            };
            self.searched = 0;
            let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
            line.pop();
            if std::mem::take(&mut self.skipping) || line.len() > LONGEST {
                return Some(Line::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Some(Line::Whole(line));
            }
        }
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.searched = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Option<Line> {
        Some(Line::Whole(text.into()))
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::default();
        lines.push(b"on");
        assert_eq!(lines.next_line(), None);
        lines.push(b"e\r\n\n  \ntwo\nthr");
        assert_eq!(lines.next_line(), whole("one\r"));
        assert_eq!(lines.next_line(), whole("two"));
        assert_eq!(lines.next_line(), None);
        lines.push(b"ee\n");
        assert_eq!(lines.next_line(), whole("three"));
    }

    #[test]
    fn a_line_without_end_is_not_stored_and_the_next_one_is_read() {
        let mut lines = Lines::default();
        for _ in 0..20 {
            lines.push(&vec![b'x'; LONGEST / 4]);
            assert_eq!(lines.next_line(), None);
            assert!(lines.buffer.len() <= LONGEST);
        }
        lines.push(b"x\nnext\n");
        assert_eq!(lines.next_line(), Some(Line::TooLong));
        assert_eq!(lines.next_line(), whole("next"));
    }
}
