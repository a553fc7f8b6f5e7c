//! Time as the comparator sees it: passed in, never asked for.

use std::time::Duration;

/// A point in time: nanoseconds since an origin of the caller's choice (the lane uses
/// CLOCK_MONOTONIC, `replay` the first packet of the capture, tests zero).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The origin itself.
    pub const ORIGIN: Self = Self(0);

    /// The point `elapsed` after the origin. Saturates after 584 years.
    #[must_use]
    pub fn after_origin(elapsed: Duration) -> Self {
        Self(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time since the origin.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// A clock of about a quarter of a millisecond (2^18 ns), for which of two things happened first;
    /// right if they are less than six days apart.
    pub(super) fn moment(self) -> u32 {
        (self.0 >> 18) as u32
    }

    /// A coarse clock of about a second (2^30 ns), for orderings that need no precision.
    pub(super) fn coarse(self) -> u32 {
        // Wraps after 146 years; only differences between neighbours matter.
        (self.0 >> 30) as u32
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}
