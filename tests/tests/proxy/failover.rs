//! One host is lost while transfers are under way.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use colo_tests::load::{Crowd, Download, Progress, Style, Talk, Transfer, Upload};
use colo_tests::pair::{Family, Pair, Plan};
use colo_tests::{Result, needs_root};

use crate::pages;

/// Content of one transfer, and how fast it goes: seconds, of which the loss comes early.
const LENGTH: u64 = 30_000_000;
const RATE: u64 = 8_000_000;
/// How much has come when the host is lost.
const EARLY: u64 = 3_000_000;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Transfers and idle connections over both families.
struct UnderWay {
    transfers: Vec<(Progress, JoinHandle<Result<Transfer>>)>,
    talks: Vec<Talk>,
}

impl UnderWay {
    /// Begins them and waits until every transfer has got some way.
    fn begin(pair: &Pair) -> Result<Self> {
        let mut this = Self { transfers: Vec::new(), talks: Vec::new() };
        for (seed, (family, server)) in
            (300..).step_by(10).zip(Family::BOTH.into_iter().zip(pages()))
        {
            let mut talk = pair.client().run(|| Talk::open(family.guest()))?;
            talk.say("before")?;
            this.talks.push(talk);
            let progress = Progress::default();
            let watched = progress.clone();
            let download = Download::new(seed, LENGTH).paced(RATE);
            let run = move || download.run(server, &watched);
            this.transfers.push((progress, pair.client().spawn(run)?));
            let progress = Progress::default();
            let watched = progress.clone();
            // As fast as it goes, and so long that it does not end before the loss.
            let upload = Upload::new(seed + 1, 4 * LENGTH);
            let run = move || upload.run(server, &watched);
            this.transfers.push((progress, pair.client().spawn(run)?));
        }
        for (progress, _) in &this.transfers {
            progress.reach(EARLY, PATIENCE)?;
        }
        Ok(this)
    }

    /// How many had not ended.
    fn unfinished(&self) -> usize {
        self.transfers.iter().filter(|(_, thread)| !thread.is_finished()).count()
    }

    /// Expects that each comes to its proper end.
    fn complete(self) -> Result {
        for mut talk in self.talks {
            talk.say("after")?;
            talk.end()?;
        }
        for (progress, thread) in self.transfers {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.with_context(|| format!("{} bytes had come", progress.bytes()))?;
        }
        Ok(())
    }
}

/// New connections, after the loss.
fn connect_anew(pair: &Pair) -> Result {
    let within = Duration::from_secs(30);
    let crowd = Crowd { connections: 100, at_a_time: 8, style: Style::Short, seed: 4, within };
    pair.client().run(|| Ok(crowd.run(&pages())))?.check(100)
}

#[test]
fn the_secondary_is_lost_and_an_operator_says_so() -> Result {
    needs_root!();
    let mut pair = Pair::new(Plan::default(), &[])?;
    let under_way = UnderWay::begin(&pair)?;
    pair.lose_secondary()?;
    std::thread::sleep(Duration::from_millis(500));
    assert!(under_way.unfinished() >= 2, "they were over before the loss");
    pair.comparator().control().call(&["failover"])?;
    pair.comparator().event("standalone")?;
    under_way.complete()?;
    connect_anew(&pair)?;
    pair.finish()?;
    Ok(())
}

#[test]
fn the_secondary_is_lost_and_the_comparator_sees_it() -> Result {
    needs_root!();
    let mut pair = Pair::new(Plan::default(), &["--on-link-loss", "failover"])?;
    let under_way = UnderWay::begin(&pair)?;
    pair.lose_secondary()?;
    let lost = pair.comparator().event("link-lost")?;
    assert_eq!(lost["action"], "failover", "{lost}");
    pair.comparator().event("standalone")?;
    under_way.complete()?;
    connect_anew(&pair)?;
    pair.finish()?;
    Ok(())
}

#[test]
fn the_primary_is_lost() -> Result {
    needs_root!();
    for distant_numbers in [false, true] {
        let plan = Plan { distant_numbers, ..Plan::default() };
        let mut pair = Pair::new(plan, &[])?;
        let under_way = UnderWay::begin(&pair)?;
        pair.lose_primary()?;
        std::thread::sleep(Duration::from_millis(500));
        assert!(under_way.unfinished() >= 2, "they were over before the loss");
        pair.relay().control().call(&["failover"])?;
        let event = pair.relay().event("failed-over")?;
        assert!(event["connections"].as_u64().is_some_and(|count| count >= 6), "{event}");
        under_way.complete()?;
        connect_anew(&pair)?;
        pair.finish()?;
    }
    Ok(())
}
