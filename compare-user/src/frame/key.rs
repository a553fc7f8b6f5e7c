//! The flow key.

use std::borrow::Cow;
use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use compare_ebpf::ConnectionKey;
use etherparse::{IpNumber, ip_number};
use rapidhash::inner::RapidHasher;
use serde::{Serialize, Serializer};

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

impl FlowKey {
    /// The key of frames that belong to no flow.
    pub(super) const NONE: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        vlan: [NO_TAG; 3],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        family: 0,
        fragment: 0,
        reserved: [0; 3],
    };

    /// The guest's egress in a TCP connection that an XDP program has named.
    #[must_use]
    pub fn of_connection(connection: &ConnectionKey) -> Self {
        let bytes = |words: [u32; 4]| {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            bytes
        };
        let tag = |tag: u16| if tag == 0 { NO_TAG } else { u16::from_be(tag) };
        let [outer, inner] = connection.tags.map(tag);
        Self {
            source: bytes(connection.guest),
            destination: bytes(connection.remote),
            vlan: [outer, inner, NO_TAG],
            source_port: u16::from_be(connection.guest_port),
            destination_port: u16::from_be(connection.remote_port),
            protocol: ip_number::TCP.0,
            family: connection.family,
            ..Self::NONE
        }
    }

    /// The source address.
    #[must_use]
    pub fn source_address(&self) -> IpAddr {
        self.address(self.source)
    }

    /// The destination address.
    #[must_use]
    pub fn destination_address(&self) -> IpAddr {
        self.address(self.destination)
    }

    /// A hash of the whole key under `seed`.
    ///
    /// Seed it at random: the guests' peers choose addresses and ports, and must not be able to
    /// choose flows that collide. For the same reason the protected form of rapidhash is used; in
    /// the plain form an address half that equals one of its public constants cancels the seed.
    #[inline]
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        /// No final avalanche, no sponge, not compact, protected multiplication.
        type KeyHasher = RapidHasher<'static, false, false, false, true>;
        let mut hasher = KeyHasher::new(seed);
        let [a, b, c, d, tags, ports] = self.words();
        hasher.write_u128(u128::from(a) | u128::from(b) << 64);
        hasher.write_u128(u128::from(c) | u128::from(d) << 64);
        hasher.write_u128(u128::from(tags) | u128::from(ports) << 64);
        hasher.finish()
    }

    /// Whether this is the same key: `==` in words instead of field by field.
    #[inline]
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.words(), other.words());
        let differences = (ours[0] ^ theirs[0])
            | (ours[1] ^ theirs[1])
            | (ours[2] ^ theirs[2])
            | (ours[3] ^ theirs[3])
            | (ours[4] ^ theirs[4])
            | (ours[5] ^ theirs[5]);
        differences == 0
    }

    /// The whole key as it lies in memory: every byte is named, so that the compiler loads words.
    #[inline]
    fn words(&self) -> [u64; 6] {
        let (source, destination) =
            (u128::from_le_bytes(self.source), u128::from_le_bytes(self.destination));
        let [outer, middle, inner] = self.vlan.map(u64::from);
        let tags = outer | middle << 16 | inner << 32 | u64::from(self.source_port) << 48;
        let [r0, r1, r2] = self.reserved.map(u64::from);
        let ports = u64::from(self.destination_port)
            | u64::from(self.protocol) << 16
            | u64::from(self.family) << 24
            | u64::from(self.fragment) << 32
            | r0 << 40
            | r1 << 48
            | r2 << 56;
        [
            source as u64,
            (source >> 64) as u64,
            destination as u64,
            (destination >> 64) as u64,
            tags,
            ports,
        ]
    }

    /// Ports, for the protocols that have them.
    fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = matches!(IpNumber(self.protocol), ip_number::TCP | ip_number::UDP);
        (has_ports && self.fragment == 0).then_some((self.source_port, self.destination_port))
    }

    /// VLAN identifiers, outermost first.
    fn tags(&self) -> impl Iterator<Item = u16> {
        self.vlan.into_iter().take_while(|tag| *tag != NO_TAG)
    }

    fn address(&self, bytes: [u8; 16]) -> IpAddr {
        if self.family == 4 {
            let [a, b, c, d, ..] = bytes;
            Ipv4Addr::new(a, b, c, d).into()
        } else {
            Ipv6Addr::from(bytes).into()
        }
    }

    fn protocol_name(&self) -> Cow<'static, str> {
        match IpNumber(self.protocol) {
            ip_number::TCP => "tcp".into(),
            ip_number::UDP => "udp".into(),
            ip_number::ICMP => "icmp".into(),
            ip_number::IPV6_ICMP => "icmpv6".into(),
            ip_number::SCTP => "sctp".into(),
            ip_number::GRE => "gre".into(),
            ip_number::ENCAP_SEC => "esp".into(),
            IpNumber(number) => format!("protocol {number}").into(),
        }
    }
}

/// `10.0.0.1:80 > 10.0.0.2:4242 tcp`, `[fe80::1]:53 > [fe80::2]:4242 udp vlan 7.12`,
/// `10.0.0.1 > 10.0.0.2 udp fragment`.
impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (self.source_address(), self.destination_address());
        match self.ports() {
            Some((from, to)) => {
                let from = SocketAddr::new(source, from);
                write!(f, "{from} > {}", SocketAddr::new(destination, to))?;
            }
            None => write!(f, "{source} > {destination}")?,
        }
        write!(f, " {}", self.protocol_name())?;
        if self.fragment != 0 {
            f.write_str(" fragment")?;
        }
        for (index, tag) in self.tags().enumerate() {
            let before = if index == 0 { " vlan " } else { "." };
            write!(f, "{before}{tag}")?;
        }
        Ok(())
    }
}

