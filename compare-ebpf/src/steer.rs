//! `steer`: one decision per frame of a guest's egress.
//!
//! The tunnel first, if the link is one; then standalone, the bypass rules, the socket of the
//! receive queue. With no tunnel and no rule set the frame is not read at all, but for its source
//! address where the mirror learns whose frames to copy.

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use compare_ebpf::{
    Control, Outcome, RULE_BANKS, RULES_PER_BANK, Rule, SOCKET_SLOTS, Standalone, Tally,
};

use crate::bytes::length;
use crate::headers::Flow;
use crate::tunnel::{self, Arrival, TUNNELLED};
use crate::{mirror, rules};

/// AF_XDP sockets by receive queue.
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(SOCKET_SLOTS, 0);

/// Slot 0: the device that released, bypassed and standalone frames leave on.
#[map]
static OUTPUT: DevMap = DevMap::with_max_entries(1, 0);

/// The switches.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The banks of bypass rules.
#[map]
pub(crate) static RULES: Array<Rule> = Array::with_max_entries(RULES_PER_BANK * RULE_BANKS, 0);

/// Frames and bytes by [`Outcome`].
#[map]
static OUTCOMES: PerCpuArray<Tally> = PerCpuArray::with_max_entries(Outcome::ALL.len() as u32, 0);

// Read-only for the kernel once loaded: the verifier knows their values and removes the branches
// not taken.

/// `1` if a queue without a socket passes its frames to the kernel, `0` if it drops them.
#[unsafe(no_mangle)]
static EMPTY_SLOT_PASSES: Global<u8> = Global::new(0);

/// `1` on the secondary's side: a bypassed frame is dropped, the primary's copy leaves instead.
#[unsafe(no_mangle)]
static SECONDARY: Global<u8> = Global::new(0);

/// `1` if the mirror learns the guest's addresses from what it sends.
#[unsafe(no_mangle)]
static LEARNS: Global<u8> = Global::new(0);

/// Sends a frame to its socket, to the output device, or nowhere.
#[xdp(frags)]
fn steer(frame: XdpContext) -> u32 {
    if TUNNELLED.load() != 0
        && let Some(elsewhere) = leave_tunnel(&frame)
    {
        return elsewhere;
    }
    if LEARNS.load() != 0 {
        mirror::learn(&frame);
    }
    // Slot 0 of an array of one always exists; the verifier wants to hear it.
    let Some(control) = CONTROL.get_ptr(0) else { return XDP_DROP };
    // SAFETY: Control is four bytes, aligned to four. Volatile: one load, so that all decisions
    // about a frame follow one setting.
    let word = unsafe { control.cast::<u32>().read_volatile() };
    let [standalone, bank, even, odd] = word.to_ne_bytes();
    if standalone == Standalone::Forward as u8 {
        return leave(&frame, Outcome::StandaloneForwarded);
    }
    if standalone == Standalone::Drop as u8 {
        return drop(&frame, Outcome::StandaloneDropped);
    }
    let (bank, rules) = if bank == 0 { (0, even) } else { (1, odd) };
    if rules != 0 && is_bypassed(&frame, bank * RULES_PER_BANK, u32::from(rules)) {
        return if SECONDARY.load() == 0 {
            leave(&frame, Outcome::Bypassed)
        } else {
            drop(&frame, Outcome::BypassDropped)
        };
    }
    to_socket(&frame)
}

/// Takes the outer headers off, or says what becomes of a frame that is not the guest's.
#[inline(always)]
fn leave_tunnel(frame: &XdpContext) -> Option<u32> {
    let (outcome, action) = match tunnel::open(frame) {
        Arrival::Inner => return None,
        Arrival::Host => (Outcome::Host, XDP_PASS),
        Arrival::OtherVni => (Outcome::OtherVni, XDP_PASS),
        Arrival::ForeignPeer => (Outcome::ForeignPeer, XDP_PASS),
        Arrival::Malformed => (Outcome::TunnelMalformed, XDP_DROP),
    };
    tally(frame, outcome);
    Some(action)
}

/// Whether one of `count` rules, from index `first` on, matches the frame.
#[inline(always)]
fn is_bypassed(frame: &XdpContext, first: u32, count: u32) -> bool {
    match Flow::of(frame) {
        Some(flow) => rules::any_matches(&flow, first, count),
        None => {
            tally(frame, Outcome::Unparsed);
            false
        }
    }
}

/// Redirects to the socket of the frame's queue.
#[inline(always)]
fn to_socket(frame: &XdpContext) -> u32 {
    let queue = frame.rx_queue_index();
    // The kernel returns the lowest two bits of the flags when the slot is empty.
    let otherwise = if EMPTY_SLOT_PASSES.load() == 0 { XDP_DROP } else { XDP_PASS };
    match SOCKETS.redirect(queue, u64::from(otherwise)) {
        Ok(action) => {
            tally(frame, Outcome::Steered);
            action
        }
        Err(action) => {
            let outcome = if otherwise == XDP_DROP {
                Outcome::NoSocketDropped
            } else {
                Outcome::NoSocketPassed
            };
            tally(frame, outcome);
            debug!(frame, "queue {} has no socket, action {}", queue, action);
            action
        }
    }
}

/// Redirects to the output device.
#[inline(always)]
fn leave(frame: &XdpContext, outcome: Outcome) -> u32 {
    match OUTPUT.redirect(0, u64::from(XDP_DROP)) {
        Ok(action) => {
            tally(frame, outcome);
            debug!(frame, "outcome {}", outcome as u32);
            action
        }
        Err(action) => {
            tally(frame, Outcome::NoOutput);
            debug!(frame, "no output device");
            action
        }
    }
}

/// Drops the frame and counts it.
#[inline(always)]
fn drop(frame: &XdpContext, outcome: Outcome) -> u32 {
    tally(frame, outcome);
    debug!(frame, "outcome {}", outcome as u32);
    XDP_DROP
}

/// Adds the frame to this CPU's tally of `outcome`.
#[inline(always)]
fn tally(frame: &XdpContext, outcome: Outcome) {
    crate::tally::add(&OUTCOMES, outcome as u32, length(frame));
}
