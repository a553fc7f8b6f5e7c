//! The rules, and how it is said that one was broken.

use crate::time::{Time, shown};

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
