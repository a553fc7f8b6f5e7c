//! Socket chardevs: frames in a byte stream, as QEMU's network filters exchange them.
//!
//! `framing` finds frames in bytes, `link` is the socket that comes back when its peer does, and
//! [`ChardevPort`] moves frames between the two and the lane's memory.

pub mod framing;
mod link;
mod port;
mod statistics;

pub use link::{Condition, Link, LinkError, Transfer};
pub use port::{ChardevPort, Direction, Vnet};
pub use statistics::Statistics;
