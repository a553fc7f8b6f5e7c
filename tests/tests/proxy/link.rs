//! The replication link: interrupted, routed, too narrow.

use std::thread;
use std::time::Duration;

use colo_tests::load::{Crowd, Download, Progress, Style, fetch};
use colo_tests::pair::{Family, Link, Pair, Plan};
use colo_tests::{Result, needs_root};

use crate::{PATIENT, both_ways, finish_identical, impair_link, pages};

fn crowd() -> Crowd {
    let within = Duration::from_secs(60);
    Crowd { connections: 300, at_a_time: 16, style: Style::Short, seed: 5, within }
}

#[test]
fn interruptions_shorter_than_the_timeout_are_only_a_delay() -> Result {
    needs_root!();
    let mut pair = Pair::new(Plan::default(), &[])?;
    let progress = Progress::default();
    let watched = progress.clone();
    let [server, _] = pages();
    let download = pair
        .client()
        .spawn(move || Download::new(1, 20_000_000).paced(5_000_000).run(server, &watched))?;
    for reached in [1_000_000, 6_000_000, 11_000_000] {
        progress.reach(reached, Duration::from_secs(15))?;
        pair.network.secondary.link_down()?;
        let lost = pair.comparator().event("link-lost")?;
        assert_eq!(lost["action"], "hold", "{lost}");
        thread::sleep(Duration::from_millis(300));
        pair.network.secondary.link_up()?;
        pair.comparator().event("link-restored")?;
    }
    download.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    pair.client().run(|| Ok(crowd().run(&pages())))?.check(300)?;
    finish_identical(pair)?;
    Ok(())
}

#[test]
fn a_cut_inside_the_link_is_only_a_delay_too() -> Result {
    needs_root!();
    let plan = Plan { link_wire: Some(6), ..Plan::default() };
    let pair = Pair::new(plan, &PATIENT)?;
    for server in pages() {
        let progress = Progress::default();
        let watched = progress.clone();
        let download = pair
            .client()
            .spawn(move || Download::new(2, 10_000_000).paced(5_000_000).run(server, &watched))?;
        progress.reach(1_000_000, Duration::from_secs(10))?;
        pair.network.link_wire().cut();
        thread::sleep(Duration::from_millis(300));
        pair.network.link_wire().mend();
        download.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    finish_identical(pair)?;
    Ok(())
}

fn routed(family: Family) -> Result {
    let plan = Plan { link: Link::Routed(family), distant_numbers: true, ..Plan::default() };
    let pair = Pair::new(plan, &[])?;
    pair.client().run(|| Ok(crowd().run(&pages())))?.check(300)?;
    for (seed, server) in (400..).step_by(10).zip(pages()) {
        both_ways(&pair, server, seed, 20_000_000)?;
    }
    finish_identical(pair)?;
    Ok(())
}

#[test]
fn encapsulated_over_a_routed_ipv4_network() -> Result {
    needs_root!();
    routed(Family::V4)
}

#[test]
fn encapsulated_over_a_routed_ipv6_network() -> Result {
    needs_root!();
    routed(Family::V6)
}

#[test]
fn encapsulated_over_a_routed_network_that_loses_and_reorders() -> Result {
    needs_root!();
    for family in Family::BOTH {
        let link = Link::Routed(family);
        let plan = Plan { link, link_wire: Some(7), ..Plan::default() };
        let pair = Pair::new(plan, &PATIENT)?;
        impair_link(&pair);
        for (seed, server) in (500..).step_by(10).zip(pages()) {
            both_ways(&pair, server, seed, 4_000_000)?;
        }
        finish_identical(pair)?;
    }
    Ok(())
}

#[test]
fn frames_that_do_not_fit_the_link_are_counted_and_the_primary_has_them() -> Result {
    needs_root!();
    let link = Link::Routed(Family::V4);
    let mut pair = Pair::new(Plan { link, link_mtu: Some(1500), ..Plan::default() }, &[])?;
    // Every frame of a page's connection that is small passes; whole segments do not.
    let [server, _] = pages();
    let page = (0..).find(|number| colo_tests::service::page(*number).len() > 5_000);
    let page = page.unwrap_or_default();
    let got = pair.client().spawn(move || fetch(None, server, page).map(drop))?;
    let divergence = pair.comparator().event("divergence")?;
    assert_eq!(divergence["reason"], "timeout", "{divergence}");
    pair.comparator().control().call(&["failover"])?;
    got.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    pair.finish()?;
    Ok(())
}
