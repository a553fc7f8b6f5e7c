//! A port on a socket.
//!
//! Frames are copied once between the socket's bytes and the lane's memory when they come in, and
//! leave from where they lie. One system call moves as many as there are.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use super::framing::{Fault, Framing, Inbox};
use super::link::{Link, LinkError, Transfer};
use super::statistics::Statistics;
use crate::port::spec::ChardevSpec;
use crate::port::{FrameOf, InFlight, Memory, Port, PortError};

/// Bytes asked for at once: several times what a socket buffers by default, so that one call
/// empties it.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Bytes offered at once.
const SEND_BYTES: usize = 256 * 1024;

/// Pieces offered at once, with room behind for those of one more frame of the largest size: 39
/// where a chunk of 2,048 bytes has 256 of headroom. The kernel takes 1,024 (`UIO_MAXIOV`).
const SEND_PIECES: usize = 256;
const LARGEST_PIECES: usize = 64;

/// Frames offered at once.
const SEND_FRAMES: usize = 4096;

/// Up to this length a frame is copied to stand behind the one before, which costs less than the
/// kernel's handling of one more piece.
const SMALL: usize = 512;

/// Between two lines in the log about the same port's peers, which may come and go quickly.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// An empty virtio-net header, with the field that mergeable buffers add: what QEMU puts before
/// frames of a virtio-net guest.
const BLANK_HEADER: [u8; 12] = [0; 12];

/// What a lane does with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Takes frames from it.
    Receive,
    /// Sends frames on it.
    Send,
}

/// Vnet headers in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vnet {
    /// None.
    Off,
    /// The header a frame came with goes with it.
    Carried,
    /// Frames come from a port without: an empty header goes with each.
    Blank,
}

/// Part of what is offered to the socket.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// Bytes of the scratch buffer up to here, from the end of the one before.
    Copied { end: usize },
    /// The run that starts at `at` of the frame at `index`.
    InPlace { index: usize, at: usize },
}

/// Frames made ready to be sent: pure bookkeeping, kept so that nothing is allocated.
#[derive(Debug)]
struct Parcel {
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    /// Where each frame ends, in bytes from the start of the first.
    ends: Vec<usize>,
}

/// A socket chardev, as a [`Port`].
#[derive(Debug)]
pub struct ChardevPort<S> {
    name: String,
    link: Link,
    direction: Direction,
    vnet: Vnet,
    inbox: Inbox,
    parcel: Parcel,
    /// Bytes of the frame at the front of the queue that the peer has taken.
    sent: usize,
    /// The peer takes no more: wait until it does.
    blocked: bool,
    /// Frames have arrived that there is no memory for.
    starved: bool,
    /// Something was sent since the last housekeeping.
    busy: bool,
    logged: Option<Instant>,
    counts: Statistics,
    store: PhantomData<fn() -> S>,
}

impl<S: Memory> ChardevPort<S> {
    /// Listens, or begins to connect; the peer need not be there yet.
    ///
    /// # Errors
    /// When the address cannot be listened on, or a host name cannot be resolved.
    pub fn open(spec: &ChardevSpec, direction: Direction, vnet: Vnet) -> Result<Self, LinkError> {
        let framing = Framing { vnet: vnet != Vnet::Off };
        Ok(Self {
            name: spec.to_string(),
            link: Link::open(spec)?,
            direction,
            vnet,
            inbox: Inbox::new(framing, RECEIVE_BUFFER),
            parcel: Parcel::new(),
            sent: 0,
            blocked: false,
            starved: false,
            busy: false,
            logged: None,
            counts: Statistics::default(),
            store: PhantomData,
        })
    }

    /// Takes frames out of what has arrived. True if more bytes are needed.
    #[inline]
    fn unpack(&mut self, store: &mut S, into: &mut Vec<S::Frame>, limit: usize) -> bool {
        let before = into.len();
        let more = loop {
            if into.len() >= limit {
                break false;
            }
            match self.inbox.message() {
                Ok(Some((message, taken))) => match store.allocate(message.header, message.body) {
                    Some(frame) => {
                        into.push(frame);
                        self.inbox.take(taken);
                    }
                    None => {
                        self.starved = true;
                        break false;
                    }
                },
                Ok(None) => break true,
                Err(fault) => {
                    self.reproach(fault);
                    break false;
                }
            }
        };
        if into.len() > before {
            self.counts.frames += (into.len() - before) as u64;
            self.link.proven();
        }
        more
    }

