//! The second act: two hosts, an ordinary server in each guest, and a client that never notices
//! which of them is lost.
//!
//! `picture` shows the scene and the commands, `everyday` is what the client does all day,
//! `survivors` are the connections that a host's loss must not end.

mod everyday;
mod picture;
mod survivors;

use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use colo_tests::control::Status;
use colo_tests::digest::Digest;
use colo_tests::load::{fetch, get};
use colo_tests::pair::{Family, Network, Pair, PairLaunch, Plan};
use colo_tests::payload::with_flipped_byte;
use colo_tests::service::{page, page_answer, port};
use everyday::Everyday;
use serde_json::{Value, json};
use survivors::Survivors;

use super::screen::{Screen, excerpt};

/// The page that will not be the same on both guests, and the byte of it.
const PAGE: u64 = 5;
const AT: usize = 60;
/// Pages that are fetched where it matters only that they come.
const PAGES: std::ops::Range<u64> = 100..120;
/// Longest time for which an answer is held: the comparator gives up after three seconds.
const LONGEST_HOLD: Duration = Duration::from_millis(1500);
/// Longest time for which the client is at its everyday business.
const LONGEST_DAY: Duration = Duration::from_secs(5);
/// From the loss of a host to somebody's noticing.
const OUTAGE: Duration = Duration::from_millis(700);

/// What the second act has come to so far.
#[derive(Debug, Default)]
struct Account {
    /// Bytes that the client received, or that a server did and confirmed, verified by hash.
    verified: u64,
    divergence: Value,
    divergences: u64,
    lost: u64,
    unaccounted: u64,
    survived_secondary_loss: usize,
    survived_primary_loss: usize,
}

impl Account {
    /// Adds a comparator's counters, as they were at its end.
    fn add(&mut self, status: &Status, unaccounted: &str) {
        self.divergences += status.count("divergences");
        self.lost += status.count("lost");
        self.unaccounted += status.count(unaccounted);
    }

    /// None of these names is one of the first act's, so that both can be looked for in the text.
    fn json(&self) -> Value {
        json!({
            "servers_verified_bytes": self.verified,
            "servers_divergences": self.divergences,
            "servers_divergence": self.divergence,
            "survived_secondary_loss": self.survived_secondary_loss,
            "survived_primary_loss": self.survived_primary_loss,
            "servers_frames_lost": self.lost,
            "servers_unaccounted": self.unaccounted,
        })
    }
}

/// Tells it and returns its result; `length` is what the first act took.
pub(super) fn tell(screen: &Screen, binary: &Path, length: Duration) -> anyhow::Result<Value> {
    let mut account = Account::default();
    screen.heading(
        "SECOND ACT. Ordinary servers: the same one runs in both guests, on the kernel's own TCP\n\
         with initial sequence numbers of its own. A client fetches pages and moves files.\n",
    );
    let pair = open(screen, binary, true)?;
    let mut scene = Scene { screen, pair, account: &mut account };
    scene.everyday((length / 4).min(LONGEST_DAY))?;
    scene.changed_content((length / 10).min(LONGEST_HOLD))?;
    scene.lose_secondary()?;
    scene.close()?;
    let pair = open(screen, binary, false)?;
    let mut scene = Scene { screen, pair, account: &mut account };
    scene.lose_primary()?;
    scene.close()?;
    screen.heading(&format!(
        "{} MB delivered and verified by hash. {} divergence, the one that was provoked. {} \
         connections survived\nthe loss of the secondary, {} that of the primary. {} frames lost, \
         {} unaccounted for.",
        account.verified / 1_000_000,
        account.divergences,
        account.survived_secondary_loss,
        account.survived_primary_loss,
        account.lost,
        account.unaccounted,
    ));
    Ok(account.json())
}

/// Builds the scene and starts everything on it.
fn open(screen: &Screen, binary: &Path, with_picture: bool) -> anyhow::Result<Pair> {
    // Numbers that have nothing to do with each other: what is rewritten can be seen to be.
    let plan = Plan { distant_numbers: true, ..Plan::default() };
    let network = Network::new(plan)?;
    let launch = PairLaunch::on(plan).binary(binary);
    if with_picture {
        picture::show(screen, &network, &launch);
    }
    launch.start_on(network)
}

