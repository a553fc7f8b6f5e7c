//! `mirror`: a copy of what the network sends to a guest, for the secondary.
//!
//! Guests share a NIC, each with a comparator process of its own. `mirror`, on the NIC, finds the
//! guest by the destination address and goes on in that guest's `mirror_guest`, which its process
//! has loaded with maps of its own. A DEVMAP broadcast sends the frame to the primary's device and
//! a copy to the link; the kernel leaves out a device that is down or whose ring is full, which
//! costs the other one nothing. `wrap_copy` runs on the copy alone and puts it into the tunnel.
//!
//! What a DEVMAP cannot do is left to `flood`, a classifier behind it: frames longer than a page,
//! and what goes to every guest and the host at once.

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{
    BPF_F_BROADCAST, BPF_F_EXCLUDE_INGRESS, BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT,
};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, DevMap, HashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::programs::{TcContext, XdpContext};
use compare_ebpf::rewrite::RST;
use compare_ebpf::{
    ConnectionKey, FAMILY_IPV6, GUEST_SLOTS, GuestMac, LEARNED_MACS, LONGEST_CLONE, MAC_SLOTS,
    MirrorGuest, MirrorOutcome, OUTER_IPV4, OUTER_IPV6, REINJECTED, RESETS_BYTES, Reset, Tally,
    Tunnel,
};

use crate::bytes::{length, load};
use crate::classifier::{make_whole, prepend, set_mark};
use crate::headers::{Flow, IPV4, Piece, TCP};
use crate::tunnel;

/// The guest of an Ethernet address, as its slot. Shared by all processes on the NIC.
#[map]
static MIRROR_MACS: HashMap<GuestMac, u32> = HashMap::with_max_entries(MAC_SLOTS, 0);

/// Each guest's `mirror_guest`. Shared.
#[map]
static MIRROR_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(GUEST_SLOTS, 0);

/// Each guest's devices. Shared.
#[map]
static MIRROR_GUESTS: Array<MirrorGuest> = Array::with_max_entries(GUEST_SLOTS, 0);

/// Where one guest's frames go: its primary, its link.
#[map]
static COPIES: DevMap = DevMap::with_max_entries(2, 0);

/// Frames and bytes by [`MirrorOutcome`]: the NIC's and each guest's own.
#[map]
static MIRROR_OUTCOMES: PerCpuArray<Tally> =
    PerCpuArray::with_max_entries(MirrorOutcome::ALL.len() as u32, 0);

/// Connections that the network has reset: the comparator need not wait for what the guests will not
/// say any more. What does not fit is not told.
#[map]
static RESETS: RingBuf = RingBuf::with_byte_size(RESETS_BYTES, 0);

/// Slots of `COPIES`.
const PRIMARY: u32 = 0;
const LINK: u32 = 1;

/// Offset of the flags in a TCP header.
const FLAGS: u32 = 13;

/// The guest's slot, fixed when its programs are loaded.
#[unsafe(no_mangle)]
static SLOT: Global<u32> = Global::new(0);

/// On the NIC: finds the guest.
#[xdp(frags)]
fn mirror(frame: XdpContext) -> u32 {
    let Some(destination) = load::<GuestMac>(&frame, 0) else { return XDP_DROP };
    // The group bit, IEEE 802.3 section 3.2.3.
    if destination.0[0] & 1 != 0 {
        tally(&frame, MirrorOutcome::Flooded);
        return XDP_PASS;
    }
    let Some(slot) = slot_of(&destination) else {
        tally(&frame, MirrorOutcome::Host);
        return XDP_PASS;
    };
    // Returns only when the slot is empty.
    // SAFETY: both programs are XDP programs for fragments, as the map's first user.
    unsafe { MIRROR_PROGRAMS.tail_call(&frame, slot) };
    tally(&frame, MirrorOutcome::NoGuest);
    XDP_DROP
}

