//! Connections of every shape: who speaks first, who opens, who closes, and how.

use colo_tests::load::{Called, Download, Talk, abort, banner, fetch, half_close};
use colo_tests::pair::{Family, Pair, Plan};
use colo_tests::service::port;
use colo_tests::{Result, needs_root};

use crate::finish_identical;

/// Runs `shape` over both families, with numbers near and far.
fn over_both_families(shape: impl Fn(Family) -> Result + Sync) -> Result {
    for distant_numbers in [false, true] {
        let pair = Pair::new(Plan { distant_numbers, ..Plan::default() }, &[])?;
        pair.client().run(|| Family::BOTH.into_iter().try_for_each(&shape))?;
        finish_identical(pair)?;
    }
    Ok(())
}

#[test]
fn the_server_speaks_first() -> Result {
    needs_root!();
    over_both_families(|family| (0..20).try_for_each(|lines| banner(family.guest(), lines)))
}

#[test]
fn the_guest_opens_the_connection() -> Result {
    needs_root!();
    over_both_families(|family| {
        let mut talk = Talk::open(family.guest())?;
        for call in 0..10 {
            let called = Called::listen((family.client(), 0).into(), call, 1 + 40_000 * call)?;
            talk.call(2_000 + call as u16, called, 50 + call, 30_000)?;
            talk.say("and again")?;
        }
        talk.end()
    })
}

#[test]
fn the_client_closes_its_half_first() -> Result {
    needs_root!();
    over_both_families(|family| {
        [0, 1, 1_000, 100_000, 3_000_000]
            .into_iter()
            .try_for_each(|length| half_close(family.guest(), length, length))
    })
}

#[test]
fn the_client_resets() -> Result {
    needs_root!();
    over_both_families(|family| {
        for after in [1, 10_000, 1_000_000] {
            abort(family.at(port::PAGES), Download::new(1, 1 << 30), after)?;
        }
        for words in 0..5 {
            let mut talk = Talk::open(family.guest())?;
            (0..words).try_for_each(|_| talk.say("soon gone"))?;
            talk.reset()?;
        }
        // What comes after is none the worse for it.
        fetch(None, family.at(port::PAGES), 1).map(drop)
    })
}

#[test]
fn the_server_resets() -> Result {
    needs_root!();
    over_both_families(|family| {
        for words in 0..5 {
            let mut talk = Talk::open(family.guest())?;
            (0..words).try_for_each(|_| talk.say("soon gone"))?;
            talk.be_reset()?;
        }
        fetch(None, family.at(port::PAGES), 1).map(drop)
    })
}