    /// Asks the socket for bytes. True if some came.
    fn fetch(&mut self) -> bool {
        if !self.link.is_connected() {
            return false;
        }
        self.counts.receive_calls += 1;
        match self.link.receive(self.inbox.room()) {
            Transfer::Bytes(count) => {
                self.inbox.filled(count);
                self.counts.bytes += count as u64;
                true
            }
            Transfer::Blocked => false,
            Transfer::Ended(errno) => {
                self.part(errno);
                false
            }
        }
    }

    /// The peer sent what no stream contains: only a new connection helps.
    #[cold]
    fn reproach(&mut self, fault: Fault) {
        self.counts.count_fault(fault);
        if self.may_log() {
            tracing::warn!(port = self.name, %fault, "peer at fault, connection closed");
        }
        self.inbox.clear();
        self.hang_up();
    }

    /// The connection ended. What was under way in it begins anew with the next.
    #[cold]
    fn part(&mut self, errno: Option<Errno>) {
        let partial = self.inbox.waiting() > 0 || self.sent > 0;
        self.counts.partial_frames += u64::from(partial);
        if self.may_log() {
            let cause = errno.map_or("closed by the peer", Errno::desc);
            tracing::warn!(port = self.name, cause, partial, "connection ended");
        }
        self.inbox.clear();
        self.hang_up();
    }

    fn hang_up(&mut self) {
        self.sent = 0;
        self.blocked = false;
        self.counts.disconnections += 1;
        self.link.disconnect();
    }

    #[cold]
    fn find_peer(&mut self) {
        match self.link.advance() {
            Ok(false) => {}
            Ok(true) => {
                self.counts.connections += 1;
                // What waits to be sent is tried as soon as the socket says that it can be.
                self.blocked = self.direction == Direction::Send;
                tracing::info!(port = self.name, "connected");
            }
            Err(error) => {
                if self.may_log() {
                    tracing::warn!(port = self.name, %error, "no peer yet, trying again");
                }
            }
        }
    }

    fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let due = self.logged.is_none_or(|last| now.duration_since(last) >= LOG_PAUSE);
        if due {
            self.logged = Some(now);
        }
        due
    }

    /// Reads what the peer of an output sends, which means nothing, to see whether it is there.
    fn listen_for_end(&mut self) {
        let room = self.inbox.room();
        self.counts.receive_calls += 1;
        match self.link.receive(room) {
            Transfer::Bytes(count) => self.counts.bytes_ignored += count as u64,
            Transfer::Blocked => {}
            Transfer::Ended(errno) => self.part(errno),
        }
    }

    /// Sends from the front of `from` once. False when the socket takes no more.
    fn send_once(&mut self, store: &mut S, from: &mut VecDeque<S::Frame>) -> bool {
        self.parcel.pack(store, from, self.vnet);
        let offered = self.parcel.length() - self.sent;
        self.counts.send_calls += 1;
        match self.parcel.send(&self.link, store, from, self.sent) {
            Transfer::Bytes(count) => {
                self.counts.bytes += count as u64;
                self.settle(store, from, count);
                count == offered
            }
            Transfer::Blocked => false,
            Transfer::Ended(errno) => {
                self.part(errno);
                false
            }
        }
    }

    /// Ends the frames that the peer has taken whole.
    fn settle(&mut self, store: &mut S, from: &mut VecDeque<S::Frame>, count: usize) {
        let taken = self.sent + count;
        let whole = self.parcel.ends.partition_point(|&end| end <= taken);
        for frame in from.drain(..whole) {
            store.recycle(frame);
        }
        let settled = whole.checked_sub(1).map_or(0, |last| self.parcel.ends[last]);
        self.sent = taken - settled;
        if whole > 0 {
            self.counts.frames += whole as u64;
            self.link.proven();
        }
    }
}

impl Parcel {
    fn new() -> Self {
        Self {
            copied: Vec::with_capacity(SEND_BYTES + 2 * SMALL),
            pieces: Vec::with_capacity(SEND_PIECES + LARGEST_PIECES),
            ends: Vec::with_capacity(SEND_FRAMES),
        }
    }

