//! Adds up the results of many test runners from what they print.
//!
//! The runners are libtest's, called with `--show-output`: they then print what passing tests said,
//! and among that is the word of a test that could not run. A test that skips returns, which libtest
//! knows only as passed.

use std::fmt;

/// How a line starts that a test prints when it cannot run here.
const SKIPPED: &str = "SKIPPED";

/// Results so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    pub(crate) failed: u64,
    ignored: u64,
    skips: Vec<String>,
    left_out: Vec<String>,
    section: Section,
}

/// Where in a runner's output we are.
#[derive(Debug, Default, Eq, PartialEq)]
enum Section {
    /// The list of tests, the failures, the result.
    #[default]
    Report,
    /// What passing tests said; the name of the current one, until it has skipped.
    Successes(Option<String>),
}

impl Tally {
    /// Takes in one line of a runner's output and says whether it is worth showing: what passing
    /// tests said is not.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.section = Section::Successes(None),
            "failures:" => self.section = Section::Report,
            _ if line.starts_with("test result: ") => {
                self.section = Section::Report;
                self.result(line);
            }
            _ => {}
        }
        let Section::Successes(test) = &mut self.section else { return true };
        if let Some(name) = heading(line) {
            *test = Some(name.to_owned());
        } else if line.starts_with(SKIPPED)
            && let Some(test) = test.take()
        {
            self.skips.push(format!("{test}: {line}"));
        }
        false
    }

    /// Notes that something that is no test of a runner could not run.
    pub(crate) fn skip(&mut self, what: String) {
        self.skips.push(what);
    }

    /// `test result: ok. 3 passed; 0 failed; 0 ignored; ...`
    fn result(&mut self, line: &str) {
        let counts = line.split_once(". ").map_or("", |(_verdict, counts)| counts);
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Takes note of tests that nobody has started, and why.
    pub(crate) fn leave_out(&mut self, what: String) {
        self.left_out.push(what);
    }

    /// Tests that a runner started, whatever came of them.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// Which tests could not run, and what they said.
    pub(crate) fn skips(&self) -> impl Iterator<Item = &String> {
        self.skips.iter().chain(&self.left_out)
    }

    /// Tests that did not run: ignored by the runner, given up by themselves, or never started.
    pub(crate) fn skipped(&self) -> u64 {
        self.ignored + self.given_up() + self.left_out.len() as u64
    }

    fn given_up(&self) -> u64 {
        self.skips.len() as u64
    }
}

/// The test's name in `---- name stdout ----`.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.passed.saturating_sub(self.given_up());
        write!(f, "{passed} passed, {} failed, {} skipped", self.failed, self.skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a transcript and returns what would be shown of it.
    fn feed(tally: &mut Tally, transcript: &str) -> Vec<String> {
        transcript.lines().filter(|line| tally.line(line)).map(str::to_owned).collect()
    }

    #[test]
    fn results_of_several_runners_add_up() {
        let mut tally = Tally::default();
        feed(
            &mut tally,
            "running 3 tests\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 1.20s",
        );
        assert_eq!(tally.to_string(), "4 passed, 2 failed, 1 skipped");
    }

    const WITH_SKIPS: &str = "\
running 3 tests
test tap ... ok
test veth ... ok
test quiet ... ok

successes:

---- tap stdout ----
about to look
SKIPPED tap: needs root
SKIPPED tap: said twice

---- veth stdout ----
SKIPPED: not root


successes:
    quiet
    tap
    veth

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";

    #[test]
    fn a_test_that_gives_up_is_skipped_once_and_not_passed() {
        let mut tally = Tally::default();
        feed(&mut tally, WITH_SKIPS);
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 2 skipped");
        assert_eq!(
            tally.skips().collect::<Vec<_>>(),
            ["tap: SKIPPED tap: needs root", "veth: SKIPPED: not root"]
        );
    }

    #[test]
    fn what_nobody_started_is_skipped_and_takes_nothing_from_those_that_passed() {
        let mut tally = Tally::default();
        feed(&mut tally, "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured");
        tally.leave_out("the virtual machine: no kernel".into());
        assert_eq!(tally.to_string(), "3 passed, 0 failed, 1 skipped");
        assert_eq!(tally.skips().collect::<Vec<_>>(), ["the virtual machine: no kernel"]);
    }

    #[test]
    fn what_passing_tests_said_is_not_shown() {
        let shown = feed(&mut Tally::default(), WITH_SKIPS);
        assert!(shown.iter().any(|line| line == "test tap ... ok"));
        assert!(shown.last().is_some_and(|line| line.starts_with("test result: ok.")));
        assert!(!shown.iter().any(|line| line.contains("about to look")), "{shown:?}");
    }

    #[test]
    fn what_failing_tests_said_is_shown_and_is_no_skip() {
        let mut tally = Tally::default();
        let shown = feed(
            &mut tally,
            "successes:\n\nsuccesses:\n    fine\n\nfailures:\n\n---- broken stdout ----\n\
             SKIPPED nothing, it broke\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert!(shown.iter().any(|line| line == "SKIPPED nothing, it broke"));
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 0 skipped");
    }
}
