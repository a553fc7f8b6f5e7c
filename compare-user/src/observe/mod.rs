//! What an operator sees: divergences with their bytes, events, the state of a lane and of a
//! relay.

mod divergence;
mod event;
mod relay;
mod status;

pub use divergence::{DivergenceReport, Excerpt, hex_dump};
pub use event::Event;
pub use relay::{Counted, RelayMode, RelayStatus};
pub use status::{Books, FlowStatus, LaneStatus, PortStatus};