    fn length(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Makes frames from the front of `from` ready, as many as go in one call.
    fn pack<S: Memory>(&mut self, store: &S, from: &VecDeque<S::Frame>, vnet: Vnet) {
        self.copied.clear();
        self.pieces.clear();
        self.ends.clear();
        let framing = Framing { vnet: vnet != Vnet::Off };
        let mut end = 0;
        for (index, frame) in from.iter().enumerate() {
            let header = match vnet {
                Vnet::Off => &[],
                Vnet::Carried => store.prefix(frame),
                Vnet::Blank => &BLANK_HEADER,
            };
            let length = store.len(frame);
            let words = framing.words(header.len(), length);
            self.copied.extend_from_slice(words.as_ref());
            self.copied.extend_from_slice(header);
            self.add(store, frame, index, length);
            end += words.as_ref().len() + header.len() + length;
            self.ends.push(end);
            let full = end >= SEND_BYTES
                || self.pieces.len() >= SEND_PIECES
                || self.ends.len() == SEND_FRAMES;
            if full {
                break;
            }
        }
        self.pieces.push(Piece::Copied { end: self.copied.len() });
    }

    #[inline]
    fn add<S: Memory>(&mut self, store: &S, frame: &S::Frame, index: usize, length: usize) {
        if length > SMALL {
            self.pieces.push(Piece::Copied { end: self.copied.len() });
        }
        let mut at = 0;
        while at < length {
            let run = store.run(frame, at);
            if length > SMALL {
                self.pieces.push(Piece::InPlace { index, at });
            } else {
                self.copied.extend_from_slice(run);
            }
            at += run.len();
        }
    }

    /// Offers what was packed, but for the first `skip` bytes.
    fn send<S: Memory>(
        &self,
        link: &Link,
        store: &S,
        from: &VecDeque<S::Frame>,
        mut skip: usize,
    ) -> Transfer {
        let mut slices = [IoSlice::new(&[]); SEND_PIECES + LARGEST_PIECES];
        let mut count = 0;
        let mut copied = 0;
        for piece in &self.pieces {
            let bytes = match *piece {
                Piece::Copied { end } => {
                    let bytes = &self.copied[copied..end];
                    copied = end;
                    bytes
                }
                Piece::InPlace { index, at } => store.run(&from[index], at),
            };
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() {
                slices[count] = IoSlice::new(&bytes[skipped..]);
                count += 1;
            }
        }
        link.send(&slices[..count])
    }
}

impl<S: Memory> Port for ChardevPort<S> {
    type Store = S;

    fn receive(
        &mut self,
        store: &mut S,
        into: &mut Vec<FrameOf<Self>>,
        limit: usize,
    ) -> Result<(), PortError> {
        let limit = into.len() + limit;
        let waited = std::mem::take(&mut self.starved);
        // One call a turn: what comes meanwhile waits for the other ports' turn.
        if self.unpack(store, into, limit) && self.fetch() {
            self.unpack(store, into, limit);
        }
        self.counts.memory_waits += u64::from(self.starved && !waited);
        Ok(())
    }

    fn transmit(
        &mut self,
        store: &mut S,
        from: &mut VecDeque<FrameOf<Self>>,
    ) -> Result<(), PortError> {
        self.busy = true;
        // A TCP peer that has closed would let one more call succeed, and its frames be lost.
        if self.link.is_tcp() && self.link.is_connected() {
            self.listen_for_end();
        }
        while !from.is_empty() && self.link.is_connected() {
            if !self.send_once(store, from) {
                self.counts.peer_waits += u64::from(!self.blocked);
                self.blocked = self.link.is_connected();
                break;
            }
            self.blocked = false;
        }
        Ok(())
    }

    fn service(&mut self, _: &mut S) -> Result<(), PortError> {
        if !self.link.is_connected() {
            self.find_peer();
        } else if self.direction == Direction::Send && !std::mem::take(&mut self.busy) {
            // Nothing waits to be sent, so there is no room to wait for.
            self.blocked = false;
            self.listen_for_end();
        }
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn is_up(&self) -> bool {
        self.link.is_connected()
    }

    fn was_up(&self) -> bool {
        self.counts.connections > 0
    }

    fn has_back_pressure(&self) -> bool {
        true
    }

    fn close(self, _: &mut S) {}

    fn kernel_dropped(&self) -> u64 {
        0
    }

    fn statistics(&self) -> serde_json::Value {
        let statistics = Statistics { connection: Some(self.link.condition()), ..self.counts };
        serde_json::to_value(statistics).unwrap_or_default()
    }

    fn wait(&self) -> Option<PollFd<'_>> {
        if self.starved {
            return None;
        }
        let room = if self.blocked { PollFlags::POLLOUT } else { PollFlags::empty() };
        self.link.wait(PollFlags::POLLIN | room)
    }

    fn in_flight(&self) -> InFlight {
        InFlight::default()
    }
}
