//! What clients do all day: pages, downloads, uploads.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use colo_tests::load::{Download, Progress, Upload, fetch};
use colo_tests::pair::{Family, Pair};
use colo_tests::service::{page, port};

/// Content of one download or upload, and how many bytes a second: the client's line. Nobody is to
/// wait for a machine that does not get on as fast as the demo is shown.
const FILE: u64 = 2_000_000;
const RATE: u64 = 12_000_000;
/// The first page that is fetched; the ones before it are used elsewhere.
const FIRST_PAGE: u64 = 1_000;

/// What has been delivered and verified.
#[derive(Debug, Default)]
struct Delivered {
    pages: AtomicU64,
    page_bytes: AtomicU64,
    downloaded: AtomicU64,
    uploaded: AtomicU64,
}

/// One thing that a client does over and over.
#[derive(Debug, Clone, Copy)]
enum Habit {
    Pages,
    Downloads,
    Uploads,
}

/// Clients at work, one for each habit and family.
#[derive(Debug)]
pub(super) struct Everyday {
    delivered: Arc<Delivered>,
    clients: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Everyday {
    /// Begins it. Nothing new is begun after `length`.
    pub(super) fn begin(pair: &Pair, length: Duration) -> anyhow::Result<Self> {
        let (delivered, until) = (Arc::new(Delivered::default()), Instant::now() + length);
        let mut clients = Vec::new();
        for server in Family::BOTH.map(|family| family.at(port::PAGES)) {
            for habit in [Habit::Pages, Habit::Downloads, Habit::Uploads] {
                let delivered = Arc::clone(&delivered);
                clients.push(pair.client().spawn(move || delivered.follow(habit, server, until))?);
            }
        }
        Ok(Self { delivered, clients })
    }

    /// Whether all of them have come to their end.
    pub(super) fn is_over(&self) -> bool {
        self.clients.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end of all, and returns how many bytes were verified.
    pub(super) fn finish(self) -> anyhow::Result<u64> {
        for client in self.clients {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let Delivered { page_bytes, downloaded, uploaded, .. } = &*self.delivered;
        Ok([page_bytes, downloaded, uploaded].map(read).into_iter().sum())
    }
}

impl fmt::Display for Everyday {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |counter| read(counter) / 1_000_000;
        write!(
            f,
            "pages {:>5}   downloaded {:>4} MB   uploaded {:>4} MB",
            read(&self.delivered.pages),
            megabytes(&self.delivered.downloaded),
            megabytes(&self.delivered.uploaded),
        )
    }
}

impl Delivered {
    fn follow(&self, habit: Habit, server: SocketAddr, until: Instant) -> anyhow::Result<()> {
        for number in FIRST_PAGE.. {
            if Instant::now() >= until {
                break;
            }
            let nobody_watches = Progress::default();
            match habit {
                Habit::Pages => {
                    fetch(None, server, number)?;
                    self.pages.fetch_add(1, Ordering::Relaxed);
                    self.page_bytes.fetch_add(page(number).len() as u64, Ordering::Relaxed);
                }
                Habit::Downloads => {
                    let file =
                        Download::new(number, FILE).paced(RATE).run(server, &nobody_watches)?;
                    self.downloaded.fetch_add(file.bytes, Ordering::Relaxed);
                }
                Habit::Uploads => {
                    let file =
                        Upload::new(number, FILE).paced(RATE).run(server, &nobody_watches)?;
                    self.uploaded.fetch_add(file.bytes, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
