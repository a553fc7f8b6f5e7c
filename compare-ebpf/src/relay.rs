//! The relay on the secondary's host: link to guest, and back, until failover.
//!
//! | program | on | before failover | after |
//! |---|---|---|---|
//! | `relay_link` | the link | to the guest | dropped: the primary is lost |
//! | `relay_guest` | the guest's device | to the link | to the NIC |
//! | `relay_nic` | the NIC | passed to the host | the guest's frames to the guest |
//! | `relay_flood` | the NIC, in the stack | | copies of what goes to everybody to the guest |
//!
//! All four are of one object and share its maps. Sequence numbers are rewritten on the way
//! (`rewriter`).

use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, DevMap, HashMap, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use compare_ebpf::{Gate, GuestMac, LEARNED_MACS, RelayControl, RelayOutcome, Tally};

use crate::bytes::{length, load};
use crate::classifier::make_whole;
use crate::rewriter;
use crate::tunnel::{self, Arrival, Refusal, TUNNEL, TUNNELLED};

/// The relay's devices, by [`Gate`].
#[map]
static RELAY_DEVICES: DevMap = DevMap::with_max_entries(Gate::ALL.len() as u32, 0);

/// The switches.
#[map]
static RELAY_CONTROL: Array<RelayControl> = Array::with_max_entries(1, 0);

/// The guest's Ethernet addresses.
#[map]
static RELAY_MACS: HashMap<GuestMac, u32> = HashMap::with_max_entries(LEARNED_MACS, 0);

/// Frames and bytes by [`RelayOutcome`], a row for each [`Gate`].
#[map]
static RELAY_OUTCOMES: PerCpuArray<Tally> =
    PerCpuArray::with_max_entries((RelayOutcome::ALL.len() * Gate::ALL.len()) as u32, 0);

/// Interface index of the guest's device, for the classifier.
#[map]
static RELAY_GUEST: Array<u32> = Array::with_max_entries(1, 0);

/// From the link: what the primary's mirror has copied.
#[xdp(frags)]
fn relay_link(frame: XdpContext) -> u32 {
    let Some(control) = control() else { return XDP_DROP };
    if TUNNELLED.load() != 0
        && let Some(elsewhere) = leave_tunnel(&frame)
    {
        return elsewhere;
    }
    if control.failed_over != 0 {
        return end(&frame, Gate::Link, RelayOutcome::AfterFailover, XDP_DROP);
    }
    rewriter::to_guest(&frame, &control);
    redirect(&frame, &control, (Gate::Link, Gate::Guest), RelayOutcome::ToGuest)
}

/// From the guest.
#[xdp(frags)]
fn relay_guest(frame: XdpContext) -> u32 {
    let Some(control) = control() else { return XDP_DROP };
    if control.learns != 0 {
        learn(&frame);
    }
    rewriter::from_guest(&frame, &control);
    if control.failed_over != 0 {
        return redirect(&frame, &control, (Gate::Guest, Gate::Nic), RelayOutcome::ToNic);
    }
    if TUNNELLED.load() != 0 {
        let Some(tunnel) = TUNNEL.get(0) else { return XDP_DROP };
        match tunnel::close(&frame, tunnel) {
            Ok(()) => {}
            Err(Refusal::TooLong) => {
                return end(&frame, Gate::Guest, RelayOutcome::TooLong, XDP_DROP);
            }
            Err(Refusal::NoNextHop) => {
                return end(&frame, Gate::Guest, RelayOutcome::NoNextHop, XDP_DROP);
            }
        }
    }
    redirect(&frame, &control, (Gate::Guest, Gate::Link), RelayOutcome::ToLink)
}

/// From the NIC: nothing until failover, then what is for the guest.
#[xdp(frags)]
fn relay_nic(frame: XdpContext) -> u32 {
    let Some(control) = control() else { return XDP_PASS };
    let destination = load::<GuestMac>(&frame, 0);
    let is_ours = destination.is_some_and(|mac| control.failed_over != 0 && is_guests(&mac));
    if !is_ours {
        return end(&frame, Gate::Nic, RelayOutcome::Host, XDP_PASS);
    }
    rewriter::to_guest(&frame, &control);
    redirect(&frame, &control, (Gate::Nic, Gate::Guest), RelayOutcome::ToGuest)
}

