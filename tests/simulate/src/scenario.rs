//! What is simulated: everything but the dice, so that a failing scenario can be written down and made
//! smaller.

use serde::{Deserialize, Serialize};

use crate::chance::{Part, generator, happens, one_of};
use crate::time::{MICROSECOND, MILLISECOND, Time};

/// Which acknowledgements wait (`compare_user::compare::AckGate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    /// The design's default: those with payload.
    Payload,
    /// All.
    All,
    /// The slower replica's leave: the mode of `--mirror`.
    Slower,
}

/// One direction between two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Least time on the way, in microseconds.
    pub delay: u32,
    /// What chance adds to it.
    pub jitter: u32,
    /// Lost, of a thousand.
    pub loss: u32,
    /// Delivered twice, of a thousand.
    pub twice: u32,
    /// Overtaken by those behind it, of a thousand.
    pub late: u32,
    /// By at most this long, in microseconds.
    pub lateness: u32,
    /// A payload byte changed, of a thousand.
    pub damage: u32,
}

impl Path {
    /// Nothing but delay.
    #[must_use]
    pub fn plain(delay: u32) -> Self {
        Self { delay, jitter: delay / 4, loss: 0, twice: 0, late: 0, lateness: 0, damage: 0 }
    }

    /// Nothing goes wrong on it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.loss + self.twice + self.late + self.damage == 0
    }

    /// The same without what goes wrong.
    #[must_use]
    pub fn calmed(&self) -> Self {
        Self { loss: 0, twice: 0, late: 0, damage: 0, ..*self }
    }
}

/// What happens to the whole at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happening {
    /// A checkpoint that nobody asked for.
    Checkpoint,
    /// The secondary is lost; compared again this many milliseconds later.
    SecondaryLost(u32),
    /// The primary is lost; as above.
    PrimaryLost(u32),
    /// Nothing passes between the hosts for this many milliseconds.
    LinkDown(u32),
    /// The output takes nothing for this many milliseconds.
    OutputStalled(u32),
    /// The lane gets no turn for this many milliseconds.
    LaneStalled(u32),
    /// The rings hold this many frames until the end.
    ShortRings(u32),
}

