//! Processes that are killed at random moments under load.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use colo_tests::capture::PATIENCE;
use colo_tests::load::Latencies;
use colo_tests::packet::Packet;
use colo_tests::pair::{PairLaunch, Plan as PairPlan};
use colo_tests::payload::{Seed, bytes, with_flipped_byte};
use colo_tests::segment::Segment;
use colo_tests::{
    Attachment, Launch, Namespace, Plan, Program, Result, Role, Topology, needs_root,
};
use serde_json::Value;

use crate::load::{Chatter, Listener, Transfers, pair};

/// How often a process is killed, unless `COLO_FAULT_KILLS` says otherwise.
const KILLS: usize = 15;
/// The longest time from the first frame after a start to the next kill.
const RUN: usize = 150_000;
/// Frames under way when it is killed arrive within this time.
const SILENCE: Duration = Duration::from_millis(20);
/// What is promised of the time from a start to the first frame.
const PROMISED: Duration = Duration::from_secs(1);

fn kills() -> Result<usize> {
    match std::env::var("COLO_FAULT_KILLS") {
        Ok(number) => number.parse().context("COLO_FAULT_KILLS"),
        Err(_) => Ok(KILLS),
    }
}

/// The seed of all moments; printed, so that a failure can be repeated.
#[allow(clippy::print_stdout, reason = "belongs to the report of a failing test")]
fn seed() -> Result<Seed> {
    let number = match std::env::var("COLO_FAULT_SEED") {
        Ok(number) => number.parse().context("COLO_FAULT_SEED")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into(),
    };
    println!("COLO_FAULT_SEED={number}");
    Ok(Seed::new(number))
}

/// A moment up to [`RUN`] microseconds away.
fn moment(seed: &mut Seed) -> Duration {
    Duration::from_micros(seed.below(RUN) as u64)
}

/// What restarts took.
#[derive(Default)]
struct Restarts {
    times: Vec<Duration>,
    /// What they used of a processor: the same however busy the machine is.
    worked: Vec<Duration>,
}

impl Restarts {
    /// Notes one that has just come about.
    fn note(&mut self, started: Instant, program: &Program) -> Result {
        self.times.push(started.elapsed());
        self.worked.push(program.processor_time()?);
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "the figures of docs/testing.md")]
    fn report(&self, what: &str) {
        for (of, durations) in [("time", &self.times), ("processor time", &self.worked)] {
            let durations: Latencies = durations.iter().copied().collect();
            let [p50, p90, p99, most] =
                [50, 90, 99, 100].map(|percent| durations.percentile(percent).as_millis());
            println!(
                "{what}: {} times; {of}: p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, most {most} ms",
                durations.count()
            );
        }
    }
}

/// This test, and what it starts from now on, goes before what else the machine does: the time of a
/// restart is to be measured, not that of the queue for a processor.
fn hurry() -> Result {
    let thread = nix::unistd::gettid().to_string();
    let renice = Command::new("renice").args(["-n", "-20", "-p", &thread]).output()?;
    ensure!(renice.status.success(), "{}", String::from_utf8_lossy(&renice.stderr));
    Ok(())
}

/// The XDP programs on devices, by device: what the kernel answers over netlink.
fn programs(host: &Namespace) -> Result<BTreeMap<String, u64>> {
    let listing = host.command("ip", &["-json", "-details", "link", "show"])?;
    let devices: Vec<Value> = serde_json::from_slice(&listing.stdout)?;
    let program = |device: &Value| {
        Some((device["ifname"].as_str()?.to_owned(), device["xdp"]["prog"]["id"].as_u64()?))
    };
    Ok(devices.iter().filter_map(program).collect())
}

/// Pins that are left of these devices.
fn pins(topology: &Topology) -> Result<String> {
    let mut pins = String::new();
    for role in Role::ALL {
        let name = format!("*{}*", topology.device(role));
        let found = topology.host().command("find", &["/sys/fs/bpf", "-name", &name])?;
        pins += &String::from_utf8_lossy(&found.stdout);
    }
    Ok(pins)
}

#[test]
fn whenever_it_is_killed_nothing_leaks_and_a_restart_goes_on_within_a_second() -> Result {
    needs_root!();
    hurry()?;
    let (kills, mut seed) = (kills()?, seed()?);
    let mut restarts = Restarts::default();
    for primary in [Attachment::Tap, Attachment::Veth] {
        let mut topology = Topology::new(Plan { primary, ..Plan::default() })?;
        // Nothing that is held times out while a process lives.
        let launch = Launch::on(&topology).arguments(&["--compare-timeout", "60000"]);
        let kills = if primary == Attachment::Tap { kills - kills / 3 } else { kills / 3 };
        under_chatter(&mut topology, &launch, kills, &mut seed, &mut restarts)?;
        ensure!(programs(topology.host())?.is_empty(), "a clean exit leaves no program");
        ensure!(pins(&topology)?.is_empty(), "pins are left: {}", pins(&topology)?);
    }
    restarts.report("from the restart to the first compared frame");
    let median = restarts.times.iter().copied().collect::<Latencies>().percentile(50);
    ensure!(median < PROMISED, "half of all restarts took {median:?} or more");
    Ok(())
}

