//! Connections that are there before a host is lost and must be there afterwards.

use std::fmt;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use colo_tests::load::{Download, Progress, Talk, Transfer, Upload};
use colo_tests::pair::{Family, Pair};
use colo_tests::service::port;

/// Content of one transfer, and how many bytes a second: three seconds in all.
const LENGTH: u64 = 24_000_000;
const RATE: u64 = 8_000_000;
/// What of it has been transferred when the host is lost.
const EARLY: u64 = 3_000_000;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A transfer that is under way.
type UnderWay = (Progress, JoinHandle<anyhow::Result<Transfer>>);

/// A download and an upload under way and a conversation that pauses, over either family.
pub(super) struct Survivors {
    transfers: Vec<UnderWay>,
    talks: Vec<Talk>,
}

impl Survivors {
    /// Begins them, and waits until every transfer has got some way.
    pub(super) fn begin(pair: &Pair) -> anyhow::Result<Self> {
        let (mut transfers, mut talks) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            let server = family.at(port::PAGES);
            let mut talk = pair.client().run(|| Talk::open(family.guest()))?;
            talk.say("before the loss")?;
            talks.push(talk);
            let download = Download::new(1, LENGTH).paced(RATE);
            transfers.push(begin(pair, move |progress| download.run(server, progress))?);
            let upload = Upload::new(2, LENGTH).paced(RATE);
            transfers.push(begin(pair, move |progress| upload.run(server, progress))?);
        }
        for (progress, _) in &transfers {
            progress.reach(EARLY, PATIENCE)?;
        }
        Ok(Self { transfers, talks })
    }

    /// Whether a transfer has not ended yet.
    pub(super) fn are_moving(&self) -> bool {
        self.transfers.iter().any(|(_, transfer)| !transfer.is_finished())
    }

    /// How many connections there are, none of which may have ended yet.
    pub(super) fn unfinished(&self) -> anyhow::Result<usize> {
        let ended = self.transfers.iter().filter(|(_, transfer)| transfer.is_finished()).count();
        ensure!(ended == 0, "{ended} transfers were over before the host was lost");
        Ok(self.transfers.len() + self.talks.len())
    }

    /// Expects that every one comes to its proper end. Returns how many there are, and the bytes
    /// that they have transferred and verified.
    pub(super) fn finish(self) -> anyhow::Result<(usize, u64)> {
        let (mut connections, mut bytes) = (0, 0);
        for mut talk in self.talks {
            talk.say("after the loss")?;
            talk.end()?;
            connections += 1;
        }
        for (progress, transfer) in self.transfers {
            let transfer = transfer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            bytes +=
                transfer.with_context(|| format!("{} bytes had come", progress.bytes()))?.bytes;
            connections += 1;
        }
        Ok((connections, bytes))
    }
}

/// Begins a transfer on the client.
fn begin(
    pair: &Pair,
    transfer: impl FnOnce(&Progress) -> anyhow::Result<Transfer> + Send + 'static,
) -> anyhow::Result<UnderWay> {
    let progress = Progress::default();
    let seen = progress.clone();
    Ok((progress, pair.client().spawn(move || transfer(&seen))?))
}

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |index: usize| -> u64 {
            self.transfers.iter().skip(index).step_by(2).map(|(progress, _)| progress.bytes()).sum()
        };
        let megabytes = |index| bytes(index) as f64 / 1e6;
        let whole = 2.0 * LENGTH as f64 / 1e6;
        write!(
            f,
            "downloads {:>5.1} of {whole} MB   uploads {:>5.1} of {whole} MB",
            megabytes(0),
            megabytes(1),
        )
    }
}
