//! Both guests and the client of one comparator, in one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use colo_tests::Result;
use colo_tests::chardev::LARGEST;
use colo_tests::contender::Contender;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::traffic::Traffic;

/// Pairs that may be under way: what REFERENCE measurements of QEMU used.
pub(crate) const WINDOW: u64 = 256;
/// Pairs sent at once when the window opens: a burst of a NIC, not a trickle.
const BURST: u64 = 64;
/// Without any progress for this long, what is under way counts as lost.
const STALL: Duration = Duration::from_secs(3);

/// One comparator under one load.
pub(crate) struct Driver<'a> {
    contender: &'a Contender,
    traffic: &'a Traffic,
    primary: Outgoing,
    secondary: Outgoing,
    incoming: Incoming,
    /// Serial number of the next pair.
    next: u64,
    /// Which pairs have left, a bit each.
    left: Vec<u64>,
    clock: Option<Clock>,
    /// Pairs that have left.
    pub(crate) released: u64,
    /// Pairs that left after a later one of their flow.
    pub(crate) out_of_order: u64,
    /// Requests for a checkpoint.
    pub(crate) requests: u64,
    /// Per flow, the position after the last one that left.
    positions: Vec<u64>,
    scratch: Vec<u8>,
}

/// When the pairs of a paced run were sent, and how long each was under way.
struct Clock {
    first: u64,
    sent: Vec<Instant>,
    taken: Vec<Duration>,
}

/// Bytes on their way to one input.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Sends what the socket takes now.
    fn send(&mut self, mut stream: &UnixStream) -> Result<bool> {
        if self.is_empty() {
            return Ok(false);
        }
        let sent = nonblocking(stream.write(&self.bytes[self.sent..]))?;
        self.sent += sent;
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        }
        Ok(sent > 0)
    }
}

/// Bytes from the output.
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn new() -> Self {
        Self { bytes: vec![0; 1 << 20], start: 0, end: 0 }
    }

    /// Takes what the socket has now.
    fn receive(&mut self, mut stream: &UnixStream) -> Result<bool> {
        if self.bytes.len() - self.end < 2 * LARGEST {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let received = nonblocking(stream.read(&mut self.bytes[self.end..]))?;
        self.end += received;
        Ok(received > 0)
    }

    /// Where the next whole frame lies.
    fn frame(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        let bytes = &self.bytes[self.start..self.end];
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        ensure!((1..=LARGEST).contains(&length), "the output claims {length} bytes");
        if bytes.len() < 4 + length {
            return Ok(None);
        }
        let start = self.start + 4;
        self.start = start + length;
        Ok(Some(start..start + length))
    }
}

/// Bytes moved; none when the socket would block.
fn nonblocking(result: io::Result<usize>) -> Result<usize> {
    match result {
        Ok(0) => bail!("the comparator has closed a connection"),
        Ok(length) => Ok(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error.into()),
    }
}

impl<'a> Driver<'a> {
    pub(crate) fn new(contender: &'a Contender, traffic: &'a Traffic, flows: u32) -> Result<Self> {
        let Contender { primary, secondary, out, notify, .. } = contender;
        for peer in [primary, secondary, out, notify] {
            peer.stream().set_nonblocking(true)?;
        }
        Ok(Self {
            contender,
            traffic,
            primary: Outgoing::default(),
            secondary: Outgoing::default(),
            incoming: Incoming::new(),
            next: 0,
            left: Vec::new(),
            clock: None,
            released: 0,
            out_of_order: 0,
            requests: 0,
            positions: vec![0; flows as usize],
            scratch: Vec::with_capacity(traffic.wire_length()),
        })
    }

    /// Pairs under way.
    pub(crate) fn under_way(&self) -> u64 {
        self.next - self.released
    }

