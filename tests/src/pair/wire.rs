//! A stretch of cable that loses, reorders and duplicates frames: the test's own forwarder between
//! two devices, because the kernel here has no netem.
//!
//! One thread moves frames from each device to the other over packet sockets. What happens to a
//! frame follows from a seed and the frame's number in its direction, not from time: the same
//! sequence of frames meets the same fate.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Result;
use crate::namespace::Namespace;
use crate::packet_socket::{BATCH, Batch, PacketSocket};
use crate::pass_program::PassProgram;
use crate::payload::Seed;

/// Probabilities are given in parts of this.
const PER_MILLION: usize = 1_000_000;
/// A frame that is to be overtaken waits for at most so many others, ...
const OVERTAKERS: usize = 6;
/// ... and at most so long, in case that no other comes.
const OVERTAKE_WITHIN: Duration = Duration::from_millis(3);
/// How long a device that takes no frame is given, and how often.
const ROOM_AFTER: Duration = Duration::from_micros(200);
const ATTEMPTS: u32 = 25;
/// Between two looks at whether the wire is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a wire does to the frames of one direction, in frames of a million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Impairment {
    /// So many are lost.
    pub loss: u32,
    /// So many arrive behind one to six later ones.
    pub reordering: u32,
    /// So many arrive twice.
    pub duplication: u32,
}

impl Impairment {
    /// None: every frame arrives, once, in order.
    pub const NONE: Self = Self { loss: 0, reordering: 0, duplication: 0 };

    /// A bad wide-area path: one frame of two hundred lost, one of a hundred late, one of five
    /// hundred doubled.
    pub const BAD_PATH: Self = Self { loss: 5_000, reordering: 10_000, duplication: 2_000 };
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the device that was named first to the second.
    Forth,
    /// From the second to the first.
    Back,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Forth, Self::Back];

    fn index(self) -> usize {
        match self {
            Self::Forth => 0,
            Self::Back => 1,
        }
    }
}

/// What has happened to the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out, duplicates included.
    pub sent: u64,
    /// Lost by the dice, or because the wire was cut.
    pub lost: u64,
    /// Sent behind later ones.
    pub reordered: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Lost although they should not have been: the far device was full or down.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
    reordered: AtomicU64,
    duplicated: AtomicU64,
    refused: AtomicU64,
}

/// What the wire's owner and its thread share.
#[derive(Debug, Default)]
struct Shared {
    impairments: Mutex<[Impairment; 2]>,
    cut: AtomicBool,
    end: AtomicBool,
    counters: [Counters; 2],
}

/// A running wire. Dropping it ends it; its devices then carry nothing.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result>>,
}

impl Wire {
    /// Starts carrying frames between two devices of `namespace`, unimpaired; `seed` decides what
    /// happens to which frame later.
    ///
    /// # Errors
    /// When a device cannot be opened.
    pub fn between(namespace: &Namespace, devices: [&str; 2], seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        // A veth takes frames that XDP redirects to its peer only while it has a program.
        let (sockets, programs) = namespace.run(|| {
            let programs = [PassProgram::attach(devices[0])?, PassProgram::attach(devices[1])?];
            Ok((
                [PacketSocket::receiver(devices[0])?, PacketSocket::receiver(devices[1])?],
                programs,
            ))
        })?;
        for device in devices {
            // The program turned GRO on: what arrives merged is not what was on the wire.
            namespace.command(
                "ethtool",
                &["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"],
            )?;
        }
        let lanes = [
            Lane::new(Direction::Forth, seed, Arc::clone(&shared)),
            Lane::new(Direction::Back, seed, Arc::clone(&shared)),
        ];
        let ending = Arc::clone(&shared);
        let thread = namespace.spawn(move || {
            let _programs = programs;
            carry(&sockets, lanes, &ending)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Impairs one direction from now on.
    pub fn impair(&self, direction: Direction, impairment: Impairment) {
        let mut both = self.shared.impairments.lock().unwrap_or_else(PoisonError::into_inner);
        both[direction.index()] = impairment;
    }

    /// Impairs both directions from now on.
    pub fn impair_both(&self, impairment: Impairment) {
        for direction in Direction::BOTH {
            self.impair(direction, impairment);
        }
    }

    /// Loses every frame until [`Wire::mend`].
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
    }

    /// Ends [`Wire::cut`].
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::Relaxed);
    }

    /// What has happened so far in one direction.
    #[must_use]
    pub fn carried(&self, direction: Direction) -> Carried {
        let counters = &self.shared.counters[direction.index()];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried {
            received: read(&counters.received),
            sent: read(&counters.sent),
            lost: read(&counters.lost),
            reordered: read(&counters.reordered),
            duplicated: read(&counters.duplicated),
            refused: read(&counters.refused),
        }
    }

