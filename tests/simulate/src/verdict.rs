//! What the comparator said in one call, written down in order.

use std::time::Duration;

use compare_user::compare::{Amendment, Discard, Divergence, Exhibit, Reason, Release, Side, Sink};
use compare_user::frame::FlowKey;

use crate::frames::{Frame, Frames};
use crate::meaning::Replica;

/// A divergence that it reported.
#[derive(Clone)]
pub struct Report {
    /// The flow, as it names it.
    pub key: FlowKey,
    /// Why.
    pub reason: Reason,
    /// The side that it blames.
    pub side: Replica,
    /// Where in the stream or datagram.
    pub offset: u32,
    /// How long the older frame had waited.
    pub waited: Duration,
    /// The primary's frame, and a place in it.
    pub primary: Option<(u32, usize)>,
    /// The secondary's.
    pub secondary: Option<(u32, usize)>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} of {} ({:?}) at {}, frames {:?} {:?}, waited {:?}",
            self.reason,
            self.key,
            self.side,
            self.offset,
            self.primary,
            self.secondary,
            self.waited
        )
    }
}

/// One thing that it said.
#[derive(Debug)]
pub enum Output {
    /// This frame leaves.
    Released(Frame, Release, Amendment),
    /// This frame goes back to memory.
    Discarded(Frame, Replica, Discard),
    /// The outputs differ.
    Diverged(Box<Report>),
    /// A checkpoint is wanted.
    Wanted,
}

/// The side in the simulator's words.
#[must_use]
pub fn replica(side: Side) -> Replica {
    match side {
        Side::Primary => Replica::Primary,
        Side::Secondary => Replica::Secondary,
    }
}

/// The side in the comparator's words.
#[must_use]
pub fn side(replica: Replica) -> Side {
    match replica {
        Replica::Primary => Side::Primary,
        Replica::Secondary => Side::Secondary,
    }
}

/// Writes down.
#[derive(Debug, Default)]
pub struct Outputs(pub Vec<Output>);

impl Sink<Frames> for Outputs {
    fn release(&mut self, frame: Frame, why: Release, amendment: Amendment) {
        self.0.push(Output::Released(frame, why, amendment));
    }

    fn discard(&mut self, frame: Frame, from: Side, why: Discard) {
        self.0.push(Output::Discarded(frame, replica(from), why));
    }

    fn diverged(&mut self, _: &Frames, divergence: &Divergence<'_, Frames>) {
        let shown = |exhibit: &Option<Exhibit<'_, Frames>>| {
            exhibit.as_ref().map(|exhibit| (exhibit.frame.0, exhibit.at))
        };
        self.0.push(Output::Diverged(Box::new(Report {
            key: *divergence.flow,
            reason: divergence.reason,
            side: replica(divergence.side),
            offset: divergence.offset,
            waited: divergence.waited,
            primary: shown(&divergence.primary),
            secondary: shown(&divergence.secondary),
        })));
    }

    fn checkpoint_wanted(&mut self) {
        self.0.push(Output::Wanted);
    }
}
