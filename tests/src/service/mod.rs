//! What runs on a guest: ordinary servers on ordinary sockets.
//!
//! Started in both guests alike they answer byte for byte the same, because what they write
//! depends on the bytes that they have read and on nothing else: not on the clock, not on how
//! the bytes were cut into segments, not on which connection came first.
//!
//! | port | service |
//! |---|---|
//! | 80 | pages, downloads and uploads over HTTP ([`Pages`]) |
//! | 25 | the server speaks first |
//! | 9 | reads to the client's end of stream, then answers with the digest and closes |
//! | 7 | lines and answers, for as long as the client likes ([`Conversation`]) |

pub(crate) mod banner;
mod conversation;
mod half_close;
mod pages;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use conversation::Conversation;
pub use pages::{Pages, page, page_answer};

use crate::Result;
use crate::namespace::Namespace;
use crate::pair::Family;

/// The ports.
pub mod port {
    /// Pages, downloads and uploads.
    pub const PAGES: u16 = 80;
    /// The server speaks first.
    pub const BANNER: u16 = 25;
    /// The client closes its half first.
    pub const HALF_CLOSE: u16 = 9;
    /// Lines and answers.
    pub const CONVERSATION: u16 = 7;

    /// All of them.
    pub const ALL: [u16; 4] = [PAGES, BANNER, HALF_CLOSE, CONVERSATION];
}

/// How long a service waits for its client before it gives the connection up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether the services are to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections that a guest serves at a time; more are closed at once.
const MOST_SESSIONS: usize = 1024;
/// How long sessions may take to end.
const ENDING: Duration = Duration::from_secs(2);
/// Failures that are kept word for word.
const FAILURES_KEPT: usize = 16;
/// Stack of a session's thread; its buffers are on the heap.
const STACK: usize = 256 * 1024;

/// How the sessions of a guest went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Connections that came to their proper end.
    pub served: u64,
    /// Connections that the client reset.
    pub aborted: u64,
    /// What went wrong with others: the first few.
    pub failures: Vec<String>,
}

/// The services of one guest. Dropping it ends them and closes their connections.
#[derive(Debug)]
pub struct Services {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<Result>>,
}

