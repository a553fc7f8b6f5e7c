//! What a client does: single exchanges with the services of [`crate::service`], many of them at
//! once, and how long it takes.
//!
//! Everything here opens its sockets in the namespace of the calling thread: call it in
//! [`crate::Namespace::run`] or [`crate::Namespace::spawn`] of the client's namespace. Everything
//! is bounded: connections in number, waits in time.

mod crowd;
mod dial;
mod exchange;
mod latency;
mod streams;

pub use crowd::{Crowd, Style, Tally};
pub(crate) use dial::reset;
pub use dial::{connect, connect_from};
pub use exchange::{
    Called, Download, Progress, Talk, Transfer, Upload, abort, banner, fetch, get, half_close,
};
pub use latency::Latencies;
pub use streams::{Bound, Streams};
