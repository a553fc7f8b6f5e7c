//! The pinned loop: ports to comparator to port.
//!
//! One turn receives a batch from each port, lets the comparator judge it, completes what
//! checksums need it, sends what was released and gives the rest back. A lane owns its frame
//! memory, its ports and its comparator; nothing is shared, so nothing is locked. The control
//! side talks to it through channels, which cost an idle lane one atomic load a turn.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use crate::compare::{
    Amendment, Checksum, Comparator, Discard, Divergence, Release, Side, Sink, Timestamp,
};
use crate::frame::checksum::{self, ChecksumState};
use crate::frame::{FlowKey, FrameStore, Headers, payload, timestamp};
use crate::observe::{Books, DivergenceReport, Event, FlowStatus, LaneStatus, PortStatus};
use crate::port::{FrameOf, Memory, Port, PortError};

/// Frames taken from one port in one turn. Large enough to spread a wake-up over many frames,
/// small enough that a batch and its flows stay in the caches.
const BATCH: usize = 64;

/// How often deadlines are looked at: well within the 20 ms in which a timeout must be found.
const TICK: Duration = Duration::from_millis(1);

/// How often a port is asked whether its device still exists.
const LIFE_CHECK: Duration = Duration::from_millis(50);

/// How long a stopping lane waits for the kernel to send what was released.
const DRAIN: Duration = Duration::from_millis(300);

/// What a sleeping lane waits on at most: the doorbell, eight queues of each side, the output.
const WAITS: usize = 18;

/// How a lane waits for frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polling {
    /// Spin: lowest latency, a whole core.
    Busy,
    /// Spin while there is work, sleep in poll(2) when there is none.
    Adaptive,
}

/// What the control side asks of a lane.
#[derive(Debug)]
pub enum Command {
    /// A checkpoint completed: flush.
    Checkpoint(Sender<Flushed>),
    /// One side is lost: flush and pass the survivor's frames.
    Failover(Side, Sender<Flushed>),
    /// The other ends of these connections have reset them, then.
    Reset(Vec<(FlowKey, Instant)>),
    /// Compare again.
    Rearm(Sender<()>),
    /// Report the state.
    Status(Sender<Box<LaneStatus>>),
    /// List at most this many flows.
    Flows(usize, Sender<Vec<FlowStatus>>),
    /// Open the ports again whose device was lost.
    Reopen(Sender<()>),
    /// Flush everything and end.
    Stop,
}

/// What a flush did.
#[derive(Debug, Clone, Copy)]
pub struct Flushed {
    /// Frames that left.
    pub released: u64,
    /// Frames that were dropped.
    pub dropped: u64,
}

/// A place for a port: the port while its device is there, and how to open it again.
pub struct Berth<P: Port> {
    side: Option<Side>,
    name: String,
    port: Option<P>,
    reopen: Opener<P>,
    /// Counts of earlier incarnations of the port.
    dropped_before: u64,
}

/// Opens a port again after its device came back.
pub type Opener<P> = Box<dyn FnMut(&mut <P as Port>::Store) -> Result<P, String> + Send>;

impl<P: Port> Berth<P> {
    /// A berth for a port that is open. `side` is `None` for the output.
    pub fn new(side: Option<Side>, port: P, reopen: Opener<P>) -> Self {
        Self { side, name: port.name().to_owned(), port: Some(port), reopen, dropped_before: 0 }
    }

    fn role(&self) -> &'static str {
        match self.side {
            Some(Side::Primary) => "primary",
            Some(Side::Secondary) => "secondary",
            None => "out",
        }
    }

    fn status(&self) -> PortStatus {
        let port = self.port.as_ref();
        PortStatus {
            name: self.name.clone(),
            role: self.role(),
            up: port.is_some_and(Port::is_up),
            kernel_dropped: self.kernel_dropped(),
            statistics: port.map(Port::statistics).unwrap_or_default(),
        }
    }

    fn kernel_dropped(&self) -> u64 {
        self.dropped_before + self.port.as_ref().map_or(0, Port::kernel_dropped)
    }
}

