//! The XDP programs of colo-xdp.
//!
//! The object is built for `bpfel-unknown-none`; on the host it only compiles, so that clippy and
//! an editor can read it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(unsafe_code, reason = "helpers and map pointers of the kernel's BPF ABI")]

mod bytes;
mod classifier;
mod headers;
mod mirror;
mod relay;
mod rewriter;
mod rules;
mod steer;
mod sum;
mod tally;
mod tunnel;

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Passes every frame. Its presence is the point: a veth accepts redirected frames only when its
/// peer has NAPI, which an XDP program turns on, and some NICs transmit zero-copy only with one.
#[xdp(frags)]
fn pass(_frame: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Drops every frame that would go up the stack, while an XDP program is being replaced by one of
/// another mode, which the kernel cannot do in one step.
#[classifier]
fn shut(_frame: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// The kernel's requirement for the helpers that only GPL-compatible programs may call.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never reached: the verifier has no loop for it, the programs have no panic path.
    unsafe { core::hint::unreachable_unchecked() }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
