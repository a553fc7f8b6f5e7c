//! The comparator's specification: each rule of DESIGN.md section 4 and each line of the
//! reference's behaviour as one test, then models that check the rules on random traffic.
//!
//! Whatever a test does, the [`rig::Rig`] asserts at its end that no frame was lost or doubled.

mod chunks;
mod datagram;
mod datagram_model;
mod flush;
mod garbage;
mod gate;
mod handshake;
mod limits;
mod partly_said;
mod passing;
mod rig;
mod stream;
mod stream_model;
mod teardown;
mod timestamps;
mod uncompared;
mod wire;
