//! AF_XDP: frames in memory shared with the kernel.
//!
//! [`Region`] is the memory of a lane and everything that lies in it; [`XskPort`] is one queue of
//! one device, attached to a region. A frame comes in through `rings`, is put together in
//! `chain`, lies in `region` as a [`UmemFrame`] while it is compared, and leaves through the
//! `rings` of another port; `chunks` knows at any moment who has what.

mod chain;
mod chunks;
mod error;
mod mode;
mod region;
// Unit tests have a kernel of their own.
#[cfg_attr(test, path = "in_memory.rs")]
mod registration;
mod rings;
mod socket;
mod statistics;

pub use chunks::Audit;
pub use error::{XskError, XskErrorKind};
pub use region::{Region, RegionConfig, UmemFrame};
pub use socket::{Obtained, XskOptions, XskPort, ZeroCopy};
pub use statistics::{KernelStatistics, PortStatistics, Statistics};