    /// Ends it and says what went wrong in it, if anything did.
    ///
    /// # Errors
    /// When a socket failed.
    pub fn finish(mut self) -> Result {
        self.end()
    }

    fn end(&mut self) -> Result {
        self.shared.end.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome.context("wire"),
            Some(Err(_)) => Err(anyhow!("the thread of a wire panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The thread's work: waits for either socket and carries what came.
fn carry(sockets: &[PacketSocket; 2], mut lanes: [Lane; 2], shared: &Shared) -> Result {
    let mut batch = Batch::new();
    while !shared.end.load(Ordering::Relaxed) {
        let waiting = lanes.iter().any(|lane| !lane.late.is_empty());
        let within = if waiting { OVERTAKE_WITHIN } else { LOOK_AGAIN };
        let mut descriptors =
            sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let timeout = PollTimeout::from(u16::try_from(within.as_millis()).unwrap_or(u16::MAX));
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let [forth, back] = &mut lanes;
        forth.turn(&sockets[0], &sockets[1], &mut batch)?;
        back.turn(&sockets[1], &sockets[0], &mut batch)?;
    }
    Ok(())
}

/// A frame that waits to be overtaken.
#[derive(Debug)]
struct Late {
    frame: Vec<u8>,
    overtakers: usize,
    until: Instant,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    direction: Direction,
    dice: Seed,
    late: Vec<Late>,
    shared: Arc<Shared>,
}

/// What is to become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Sent,
    Lost,
    SentTwice,
    Overtaken(usize),
}

impl Lane {
    fn new(direction: Direction, seed: u64, shared: Arc<Shared>) -> Self {
        let dice = Seed::new(seed.wrapping_mul(2).wrapping_add(direction.index() as u64));
        Self { direction, dice, late: Vec::new(), shared }
    }

    fn fate(&mut self, impairment: Impairment) -> Fate {
        if impairment == Impairment::NONE {
            return Fate::Sent;
        }
        let cast = self.dice.below(PER_MILLION) as u32;
        let overtakers = 1 + self.dice.below(OVERTAKERS);
        let Impairment { loss, reordering, duplication } = impairment;
        match cast {
            cast if cast < loss => Fate::Lost,
            cast if cast < loss + reordering => Fate::Overtaken(overtakers),
            cast if cast < loss + reordering + duplication => Fate::SentTwice,
            _ => Fate::Sent,
        }
    }

    /// Carries one batch, and those late frames whose time has come.
    fn turn(&mut self, from: &PacketSocket, to: &PacketSocket, batch: &mut Batch) -> Result {
        from.receive_batch(batch).or_else(|error| {
            // A device that is down says so once; it may come up again.
            let cause = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if cause == Some(libc::ENETDOWN) { Ok(()) } else { Err(error) }
        })?;
        let shared = Arc::clone(&self.shared);
        let counters = &shared.counters[self.direction.index()];
        count(&counters.received, batch.frames().count());
        if shared.cut.load(Ordering::Relaxed) {
            count(&counters.lost, batch.frames().count() + self.late.len());
            self.late.clear();
            return Ok(());
        }
        let impairment = shared.impairments.lock().unwrap_or_else(PoisonError::into_inner)
            [self.direction.index()];
        let now = Instant::now();
        let mut out = Vec::with_capacity(2 * BATCH);
        for frame in batch.frames() {
            match self.fate(impairment) {
                Fate::Sent => out.push(Cow::Borrowed(frame)),
                Fate::Lost => {
                    count(&counters.lost, 1);
                    continue;
                }
                Fate::SentTwice => {
                    count(&counters.duplicated, 1);
                    out.extend([Cow::Borrowed(frame), Cow::Borrowed(frame)]);
                }
                Fate::Overtaken(overtakers) => {
                    count(&counters.reordered, 1);
                    let until = now + OVERTAKE_WITHIN;
                    self.late.push(Late { frame: frame.to_vec(), overtakers, until });
                    continue;
                }
            }
            for late in &mut self.late {
                late.overtakers -= 1;
            }
            self.take_late(|late| late.overtakers == 0, &mut out);
        }
        self.take_late(|late| late.until <= now, &mut out);
        send(to, &out, counters);
        Ok(())
    }

    /// Takes out the late frames whose wait is over.
    fn take_late<'a>(&mut self, over: impl Fn(&Late) -> bool, out: &mut Vec<Cow<'a, [u8]>>) {
        out.extend(self.late.extract_if(.., |late| over(late)).map(|late| Cow::Owned(late.frame)));
    }
}

/// Sends `frames`, in order, each as often as the device wants to be asked.
fn send(to: &PacketSocket, frames: &[Cow<'_, [u8]>], counters: &Counters) {
    let mut left: Vec<&[u8]> = frames.iter().map(AsRef::as_ref).collect();
    left.reverse();
    let mut attempts = 0;
    while !left.is_empty() {
        let ahead: Vec<&[u8]> = left.iter().rev().take(BATCH).copied().collect();
        let sent = to.send_batch(&ahead);
        count(&counters.sent, sent);
        left.truncate(left.len() - sent);
        if sent > 0 {
            attempts = 0;
        } else if attempts < ATTEMPTS {
            attempts += 1;
            thread::sleep(ROOM_AFTER);
        } else {
            // Down, or full for so long that the far end is not there.
            count(&counters.refused, left.len());
            return;
        }
    }
}

fn count(counter: &AtomicU64, frames: usize) {
    counter.fetch_add(frames as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Capture, PATIENCE, SILENCE};
    use crate::needs_root;
    use crate::packet::Packet;
    use crate::payload;
    use crate::stage::WINDOW;

    /// `near0 ═ near1 ─ wire ─ far1 ═ far0`, in one namespace.
    fn scene(seed: u64) -> Result<(Namespace, Wire, PacketSocket, Capture)> {
        let namespace = Namespace::new("wire")?;
        for end in ["near", "far"] {
            namespace.ip(&format!(
                "link add {end}0 type veth peer name {end}1\n\
                 link set {end}0 up\nlink set {end}1 up"
            ))?;
        }
        let wire = Wire::between(&namespace, ["near1", "far1"], seed)?;
        let (sender, capture) =
            namespace.run(|| Ok((PacketSocket::sender("near0")?, Capture::on("far0")?)))?;
        Ok((namespace, wire, sender, capture))
    }

    fn frames(count: u32) -> Vec<Vec<u8>> {
        let length = |index: u32| 4 + (index as usize * 37) % 1400;
        (0..count)
            .map(|index| {
                let payload = payload::bytes(u64::from(index), length(index));
                Packet::v4().udp(1, 2, &payload)
            })
            .collect()
    }

    #[test]
    fn unimpaired_it_carries_every_frame_in_order() -> Result {
        needs_root!();
        let (_namespace, wire, sender, mut capture) = scene(1)?;
        let frames = frames(2_000);
        for window in frames.chunks(WINDOW) {
            window.iter().try_for_each(|frame| sender.send(frame))?;
            capture.expect(window)?;
        }
        let carried = wire.carried(Direction::Forth);
        assert_eq!((carried.received, carried.sent), (2_000, 2_000));
        wire.finish()
    }

    #[test]
    fn it_loses_reorders_and_doubles_as_often_as_it_is_told_and_delivers_the_rest() -> Result {
        needs_root!();
        let (_namespace, wire, sender, mut capture) = scene(2)?;
        let bad = Impairment { loss: 100_000, reordering: 100_000, duplication: 100_000 };
        wire.impair(Direction::Forth, bad);
        let frames = frames(2_000);
        let mut arrived = Vec::new();
        for window in frames.chunks(WINDOW) {
            window.iter().try_for_each(|frame| sender.send(frame))?;
            while let Some(frame) = capture.next(Duration::from_millis(10))? {
                arrived.push(frame);
            }
        }
        let carried = wire.carried(Direction::Forth);
        for (what, count) in [
            ("lost", carried.lost),
            ("reordered", carried.reordered),
            ("duplicated", carried.duplicated),
        ] {
            assert!((120..=280).contains(&count), "{what}: {count} of 2,000");
        }
        assert_eq!(carried.refused, 0);
        assert_eq!(arrived.len() as u64, 2_000 - carried.lost + carried.duplicated);
        let position = |frame: &Vec<u8>| frames.iter().position(|other| other == frame);
        let order: Vec<_> = arrived.iter().map(position).collect();
        assert!(order.iter().all(Option::is_some), "a frame was damaged");
        assert!(!order.is_sorted());
        wire.finish()
    }

    #[test]
    fn while_it_is_cut_nothing_passes() -> Result {
        needs_root!();
        let (_namespace, wire, sender, mut capture) = scene(3)?;
        let frames = frames(3);
        wire.cut();
        sender.send(&frames[0])?;
        capture.expect_nothing(SILENCE)?;
        wire.mend();
        sender.send(&frames[1])?;
        capture.expect(&frames[1..2])?;
        let deadline = Instant::now() + PATIENCE;
        while wire.carried(Direction::Forth).lost == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(wire.carried(Direction::Forth).lost, 1);
        wire.finish()
    }
}
