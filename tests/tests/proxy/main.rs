//! The whole COLO proxy between real TCP stacks: mirror, comparator and relay, two guests that are
//! ordinary kernels with ordinary servers, and a client that verifies every byte.
//!
//! Identical guests give no divergence and no request for a checkpoint, whatever the network does
//! to their segments; every test also balances the comparator's books at its end.

mod changed;
mod checkpoint;
mod churn;
mod failover;
mod impaired;
mod link;
mod long;
mod shapes;
mod short;

use std::net::SocketAddr;

use colo_tests::Result;
use colo_tests::load::{Download, Progress, Upload};
use colo_tests::pair::{Ended, Family, Impairment, Pair};
use colo_tests::service::port;

/// The guests' web servers, by address family.
fn pages() -> [SocketAddr; 2] {
    Family::BOTH.map(|family| family.at(port::PAGES))
}

/// A download and an upload at the same time, of `length` bytes each.
fn both_ways(pair: &Pair, server: SocketAddr, seed: u64, length: u64) -> Result {
    pair.client().run(|| {
        std::thread::scope(|scope| {
            let up = scope
                .spawn(move || Upload::new(seed + 1, length).run(server, &Progress::default()));
            Download::new(seed, length).run(server, &Progress::default())?;
            up.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(())
        })
    })
}

/// Ends the pair, between whose guests there was no difference and whose services had no trouble.
fn finish_identical(pair: Pair) -> Result<Ended> {
    for (guest, services) in [("primary", &pair.primary), ("secondary", &pair.secondary)] {
        let report = services.report();
        anyhow::ensure!(report.failures.is_empty(), "{guest}: {report:?}");
    }
    let ended = pair.finish()?;
    ended.check_identical()?;
    Ok(ended)
}

/// Where retransmissions are lost too, TCP may need longer than the comparator's 3 s.
const PATIENT: [&str; 2] = ["--compare-timeout", "15s"];

/// Makes the link of a pair a bad one. What it loses on the way to the secondary the client repeats,
/// told by the secondary's SACK blocks; what it loses of the secondary's answers the secondary repeats,
/// told by those of the client, which has what both have said beyond the gap.
fn impair_link(pair: &Pair) {
    pair.network.link_wire().impair_both(Impairment::BAD_PATH);
}