/// One guest's share of `mirror`.
#[xdp(frags)]
fn mirror_guest(frame: XdpContext) -> u32 {
    let Some(guest) = guest(SLOT.load()) else { return XDP_DROP };
    let (primary, link) = (guest.primary != 0, guest.link != 0);
    let length = length(&frame);
    let in_pieces = length as usize > frame.data_end() - frame.data();
    if in_pieces || primary && link && length > LONGEST_CLONE {
        tally(&frame, MirrorOutcome::Long);
        return XDP_PASS;
    }
    if !link {
        return redirect(&frame, PRIMARY, MirrorOutcome::PrimaryOnly);
    }
    if length > guest.longest_copy {
        return redirect(&frame, PRIMARY, MirrorOutcome::TooLongForLink);
    }
    if !primary {
        return redirect(&frame, LINK, MirrorOutcome::LinkOnly);
    }
    if is_reset(&frame) {
        tell_reset(&frame);
    }
    let flags = u64::from(BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
    tally(&frame, MirrorOutcome::Mirrored);
    COPIES.redirect(0, flags).unwrap_or_else(|action| action)
}

/// On the copy that goes to the link, when that is a tunnel.
#[xdp(frags, map = "devmap")]
fn wrap_copy(frame: XdpContext) -> u32 {
    let Some(guest) = guest(SLOT.load()) else { return XDP_DROP };
    match tunnel::close(&frame, &guest.tunnel) {
        Ok(()) => XDP_PASS,
        Err(_) => {
            // `mirror_guest` has compared the length.
            tally(&frame, MirrorOutcome::NoNextHop);
            XDP_DROP
        }
    }
}

/// The beginning of an untagged TCP segment over IPv4 without options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Plain {
    _addresses: [u8; 12],
    ethertype: u16,
    version_and_length: u8,
    _before_protocol: [u8; 8],
    protocol: u8,
    _before_flags: [u8; 23],
    flags: u8,
}

/// Whether the frame may be a TCP reset. One copy of its beginning answers for most of them.
#[inline(always)]
fn is_reset(frame: &XdpContext) -> bool {
    match load::<Plain>(frame, 0) {
        Some(plain) if plain.ethertype == IPV4 && plain.version_and_length == 0x45 => {
            plain.protocol == TCP && plain.flags & RST != 0
        }
        // `tell_reset` looks closer.
        _ => true,
    }
}

/// Tells the comparator of a reset, if the frame is one.
#[inline(always)]
fn tell_reset(frame: &XdpContext) {
    let Some(flow) = Flow::of(frame) else { return };
    if flow.protocol != TCP || flow.piece != Piece::Whole {
        return;
    }
    let Some(flags) = load::<u8>(frame, flow.transport + FLAGS) else { return };
    if flags & RST == 0 {
        return;
    }
    let connection = ConnectionKey {
        guest: flow.destination,
        remote: flow.source,
        guest_port: flow.destination_port,
        remote_port: flow.source_port,
        tags: flow.tags,
        family: flow.family,
        reserved: [0; 3],
    };
    // SAFETY: no arguments.
    let at = unsafe { bpf_ktime_get_ns() };
    let _ = RESETS.output::<Reset>(Reset { at, connection, reserved: 0 }, 0);
}

/// Sends to one device, or drops and counts that.
#[inline(always)]
fn redirect(frame: &XdpContext, slot: u32, outcome: MirrorOutcome) -> u32 {
    match COPIES.redirect(slot, u64::from(XDP_DROP)) {
        Ok(action) => {
            tally(frame, outcome);
            action
        }
        Err(action) => {
            tally(frame, MirrorOutcome::NoDevice);
            action
        }
    }
}

/// Enters the source address of a guest's frame, if it is new: called by `steer` on the primary's
/// egress. An address that another guest has stays that guest's.
#[inline(always)]
pub(crate) fn learn(frame: &XdpContext) {
    let Some(source) = load::<GuestMac>(frame, 6) else { return };
    if source.0[0] & 1 != 0 || slot_of(&source).is_some() {
        return;
    }
    let slot = SLOT.load();
    let Some(guest) = MIRROR_GUESTS.get_ptr_mut(slot) else { return };
    // SAFETY: an aligned word of a map value. Two processors may both take the last place, which
    // the limit can bear.
    unsafe {
        if (*guest).learned >= LEARNED_MACS {
            return;
        }
        if MIRROR_MACS.insert(source, slot, 0).is_ok() {
            (*guest).learned += 1;
        }
    }
}