/// How a lane runs.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// How to wait.
    pub polling: Polling,
    /// False: release every primary frame and drop every secondary one without looking at
    /// them, to measure what the path costs without comparison.
    pub compare: bool,
    /// Lengths of frames that the output sends; others are dropped and counted.
    pub lengths: RangeInclusive<usize>,
    /// Whether checksums that a guest left to offload hardware are completed. Not where the
    /// output carries the header in which the guest says so.
    pub complete_checksums: bool,
    /// How long an adaptive lane spins without work before it sleeps.
    pub spin: Duration,
}

/// Collects what the comparator decides during a turn.
struct Decisions<F> {
    released: Vec<(F, Amendment)>,
    discarded: Vec<F>,
    events: Sender<Event>,
    events_dropped: u64,
}

impl<S: Memory> Sink<S> for Decisions<S::Frame> {
    #[inline]
    fn release(&mut self, frame: S::Frame, _: Release, amendment: Amendment) {
        self.released.push((frame, amendment));
    }

    #[inline]
    fn discard(&mut self, frame: S::Frame, _: Side, _: Discard) {
        self.discarded.push(frame);
    }

    fn diverged(&mut self, store: &S, divergence: &Divergence<'_, S>) {
        let report = DivergenceReport::new(store, divergence);
        self.tell(Event::Divergence(Box::new(report)));
    }

    fn checkpoint_wanted(&mut self) {
        self.tell(Event::CheckpointRequested);
    }
}

impl<F> Decisions<F> {
    /// Passes an event on without waiting; counts it if nobody takes it.
    fn tell(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.events_dropped += 1;
        }
    }
}

/// Whether the secondary's frames can come, as far as its ports know. The lane keeps it up to date,
/// the control side reads it.
#[derive(Debug, Default)]
pub struct Presence {
    came: AtomicBool,
    there: AtomicBool,
}

impl Presence {
    /// Its ports have been open, and connected if they are sockets, at some time.
    #[must_use]
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// They are now.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }
}

/// The ends of the channels that a lane holds.
pub struct Wiring {
    /// Commands in.
    pub commands: Receiver<Command>,
    /// Rung after a command was sent, to wake a sleeping lane.
    pub doorbell: Arc<EventFd>,
    /// Events out; bounded.
    pub events: Sender<Event>,
    /// Kept up to date.
    pub secondary: Arc<Presence>,
}

/// A worker: its memory, its ports, its comparator.
pub struct Lane<P: Port> {
    // Ports are dropped before the memory that they use.
    inputs: Vec<Berth<P>>,
    output: Berth<P>,
    store: P::Store,
    comparator: Comparator<FrameOf<P>>,
    decisions: Decisions<FrameOf<P>>,
    /// Released frames that wait for room on the output port.
    outbox: VecDeque<FrameOf<P>>,
    received: Vec<FrameOf<P>>,
    options: LaneOptions,
    commands: Receiver<Command>,
    doorbell: Arc<EventFd>,
    secondary: Arc<Presence>,
    origin: Instant,
    next_tick: Instant,
    next_life_check: Instant,
    checksums_completed: u64,
    oversized: u64,
    runts: u64,
    unsent: u64,
    stopping: bool,
}

