//! The wall clock jumps.
//!
//! It cannot be set on a machine that others use. Instead the comparator and the relay run with a
//! library in front of the C library's that answers every question for the wall clock with another day,
//! back and forth. What this shows: nothing that these processes do depends on what the wall clock
//! says, however often and far it jumps. What it does not: timers that the kernel itself keeps by the
//! wall clock (there are none: `timerfd`, `clock_nanosleep` and `pthread_cond_timedwait` with it would
//! have been asked for after a look at that clock, which jumps here too). The XDP programs have no
//! wall clock: `bpf_ktime_get_ns` is monotonic.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use colo_tests::comparator::binary;
use colo_tests::packet::Packet;
use colo_tests::pair::{PairLaunch, Plan as PairPlan};
use colo_tests::payload::bytes;
use colo_tests::{Launch, Plan, Result, Stage, Topology, needs_root};
use tempfile::TempDir;

use crate::load::{Transfers, pair};

const SHIM: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Up to ten years ahead or back, another way at every call. */
static long jump(void)
{
    static long calls;
    long call = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    return (call % 2 ? 1 : -1) * (call * 2654435761L % 3650) * 86400L;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        time->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *time, void *zone)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
";

/// A `colo-xdp` for which the wall clock jumps.
struct Jumping {
    _directory: TempDir,
    program: PathBuf,
}

impl Jumping {
    fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("shim.c"), SHIM)?;
        let (source, library) = (path("shim.c"), path("shim.so"));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status()
            .context("cc")?;
        ensure!(compiled.success(), "cc: {compiled}");
        let program = path("colo-xdp");
        write_script(&program, &library)?;
        Ok(Self { _directory: directory, program })
    }
}

fn write_script(program: &Path, library: &Path) -> Result {
    let binary = std::fs::canonicalize(binary())?;
    let script = format!(
        "#!/bin/sh\nLD_PRELOAD='{}' exec '{}' --log debug \"$@\"\n",
        library.display(),
        binary.display()
    );
    std::fs::write(program, script)?;
    std::fs::set_permissions(program, Permissions::from_mode(0o755))?;
    Ok(())
}

/// Expects that the times in front of the lines of a log go back and forth by months: the clock really
/// jumps for this process.
fn expect_jumps(log: &str) -> Result {
    let months: Vec<&str> = log.lines().filter_map(|line| line.get(..7)).collect();
    let is_month = |text: &&str| text.as_bytes()[4] == b'-' && text[..4].parse::<u32>().is_ok();
    let mut months: Vec<&str> = months.into_iter().filter(is_month).collect();
    let back = months.windows(2).filter(|pair| pair[1] < pair[0]).count();
    months.sort_unstable();
    months.dedup();
    ensure!(back > 0 && months.len() > 2, "the clock did not jump: {log}");
    Ok(())
}

#[test]
fn what_is_held_times_out_after_the_time_that_truly_passed() -> Result {
    needs_root!();
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let jumping = Jumping::new()?;
    let topology = Topology::new(Plan::default())?;
    let comparator = Launch::on(&topology)
        .binary(&jumping.program)
        .arguments(&["--compare-timeout", "1500"])
        .start(topology.host())?;
    let mut stage = Stage { comparator, topology };
    let same: Vec<_> = (0..100).map(|n| Packet::v4().udp(1, 2, &bytes(n, 200))).collect();
    stage.exchange(&same)?;
    for (round, alone) in (0..2).map(|n| (n, Packet::v6().udp(9, 9, &bytes(n, 50)))) {
        let sent = Instant::now();
        stage.primary(&[&alone])?;
        let found = stage.comparator.event("divergence")?;
        let took = sent.elapsed();
        ensure!(found["reason"] == "timeout", "{found}");
        let waited = found["waited_ms"].as_f64().context("waited_ms")?;
        ensure!((1500.0..1700.0).contains(&waited), "{found}");
        ensure!(took >= TIMEOUT && took < 2 * TIMEOUT, "round {round}: found after {took:?}");
        stage.comparator.event("checkpoint-requested")?;
        // Asked for again every second, and not more often.
        stage.comparator.no_event("checkpoint-requested", Duration::from_millis(700))?;
        stage.comparator.event_within("checkpoint-requested", Duration::from_secs(2))?;
        stage.checkpoint()?;
        stage.client().expect(&[alone])?;
    }
    stage.exchange(&same)?;
    expect_jumps(&stage.comparator.log())?;
    stage.finish()?;
    Ok(())
}

#[test]
fn connections_through_the_proxy_do_not_notice() -> Result {
    needs_root!();
    let jumping = Jumping::new()?;
    let mut pair = pair(PairLaunch::on(PairPlan::default()).binary(&jumping.program))?;
    let mut transfers = Transfers::begin(&pair)?;
    transfers.come_again()?;
    transfers.end()?;
    for (name, log) in [("comparator", pair.comparator().log()), ("relay", pair.relay().log())] {
        expect_jumps(&log).context(name)?;
    }
    pair.finish()?.check_identical()
}