struct Scene<'a> {
    screen: &'a Screen,
    pair: Pair,
    account: &'a mut Account,
}

impl Scene<'_> {
    fn everyday(&mut self, length: Duration) -> anyhow::Result<()> {
        self.screen.heading(
            "5. Pages, downloads and uploads, over IPv4 and IPv6, all at once. Every byte passes \
             the comparator.",
        );
        let (verified, took) = self.business(length)?;
        self.screen.say(&format!(
            "   {} MB delivered and verified by hash, {:.0} Mbit/s.",
            verified / 1_000_000,
            verified as f64 * 8.0 / took.as_secs_f64() / 1e6,
        ));
        let divergences = self.pair.comparator().status()?.count("divergences");
        ensure!(divergences == 0, "{divergences} divergences between identical servers");
        Ok(())
    }

    /// Everyday business for `length`, with a live line. Returns the bytes verified, and how long
    /// it took.
    fn business(&mut self, length: Duration) -> anyhow::Result<(u64, Duration)> {
        let started = Instant::now();
        let everyday = Everyday::begin(&self.pair, length)?;
        while !everyday.is_over() {
            let status = self.pair.comparator().status()?;
            self.screen.live(&format!(
                "   {everyday}   frames compared equal {:>7}   held {:>3}",
                status.count("matched"),
                status.count("held"),
            ));
            thread::sleep(self.screen.pace());
        }
        let verified = everyday.finish()?;
        self.account.verified += verified;
        Ok((verified, started.elapsed()))
    }

    fn changed_content(&mut self, hold: Duration) -> anyhow::Result<()> {
        self.screen.heading(
            "6. One byte of a page on the secondary's server is changed, and the client asks for \
             that page.",
        );
        let server = Family::V4.at(port::PAGES);
        self.pair.secondary.pages().change(PAGE, AT);
        let got = self.pair.client().spawn(move || get(server, PAGE))?;
        let event = self.pair.comparator().event("divergence")?;
        self.pair.comparator().event("checkpoint-requested")?;
        self.show_divergence(&event)?;
        self.account.divergence = event;
        let (verified, _) = self.business(hold)?;
        ensure!(!got.is_finished(), "the client has an answer although the guests differ");
        self.screen.say(&format!(
            "   It is held all the while; all other conversations go on ({} MB verified).",
            verified / 1_000_000
        ));
        self.free(got)
    }

    fn show_divergence(&self, event: &Value) -> anyhow::Result<()> {
        let (primary, at) = (page_answer(PAGE), page_answer(PAGE).len() - page(PAGE).len() + AT);
        let secondary = with_flipped_byte(&primary, at);
        ensure!(event["reason"] == "payload", "another reason: {event}");
        ensure!(event["offset"] == at, "another offset than {at}: {event}");
        for (side, bytes) in [("primary", &primary), ("secondary", &secondary)] {
            ensure!(event[side]["byte"] == bytes[at], "another {side} byte: {event}");
        }
        self.screen.say(&format!(
            "   DIVERGENCE (payload) in TCP from {}, byte {at} of the stream:\n     \
             primary   {}\n     secondary {}",
            Family::V4.at(port::PAGES),
            excerpt(&primary, at),
            excerpt(&secondary, at),
        ));
        Ok(())
    }

    /// A checkpoint at the comparator frees the answer that the client waits for.
    ///
    /// The secondary's connections keep their numbers, because nothing has really made the guests
    /// equal; so the relay is not told of it, and this connection, with whose bytes the secondary
    /// would never agree, closes with its answer.
    fn free(&mut self, got: JoinHandle<anyhow::Result<Vec<u8>>>) -> anyhow::Result<()> {
        self.screen.say(
            "\n   The secondary gets the primary's content, and the comparator is told:\n     \
             $ colo-xdp ctl checkpoint",
        );
        self.pair.secondary.pages().restore();
        self.pair.release()?;
        let body = got.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(Digest::of(&body) == Digest::of(&page(PAGE)), "not the primary's page");
        self.account.verified += body.len() as u64;
        self.screen.say(&format!(
            "   The client has the page, whole: {} bytes, SHA-256 {:.16}..., the primary's.",
            body.len(),
            Digest::of(&body).to_string(),
        ));
        self.fetch_pages()
    }

    fn lose_secondary(&mut self) -> anyhow::Result<()> {
        self.screen.heading(
            "7. The secondary host loses power while files are under way. Nobody has told the \
             comparator yet:",
        );
        let survivors = Survivors::begin(&self.pair)?;
        self.pair.lose_secondary()?;
        self.watch(&survivors, OUTAGE)?;
        let held = self.pair.comparator().status()?.count("primary_held");
        self.screen.say(&format!(
            "   {held} frames of the primary are held.\n     $ colo-xdp ctl failover"
        ));
        let connections = survivors.unfinished()?;
        self.pair.comparator().control().call(&["failover"])?;
        self.pair.comparator().event("standalone")?;
        self.account.survived_secondary_loss = self.complete(survivors)?;
        self.screen.say(&format!(
            "   All {connections} connections have gone on to their end, and new ones are served; \
             all content verified."
        ));
        self.fetch_pages()
    }

    fn lose_primary(&mut self) -> anyhow::Result<()> {
        self.screen.heading(
            "8. A fresh pair. This time the primary host loses power, and with it the comparator. \
             The client\n   is connected to a server that no longer exists:",
        );
        self.fetch_pages()?;
        let survivors = Survivors::begin(&self.pair)?;
        let status = self.pair.comparator().status()?;
        status.check_conservation()?;
        self.account.add(&status, "frames.unaccounted");
        self.pair.lose_primary()?;
        self.watch(&survivors, OUTAGE)?;
        self.screen.say("   On the secondary host:\n     $ colo-xdp ctl failover");
        let connections = survivors.unfinished()?;
        self.pair.relay().control().call(&["failover"])?;
        let event = self.pair.relay().event("failed-over")?;
        let rewritten = event["connections"].as_u64().context("the event counts connections")?;
        ensure!(rewritten >= connections as u64, "only {rewritten} of {connections} are rewritten");
        self.account.survived_primary_loss = self.complete(survivors)?;
        self.screen.say(&format!(
            "   All {connections} connections have gone on to their end on the secondary, under \
             the sequence numbers\n   that the client knows from the primary; new ones are served; \
             all content verified."
        ));
        self.fetch_pages()
    }

    /// Shows for `length` how far the survivors have come.
    fn watch(&self, survivors: &Survivors, length: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < length {
            self.screen.live(&format!("   {survivors}"));
            thread::sleep(self.screen.pace().min(length));
        }
        Ok(())
    }

    /// Shows the survivors on their way to the end; returns how many came there, all of them.
    fn complete(&mut self, survivors: Survivors) -> anyhow::Result<usize> {
        while survivors.are_moving() {
            self.screen.live(&format!("   {survivors}"));
            thread::sleep(self.screen.pace());
        }
        self.screen.live(&format!("   {survivors}"));
        let (connections, bytes) = survivors.finish()?;
        self.account.verified += bytes;
        Ok(connections)
    }

    fn fetch_pages(&mut self) -> anyhow::Result<()> {
        for family in Family::BOTH {
            let server = family.at(port::PAGES);
            self.pair.client().run(|| {
                PAGES.map(|page| fetch(None, server, page)).collect::<anyhow::Result<Vec<_>>>()
            })?;
            self.account.verified += PAGES.map(|number| page(number).len() as u64).sum::<u64>();
        }
        Ok(())
    }

    /// Ends both programs, as far as they are left, and balances the books.
    fn close(self) -> anyhow::Result<()> {
        let ended = self.pair.finish()?;
        if let Some(comparator) = ended.comparator {
            self.account.add(&comparator.summary, "frames_unaccounted");
            let divergences = self.account.divergences;
            ensure!(divergences == 1, "one divergence was made, {divergences} were found");
        }
        Ok(())
    }
}
