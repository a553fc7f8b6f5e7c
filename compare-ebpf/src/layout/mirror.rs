//! What `mirror` and user space share: whose frame goes where, and how many did.

use crate::{ConnectionKey, Tunnel};

/// Guests that can share one NIC.
pub const GUEST_SLOTS: u32 = 16;

/// Entries of the `MIRROR_MACS` map: Ethernet addresses of all guests of a NIC.
pub const MAC_SLOTS: u32 = 1024;

/// Addresses learned for one guest at most: a guest that makes up source addresses must not take
/// the room of the others.
pub const LEARNED_MACS: u32 = 32;

/// Longest frame that a DEVMAP broadcast can copy. The kernel copies frame, headroom and its own
/// structure into one page (`xdpf_clone` in net/core/xdp.c) and drops the frame for everybody when
/// they do not fit; headrooms of 512 bytes leave this much. Longer ones are copied as socket
/// buffers.
pub const LONGEST_CLONE: u32 = 3400;

/// Mark of a frame that the `flood` classifier has sent to itself, to encapsulate a copy of its
/// own; the lowest byte is the guest's slot.
pub const REINJECTED: u32 = 0xc010_5500;

/// Bytes of the `RESETS` ring: room for some hundred connections between two looks.
pub const RESETS_BYTES: u32 = 65_536;

/// A connection that the network has reset.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// When the reset was seen, in nanoseconds of the monotonic clock.
    pub at: u64,
    /// Which connection.
    pub connection: ConnectionKey,
    /// Explicit padding, zero.
    pub reserved: u32,
}

/// An Ethernet address as a map key.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestMac(pub [u8; 6]);

/// Where the frames of one guest go: an entry of the `MIRROR_GUESTS` map.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MirrorGuest {
    /// Tunnel that the copy goes through; its family is zero for a raw link.
    pub tunnel: Tunnel,
    /// Interface index of the primary's device; zero if there is none, as after failover to the
    /// secondary.
    pub primary: u32,
    /// Interface index of the link; zero while there is nobody to send copies to.
    pub link: u32,
    /// Longest frame that the link takes, before encapsulation, Ethernet header included.
    pub longest_copy: u32,
    /// Addresses learned so far.
    pub learned: u32,
    /// `1` while the slot is taken.
    pub taken: u32,
    /// `1` if the guest's device and the NIC are ports of one bridge, which would bring the guest
    /// another copy of what is flooded to the host.
    pub bridged: u32,
}

/// What became of a frame on the NIC: the index into the per-CPU `MIRROR_OUTCOMES` map.
///
/// A guest's frames are counted with its comparator, those of nobody and all flooded ones with
/// the NIC.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MirrorOutcome {
    /// To the primary and the link.
    Mirrored = 0,
    /// To the primary alone: there is no link to copy to (gone, down, failed over).
    PrimaryOnly = 1,
    /// To the link alone: the primary is lost.
    LinkOnly = 2,
    /// To the primary alone: the copy would be too long for the link.
    TooLongForLink = 3,
    /// Handed to the classifier, which copies it as a socket buffer: too long for a DEVMAP.
    Long = 4,
    /// Broadcast and multicast, handed to the classifier.
    Flooded = 5,
    /// For none of the guests: passed to the host.
    Host = 6,
    /// The guest's program is gone: dropped.
    NoGuest = 7,
    /// A copy that did not leave, the tunnel's next hop being unknown.
    NoNextHop = 8,
    /// Neither the primary nor the link is there: dropped.
    NoDevice = 9,
}

impl MirrorOutcome {
    /// Every outcome, in the order of its index.
    pub const ALL: [Self; 10] = [
        Self::Mirrored,
        Self::PrimaryOnly,
        Self::LinkOnly,
        Self::TooLongForLink,
        Self::Long,
        Self::Flooded,
        Self::Host,
        Self::NoGuest,
        Self::NoNextHop,
        Self::NoDevice,
    ];

    /// Name for reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mirrored => "mirrored",
            Self::PrimaryOnly => "primary_only",
            Self::LinkOnly => "link_only",
            Self::TooLongForLink => "too_long_for_link",
            Self::Long => "long",
            Self::Flooded => "flooded",
            Self::Host => "host",
            Self::NoGuest => "no_guest",
            Self::NoNextHop => "no_next_hop",
            Self::NoDevice => "no_device",
        }
    }
}

const _: () = assert!(size_of::<GuestMac>() == 6);
const _: () = assert!(size_of::<Reset>() == 56);
const _: () = assert!(size_of::<MirrorGuest>() == 144);
