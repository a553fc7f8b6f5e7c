//! Runs other programs: says what it runs, shows that it is alive, and fails with the command and
//! its exit status.
//!
//! Everything said here goes to standard error, so that the standard output of an xtask command
//! stays free for its result.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often a quiet command gets a sign of life when standard error is not a terminal.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the last line is redrawn on a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// Lines of a log that are shown when the command failed: enough for apt's and cargo's reasons.
const LOG_TAIL: usize = 25;

/// A command that could not be started or did not succeed.
#[derive(Debug)]
pub(crate) struct CommandFailed {
    line: String,
    how: How,
    tail: Option<(PathBuf, String)>,
}

#[derive(Debug)]
enum How {
    NotStarted(io::Error),
    Broken(io::Error),
    Status(ExitStatus),
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::NotStarted(error) => write!(f, "cannot start `{}`: {error}", self.line)?,
            How::Broken(error) => write!(f, "lost track of `{}`: {error}", self.line)?,
            How::Status(status) => write!(f, "`{}` failed: {status}", self.line)?,
        }
        if let Some((log, tail)) = &self.tail {
            write!(f, "\nlast lines of {}:\n{tail}", log.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for CommandFailed {}

impl CommandFailed {
    fn new(command: &Command, how: How) -> Self {
        Self { line: shell_line(command), how, tail: None }
    }
}

/// The command as one would type it, with the environment it adds and the directory it runs in.
pub(crate) fn shell_line(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        let (name, value) = (name.to_string_lossy(), value?.to_string_lossy());
        // The encoded form separates flags by U+001F, which nobody could paste.
        let name = if name == "CARGO_ENCODED_RUSTFLAGS" { "RUSTFLAGS".into() } else { name };
        Some(format!("{name}={}", quoted(OsStr::new(&value.replace('\u{1f}', " ")))))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints the command that is about to run.
pub(crate) fn announce(command: &Command) {
    eprintln!("$ {}", shell_line(command));
}

/// Runs a command quietly and returns what it wrote to standard output.
///
/// # Errors
/// It could not be started or its status is not success.
pub(crate) fn output(command: &mut Command) -> Result<String, CommandFailed> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| CommandFailed::new(command, How::NotStarted(error)))?;
    checked(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Announces a command and runs it with this terminal as its output, without standard input.
///
/// # Errors
/// It could not be started or its status is not success.
pub(crate) fn run(command: &mut Command) -> Result<(), CommandFailed> {
    announce(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| CommandFailed::new(command, How::NotStarted(error)))?;
    checked(command, status)
}

/// Announces a command and hands every line of its standard output to `line` as it comes.
///
/// # Errors
/// It could not be started, its output could not be read, or its status is not success.
pub(crate) fn run_lines(
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<(), CommandFailed> {
    announce(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| CommandFailed::new(command, How::NotStarted(error)))?;
    let pipe = child.stdout.take().expect("standard output is piped");
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    // Byte-wise: a test may print what is not UTF-8.
    while reader
        .read_until(b'\n', &mut bytes)
        .map_err(|error| CommandFailed::new(command, How::Broken(error)))?
        > 0
    {
        line(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
        bytes.clear();
    }
    let status = child.wait().map_err(|error| CommandFailed::new(command, How::Broken(error)))?;
    checked(command, status)
}

/// Announces a command whose chatter is only of interest if it fails: output goes to `log`, the
/// terminal shows the last line, and the end of the log is part of the error.
///
/// # Errors
/// The log could not be written, or as [`run`].
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<(), CommandFailed> {
    announce(command);
    let not_started =
        |command: &Command, error| CommandFailed::new(command, How::NotStarted(error));
    let open = || -> io::Result<(File, File)> {
        if let Some(directory) = log.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = File::create(log)?;
        Ok((file.try_clone()?, file))
    };
    let (out, err) = open().map_err(|error| not_started(command, error))?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|error| not_started(command, error))?;
    let status = watched(&mut child, log, started)
        .map_err(|error| CommandFailed::new(command, How::Broken(error)))?;
    if status.success() {
        eprintln!("  done in {}", seconds(started.elapsed()));
    }
    checked(command, status).map_err(|mut failed| {
        failed.tail = Some((log.to_path_buf(), tail(log, LOG_TAIL)));
        failed
    })
}

/// Waits for the child and shows meanwhile how far its log has got.
fn watched(child: &mut Child, log: &Path, started: Instant) -> io::Result<ExitStatus> {
    let terminal = io::stderr().is_terminal();
    let mut said = Instant::now();
    let mut poll = Duration::from_millis(5);
    loop {
        if let Some(status) = child.try_wait()? {
            if terminal {
                eprint!("\r\x1b[K");
            }
            return Ok(status);
        }
        if terminal {
            eprint!("\r\x1b[K  {:.100}", tail(log, 1));
            io::stderr().flush()?;
        } else if said.elapsed() >= HEARTBEAT {
            eprintln!("  {} {:.100}", seconds(started.elapsed()), tail(log, 1));
            said = Instant::now();
        }
        thread::sleep(poll);
        // Short at first, so that a command that ends at once is not waited for.
        poll = (poll * 2).min(REDRAW);
    }
}

/// The last non-empty lines of a log, oldest first; empty if it cannot be read.
fn tail(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // A carriage return starts a progress line anew: what stands after the last one is shown.
    let shown = |line: &str| line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
    let mut lines: Vec<String> =
        text.lines().rev().map(shown).filter(|line| !line.is_empty()).take(count).collect();
    lines.reverse();
    lines.join("\n")
}

fn checked(command: &Command, status: ExitStatus) -> Result<(), CommandFailed> {
    if status.success() { Ok(()) } else { Err(CommandFailed::new(command, How::Status(status))) }
}

/// A duration for people: `0.4 s`, `12.0 s`, `3 min 5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(100) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_is_shown_as_it_could_be_pasted() {
        let mut command = Command::new("cargo");
        command.arg("it's").arg("").env("A", "b").env_remove("B");
        assert_eq!(shell_line(&command), r"A=b cargo 'it'\''s' ''");
    }

    #[test]
    fn encoded_flags_are_shown_in_the_form_that_can_be_typed() {
        let mut command = Command::new("cargo");
        command.env("CARGO_ENCODED_RUSTFLAGS", "-C\u{1f}debuginfo=2");
        assert_eq!(shell_line(&command), "RUSTFLAGS='-C debuginfo=2' cargo");
    }

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        let failed = run(&mut shell("exit 7")).expect_err("exits with 7");
        assert_eq!(failed.to_string(), "`/bin/sh -c 'exit 7'` failed: exit status: 7");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let failed = output(&mut Command::new("/nonexistent/program")).expect_err("no such file");
        assert!(
            failed.to_string().starts_with("cannot start `/nonexistent/program`: No such file")
        );
    }

    #[test]
    fn a_logged_failure_carries_the_end_of_its_log() {
        let log = std::env::temp_dir().join(format!("xtask-log-{}", std::process::id()));
        let failed = run_logged(&mut shell("seq 1 100; echo why >&2; exit 1"), &log)
            .expect_err("exits with 1")
            .to_string();
        fs::remove_file(&log).expect("the log was written");
        assert!(failed.ends_with("\n99\n100\nwhy"), "{failed}");
        assert!(!failed.contains("\n75\n"), "only the end: {failed}");
    }

    #[test]
    fn lines_arrive_in_order_whatever_bytes_they_hold() {
        let mut lines = Vec::new();
        run_lines(&mut shell(r"printf 'a\n\377b\nlast'"), |line| lines.push(line.to_owned()))
            .expect("succeeds");
        assert_eq!(lines, ["a", "\u{fffd}b", "last"]);
    }
}
