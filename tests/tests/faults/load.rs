//! Loads that go on through faults.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use colo_tests::capture::describe;
use colo_tests::load::{Download, Progress, Transfer, Upload};
use colo_tests::pair::{Family, Network, Pair, PairLaunch, Plan};
use colo_tests::payload::bytes;
use colo_tests::service::port;
use colo_tests::topology::{Client, Guest};
use colo_tests::{Packet, Result};

/// Content of one transfer, and its pace: each lasts for several faults.
const PIECE: u64 = 2_000_000;
const RATE: u64 = 1_500_000;
/// How long it may take until bytes come again.
const AGAIN: Duration = Duration::from_secs(30);
/// Guests and client send again what was not acknowledged after a second at most, and do not give up
/// after fifteen of these. TCP doubles that time with each loss, up to two minutes, and each guest for
/// itself; then one fault after the other would make the guests keep each other waiting for longer than
/// a comparator waits. A socket that its server has closed, with bytes still under way, gives up at the
/// first time-out as long as the limit (`tcp_orphan_retries` in net/ipv4/tcp_timer.c), unless told not to:
/// then both guests fall silent in the middle of a page.
const PATIENCE_OF_TCP: [(&str, &str); 3] = [
    ("ipv4/tcp_rto_max_ms", "1000"),
    ("ipv4/tcp_retries2", "100"),
    ("ipv4/tcp_orphan_retries", "100"),
];
/// Bytes that no socket's buffer may have had already.
const NEW: u64 = 300_000;
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A pair for transfers through faults. On kernels before 6.15, which have no limit of a second, the
/// comparator's own patience makes up for it.
pub(crate) fn pair(launch: PairLaunch) -> Result<Pair> {
    let network = Network::new(Plan::default())?;
    // Before the services: a socket has what it was made with.
    for station in [&network.client, &network.primary.guest, &network.secondary.guest] {
        station.set(&PATIENCE_OF_TCP)?;
    }
    launch.comparator(&["--compare-timeout", "20s"]).start_on(network)
}

/// Downloads and uploads over both families, one after the other until they are told to end.
pub(crate) struct Transfers {
    end: Arc<AtomicBool>,
    downloads: Vec<Progress>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Transfers {
    /// Begins them, and waits until bytes come.
    pub(crate) fn begin(pair: &Pair) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let mut this = Self { end, downloads: Vec::new(), threads: Vec::new() };
        for (number, family) in (0..).zip(Family::BOTH) {
            let server = family.at(port::PAGES);
            let down = Progress::default();
            this.downloads.push(down.clone());
            let download = move |seed| Download::new(seed, PIECE).paced(RATE).run(server, &down);
            this.keep_up(pair, number << 32, download)?;
            let upload = move |seed| upload(server, seed);
            this.keep_up(pair, number << 32 | 1 << 31, upload)?;
        }
        this.come_again()?;
        Ok(this)
    }

    fn keep_up(
        &mut self,
        pair: &Pair,
        first: u64,
        transfer: impl Fn(u64) -> Result<Transfer> + Send + 'static,
    ) -> Result {
        let end = Arc::clone(&self.end);
        let work = move || {
            let mut made = 0;
            while !end.load(Ordering::Relaxed) {
                transfer(first + made).with_context(|| format!("transfer {made}"))?;
                made += 1;
            }
            Ok(made)
        };
        self.threads.push(pair.client().spawn(work)?);
        Ok(())
    }

