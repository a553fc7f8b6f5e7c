//! Bypass rules as the operator writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use compare_ebpf::{Direction, FAMILY_ANY, FAMILY_IPV4, FAMILY_IPV6, Rule};

/// Protocols that have a name here; any other is given by number.
const PROTOCOLS: [(&str, u8); 5] =
    [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("igmp", 2)];

/// Flows that are not compared: `proto=udp,addr=10.0.0.0/8,port=53,side=destination`.
///
/// Every part is optional, but one of protocol, address and port must be there. Address and port
/// belong to the same end of the flow; `side` says which one, either by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BypassRule {
    /// IP protocol number.
    protocol: Option<u8>,
    /// Address and prefix length; bits behind the prefix are zero.
    network: Option<(IpAddr, u8)>,
    /// TCP or UDP port.
    port: Option<u16>,
    side: Direction,
}

/// Why a bypass rule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Neither protocol, nor address, nor port.
    #[error("a bypass rule needs proto=, addr= or port=, as in proto=udp,port=53")]
    Empty,
    /// A part that is not `name=value` with a known name.
    #[error("bypass rule: `{0}` is not proto=, addr=, port= or side=")]
    UnknownPart(String),
    /// A part twice.
    #[error("bypass rule: {0}= is given twice")]
    Repeated(&'static str),
    /// Not a protocol.
    #[error(
        "bypass rule: protocol `{0}` is not tcp, udp, icmp, icmpv6, igmp or a number from 1 to 255"
    )]
    Protocol(String),
    /// Not an address or prefix.
    #[error("bypass rule: `{0}` is not an IPv4 or IPv6 address with an optional /prefix")]
    Address(String),
    /// Not a port.
    #[error("bypass rule: port `{0}` is not a number from 1 to 65535")]
    Port(String),
    /// Not a side.
    #[error("bypass rule: side `{0}` is not source, destination or any")]
    Side(String),
    /// A port with a protocol that has none.
    #[error("bypass rule: port= goes with proto=tcp, proto=udp or no protocol")]
    PortlessProtocol,
}

impl FromStr for BypassRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (mut protocol, mut network, mut port, mut side) = (None, None, None, None);
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(RuleError::UnknownPart(part.into()));
            };
            match name.trim() {
                "proto" => set(&mut protocol, "proto", parse_protocol(value.trim())?)?,
                "addr" => set(&mut network, "addr", parse_network(value.trim())?)?,
                "port" => set(&mut port, "port", parse_port(value.trim())?)?,
                "side" => set(&mut side, "side", parse_side(value.trim())?)?,
                _ => return Err(RuleError::UnknownPart(part.into())),
            }
        }
        if protocol.is_none() && network.is_none() && port.is_none() {
            return Err(RuleError::Empty);
        }
        if port.is_some() && !matches!(protocol, None | Some(6 | 17)) {
            return Err(RuleError::PortlessProtocol);
        }
        Ok(Self { protocol, network, port, side: side.unwrap_or_default() })
    }
}

impl fmt::Display for BypassRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.map(|number| {
            let name = PROTOCOLS.iter().find(|(_, known)| *known == number);
            let value = name.map_or_else(|| number.to_string(), |(name, _)| (*name).into());
            format!("proto={value}")
        });
        let network = self.network.map(|(address, prefix)| format!("addr={address}/{prefix}"));
        let port = self.port.map(|port| format!("port={port}"));
        let side = match self.side {
            Direction::Either => None,
            Direction::Source => Some("side=source".to_owned()),
            Direction::Destination => Some("side=destination".to_owned()),
        };
        let parts: Vec<_> = [protocol, network, port, side].into_iter().flatten().collect();
        f.write_str(&parts.join(","))
    }
}

impl From<&BypassRule> for Rule {
    fn from(rule: &BypassRule) -> Self {
        let (family, address, mask) = match rule.network {
            None => (FAMILY_ANY, [0; 16], [0; 16]),
            Some((IpAddr::V4(address), prefix)) => {
                (FAMILY_IPV4, left_aligned(&address.octets()), mask_of(prefix))
            }
            Some((IpAddr::V6(address), prefix)) => (FAMILY_IPV6, address.octets(), mask_of(prefix)),
        };
        Self {
            address: words(address),
            mask: words(mask),
            port: rule.port.unwrap_or(0).to_be(),
            protocol: rule.protocol.unwrap_or(0),
            family,
            direction: rule.side as u8,
            reserved: [0; 3],
        }
    }
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), RuleError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(RuleError::Repeated(name)),
    }
}

fn parse_protocol(value: &str) -> Result<u8, RuleError> {
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == value) {
        return Ok(*number);
    }
    value
        .parse()
        .ok()
        .filter(|number| *number != 0)
        .ok_or_else(|| RuleError::Protocol(value.into()))
}

