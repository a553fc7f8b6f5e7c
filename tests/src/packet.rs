//! Frames of the guests: Ethernet, VLAN tags, IPv4 or IPv6, and what they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpFragOffset, IpNumber,
    Ipv4Header, Ipv4Options, Ipv6Header, SingleVlanHeader, UdpHeader, VlanId,
};

/// The Ethernet address of the guest: both replicas have the same one.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xc0, 0x10, 0x00, 0x00, 0x01];
/// The Ethernet address of the client.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0xc0, 0x10, 0x00, 0x00, 0x02];

/// Address of the guest.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Address of the client.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Address of the guest.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Address of the client.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// IP protocol numbers that tests name.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation: stands for "any other protocol".
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Everything of a frame below the transport header, and the means to put one on top.
///
/// A template: each frame-making method leaves it as it is. The fields that a comparator must
/// ignore (hops, traffic class, identification, options, ...) can be set apart on each side.
#[derive(Debug, Clone)]
pub struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) tags: Vec<u16>,
    hops: u8,
    traffic_class: u8,
    flow_label: u32,
    pub(crate) identification: u16,
    dont_fragment: bool,
    options: Vec<u8>,
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
}

impl Packet {
    /// From `source` to `destination`.
    ///
    /// # Panics
    /// When the two are not of one family.
    #[must_use]
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one frame, one address family");
        Self {
            source,
            destination,
            tags: Vec::new(),
            hops: 64,
            traffic_class: 0,
            flow_label: 0,
            identification: 0,
            dont_fragment: false,
            options: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// From the guest to the client over IPv4.
    #[must_use]
    pub fn v4() -> Self {
        Self::between(GUEST_V4.into(), CLIENT_V4.into())
    }

    /// From the guest to the client over IPv6.
    #[must_use]
    pub fn v6() -> Self {
        Self::between(GUEST_V6.into(), CLIENT_V6.into())
    }

    /// From the guest to the client over both families, for tests that treat them as equals.
    #[must_use]
    pub fn families() -> [Self; 2] {
        [Self::v4(), Self::v6()]
    }

    /// The other way: source and destination of IP exchanged. The Ethernet addresses stay.
    #[must_use]
    pub fn exchanged(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }

    /// With one more VLAN tag inside those it has. The outermost of several is a service tag
    /// (0x88a8), as IEEE 802.1ad has it.
    #[must_use]
    pub fn tagged(mut self, vlan: u16) -> Self {
        self.tags.push(vlan);
        self
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// With this TOS or traffic class.
    #[must_use]
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.traffic_class = class;
        self
    }

    /// With this IPv6 flow label; IPv4 has none.
    #[must_use]
    pub fn flow_label(mut self, label: u32) -> Self {
        self.flow_label = label;
        self
    }

    /// With this IP identification, in IPv6 that of the fragment header.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// With the IPv4 don't-fragment bit.
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// With these IPv4 options: at most 40 bytes, a multiple of four.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With one more IPv6 extension header; `body` follows its two first bytes and has a length of
    /// 6 bytes plus a multiple of 8.
    #[must_use]
    pub fn extension(mut self, header: u8, body: &[u8]) -> Self {
        assert_eq!(body.len() % 8, 6, "extension headers are multiples of eight bytes");
        self.extensions.push((header, body.to_vec()));
        self
    }

    /// Whether it is IPv4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The frame whose IP payload is `payload` of protocol number `protocol`.
    ///
    /// # Panics
    /// When the payload is longer than IP allows, as every frame-making method here.
    #[must_use]
    pub fn carrying(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        self.assemble(protocol, payload, None)
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        self.carrying(protocol::UDP, &self.udp_datagram(source_port, destination_port, payload))
    }

    /// UDP header and payload, without IP: what fragments are cut from.
    #[must_use]
    pub fn udp_datagram(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(UdpHeader::LEN + payload.len()).expect("fits UDP's length");
        let header = UdpHeader { source_port, destination_port, length, checksum: 0 };
        let mut datagram = header.to_bytes().to_vec();
        datagram.extend_from_slice(payload);
        // Zero means "no checksum", its complement is the same sum (RFC 768).
        let sum = match self.checksum(protocol::UDP, &datagram) {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        datagram
    }

    /// An echo request of ICMP or ICMPv6.
    #[must_use]
    pub fn echo(&self, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 + payload.len());
        body.extend_from_slice(&identifier.to_be_bytes());
        body.extend_from_slice(&sequence.to_be_bytes());
        body.extend_from_slice(payload);
        self.icmp(if self.is_v4() { 8 } else { 128 }, 0, &body)
    }

    /// Any ICMP or ICMPv6 message; `body` is what follows type, code and checksum.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend_from_slice(body);
        let (number, sum) = if self.is_v4() {
            (protocol::ICMP, ones_complement(Sum16BitWords::new().add_slice(&message)))
        } else {
            (protocol::ICMPV6, self.checksum(protocol::ICMPV6, &message))
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.carrying(number, &message)
    }

    /// The transport checksum of `payload` over the pseudo-header (RFC 768, 9293, 8200).
    #[must_use]
    pub fn checksum(&self, protocol: u8, payload: &[u8]) -> u16 {
        ones_complement(self.pseudo_header(protocol, payload.len()).add_slice(payload))
    }

    /// What a guest that offloads checksums leaves in the field: the folded pseudo-header sum.
    #[must_use]
    pub fn partial_checksum(&self, protocol: u8, length: usize) -> u16 {
        !ones_complement(self.pseudo_header(protocol, length))
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Sum16BitWords {
        let length = u32::try_from(length).expect("IP payloads are below 4 GiB");
        let mut sum = Sum16BitWords::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                sum.add_4bytes(source.octets()).add_4bytes(destination.octets())
            }
            (source, destination) => {
                sum.add_16bytes(sixteen(source)).add_16bytes(sixteen(destination))
            }
        }
        .add_2bytes([0, protocol])
        .add_4bytes(length.to_be_bytes())
    }

