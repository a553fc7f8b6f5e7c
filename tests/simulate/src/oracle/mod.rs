//! The oracle: what must hold of everything that the comparator says.
//!
//! Written from DESIGN.md section 4 and the decisions listed in docs/architecture.md. It shares no code
//! with the comparator and reads no headers: it knows what every frame means, because the simulator made
//! it. It is told what each call brought and what the comparator said in it, and objects.
//!
//! | file | rules |
//! |---|---|
//! | `mod` | conservation, limits, timeouts, requests, what passes uncompared, flushes |
//! | `stream` | TCP |
//! | `datagrams` | everything else |

mod datagrams;
mod stream;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use compare_user::compare::{Checksum, Counters, Discard, Reason, Release};
use compare_user::frame::{FlowKey, NO_TAG};

use crate::coverage::Coverage;
use crate::frames::Frames;
use crate::meaning::{Address, Content, Meaning, Replica};
use crate::scenario::{Gate, Happening, Scenario};
use crate::time::{Time, shown};
use crate::verdict::{Output, Report};
use datagrams::Ghost;
use stream::Stream;

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A frame is in exactly one place, and the counters say so.
    Conservation,
    /// No byte of the primary's leaves that the secondary has not said.
    Safety,
    /// Nothing leaves that acknowledges more than the secondary has.
    AcknowledgementGate,
    /// What leaves beyond a gap: only in one run, only when the gap is old.
    Island,
    /// What leaves of the secondary's.
    SlowerReplica,
    /// Streams and datagrams leave in order.
    Order,
    /// A divergence is reported only when there is one.
    FalseDivergence,
    /// A divergence is reported where it is.
    Report,
    /// A divergence is reported at once.
    Detection,
    /// A frame past its timeout is reported in time.
    Timeout,
    /// One request for a divergence, repeated as agreed.
    Request,
    /// What may leave does so at once.
    Liveness,
    /// Frames are dropped only for a reason.
    Drop,
    /// Limits are kept.
    Limit,
    /// What is not compared passes.
    Passing,
    /// Who needs a checksum completed.
    Checksum,
    /// The comparator panicked.
    Panic,
}

/// A rule that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub text: String,
    /// When.
    pub time: Time,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {}: {}", self.rule, shown(self.time), self.text)
    }
}

/// What the rules return.
pub type Verdict = Result<(), Violation>;

/// What the comparator was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// To take in frames of a side.
    Offer(Replica),
    /// To look at the time.
    Tick,
    /// To flush after a checkpoint.
    Checkpoint,
    /// To go on with this side alone.
    Failover(Replica),
    /// To compare again.
    Rearm,
    /// That the other end of this flow has reset its connection, then.
    Reset(u32, Time),
    /// To end.
    ShutDown,
}

impl Call {
    /// Whose frames leave when this call empties all queues.
    fn flushes(self, standalone: Option<Replica>) -> Option<Replica> {
        match self {
            Self::Checkpoint => Some(Replica::Primary),
            Self::Failover(survivor) => Some(survivor),
            Self::ShutDown => Some(standalone.unwrap_or(Replica::Primary)),
            _ => None,
        }
    }
}

/// What is known of a flow.
struct Flow {
    address: Address,
    /// Reported since the last checkpoint.
    reported: bool,
    /// Frames with the comparator, in order of arrival.
    held: [Vec<u32>; 2],
    stream: Option<Stream>,
    /// The incarnation before, while a call may still speak of it.
    former: Option<Stream>,
    /// What the secondary said of incarnations that the primary has not begun.
    ahead: Vec<u32>,
    ghosts: Vec<Ghost>,
    /// The guests differ here.
    differing: bool,
    /// The client resets its connections and nobody tells.
    cut_off: bool,
    /// In the list of those that the call at hand is about.
    touched: bool,
}

impl Flow {
    fn holds(&self) -> bool {
        self.held.iter().any(|held| !held.is_empty())
    }
}

