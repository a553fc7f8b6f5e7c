//! The run of a scenario: guests, network, comparator and hypervisor, one event after another.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use compare_user::compare::{AckGate, Comparator, Config, Timestamp};
use compare_user::frame::FlowKey;
use fastrand::Rng;

use crate::chance::{Part, generator, happens};
use crate::conversation::{Conversation, Kind};
use crate::coverage::Coverage;
use crate::endpoint::State;
use crate::frames::{Frame, Frames};
use crate::meaning::{Content, Datagram, Meaning, Replica, Segment};
use crate::network::Line;
use crate::oracle::{Call, Oracle, Rule, Verdict, Violation};
use crate::packet::{self, Built, Place};
use crate::scenario::{Gate, Happening, Scenario};
use crate::time::{MICROSECOND, MILLISECOND, SECOND, Time, shown};
use crate::verdict::{Output, Outputs, side};

/// How often deadlines are looked at, as the lane does.
const TICK: Time = MILLISECOND;
/// Frames that a ring holds.
const RING: usize = 2048;
/// Released frames that may wait before the primary is not read any more.
const OUTBOX: usize = 512;
/// After a reset of the client's, so long until the comparator is told (cli/run's mirror).
const RESET_TOLD: Time = 100 * MILLISECOND;
/// Once nothing goes wrong any more, all must have ended well within this time.
const BOUND: Time = 60 * SECOND;

/// How often a flow looks whether it can connect again.
const ATTEMPTS: u32 = 100;

enum Event {
    GuestHears(Replica, u32, Box<Segment>),
    ClientHears(u32, Box<Segment>),
    GuestAlarm(Replica, u32),
    ClientAlarm(u32),
    Connect(u32),
    Shuts(u32),
    Reopens(u32),
    Emit(Replica, u32),
    Arrives(Replica, Frame),
    Turn,
    Tick,
    Happens(Happening),
    CheckpointBegins,
    CheckpointDone,
    Returns,
    LinkUp,
    OutputGoes,
    LaneGoes,
    ResetTold(u32, Time),
    Calm,
}

struct Scheduled {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The lines of a flow.
struct Lines {
    from: [Line; 2],
    inbound: Line,
    to: [Line; 2],
    outbound: Line,
}

/// Alarms that are in the queue of events.
#[derive(Default, Clone, Copy)]
struct Alarms {
    guests: [Option<Time>; 2],
    client: Option<Time>,
}

/// A simulation.
pub struct World {
    scenario: Scenario,
    now: Time,
    order: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    frames: Frames,
    comparator: Comparator<Frame>,
    oracle: Oracle,
    flows: Vec<Conversation>,
    lines: Vec<Lines>,
    alarms: Vec<Alarms>,
    rings: [VecDeque<Frame>; 2],
    ring_size: usize,
    outbox: VecDeque<Frame>,
    lane: Rng,
    hypervisor: Rng,
    turn_due: bool,
    tick_due: bool,
    link_down: bool,
    output_stalled: bool,
    lane_stalled: bool,
    /// A checkpoint has begun: both guests stand still.
    paused: bool,
    waiting: Vec<Event>,
    checkpoint_asked: bool,
    dead: Option<Replica>,
    calm: bool,
    steps: u64,
    coverage: Coverage,
    /// Says what happens, if asked to.
    pub trace: Option<VecDeque<String>>,
}

/// How a simulation ended.
pub struct Outcome {
    /// What was broken.
    pub violation: Option<Violation>,
    /// What was met.
    pub coverage: Coverage,
    /// Calls of the comparator.
    pub steps: u64,
    /// The last that happened.
    pub trace: Vec<String>,
}

/// Lines of trace that are kept.
const TRACE: usize = 40_000;

impl World {
    /// The beginning of a scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let flows: Vec<_> =
            scenario.flows.iter().map(|&flow| Conversation::new(scenario, flow)).collect();
        // Only the mirror tells of the client's resets.
        let told = scenario.gate == Gate::Slower;
        let addresses = flows.iter().map(|flow| {
            let cut_off = matches!(&flow.kind, Kind::Stream(it) if it.is_cut_off());
            (flow.address.clone(), flow.differing, cut_off && !told)
        });
        let addresses = addresses.collect();
        let lines = scenario.flows.iter().map(|&flow| Lines::new(scenario, flow)).collect();
        let limits = scenario.limits;
        let config = Config {
            queue_limit: limits.queue,
            flow_limit: limits.flows,
            held_limit: limits.held,
            compare_timeout: std::time::Duration::from_nanos(scenario.timeout()),
            request_interval: std::time::Duration::from_nanos(scenario.request()),
            reorder_grace: std::time::Duration::from_nanos(scenario.grace()),
            ack_gate: match scenario.gate {
                Gate::Payload => AckGate::Payload,
                Gate::All => AckGate::All,
                Gate::Slower => AckGate::Slower,
            },
            seed: scenario.seed,
        };
        let alarms = vec![Alarms::default(); flows.len()];
        let mut coverage = Coverage::default();
        coverage
            .add("differences planted", flows.iter().filter(|flow| flow.differing).count() as u64);
        let mut world = Self {
            scenario: scenario.clone(),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            frames: Frames::new(scenario.chunk),
            comparator: Comparator::new(config),
            oracle: Oracle::new(scenario, addresses),
            flows,
            lines,
            alarms,
            rings: [VecDeque::new(), VecDeque::new()],
            ring_size: RING,
            outbox: VecDeque::new(),
            lane: generator(scenario.seed, Part::Lane, 0),
            hypervisor: generator(scenario.seed, Part::Hypervisor, 0),
            turn_due: false,
            tick_due: false,
            link_down: false,
            output_stalled: false,
            lane_stalled: false,
            paused: false,
            waiting: Vec::new(),
            checkpoint_asked: false,
            dead: None,
            calm: false,
            steps: 0,
            coverage,
            trace: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for flow in 0..self.flows.len() as u32 {
            let begins = self.flow(flow).begins;
            match &self.flow(flow).kind {
                Kind::Stream(it) => {
                    let shut = it.shut;
                    self.at(begins, Event::Connect(flow));
                    if let Some((from, until)) = shut {
                        self.at(begins + from, Event::Shuts(flow));
                        self.at(begins + until, Event::Reopens(flow));
                    }
                }
                Kind::Datagrams(_) => {
                    for side in Replica::BOTH {
                        self.emit_at(begins, side, flow);
                    }
                }
            }
        }
        for (at, happening) in self.scenario.happenings.clone() {
            self.at(Time::from(at) * MILLISECOND, Event::Happens(happening));
        }
        if self.scenario.every > 0 {
            self.at(Time::from(self.scenario.every) * MILLISECOND, Event::CheckpointBegins);
        }
        self.at(Time::from(self.scenario.faulty) * MILLISECOND, Event::Calm);
    }