/// How long things take and how much there may be of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `compare_timeout` in milliseconds.
    pub timeout: u32,
    /// `request_interval` in milliseconds.
    pub request: u32,
    /// `reorder_grace` in microseconds.
    pub grace: u32,
    /// `queue_limit`.
    pub queue: u16,
    /// `held_limit`.
    pub held: u32,
    /// `flow_limit`.
    pub flows: u32,
}

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Of all dice.
    pub seed: u64,
    /// Which acknowledgements wait.
    pub gate: Gate,
    /// The flows, by their numbers: a flow is what it is whether others are there or not.
    pub flows: Vec<u32>,
    /// TCP flows, of a thousand; the others are datagrams.
    pub streams: u32,
    /// Bytes of a stream, at most.
    pub bytes: u32,
    /// Datagrams of a flow, at most.
    pub datagrams: u32,
    /// Flows in which the secondary says something else, of a thousand.
    pub differing: u32,
    /// Flows that open, close and reset unusually, of a thousand.
    pub unusual: u32,
    /// Frames given to the comparator at once, at most.
    pub batch: usize,
    /// Bytes of a frame that lie together.
    pub chunk: usize,
    /// The primary's frames to the comparator.
    pub from_primary: Path,
    /// The secondary's.
    pub from_secondary: Path,
    /// The client's packets, before they are copied.
    pub inbound: Path,
    /// The copy for the primary.
    pub to_primary: Path,
    /// The copy for the secondary.
    pub to_secondary: Path,
    /// Released frames to the client.
    pub outbound: Path,
    /// How long the hypervisor takes from request to checkpoint, in milliseconds; at most.
    pub answer: u32,
    /// Checkpoints whenever this many milliseconds have passed; zero for none.
    pub every: u32,
    /// Limits of the comparator.
    pub limits: Limits,
    /// What happens when, in milliseconds.
    pub happenings: Vec<(u32, Happening)>,
    /// How long things may go wrong, in milliseconds; then the network is calm and all must end well.
    pub faulty: u32,
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = generator(seed, Part::Scenario, 0);
        let rng = &mut rng;
        let gate = one_of(
            rng,
            &[Gate::Slower, Gate::Slower, Gate::Slower, Gate::Payload, Gate::Payload, Gate::All],
        );
        // One in some thousands is large, most are small: what goes wrong does so among few.
        let size = rng.u32(0..4000);
        let (flows, bytes, datagrams) = match size {
            0 => (10_000, 2_000, 3),
            1..10 => (1_000, 3_000, 4),
            10..200 => (rng.u32(30..120), 8_000, 20),
            _ => (rng.u32(1..12), one_of(rng, &[500, 5_000, 20_000, 60_000]), rng.u32(2..60)),
        };
        let kind = rng.u32(0..10);
        let calm = kind < 2;
        let recoverable = (2..5).contains(&kind);
        let mut path = |delay: u32, worst: u32| {
            let mut path = Path::plain(delay);
            if calm || worst == 0 {
                return path;
            }
            let much = one_of(rng, &[0, 0, 1, worst / 4, worst]);
            path.loss = rng.u32(0..=much);
            let much = one_of(rng, &[0, 0, worst]);
            path.twice = rng.u32(0..=much);
            let much = one_of(rng, &[0, 0, worst * 2]);
            path.late = rng.u32(0..=much);
            path.lateness = rng.u32(50..8_000);
            if !recoverable && rng.u32(0..8) == 0 {
                path.damage = rng.u32(0..=worst / 2);
            }
            path
        };
        let worst = if recoverable { 20 } else { 80 };
        let from_primary = path(20, if recoverable { 0 } else { worst / 2 });
        let from_secondary = path(150, worst);
        let inbound = path(500, worst / 2);
        let to_primary = path(10, worst / 8);
        let to_secondary = path(120, worst);
        let outbound = path(500, worst / 2);
        let limits = Self::limits(rng, flows, calm || recoverable);
        let faulty = rng.u32(50..1_500);
        let happenings =
            if calm || recoverable { Vec::new() } else { Self::happenings(rng, faulty) };
        Self {
            seed,
            gate: if recoverable { Gate::Slower } else { gate },
            flows: (0..flows).collect(),
            streams: if recoverable { 1000 } else { one_of(rng, &[0, 500, 700, 1000]) },
            bytes,
            datagrams,
            differing: if calm || recoverable { 0 } else { one_of(rng, &[0, 0, 200, 700]) },
            unusual: one_of(rng, &[0, 300, 1000]),
            // A flow that is forgotten and comes again in one call would be two.
            batch: if limits.flows < 2 * flows { 1 } else { one_of(rng, &[1, 1, 3, 64]) },
            chunk: one_of(rng, &[4096, 2048, 128, 160]),
            from_primary,
            from_secondary,
            inbound,
            to_primary,
            to_secondary,
            outbound,
            answer: one_of(rng, &[0, 3, 20, 200]),
            every: if recoverable || rng.u32(0..4) != 0 { 0 } else { rng.u32(20..400) },
            limits,
            happenings,
            faulty,
        }
    }

    fn limits(rng: &mut fastrand::Rng, flows: u32, wide: bool) -> Limits {
        let mut limits = Limits {
            timeout: one_of(rng, &[1_000, 2_000, 3_000, 3_000]),
            request: one_of(rng, &[50, 200, 1_000]),
            grace: one_of(rng, &[0, 500, 2_000, 2_000, 10_000]),
            queue: 1024,
            held: 24_576,
            flows: 2 * flows + 16,
        };
        if wide {
            limits.timeout = 3_000;
            limits.grace = 2_000;
            return limits;
        }
        if happens(rng, 120) {
            limits.queue = rng.u16(2..40);
        }
        if happens(rng, 120) {
            limits.held = rng.u32(4..200);
        }
        // With very many, none would ever come to its end.
        if happens(rng, 150) && flows < 200 {
            limits.flows = rng.u32(2..20);
        }
        limits
    }

    fn happenings(rng: &mut fastrand::Rng, faulty: u32) -> Vec<(u32, Happening)> {
        let count = one_of(rng, &[0, 0, 1, 2, 4]);
        let mut happenings: Vec<_> = (0..count)
            .map(|_| {
                let length = rng.u32(1..300);
                let what = match rng.u8(0..16) {
                    0..4 => Happening::Checkpoint,
                    4..6 => Happening::SecondaryLost(length),
                    6..8 => Happening::PrimaryLost(length),
                    8..11 => Happening::LinkDown(length),
                    11..13 => Happening::OutputStalled(length),
                    13..15 => Happening::LaneStalled(1 + length / 8),
                    _ => Happening::ShortRings(rng.u32(1..40)),
                };
                (rng.u32(0..faulty), what)
            })
            .collect();
        happenings.sort_by_key(|happening| happening.0);
        happenings
    }

    /// Whether the two guests say the same and every path is plain: then nothing may be reported.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.paths().iter().all(|path| path.is_plain())
            && self.differing == 0
            && self.happenings.is_empty()
            && self.every == 0
    }

    /// Whether TCP repairs all that goes wrong before a timeout passes, if the comparator lets it.
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        let mild = |path: &Path| path.loss <= 20 && path.damage == 0;
        self.gate == Gate::Slower
            && self.streams == 1000
            && self.differing == 0
            && self.happenings.is_empty()
            && self.every == 0
            && self.from_primary.is_plain()
            && self.paths().iter().all(mild)
            && self.limits.timeout >= 3_000
            && self.limits.queue >= 1024
            && self.limits.held >= 24_576
            && self.limits.flows as usize > self.flows.len()
    }

    /// Whether the primary may be lost after it alone has acknowledged something: the design's default
    /// gate lets bare acknowledgements leave at once.
    #[must_use]
    pub fn loses_what_was_acknowledged(&self) -> bool {
        self.gate == Gate::Payload && self.loses_the_primary()
    }

    /// Whether a secondary that says less than was agreed on may become the primary: its client waits for
    /// the rest.
    #[must_use]
    pub fn may_promote_who_says_less(&self) -> bool {
        self.differing > 0 && self.loses_the_primary()
    }

    fn loses_the_primary(&self) -> bool {
        self.happenings.iter().any(|(_, what)| matches!(what, Happening::PrimaryLost(_)))
    }

    fn paths(&self) -> [Path; 6] {
        [
            self.from_primary,
            self.from_secondary,
            self.inbound,
            self.to_primary,
            self.to_secondary,
            self.outbound,
        ]
    }

    /// `compare_timeout`.
    #[must_use]
    pub fn timeout(&self) -> Time {
        Time::from(self.limits.timeout) * MILLISECOND
    }

    /// `reorder_grace`.
    #[must_use]
    pub fn grace(&self) -> Time {
        Time::from(self.limits.grace) * MICROSECOND
    }

    /// `request_interval`.
    #[must_use]
    pub fn request(&self) -> Time {
        Time::from(self.limits.request) * MILLISECOND
    }
}
