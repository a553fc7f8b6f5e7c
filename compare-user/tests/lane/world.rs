//! Guests, devices and whoever gives commands, and what must hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use colo_tests::packet::{Packet, protocol};
use compare_user::compare::{Comparator, Config, Side};
use compare_user::lane::{Berth, Command, Lane, LaneOptions, Polling, Presence, Wiring};
use compare_user::observe::{Event, LaneStatus};
use compare_user::port::arena::Arena;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use fastrand::Rng;
use nix::sys::eventfd::EventFd;

use crate::port::{MemoryPort, Shared};

/// Turns until everything becomes calm.
const FAULTY: u32 = 600;
/// Turns within which all must have come to its end then.
const CALM: u32 = 20_000;
/// Bytes of one unit of memory: a longer frame is a chain of them.
const CHUNK: usize = 512;
/// Frame lengths that the output takes.
const LENGTHS: std::ops::RangeInclusive<usize> = 60..=1400;
/// One guest is ahead of the other by so many datagrams at most.
const AHEAD: usize = 40;

/// What all seeds together must meet.
const TO_BE_MET: [&str; 16] = [
    "checkpoints",
    "checksums completed",
    "devices gone",
    "divergences",
    "failovers",
    "frames dropped at a full device",
    "frames lost before their device",
    "frames that left",
    "memory all used",
    "outputs stalled",
    "ports lost",
    "ports restored",
    "rearmed",
    "too long for the output",
    "too short for the output",
    "primary frames held back",
];