#[derive(Debug, Default)]
struct Shared {
    pages: Pages,
    end: AtomicBool,
    active: AtomicUsize,
    next: AtomicU64,
    /// A second handle of each connection, to close it from outside.
    streams: Mutex<HashMap<u64, TcpStream>>,
    /// Conversations by their client; there is no second handle of these.
    conversations: Mutex<HashMap<SocketAddr, Arc<Conversation>>>,
    report: Mutex<Report>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Services {
    /// Starts all of them on the guests' addresses in `namespace`.
    ///
    /// # Errors
    /// When an address is not there, or a port is taken.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let listeners = namespace.run(|| {
            let mut listeners = Vec::new();
            for address in port::ALL.iter().flat_map(|port| Family::BOTH.map(|it| it.at(*port))) {
                let listener =
                    TcpListener::bind(address).with_context(|| format!("no service {address}"))?;
                listener.set_nonblocking(true)?;
                listeners.push(listener);
            }
            Ok(listeners)
        })?;
        let shared = Arc::new(Shared::default());
        let sharing = Arc::clone(&shared);
        let accepting = namespace.spawn(move || accept(&listeners, &sharing))?;
        Ok(Self { shared, accepting: Some(accepting) })
    }

    /// Its pages.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.shared.pages
    }

    /// The conversation with this client, if there is one.
    #[must_use]
    pub fn conversation(&self, client: SocketAddr) -> Option<Arc<Conversation>> {
        lock(&self.shared.conversations).get(&client).cloned()
    }

    /// How its sessions have gone so far.
    #[must_use]
    pub fn report(&self) -> Report {
        lock(&self.shared.report).clone()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        let _ = self.accepting.take().map(JoinHandle::join);
        for stream in lock(&self.shared.streams).values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let deadline = Instant::now() + ENDING;
        while self.shared.active.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn accept(listeners: &[TcpListener], shared: &Arc<Shared>) -> Result {
    let timeout = PollTimeout::from(LOOK_AGAIN.as_millis() as u16);
    while !shared.end.load(Ordering::Relaxed) {
        let mut descriptors: Vec<_> = listeners
            .iter()
            .map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        for listener in listeners {
            while let Ok((stream, client)) = listener.accept() {
                let port = listener.local_addr()?.port();
                if shared.active.fetch_add(1, Ordering::AcqRel) >= MOST_SESSIONS {
                    shared.active.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let sharing = Arc::clone(shared);
                let session = thread::Builder::new().stack_size(STACK).spawn(move || {
                    let outcome = serve(stream, client, port, &sharing);
                    note(&sharing, client, port, outcome);
                    sharing.active.fetch_sub(1, Ordering::AcqRel);
                });
                session.context("no thread for a session")?;
            }
        }
    }
    Ok(())
}

/// One session, from its first byte to its last.
fn serve(stream: TcpStream, client: SocketAddr, port: u16, shared: &Shared) -> Result {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if port == port::CONVERSATION {
        let conversation = Arc::new(Conversation::new(stream, client));
        lock(&shared.conversations).insert(client, Arc::clone(&conversation));
        let outcome = conversation.hold(&shared.end);
        lock(&shared.conversations).remove(&client);
        return outcome;
    }
    let number = shared.next.fetch_add(1, Ordering::Relaxed);
    lock(&shared.streams).insert(number, stream.try_clone()?);
    let outcome = match port {
        port::BANNER => banner::serve(&stream),
        port::HALF_CLOSE => half_close::serve(&stream),
        _ => shared.pages.serve(&stream),
    };
    // With the second handle gone, the end of `stream` is the end of the connection.
    lock(&shared.streams).remove(&number);
    outcome
}

fn note(shared: &Shared, client: SocketAddr, port: u16, outcome: Result) {
    let mut report = lock(&shared.report);
    match outcome {
        Ok(()) => report.served += 1,
        Err(error) if is_reset(&error) => report.aborted += 1,
        Err(error) if report.failures.len() < FAILURES_KEPT => {
            report.failures.push(format!("port {port}, client {client}: {error:#}"));
        }
        Err(_) => {}
    }
}

fn is_reset(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionReset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{
        Called, Crowd, Download, Progress, Style, Talk, Upload, abort, banner, fetch, get,
        half_close,
    };
    use crate::needs_root;
    use crate::pair::{Network, Plan};
    use crate::payload::with_flipped_byte;

    /// A client and one guest, with a bridge between them.
    fn plain() -> Result<(Services, Network)> {
        let network = Network::new(Plan::default())?;
        network.forward_plainly()?;
        Ok((Services::start(&network.primary.guest)?, network))
    }

    #[test]
    fn every_exchange_works_over_both_families() -> Result {
        needs_root!();
        let (services, network) = plain()?;
        network.client.run(|| {
            for family in Family::BOTH {
                let (guest, pages) = (family.guest(), family.at(port::PAGES));
                fetch(None, pages, 1)?;
                Download::new(2, 3_000_000).run(pages, &Progress::default())?;
                Upload::new(3, 3_000_000).run(pages, &Progress::default())?;
                banner(guest, 5)?;
                half_close(guest, 4, 100_000)?;
                abort(pages, Download::new(5, 1 << 30), 100_000)?;
                let mut talk = Talk::open(guest)?;
                talk.say("hello")?;
                let called = Called::listen((family.client(), 0).into(), 6, 50_000)?;
                talk.call(2000, called, 7, 40_000)?;
                talk.say("hello again")?;
                talk.end()?;
                Talk::open(guest)?.be_reset()?;
                Talk::open(guest)?.reset()?;
            }
            Ok(())
        })?;
        assert!(services.report().failures.is_empty(), "{:?}", services.report());
        Ok(())
    }

    #[test]
    fn a_changed_page_differs_in_one_byte() -> Result {
        needs_root!();
        let (services, network) = plain()?;
        services.pages().change(9, 50);
        let server = Family::V4.at(port::PAGES);
        let got = network.client.run(|| get(server, 9))?;
        assert_eq!(got, with_flipped_byte(&page(9), 50));
        network.client.run(|| fetch(None, server, 9)).expect_err("it is verified");
        network.client.run(|| fetch(None, server, 10))?;
        services.pages().restore();
        network.client.run(|| fetch(None, server, 9))?;
        Ok(())
    }

    #[test]
    fn a_paced_download_takes_its_time_and_shows_its_progress() -> Result {
        needs_root!();
        let (_services, network) = plain()?;
        let progress = Progress::default();
        let watched = progress.clone();
        let download = network.client.spawn(move || {
            Download::new(1, 600_000).paced(1_000_000).run(Family::V6.at(port::PAGES), &watched)
        })?;
        progress.reach(100_000, Duration::from_secs(5))?;
        assert!(progress.bytes() < 600_000);
        let transfer = download.join().expect("it does not panic")?;
        assert!(transfer.took > Duration::from_millis(500), "{transfer:?}");
        Ok(())
    }

    #[test]
    fn a_wire_carries_a_hundred_megabytes_in_seconds() -> Result {
        needs_root!();
        let network = Network::new(Plan { client_wire: Some(1), ..Plan::default() })?;
        network.forward_plainly()?;
        let _services = Services::start(&network.primary.guest)?;
        let server = Family::V4.at(port::PAGES);
        let download = Download::new(1, 100_000_000);
        let transfer = network.client.run(|| download.run(server, &Progress::default()))?;
        assert!(transfer.took < Duration::from_secs(10), "{transfer:?}");
        println!("{:.0} Mbit/s", transfer.bits_per_second() / 1e6);
        Ok(())
    }

    #[test]
    fn crowds_are_served() -> Result {
        needs_root!();
        let (services, network) = plain()?;
        let servers = Family::BOTH.map(|family| family.at(port::PAGES));
        let churn = Style::Churn { first_port: 20_000, each: 4 };
        for style in [Style::Short, churn] {
            let within = Duration::from_secs(30);
            let crowd = Crowd { connections: 400, at_a_time: 16, style, seed: 1, within };
            let tally = network.client.run(|| Ok(crowd.run(&servers)))?;
            tally.check(400)?;
            assert_eq!(tally.set_up.count(), 400);
        }
        assert!(services.report().failures.is_empty(), "{:?}", services.report());
        Ok(())
    }
}