impl<P: Port> Lane<P> {
    /// A lane ready to run, whose time counts from `now`. All its buffers are reserved here.
    #[must_use]
    pub fn new(
        store: P::Store,
        inputs: Vec<Berth<P>>,
        output: Berth<P>,
        comparator: Comparator<FrameOf<P>>,
        options: LaneOptions,
        wiring: Wiring,
        now: Instant,
    ) -> Self {
        let frames = store.total();
        Self {
            inputs,
            output,
            comparator,
            decisions: Decisions {
                released: Vec::with_capacity(frames),
                discarded: Vec::with_capacity(frames),
                events: wiring.events,
                events_dropped: 0,
            },
            outbox: VecDeque::with_capacity(frames),
            received: Vec::with_capacity(BATCH),
            store,
            options,
            commands: wiring.commands,
            doorbell: wiring.doorbell,
            secondary: wiring.secondary,
            origin: now,
            next_tick: now + TICK,
            next_life_check: now + LIFE_CHECK,
            checksums_completed: 0,
            oversized: 0,
            runts: 0,
            unsent: 0,
            stopping: false,
        }
    }

    /// Runs until [`Command::Stop`]: flushes, sends what is left, closes the ports, and returns
    /// the final state.
    pub fn run(mut self) -> Box<LaneStatus> {
        let mut idle_since: Option<Instant> = None;
        while !self.stopping {
            let now = Instant::now();
            if self.turn(now) || self.stopping {
                idle_since = None;
                continue;
            }
            let idle = now.duration_since(*idle_since.get_or_insert(now));
            if self.options.polling == Polling::Adaptive && idle >= self.options.spin {
                self.sleep();
            } else {
                std::hint::spin_loop();
            }
        }
        self.finish()
    }

