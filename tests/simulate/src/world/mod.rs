//! The run of a scenario: guests, network, comparator and hypervisor, one event after another.

mod comparator;
mod event;
mod guests;
mod hypervisor;
mod trace;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use compare_user::compare::{AckGate, Comparator, Config};
use fastrand::Rng;

use crate::chance::{Part, generator};
use crate::conversation::{Conversation, Kind};
use crate::coverage::Coverage;
use crate::frames::{Frame, Frames};
use crate::meaning::Replica;
use crate::network::Line;
use crate::oracle::{Oracle, Rule, Verdict, Violation};
use crate::scenario::{Gate, Scenario};
use crate::time::{MILLISECOND, SECOND, Time, shown};
use event::{Event, Scheduled};

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
        let lost = self.scenario.loses_what_was_acknowledged();
        scarce || limits.queue < 40 || lost || self.scenario.may_promote_who_says_less()
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
