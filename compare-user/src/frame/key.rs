//! The flow key.

/// VLAN slot of a [`FlowKey`] that holds no tag.
pub const NO_TAG: u16 = 0xffff;

/// What makes two frames belong to one flow: VLAN tags, address family, source, destination,
/// protocol and ports.
///
/// Both sides' egress has the same direction, so the key is not normalised. The layout is 48
/// bytes without padding, so that it hashes and compares as six whole words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Source address; an IPv4 address fills the first four bytes, the rest is zero.
    pub source: [u8; 16],
    /// Destination address, laid out as `source`.
    pub destination: [u8; 16],
    /// VLAN identifiers, outermost first; [`NO_TAG`] where there is none. Priority bits are not
    /// part of the key: like TOS they may differ.
    pub vlan: [u16; 3],
    /// Source port; zero where the protocol has none, and on fragments.
    pub source_port: u16,
    /// Destination port, as `source_port`.
    pub destination_port: u16,
    /// IP protocol number (IPv6: the upper-layer protocol after extension headers).
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// 1 on IP fragments, which form flows of their own; 0 otherwise.
    pub fragment: u8,
    /// Always zero; keeps the layout free of padding.
    pub reserved: [u8; 3],
}
