//! The replication link inside UDP: VXLAN, RFC 7348.

/// Bytes of the outer headers over IPv4: Ethernet, IPv4 without options, UDP, VXLAN.
pub const OUTER_IPV4: u32 = 14 + 20 + 8 + 8;

/// Bytes of the outer headers over IPv6.
pub const OUTER_IPV6: u32 = 14 + 40 + 8 + 8;

/// Room for either.
pub const LONGEST_OUTER: usize = 72;

/// The flag that says that the header has a VNI, RFC 7348 section 5. The others are reserved,
/// sent as zero and not looked at.
pub const VXLAN_FLAG_VNI: u8 = 0x08;

/// One guest pair's tunnel, as the programs on either host use it.
///
/// `outer` comes first and aligned, so that an update from user space, which the kernel copies
/// eight bytes at a time, changes the whole destination address at once.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The outer headers of an empty frame. The programs fill in what depends on the frame: the
    /// lengths and the IPv4 header checksum.
    pub outer: [u8; LONGEST_OUTER],
    /// This host, as in the IP header; an IPv4 address fills the first word.
    pub local: [u32; 4],
    /// The other host.
    pub remote: [u32; 4],
    /// The VNI as it stands in the header: network byte order, the reserved byte zero.
    pub vni: u32,
    /// Sum of the IPv4 header's words but length and checksum, folded; in the order of the frame.
    pub header_sum: u32,
    /// Longest frame that fits into the link with its outer headers, Ethernet header included.
    pub longest: u32,
    /// UDP port, in network byte order.
    pub port: u16,
    /// [`FAMILY_IPV4`](crate::FAMILY_IPV4) or [`FAMILY_IPV6`](crate::FAMILY_IPV6).
    pub family: u8,
    /// `1` once the outer Ethernet addresses are known; until then nothing can be sent.
    pub ready: u8,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            outer: [0; LONGEST_OUTER],
            local: [0; 4],
            remote: [0; 4],
            vni: 0,
            header_sum: 0,
            longest: 0,
            port: 0,
            family: 0,
            ready: 0,
        }
    }
}

impl Tunnel {
    /// Bytes of the outer headers.
    #[inline(always)]
    #[must_use]
    pub const fn overhead(&self) -> u32 {
        if self.family == crate::FAMILY_IPV6 { OUTER_IPV6 } else { OUTER_IPV4 }
    }
}

const _: () = assert!(size_of::<Tunnel>() == 120);
