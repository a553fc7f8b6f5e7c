//! What `steer` and user space share: switches, bypass rules, outcomes.

/// Slots of the `SOCKETS` map: the highest receive queue that can have a socket, plus one.
pub const SOCKET_SLOTS: u32 = 1024;

/// Bypass rules that one bank of the `RULES` map holds.
pub const RULES_PER_BANK: u32 = 64;

/// Banks of the `RULES` map: one that the program reads, one that user space writes.
pub const RULE_BANKS: u32 = 2;

/// What `steer` does with every frame while the comparator is out of the way.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standalone {
    /// Comparing: frames go to the sockets.
    #[default]
    Off = 0,
    /// Everything leaves on the output device, uncompared, without user space.
    Forward = 1,
    /// Everything is dropped: the other side is the survivor.
    Drop = 2,
}

/// The switches of a running `steer`: the one entry of the `CONTROL` map.
///
/// The kernel copies a map value without a lock while the program may be reading it. Each field
/// is one byte and an update changes one of them, so that no frame ever sees half an update:
/// first the idle bank's length, then the bank. The program reads all four in one load.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control {
    /// A [`Standalone`].
    pub standalone: u8,
    /// The bank of rules in force.
    pub bank: u8,
    /// Rules in each bank.
    pub rules: [u8; RULE_BANKS as usize],
}

/// Which end of a flow a rule's address and port are compared with.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Source or destination.
    #[default]
    Either = 0,
    /// Source only.
    Source = 1,
    /// Destination only.
    Destination = 2,
}

/// [`Rule::family`]: the rule names no address.
pub const FAMILY_ANY: u8 = 0;
/// [`Rule::family`]: IPv4.
pub const FAMILY_IPV4: u8 = 4;
/// [`Rule::family`]: IPv6.
pub const FAMILY_IPV6: u8 = 6;

/// One bypass rule: frames that match it are not compared. A field that is zero matches
/// everything.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rule {
    /// Address, as in the IP header; an IPv4 address fills the first word.
    pub address: [u32; 4],
    /// The address's prefix as a mask, in the same byte order.
    pub mask: [u32; 4],
    /// TCP or UDP port, in network byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`FAMILY_ANY`], [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 3],
}

/// Where a frame went: the index into the per-CPU `OUTCOMES` map.
///
/// Every frame counts once among all but [`Outcome::Unparsed`], which counts beside them.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Redirected to the socket of its queue. A full or mismatched socket still loses it; the
    /// socket's own statistics say so.
    Steered = 0,
    /// The queue has no socket: dropped.
    NoSocketDropped = 1,
    /// The queue has no socket: passed to the kernel's stack.
    NoSocketPassed = 2,
    /// Matched a bypass rule: redirected to the output device.
    Bypassed = 3,
    /// Matched a bypass rule on the secondary: dropped, the primary's copy has left.
    BypassDropped = 4,
    /// Standalone: redirected to the output device.
    StandaloneForwarded = 5,
    /// Standalone: dropped.
    StandaloneDropped = 6,
    /// Meant for the output device, but none is set: dropped.
    NoOutput = 7,
    /// There were rules, and the frame is no IP or ends inside a header: no rule can match it.
    Unparsed = 8,
    /// Came on the link beside the tunnel: passed to the host.
    Host = 9,
    /// The tunnel's port and peer, another VNI: passed to the host.
    OtherVni = 10,
    /// The tunnel's port, from another host than the secondary's: passed to the host.
    ForeignPeer = 11,
    /// A header in the tunnel that is none: dropped.
    TunnelMalformed = 12,
}

impl Outcome {
    /// Every outcome, in the order of its index.
    pub const ALL: [Self; 13] = [
        Self::Steered,
        Self::NoSocketDropped,
        Self::NoSocketPassed,
        Self::Bypassed,
        Self::BypassDropped,
        Self::StandaloneForwarded,
        Self::StandaloneDropped,
        Self::NoOutput,
        Self::Unparsed,
        Self::Host,
        Self::OtherVni,
        Self::ForeignPeer,
        Self::TunnelMalformed,
    ];

    /// Name for reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::NoSocketDropped => "no_socket_dropped",
            Self::NoSocketPassed => "no_socket_passed",
            Self::Bypassed => "bypassed",
            Self::BypassDropped => "bypass_dropped",
            Self::StandaloneForwarded => "standalone_forwarded",
            Self::StandaloneDropped => "standalone_dropped",
            Self::NoOutput => "no_output",
            Self::Unparsed => "unparsed",
            Self::Host => "host",
            Self::OtherVni => "other_vni",
            Self::ForeignPeer => "foreign_peer",
            Self::TunnelMalformed => "tunnel_malformed",
        }
    }
}

const _: () = assert!(size_of::<Control>() == 4);
const _: () = assert!(size_of::<Rule>() == 40);
