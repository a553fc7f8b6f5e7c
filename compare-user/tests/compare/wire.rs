//! Frames as two guests would send them, built with etherparse.

use compare_user::frame::HeapFrame;
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep,
    TcpHeader, VlanId,
};

/// The bytes of one frame.
pub(crate) type Bytes = Vec<u8>;

/// Everything below the transport header: what is part of the flow key and what is never
/// compared.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) ipv6: bool,
    pub(crate) tags: &'static [u16],
    pub(crate) mac: [u8; 6],
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) ipv4_options: &'static [u8],
    pub(crate) flow_label: u32,
}

pub(crate) const IPV4: Network = Network {
    ipv6: false,
    tags: &[],
    mac: [2, 0, 0, 0, 0, 1],
    ttl: 64,
    tos: 0,
    identification: 1,
    dont_fragment: true,
    ipv4_options: &[],
    flow_label: 0,
};
pub(crate) const IPV6: Network = Network { ipv6: true, ..IPV4 };
pub(crate) const TAGGED: Network = Network { tags: &[7], ..IPV4 };
pub(crate) const DOUBLE_TAGGED_IPV6: Network = Network { tags: &[7, 12], ..IPV6 };

/// Every way a flow may lie in an Ethernet frame.
pub(crate) const NETWORKS: [Network; 4] = [IPV4, IPV6, TAGGED, DOUBLE_TAGGED_IPV6];

pub(crate) const SERVER_V4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const CLIENT_V4: [u8; 4] = [10, 0, 0, 9];
const SERVER_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const CLIENT_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

impl Network {
    fn ip(&self) -> IpHeaders {
        if self.ipv6 {
            let header = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).expect("twenty bits"),
                hop_limit: self.ttl,
                source: SERVER_V6,
                destination: CLIENT_V6,
                ..Ipv6Header::default()
            };
            return IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default());
        }
        let mut header = Ipv4Header::new(0, self.ttl, IpNumber::UDP, SERVER_V4, CLIENT_V4)
            .expect("an empty payload fits");
        header.dscp = etherparse::IpDscp::try_new(self.tos >> 2).expect("six bits");
        header.identification = self.identification;
        header.dont_fragment = self.dont_fragment;
        header.options = self.ipv4_options.try_into().expect("options are whole words");
        IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    }

    fn step(&self) -> PacketBuilderStep<IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.mac, [2, 0, 0, 0, 0, 9]);
        let id = |tag: u16| VlanId::try_new(tag).expect("twelve bits");
        match self.tags {
            [] => ethernet.ip(self.ip()),
            [tag] => ethernet.single_vlan(id(*tag)).ip(self.ip()),
            [outer, inner] => ethernet.double_vlan(id(*outer), id(*inner)).ip(self.ip()),
            _ => panic!("at most two tags"),
        }
    }

    /// A UDP datagram from the guest's port 53 to the client's `port`.
    pub(crate) fn udp(&self, port: u16, payload: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        self.step().udp(53, port).write(&mut frame, payload).expect("payload fits");
        frame
    }

    /// An echo reply.
    pub(crate) fn echo(&self, sequence: u16, payload: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        let written = if self.ipv6 {
            self.step().icmpv6_echo_reply(77, sequence).write(&mut frame, payload)
        } else {
            self.step().icmpv4_echo_reply(77, sequence).write(&mut frame, payload)
        };
        written.expect("payload fits");
        frame
    }

    /// A packet of a protocol that the comparator knows nothing about.
    pub(crate) fn protocol(&self, number: u8, payload: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        self.step().write(&mut frame, IpNumber(number), payload).expect("payload fits");
        frame
    }
}

/// A fragment of a UDP datagram over IPv4: `offset` in bytes.
pub(crate) fn fragment(identification: u16, offset: u16, more: bool, payload: &[u8]) -> Bytes {
    let mut frame = Network { identification, dont_fragment: false, ..IPV4 }.protocol(17, payload);
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    frame
}

/// A fragment of a UDP datagram over IPv6.
pub(crate) fn fragment_v6(identification: u32, offset: u16, more: bool, payload: &[u8]) -> Bytes {
    let word = offset | u16::from(more);
    let mut body = vec![17, 0];
    body.extend(word.to_be_bytes());
    body.extend(identification.to_be_bytes());
    body.extend(payload);
    IPV6.protocol(44, &body)
}

/// A TCP segment from the guest's port 80.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    network: Network,
    header: TcpHeader,
    payload: Bytes,
}

/// A segment without payload or flags at `sequence`.
pub(crate) fn segment(sequence: u32) -> Segment {
    Segment { network: IPV4, header: TcpHeader::new(80, 4242, sequence, 1000), payload: Vec::new() }
}

/// A segment with payload that acknowledges nothing, so that nothing but its bytes is compared.
pub(crate) fn data(sequence: u32, payload: &[u8]) -> Segment {
    segment(sequence).payload(payload)
}

impl Segment {
    pub(crate) fn on(mut self, network: &Network) -> Self {
        self.network = network.clone();
        self
    }

    /// The client's port: which flow.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.header.destination_port = port;
        self
    }

    pub(crate) fn ack(mut self, number: u32) -> Self {
        self.header.ack = true;
        self.header.acknowledgment_number = number;
        self
    }

    pub(crate) fn syn(mut self) -> Self {
        self.header.syn = true;
        self
    }

    pub(crate) fn fin(mut self) -> Self {
        self.header.fin = true;
        self
    }

    pub(crate) fn rst(mut self) -> Self {
        self.header.rst = true;
        self
    }

    pub(crate) fn psh(mut self) -> Self {
        self.header.psh = true;
        self
    }

    pub(crate) fn window(mut self, window: u16) -> Self {
        self.header.window_size = window;
        self
    }

    pub(crate) fn urgent(mut self, pointer: u16) -> Self {
        self.header.urg = true;
        self.header.urgent_pointer = pointer;
        self
    }

    /// A timestamp option, padded to whole words.
    pub(crate) fn timestamp(mut self, value: u32) -> Self {
        let mut options = vec![1, 1, 8, 10];
        options.extend(value.to_be_bytes());
        options.extend([0; 4]);
        self.header.set_options_raw(&options).expect("options fit");
        self
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(crate) fn frame(&self) -> Bytes {
        let mut frame = Vec::new();
        let step = self.network.step().tcp_header(self.header.clone());
        step.write(&mut frame, &self.payload).expect("payload fits");
        frame
    }
}

impl From<Segment> for Bytes {
    fn from(segment: Segment) -> Self {
        segment.frame()
    }
}

/// Pads a frame to the Ethernet minimum and beyond, as a driver may.
pub(crate) fn padded(mut frame: Bytes, pad: u8) -> Bytes {
    frame.extend([pad; 12]);
    frame
}

/// `length` bytes that differ at every place and from seed to seed.
pub(crate) fn pattern(seed: u8, length: usize) -> Bytes {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) ^ (at >> 8) as u8).collect()
}

/// A frame in the comparator's hands.
pub(crate) fn heap(bytes: &[u8]) -> HeapFrame {
    HeapFrame::from(bytes)
}
