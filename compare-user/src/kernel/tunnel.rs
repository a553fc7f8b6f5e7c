//! The link as VXLAN: its ends, and the Ethernet addresses that its datagrams carry.
//!
//! An XDP program that encapsulates writes the outer Ethernet header itself. It cannot wait for
//! ARP or neighbour discovery, so user space resolves the next hop of the tunnel and hands both
//! addresses over: [`TunnelSpec::resolve`], again and again, since hosts and routers change.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use super::device::Device;
use super::error::KernelError;
use super::netlink::{self, Key, route};
use super::object;

/// The port that IANA assigned to VXLAN (RFC 7348, section 5).
pub(super) const VXLAN_PORT: u16 = 4789;

/// A VNI has 24 bits (RFC 7348, section 4).
const VNI_LIMIT: u32 = 1 << 24;

/// One pair of VXLAN tunnel ends, as `vni=42,local=10.0.0.1,remote=10.0.0.2[,port=4789]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelSpec {
    /// VXLAN network identifier, 24 bits; one per guest pair.
    pub vni: u32,
    /// Address of this host.
    pub local: IpAddr,
    /// Address of the other host, of the same family.
    pub remote: IpAddr,
    /// UDP port that both ends receive on.
    pub port: u16,
}

/// The outer Ethernet addresses of datagrams to the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// Of the device that they leave on.
    pub local_mac: [u8; 6],
    /// Of the next hop: the other host, or the router before it.
    pub remote_mac: [u8; 6],
}

impl TunnelSpec {
    /// Bytes that encapsulation adds to an Ethernet frame: outer Ethernet, IP, UDP and VXLAN
    /// headers. A link carries frames of the guest's MTU only if its own MTU is larger by this
    /// much.
    #[must_use]
    pub fn overhead(&self) -> u32 {
        let ip = if self.local.is_ipv4() { 20 } else { 40 };
        14 + ip + 8 + 8
    }

    /// The Ethernet addresses of datagrams from `local` to `remote` that leave on `device`.
    ///
    /// `None` while the next hop has not answered; it has been asked, so ask again in a while. One
    /// that has not been heard of lately counts as known, and is asked too, so that a changed
    /// address is noticed. Where the device is part of a bridge or bond, that one's routes and
    /// neighbours count. Takes CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When the device is gone or not Ethernet, `local` is no address of this host, or no route to
    /// `remote` leaves on the device.
    pub fn resolve(&self, device: &Device) -> Result<Option<Underlay>, KernelError> {
        let failed =
            |operation| move |error: io::Error| object::fault(&device.name, operation, &error);
        let link = match netlink::link(&Key::Index(device.index)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                return Err(KernelError::NoDevice { device: device.name.clone() });
            }
            link => link.map_err(failed("looking up the device"))?,
        };
        let local_mac = link.address.ok_or_else(|| {
            KernelError::failed(&device.name, "starting the tunnel", "it is not an Ethernet device")
        })?;
        let via = link.master.unwrap_or(link.index);
        let next_hop = self.next_hop(device, via)?;
        let neighbour =
            route::neighbour(via, next_hop).map_err(failed("looking up the next hop"))?;
        if neighbour.mac.is_none() || neighbour.stale {
            let asked = route::solicit(via, next_hop);
            asked.map_err(failed("asking for the tunnel's next hop"))?;
        }
        Ok(neighbour.mac.map(|remote_mac| Underlay { local_mac, remote_mac }))
    }

    fn next_hop(&self, device: &Device, via: u32) -> Result<IpAddr, KernelError> {
        let Self { local, remote, .. } = *self;
        let refused = |cause: String| {
            KernelError::failed(&device.name, "finding the way to the tunnel's other end", cause)
        };
        let is_own = route::is_own(local);
        if !is_own.map_err(|error| refused(format!("looking up {local}: {error}")))? {
            return Err(refused(format!("{local} is no address of this host: see `ip address`")));
        }
        let route = route::route(via, local, remote).map_err(|error| {
            let device = &device.name;
            refused(format!("{error}: see `ip route get {remote} from {local} oif {device}`"))
        })?;
        if !route.unicast {
            return Err(refused(format!("{remote} is no other host's")));
        }
        if route.device != via {
            let other = netlink::link(&Key::Index(route.device));
            let other = other.map_or_else(|_| "another device".to_owned(), |link| link.name);
            return Err(refused(format!(
                "the route to {remote} leaves on {other}: see `ip route get {remote} from {local}`"
            )));
        }
        Ok(route.next_hop)
    }
}

