//! Deterministic simulation of the comparator.
//!
//! From one seed: two model guests that say the same with habits of their own, a client, a network in
//! which things go wrong, checkpoints, failovers, and an oracle that knows what every frame means and
//! objects to whatever the comparator should not have done. The same seed is the same run on every
//! machine.
//!
//! | file | what |
//! |---|---|
//! | `scenario` | what is simulated, made from a seed |
//! | `conversation` | flows: scripts, addresses, planted differences |
//! | `endpoint` | the model of TCP that plays guests and client |
//! | `packet` | frames from meanings |
//! | `network` | loss, copies, delay, order, damage |
//! | `world` | the events of a run, and the comparator among them |
//! | `oracle` | what must hold |
//! | `coverage` | what was met |
//! | `batch` | many seeds at once |
//! | `shrink` | a failing scenario made smaller |

pub mod batch;
pub mod chance;
pub mod conversation;
pub mod coverage;
pub mod endpoint;
pub mod frames;
pub mod meaning;
pub mod network;
pub mod oracle;
pub mod packet;
mod said;
pub mod scenario;
pub mod shrink;
pub mod time;
pub mod verdict;
pub mod world;
