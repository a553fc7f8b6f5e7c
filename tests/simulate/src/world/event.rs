//! What is to happen, and when.

use crate::frames::Frame;
use crate::meaning::{Replica, Segment};
use crate::scenario::Happening;
use crate::time::Time;

pub(super) enum Event {
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

pub(super) struct Scheduled {
    pub(super) at: Time,
    pub(super) order: u64,
    pub(super) event: Event,
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
