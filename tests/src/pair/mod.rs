//! A COLO pair with ordinary kernels for guests.

mod network;
pub mod wire;

pub use network::{Family, GUEST_MAC, Host, Link, Network, Plan, Side, VNI};
pub use wire::{Direction, Impairment, Wire};
