//! Network namespaces, guests, traffic and the running binary: what the end-to-end tests and
//! `cargo xtask demo` share.
//!
//! A [`Stage`] is the whole scene: a [`Topology`] of namespaces and devices with a primary guest,
//! a secondary guest and a client, and a [`Comparator`] (the real binary) between them. The test
//! plays both guests, frame by frame, and watches what reaches the client.
//!
//! Everything made here carries the process id in its name, lives in namespaces of its own and is
//! removed on every way out: return, panic, SIGINT, and after a SIGKILL by the next run.

pub mod capture;
pub mod chardev;
pub mod checkpointer;
pub mod comparator;
pub mod contender;
pub mod control;
pub mod digest;
pub mod filter;
pub mod fragment;
pub mod leftovers;
pub mod load;
pub mod malformed;
pub mod monitor;
pub mod namespace;
pub mod ordinary;
pub mod packet;
mod packet_socket;
pub mod pair;
mod pass_program;
pub mod payload;
pub mod privilege;
pub mod process;
pub mod program;
pub mod qemu;
pub mod relay;
pub mod repair;
pub mod replica;
pub mod segment;
pub mod service;
pub mod stage;
mod tap;
pub mod threads;
pub mod topology;
pub mod wires;

pub use capture::Capture;
pub use comparator::{Comparator, Launch, Outcome};
pub use control::Control;
pub use filter::Filter;
pub use namespace::Namespace;
pub use ordinary::OrdinaryUser;
pub use packet::Packet;
pub use pair::{Pair, PairLaunch};
pub use program::Program;
pub use relay::{Relay, RelayLaunch};
pub use segment::Segment;
pub use stage::Stage;
pub use topology::{Attachment, Plan, Role, Topology};
pub use wires::Wires;

/// What harness operations return: an error says which device, namespace or frame it was about.
pub type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;
