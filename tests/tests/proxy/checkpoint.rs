//! Idle connections across a checkpoint: afterwards both guests have the same numbers.

use std::thread;
use std::time::Duration;

use anyhow::Context;
use colo_tests::load::{Talk, fetch};
use colo_tests::pair::{Family, Pair, Plan};
use colo_tests::{Result, needs_root, repair};

use crate::{finish_identical, pages};

/// Longer than a delayed acknowledgement waits: then nothing is under way any more.
const IDLE: Duration = Duration::from_millis(300);

/// Makes the guests equal, as far as these connections go, and says so to both programs.
fn checkpoint(pair: &mut Pair, talks: &[Talk]) -> Result {
    thread::sleep(IDLE);
    for talk in talks {
        let client = talk.client()?;
        let primary = pair.primary.conversation(client).context("the primary holds it")?;
        let secondary = pair.secondary.conversation(client).context("the secondary holds it")?;
        repair::checkpoint(&primary, &secondary, &pair.network.secondary.guest)?;
    }
    pair.checkpoint()
}

fn say_to_all(talks: &mut [Talk], text: &str) -> Result {
    talks.iter_mut().try_for_each(|talk| talk.say(text))
}

#[test]
fn idle_connections_go_on_after_a_checkpoint() -> Result {
    needs_root!();
    for distant_numbers in [false, true] {
        let mut pair = Pair::new(Plan { distant_numbers, ..Plan::default() }, &[])?;
        let open = |family: Family| pair.client().run(|| Talk::open(family.guest()));
        let mut talks = Family::BOTH.map(open).into_iter().collect::<Result<Vec<_>>>()?;
        say_to_all(&mut talks, "before")?;
        for round in 0..2 {
            checkpoint(&mut pair, &talks)?;
            say_to_all(&mut talks, &format!("after checkpoint {round}"))?;
            // One that the checkpoint knew nothing of.
            for server in pages() {
                pair.client().run(|| fetch(None, server, round))?;
            }
        }
        talks.into_iter().try_for_each(Talk::end)?;
        let ended = finish_identical(pair)?;
        let comparator = ended.comparator.context("it was not lost")?;
        assert_eq!(comparator.summary.count("checkpoints"), 2);
    }
    Ok(())
}

#[test]
fn after_a_checkpoint_the_secondary_takes_over_without_rewriting() -> Result {
    needs_root!();
    let plan = Plan { distant_numbers: true, ..Plan::default() };
    let mut pair = Pair::new(plan, &[])?;
    let open = |family: Family| pair.client().run(|| Talk::open(family.guest()));
    let mut talks = Family::BOTH.map(open).into_iter().collect::<Result<Vec<_>>>()?;
    say_to_all(&mut talks, "before")?;
    checkpoint(&mut pair, &talks)?;
    say_to_all(&mut talks, "after")?;
    thread::sleep(IDLE);
    pair.lose_primary()?;
    pair.relay().control().call(&["failover"])?;
    pair.relay().event("failed-over")?;
    say_to_all(&mut talks, "on the other side")?;
    talks.into_iter().try_for_each(Talk::end)?;
    pair.finish()?;
    Ok(())
}