/// Why a text is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// A part that is not `NAME=VALUE`, or has another name.
    #[error("`{0}` is not vni=N, local=ADDRESS, remote=ADDRESS or port=N")]
    Unknown(String),
    /// A part that is there twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// A part that must be there.
    #[error("{0} is missing: write vni=42,local=10.0.0.1,remote=10.0.0.2")]
    Missing(&'static str),
    /// Not a VNI.
    #[error("vni `{0}` is not a number from 0 to 16777215")]
    Vni(String),
    /// Not a UDP port.
    #[error("port `{0}` is not a number from 1 to 65535")]
    Port(String),
    /// Not an address.
    #[error("{0} `{1}` is not an IPv4 or IPv6 address")]
    Address(&'static str, String),
    /// An address that no single host has.
    #[error("{0} {1} is not the address of one host")]
    NotUnicast(&'static str, IpAddr),
    /// One IPv4 and one IPv6 address.
    #[error("local {0} and remote {1} are not of the same family")]
    Families(IpAddr, IpAddr),
    /// A tunnel to itself.
    #[error("local and remote are both {0}")]
    Same(IpAddr),
}

impl FromStr for TunnelSpec {
    type Err = TunnelError;

    fn from_str(text: &str) -> Result<Self, TunnelError> {
        let (mut vni, mut local, mut remote, mut port) = (None, None, None, None);
        for part in text.split(',') {
            let unknown = || TunnelError::Unknown(part.into());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            match name {
                "vni" => once("vni", &mut vni, parse_vni(value)?)?,
                "local" => once("local", &mut local, parse_address("local", value)?)?,
                "remote" => once("remote", &mut remote, parse_address("remote", value)?)?,
                "port" => once("port", &mut port, parse_port(value)?)?,
                _ => return Err(unknown()),
            }
        }
        let vni = vni.ok_or(TunnelError::Missing("vni"))?;
        let local = local.ok_or(TunnelError::Missing("local"))?;
        let remote = remote.ok_or(TunnelError::Missing("remote"))?;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(TunnelError::Families(local, remote));
        }
        if local == remote {
            return Err(TunnelError::Same(local));
        }
        Ok(Self { vni, local, remote, port: port.unwrap_or(VXLAN_PORT) })
    }
}

fn once<T>(name: &'static str, slot: &mut Option<T>, value: T) -> Result<(), TunnelError> {
    match slot.replace(value) {
        Some(_) => Err(TunnelError::Twice(name)),
        None => Ok(()),
    }
}

fn parse_vni(text: &str) -> Result<u32, TunnelError> {
    let vni = text.parse().ok().filter(|vni| *vni < VNI_LIMIT);
    vni.ok_or_else(|| TunnelError::Vni(text.into()))
}

fn parse_port(text: &str) -> Result<u16, TunnelError> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| TunnelError::Port(text.into()))
}

fn parse_address(name: &'static str, text: &str) -> Result<IpAddr, TunnelError> {
    let address: IpAddr = text.parse().map_err(|_| TunnelError::Address(name, text.into()))?;
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(TunnelError::NotUnicast(name, address));
    }
    Ok(address)
}

impl fmt::Display for TunnelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vni, local, remote, port } = self;
        write!(f, "vni={vni},local={local},remote={remote}")?;
        if *port == VXLAN_PORT { Ok(()) } else { write!(f, ",port={port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TunnelSpec, TunnelError> {
        text.parse()
    }

    fn refusal(text: &str) -> String {
        parse(text).expect_err("refused").to_string()
    }

    #[test]
    fn a_tunnel_is_written_as_it_was_read() {
        for text in [
            "vni=42,local=10.0.0.1,remote=10.0.0.2",
            "vni=16777215,local=fd00::1,remote=fd00::2,port=8472",
            "vni=0,local=10.0.0.1,remote=192.0.2.7",
        ] {
            assert_eq!(parse(text).expect(text).to_string(), text);
        }
        let usual = parse("remote=10.0.0.2,port=4789,vni=1,local=10.0.0.1").expect("any order");
        assert_eq!(usual.to_string(), "vni=1,local=10.0.0.1,remote=10.0.0.2");
        assert_eq!(usual.port, VXLAN_PORT);
    }

    #[test]
    fn a_mistake_is_named_in_one_line() {
        for (text, said) in [
            ("", "`` is not vni=N"),
            ("vni", "`vni` is not"),
            ("vni=1,local=10.0.0.1,remote=10.0.0.2,ttl=3", "`ttl=3` is not"),
            ("local=10.0.0.1,remote=10.0.0.2", "vni is missing"),
            ("vni=1,remote=10.0.0.2", "local is missing"),
            ("vni=1,local=10.0.0.2", "remote is missing"),
            ("vni=1,vni=2,local=10.0.0.1,remote=10.0.0.2", "vni is given twice"),
            ("vni=16777216,local=10.0.0.1,remote=10.0.0.2", "vni `16777216`"),
            ("vni=-1,local=10.0.0.1,remote=10.0.0.2", "vni `-1`"),
            ("vni=1,local=10.0.0.1,remote=10.0.0.2,port=0", "port `0`"),
            ("vni=1,local=10.0.0.1,remote=10.0.0.2,port=65536", "port `65536`"),
            ("vni=1,local=host,remote=10.0.0.2", "local `host` is not an IPv4"),
            ("vni=1,local=10.0.0.1,remote=239.1.1.1", "remote 239.1.1.1 is not the address of one"),
            ("vni=1,local=::,remote=fd00::1", "local :: is not the address of one host"),
            ("vni=1,local=10.0.0.1,remote=255.255.255.255", "not the address of one host"),
            ("vni=1,local=10.0.0.1,remote=fd00::1", "not of the same family"),
            ("vni=1,local=10.0.0.1,remote=10.0.0.1", "both 10.0.0.1"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(said), "{text}: {refusal}");
            assert!(!refusal.contains('\n'));
        }
    }

    #[test]
    fn the_overhead_is_that_of_the_outer_headers() {
        let ipv4 = parse("vni=1,local=10.0.0.1,remote=10.0.0.2").expect("a tunnel");
        let ipv6 = parse("vni=1,local=fd00::1,remote=fd00::2").expect("a tunnel");
        assert_eq!((ipv4.overhead(), ipv6.overhead()), (50, 70));
    }
}