/// What a call brought and what came of each frame at once.
struct Arrivals {
    frames: Vec<u32>,
    /// Dropped because their flow has no place.
    unseen: Vec<u32>,
    /// Dropped at a limit, by number.
    lost: Vec<u32>,
    /// Not held at the end of the call.
    gone: Vec<u32>,
    /// Dropped on arrival because nothing can be done with them.
    useless: Vec<u32>,
}

/// The oracle.
pub struct Oracle {
    scenario: Scenario,
    flows: Vec<Flow>,
    by_key: HashMap<FlowKey, u32>,
    held: [usize; 2],
    holding: usize,
    /// All frames by age; those that have gone are skipped.
    age: VecDeque<(Time, u32)>,
    /// The order in which each frame came; zero when it is not inside.
    inside: Vec<u64>,
    outstanding: Option<Time>,
    standalone: Option<Replica>,
    evicted: u64,
    received: u64,
    released: u64,
    discarded: u64,
    lost: u64,
    /// From here on nothing goes wrong any more.
    calm: bool,
    /// So much came at once that a ring of ordinary size lost some of it.
    overflowed: bool,
    touched: Vec<u32>,
    /// Datagrams that left less those of the secondary's used up, in the call at hand.
    pairs: BTreeMap<(u32, u64), i64>,
    /// Datagram flows in which both wait.
    contested: BTreeSet<u32>,
    /// Several frames were offered in the call at hand: what each of them found is not known.
    offered_together: bool,
    /// The payload is taken out of the frame at hand.
    bare: bool,
    /// The order in which the frame at hand came.
    came: u64,
    /// When the frame at hand was offered.
    offered_at: Time,
    now: Time,
    /// What was met.
    pub coverage: Coverage,
}

impl Oracle {
    /// An oracle of flows with these addresses: which of them differ, and which the client cuts off.
    #[must_use]
    pub fn new(scenario: &Scenario, addresses: Vec<(Address, bool, bool)>) -> Self {
        let mut by_key = HashMap::new();
        let flows =
            addresses.into_iter().enumerate().map(|(index, (address, differing, cut_off))| {
                let key = expected_key(&address);
                by_key.insert(key, index as u32);
                Flow {
                    address,
                    reported: false,
                    held: [Vec::new(), Vec::new()],
                    stream: None,
                    former: None,
                    ahead: Vec::new(),
                    ghosts: Vec::new(),
                    differing,
                    cut_off,
                    touched: false,
                }
            });
        let flows = flows.collect();
        Self {
            scenario: scenario.clone(),
            flows,
            by_key,
            held: [0; 2],
            holding: 0,
            age: VecDeque::new(),
            inside: Vec::new(),
            outstanding: None,
            standalone: None,
            evicted: 0,
            received: 0,
            released: 0,
            discarded: 0,
            lost: 0,
            calm: false,
            overflowed: false,
            touched: Vec::new(),
            pairs: BTreeMap::new(),
            contested: BTreeSet::new(),
            offered_together: false,
            bare: false,
            came: 0,
            offered_at: 0,
            now: 0,
            coverage: Coverage::default(),
        }
    }

    /// A ring of ordinary size was full: so many frames came at once that some were lost.
    pub fn overflowed(&mut self) {
        self.coverage.count("rings that overflowed");
        self.overflowed = true;
    }

    /// From here on nothing goes wrong any more.
    pub fn calm(&mut self) {
        self.calm = true;
        self.overflowed = false;
    }

