//! Many short connections.

use std::time::Duration;

use colo_tests::load::{Crowd, Style};
use colo_tests::pair::{Family, Pair, PairLaunch, Plan};
use colo_tests::{Result, needs_root};

use crate::{finish_identical, pages};

fn crowd(connections: usize) -> Crowd {
    let within = Duration::from_secs(60);
    Crowd { connections, at_a_time: 32, style: Style::Short, seed: 1, within }
}

#[test]
fn two_thousand_connections_thirty_two_at_a_time() -> Result {
    needs_root!();
    let mut pair = Pair::new(Plan::default(), &[])?;
    let tally = pair.client().run(|| Ok(crowd(2_000).run(&pages())))?;
    tally.check(2_000)?;
    let relay = pair.relay().status()?;
    assert_eq!(relay.count("connections.evicted"), 0, "{}", relay.0);
    assert!(relay.count("connections.learned") >= 2_000, "{}", relay.0);
    finish_identical(pair)?;
    Ok(())
}

#[test]
fn the_guests_numbers_may_be_as_far_apart_as_they_like() -> Result {
    needs_root!();
    let plan = Plan { distant_numbers: true, ..Plan::default() };
    let pair = Pair::new(plan, &["--ack-gate", "all"])?;
    let tally = pair.client().run(|| Ok(crowd(600).run(&pages())))?;
    tally.check(600)?;
    finish_identical(pair)?;
    Ok(())
}

#[test]
fn both_sides_learn_the_guests_address_from_what_it_sends() -> Result {
    needs_root!();
    let pair = PairLaunch::on(Plan::default()).learning().start()?;
    // Everything that is broadcast reaches the guests in any case, the client's question for
    // their address among it.
    for family in Family::BOTH {
        let server = family.at(colo_tests::service::port::PAGES);
        let tally = pair.client().run(|| Ok(crowd(100).run(&[server])))?;
        tally.check(100)?;
    }
    finish_identical(pair)?;
    Ok(())
}