    fn flow(&mut self, flow: u32) -> &mut Conversation {
        &mut self.flows[flow as usize]
    }

    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Scheduled { at, order: self.order, event }));
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(format!("{} {}", shown(self.now), text()));
        }
    }

    /// Runs to the end.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let violation = self.play().err();
        let mut coverage = self.oracle.coverage.clone();
        coverage.merge(&self.coverage);
        let trace = self.trace.map(Vec::from).unwrap_or_default();
        Outcome { violation, coverage, steps: self.steps, trace }
    }

    fn play(&mut self) -> Verdict {
        let bound = Time::from(self.scenario.faulty) * MILLISECOND + BOUND;
        while let Some(Reverse(next)) = self.events.pop() {
            self.now = next.at;
            if self.now > bound {
                if self.may_remain_unfinished() {
                    return Ok(());
                }
                return self.broken(Rule::Liveness, self.unfinished());
            }
            self.happen(next.event)?;
        }
        self.end()
    }

    fn broken<T>(&self, rule: Rule, text: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { rule, text: text.into(), time: self.now })
    }

    /// Where there is hardly room for a flow, or a guest has lost what it had acknowledged.
    fn may_remain_unfinished(&self) -> bool {
        let limits = self.scenario.limits;
        let scarce = (limits.flows as usize) < self.flows.len() || limits.held < 200;
        scarce || limits.queue < 40 || self.scenario.loses_what_was_acknowledged()
    }

    fn unfinished(&self) -> String {
        let open = self.flows.iter().enumerate().filter_map(|(index, flow)| match &flow.kind {
            Kind::Stream(it) if !it.client.has_said_all() || !it.guests[0].has_said_all() => {
                let ends = [&it.guests[0], &it.guests[1], &it.client].map(|end| {
                    format!("{:?} said {}..{} heard {}", end.state, end.una, end.nxt, end.received)
                });
                Some(format!("flow {index}: {}", ends.join("; ")))
            }
            _ => None,
        });
        let open: Vec<_> = open.take(3).collect();
        format!("not finished, {} frames held; {}", self.oracle.held(), open.join(" | "))
    }

    fn happen(&mut self, event: Event) -> Verdict {
        match event {
            Event::GuestHears(side, flow, segment) => self.guest_hears(side, flow, segment),
            Event::ClientHears(flow, segment) => self.client_hears(flow, &segment),
            Event::GuestAlarm(side, flow) => self.guest_wakes(side, flow),
            Event::ClientAlarm(flow) => self.client_wakes(flow),
            Event::Connect(flow) => self.connect(flow),
            Event::Shuts(flow) => self.shut(flow),
            Event::Reopens(flow) => self.reopen(flow),
            Event::Emit(side, flow) => self.emit(side, flow),
            Event::Arrives(side, frame) => self.arrives(side, frame),
            Event::Turn => return self.turn(),
            Event::Tick => return self.tick(),
            Event::Happens(happening) => return self.befall(happening),
            Event::CheckpointBegins => self.checkpoint_begins(),
            Event::CheckpointDone => return self.checkpoint_done(),
            Event::Returns => return self.return_to_comparing(),
            Event::LinkUp => self.link_down = false,
            Event::OutputGoes => {
                self.output_stalled = false;
                self.send();
                self.need_turn();
            }
            Event::LaneGoes => {
                self.lane_stalled = false;
                self.need_turn();
                self.need_tick();
            }
            Event::ResetTold(flow, at) => return self.reset_told(flow, at),
            Event::Calm => return self.become_calm(),
        }
        Ok(())
    }

    // Guests and client.

    fn stands_still(&self, side: Replica) -> bool {
        self.paused || self.dead == Some(side)
    }

    fn guest_hears(&mut self, side: Replica, flow: u32, segment: Box<Segment>) {
        if self.dead == Some(side) {
            return;
        }
        if self.paused {
            self.waiting.push(Event::GuestHears(side, flow, segment));
            return;
        }
        let now = self.now;
        let mut said = Vec::new();
        let conversation = self.flow(flow);
        let dice = &mut conversation.dice[side.index()];
        if let Kind::Stream(it) = &mut conversation.kind {
            it.guests[side.index()].hear(&segment, now, dice, &mut said);
        }
        self.say(|| format!("{side:?} of flow {flow} hears {}", brief(&segment)));
        self.guest_says(side, flow, said);
    }

    fn guest_wakes(&mut self, side: Replica, flow: u32) {
        self.alarms[flow as usize].guests[side.index()] = None;
        if self.stands_still(side) {
            return;
        }
        let now = self.now;
        let mut said = Vec::new();
        let conversation = self.flow(flow);
        let dice = &mut conversation.dice[side.index()];
        if let Kind::Stream(it) = &mut conversation.kind
            && it.guests[side.index()].alarm().is_some_and(|at| at <= now)
        {
            it.guests[side.index()].wake(now, dice, &mut said);
        }
        self.guest_says(side, flow, said);
    }

    /// A guest's segments become frames.
    fn guest_says(&mut self, side: Replica, flow: u32, said: Vec<Segment>) {
        for mut segment in said {
            let conversation = &mut self.flows[flow as usize];
            let Kind::Stream(it) = &conversation.kind else { return };
            let lineage = it.guests[side.index()].lineage;
            let dice = &mut conversation.dice[side.index()];
            let built = it.frame(&conversation.address, &mut segment, lineage, dice);
            let (wraps, ack_wraps) = it.wraps(&segment);
            self.coverage.add("sequence numbers wrapped", u64::from(wraps));
            self.coverage.add("acknowledgements wrapped", u64::from(ack_wraps));
            self.coverage.add("window probes", u64::from(segment.probe));
            if segment.syn {
                self.lines[flow as usize].from[side.index()].fence();
            }
            self.send_frame(side, flow, Content::Segment(segment), built, None);
        }
        self.set_alarm(side, flow);
    }

    fn set_alarm(&mut self, side: Replica, flow: u32) {
        let Kind::Stream(it) = &self.flows[flow as usize].kind else { return };
        let Some(at) = it.guests[side.index()].alarm() else { return };
        let at = at.max(self.now);
        let alarm = &mut self.alarms[flow as usize].guests[side.index()];
        if alarm.is_none_or(|set| at < set) {
            *alarm = Some(at);
            self.at(at, Event::GuestAlarm(side, flow));
        }
    }

    fn client_hears(&mut self, flow: u32, segment: &Segment) {
        self.say(|| format!("client of flow {flow} hears {}", brief(segment)));
        let now = self.now;
        let mut said = Vec::new();
        if let Kind::Stream(it) = &mut self.flow(flow).kind {
            it.client.hear(segment, now, &mut it.dice, &mut said);
        }
        self.client_says(flow, said);
    }

    fn client_wakes(&mut self, flow: u32) {
        self.alarms[flow as usize].client = None;
        let now = self.now;
        let mut said = Vec::new();
        if let Kind::Stream(it) = &mut self.flow(flow).kind
            && it.client.alarm().is_some_and(|at| at <= now)
        {
            it.client.wake(now, &mut it.dice, &mut said);
        }
        self.client_says(flow, said);
    }

    /// The client's packets pass the mirror, which copies them for both guests.
    fn client_says(&mut self, flow: u32, said: Vec<Segment>) {
        for segment in said {
            let passage = self.lines[flow as usize].inbound.send(self.now);
            self.note_passage(passage.arrivals.len(), passage.late, false);
            if segment.syn {
                self.lines[flow as usize].to.iter_mut().for_each(Line::fence);
            }
            if segment.rst && self.scenario.gate == Gate::Slower {
                for &at in &passage.arrivals {
                    self.at(at + RESET_TOLD, Event::ResetTold(flow, at));
                }
            }
            for at in passage.arrivals {
                for side in Replica::BOTH {
                    if side == Replica::Secondary && self.link_down {
                        continue;
                    }
                    let copy = self.lines[flow as usize].to[side.index()].send(at);
                    self.note_passage(copy.arrivals.len(), copy.late, false);
                    for at in copy.arrivals {
                        self.at(at, Event::GuestHears(side, flow, Box::new(segment.clone())));
                    }
                }
            }
        }
        self.client_after(flow);
    }

    /// The client's alarm, and its next connection when this one is over.
    fn client_after(&mut self, flow: u32) {
        let Kind::Stream(it) = &self.flows[flow as usize].kind else { return };
        if let Some(at) = it.client.alarm() {
            let at = at.max(self.now);
            let alarm = &mut self.alarms[flow as usize].client;
            if alarm.is_none_or(|set| at < set) {
                *alarm = Some(at);
                self.at(at, Event::ClientAlarm(flow));
            }
        }
    }

    fn note_passage(&mut self, arrivals: usize, late: bool, damaged: bool) {
        self.coverage.add("frames lost by the network", u64::from(arrivals == 0));
        self.coverage.add("frames twice", u64::from(arrivals > 1));
        self.coverage.add("frames late", u64::from(late));
        self.coverage.add("frames damaged", u64::from(damaged));
    }

    /// The client takes nothing for a while.
    fn shut(&mut self, flow: u32) {
        let now = self.now;
        if let Kind::Stream(it) = &mut self.flow(flow).kind
            && let Some((from, until)) = it.shut
        {
            it.client.shut_until = now + until - from;
        }
    }

    fn reopen(&mut self, flow: u32) {
        let now = self.now;
        let mut said = Vec::new();
        if let Kind::Stream(it) = &mut self.flow(flow).kind {
            it.client.reopen(now, &mut said);
        }
        self.client_says(flow, said);
    }

    /// Opens the next connection of a flow, if the one before is over.
    fn connect(&mut self, flow: u32) {
        let now = self.now;
        let (paused, dead) = (self.paused, self.dead);
        let Kind::Stream(it) = &mut self.flow(flow).kind else { return };
        let begun = it.client.incarnation.max(it.guests[0].incarnation);
        if it.joined && begun == 0 {
            return self.go_on_joined(flow);
        }
        // One that knows of the end does not wait for the other.
        let over = begun == 0 || it.client.is_done() || it.guests[0].is_done();
        it.attempts += 1;
        if begun >= it.incarnations || it.attempts > ATTEMPTS {
            return;
        }
        if !over || paused && it.active {
            return self.at(now + 50 * MILLISECOND, Event::Connect(flow));
        }
        let next = begun + 1;
        if !it.active {
            let mut said = Vec::new();
            it.client.connect(next, now, &mut it.dice, &mut said);
            self.client_says(flow, said);
        } else {
            if let State::Closed | State::Reset | State::Open = it.client.state {
                it.client.state = State::Listening;
            }
            for side in Replica::BOTH {
                if dead == Some(side) {
                    continue;
                }
                let conversation = self.flow(flow);
                let dice = &mut conversation.dice[side.index()];
                let Kind::Stream(it) = &mut conversation.kind else { return };
                let mut said = Vec::new();
                it.guests[side.index()].connect(next, now, dice, &mut said);
                self.guest_says(side, flow, said);
            }
        }
        self.at(now + 50 * MILLISECOND, Event::Connect(flow));
    }

    /// Both ends of a connection that has been there before go on.
    fn go_on_joined(&mut self, flow: u32) {
        let now = self.now;
        let Kind::Stream(it) = &mut self.flow(flow).kind else { return };
        let mut said = Vec::new();
        it.client.wake(now, &mut it.dice, &mut said);
        self.client_says(flow, said);
        for side in Replica::BOTH {
            if self.stands_still(side) {
                continue;
            }
            let conversation = self.flow(flow);
            let dice = &mut conversation.dice[side.index()];
            let Kind::Stream(it) = &mut conversation.kind else { return };
            let mut said = Vec::new();
            it.guests[side.index()].wake(now, dice, &mut said);
            self.guest_says(side, flow, said);
        }
    }

    fn emit_at(&mut self, at: Time, side: Replica, flow: u32) {
        let Kind::Datagrams(it) = &mut self.flow(flow).kind else { return };
        if !std::mem::replace(&mut it.due[side.index()], true) {
            self.at(at, Event::Emit(side, flow));
        }
    }

    fn emit(&mut self, side: Replica, flow: u32) {
        let (dead, paused) = (self.dead == Some(side), self.paused);
        if paused && !dead {
            return self.waiting.push(Event::Emit(side, flow));
        }
        let conversation = &mut self.flows[flow as usize];
        let dice = &mut conversation.dice[side.index()];
        let Kind::Datagrams(it) = &mut conversation.kind else { return };
        it.due[side.index()] = false;
        if dead {
            return;
        }
        let number = it.next[side.index()];
        if number >= it.count {
            return;
        }
        it.next[side.index()] += 1;
        let noise = happens(dice, it.noise);
        let made = it.frame(&conversation.address, side, number, dice);
        let next = self.now + it.interval + dice.u64(0..=it.jitter);
        if let Some((built, place, identity)) = made {
            let content = Content::Datagram(Datagram { number, identity });
            self.send_frame(side, flow, content, built, place);
        }
        if noise {
            let conversation = &mut self.flows[flow as usize];
            let dice = &mut conversation.dice[side.index()];
            let (content, built) = if dice.bool() {
                (Content::Uncompared, packet::uncompared(&conversation.address, dice))
            } else {
                (Content::Malformed, packet::malformed(&conversation.address, dice))
            };
            self.send_frame(side, flow, content, built, None);
        }
        self.emit_at(next, side, flow);
    }

    // The way to the comparator.

    fn send_frame(
        &mut self,
        side: Replica,
        flow: u32,
        content: Content,
        built: Built,
        place: Option<Place>,
    ) {
        let passage = self.lines[flow as usize].from[side.index()].send(self.now);
        self.note_passage(passage.arrivals.len(), passage.late, passage.damage.is_some());
        let lost = side == Replica::Secondary && self.link_down;
        self.say(|| {
            let when: Vec<_> = passage.arrivals.iter().map(|at| shown(*at)).collect();
            let damaged = if passage.damage.is_some() { " damaged" } else { "" };
            format!(
                "{side:?} of flow {flow} says {}: arrives {when:?}{damaged}",
                shown_content(&content)
            )
        });
        if passage.arrivals.is_empty() || lost {
            return;
        }
        let meaning = Meaning {
            side,
            flow,
            content,
            place,
            content_at: built.content_at,
            content_end: built.content_end,
            partial_checksum: built.partial_checksum,
            offered: 0,
        };
        let frame = self.frames.add(built.bytes, meaning);
        if let Some((where_, difference)) = passage.damage {
            self.damage(&frame, where_, difference);
        }
        let copies: Vec<Frame> =
            passage.arrivals[1..].iter().map(|_| self.frames.copy(&frame)).collect();
        for (at, frame) in passage.arrivals.into_iter().zip([frame].into_iter().chain(copies)) {
            self.at(at, Event::Arrives(side, frame));
        }
    }

    /// The network changes a byte of a segment's payload. Its checksum would tell the client; the
    /// comparator does not look at it.
    fn damage(&mut self, frame: &Frame, where_: u64, difference: u8) {
        let meaning = self.frames.meaning_mut(frame.0);
        let at = meaning.content_at;
        if let Content::Segment(segment) = &mut meaning.content
            && !segment.is_empty()
        {
            let length = (segment.end - segment.start) as u64;
            let offset = (where_ % length) as i64;
            let place = segment.start + offset;
            let was = segment.flip_at(place);
            segment.flips.retain(|flip| flip.0 != place);
            if was ^ difference != 0 {
                segment.flips.push((place, was ^ difference));
            }
            segment.damaged = true;
            self.frames.damage(frame, at + offset as usize, difference);
        }
    }

    fn arrives(&mut self, side: Replica, frame: Frame) {
        if side == Replica::Secondary && self.link_down {
            self.frames.remove(frame);
            return;
        }
        let ring = &mut self.rings[side.index()];
        if ring.len() >= self.ring_size {
            self.frames.remove(frame);
            self.coverage.count("frames dropped at a ring");
            if self.ring_size == RING {
                self.oracle.overflowed();
            }
            return;
        }
        ring.push_back(frame);
        self.need_turn();
    }

    fn need_turn(&mut self) {
        let waits = self.rings.iter().any(|ring| !ring.is_empty());
        if waits && !self.turn_due && !self.lane_stalled {
            self.turn_due = true;
            let at = self.now + self.lane.u64(0..40) * MICROSECOND;
            self.at(at, Event::Turn);
        }
    }

    fn need_tick(&mut self) {
        let busy = self.oracle.held() > 0 || self.comparator.checkpoint_outstanding();
        if busy && !self.tick_due && !self.lane_stalled {
            self.tick_due = true;
            self.at(self.now / TICK * TICK + TICK, Event::Tick);
        }
    }

    /// As the lane does: a batch of each port.
    fn turn(&mut self) -> Verdict {
        self.turn_due = false;
        if self.lane_stalled {
            return Ok(());
        }
        self.receive_all()?;
        self.send();
        self.need_turn();
        self.need_tick();
        Ok(())
    }

    /// False if there was nothing to take.
    fn receive_all(&mut self) -> Result<bool, Violation> {
        let mut worked = false;
        for side in Replica::BOTH {
            if side == Replica::Primary && self.outbox.len() >= OUTBOX {
                continue;
            }
            let ring = &mut self.rings[side.index()];
            let batch: Vec<_> = ring.drain(..ring.len().min(self.scenario.batch)).collect();
            if !batch.is_empty() {
                worked = true;
                self.offer(side, batch)?;
            }
        }
        Ok(worked)
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::after_origin(std::time::Duration::from_nanos(self.now))
    }

    fn offer(&mut self, from: Replica, mut batch: Vec<Frame>) -> Verdict {
        let offered: Vec<u32> = batch.iter().map(|frame| frame.0).collect();
        for &frame in &offered {
            self.frames.meaning_mut(frame).offered = self.now;
        }
        self.call(Call::Offer(from), &offered, |comparator, frames, now, outputs| {
            if batch.len() == 1 {
                let frame = batch.pop().expect("there is one");
                comparator.offer(side(from), frame, now, frames, outputs);
            } else {
                comparator.offer_batch(side(from), &mut batch, now, frames, outputs);
            }
        })
    }

    /// Calls the comparator, has the oracle judge what it says, and carries it out.
    fn call(
        &mut self,
        call: Call,
        offered: &[u32],
        ask: impl FnOnce(&mut Comparator<Frame>, &Frames, Timestamp, &mut Outputs),
    ) -> Verdict {
        self.steps += 1;
        let now = self.timestamp();
        let mut outputs = Outputs::default();
        ask(&mut self.comparator, &self.frames, now, &mut outputs);
        let outputs = outputs.0;
        if self.trace.is_some() && (call != Call::Tick || !outputs.is_empty()) {
            self.trace_call(call, offered, &outputs);
        }
        self.oracle.judge(call, offered, &outputs, &self.frames, self.now)?;
        let counters = self.comparator.counters();
        self.oracle.audit(&counters, self.comparator.checkpoint_outstanding())?;
        if self.oracle.has_evicted(&counters) || self.steps.is_multiple_of(512) {
            self.compare_flows()?;
        }
        self.carry_out(outputs);
        Ok(())
    }

    fn trace_call(&mut self, call: Call, offered: &[u32], outputs: &[Output]) {
        let mut lines = vec![format!("{call:?}")];
        for &frame in offered {
            lines.push(format!("  takes {frame}: {}", shown_meaning(self.frames.meaning(frame))));
        }
        for output in outputs {
            lines.push(match output {
                Output::Released(frame, why, amendment) => {
                    format!(
                        "  releases {} {why:?}{}: {}",
                        frame.0,
                        if amendment.without_payload { " without payload" } else { "" },
                        shown_meaning(self.frames.meaning(frame.0))
                    )
                }
                Output::Discarded(frame, _, why) => {
                    format!(
                        "  drops {} {why:?}: {}",
                        frame.0,
                        shown_meaning(self.frames.meaning(frame.0))
                    )
                }
                other => format!("  {other:?}"),
            });
        }
        for line in lines {
            self.say(|| line);
        }
    }

    fn compare_flows(&mut self) -> Verdict {
        let mut known: Vec<(FlowKey, u16, u16, bool)> = Vec::new();
        self.comparator.for_each_flow(|key, primary, secondary, reported| {
            known.push((*key, primary, secondary, reported));
        });
        self.oracle.known(&known)
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Released(frame, _, amendment) => {
                    if amendment.without_payload {
                        self.frames.meaning_mut(frame.0).lose_payload();
                    }
                    self.outbox.push_back(frame);
                }
                Output::Discarded(frame, ..) => {
                    self.frames.remove(frame);
                }
                Output::Diverged(_) => {}
                Output::Wanted => self.ask_for_checkpoint(),
            }
        }
    }

    /// What was released reaches the client.
    fn send(&mut self) {
        if self.output_stalled {
            return;
        }
        while let Some(frame) = self.outbox.pop_front() {
            let meaning = self.frames.remove(frame);
            let Content::Segment(segment) = meaning.content else { continue };
            if segment.damaged {
                // Its checksum is wrong.
                continue;
            }
            let flow = meaning.flow;
            let line = &mut self.lines[flow as usize].outbound;
            if segment.syn {
                line.fence();
            }
            let passage = line.send(self.now);
            self.note_passage(passage.arrivals.len(), passage.late, false);
            for at in passage.arrivals {
                self.at(at, Event::ClientHears(flow, Box::new(segment.clone())));
            }
        }
    }

    fn tick(&mut self) -> Verdict {
        self.tick_due = false;
        if self.lane_stalled {
            return Ok(());
        }
        self.call(Call::Tick, &[], |comparator, frames, now, outputs| {
            comparator.tick(now, frames, outputs);
        })?;
        self.send();
        self.need_tick();
        Ok(())
    }

    fn reset_told(&mut self, flow: u32, at: Time) -> Verdict {
        let mut key = None;
        self.comparator.for_each_flow(|known, _, _, _| {
            if self.oracle.is_key_of(flow, known) {
                key = Some(*known);
            }
        });
        let Some(key) = key else { return Ok(()) };
        let told = Call::Reset(flow, at);
        let at = Timestamp::after_origin(std::time::Duration::from_nanos(at));
        self.call(told, &[], |comparator, frames, now, outputs| {
            comparator.connection_reset(&key, at, now, frames, outputs);
        })?;
        self.send();
        Ok(())
    }

    // Who takes checkpoints, and what else happens.

    fn ask_for_checkpoint(&mut self) {
        if !self.checkpoint_asked {
            self.checkpoint_asked = true;
            let answer = self.hypervisor.u64(0..=u64::from(self.scenario.answer)) * MILLISECOND;
            self.at(self.now + answer, Event::CheckpointBegins);
        }
    }

    fn checkpoint_begins(&mut self) {
        let periodic = !self.checkpoint_asked;
        if periodic && self.scenario.every > 0 && !self.calm {
            let next = self.now + Time::from(self.scenario.every) * MILLISECOND;
            self.at(next, Event::CheckpointBegins);
        }
        if self.paused || self.oracle.standalone().is_some() {
            return;
        }
        self.say(|| "checkpoint begins".to_owned());
        self.paused = true;
        let lasts = MILLISECOND + self.hypervisor.u64(0..4_000) * MICROSECOND;
        self.at(self.now + lasts, Event::CheckpointDone);
    }

    fn copy_to_secondary(&mut self) {
        for flow in &mut self.flows {
            match &mut flow.kind {
                Kind::Stream(it) => it.copy_to_secondary(),
                Kind::Datagrams(it) => it.next[1] = it.next[0],
            }
        }
    }

    fn checkpoint_done(&mut self) -> Verdict {
        if !self.paused {
            return Ok(());
        }
        self.checkpoint_asked = false;
        if self.oracle.standalone().is_none() {
            // Only now has it all that it needs; one that is broken off leaves it as it was.
            self.copy_to_secondary();
            self.take_what_waits()?;
            self.call(Call::Checkpoint, &[], |comparator, frames, now, outputs| {
                comparator.checkpoint_done(now, frames, outputs);
            })?;
            self.send();
        }
        self.resume();
        Ok(())
    }

    fn take_what_waits(&mut self) -> Verdict {
        for _ in 0..2 * RING {
            if !self.receive_all()? {
                break;
            }
            self.send();
        }
        Ok(())
    }

    /// Both guests go on.
    fn resume(&mut self) {
        self.paused = false;
        for event in std::mem::take(&mut self.waiting) {
            self.at(self.now, event);
        }
        self.set_clocks();
    }

    fn set_clocks(&mut self) {
        let now = self.now;
        for flow in 0..self.flows.len() as u32 {
            for side in Replica::BOTH {
                if self.dead == Some(side) {
                    continue;
                }
                let conversation = self.flow(flow);
                let dice = &mut conversation.dice[side.index()];
                if let Kind::Stream(it) = &mut conversation.kind {
                    it.guests[side.index()].resume(now, dice);
                    self.set_alarm(side, flow);
                } else {
                    let at = conversation.begins.max(now);
                    self.emit_at(at, side, flow);
                }
            }
        }
    }

    fn befall(&mut self, happening: Happening) -> Verdict {
        if self.calm {
            return Ok(());
        }
        self.say(|| format!("{happening:?}"));
        let after = |length: u32| Time::from(length) * MILLISECOND;
        match happening {
            Happening::Checkpoint => self.at(self.now, Event::CheckpointBegins),
            Happening::SecondaryLost(length) => {
                return self.lose(Replica::Secondary, after(length));
            }
            Happening::PrimaryLost(length) => return self.lose(Replica::Primary, after(length)),
            Happening::LinkDown(length) => {
                self.coverage.count("link failures");
                self.link_down = true;
                self.at(self.now + after(length), Event::LinkUp);
            }
            Happening::OutputStalled(length) => {
                self.coverage.count("output stalls");
                self.output_stalled = true;
                self.at(self.now + after(length), Event::OutputGoes);
            }
            Happening::LaneStalled(length) => {
                self.coverage.count("lane stalls");
                self.lane_stalled = true;
                self.at(self.now + after(length), Event::LaneGoes);
            }
            Happening::ShortRings(size) => self.ring_size = size as usize,
        }
        Ok(())
    }

    fn lose(&mut self, side: Replica, length: Time) -> Verdict {
        if self.dead.is_some() || self.lane_stalled {
            return Ok(());
        }
        if self.paused {
            // The checkpoint does not come to its end.
            self.resume();
        }
        self.dead = Some(side);
        self.take_what_waits()?;
        let survivor = side.other();
        let to = crate::verdict::side(survivor);
        self.call(Call::Failover(survivor), &[], |comparator, frames, now, outputs| {
            comparator.failover(to, now, frames, outputs);
        })?;
        self.send();
        self.at(self.now + length, Event::Returns);
        Ok(())
    }

    fn return_to_comparing(&mut self) -> Verdict {
        let Some(lost) = self.dead.take() else { return Ok(()) };
        for flow in &mut self.flows {
            match &mut flow.kind {
                Kind::Stream(it) => match lost {
                    Replica::Primary => it.copy_to_primary(),
                    Replica::Secondary => it.copy_to_secondary(),
                },
                Kind::Datagrams(it) => it.next[lost.index()] = it.next[lost.other().index()],
            }
        }
        self.checkpoint_asked = false;
        self.call(Call::Rearm, &[], |comparator, _, _, _| comparator.rearm())?;
        self.set_clocks();
        Ok(())
    }

    /// From here on nothing goes wrong: what is under way is gone, the guests are equal, and all that was
    /// begun must end well.
    fn become_calm(&mut self) -> Verdict {
        self.say(|| "calm".to_owned());
        self.calm = true;
        (self.link_down, self.output_stalled, self.lane_stalled) = (false, false, false);
        self.ring_size = RING;
        self.send();
        self.take_what_waits()?;
        let events = std::mem::take(&mut self.events);
        let mut kept = Vec::new();
        for Reverse(scheduled) in events.into_sorted_vec().into_iter().rev() {
            match scheduled.event {
                Event::Arrives(_, frame) => {
                    self.frames.remove(frame);
                }
                Event::GuestHears(..)
                | Event::ClientHears(..)
                | Event::CheckpointBegins
                | Event::CheckpointDone
                | Event::Returns
                | Event::Happens(_) => {}
                _ => kept.push(Reverse(scheduled)),
            }
        }
        self.events = kept.into();
        self.waiting.retain(|event| matches!(event, Event::Emit(..)));
        self.return_to_comparing()?;
        for flow in &mut self.flows {
            if let Kind::Stream(it) = &mut flow.kind {
                it.make_equal();
            }
            if let Kind::Datagrams(it) = &mut flow.kind {
                it.plant = None;
            }
        }
        self.copy_to_secondary();
        for lines in &mut self.lines {
            lines.from.iter_mut().chain(&mut lines.to).for_each(Line::calm);
            lines.inbound.calm();
            lines.outbound.calm();
        }
        self.checkpoint_asked = false;
        self.call(Call::Checkpoint, &[], |comparator, frames, now, outputs| {
            comparator.checkpoint_done(now, frames, outputs);
        })?;
        self.oracle.calm();
        self.resume();
        self.send();
        self.need_turn();
        self.need_tick();
        Ok(())
    }

    /// Everything has happened.
    fn end(&mut self) -> Verdict {
        for flow in &self.flows {
            if let Kind::Stream(it) = &flow.kind {
                let reset = [&it.guests[0], &it.client].iter().any(|end| end.state == State::Reset);
                if !reset && !it.client.has_said_all() && !self.may_remain_unfinished() {
                    return self.broken(Rule::Liveness, self.unfinished());
                }
                self.coverage.add("streams ended well", u64::from(!reset));
            }
        }
        if self.oracle.held() > 0 {
            return self.broken(Rule::Liveness, self.unfinished());
        }
        self.call(Call::ShutDown, &[], |comparator, frames, now, outputs| {
            comparator.shut_down(now, frames, outputs);
        })?;
        self.send();
        if self.frames.living() != 0 {
            let text = format!("{} frames are nowhere", self.frames.living());
            return self.broken(Rule::Conservation, text);
        }
        Ok(())
    }
}