    /// Ethernet header and tags, then the IP header, then the payload; `fragment` is the offset in
    /// bytes and whether more fragments follow.
    pub(crate) fn assemble(
        &self,
        protocol: u8,
        payload: &[u8],
        fragment: Option<(u16, bool)>,
    ) -> Vec<u8> {
        let mut frame = self.link_header();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    identification: self.identification,
                    dont_fragment: self.dont_fragment,
                    time_to_live: self.hops,
                    protocol: IpNumber(protocol),
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                header.options = Ipv4Options::try_from(self.options.as_slice())
                    .expect("options as their method documents");
                header.set_payload_len(payload.len()).expect("payload fits IPv4");
                if let Some((offset, more)) = fragment {
                    header.fragment_offset =
                        IpFragOffset::try_new(offset / 8).expect("offset fits IPv4");
                    header.more_fragments = more;
                }
                let mut bytes = header.to_bytes();
                bytes[1] = self.traffic_class;
                bytes[10..12].fill(0);
                let sum = ones_complement(Sum16BitWords::new().add_slice(&bytes));
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend_from_slice(&bytes);
            }
            (source, destination) => {
                let extensions = self.extension_headers(protocol, fragment);
                let mut header = Ipv6Header {
                    traffic_class: self.traffic_class,
                    flow_label: self.flow_label.try_into().expect("a flow label has 20 bits"),
                    next_header: IpNumber(self.first_header(protocol, fragment)),
                    hop_limit: self.hops,
                    source: sixteen(source),
                    destination: sixteen(destination),
                    ..Ipv6Header::default()
                };
                header
                    .set_payload_length(extensions.len() + payload.len())
                    .expect("payload fits IPv6");
                frame.extend_from_slice(&header.to_bytes());
                frame.extend_from_slice(&extensions);
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn first_header(&self, protocol: u8, fragment: Option<(u16, bool)>) -> u8 {
        let last = if fragment.is_some() { protocol::FRAGMENT } else { protocol };
        self.extensions.first().map_or(last, |(header, _)| *header)
    }

    /// The IPv6 extension headers in order, the fragment header last.
    fn extension_headers(&self, protocol: u8, fragment: Option<(u16, bool)>) -> Vec<u8> {
        let last = if fragment.is_some() { protocol::FRAGMENT } else { protocol };
        let mut bytes = Vec::new();
        for (index, (_, body)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(index + 1).map_or(last, |(header, _)| *header);
            let units = u8::try_from(body.len() / 8).expect("an extension header has 2 KiB");
            bytes.extend_from_slice(&[next, units]);
            bytes.extend_from_slice(body);
        }
        if let Some((offset, more)) = fragment {
            bytes.extend_from_slice(&[protocol, 0]);
            bytes.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
            bytes.extend_from_slice(&u32::from(self.identification).to_be_bytes());
        }
        bytes
    }

    /// Ethernet header and VLAN tags, up to where the IP header starts.
    pub(crate) fn link_header(&self) -> Vec<u8> {
        let network = if self.is_v4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let kind = |index: usize| match index {
            _ if index >= self.tags.len() => network,
            0 if self.tags.len() > 1 => EtherType::PROVIDER_BRIDGING,
            _ => EtherType::VLAN_TAGGED_FRAME,
        };
        let mut bytes = ethernet(CLIENT_MAC, kind(0).0);
        for (index, tag) in self.tags.iter().enumerate() {
            let tag = SingleVlanHeader {
                vlan_id: VlanId::try_new(*tag).expect("a VLAN identifier has 12 bits"),
                ether_type: kind(index + 1),
                ..SingleVlanHeader::default()
            };
            bytes.extend_from_slice(&tag.to_bytes());
        }
        bytes
    }
}

/// An ARP request of the guest for the client's address.
#[must_use]
pub fn arp() -> Vec<u8> {
    let request = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &GUEST_MAC,
        &GUEST_V4.octets(),
        &[0; 6],
        &CLIENT_V4.octets(),
    )
    .expect("address lengths of one kind");
    let mut frame = ethernet([0xff; 6], EtherType::ARP.0);
    frame.extend_from_slice(&request.to_bytes());
    frame
}