/// Behind `relay_nic`: a copy for the guest of what goes to everybody.
#[classifier]
fn relay_flood(frame: TcContext) -> i32 {
    let failed_over = control().is_some_and(|control| control.failed_over != 0);
    // The group bit, IEEE 802.3 section 3.2.3.
    if failed_over
        && make_whole(&frame)
        && frame.load::<GuestMac>(0).is_ok_and(|mac| mac.0[0] & 1 != 0)
        && let Some(guest) = RELAY_GUEST.get(0)
    {
        // A guest's device that is down loses its own copy.
        let _ = frame.clone_redirect(*guest, 0);
    }
    TC_ACT_OK
}

/// Takes the outer headers off, or says what becomes of a frame that is not for the guest.
#[inline(always)]
fn leave_tunnel(frame: &XdpContext) -> Option<u32> {
    let (outcome, action) = match tunnel::open(frame) {
        Arrival::Inner => return None,
        Arrival::Host => (RelayOutcome::Host, XDP_PASS),
        Arrival::OtherVni => (RelayOutcome::OtherVni, XDP_PASS),
        Arrival::ForeignPeer => (RelayOutcome::ForeignPeer, XDP_PASS),
        Arrival::Malformed => (RelayOutcome::Malformed, XDP_DROP),
    };
    Some(end(frame, Gate::Link, outcome, action))
}

/// All switches as of one moment.
#[inline(always)]
fn control() -> Option<RelayControl> {
    let control = RELAY_CONTROL.get_ptr(0)?;
    // SAFETY: RelayControl is eight bytes, aligned to eight, of integers. Volatile: one load, so
    // that all decisions about a frame follow one setting.
    let word = unsafe { control.cast::<u64>().read_volatile() };
    let [e0, e1, e2, e3, failed_over, learns, pieces, reserved] = word.to_ne_bytes();
    let epoch = u32::from_ne_bytes([e0, e1, e2, e3]);
    Some(RelayControl { epoch, failed_over, learns, pieces, reserved })
}

/// Enters the source address of a guest's frame, if it is new and there is room.
#[inline(always)]
fn learn(frame: &XdpContext) {
    let Some(source) = load::<GuestMac>(frame, 6) else { return };
    if source.0[0] & 1 == 0 && !is_guests(&source) {
        let _ = RELAY_MACS.insert(source, 0, 0);
    }
}

#[inline(always)]
fn is_guests(mac: &GuestMac) -> bool {
    RELAY_MACS.get_ptr(mac).is_some()
}

/// Sends to another device of the relay, from one gate to the other.
#[inline(always)]
fn redirect(
    frame: &XdpContext,
    control: &RelayControl,
    (from, to): (Gate, Gate),
    outcome: RelayOutcome,
) -> u32 {
    let in_pieces = length(frame) as usize > frame.data_end() - frame.data();
    if in_pieces && control.pieces & (1 << to as u8) == 0 {
        // The kernel would drop it behind our back (`__xdp_enqueue` in kernel/bpf/devmap.c).
        return end(frame, from, RelayOutcome::TooLong, XDP_DROP);
    }
    match RELAY_DEVICES.redirect(to as u32, u64::from(XDP_DROP)) {
        Ok(action) => end(frame, from, outcome, action),
        Err(action) => end(frame, from, RelayOutcome::NoDevice, action),
    }
}

/// Counts the frame and returns what becomes of it.
#[inline(always)]
fn end(frame: &XdpContext, gate: Gate, outcome: RelayOutcome, action: u32) -> u32 {
    let index = gate as u32 * RelayOutcome::ALL.len() as u32 + outcome as u32;
    crate::tally::add(&RELAY_OUTCOMES, index, length(frame));
    action
}