/// An object with `source`, `destination`, `protocol`, `protocol_number`, `source_port` and
/// `destination_port` (absent where there are none), `vlan` (outermost first), `fragment`.
impl Serialize for FlowKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flow {
            source: IpAddr,
            destination: IpAddr,
            protocol: Cow<'static, str>,
            protocol_number: u8,
            #[serde(skip_serializing_if = "Option::is_none")]
            source_port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            destination_port: Option<u16>,
            vlan: Vec<u16>,
            fragment: bool,
        }
        Flow {
            source: self.source_address(),
            destination: self.destination_address(),
            protocol: self.protocol_name(),
            protocol_number: self.protocol,
            source_port: self.ports().map(|(from, _)| from),
            destination_port: self.ports().map(|(_, to)| to),
            vlan: self.tags().collect(),
            fragment: self.fragment != 0,
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(source: &str, destination: &str, protocol: u8) -> FlowKey {
        let bytes = |text: &str| match text.parse().expect("an address") {
            IpAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.octets());
                (4, bytes)
            }
            IpAddr::V6(address) => (6, address.octets()),
        };
        let (family, source) = bytes(source);
        let destination = bytes(destination).1;
        FlowKey { source, destination, protocol, family, ..FlowKey::NONE }
    }

    fn with_ports(key: FlowKey) -> FlowKey {
        FlowKey { source_port: 53, destination_port: 4242, ..key }
    }

    #[test]
    fn reads_as_operators_write_flows() {
        let four = key("10.0.0.1", "10.0.0.2", 6);
        let six = key("fe80::1", "2001:db8::2", 17);
        let cases = [
            (with_ports(four), "10.0.0.1:53 > 10.0.0.2:4242 tcp"),
            (with_ports(six), "[fe80::1]:53 > [2001:db8::2]:4242 udp"),
            (
                FlowKey { vlan: [7, 12, NO_TAG], ..with_ports(six) },
                "[fe80::1]:53 > [2001:db8::2]:4242 udp vlan 7.12",
            ),
            (FlowKey { fragment: 1, ..four }, "10.0.0.1 > 10.0.0.2 tcp fragment"),
            (FlowKey { protocol: 1, ..four }, "10.0.0.1 > 10.0.0.2 icmp"),
            (FlowKey { protocol: 58, ..six }, "fe80::1 > 2001:db8::2 icmpv6"),
            (FlowKey { protocol: 253, ..six }, "fe80::1 > 2001:db8::2 protocol 253"),
        ];
        for (key, expected) in cases {
            assert_eq!(key.to_string(), expected);
        }
    }

    #[test]
    fn serialises_as_an_object() {
        let key =
            FlowKey { vlan: [7, NO_TAG, NO_TAG], ..with_ports(key("fe80::1", "fe80::2", 17)) };
        let expected = serde_json::json!({
            "source": "fe80::1", "destination": "fe80::2", "protocol": "udp",
            "protocol_number": 17, "source_port": 53, "destination_port": 4242, "vlan": [7],
            "fragment": false,
        });
        assert_eq!(serde_json::to_value(key).expect("serialises"), expected);
    }

    #[test]
    fn serialises_without_ports_where_there_are_none() {
        let value = serde_json::to_value(key("10.0.0.1", "10.0.0.2", 1)).expect("serialises");
        assert_eq!(value.get("source_port"), None);
        assert_eq!(value.get("vlan"), Some(&serde_json::json!([])));
    }

    #[test]
    fn every_field_changes_the_hash() {
        let base = with_ports(key("10.0.0.1", "10.0.0.2", 6));
        let flip = |at: usize| {
            let mut bytes = base.source;
            bytes[at] ^= 1;
            bytes
        };
        let mut keys: Vec<_> = (0..16).map(|at| FlowKey { source: flip(at), ..base }).collect();
        keys.extend((0..16).map(|at| FlowKey { destination: flip(at), ..base }));
        keys.extend([
            base,
            FlowKey { vlan: [1, NO_TAG, NO_TAG], ..base },
            FlowKey { vlan: [NO_TAG, 1, NO_TAG], ..base },
            FlowKey { vlan: [NO_TAG, NO_TAG, 1], ..base },
            FlowKey { source_port: 54, ..base },
            FlowKey { destination_port: 4243, ..base },
            FlowKey { protocol: 17, ..base },
            FlowKey { family: 6, ..base },
            FlowKey { fragment: 1, ..base },
        ]);
        let hashes: HashSet<_> = keys.iter().map(|key| key.hash(1)).collect();
        assert_eq!(hashes.len(), keys.len());
        assert_ne!(base.hash(1), base.hash(2));
    }

    #[test]
    fn no_address_cancels_the_seed() {
        // An address half equal to the public constant that rapidhash mixes in would, in its
        // plain form, multiply everything that came before by zero.
        const RAPID_SECRET_0: u64 = 0x2d35_8dcc_aa6c_78a5;
        let mut key = key("fe80::1", "fe80::2", 17);
        key.destination[8..].copy_from_slice(&RAPID_SECRET_0.to_ne_bytes());
        assert_ne!(key.hash(1), key.hash(2));
    }

    #[test]
    fn consecutive_flows_spread_over_the_buckets_of_a_table() {
        let base = with_ports(key("10.0.0.1", "10.0.0.2", 6));
        let buckets: HashSet<_> = (0..4096)
            .map(|port| FlowKey { destination_port: port, ..base }.hash(7) & 0xfff)
            .collect();
        // Random placement fills 1 - 1/e of as many buckets as keys: 2,589.
        assert!((2_400..2_800).contains(&buckets.len()), "{}", buckets.len());
    }
}
