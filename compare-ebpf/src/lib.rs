//! Map layouts, counters and constants that the XDP programs and user space share, and the
//! arithmetic of the sequence rewriter, which needs no kernel to be tested.
//!
//! Every layout stands here once, `#[repr(C)]`, without padding, so that both sides read the
//! same bytes.
#![no_std]

#[cfg(test)]
extern crate std;

mod layout;
pub mod rewrite;

pub use layout::mirror::{
    GUEST_SLOTS, GuestMac, LEARNED_MACS, LONGEST_CLONE, MAC_SLOTS, MirrorGuest, MirrorOutcome,
    REINJECTED, RESETS_BYTES, Reset,
};
pub use layout::relay::{
    Connection, ConnectionKey, Gate, Handshake, RelayControl, RelayEvent, RelayOutcome,
};
pub use layout::steer::{
    Control, Direction, FAMILY_ANY, FAMILY_IPV4, FAMILY_IPV6, Outcome, RULE_BANKS, RULES_PER_BANK,
    Rule, SOCKET_SLOTS, Standalone,
};
pub use layout::tunnel::{LONGEST_OUTER, OUTER_IPV4, OUTER_IPV6, Tunnel, VXLAN_FLAG_VNI};

/// Frames and bytes of one outcome.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Frames.
    pub packets: u64,
    /// Bytes of those frames, from the Ethernet header on.
    pub bytes: u64,
}

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya's marker for map values is an unsafe trait")]
mod user {
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Connection {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::ConnectionKey {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Control {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::GuestMac {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Handshake {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::MirrorGuest {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::RelayControl {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Rule {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Tally {}
    // SAFETY: repr(C) integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Tunnel {}
}

const _: () = assert!(size_of::<Tally>() == 16);
