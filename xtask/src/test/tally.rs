//! Adds up the results of many test runners from what they print.

use std::fmt;

/// The start of the line that a test prints when it cannot run here.
const SKIPPED: &str = "SKIPPED:";

/// Results so far.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    passed: u64,
    pub(crate) failed: u64,
    ignored: u64,
    skips: Vec<String>,
}

impl Tally {
    /// Takes in one line of a runner's output. The line that counts is libtest's
    /// `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    pub(crate) fn line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let counts = result.split_once(". ").map_or("", |(_verdict, counts)| counts);
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let (Some(Ok(number)), Some(kind)) =
                (words.next().map(str::parse::<u64>), words.next())
            else {
                continue;
            };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Takes in the lines that tests which could not run have written.
    pub(crate) fn skip_log(&mut self, text: &str) {
        let lines = text.lines().filter(|line| line.starts_with(SKIPPED));
        self.skips.extend(lines.map(str::to_owned));
    }

    /// What the tests that could not run said.
    pub(crate) fn skips(&self) -> &[String] {
        &self.skips
    }

    /// Tests that did not run: ignored by the runner, or given up by themselves.
    pub(crate) fn skipped(&self) -> u64 {
        self.ignored + self.given_up()
    }

    fn given_up(&self) -> u64 {
        self.skips.len() as u64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A test that gives up returns, which its runner counts as passed.
        let passed = self.passed.saturating_sub(self.given_up());
        write!(f, "{passed} passed, {} failed, {} skipped", self.failed, self.skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn results_of_several_runners_add_up() {
        let tally = tally(&[
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 1.20s",
        ]);
        assert_eq!(tally.to_string(), "4 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_gives_up_is_skipped_and_not_passed() {
        let mut tally =
            tally(&["test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"]);
        tally.skip_log("noise\nSKIPPED: tap: not root\nSKIPPED: veth: not root\n");
        assert_eq!(tally.to_string(), "3 passed, 0 failed, 2 skipped");
        assert_eq!(tally.skips(), ["SKIPPED: tap: not root", "SKIPPED: veth: not root"]);
    }

    #[test]
    fn what_a_test_prints_itself_does_not_count() {
        let tally = tally(&["  test result: ok. 9 passed; 0 failed", "9 passed; test result: ok."]);
        assert_eq!(tally, Tally::default());
    }
}
