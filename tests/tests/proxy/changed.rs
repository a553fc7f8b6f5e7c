//! A secondary with other content.

use std::time::Duration;

use anyhow::Context;
use colo_tests::digest::Digest;
use colo_tests::load::{fetch, get};
use colo_tests::pair::{Pair, Plan};
use colo_tests::service::{page, page_answer};
use colo_tests::{Result, needs_root};

use crate::pages;

/// The page that differs, and where.
const PAGE: u64 = 5;
const AT: usize = 60;

#[test]
fn the_answer_is_held_the_divergence_names_the_byte_and_a_checkpoint_frees_it() -> Result {
    needs_root!();
    for server in pages() {
        let mut pair = Pair::new(Plan::default(), &[])?;
        pair.client().run(|| fetch(None, server, PAGE))?;
        pair.secondary.pages().change(PAGE, AT);
        let got = pair.client().spawn(move || get(server, PAGE))?;

        let divergence = pair.comparator().event("divergence")?;
        assert_eq!(divergence["reason"], "payload", "{divergence}");
        let head = page_answer(PAGE).len() - page(PAGE).len();
        assert_eq!(divergence["offset"], head + AT, "{divergence}");
        let byte = page(PAGE)[AT];
        assert_eq!(divergence["primary"]["byte"], byte, "{divergence}");
        assert_eq!(divergence["secondary"]["byte"], byte ^ 0x5a, "{divergence}");
        pair.comparator().event("checkpoint-requested")?;
        std::thread::sleep(Duration::from_millis(500));
        assert!(!got.is_finished(), "the client has an answer although the guests differ");

        pair.secondary.pages().restore();
        pair.release()?;
        let got = got.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        assert_eq!(Digest::of(&got), Digest::of(&page(PAGE)), "it is the primary's page");
        // From then on the guests are alike again.
        pair.client().run(|| (0..20).try_for_each(|page| fetch(None, server, page).map(drop)))?;
        let ended = pair.finish()?;
        let summary = ended.comparator.context("it was not lost")?.summary;
        assert_eq!(summary.count("divergences"), 1, "{}", summary.0);
        assert_eq!(summary.count("checkpoint_requests"), 1, "{}", summary.0);
    }
    Ok(())
}