impl Lines {
    fn new(scenario: &Scenario, flow: u32) -> Self {
        let flow = u64::from(flow);
        let line = |path, part| Line::new(path, generator(scenario.seed, part, flow));
        Self {
            from: [
                line(scenario.from_primary, Part::FromPrimary),
                line(scenario.from_secondary, Part::FromSecondary),
            ],
            inbound: line(scenario.inbound, Part::Inbound),
            to: [
                line(scenario.to_primary, Part::ToPrimary),
                line(scenario.to_secondary, Part::ToSecondary),
            ],
            outbound: line(scenario.outbound, Part::Outbound),
        }
    }
}

/// A segment for a trace.
fn brief(segment: &Segment) -> String {
    let mut text = format!("#{} {}..{}", segment.incarnation, segment.start, segment.end);
    let flags = [(segment.syn, " SYN"), (segment.fin, " FIN"), (segment.rst, " RST")];
    flags.iter().filter(|flag| flag.0).for_each(|flag| text.push_str(flag.1));
    if let Some(ack) = segment.ack {
        text.push_str(&format!(" ack {ack}"));
    }
    if !segment.flips.is_empty() {
        text.push_str(&format!(" differs {:?}", segment.flips));
    }
    text
}

fn shown_content(content: &Content) -> String {
    match content {
        Content::Segment(segment) => brief(segment),
        other => format!("{other:?}"),
    }
}

fn shown_meaning(meaning: &Meaning) -> String {
    format!("{:?} of flow {} {}", meaning.side, meaning.flow, shown_content(&meaning.content))
}