/// Kills the comparator `kills` times while both guests speak; at the end stops it properly.
fn under_chatter(
    topology: &mut Topology,
    launch: &Launch,
    kills: usize,
    seed: &mut Seed,
    restarts: &mut Restarts,
) -> Result {
    let (primary, secondary, client, host) = topology.parts();
    let chatter = Chatter::default();
    // Before the first word: until it runs, frames pass.
    let mut comparator = launch.clone().start(host)?;
    std::thread::scope(|scope| {
        let speakers = scope.spawn(|| chatter.go_on(primary, secondary));
        let faults = || -> Result {
            let mut listener = Listener::default();
            listener.hear(client, PATIENCE)?.context("nothing leaves")?;
            let mut attached = programs(host)?;
            for kill in 0..kills {
                listener.hear_for(client, moment(seed))?;
                comparator.status()?.check_conservation()?;
                comparator.kill()?;
                listener.hear_the_last(client, SILENCE)?;
                ensure!(programs(host)? == attached, "a crash leaves the devices closed");
                // Nothing leaves until somebody compares again, though both guests go on.
                let said = chatter.said();
                while chatter.said() < said + 20 {
                    let leaked = listener.hear(client, SILENCE)?;
                    ensure!(leaked.is_none(), "frame {leaked:?} left while nobody compared");
                }
                let started = Instant::now();
                comparator = launch.clone().start(host)?;
                let heard = listener.hear(client, PATIENCE)?;
                ensure!(heard.is_some(), "nothing leaves after restart {kill}");
                restarts.note(started, &comparator)?;
                let now = programs(host)?;
                let is_replaced =
                    |(device, id): (&String, &u64)| now.get(device).is_some_and(|it| it != id);
                ensure!(
                    now.len() == attached.len() && attached.iter().all(is_replaced),
                    "the programs are not those of the new process: {attached:?}, now {now:?}"
                );
                attached = now;
            }
            listener.hear_for(client, moment(seed))?;
            chatter.end();
            // The primary's own words would leave with the flush at a clean end: this is no end of
            // COLO but of the test, so the last process dies too, and the next has nothing to flush.
            comparator.status()?.check_conservation()?;
            comparator.kill()?;
            listener.hear_the_last(client, SILENCE)?;
            launch.clone().start(host)?.stop()?;
            let late = listener.hear(client, SILENCE)?;
            ensure!(late.is_none(), "frame {late:?} left, held by a process that is dead");
            Ok(())
        };
        let outcome = faults();
        // On every way out, or the scope would wait for long.
        chatter.end();
        speakers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome
    })
}

#[test]
fn with_on_exit_open_no_kill_leaves_a_program_that_stops_the_primary() -> Result {
    needs_root!();
    let mut seed = seed()?;
    let mut topology = Topology::new(Plan::default())?;
    let launch = Launch::on(&topology).arguments(&["--on-exit", "open"]);
    let frame = Packet::v4().udp(1, 2, b"passes");
    for _ in 0..3 {
        let comparator = launch.clone().start(topology.host())?;
        std::thread::sleep(moment(&mut seed));
        comparator.kill()?;
        topology.primary.send(&frame)?;
        topology.client.capture().expect(&[&frame])?;
        topology.secondary.send(&frame)?;
        topology.client.capture().expect_nothing(SILENCE)?;
    }
    launch.start(topology.host())?.stop()?;
    ensure!(programs(topology.host())?.is_empty() && pins(&topology)?.is_empty());
    Ok(())
}

/// The next process sees first what the primary says after what was held, and then that again.
#[test]
fn what_a_process_that_died_had_held_is_compared_when_it_is_said_again() -> Result {
    needs_root!();
    let mut topology = Topology::new(Plan::default())?;
    let launch = Launch::on(&topology).arguments(&["--compare-timeout", "60000"]);
    let say = |at: u32, payload: &[u8]| {
        let segment = Segment::new(80, 4000).acknowledgement(1).sequence(at).payload(payload);
        segment.frame(&Packet::v4())
    };
    let (held, later) = (bytes(1, 1000), bytes(2, 1000));
    let comparator = launch.clone().start(topology.host())?;
    topology.primary.send(&say(1000, &held))?;
    comparator.control().await_status("one held", PATIENCE, |it| it.count("held") == 1)?;
    comparator.kill()?;

    let mut comparator = launch.start(topology.host())?;
    topology.primary.send(&say(2000, &later))?;
    topology.primary.send(&say(1000, &held))?;
    topology.client.capture().expect_nothing(SILENCE)?;
    topology.secondary.send(&say(1000, &with_flipped_byte(&held, 999)))?;
    ensure!(comparator.event("divergence")?["reason"] == "payload");
    topology.client.capture().expect_nothing(SILENCE)?;
    comparator.kill()
}

#[test]
fn connections_outlive_every_kill_of_the_comparator_and_of_the_relay() -> Result {
    needs_root!();
    hurry()?;
    let (kills, mut seed) = (kills()?.div_ceil(5), seed()?);
    let mut pair = pair(PairLaunch::on(PairPlan::default()))?;
    let mut transfers = Transfers::begin(&pair)?;
    let (mut comparator, mut relay) = (Restarts::default(), Restarts::default());
    for _ in 0..kills {
        std::thread::sleep(moment(&mut seed));
        pair.kill_comparator()?;
        let started = Instant::now();
        pair.restart_comparator()?;
        comparator.note(started, pair.comparator())?;
        transfers.come_again().context("after a kill of the comparator")?;
        pair.comparator().status()?.check_conservation()?;

        std::thread::sleep(moment(&mut seed));
        pair.kill_relay()?;
        let started = Instant::now();
        pair.restart_relay()?;
        relay.note(started, pair.relay())?;
        transfers.come_again().context("after a kill of the relay")?;
        pair.comparator().status()?.check_conservation()?;
    }
    let made = transfers.end()?;
    ensure!(made > 0, "no transfer was made");
    comparator.report("restart of the comparator with its mirror, under TCP");
    relay.report("restart of the relay, under TCP");
    pair.finish_despite_loss()?.check_identical()
}
