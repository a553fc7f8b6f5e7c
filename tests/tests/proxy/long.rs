//! Long transfers.

use colo_tests::pair::{Congestion, Pair, Plan};
use colo_tests::{Result, needs_root};

use crate::{both_ways, finish_identical, pages};

/// Content of one transfer.
const LENGTH: u64 = 100_000_000;

#[test]
fn a_hundred_megabytes_each_way_at_the_same_time() -> Result {
    needs_root!();
    for (seed, server) in (10..).step_by(10).zip(pages()) {
        for congestion in Congestion::available()? {
            let pair = Pair::new(Plan { congestion, ..Plan::default() }, &[])?;
            both_ways(&pair, server, seed, LENGTH)?;
            finish_identical(pair)?;
        }
    }
    Ok(())
}

#[test]
fn between_guests_with_numbers_far_apart() -> Result {
    needs_root!();
    let plan = Plan { distant_numbers: true, ..Plan::default() };
    let pair = Pair::new(plan, &[])?;
    for (seed, server) in (30..).step_by(10).zip(pages()) {
        both_ways(&pair, server, seed, LENGTH / 4)?;
    }
    finish_identical(pair)?;
    Ok(())
}

#[test]
fn jumbo_frames() -> Result {
    needs_root!();
    let pair = Pair::new(Plan { mtu: 3000, ..Plan::default() }, &[])?;
    for (seed, server) in (50..).step_by(10).zip(pages()) {
        both_ways(&pair, server, seed, LENGTH / 10)?;
    }
    finish_identical(pair)?;
    Ok(())
}