/// What was met in a run, so that no rule is kept by default.
#[derive(Debug, Default)]
pub(crate) struct Met(BTreeMap<&'static str, u64>);

impl Met {
    fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub(crate) fn add(&mut self, other: Self) {
        other.0.into_iter().for_each(|(what, times)| self.count(what, times));
    }

    /// Everything that can be met has been.
    pub(crate) fn expect_all(&self) {
        for what in TO_BE_MET {
            assert!(
                self.0.get(what).is_some_and(|times| *times > 0),
                "never met: {what}; {self:?}"
            );
        }
        assert_eq!(self.0.len(), TO_BE_MET.len(), "not in the list: {self:?}");
    }
}

/// A datagram that the guests say.
struct Datagram {
    /// As it is to leave.
    frame: Vec<u8>,
    /// The checksum is left to the card.
    is_partial: bool,
    /// How often each guest's has come to its device: after a failover one may say it again.
    said: [u32; 2],
    /// It may leave although only one has said it.
    excused: bool,
    left: u32,
}

/// A lane and all around it.
pub(crate) struct World {
    rng: Rng,
    now: Instant,
    lane: Lane<MemoryPort>,
    guests: [Shared; 2],
    output: Shared,
    /// How often, in a thousand, a guest's frame is lost before its device.
    losses: [u32; 2],
    waits: bool,
    /// Nothing goes wrong, so nothing may differ.
    faultless: bool,
    script: Vec<Datagram>,
    next: [usize; 2],
    survivor: Option<Side>,
    failed_over: bool,
    commands: Sender<Command>,
    events: Receiver<Event>,
    wanted: bool,
    met: Met,
}

const fn index(side: Side) -> usize {
    match side {
        Side::Primary => 0,
        Side::Secondary => 1,
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = Instant::now();
        let waits = rng.bool();
        let faultless = rng.u32(0..4) == 0;
        let chunks = if faultless { 2000 } else { [24, 64, 400][rng.usize(0..3)] };
        let [primary, secondary, output] = [(); 3].map(|()| Shared::default());
        for wire in [&primary, &secondary, &output] {
            let mut wire = wire.lock();
            let room = if faultless { 200 } else { rng.usize(4..80) };
            (wire.alive, wire.room) = (true, room);
            let least = if faultless { 30 } else { 1 };
            (wire.takes, wire.completes) = (rng.usize(least..40), rng.usize(least..40));
        }
        let berth = |side, name, wire: &Shared| {
            let port = MemoryPort::new(name, wire.clone(), waits);
            Berth::new(side, port, wire.opener(name, waits))
        };
        let inputs = vec![
            berth(Some(Side::Primary), "primary", &primary),
            berth(Some(Side::Secondary), "secondary", &secondary),
        ];
        let config = Config {
            queue_limit: if faultless || rng.bool() { 1024 } else { 8 },
            flow_limit: 64,
            held_limit: chunks * 3 / 4,
            compare_timeout: Duration::from_millis(if faultless { 3000 } else { rng.u64(5..60) }),
            request_interval: Duration::from_millis(20),
            ..Config::default()
        };
        let (commands, obeyed) = unbounded();
        let (told, events) = bounded(rng.usize(1..200));
        let wiring = Wiring {
            commands: obeyed,
            doorbell: Arc::new(EventFd::new().expect("a descriptor")),
            events: told,
            secondary: Arc::new(Presence::default()),
        };
        let options = LaneOptions {
            polling: Polling::Busy,
            compare: true,
            lengths: LENGTHS,
            complete_checksums: true,
            spin: Duration::ZERO,
        };
        let output_berth = berth(None, "output", &output);
        let comparator = Comparator::new(config);
        let store = Arena::new(chunks, CHUNK);
        let lane = Lane::new(store, inputs, output_berth, comparator, options, wiring, now);
        let losses = [0, 1].map(|_| if faultless || rng.bool() { 0 } else { rng.u32(1..40) });
        Self {
            rng,
            now,
            lane,
            guests: [primary, secondary],
            output,
            losses,
            waits,
            faultless,
            script: Vec::new(),
            next: [0; 2],
            survivor: None,
            failed_over: false,
            commands,
            events,
            wanted: false,
            met: Met::default(),
        }
    }

    pub(crate) fn run(self) {
        self.run_and_tell();
    }

    pub(crate) fn run_and_tell(mut self) -> Met {
        for _ in 0..FAULTY {
            for side in [Side::Primary, Side::Secondary] {
                self.speak(side);
            }
            self.befall();
            self.turn();
        }
        self.become_calm();
        self.end()
    }

    fn happens(&mut self, in_thousand: u32) -> bool {
        self.rng.u32(0..1000) < in_thousand
    }

    /// The datagram at this place of what both guests say.
    fn datagram(&mut self, place: usize) -> &mut Datagram {
        while self.script.len() <= place {
            let number = self.script.len();
            let flow = self.rng.u16(1..7);
            let longest = if self.happens(100) { 1600 } else { 200 };
            let mut payload = (number as u64).to_be_bytes().to_vec();
            payload.resize(8 + self.rng.usize(0..longest), number as u8);
            let packet = if flow.is_multiple_of(2) { Packet::v4() } else { Packet::v6() };
            let frame = packet.udp(1000 + flow, 7, &payload);
            let is_partial = self.happens(200);
            let (said, excused) = ([0; 2], false);
            self.script.push(Datagram { frame, is_partial, said, excused, left: 0 });
        }
        &mut self.script[place]
    }

    /// A guest says what comes next, if it is not too far ahead and its device takes it.
    fn speak(&mut self, side: Side) {
        let me = index(side);
        for _ in 0..self.rng.usize(0..6) {
            let alone = self.survivor == Some(side);
            let silent = self.survivor == Some(side.other());
            if silent || !alone && self.next[me] >= self.next[1 - me] + AHEAD {
                return;
            }
            let place = self.next[me];
            let datagram = self.datagram(place);
            let mut frame = datagram.frame.clone();
            if datagram.is_partial {
                leave_checksum_to_the_card(&mut frame);
            }
            let is_lost = self.happens(self.losses[me]);
            let mut wire = self.guests[me].lock();
            if is_lost {
                self.met.count("frames lost before their device", 1);
            } else if !wire.alive || wire.waiting.len() >= wire.room {
                if self.waits {
                    return;
                }
                // With no port on it, a program in the kernel counts what it drops.
                let counts = u64::from(wire.alive && wire.open);
                wire.dropped += counts;
                self.met.count("frames dropped at a full device", counts);
            } else {
                wire.waiting.push_back(frame);
                let datagram = &mut self.script[place];
                datagram.said[me] += 1;
                datagram.excused |= alone;
            }
            drop(wire);
            self.next[me] += 1;
        }
    }

    /// Something goes wrong, or somebody wants something.
    fn befall(&mut self) {
        let which = self.rng.usize(0..3);
        let wire = match which {
            2 => self.output.clone(),
            guest => self.guests[guest].clone(),
        };
        // Those before 110 do harm.
        match self.rng.u32(if self.faultless { 110 } else { 0 }..1000) {
            0..5 => {
                self.met.count("devices gone", 1);
                wire.lock().alive = false;
            }
            5..60 => {
                wire.lock().alive = true;
                let (reply, _) = bounded(1);
                let _ = self.commands.send(Command::Reopen(reply));
            }
            60..80 => {
                let stalled = self.rng.bool();
                let takes = if stalled { 0 } else { self.rng.usize(1..40) };
                self.met.count("outputs stalled", u64::from(stalled));
                self.output.lock().takes = takes;
            }
            80..83 => self.fail_over(),
            83..110 => self.rearm(),
            110..113 => self.wanted = true,
            113..120 => {
                let (reply, _) = bounded(1);
                let _ = self.commands.send(Command::Flows(10, reply));
            }
            _ => {}
        }
        if self.wanted && self.survivor.is_none() && self.happens(100) {
            self.checkpoint();
        }
    }

    /// The guests are made equal, and what is held leaves.
    fn checkpoint(&mut self) {
        self.wanted = false;
        self.met.count("checkpoints", 1);
        self.next[1] = self.next[0];
        self.flush(Command::Checkpoint, Side::Primary);
    }

    fn fail_over(&mut self) {
        if self.survivor.is_some() {
            return;
        }
        let survivor = if self.rng.bool() { Side::Primary } else { Side::Secondary };
        self.met.count("failovers", 1);
        self.failed_over = true;
        self.flush(|reply| Command::Failover(survivor, reply), survivor);
        self.survivor = Some(survivor);
    }

    fn rearm(&mut self) {
        if let Some(survivor) = self.survivor.take() {
            self.met.count("rearmed", 1);
            self.next[index(survivor.other())] = self.next[index(survivor)];
            let (reply, done) = bounded(1);
            let _ = self.commands.send(Command::Rearm(reply));
            self.turn_until(&done);
        }
    }

    /// Gives a command that flushes, and waits until it is obeyed: what `survivor` has said by then may
    /// leave.
    fn flush<T>(&mut self, command: impl FnOnce(Sender<T>) -> Command, survivor: Side) {
        let (reply, done) = bounded(1);
        let _ = self.commands.send(command(reply));
        for datagram in &mut self.script {
            datagram.excused |= datagram.said[index(survivor)] > 0;
        }
        self.turn_until(&done);
    }

    fn turn_until<T>(&mut self, done: &Receiver<T>) -> T {
        loop {
            if let Ok(answer) = done.try_recv() {
                return answer;
            }
            self.step();
        }
    }

    /// One turn of the lane, and now and then a look at its books.
    fn turn(&mut self) {
        self.step();
        if self.happens(50) {
            let (reply, done) = bounded(1);
            let _ = self.commands.send(Command::Status(reply));
            let status = self.turn_until(&done);
            self.check(&status);
        }
    }

    /// One turn of the lane, and a look at what it did.
    fn step(&mut self) {
        self.now += Duration::from_micros(self.rng.u64(0..600));
        self.lane.turn(self.now);
        for event in self.events.try_iter() {
            match event {
                Event::CheckpointRequested => self.wanted = true,
                Event::Divergence(report) => {
                    assert!(!self.faultless, "the guests say the same: {report:?}");
                    self.met.count("divergences", 1);
                }
                Event::PortLost { .. } => self.met.count("ports lost", 1),
                Event::PortRestored { .. } => self.met.count("ports restored", 1),
                _ => {}
            }
        }
        let sent = std::mem::take(&mut self.output.lock().sent);
        for frame in sent {
            self.has_left(&frame);
        }
    }

    fn has_left(&mut self, frame: &[u8]) {
        let at = 14 + if frame[12..14] == [0x08, 0x00] { 20 } else { 40 } + 8;
        let number = u64::from_be_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
        let datagram = &mut self.script[number as usize];
        assert_eq!(frame, datagram.frame, "datagram {number} left as another");
        let both = datagram.said.iter().all(|times| *times > 0);
        assert!(both || datagram.excused, "datagram {number} left: {:?}", datagram.said);
        datagram.left += 1;
        let [primary, secondary] = datagram.said;
        let most = if self.failed_over { primary + secondary } else { primary };
        assert!(datagram.left <= most, "datagram {number} left {} times", datagram.left);
    }

    fn check(&mut self, status: &LaneStatus) {
        let books = &status.frames;
        assert_eq!(books.unaccounted, 0, "{books:?}");
        let counters = &status.counters;
        let received = self.guests.each_ref().map(|wire| wire.lock().received);
        assert_eq!([counters.primary_received, counters.secondary_received], received);
        let decided = counters.released + counters.discarded + counters.lost;
        assert_eq!(received[0] + received[1], decided + u64::from(status.held), "{status:?}");
        self.met.count("memory all used", u64::from(books.free == 0));
        let stuck = books.pending > 0 && !self.guests[0].lock().waiting.is_empty();
        self.met.count("primary frames held back", u64::from(stuck));
    }

    /// From here on all devices are there, and everything comes to its end.
    fn become_calm(&mut self) {
        for wire in self.guests.iter().chain([&self.output]) {
            let mut wire = wire.lock();
            (wire.alive, wire.takes, wire.completes) = (true, 64, 64);
        }
        let (reply, done) = bounded(1);
        let _ = self.commands.send(Command::Reopen(reply));
        self.turn_until(&done);
        self.rearm();
        for _ in 0..CALM {
            let waiting = self.guests.iter().any(|wire| !wire.lock().waiting.is_empty());
            if !waiting {
                return;
            }
            if self.happens(20) {
                self.checkpoint();
            }
            self.turn();
        }
        panic!("frames still wait for the lane");
    }

    fn end(mut self) -> Met {
        self.checkpoint();
        for _ in 0..200 {
            self.turn();
        }
        let (reply, done) = bounded(1);
        let _ = self.commands.send(Command::Status(reply));
        let status = self.turn_until(&done);
        self.check(&status);
        assert_eq!((status.held, status.frames.pending), (0, 0), "{:?}", status.frames);
        let left: u64 = self.script.iter().map(|datagram| u64::from(datagram.left)).sum();
        let released = left + status.oversized + status.runts;
        assert_eq!(
            status.counters.released, released,
            "every released frame has left or is counted"
        );
        let dropped: u64 = self.guests.iter().map(|wire| wire.lock().dropped).sum();
        let told: u64 = status.ports.iter().map(|port| port.kernel_dropped).sum();
        assert_eq!(dropped, told, "what a device drops is told, whatever became of its port");
        self.met.count("too long for the output", status.oversized);
        self.met.count("too short for the output", status.runts);
        self.met.count("checksums completed", status.checksums_completed);
        self.met.count("frames that left", left);
        let ended = self.lane.finish();
        assert_eq!((ended.unsent, ended.frames.unaccounted), (0, 0));
        self.met
    }
}

/// As a guest leaves it that has its card compute checksums.
fn leave_checksum_to_the_card(frame: &mut [u8]) {
    let (packet, header) = match frame[12..14] {
        [0x08, 0x00] => (Packet::v4(), 14 + 20),
        _ => (Packet::v6(), 14 + 40),
    };
    let partial = packet.partial_checksum(protocol::UDP, frame.len() - header);
    frame[header + 6..header + 8].copy_from_slice(&partial.to_be_bytes());
}
