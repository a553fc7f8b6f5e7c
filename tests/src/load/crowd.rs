//! Many connections, a bounded number at a time.

use std::fmt;
use std::io::BufReader;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::dial::{connect, reset};
use super::exchange::{fetch, get_page, page_number};
use super::latency::Latencies;
use crate::Result;

/// Failures that are kept word for word.
const FAILURES_KEPT: usize = 8;

/// How a connection of a crowd ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A page, then the server closes; the client uses a fresh port every time.
    Short,
    /// By turns: a page, and the server closes; two pages, and the client resets. Few client ports
    /// are used over and over, so that the server still has the earlier connection in TIME_WAIT.
    Churn {
        /// The first of the ports.
        first_port: u16,
        /// How many each worker uses.
        each: u16,
    },
}

/// Many connections.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// How many, over all servers by turns.
    pub connections: usize,
    /// How many at a time.
    pub at_a_time: usize,
    /// What each does.
    pub style: Style,
    /// Which pages are fetched.
    pub seed: u64,
    /// No connection is begun after so long.
    pub within: Duration,
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Connections that went as they should, content verified.
    pub verified: usize,
    /// Connections that did not.
    pub failed: usize,
    /// What was wrong with the first few of them.
    pub failures: Vec<String>,
    /// Time from SYN to SYN-ACK, as the client saw it.
    pub set_up: Latencies,
    /// From the first to the last.
    pub took: Duration,
}

impl Tally {
    /// Expects that `connections` were made and none failed.
    ///
    /// # Errors
    /// When that is not so; the message has the first few failures.
    pub fn check(&self, connections: usize) -> Result {
        ensure!(self.failed == 0 && self.verified == connections, "{self}");
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections verified, {} failed, in {:.1} s; set up in {:.2} ms (p50), {:.2} ms \
             (p99)",
            self.verified,
            self.failed,
            self.took.as_secs_f64(),
            self.set_up.percentile(50).as_secs_f64() * 1e3,
            self.set_up.percentile(99).as_secs_f64() * 1e3
        )?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n{failure}"))
    }
}

impl Crowd {
    /// Makes the connections to `servers` by turns.
    #[must_use]
    pub fn run(&self, servers: &[SocketAddr]) -> Tally {
        let (next, started) = (AtomicUsize::new(0), Instant::now());
        let outcomes: Vec<Result<Duration>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.at_a_time)
                .map(|worker| {
                    let next = &next;
                    scope.spawn(move || self.work(worker, next, started, servers))
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| {
                    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let took = started.elapsed();
        let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        Tally {
            verified: outcomes.len() - failed.len(),
            failed: failed.len(),
            failures: failed.iter().take(FAILURES_KEPT).map(|it| format!("{it:#}")).collect(),
            set_up: outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect(),
            took,
        }
    }

    fn work(
        &self,
        worker: usize,
        next: &AtomicUsize,
        started: Instant,
        servers: &[SocketAddr],
    ) -> Vec<Result<Duration>> {
        let mut outcomes = Vec::new();
        while started.elapsed() < self.within {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.connections {
                break;
            }
            let server = servers[index % servers.len()];
            let number = page_number(self.seed, index as u64);
            outcomes.push(match self.style {
                Style::Short => fetch(None, server, number),
                Style::Churn { first_port, each } => {
                    let turn = outcomes.len();
                    let port = first_port + worker as u16 * each + (turn % each as usize) as u16;
                    if turn % 2 == 0 {
                        fetch(Some(port), server, number)
                    } else {
                        fetch_and_reset(port, server, number)
                    }
                }
            });
        }
        outcomes
    }
}

fn fetch_and_reset(from: u16, server: SocketAddr, number: u64) -> Result<Duration> {
    let started = Instant::now();
    let stream = connect(Some(from), server)?;
    let set_up = started.elapsed();
    let mut stream = BufReader::new(stream);
    get_page(&mut stream, number, false)?;
    get_page(&mut stream, number + 1, false)?;
    reset(stream.into_inner())?;
    Ok(set_up)
}
