//! The replication link inside UDP: putting the outer headers on, and taking them off.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use compare_ebpf::rewrite::fold;
use compare_ebpf::{FAMILY_IPV4, FAMILY_IPV6, OUTER_IPV4, OUTER_IPV6, Tunnel, VXLAN_FLAG_VNI};

use crate::bytes::{length, load, store};
use crate::headers::{ETHERTYPE, IPV4, IPV6, UDP};

/// The tunnel that the link is, for `steer` and the relay.
#[map]
pub(crate) static TUNNEL: Array<Tunnel> = Array::with_max_entries(1, 0);

/// `1` if the link is a tunnel: frames are taken out of it, all others belong to the host. Fixed
/// when a program is loaded.
#[unsafe(no_mangle)]
pub(crate) static TUNNELLED: Global<u8> = Global::new(0);

const ETHERNET: u32 = 14;
/// Shortest frame that can be in a tunnel: an Ethernet header.
const SHORTEST: u32 = ETHERNET;

/// IPv4 header without options, UDP and VXLAN headers, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct OuterIpv4 {
    version_and_length: u8,
    _service: u8,
    total: u16,
    _identification: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
    carried: Carried,
}

/// IPv6 header, UDP and VXLAN headers.
#[repr(C)]
#[derive(Clone, Copy)]
struct OuterIpv6 {
    version: u8,
    _flow: [u8; 3],
    payload: u16,
    next: u8,
    _hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
    carried: Carried,
}

/// UDP and VXLAN headers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Carried {
    _source_port: u16,
    destination_port: u16,
    length: u16,
    _checksum: u16,
    flags: u8,
    _reserved: [u8; 3],
    vni: u32,
}

/// What a frame on the link is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It came through the tunnel; the outer headers are off.
    Inner,
    /// It has nothing to do with the tunnel.
    Host,
    /// The tunnel's port and peer, another VNI.
    OtherVni,
    /// The tunnel's port, another peer.
    ForeignPeer,
    /// The tunnel's port and peer, but no frame in it.
    Malformed,
}

/// Why a frame cannot go into the tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The link is too narrow.
    TooLong,
    /// The next hop's address is not known, or there is no room in front of the frame.
    NoNextHop,
}

/// Takes the outer headers off a frame of this tunnel; any other stays as it is.
#[inline(always)]
pub(crate) fn open(frame: &XdpContext) -> Arrival {
    // Slot 0 of an array of one always exists; the verifier wants to hear it.
    let Some(tunnel) = TUNNEL.get(0) else { return Arrival::Malformed };
    let Some(ethertype) = load::<u16>(frame, ETHERTYPE) else { return Arrival::Host };
    let (carried, from_peer, end) = if ethertype == IPV4 && tunnel.family == FAMILY_IPV4 {
        let Some(outer) = load::<OuterIpv4>(frame, ETHERNET) else { return Arrival::Host };
        // Options and fragments are left to the host: nobody sends them here who means well.
        let plain = outer.version_and_length == 0x45 && outer.fragment & 0x3fff_u16.to_be() == 0;
        if !plain || outer.protocol != UDP || outer.destination != tunnel.local[0] {
            return Arrival::Host;
        }
        let end = ETHERNET + u32::from(u16::from_be(outer.total));
        (outer.carried, outer.source == tunnel.remote[0], end)
    } else if ethertype == IPV6 && tunnel.family == FAMILY_IPV6 {
        let Some(outer) = load::<OuterIpv6>(frame, ETHERNET) else { return Arrival::Host };
        let here = outer.destination == tunnel.local;
        if outer.version >> 4 != 6 || outer.next != UDP || !here {
            return Arrival::Host;
        }
        let end = ETHERNET + 40 + u32::from(u16::from_be(outer.payload));
        (outer.carried, outer.source == tunnel.remote, end)
    } else {
        return Arrival::Host;
    };
    if carried.destination_port != tunnel.port {
        return Arrival::Host;
    }
    if !from_peer {
        return Arrival::ForeignPeer;
    }
    if carried.flags & VXLAN_FLAG_VNI == 0 {
        return Arrival::Malformed;
    }
    // The lowest byte is reserved.
    if carried.vni & 0xffff_ff00_u32.to_be() != tunnel.vni {
        return Arrival::OtherVni;
    }
    let overhead = tunnel.overhead();
    let udp = u32::from(u16::from_be(carried.length));
    // The lengths of IP and UDP agree, and the frame has what they promise.
    let consistent =
        end <= length(frame) && end == overhead - 16 + udp && end >= overhead + SHORTEST;
    if !consistent || !adjust_head(frame, overhead as i32) {
        return Arrival::Malformed;
    }
    Arrival::Inner
}

/// Puts the outer headers on.
#[inline(always)]
pub(crate) fn close(frame: &XdpContext, tunnel: &Tunnel) -> Result<(), Refusal> {
    if tunnel.ready == 0 {
        return Err(Refusal::NoNextHop);
    }
    let inner = length(frame);
    if inner > tunnel.longest {
        return Err(Refusal::TooLong);
    }
    let done = if tunnel.family == FAMILY_IPV6 {
        put::<{ OUTER_IPV6 as usize }>(frame, tunnel, inner)
    } else {
        put::<{ OUTER_IPV4 as usize }>(frame, tunnel, inner)
    };
    done.ok_or(Refusal::NoNextHop)
}

/// Room in front of the frame, and the outer headers of `N` bytes in it.
#[inline(always)]
fn put<const N: usize>(frame: &XdpContext, tunnel: &Tunnel, inner: u32) -> Option<()> {
    let mut outer = [0_u8; N];
    outer.copy_from_slice(tunnel.outer.get(..N)?);
    fill(&mut outer, tunnel, inner);
    if !adjust_head(frame, -(N as i32)) {
        return None;
    }
    store(frame, 0, &outer)
}

/// Completes outer headers of `N` bytes for a frame of `inner` bytes: lengths, and over IPv4 the
/// header checksum.
#[inline(always)]
pub(crate) fn fill<const N: usize>(outer: &mut [u8; N], tunnel: &Tunnel, inner: u32) {
    // UDP and VXLAN headers have eight bytes each.
    let carried = ((inner + 16) as u16).to_be();
    if N == OUTER_IPV6 as usize {
        place(outer, 18, carried);
        place(outer, 58, carried);
    } else {
        let total = ((inner + OUTER_IPV4 - ETHERNET) as u16).to_be();
        place(outer, 16, total);
        place(outer, 24, !(fold(tunnel.header_sum + u32::from(total)) as u16));
        place(outer, 38, carried);
    }
}

/// Writes a number that is in network byte order already.
#[inline(always)]
fn place<const N: usize>(outer: &mut [u8; N], at: usize, number: u16) {
    let [first, second] = number.to_ne_bytes();
    outer[at] = first;
    outer[at + 1] = second;
}

#[inline(always)]
fn adjust_head(frame: &XdpContext, by: i32) -> bool {
    // SAFETY: the helper takes the program's own context; nothing here keeps packet pointers.
    unsafe { bpf_xdp_adjust_head(frame.ctx, by) == 0 }
}