/// An LLDP frame of the guest: not IP at all.
#[must_use]
pub fn lldp() -> Vec<u8> {
    let mut frame = ethernet([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e], 0x88cc);
    // Chassis and port by Ethernet address, time to live, end (IEEE 802.1AB, 8.5).
    frame.extend_from_slice(&[0x02, 0x07, 0x04]);
    frame.extend_from_slice(&GUEST_MAC);
    frame.extend_from_slice(&[0x04, 0x07, 0x03]);
    frame.extend_from_slice(&GUEST_MAC);
    frame.extend_from_slice(&[0x06, 0x02, 0x00, 0x78, 0x00, 0x00]);
    frame
}

/// An Ethernet header from the guest.
pub(crate) fn ethernet(destination: [u8; 6], ether_type: u16) -> Vec<u8> {
    let header =
        Ethernet2Header { source: GUEST_MAC, destination, ether_type: EtherType(ether_type) };
    header.to_bytes().to_vec()
}

/// `frame` with zero bytes added until it has `length` bytes, as a NIC pads to 60.
#[must_use]
pub fn padded(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    if frame.len() < length {
        frame.resize(length, 0);
    }
    frame
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The checksum as it stands on the wire, in host order.
fn ones_complement(sum: Sum16BitWords) -> u16 {
    u16::from_be(sum.ones_complement())
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn frames_parse_as_what_they_claim_to_be() {
        for packet in Packet::families() {
            let frame = packet.clone().tagged(10).tagged(20).udp(1000, 53, b"question");
            let sliced = SlicedPacket::from_ethernet(&frame).expect("well formed");
            assert_eq!(sliced.vlan_ids().len(), 2);
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
            assert_eq!((udp.source_port(), udp.destination_port()), (1000, 53));
            assert_eq!(udp.payload(), b"question");
            // A valid checksum, summed with itself in place, gives zero.
            assert_eq!(packet.checksum(protocol::UDP, udp.slice()), 0);
        }
    }

    #[test]
    fn extension_headers_lead_to_the_transport_header() {
        let frame = Packet::v6()
            .extension(protocol::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])
            .extension(protocol::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0])
            .udp(1, 2, b"x");
        let sliced = SlicedPacket::from_ethernet(&frame).expect("well formed");
        assert!(matches!(sliced.transport, Some(TransportSlice::Udp(_))));
    }

    #[test]
    fn the_partial_checksum_completes_to_the_whole_one() {
        for packet in Packet::families() {
            let mut datagram = packet.udp_datagram(1, 2, b"payload");
            let whole = [datagram[6], datagram[7]];
            let partial = packet.partial_checksum(protocol::UDP, datagram.len());
            datagram[6..8].copy_from_slice(&partial.to_be_bytes());
            let completed = ones_complement(Sum16BitWords::new().add_slice(&datagram));
            assert_eq!(completed.to_be_bytes(), whole);
        }
    }

    #[test]
    fn arp_is_an_arp_request() {
        let frame = arp();
        assert_eq!(frame[12..14], [0x08, 0x06]);
        assert_eq!(frame.len(), 42);
    }
}
