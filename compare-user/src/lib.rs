//! colo-xdp: a COLO network comparator outside the hypervisor.
//!
//! The way of a frame: a [`port`] receives it, a [`lane`] hands it to the comparator in
//! [`compare`], which reads it through [`frame`] and decides; the lane then releases it on the
//! output port or gives it back to the port's memory. [`kernel`] loads and attaches the XDP
//! programs that steer frames into the ports, and [`checkpoint`] tells whoever takes checkpoints
//! that one is wanted.

pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod control;
pub mod frame;
pub mod kernel;
pub mod lane;
mod listening;
pub mod observe;
pub mod port;
pub mod privilege;
pub mod replay;
