//! What the relay's programs and user space share: connections, switches, outcomes.

/// A device of the relay: its slot in the `RELAY_DEVICES` map, and its row of outcomes.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// The secondary guest's tap or veth.
    Guest = 0,
    /// The replication link.
    Link = 1,
    /// The NIC that the guest's frames use after failover.
    Nic = 2,
}

impl Gate {
    /// Every gate, in the order of its index.
    pub const ALL: [Self; 3] = [Self::Guest, Self::Link, Self::Nic];
}

/// The switches of a running relay: the one entry of the `RELAY_CONTROL` map, read by the programs
/// in one load of eight bytes.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayControl {
    /// Offsets learned in another epoch count for nothing: a checkpoint ends an epoch.
    pub epoch: u32,
    /// `1` after failover: the guest's frames go to the NIC, and come from there.
    pub failed_over: u8,
    /// `1` if the guest's addresses are learned from its frames.
    pub learns: u8,
    /// Gates, as bits, whose devices send frames of several buffers.
    pub pieces: u8,
    /// Explicit padding, zero.
    pub reserved: u8,
}

/// A TCP connection of the guest.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ConnectionKey {
    /// The guest's address, as in the IP header; an IPv4 address fills the first word.
    pub guest: [u32; 4],
    /// The other end's address.
    pub remote: [u32; 4],
    /// The guest's port, in network byte order.
    pub guest_port: u16,
    /// The other end's port.
    pub remote_port: u16,
    /// VLAN identifiers, outer one first, in network byte order; zero for none.
    pub tags: [u16; 2],
    /// [`FAMILY_IPV4`](crate::FAMILY_IPV4) or [`FAMILY_IPV6`](crate::FAMILY_IPV6).
    pub family: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 3],
}

/// What the secondary has offered and nobody has answered yet: its SYN or SYN-ACK.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handshake {
    /// The epoch that it belongs to.
    pub epoch: u32,
    /// The secondary's initial sequence number.
    pub initial: u32,
    /// What its SYN-ACK acknowledges: the next number that the client may send.
    pub acknowledged: u32,
    /// Its timestamp (RFC 7323), if it sent one.
    pub timestamp: u32,
    /// [`Handshake::PASSIVE`] and [`Handshake::TIMESTAMP`].
    pub flags: u32,
}

impl Handshake {
    /// A SYN-ACK: the answer's sequence number is known beforehand.
    pub const PASSIVE: u32 = 1;
    /// There is a timestamp.
    pub const TIMESTAMP: u32 = 2;
}

/// How the numbers of the secondary's connection differ from the primary's.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// The epoch that it was learned in.
    pub epoch: u32,
    /// Secondary's initial sequence number less the primary's, modulo 2^32.
    pub sequence: u32,
    /// The same of their timestamp clocks (RFC 7323).
    pub timestamp: u32,
    /// The secondary's initial sequence number.
    pub initial: u32,
    /// When a segment was last seen, in seconds of the monotonic clock.
    pub seen: u32,
    /// How the connection has been ended: the constants below.
    pub ended: u32,
}

impl Connection {
    /// The guest has sent a FIN.
    pub const GUEST_FIN: u32 = 1;
    /// The other end has.
    pub const REMOTE_FIN: u32 = 2;
    /// One of them has sent a RST.
    pub const RESET: u32 = 4;

    /// Both directions are closed, or a reset was seen: what still comes are repetitions.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        let closed = Self::GUEST_FIN | Self::REMOTE_FIN;
        self.ended & closed == closed || self.ended & Self::RESET != 0
    }
}

/// Where a frame went: with its [`Gate`] the index into the per-CPU `RELAY_OUTCOMES` map.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelayOutcome {
    /// To the guest.
    ToGuest = 0,
    /// To the link.
    ToLink = 1,
    /// To the NIC.
    ToNic = 2,
    /// Not for the guest, or not in the tunnel: passed to the host.
    Host = 3,
    /// From the link after failover: dropped, the primary is lost.
    AfterFailover = 4,
    /// Too long for the link with its outer headers, or in several buffers for a device that sends
    /// only frames in one: dropped.
    TooLong = 5,
    /// The tunnel's next hop is unknown: dropped.
    NoNextHop = 6,
    /// A header in the tunnel that is none: dropped.
    Malformed = 7,
    /// The tunnel's port, another VNI: passed to the host.
    OtherVni = 8,
    /// The tunnel's port, from another host than the primary's: passed to the host.
    ForeignPeer = 9,
    /// The device to send on is not there: dropped.
    NoDevice = 10,
}

impl RelayOutcome {
    /// Every outcome, in the order of its index.
    pub const ALL: [Self; 11] = [
        Self::ToGuest,
        Self::ToLink,
        Self::ToNic,
        Self::Host,
        Self::AfterFailover,
        Self::TooLong,
        Self::NoNextHop,
        Self::Malformed,
        Self::OtherVni,
        Self::ForeignPeer,
        Self::NoDevice,
    ];

    /// Name for reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToGuest => "to_guest",
            Self::ToLink => "to_link",
            Self::ToNic => "to_nic",
            Self::Host => "host",
            Self::AfterFailover => "after_failover",
            Self::TooLong => "too_long",
            Self::NoNextHop => "no_next_hop",
            Self::Malformed => "malformed",
            Self::OtherVni => "other_vni",
            Self::ForeignPeer => "foreign_peer",
            Self::NoDevice => "no_device",
        }
    }
}

/// What the rewriter did: the index into the per-CPU `RELAY_EVENTS` map.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelayEvent {
    /// The offset of a connection was learned.
    Learned = 0,
    /// A connection came into the map. With those taken out, and those there, this tells how many
    /// the kernel has evicted.
    Entered = 1,
    /// A connection was taken out by the programs: its ports were used again.
    Replaced = 2,
    /// A segment's numbers were changed.
    Rewritten = 3,
    /// A segment with numbers to change had a checksum that is left to a device: the numbers were
    /// changed and the checksum left alone.
    Partial = 4,
    /// A TCP header that ends too early or lies: passed on as it is.
    Unparsed = 5,
    /// More options than are looked at: those behind them are as they were.
    ManyOptions = 6,
    /// An answer to a handshake with numbers outside its window: not learned from.
    Implausible = 7,
}

impl RelayEvent {
    /// Every event, in the order of its index.
    pub const ALL: [Self; 8] = [
        Self::Learned,
        Self::Entered,
        Self::Replaced,
        Self::Rewritten,
        Self::Partial,
        Self::Unparsed,
        Self::ManyOptions,
        Self::Implausible,
    ];

    /// Name for reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Entered => "entered",
            Self::Replaced => "replaced",
            Self::Rewritten => "rewritten",
            Self::Partial => "partial_checksums",
            Self::Unparsed => "unparsed",
            Self::ManyOptions => "many_options",
            Self::Implausible => "implausible",
        }
    }
}

const _: () = assert!(size_of::<RelayControl>() == 8);
const _: () = assert!(size_of::<ConnectionKey>() == 44);
const _: () = assert!(size_of::<Handshake>() == 20);
const _: () = assert!(size_of::<Connection>() == 24);
