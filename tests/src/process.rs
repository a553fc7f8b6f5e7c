//! Child processes with an end.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::unistd::{SysconfVar, sysconf};

use crate::Result;
use crate::namespace::Namespace;

/// Between two looks at a child.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Runs `command` to its end, whatever its status, and kills it after `within`.
pub(crate) fn run_to_end(
    command: &mut Command,
    input: Option<&str>,
    within: Duration,
) -> Result<Output> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let mut stdout = child.stdout.take().context("stdout is piped")?;
    let mut stderr = child.stderr.take().context("stderr is piped")?;
    let (status, stdout, stderr) = thread::scope(|scope| -> Result<_> {
        let out = scope.spawn(move || read_to_end(&mut stdout));
        let err = scope.spawn(move || read_to_end(&mut stderr));
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes())?;
        }
        let status = wait(&mut child, within)?;
        if status.is_none() {
            child.kill()?;
            child.wait()?;
        }
        let join =
            |reader: thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
        Ok((status, join(out), join(err)))
    })?;
    let Some(status) = status else {
        bail!("{what} still ran after {within:?}: {}", String::from_utf8_lossy(&stderr));
    };
    Ok(Output { status, stdout, stderr })
}

fn read_to_end(pipe: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}

/// Waits for the end of `child`; none when `within` passes first.
pub(crate) fn wait(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// A command that starts another program, to be appended, in `namespace` if given, and that the
/// kernel kills when this thread ends, as after a SIGKILL of the whole process.
///
/// Both wrappers replace themselves: the process id is that of the program.
pub(crate) fn tied_to_this_thread(namespace: Option<&Namespace>) -> Command {
    let tie = ["setpriv", "--pdeathsig", "KILL", "--"];
    let Some(namespace) = namespace else {
        let mut command = Command::new(tie[0]);
        command.args(&tie[1..]);
        return command;
    };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.path().display())).arg("--").args(tie);
    command
}

/// User and system time of a process so far (`utime` and `stime`, proc_pid_stat(5)).
///
/// # Errors
/// When it has ended.
pub fn processor_time(id: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may contain blanks; the state follows it as the third field.
    let fields = stat.rsplit_once(')').context("no process name")?.1;
    let ticks = fields.split_whitespace().skip(14 - 3).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has a clock")?;
    Ok(Duration::from_millis(ticks * 1000 / per_second.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_beyond_a_pipes_size_comes_whole() -> Result {
        let output = run_to_end(
            &mut shell("head -c 300000 /dev/zero; exit 3"),
            None,
            Duration::from_secs(9),
        )?;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 300_000));
        Ok(())
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let started = Instant::now();
        let error = run_to_end(&mut shell("exec sleep 30"), None, Duration::from_millis(50))
            .expect_err("it sleeps");
        assert!(error.to_string().contains("still ran"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
