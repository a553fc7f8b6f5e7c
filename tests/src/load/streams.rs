//! Connections that are kept busy for a time.

use std::io::BufReader;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::dial::connect;
use super::exchange::{Progress, Transfer, Upload, download_on};
use crate::Result;
use crate::digest::CHUNK;
use crate::payload::Source;

/// Content of one request: long enough that the pause between two requests, a round trip, hardly
/// counts; short enough that the last ones end soon.
const PIECE: u64 = 8 << 20;
/// Keeps the seeds of the connections' pieces apart.
const PIECES: u64 = 1 << 20;

/// Which way the content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// From the guest to the client.
    ForClient,
    /// From the client to the guest.
    ForGuest,
}

impl Bound {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::ForClient, Self::ForGuest];
}

/// Connections that transfer one piece after another, each piece verified.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// How many at once, over all servers by turns.
    pub connections: usize,
    /// Which way.
    pub bound: Bound,
    /// What the content follows from.
    pub seed: u64,
    /// Not counted: until windows and caches have grown.
    pub warm_up: Duration,
    /// Counted.
    pub during: Duration,
}

impl Streams {
    /// Keeps connections to `servers` busy; returns what moved on all of them in the time that
    /// counts. Pieces that are under way at its end are still verified.
    ///
    /// # Errors
    /// When a connection fails, or content is not what it should be.
    pub fn run(&self, servers: &[SocketAddr]) -> Result<Transfer> {
        let (progress, end) = (Progress::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let connections: Vec<_> = servers
                .iter()
                .cycle()
                .take(self.connections)
                .enumerate()
                .map(|(number, server)| {
                    let (progress, end) = (progress.clone(), &end);
                    scope.spawn(move || self.keep_busy(number as u64, *server, &progress, end))
                })
                .collect();
            thread::sleep(self.warm_up);
            let (before, started) = (progress.bytes(), Instant::now());
            thread::sleep(self.during);
            let transfer = Transfer { bytes: progress.bytes() - before, took: started.elapsed() };
            end.store(true, Ordering::Relaxed);
            for connection in connections {
                connection.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(transfer)
        })
    }

    fn keep_busy(
        &self,
        number: u64,
        server: SocketAddr,
        progress: &Progress,
        end: &AtomicBool,
    ) -> Result {
        let mut stream = BufReader::with_capacity(CHUNK, connect(None, server)?);
        let first = self.seed + number * PIECES;
        for seed in first..first + PIECES {
            match self.bound {
                Bound::ForClient => {
                    let path = format!("/bytes/{seed}/{PIECE}");
                    let mut expected = Expected::new(seed);
                    download_on(&mut stream, &path, PIECE, false, progress, |part| {
                        expected.compare(part)
                    })?;
                }
                Bound::ForGuest => Upload::new(seed, PIECE).run_on(&mut stream, progress)?,
            }
            if end.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }
}

/// What a stream should bring. Comparing costs a fraction of what hashing both would.
struct Expected {
    source: Source,
    bytes: Vec<u8>,
}

impl Expected {
    fn new(seed: u64) -> Self {
        Self { source: Source::new(seed), bytes: vec![0; CHUNK] }
    }

    fn compare(&mut self, part: &[u8]) -> Result {
        for part in part.chunks(CHUNK) {
            let expected = &mut self.bytes[..part.len()];
            self.source.fill(expected);
            ensure!(expected == part, "the content is another");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;
    use crate::pair::{Family, Network, Plan};
    use crate::payload;
    use crate::service::{Services, port};

    #[test]
    fn another_byte_is_found_wherever_the_parts_end() {
        let bytes = payload::bytes(7, 3 * CHUNK);
        let mut expected = Expected::new(7);
        for part in bytes.chunks(CHUNK + 11) {
            expected.compare(part).expect("it is what was sent");
        }
        let other = payload::with_flipped_byte(&bytes, 2 * CHUNK + 5);
        Expected::new(7).compare(&other).expect_err("a byte differs");
    }

    #[test]
    fn connections_are_kept_busy_both_ways() -> Result {
        needs_root!();
        let network = Network::new(Plan::default())?;
        network.forward_plainly()?;
        let _services = Services::start(&network.primary.guest)?;
        let servers = Family::BOTH.map(|family| family.at(port::PAGES));
        let (warm_up, during) = (Duration::from_millis(50), Duration::from_millis(200));
        for bound in Bound::BOTH {
            let streams = Streams { connections: 4, bound, seed: 1, warm_up, during };
            let transfer = network.client.run(|| streams.run(&servers))?;
            assert!(transfer.bytes > 0 && transfer.took >= during, "{transfer:?}");
        }
        Ok(())
    }
}