    /// One turn at `now`, which [`Lane::run`] makes again and again: receives, judges, sends, gives back;
    /// obeys commands when a millisecond has passed. False if there was nothing to do.
    pub fn turn(&mut self, now: Instant) -> bool {
        let timestamp = self.timestamp(now);
        let mut worked = self.receive_all(timestamp);
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.comparator.tick(timestamp, &self.store, &mut self.decisions);
            self.obey_commands(timestamp);
            if now >= self.next_life_check {
                self.next_life_check = now + LIFE_CHECK;
                self.check_lives();
            }
        }
        self.carry_out();
        worked |= self.send();
        self.service();
        worked
    }

    fn timestamp(&self, now: Instant) -> Timestamp {
        Timestamp::after_origin(now.duration_since(self.origin))
    }

    /// Takes a batch from each input port to the comparator.
    fn receive_all(&mut self, now: Timestamp) -> bool {
        let mut worked = false;
        for index in 0..self.inputs.len() {
            if self.is_held_back(&self.inputs[index]) {
                continue;
            }
            let berth = &mut self.inputs[index];
            let (Some(side), Some(port)) = (berth.side, berth.port.as_mut()) else {
                continue;
            };
            let result = port.receive(&mut self.store, &mut self.received, BATCH);
            worked |= !self.received.is_empty();
            self.judge(side, now);
            if let Err(error) = result {
                self.lose(index, &error);
            }
        }
        worked
    }

    /// Back-pressure: whether frames of this port had better stay where they are.
    ///
    /// While the output takes nothing, the primary waits: a device's ring then fills and the
    /// kernel counts what it drops; the peer of a socket waits. What was released is never dropped
    /// for newer frames. Where it costs nothing, because the peer waits, a side that is ahead also
    /// waits for the other when that one cannot come or when memory runs short, so that the frames
    /// that would free memory find room.
    fn is_held_back(&self, berth: &Berth<P>) -> bool {
        let (total, free) = (self.store.total(), self.store.free());
        let stuck = self.outbox.len() >= total / 8;
        if !stuck && free >= total / 8 * 3 {
            return false;
        }
        if stuck && berth.side == Some(Side::Primary) {
            return true;
        }
        let counters = self.comparator.counters();
        let is_ahead = match berth.side {
            Some(Side::Primary) => counters.primary_held > counters.secondary_held,
            _ => counters.secondary_held > counters.primary_held,
        };
        is_ahead && berth.port.as_ref().is_some_and(Port::has_back_pressure)
    }

    #[inline]
    fn judge(&mut self, side: Side, now: Timestamp) {
        if self.options.compare {
            self.comparator.offer_batch(
                side,
                &mut self.received,
                now,
                &self.store,
                &mut self.decisions,
            );
        } else if side == Side::Primary {
            self.outbox.extend(self.received.drain(..));
        } else {
            self.decisions.discarded.append(&mut self.received);
        }
    }

    /// Moves what the comparator decided: released frames to the outbox, the rest to free memory.
    #[inline]
    fn carry_out(&mut self) {
        for frame in self.decisions.discarded.drain(..) {
            self.store.recycle(frame);
        }
        let mut released = std::mem::take(&mut self.decisions.released);
        for (frame, amendment) in released.drain(..) {
            if !self.options.lengths.contains(&self.store.len(&frame)) {
                self.drop_unsendable(frame);
                continue;
            }
            let completes =
                amendment.checksum == Checksum::Partial && self.options.complete_checksums;
            let is_shorter = amendment.without_payload || amendment.without_first > 0;
            if completes || amendment.timestamp.is_some() || is_shorter {
                self.amend(&frame, amendment, completes);
            }
            self.outbox.push_back(frame);
        }
        self.decisions.released = released;
    }

    /// Drops a frame that the output would not send. Told once: the cause is a setting of the
    /// guest, and the counter has the rest.
    #[cold]
    fn drop_unsendable(&mut self, frame: FrameOf<P>) {
        let (length, longest) = (self.store.len(&frame), *self.options.lengths.end());
        if length <= longest {
            self.runts += 1;
        } else {
            if self.oversized == 0 {
                tracing::warn!(
                    length,
                    longest,
                    "a frame is longer than the output device sends and was dropped: turn off \
                     segmentation offload in the guest (ethtool -K DEV tso off gso off)"
                );
            }
            self.oversized += 1;
        }
        self.store.recycle(frame);
    }

    /// Gives a segment that has waited the time of those that have left, takes out the payload that nobody
    /// has compared, and does what the guest left to offload hardware that this path does not have.
    #[cold]
    fn amend(&mut self, frame: &FrameOf<P>, amendment: Amendment, completes: bool) {
        let mut headers = Headers::parse(&self.store, frame);
        if amendment.without_payload {
            self.remove_payload(frame, &headers);
            headers = Headers::parse(&self.store, frame);
        } else if amendment.without_first > 0 {
            self.cut_payload(frame, &headers, amendment.without_first);
            headers = Headers::parse(&self.store, frame);
        }
        if let Some(time) = amendment.timestamp
            && let Some(set) = timestamp::replaced(&self.store, frame, &headers, time)
        {
            self.store.write(frame, set.at, &time.to_be_bytes());
            if let Some((at, checksum)) = set.checksum {
                self.store.write(frame, at, &checksum.to_be_bytes());
            }
        }
        if completes && let Some((at, value)) = checksum::completed(&self.store, frame, &headers) {
            self.store.write(frame, at, &value.to_be_bytes());
            self.checksums_completed += 1;
        }
    }

    /// Takes the first bytes of the payload out of a segment.
    fn cut_payload(&mut self, frame: &FrameOf<P>, headers: &Headers, first: u32) {
        // None for what is no TCP segment, or has no more: of those the comparator does not ask it.
        let Some(cut) = payload::cut(&self.store, frame, headers, first) else { return };
        let (mut from, mut to) = (cut.rest.start, cut.content);
        let mut piece = [0; 256];
        while from < cut.rest.end {
            let run = self.store.run(frame, from);
            let length = piece.len().min(cut.rest.end - from).min(run.len());
            piece[..length].copy_from_slice(&run[..length]);
            self.store.write(frame, to, &piece[..length]);
            (from, to) = (from + length, to + length);
        }
        self.zero(frame, cut.padding);
        self.store.write(frame, cut.sequence.0, &cut.sequence.1);
        let words = [Some(cut.length), cut.header_checksum, Some(cut.partial_checksum)];
        for (at, word) in words.into_iter().flatten() {
            self.store.write(frame, at, &word);
        }
        if cut.state == ChecksumState::Complete {
            let headers = Headers::parse(&self.store, frame);
            if let Some((at, value)) = checksum::completed(&self.store, frame, &headers) {
                let value = if cut.is_wrong { !value } else { value };
                self.store.write(frame, at, &value.to_be_bytes());
            }
        }
    }

    /// Zeroes all of a frame from `start` on.
    fn zero(&mut self, frame: &FrameOf<P>, start: usize) {
        const ZEROES: [u8; 256] = [0; 256];
        let end = self.store.len(frame);
        for at in (start..end).step_by(ZEROES.len()) {
            self.store.write(frame, at, &ZEROES[..ZEROES.len().min(end - at)]);
        }
    }

    fn remove_payload(&mut self, frame: &FrameOf<P>, headers: &Headers) {
        // None for what is no TCP segment, of which the comparator does not ask it.
        let Some(removal) = payload::removed(&self.store, frame, headers) else { return };
        let words = [Some(removal.length), removal.header_checksum, Some(removal.checksum)];
        for (at, word) in words.into_iter().flatten() {
            self.store.write(frame, at, &word);
        }
        self.store.write(frame, removal.flags.0, &[removal.flags.1]);
        self.zero(frame, removal.padding);
    }

    /// Sends what was released. True if there is a reason to try again at once: an output whose
    /// peer has to take frames first says by itself when that is.
    fn send(&mut self) -> bool {
        let Some(port) = self.output.port.as_mut() else {
            return false;
        };
        if self.outbox.is_empty() {
            return false;
        }
        let again = !port.has_back_pressure();
        if let Err(error) = port.transmit(&mut self.store, &mut self.outbox) {
            self.lose_output(&error);
        }
        again
    }

    fn service(&mut self) {
        for index in 0..self.inputs.len() {
            if let Some(port) = self.inputs[index].port.as_mut()
                && let Err(error) = port.service(&mut self.store)
            {
                self.lose(index, &error);
            }
        }
        if let Some(port) = self.output.port.as_mut()
            && let Err(error) = port.service(&mut self.store)
        {
            self.lose_output(&error);
        }
    }

    fn lose(&mut self, index: usize, error: &PortError) {
        Self::vacate(&mut self.inputs[index], &mut self.store, &mut self.decisions, error);
    }

    fn lose_output(&mut self, error: &PortError) {
        Self::vacate(&mut self.output, &mut self.store, &mut self.decisions, error);
    }

    /// Closes a port whose device is gone. Its frames come back; what was released and not sent
    /// stays in the outbox.
    #[cold]
    fn vacate(
        berth: &mut Berth<P>,
        store: &mut P::Store,
        decisions: &mut Decisions<FrameOf<P>>,
        error: &PortError,
    ) {
        if let Some(port) = berth.port.take() {
            berth.dropped_before += port.kernel_dropped();
            port.close(store);
            let (device, cause) = (berth.name.clone(), error.to_string());
            decisions.tell(Event::PortLost { device, cause });
        }
    }

    fn check_lives(&mut self) {
        for berth in self.inputs.iter_mut().chain([&mut self.output]) {
            if berth.port.as_ref().is_some_and(|port| !port.is_alive()) {
                let error = PortError::DeviceGone {
                    device: berth.name.clone(),
                    cause: std::io::Error::from_raw_os_error(libc::ENODEV),
                };
                Self::vacate(berth, &mut self.store, &mut self.decisions, &error);
            }
        }
        self.look_for_secondary();
    }

    fn look_for_secondary(&self) {
        let is_secondary = |berth: &&Berth<P>| berth.side == Some(Side::Secondary);
        let mut there = true;
        let mut came = true;
        for berth in self.inputs.iter().filter(is_secondary) {
            there &= berth.port.as_ref().is_some_and(Port::is_up);
            came &= berth.port.as_ref().is_some_and(Port::was_up);
        }
        self.secondary.there.store(there, Ordering::Relaxed);
        if came {
            self.secondary.came.store(true, Ordering::Relaxed);
        }
    }

    fn reopen(&mut self) {
        for berth in self.inputs.iter_mut().chain([&mut self.output]) {
            if berth.port.is_some() {
                continue;
            }
            match (berth.reopen)(&mut self.store) {
                Ok(port) => {
                    berth.port = Some(port);
                    let device = berth.name.clone();
                    self.decisions.tell(Event::PortRestored { device });
                }
                Err(cause) => {
                    tracing::warn!(device = berth.name, cause, "cannot reopen the port yet");
                }
            }
        }
    }

    fn obey_commands(&mut self, now: Timestamp) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command, now);
        }
    }

    fn obey(&mut self, command: Command, now: Timestamp) {
        // The asker may have gone; then nobody needs the answer.
        match command {
            Command::Checkpoint(reply) => {
                // A primary frame left in its ring would lose its partner to the flush.
                self.take_what_waits(now);
                let flushed = self.flush(|comparator, store, decisions| {
                    comparator.checkpoint_done(now, store, decisions);
                });
                self.decisions.tell(Event::CheckpointDone {
                    released: flushed.released,
                    dropped: flushed.dropped,
                });
                let _ = reply.send(flushed);
            }
            Command::Failover(survivor, reply) => {
                self.take_what_waits(now);
                let flushed = self.flush(|comparator, store, decisions| {
                    comparator.failover(survivor, now, store, decisions);
                });
                self.decisions.tell(Event::Standalone { survivor, released: flushed.released });
                let _ = reply.send(flushed);
            }
            Command::Reset(resets) => {
                for (key, at) in &resets {
                    let at = self.timestamp(*at);
                    let (store, sink) = (&self.store, &mut self.decisions);
                    self.comparator.connection_reset(key, at, now, store, sink);
                }
            }
            Command::Rearm(reply) => {
                self.comparator.rearm();
                self.decisions.tell(Event::Rearmed);
                let _ = reply.send(());
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Command::Flows(limit, reply) => {
                let _ = reply.send(self.flows(limit));
            }
            Command::Reopen(reply) => {
                self.reopen();
                let _ = reply.send(());
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn flush(
        &mut self,
        how: impl FnOnce(&mut Comparator<FrameOf<P>>, &P::Store, &mut Decisions<FrameOf<P>>),
    ) -> Flushed {
        let before = self.comparator.counters();
        how(&mut self.comparator, &self.store, &mut self.decisions);
        let after = self.comparator.counters();
        Flushed {
            released: after.flushed - before.flushed,
            dropped: after.discarded - before.discarded,
        }
    }

    fn status(&self) -> Box<LaneStatus> {
        let counters = self.comparator.counters();
        let berths = || self.inputs.iter().chain([&self.output]);
        let input_dropped: u64 = self.inputs.iter().map(Berth::kernel_dropped).sum();
        Box::new(LaneStatus {
            counters,
            held: counters.held(),
            secondary_dropped: counters.discarded - counters.superseded - counters.reset,
            lost: counters.lost + input_dropped + self.oversized + self.runts + self.unsent,
            checksums_completed: self.checksums_completed,
            oversized: self.oversized,
            runts: self.runts,
            unsent: self.unsent,
            events_dropped: self.decisions.events_dropped,
            standalone: self.comparator.standalone(),
            checkpoint_outstanding: self.comparator.checkpoint_outstanding(),
            frames: self.books(),
            ports: berths().map(Berth::status).collect(),
        })
    }

    fn books(&self) -> Books {
        let mut books =
            Books { total: self.store.total(), free: self.store.free(), ..Books::default() };
        for port in self.inputs.iter().chain([&self.output]).filter_map(|b| b.port.as_ref()) {
            let in_flight = port.in_flight();
            books.receive += in_flight.receive;
            books.transmit += in_flight.transmit;
        }
        let occupied = |frame: &FrameOf<P>| self.store.occupies(frame);
        books.held = self.comparator.held_frames().map(occupied).sum();
        books.pending = self.outbox.iter().map(occupied).sum::<usize>()
            + self.decisions.discarded.iter().map(occupied).sum::<usize>()
            + self.decisions.released.iter().map(|(frame, _)| occupied(frame)).sum::<usize>();
        books.balanced()
    }

    fn flows(&self, limit: usize) -> Vec<FlowStatus> {
        let mut flows = Vec::new();
        self.comparator.for_each_flow(|key, primary_held, secondary_held, diverged| {
            if flows.len() < limit {
                flows.push(FlowStatus { flow: *key, primary_held, secondary_held, diverged });
            }
        });
        flows
    }

    /// Sleeps until a port can go on, the doorbell rings or the next tick is due.
    fn sleep(&mut self) {
        let doorbell = PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN);
        let inputs = self.inputs.iter().filter(|berth| !self.is_held_back(berth));
        let output = Some(&self.output)
            .filter(|berth| berth.port.as_ref().is_some_and(Port::has_back_pressure));
        let ports = inputs.chain(output).filter_map(|berth| berth.port.as_ref());
        let mut set = [const { None }; WAITS];
        let mut count = 0;
        for (wait, descriptor) in
            set.iter_mut().zip([doorbell.clone()].into_iter().chain(ports.filter_map(Port::wait)))
        {
            *wait = Some(descriptor);
            count += 1;
        }
        let mut set = set.map(|wait| wait.unwrap_or(doorbell.clone()));
        // An error here is an interruption; the next turn finds out whatever there is.
        let _ = nix::poll::poll(&mut set[..count], self.idle_timeout());
        if set[0].revents().is_some_and(|events| !events.is_empty()) {
            let _ = self.doorbell.read();
            self.next_tick = Instant::now();
        }
    }

    /// Ticks may be further apart while nothing is held that could be due.
    fn idle_timeout(&self) -> PollTimeout {
        let quiet = self.comparator.counters().held() == 0 && self.outbox.is_empty();
        PollTimeout::from(if quiet { 50u8 } else { 2u8 })
    }

    /// The end of [`Lane::run`]: flushes, waits a bounded time for the kernel to send what was released,
    /// closes the ports, and returns the final state.
    pub fn finish(mut self) -> Box<LaneStatus> {
        let now = self.timestamp(Instant::now());
        self.take_what_waits(now);
        self.comparator.shut_down(now, &self.store, &mut self.decisions);
        self.carry_out();
        let deadline = Instant::now() + DRAIN;
        while self.unsent() > 0 && self.output.port.is_some() && Instant::now() < deadline {
            self.send();
            self.service();
            std::thread::yield_now();
        }
        self.give_up_unsent();
        let status = self.status();
        for berth in self.inputs.drain(..).chain([self.output]) {
            if let Some(port) = berth.port {
                port.close(&mut self.store);
            }
        }
        status
    }

    /// Judges what is in the rings already: it came before whatever is to happen next. Bounded,
    /// should more keep coming.
    fn take_what_waits(&mut self, now: Timestamp) {
        for _ in 0..self.store.total().div_ceil(BATCH) {
            if !self.receive_all(now) {
                return;
            }
            self.carry_out();
            self.send();
            self.service();
        }
    }

    /// The output is away or too slow for an end in time: what it did not take is lost, counted.
    fn give_up_unsent(&mut self) {
        self.unsent = self.outbox.len() as u64;
        if self.unsent > 0 {
            tracing::warn!(frames = self.unsent, "the output did not take all released frames");
        }
        for frame in self.outbox.drain(..) {
            self.store.recycle(frame);
        }
    }

    fn unsent(&self) -> usize {
        let transmitting = self.output.port.as_ref().map_or(0, |port| port.in_flight().transmit);
        self.outbox.len() + transmitting
    }
}
