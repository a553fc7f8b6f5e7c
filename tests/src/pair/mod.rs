//! A COLO pair with ordinary kernels for guests.
pub mod wire;