fn parse_network(value: &str) -> Result<(IpAddr, u8), RuleError> {
    let wrong = || RuleError::Address(value.into());
    let (address, prefix) = match value.split_once('/') {
        None => (value, None),
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    if prefix > bits {
        return Err(wrong());
    }
    Ok((truncate(address, prefix), prefix))
}

fn parse_port(value: &str) -> Result<u16, RuleError> {
    value.parse().ok().filter(|port| *port != 0).ok_or_else(|| RuleError::Port(value.into()))
}

fn parse_side(value: &str) -> Result<Direction, RuleError> {
    match value {
        "any" => Ok(Direction::Either),
        "source" => Ok(Direction::Source),
        "destination" => Ok(Direction::Destination),
        _ => Err(RuleError::Side(value.into())),
    }
}

/// The address with the bits behind the prefix cleared.
fn truncate(address: IpAddr, prefix: u8) -> IpAddr {
    let mask = u128::from_be_bytes(mask_of(prefix));
    match address {
        // The shift leaves the 32 bits that an IPv4 address has.
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() & (mask >> 96) as u32).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & mask).into()),
    }
}

/// A mask of `prefix` ones from the left.
fn mask_of(prefix: u8) -> [u8; 16] {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0).to_be_bytes()
}

fn left_aligned(octets: &[u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(octets);
    bytes
}

/// The words that the XDP program reads out of a header with these bytes.
fn words(bytes: [u8; 16]) -> [u32; 4] {
    std::array::from_fn(|word| {
        let at = word * 4;
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BypassRule, RuleError> {
        text.parse()
    }

    #[test]
    fn a_full_rule_survives_printing_and_reading() {
        for text in [
            "proto=udp,addr=10.0.0.0/8,port=53,side=source",
            "proto=tcp,addr=2001:db8::/32,port=443,side=destination",
            "proto=icmpv6",
            "proto=89",
            "addr=192.0.2.7/32",
            "addr=::/0",
            "port=123",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn parts_come_in_any_order_with_blanks() {
        assert_eq!(parse("port=53, proto=udp").unwrap(), parse("proto=udp,port=53").unwrap());
        assert_eq!(parse("side=any,port=53").unwrap(), parse("port=53").unwrap());
    }

    #[test]
    fn bits_behind_the_prefix_do_not_count() {
        assert_eq!(parse("addr=10.1.2.3/8").unwrap(), parse("addr=10.0.0.0/8").unwrap());
        assert_eq!(parse("addr=2001:db8::1/32").unwrap(), parse("addr=2001:db8::/32").unwrap());
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert_eq!(wrong(""), RuleError::Empty);
        assert_eq!(wrong("side=source"), RuleError::Empty);
        assert_eq!(wrong("udp"), RuleError::UnknownPart("udp".into()));
        assert_eq!(wrong("dport=53"), RuleError::UnknownPart("dport=53".into()));
        assert_eq!(wrong("port=53,port=54"), RuleError::Repeated("port"));
        assert_eq!(wrong("proto=0"), RuleError::Protocol("0".into()));
        assert_eq!(wrong("proto=tpc"), RuleError::Protocol("tpc".into()));
        assert_eq!(wrong("addr=10.0.0/8"), RuleError::Address("10.0.0/8".into()));
        assert_eq!(wrong("addr=10.0.0.0/33"), RuleError::Address("10.0.0.0/33".into()));
        assert_eq!(wrong("port=0"), RuleError::Port("0".into()));
        assert_eq!(wrong("port=65536"), RuleError::Port("65536".into()));
        assert_eq!(wrong("port=53,side=left"), RuleError::Side("left".into()));
        assert_eq!(wrong("proto=icmp,port=53"), RuleError::PortlessProtocol);
    }

    #[test]
    fn the_map_holds_what_the_header_holds() {
        let rule = Rule::from(&parse("proto=udp,addr=10.9.0.0/16,port=53,side=source").unwrap());
        assert_eq!(rule.address, [u32::from_ne_bytes([10, 9, 0, 0]), 0, 0, 0]);
        assert_eq!(rule.mask, [u32::from_ne_bytes([255, 255, 0, 0]), 0, 0, 0]);
        assert_eq!(rule.port.to_ne_bytes(), [0, 53]);
        assert_eq!((rule.protocol, rule.family), (17, FAMILY_IPV4));
        assert_eq!(rule.direction, Direction::Source as u8);

        let rule = Rule::from(&parse("addr=2001:db8::/33").unwrap());
        assert_eq!(rule.address[0], u32::from_ne_bytes([0x20, 1, 0x0d, 0xb8]));
        assert_eq!(rule.mask, [u32::MAX, u32::from_ne_bytes([0x80, 0, 0, 0]), 0, 0]);
        assert_eq!((rule.protocol, rule.port, rule.family), (0, 0, FAMILY_IPV6));
    }
}
