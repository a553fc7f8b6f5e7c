//! What an operator sees: divergences with their bytes, events, the state of a lane.

mod divergence;
mod event;
mod status;

pub use divergence::{DivergenceReport, Excerpt, hex_dump};
pub use event::Event;
pub use status::{Books, FlowStatus, LaneStatus, PortStatus};
