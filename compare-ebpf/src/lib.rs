//! Map layouts, counters and constants that the XDP programs and user space share.
//!
//! Every layout stands here once, `#[repr(C)]`, without padding, so that both sides read the
//! same bytes.
#![no_std]