    /// Keeps the window full for `time`; false when the comparator got stuck.
    pub(crate) fn saturate(&mut self, time: Duration) -> Result<bool> {
        let end = Instant::now() + time;
        let mut progress = Instant::now();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(true);
            }
            if WINDOW - self.under_way() >= BURST {
                self.append_pairs(WINDOW - self.under_way());
            }
            if self.turn()? {
                progress = now;
            } else if now - progress > STALL {
                return Ok(false);
            } else {
                self.wait(PollTimeout::from(50_u8))?;
            }
        }
    }

    /// Waits until nothing is under way; false when the comparator got stuck.
    pub(crate) fn drain(&mut self) -> Result<bool> {
        let mut progress = Instant::now();
        while self.under_way() > 0 {
            if self.turn()? {
                progress = Instant::now();
            } else if progress.elapsed() > STALL {
                return Ok(false);
            } else {
                self.wait(PollTimeout::from(50_u8))?;
            }
        }
        Ok(true)
    }

    /// Sends a pair every `interval` for `time`, whatever has become of those before, and returns
    /// how long each was under way from the moment when its second half was sent.
    pub(crate) fn pace(&mut self, interval: Duration, time: Duration) -> Result<Vec<Duration>> {
        self.clock = Some(Clock { first: self.next, sent: Vec::new(), taken: Vec::new() });
        let start = Instant::now();
        let mut due = start;
        while due - start < time || self.under_way() > 0 {
            if Instant::now() >= due && due - start < time {
                due += interval;
                self.append_pairs(1);
                while !self.primary.is_empty() {
                    self.primary.send(self.contender.primary.stream())?;
                }
                if let Some(clock) = &mut self.clock {
                    clock.sent.push(Instant::now());
                }
                while !self.secondary.is_empty() {
                    self.secondary.send(self.contender.secondary.stream())?;
                }
            }
            self.turn()?;
            ensure!(start.elapsed() < time + STALL, "{} pairs never left", self.under_way());
        }
        Ok(self.clock.take().map(|clock| clock.taken).unwrap_or_default())
    }

    fn append_pairs(&mut self, count: u64) {
        let start = self.primary.bytes.len();
        for serial in self.next..self.next + count {
            self.traffic.append(serial, &mut self.primary.bytes);
        }
        self.secondary.bytes.extend_from_slice(&self.primary.bytes[start..]);
        self.next += count;
        self.left.resize((self.next as usize).div_ceil(64), 0);
    }

    /// Moves what can be moved now; false when that is nothing.
    fn turn(&mut self) -> Result<bool> {
        let mut moved = self.primary.send(self.contender.primary.stream())?;
        moved |= self.secondary.send(self.contender.secondary.stream())?;
        if self.incoming.receive(self.contender.out.stream())? {
            moved = true;
            while let Some(frame) = self.incoming.frame()? {
                self.check(frame)?;
            }
        }
        moved |= self.hear()?;
        Ok(moved)
    }

    /// Checks content and order of one released frame.
    fn check(&mut self, range: std::ops::Range<usize>) -> Result {
        let frame = &self.incoming.bytes[range];
        let serial = self.traffic.serial(frame).context("a frame that is too short")?;
        ensure!(serial < self.next, "pair {serial} left, and was never sent");
        self.scratch.clear();
        self.traffic.append(serial, &mut self.scratch);
        ensure!(frame == &self.scratch[4..], "the content of pair {serial} changed");
        let (word, bit) = ((serial / 64) as usize, 1 << (serial % 64));
        ensure!(self.left[word] & bit == 0, "pair {serial} left twice");
        self.left[word] |= bit;
        if let Some(clock) = &mut self.clock {
            let sent = clock.sent[(serial - clock.first) as usize];
            clock.taken.push(sent.elapsed());
        }
        self.released += 1;
        let (flow, position) = self.traffic.place(serial);
        if position < self.positions[flow] {
            self.out_of_order += 1;
        } else {
            self.positions[flow] = position + 1;
        }
        Ok(())
    }

    /// Counts requests.
    fn hear(&mut self) -> Result<bool> {
        const REQUEST: usize = 4 + "DO_CHECKPOINT".len();
        let mut bytes = [0; 256 * REQUEST];
        let length = nonblocking(self.contender.notify.stream().read(&mut bytes))?;
        self.requests += (length / REQUEST) as u64;
        Ok(length > 0)
    }

    fn wait(&self, patience: PollTimeout) -> Result {
        let Contender { primary, secondary, out, notify, .. } = self.contender;
        let writable = |outgoing: &Outgoing| {
            if outgoing.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
        };
        let mut sockets = [
            PollFd::new(primary.stream().as_fd(), writable(&self.primary)),
            PollFd::new(secondary.stream().as_fd(), writable(&self.secondary)),
            PollFd::new(out.stream().as_fd(), PollFlags::POLLIN),
            PollFd::new(notify.stream().as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut sockets, patience) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
