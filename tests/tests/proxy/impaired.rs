//! Loss, reordering and duplication, before the pair and inside it, and what TCP has against it:
//! window scaling, timestamps and selective acknowledgements.

use std::time::Duration;

use colo_tests::load::{Crowd, Style, Talk};
use colo_tests::pair::{Congestion, Direction, Family, Impairment, Pair, Plan, Wire};
use colo_tests::{Result, needs_root};

use crate::{PATIENT, both_ways, finish_identical, impair_link, pages};

/// Content of one transfer.
const LENGTH: u64 = 8_000_000;

/// Transfers both ways and short connections, over both families.
fn exercise(pair: &Pair) -> Result {
    for (seed, server) in (100..).step_by(10).zip(pages()) {
        both_ways(pair, server, seed, LENGTH)?;
    }
    let within = Duration::from_secs(60);
    let crowd = Crowd { connections: 200, at_a_time: 16, style: Style::Short, seed: 3, within };
    pair.client().run(|| Ok(crowd.run(&pages())))?.check(200)
}

fn expect_impaired(wire: &Wire) {
    for direction in Direction::BOTH {
        let carried = wire.carried(direction);
        assert!(carried.lost > 0 && carried.reordered > 10, "{direction:?}: {carried:?}");
        assert!(carried.duplicated > 5, "{direction:?}: {carried:?}");
    }
}

#[test]
fn on_the_clients_side() -> Result {
    needs_root!();
    let pair = Pair::new(Plan { client_wire: Some(1), ..Plan::default() }, &PATIENT)?;
    pair.network.client_wire().impair_both(Impairment::BAD_PATH);
    exercise(&pair)?;
    expect_impaired(pair.network.client_wire());
    let guest = &pair.network.primary.guest;
    assert!(guest.tcp_counter("TCPSackRecovery")? > 0, "no selective acknowledgement was used");
    finish_identical(pair)?;
    Ok(())
}

/// The exercise over a link that does this to what goes to the secondary, and to what comes from it.
fn on_the_link(forth: Impairment, back: Impairment) -> Result {
    let pair = Pair::new(Plan { link_wire: Some(2), ..Plan::default() }, &PATIENT)?;
    let wire = pair.network.link_wire();
    wire.impair(Direction::Forth, forth);
    wire.impair(Direction::Back, back);
    exercise(&pair)?;
    for (direction, impairment) in Direction::BOTH.into_iter().zip([forth, back]) {
        let carried = wire.carried(direction);
        assert!(impairment.loss == 0 || carried.lost > 0, "{direction:?}: {carried:?}");
        assert!(impairment.reordering == 0 || carried.reordered > 10, "{direction:?}: {carried:?}");
    }
    finish_identical(pair)?;
    Ok(())
}

#[test]
fn on_the_link_without_loss() -> Result {
    needs_root!();
    let lossless = Impairment { loss: 0, ..Impairment::BAD_PATH };
    on_the_link(lossless, lossless)
}

#[test]
fn on_the_link_to_the_secondary() -> Result {
    needs_root!();
    on_the_link(Impairment::BAD_PATH, Impairment::NONE)
}

#[test]
fn on_the_link_from_the_secondary() -> Result {
    needs_root!();
    on_the_link(Impairment::NONE, Impairment::BAD_PATH)
}

#[test]
fn on_the_link_both_ways() -> Result {
    needs_root!();
    on_the_link(Impairment::BAD_PATH, Impairment::BAD_PATH)
}

#[test]
fn on_both_at_once() -> Result {
    needs_root!();
    let plan =
        Plan { client_wire: Some(3), link_wire: Some(4), distant_numbers: true, ..Plan::default() };
    for congestion in Congestion::available()? {
        let pair = Pair::new(Plan { congestion, ..plan }, &PATIENT)?;
        pair.network.client_wire().impair_both(Impairment::BAD_PATH);
        impair_link(&pair);
        exercise(&pair)?;
        finish_identical(pair)?;
    }
    Ok(())
}

#[test]
fn the_options_of_a_connection_are_those_of_both_guests() -> Result {
    needs_root!();
    const OPTIONS: [&str; 3] = ["ipv4/tcp_window_scaling", "ipv4/tcp_timestamps", "ipv4/tcp_sack"];
    let pair = Pair::new(Plan { client_wire: Some(5), ..Plan::default() }, &PATIENT)?;
    pair.network.client_wire().impair_both(Impairment::BAD_PATH);
    // All on, each one off, all off.
    let sets = [vec![], vec![0], vec![1], vec![2], vec![0, 1, 2]];
    for (seed, off) in (200..).step_by(10).zip(sets) {
        for guest in [&pair.network.primary.guest, &pair.network.secondary.guest] {
            let value = |option| if off.contains(&option) { "0" } else { "1" };
            let values: Vec<_> = (0..3).map(|option| (OPTIONS[option], value(option))).collect();
            guest.set(&values)?;
        }
        for (family, server) in Family::BOTH.into_iter().zip(pages()) {
            let mut talk = pair.client().run(|| Talk::open(family.guest()))?;
            // An answer takes both guests: by then both have the connection.
            talk.say("are you there")?;
            // Not one before it, whose FIN may have been lost.
            let filter = format!("sport = :7 and dport = :{}", talk.client()?.port());
            for guest in [&pair.network.primary.guest, &pair.network.secondary.guest] {
                let listing = guest.command("ss", &["-Htino", &filter])?.stdout;
                let listing = String::from_utf8_lossy(&listing).into_owned();
                let shown = ["wscale:", " ts", " sack"].map(|word| listing.contains(word));
                let expected = [0, 1, 2].map(|option| !off.contains(&option));
                assert_eq!(shown, expected, "{family}: {listing}");
            }
            talk.end()?;
            both_ways(&pair, server, seed, 1_000_000)?;
        }
    }
    finish_identical(pair)?;
    Ok(())
}
