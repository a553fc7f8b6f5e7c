//! Disks that are full. A comparator writes no files; what it writes are events to standard output and
//! the log to standard error, and both may be files.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use colo_tests::comparator::{binary, run_to_exit};
use colo_tests::packet::Packet;
use colo_tests::payload::{bytes, with_flipped_byte};
use colo_tests::{Plan, Result, Role, Topology, needs_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A file that takes nothing: every write fails with ENOSPC (full(4)).
const FULL: &str = "/dev/full";
const PATIENCE: Duration = Duration::from_secs(10);

/// Ended on every way out.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(topology: &Topology, control: &Path, stdout: File, stderr: File) -> Result<Running> {
    let mut command = Command::new(binary());
    command.args(["--log", "debug", "run", "--json", "--control"]).arg(control);
    for role in Role::ALL {
        command.arg(role.option()).arg(format!("xdp:{}", topology.device(role)));
    }
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    Ok(Running(topology.host().run(|| Ok(command.spawn()?))?))
}

fn ask(control: &Path, request: &str) -> Result<Value> {
    let control = control.to_str().context("a path in UTF-8")?;
    let output = run_to_exit(None, None, &["ctl", "--json", "--control", control, request])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until it answers.
fn await_ready(control: &Path) -> Result {
    let deadline = Instant::now() + PATIENCE;
    while ask(control, "status").is_err() {
        ensure!(Instant::now() < deadline, "it does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Compares, diverges, takes a checkpoint and ends, all of which it has something to say about.
fn exercise(topology: &mut Topology, control: &Path, mut running: Running) -> Result {
    await_ready(control)?;
    let same: Vec<_> = (0..50).map(|n| Packet::v4().udp(1, 2, &bytes(n, 200))).collect();
    let differs = Packet::v6().udp(3, 4, &bytes(99, 200));
    let other = Packet::v6().udp(3, 4, &with_flipped_byte(&bytes(99, 200), 60));
    for round in 0..3 {
        topology.primary.send_all(&same)?;
        topology.secondary.send_all(&same)?;
        topology.client.capture().expect(&same)?;
        topology.primary.send(&differs)?;
        topology.secondary.send(&other)?;
        let deadline = Instant::now() + PATIENCE;
        while ask(control, "status")?["divergences"] != round + 1 {
            ensure!(Instant::now() < deadline, "no divergence is found");
        }
        ask(control, "checkpoint")?;
        topology.client.capture().expect(&[&differs])?;
    }
    ensure!(ask(control, "status")?["frames"]["unaccounted"] == 0);
    kill(Pid::from_raw(running.0.id().cast_signed()), Signal::SIGTERM)?;
    let status = running.0.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_full_disk_under_events_and_log_stops_no_frame() -> Result {
    needs_root!();
    let full = || OpenOptions::new().write(true).open(FULL).context(FULL);
    let nowhere = || Ok::<_, anyhow::Error>(OpenOptions::new().write(true).open("/dev/null")?);
    for (stdout, stderr) in [(full()?, nowhere()?), (nowhere()?, full()?), (full()?, full()?)] {
        let directory = TempDir::with_prefix("colo-")?;
        let control = directory.path().join("control");
        let mut topology = Topology::new(Plan::default())?;
        let running = start(&topology, &control, stdout, stderr)?;
        exercise(&mut topology, &control, running)?;
    }
    Ok(())
}

#[test]
fn events_that_a_full_disk_did_not_take_are_in_the_log() -> Result {
    needs_root!();
    let directory = TempDir::with_prefix("colo-")?;
    let (control, log) = (directory.path().join("control"), directory.path().join("log"));
    let mut topology = Topology::new(Plan::default())?;
    let full = OpenOptions::new().write(true).open(FULL)?;
    let running = start(&topology, &control, full, File::create(&log)?)?;
    exercise(&mut topology, &control, running)?;
    let log = std::fs::read_to_string(&log)?;
    for event in ["ready", "divergence", "checkpoint-requested", "checkpoint-done", "summary"] {
        let named = format!("\"event\\\":\\\"{event}");
        let plain = format!("\"event\":\"{event}");
        ensure!(log.contains(&named) || log.contains(&plain), "no {event} in the log: {log}");
    }
    Ok(())
}
