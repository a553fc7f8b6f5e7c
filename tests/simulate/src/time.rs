//! Simulated time.

/// Nanoseconds since the simulation began.
pub type Time = u64;

/// A thousandth of a millisecond.
pub const MICROSECOND: Time = 1_000;
/// A thousandth of a second.
pub const MILLISECOND: Time = 1_000_000;
/// A second.
pub const SECOND: Time = 1_000_000_000;

/// For traces: milliseconds with six places.
#[must_use]
pub fn shown(time: Time) -> String {
    format!("{}.{:06} ms", time / MILLISECOND, time % MILLISECOND)
}