    /// Waits until every download has got on.
    pub(crate) fn come_again(&mut self) -> Result {
        let wanted: Vec<u64> = self.downloads.iter().map(|it| it.bytes() + NEW).collect();
        let deadline = Instant::now() + AGAIN;
        while self.downloads.iter().zip(&wanted).any(|(it, wanted)| it.bytes() < *wanted) {
            if let Some(ended) = self.threads.iter().position(JoinHandle::is_finished) {
                join(self.threads.swap_remove(ended))?;
                bail!("a transfer ended before it was told to");
            }
            ensure!(Instant::now() < deadline, "of {wanted:?} bytes came {:?}", self.downloads);
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Lets each come to its proper end; returns how many there were.
    pub(crate) fn end(self) -> Result<u64> {
        self.end.store(true, Ordering::Relaxed);
        let mut made = 0;
        for thread in self.threads {
            made += join(thread)?;
        }
        Ok(made)
    }
}

fn join(thread: JoinHandle<Result<u64>>) -> Result<u64> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn upload(server: SocketAddr, seed: u64) -> Result<Transfer> {
    Upload::new(seed, PIECE).paced(RATE).run(server, &Progress::default())
}

/// Flows of the chatter.
const FLOWS: u64 = 8;
/// One in so many frames is said by the primary alone.
const ALONE: u64 = 8;
/// Their port: none of them may ever leave.
const ALONE_PORT: u16 = 666;
/// Between two frames: a pace that a busy machine can follow.
const PAUSE: Duration = Duration::from_micros(200);
/// Most frames of one chatter.
const AT_MOST: u64 = 1_000_000;

/// What both guests say, datagram by datagram in several flows, and what the primary says alone.
#[derive(Default)]
pub(crate) struct Chatter {
    end: AtomicBool,
    said: AtomicU64,
}

impl Chatter {
    /// Says it, until [`Chatter::end`].
    pub(crate) fn go_on(&self, primary: &Guest, secondary: &Guest) -> Result {
        for serial in 0..AT_MOST {
            if self.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            let frame = frame(serial);
            primary.send(&frame)?;
            if !serial.is_multiple_of(ALONE) {
                secondary.send(&frame)?;
            }
            self.said.store(serial + 1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        bail!("the test took too long")
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Frames that the primary has said.
    pub(crate) fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }
}

fn frame(serial: u64) -> Vec<u8> {
    let packet = if serial.is_multiple_of(2) { Packet::v4() } else { Packet::v6() };
    let mut payload = serial.to_be_bytes().to_vec();
    payload.extend(bytes(serial, 20 + (serial % 1000) as usize));
    let port =
        if serial.is_multiple_of(ALONE) { ALONE_PORT } else { (serial % FLOWS) as u16 + 1000 };
    packet.udp(port, 7, &payload)
}

/// Looks at everything that reaches the client.
#[derive(Default)]
pub(crate) struct Listener {
    /// The last frame of each flow.
    last: HashMap<u64, u64>,
}

impl Listener {
    /// Takes the next frame, if one comes within `within`: both guests have said it, byte for byte,
    /// and it is later than the one before it in its flow.
    pub(crate) fn hear(&mut self, client: &mut Client, within: Duration) -> Result<Option<u64>> {
        let Some(got) = client.capture().next(within)? else { return Ok(None) };
        // Behind Ethernet, IP and UDP.
        let at = 14 + if got[12..14] == [0x08, 0x00] { 20 } else { 40 } + 8;
        let serial =
            got.get(at..at + 8).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let serial = serial.with_context(|| format!("not of the chatter: {}", describe(&got)))?;
        ensure!(got == frame(serial), "frame {serial} is another: {}", describe(&got));
        ensure!(
            !serial.is_multiple_of(ALONE),
            "frame {serial}, which only the primary has said, left"
        );
        let before = self.last.insert(serial % FLOWS, serial);
        ensure!(before < Some(serial), "frame {serial} came after {before:?}");
        Ok(Some(serial))
    }

    /// Hears what comes for as long as `during`.
    pub(crate) fn hear_for(&mut self, client: &mut Client, during: Duration) -> Result {
        let end = Instant::now() + during;
        while Instant::now() < end {
            self.hear(client, end.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// Hears what was under way, until none comes for `silence`; that must be soon.
    pub(crate) fn hear_the_last(&mut self, client: &mut Client, silence: Duration) -> Result {
        let deadline = Instant::now() + 20 * silence;
        while self.hear(client, silence)?.is_some() {
            ensure!(Instant::now() < deadline, "frames go on leaving");
        }
        Ok(())
    }
}
