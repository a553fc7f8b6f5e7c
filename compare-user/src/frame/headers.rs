//! Header offsets of one frame, found once on arrival.

use super::key::FlowKey;

/// Why a frame passes uncompared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassReason {
    /// Not IPv4 or IPv6 (LLDP, 802.3, unknown EtherType, more tags than we follow).
    NotIp,
    /// ARP.
    Arp,
    /// IPv6 neighbour discovery (router and neighbour solicitation, advertisement, redirect).
    NeighbourDiscovery,
    /// Multicast group membership: IGMP or MLD.
    GroupMembership,
}

/// How a frame contradicts itself. Handled like a frame that is not IP: primary released,
/// secondary dropped, both counted, because no receiver accepts such a frame as output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than an Ethernet header, or cut inside a VLAN tag.
    Ethernet,
    /// IPv4: version, header length or total length that cannot be, or a cut header.
    Ipv4,
    /// IPv6: version or payload length that cannot be, a cut header or extension header.
    Ipv6,
    /// TCP header cut, or a data offset that cannot be.
    Tcp,
    /// UDP header cut, or a UDP length that cannot be.
    Udp,
    /// ICMP or ICMPv6 header cut.
    Icmp,
}

/// TCP fields that the stream comparison needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFields {
    /// Sequence number of the first payload byte (or of SYN / FIN / RST).
    pub sequence: u32,
    /// Acknowledgement number; meaningless unless the ACK flag is set.
    pub acknowledgement: u32,
    /// The flags byte: FIN 0x01, SYN 0x02, RST 0x04, PSH 0x08, ACK 0x10, URG 0x20.
    pub flags: u8,
}

impl TcpFields {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push; not compared.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts; not compared.
    pub const URG: u8 = 0x20;

    /// Whether any of `flags` is set.
    #[inline]
    #[must_use]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// How the frame is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A TCP segment that is not a fragment: stream comparison.
    Tcp(TcpFields),
    /// Anything else in IP: datagram comparison of `content` without `hole`.
    Datagram,
    /// Passes uncompared.
    Pass(PassReason),
    /// Contradicts itself.
    Malformed(Malformed),
}

/// Offsets into one frame, in bytes from its start, and its flow.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    /// How to compare; for `Pass` and `Malformed` the fields below mean nothing.
    pub class: Class,
    /// The flow.
    pub key: FlowKey,
    /// Start of the IP header.
    pub network: u16,
    /// Start of the IP payload after extension headers (the L4 header, or fragment data).
    pub transport: u16,
    /// First compared byte. TCP: the payload. UDP: the length field, four bytes into the header.
    /// ICMP, fragments and other protocols: `transport`.
    pub content: u16,
    /// Offset of a two-byte checksum inside the content that is not compared; 0 for none.
    pub hole: u16,
    /// End of the compared bytes, exclusive; from the IP length, never from the frame.
    pub end: u32,
    /// For fragments: the fragment offset in bytes shifted left by one, with more-fragments in
    /// bit 0. Zero otherwise. Compared with the content.
    pub fragment: u32,
}
