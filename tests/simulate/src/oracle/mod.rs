//! The oracle: what must hold of everything that the comparator says.
//!
//! Written from DESIGN.md section 4 and the decisions listed in docs/architecture.md. It shares no code
//! with the comparator and reads no headers: it knows what every frame means, because the simulator made
//! it. It is told what each call brought and what the comparator said in it, and objects.
//!
//! | file | rules |
//! |---|---|
//! | `rule` | their names |
//! | `mod` | what is known, and what must have happened at the end of a call |
//! | `arrivals` | what comes in with a call |
//! | `outputs` | what leaves and what is dropped: conservation, what passes uncompared, flushes, limits |
//! | `reports` | divergences, timeouts and requests |
//! | `books` | the comparator's own counters and flows |
//! | `stream` | TCP: what is known, `leaving`, `differing` |
//! | `datagrams` | everything else |

mod arrivals;
mod books;
mod datagrams;
mod outputs;
mod reports;
mod rule;
mod stream;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use compare_user::frame::FlowKey;

use crate::coverage::Coverage;
use crate::frames::Frames;
use crate::meaning::{Address, Replica};
use crate::scenario::Scenario;
use crate::time::Time;
use crate::verdict::Output;
use books::expected_key;
use datagrams::Ghost;
pub use rule::{Rule, Verdict, Violation};
use stream::Stream;

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
    /// Bytes cut off the beginning of the payload of the frame that leaves.
    cut: i64,
    /// The primary's waiting segments whose beginning has left, and up to where.
    parts: BTreeMap<u32, i64>,
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
            cut: 0,
            parts: BTreeMap::new(),
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

    fn touch(&mut self, flow: u32) {
        if !std::mem::replace(&mut self.flows[flow as usize].touched, true) {
            self.touched.push(flow);
        }
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