/// Behind `mirror`, in the stack: copies of long frames, and of those for everybody.
#[classifier]
fn flood(frame: TcContext) -> i32 {
    // SAFETY: the context is the program's own; these fields are always readable.
    let (mark, nic) = unsafe { ((*frame.skb.skb).mark, (*frame.skb.skb).ifindex) };
    if mark & !0xff == REINJECTED {
        return wrap_flooded(&frame, mark & 0xff);
    }
    if !make_whole(&frame) {
        return TC_ACT_OK;
    }
    let Ok(destination) = frame.load::<GuestMac>(0) else { return TC_ACT_OK };
    if destination.0[0] & 1 == 0 {
        let Some(slot) = slot_of(&destination) else { return TC_ACT_OK };
        copy_to(&frame, slot, nic);
        return TC_ACT_SHOT;
    }
    let mut bridged = 0;
    for slot in 0..GUEST_SLOTS {
        bridged |= copy_to(&frame, slot, nic);
    }
    // A bridge would bring the guest another copy.
    if bridged != 0 { TC_ACT_SHOT } else { TC_ACT_OK }
}

/// Sends copies to a guest's two devices. Returns whether the host must not have one.
#[inline(always)]
fn copy_to(frame: &TcContext, slot: u32, nic: u32) -> u32 {
    let Some(guest) = guest(slot) else { return 0 };
    if guest.taken == 0 {
        return 0;
    }
    if guest.primary != 0 {
        // A device that is down loses its own copy.
        let _ = frame.clone_redirect(guest.primary, 0);
    }
    if guest.link != 0 {
        if frame.len() > guest.longest_copy {
            let outcome = MirrorOutcome::TooLongForLink;
            crate::tally::add(&MIRROR_OUTCOMES, outcome as u32, frame.len());
        } else if guest.tunnel.family == 0 {
            let _ = frame.clone_redirect(guest.link, 0);
        } else {
            // The outer headers must not be on what the others get: this copy comes back here by
            // itself, with a mark.
            set_mark(frame, REINJECTED | slot);
            let _ = frame.clone_redirect(nic, u64::from(BPF_F_INGRESS));
            set_mark(frame, 0);
        }
    }
    guest.bridged
}

/// Puts a copy that came back into its guest's tunnel.
#[inline(always)]
fn wrap_flooded(frame: &TcContext, slot: u32) -> i32 {
    let Some(guest) = guest(slot) else { return TC_ACT_SHOT };
    let tunnel = &guest.tunnel;
    if tunnel.ready == 0 {
        return TC_ACT_SHOT;
    }
    set_mark(frame, 0);
    let inner = frame.len();
    let done = if tunnel.family == FAMILY_IPV6 {
        wrap::<{ OUTER_IPV6 as usize }>(frame, tunnel, inner)
    } else {
        wrap::<{ OUTER_IPV4 as usize }>(frame, tunnel, inner)
    };
    if !done {
        return TC_ACT_SHOT;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect(guest.link, 0) as i32 }
}

/// Puts outer headers of `N` bytes in front of a socket buffer.
#[inline(always)]
fn wrap<const N: usize>(frame: &TcContext, tunnel: &Tunnel, inner: u32) -> bool {
    let mut outer = [0_u8; N];
    let Some(template) = tunnel.outer.get(..N) else { return false };
    outer.copy_from_slice(template);
    tunnel::fill(&mut outer, tunnel, inner);
    prepend(frame, &outer)
}

#[inline(always)]
fn slot_of(mac: &GuestMac) -> Option<u32> {
    // SAFETY: an aligned word, read at once; entries come and go, but values do not change.
    unsafe { MIRROR_MACS.get(mac).copied() }
}

#[inline(always)]
fn guest(slot: u32) -> Option<&'static MirrorGuest> {
    MIRROR_GUESTS.get(slot)
}

/// Adds the frame to this CPU's tally of `outcome`.
#[inline(always)]
fn tally(frame: &XdpContext, outcome: MirrorOutcome) {
    crate::tally::add(&MIRROR_OUTCOMES, outcome as u32, length(frame));
}