    fn broken<T>(&self, rule: Rule, text: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { rule, text: text.into(), time: self.now })
    }

    /// Judges one call: what it brought and what the comparator said in it.
    ///
    /// # Errors
    /// The rule that was broken first.
    pub fn judge(
        &mut self,
        call: Call,
        offered: &[u32],
        outputs: &[Output],
        frames: &Frames,
        now: Time,
    ) -> Verdict {
        self.now = now;
        self.touched.clear();
        self.offered_together = offered.len() > 1;
        let arrivals = self.arrivals(offered, outputs);
        self.take_in(call, &arrivals, frames)?;
        let flushes = call.flushes(self.standalone);
        for output in outputs {
            self.output(call, flushes, output, &arrivals, frames)?;
        }
        self.after(call, flushes, outputs, frames)
    }

    fn arrivals(&self, offered: &[u32], outputs: &[Output]) -> Arrivals {
        let mut arrivals = Arrivals {
            frames: offered.to_vec(),
            unseen: Vec::new(),
            lost: Vec::new(),
            gone: Vec::new(),
            useless: Vec::new(),
        };
        for output in outputs {
            if let Output::Released(frame, ..) | Output::Discarded(frame, ..) = output {
                arrivals.gone.push(frame.0);
            }
            if let Output::Discarded(frame, _, why) = output {
                if *why == Discard::FlowsFull {
                    arrivals.unseen.push(frame.0);
                }
                if why.is_loss() {
                    arrivals.lost.push(frame.0);
                } else if *why == Discard::Flushed && offered.contains(&frame.0) {
                    arrivals.useless.push(frame.0);
                }
            }
        }
        arrivals
    }

    fn take_in(&mut self, call: Call, arrivals: &Arrivals, frames: &Frames) -> Verdict {
        for &frame in &arrivals.frames {
            self.received += 1;
            if self.inside.len() <= frame as usize {
                self.inside.resize(frame as usize + 1, 0);
            }
            self.inside[frame as usize] = self.received;
            let meaning = frames.meaning(frame);
            self.note_kind(meaning);
            let flow = meaning.flow;
            self.touch(flow);
            self.age.push_back((self.now, frame));
            let entry = &mut self.flows[flow as usize];
            self.holding += usize::from(!entry.holds());
            entry.held[meaning.side.index()].push(frame);
            self.held[meaning.side.index()] += 1;
            if self.standalone.is_none()
                && !arrivals.unseen.contains(&frame)
                && let Content::Segment(segment) = &meaning.content
            {
                let lost = arrivals.lost.contains(&frame);
                match call {
                    Call::Offer(Replica::Primary) => {
                        self.primary_says(flow, frame, segment, lost, frames);
                    }
                    _ => {
                        let useless = arrivals.useless.contains(&frame);
                        let gone = arrivals.gone.contains(&frame);
                        self.secondary_says(flow, frame, segment, lost, useless, gone)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn note_kind(&mut self, meaning: &Meaning) {
        let address = &self.flows[meaning.flow as usize].address;
        let met = [
            (address.fragment, "fragments"),
            (!address.vlan.is_empty(), "tagged frames"),
            (address.v6, "IPv6 frames"),
            (meaning.partial_checksum, "partial checksums"),
        ];
        for (met, what) in met {
            if met {
                self.coverage.count(what);
            }
        }
    }

    fn touch(&mut self, flow: u32) {
        if !std::mem::replace(&mut self.flows[flow as usize].touched, true) {
            self.touched.push(flow);
        }
    }

    /// A frame comes out of the comparator.
    fn leaves(&mut self, frame: u32, frames: &Frames) -> Result<usize, Violation> {
        if self.inside.get(frame as usize).is_none_or(|inside| *inside == 0) {
            return self.broken(Rule::Conservation, format!("frame {frame} is not inside"));
        }
        self.came = self.inside[frame as usize];
        self.inside[frame as usize] = 0;
        let meaning = frames.meaning(frame);
        self.touch(meaning.flow);
        let side = meaning.side.index();
        let entry = &mut self.flows[meaning.flow as usize];
        let Some(at) = entry.held[side].iter().position(|held| *held == frame) else {
            return self.broken(Rule::Conservation, format!("frame {frame} is not held"));
        };
        entry.held[side].remove(at);
        self.holding -= usize::from(!entry.holds());
        self.held[side] -= 1;
        Ok(at)
    }

    fn output(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        output: &Output,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        match output {
            Output::Released(frame, why, amendment) => {
                let place = self.leaves(frame.0, frames)?;
                self.released += 1;
                let meaning = frames.meaning(frame.0);
                self.released_checksum(meaning, amendment.checksum)?;
                self.bare = amendment.without_payload;
                if self.bare && *why != Release::Slower {
                    let text = format!("{why:?} of {meaning:?} without its payload");
                    return self.broken(Rule::Safety, text);
                }
                self.released(call, flushes, frame.0, place, *why, frames)
            }
            Output::Discarded(frame, side, why) => {
                self.leaves(frame.0, frames)?;
                let meaning = frames.meaning(frame.0);
                if meaning.side != *side {
                    return self.broken(Rule::Conservation, "a discarded frame of the wrong side");
                }
                if why.is_loss() {
                    self.lost += 1;
                } else {
                    self.discarded += 1;
                }
                self.discarded(call, flushes, frame.0, *why, arrivals, frames)
            }
            Output::Diverged(report) => self.diverged(report, arrivals, frames),
            Output::Wanted => Ok(()),
        }
    }

    fn released_checksum(&self, meaning: &Meaning, checksum: Checksum) -> Verdict {
        let is_whole = matches!(meaning.content, Content::Segment(_) | Content::Datagram(_));
        let expected = is_whole && meaning.partial_checksum;
        // What only one side keeps back until it is known to leave is looked at then.
        let of_secondary = meaning.side == Replica::Secondary && self.standalone.is_none();
        if !of_secondary && expected != (checksum == Checksum::Partial) {
            return self.broken(Rule::Checksum, format!("{checksum:?} of {meaning:?}"));
        }
        Ok(())
    }

    fn released(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        frame: u32,
        place: usize,
        why: Release,
        frames: &Frames,
    ) -> Verdict {
        let meaning = frames.meaning(frame);
        let flow = meaning.flow;
        self.offered_at = meaning.offered;
        match why {
            Release::Standalone => {
                self.coverage.count("released: standalone");
                if self.standalone != Some(meaning.side) || !matches!(call, Call::Offer(_)) {
                    return self.broken(Rule::Safety, "released uncompared while comparing");
                }
                return Ok(());
            }
            Release::Flushed => {
                self.coverage.count("released: flushed");
                if flushes != Some(meaning.side) {
                    return self.broken(Rule::Safety, "flushed without a flush");
                }
                if place != 0 {
                    return self
                        .broken(Rule::Order, "a flush releases a flow's oldest frame first");
                }
                match &meaning.content {
                    Content::Segment(segment) => self.segment_flushed(flow, segment)?,
                    Content::Datagram(datagram) => {
                        let (identity, flushed) = (datagram.identity, self.now);
                        let ghost = Ghost { identity, flushed, sure: true };
                        self.flows[flow as usize].ghosts.push(ghost);
                    }
                    _ => return self.broken(Rule::Passing, "an uncompared frame was held"),
                }
                return Ok(());
            }
            _ => {}
        }
        if self.standalone.is_some() {
            return self.broken(Rule::Passing, format!("{why:?} in standalone"));
        }
        match &meaning.content {
            Content::Uncompared | Content::Malformed => {
                let (expected, what) = match meaning.content {
                    Content::Uncompared => (Release::Passed, "released: passed"),
                    _ => (Release::Malformed, "released: malformed"),
                };
                self.coverage.count(what);
                if why != expected || meaning.side != Replica::Primary {
                    return self.broken(Rule::Passing, format!("{why:?} of {meaning:?}"));
                }
                Ok(())
            }
            Content::Segment(segment) => match meaning.side {
                Replica::Primary => self.segment_left(call, flow, segment, why, frames),
                Replica::Secondary => self.secondary_left(flow, frame, segment, why, frames),
            },
            Content::Datagram(datagram) => {
                if why != Release::Matched || meaning.side != Replica::Primary {
                    return self.broken(Rule::Passing, format!("{why:?} of {meaning:?}"));
                }
                self.datagram_left(flow, place, datagram.identity)
            }
        }
    }

    fn discarded(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        frame: u32,
        why: Discard,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        let meaning = frames.meaning(frame);
        let flow = meaning.flow;
        let primary = meaning.side == Replica::Primary;
        let fine = match why {
            Discard::Standalone => {
                self.standalone == Some(meaning.side.other()) && matches!(call, Call::Offer(_))
            }
            Discard::NotCompared => {
                !primary && matches!(meaning.content, Content::Uncompared | Content::Malformed)
            }
            Discard::QueueFull | Discard::MemoryFull | Discard::FlowsFull => {
                return self.limit_reached(frame, why, arrivals, frames);
            }
            Discard::Reset => {
                self.coverage.count("dropped: reset connection");
                matches!(call, Call::Reset(reset, _) if reset == flow)
                    && meaning.segment().is_some()
            }
            Discard::Flushed if flushes.is_some() => flushes != Some(meaning.side),
            Discard::Flushed => {
                !primary && self.is_of_another_incarnation(flow, frame, arrivals, frames)
            }
            Discard::Superseded => {
                self.coverage.count("dropped: superseded acknowledgement");
                let own = meaning.segment().and_then(|segment| segment.ack);
                let held = &self.flows[flow as usize].held[Replica::Primary.index()];
                // A later one has come, which waits or has left.
                let later = arrivals.frames.iter().chain(held).any(|&other| {
                    let other = frames.meaning(other);
                    other.flow == flow
                        && other.side == Replica::Primary
                        && other.segment().is_some_and(|other| other.is_bare() && other.ack >= own)
                });
                // Or one that waits says all of it.
                let again = meaning.segment().is_some_and(|own| {
                    held.iter().filter_map(|&held| frames.meaning(held).segment()).any(|held| {
                        (held.start, held.end, held.fin, held.rst)
                            == (own.start, own.end, own.fin, own.rst)
                            && held.ack >= own.ack
                    })
                });
                let bare = meaning.segment().is_some_and(crate::meaning::Segment::is_bare);
                primary && (bare && later || again) && self.scenario.gate == Gate::Slower
            }
            Discard::LateCopy => {
                self.coverage.count("dropped: late copy");
                return self.late_copy(flow, frame, frames);
            }
            Discard::Compared | Discard::Retransmission => match &meaning.content {
                Content::Segment(segment) if !primary => {
                    let what = match why {
                        Discard::Compared => "dropped: compared",
                        _ => "dropped: retransmission",
                    };
                    self.coverage.count(what);
                    return self.secondary_consumed(flow, segment, why);
                }
                Content::Datagram(datagram) if !primary && why == Discard::Compared => {
                    self.coverage.count("dropped: compared");
                    self.datagram_consumed(flow, datagram.identity);
                    true
                }
                _ => false,
            },
        };
        if !fine {
            return self.broken(Rule::Drop, format!("{why:?} of {meaning:?} in {call:?}"));
        }
        Ok(())
    }

    fn limit_reached(
        &mut self,
        frame: u32,
        why: Discard,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        let meaning = frames.meaning(frame);
        if !arrivals.frames.contains(&frame) {
            return self.broken(Rule::Drop, "a held frame was dropped at a limit");
        }
        let limits = self.scenario.limits;
        // What came and went in the same call may have been there at that moment.
        let slack = arrivals.frames.len();
        let full = match why {
            Discard::QueueFull => {
                self.coverage.count("dropped: full queue");
                let held = self.flows[meaning.flow as usize].held[meaning.side.index()].len();
                held + slack > usize::from(limits.queue)
            }
            Discard::MemoryFull => {
                self.coverage.count("dropped: full memory");
                self.held.iter().sum::<usize>() + slack > limits.held as usize
            }
            _ => {
                self.coverage.count("dropped: full flow table");
                self.holding + slack > limits.flows as usize
            }
        };
        if !full {
            return self.broken(Rule::Limit, format!("{why:?} below the limit"));
        }
        Ok(())
    }

    /// Whether a report that something was full is followed by a drop in the same call.
    fn is_full(&self, reason: Reason, arrivals: &Arrivals) -> bool {
        matches!(reason, Reason::QueueFull | Reason::Memory | Reason::FlowTable)
            && !arrivals.lost.is_empty()
    }

    fn diverged(&mut self, report: &Report, arrivals: &Arrivals, frames: &Frames) -> Verdict {
        let Some(&flow) = self.by_key.get(&report.key) else {
            return self.broken(Rule::Report, format!("no such flow: {}", report.key));
        };
        self.touch(flow);
        // Of one that is cut off, a guest may have said more than the other when it heard of it.
        let excused = self.flows[flow as usize].cut_off || self.overflowed;
        let strict = self.calm && self.must_end_well() && !self.may_lack_partners(report);
        if strict && !excused {
            return self
                .broken(Rule::FalseDivergence, format!("{report:?} although nothing goes wrong"));
        }
        if !excused && (self.scenario.is_calm() || self.scenario.is_recoverable()) {
            return self.broken(
                Rule::FalseDivergence,
                format!("{report:?} although the guests say the same"),
            );
        }
        if report.reason == Reason::FlowTable {
            self.coverage.count("reported: full flow table");
            return match self.is_full(report.reason, arrivals) {
                true => Ok(()),
                false => self.broken(Rule::FalseDivergence, "the flow table is not full"),
            };
        }
        let entry = &mut self.flows[flow as usize];
        if std::mem::replace(&mut entry.reported, true) {
            return self.broken(Rule::Request, format!("{} was reported twice", report.key));
        }
        for (side, shown) in
            [(Replica::Primary, report.primary), (Replica::Secondary, report.secondary)]
        {
            let Some((frame, at)) = shown else { continue };
            let meaning = frames.meaning(frame);
            if self.inside[frame as usize] == 0 || meaning.flow != flow || meaning.side != side {
                return self
                    .broken(Rule::Report, format!("{meaning:?} is no exhibit of this flow"));
            }
            if at > frames.bytes(frame).len() {
                return self.broken(Rule::Report, "an exhibit beyond its frame");
            }
        }
        match report.reason {
            Reason::QueueFull | Reason::Memory => {
                let queue = report.reason == Reason::QueueFull;
                self.coverage.count(if queue {
                    "reported: full queue"
                } else {
                    "reported: full memory"
                });
                if !self.is_full(report.reason, arrivals) {
                    return self.broken(Rule::FalseDivergence, "nothing is full");
                }
                Ok(())
            }
            Reason::Timeout => self.timed_out(flow, report, frames),
            _ if self.flows[flow as usize].address.protocol == crate::packet::TCP
                && !self.flows[flow as usize].address.fragment =>
            {
                self.streams_differ(flow, report, frames)
            }
            _ => self.datagrams_differ(flow, report, frames),
        }
    }

    fn timed_out(&mut self, flow: u32, report: &Report, frames: &Frames) -> Verdict {
        self.coverage.count("reported: timeout");
        let shown = match report.side {
            Replica::Primary => report.primary,
            Replica::Secondary => report.secondary,
        };
        let Some((frame, _)) = shown else {
            return self.broken(Rule::Report, "a timeout without the frame that waited");
        };
        let meaning = frames.meaning(frame);
        let waited = self.now - meaning.offered;
        if waited < self.scenario.timeout() {
            return self.broken(
                Rule::FalseDivergence,
                format!("a timeout after {} only", shown_time(waited)),
            );
        }
        if u128::from(waited) != report.waited.as_nanos() {
            return self.broken(Rule::Report, "it waited for another time than it says");
        }
        if let Some(segment) = meaning.segment()
            && let Some(stream) = &self.flows[flow as usize].stream
            && stream.incarnation == segment.incarnation
            && !segment.syn
        {
            let expected = (segment.start - stream.origin) as u32;
            if stream.mark.is_some() && report.offset != expected {
                let text = format!("offset {} instead of {expected}", report.offset);
                return self.broken(Rule::Report, text);
            }
        }
        Ok(())
    }

    /// Whether everything must end well now that nothing goes wrong any more: limits that are reached
    /// in ordinary traffic, and flows that are forgotten in the middle, are something that goes wrong.
    fn must_end_well(&self) -> bool {
        let limits = self.scenario.limits;
        limits.queue >= 1024 && limits.held >= 24_576 && !self.flows_are_scarce()
    }

    /// What was released uncompared before comparing began again is not said again by the guests once the
    /// client has it. Where the primary, first seen in the middle, began by repeating some of it or its SYN,
    /// the rest is a gap that nobody closes.
    fn may_lack_partners(&self, report: &Report) -> bool {
        let fails_over = self.scenario.happenings.iter().any(|(_, happening)| {
            matches!(happening, Happening::SecondaryLost(_) | Happening::PrimaryLost(_))
        });
        // A guest that says its bytes one acknowledgement at a time takes longer than a short timeout to
        // repeat what was lost before.
        let is_short = self.scenario.limits.timeout < 3_000;
        (fails_over || is_short) && report.reason == Reason::Timeout
    }

    fn flows_are_scarce(&self) -> bool {
        (self.scenario.limits.flows as usize) < 2 * self.flows.len()
    }

    fn after(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        outputs: &[Output],
        frames: &Frames,
    ) -> Verdict {
        if flushes.is_some() && self.held != [0, 0] {
            return self.broken(Rule::Liveness, "a flush left frames behind");
        }
        if flushes.is_some() {
            self.flushed();
        }
        match call {
            Call::Checkpoint => self.coverage.count("checkpoints"),
            Call::Failover(survivor) => {
                self.standalone = Some(survivor);
                self.coverage.count(match survivor {
                    Replica::Primary => "failovers to the primary",
                    Replica::Secondary => "failovers to the secondary",
                });
            }
            Call::Rearm => self.rearmed(),
            Call::Reset(flow, at) => self.was_reset(flow, at, outputs)?,
            _ => {}
        }
        self.requests(call, outputs)?;
        self.datagrams_paired()?;
        for index in 0..self.touched.len() {
            let flow = self.touched[index];
            let most = self.flows[flow as usize].held.iter().map(Vec::len).max().unwrap_or(0);
            if most > usize::from(self.scenario.limits.queue) {
                return self.broken(Rule::Limit, format!("{most} frames of a side held of a flow"));
            }
            if self.flows[flow as usize].address.protocol == crate::packet::TCP
                && !self.flows[flow as usize].address.fragment
            {
                self.stream_settled(flow, frames)?;
            } else {
                self.datagrams_settled(flow, frames)?;
            }
            self.flows[flow as usize].former = None;
            self.flows[flow as usize].touched = false;
        }
        if call == Call::Tick {
            self.overdue(frames)?;
            for flow in self.contested.clone() {
                self.datagrams_overdue(flow, frames)?;
            }
        }
        Ok(())
    }

    fn rearmed(&mut self) {
        if self.standalone.take().is_some() {
            self.coverage.count("rearmed");
            for flow in &mut self.flows {
                flow.stream = None;
                flow.ahead.clear();
            }
        }
    }

    /// After a flush.
    fn flushed(&mut self) {
        self.outstanding = None;
        for flow in &mut self.flows {
            flow.reported = false;
            flow.ahead.clear();
            if let Some(stream) = &mut flow.stream {
                stream.flushed();
            }
        }
    }

    fn requests(&mut self, call: Call, outputs: &[Output]) -> Verdict {
        let mut repeated = false;
        if call == Call::Tick
            && let Some(asked) = self.outstanding
            && self.now - asked >= self.scenario.request()
        {
            repeated = true;
        }
        let divergences = outputs.iter().filter(|it| matches!(it, Output::Diverged(_))).count();
        let wanted = outputs.iter().filter(|it| matches!(it, Output::Wanted)).count();
        let first = self.outstanding.is_none() && divergences > 0;
        let expected = usize::from(first) + usize::from(repeated);
        if wanted != expected {
            return self.broken(
                Rule::Request,
                format!("{wanted} requests in {call:?}, {divergences} divergences, {expected} due"),
            );
        }
        self.coverage.add("requests", wanted as u64);
        self.coverage.add("requests repeated", u64::from(repeated));
        if wanted > 0 {
            self.outstanding = Some(self.now);
        }
        Ok(())
    }

    /// What has waited too long must have been reported.
    fn overdue(&mut self, frames: &Frames) -> Verdict {
        while let Some(&(offered, frame)) = self.age.front() {
            let inside = self.inside[frame as usize] != 0;
            if inside && self.now - offered < self.scenario.timeout() {
                return Ok(());
            }
            self.age.pop_front();
            if inside {
                self.coverage.count("timeouts due");
                let meaning = frames.meaning(frame);
                if !self.flows[meaning.flow as usize].reported {
                    return self.broken(Rule::Timeout, format!("nothing said of {meaning:?}"));
                }
            }
        }
        Ok(())
    }

    /// Compares the comparator's own books with the oracle's.
    ///
    /// # Errors
    /// When they differ.
    pub fn audit(&mut self, counters: &Counters, outstanding: bool) -> Verdict {
        let ours = [
            self.received,
            self.released,
            self.discarded,
            self.lost,
            self.held[0] as u64,
            self.held[1] as u64,
        ];
        let theirs = [
            counters.primary_received + counters.secondary_received,
            counters.released,
            counters.discarded,
            counters.lost,
            u64::from(counters.primary_held),
            u64::from(counters.secondary_held),
        ];
        if ours != theirs {
            return self.broken(Rule::Conservation, format!("counted {theirs:?}, seen {ours:?}"));
        }
        let limits = self.scenario.limits;
        if counters.held() > limits.held || counters.flows > limits.flows {
            return self.broken(Rule::Limit, format!("{counters:?}"));
        }
        if outstanding != self.outstanding.is_some() {
            return self.broken(Rule::Request, format!("a request is outstanding: {outstanding}"));
        }
        Ok(())
    }

    /// Whether flows have been forgotten since this was asked last.
    pub fn has_evicted(&mut self, counters: &Counters) -> bool {
        let new = counters.flows_evicted - self.evicted;
        self.evicted = counters.flows_evicted;
        self.coverage.add("flows evicted", new);
        new > 0
    }

    /// These flows are known now, with so many frames held of each side; all others are forgotten.
    ///
    /// # Errors
    /// One of those forgotten holds frames, or the numbers are wrong.
    pub fn known(&mut self, known: &[(FlowKey, u16, u16, bool)]) -> Verdict {
        let mut is_known = vec![false; self.flows.len()];
        for (key, primary, secondary, reported) in known {
            let Some(&flow) = self.by_key.get(key) else {
                return self.broken(Rule::Report, format!("no such flow: {key}"));
            };
            is_known[flow as usize] = true;
            let entry = &self.flows[flow as usize];
            let held = [usize::from(*primary), usize::from(*secondary)];
            if [entry.held[0].len(), entry.held[1].len()] != held || entry.reported != *reported {
                return self.broken(Rule::Conservation, format!("{key}: {held:?}, {reported}"));
            }
            if held.iter().any(|held| *held > usize::from(self.scenario.limits.queue)) {
                return self.broken(Rule::Limit, format!("{key}: {held:?}"));
            }
        }
        for flow in (0..self.flows.len()).filter(|flow| !is_known[*flow]) {
            let entry = &mut self.flows[flow];
            if entry.holds() {
                return self.broken(Rule::Limit, "a flow that holds frames was forgotten");
            }
            entry.stream = None;
            entry.ahead.clear();
            entry.ghosts.iter_mut().for_each(|ghost| ghost.sure = false);
            entry.reported = false;
        }
        Ok(())
    }

    /// Whether a flow is known by this key.
    #[must_use]
    pub fn is_key_of(&self, flow: u32, key: &FlowKey) -> bool {
        self.by_key.get(key) == Some(&flow)
    }

    /// Frames with the comparator.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.iter().sum()
    }

    /// Whether frames are compared.
    #[must_use]
    pub fn standalone(&self) -> Option<Replica> {
        self.standalone
    }
}

fn shown_time(time: Time) -> String {
    shown(time)
}

/// The key by which the comparator should know a flow.
fn expected_key(address: &Address) -> FlowKey {
    let mut vlan = [NO_TAG; 3];
    vlan[..address.vlan.len()].copy_from_slice(&address.vlan);
    let (source_port, destination_port) = address.ports.unwrap_or_default();
    FlowKey {
        source: address.source,
        destination: address.destination,
        vlan,
        source_port,
        destination_port,
        protocol: address.protocol,
        family: if address.v6 { 6 } else { 4 },
        fragment: u8::from(address.fragment),
        reserved: [0; 3],
    }
}
