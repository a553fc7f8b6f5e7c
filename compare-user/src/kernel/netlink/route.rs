//! Where a datagram goes next: the route to an address, and the neighbour that takes it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Attributes, Request, ask, number, short, u16_at};

// linux/rtnetlink.h, linux/neighbour.h, linux/netlink.h.
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1 << 0;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_PERMANENT: u16 = 0x80;
/// States in which the kernel itself sends to the address it has.
const NUD_VALID: u16 = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT;

/// Length of `struct rtmsg`, and of `struct ndmsg`.
const FIXED: usize = 12;

/// A route to one address.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Route {
    /// The device it leaves on.
    pub(in crate::kernel) device: u32,
    /// Who takes it there: a gateway, or the address itself.
    pub(in crate::kernel) next_hop: IpAddr,
    /// It leads to another host, not to this one or nowhere.
    pub(in crate::kernel) unicast: bool,
}

/// The route from `local` to `remote` that leaves on a device.
///
/// For IPv4 the kernel takes an address that no route of the device covers for a neighbour.
/// ENETUNREACH without a route.
pub(in crate::kernel) fn route(device: u32, local: IpAddr, remote: IpAddr) -> io::Result<Route> {
    let mut fixed = [0; FIXED];
    fixed[0] = family(remote);
    // Both prefixes are whole addresses.
    (fixed[1], fixed[2]) = (bits(remote), bits(local));
    let mut request = Request::new(RTM_GETROUTE, 0, &fixed);
    request.attribute(RTA_DST, &octets(remote));
    request.attribute(RTA_SRC, &octets(local));
    request.attribute(RTA_OIF, &device.to_ne_bytes());
    parse_route(&ask(request)?, remote)
}

/// Whether this host has an address: its route leads to the host itself.
pub(in crate::kernel) fn is_own(address: IpAddr) -> io::Result<bool> {
    let mut fixed = [0; FIXED];
    (fixed[0], fixed[1]) = (family(address), bits(address));
    let mut request = Request::new(RTM_GETROUTE, 0, &fixed);
    request.attribute(RTA_DST, &octets(address));
    match ask(request) {
        Ok(body) => Ok(body.get(7) == Some(&RTN_LOCAL)),
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Ok(false),
        Err(error) => Err(error),
    }
}

fn parse_route(body: &[u8], remote: IpAddr) -> io::Result<Route> {
    let fixed = body.get(..FIXED).ok_or_else(short)?;
    let mut route = Route { device: 0, next_hop: remote, unicast: fixed[7] == RTN_UNICAST };
    for (kind, value) in Attributes(&body[FIXED..]) {
        match kind {
            RTA_OIF => route.device = number(value),
            RTA_GATEWAY => route.next_hop = address(value).ok_or_else(short)?,
            // An IPv4 route by way of an IPv6 gateway: the family, then the address.
            RTA_VIA => {
                route.next_hop = value.get(2..).and_then(address).ok_or_else(short)?;
            }
            _ => {}
        }
    }
    Ok(route)
}

/// What is known of a neighbour.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Neighbour {
    /// Its Ethernet address, once it has answered.
    pub(in crate::kernel) mac: Option<[u8; 6]>,
    /// It has answered, but not lately.
    pub(in crate::kernel) stale: bool,
}

/// Looks a neighbour up; one that was never asked for is unknown, not an error.
pub(in crate::kernel) fn neighbour(device: u32, address: IpAddr) -> io::Result<Neighbour> {
    let mut request = Request::new(RTM_GETNEIGH, 0, &ndmsg(device, address, 0));
    request.attribute(NDA_DST, &octets(address));
    match ask(request) {
        Ok(body) => parse_neighbour(&body),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Neighbour::default()),
        Err(error) => Err(error),
    }
}

fn parse_neighbour(body: &[u8]) -> io::Result<Neighbour> {
    let fixed = body.get(..FIXED).ok_or_else(short)?;
    let state = u16_at(&fixed[8..10]);
    if state & NUD_VALID == 0 {
        return Ok(Neighbour::default());
    }
    let mut attributes = Attributes(&body[FIXED..]);
    let mac = attributes.find(|(kind, _)| *kind == NDA_LLADDR).map(|(_, mac)| mac);
    Ok(Neighbour { mac: mac.and_then(|mac| mac.try_into().ok()), stale: state == NUD_STALE })
}

/// Makes the kernel ask a neighbour for its Ethernet address, as a datagram to it would, but
/// without a datagram that its receiver has to make sense of. Takes CAP_NET_ADMIN.
pub(in crate::kernel) fn solicit(device: u32, address: IpAddr) -> io::Result<()> {
    let flags = NLM_F_CREATE | NLM_F_ACK;
    let mut request = Request::new(RTM_NEWNEIGH, flags, &ndmsg(device, address, NTF_USE));
    request.attribute(NDA_DST, &octets(address));
    ask(request).map(drop)
}

/// `struct ndmsg`: family, padding, device, state, flags, type.
fn ndmsg(device: u32, address: IpAddr, flags: u8) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    fixed[0] = family(address);
    fixed[4..8].copy_from_slice(&device.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the kernel lays it out: the fixed part, then attributes.
    fn answer(fixed: [u8; FIXED], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut request = Request::new(0, 0, &fixed);
        for (kind, value) in attributes {
            request.attribute(*kind, value);
        }
        request.finish().split_off(super::super::HEADER)
    }

    fn of_type(kind: u8) -> [u8; FIXED] {
        let mut fixed = [0; FIXED];
        fixed[7] = kind;
        fixed
    }

    fn in_state(state: u16) -> [u8; FIXED] {
        let mut fixed = [0; FIXED];
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        fixed
    }

    #[test]
    fn a_route_without_gateway_leads_to_the_address_itself() {
        let remote = IpAddr::from([10, 0, 0, 2]);
        let oif = 7_u32.to_ne_bytes();
        let on_link = parse_route(&answer(of_type(1), &[(RTA_OIF, &oif)]), remote).unwrap();
        assert_eq!(on_link, Route { device: 7, next_hop: remote, unicast: true });
        let attributes: [(u16, &[u8]); 2] = [(RTA_OIF, &oif), (RTA_GATEWAY, &[10, 0, 0, 254])];
        let routed = parse_route(&answer(of_type(1), &attributes), remote).unwrap();
        assert_eq!(routed.next_hop, IpAddr::from([10, 0, 0, 254]));
        assert!(!parse_route(&answer(of_type(RTN_LOCAL), &[]), remote).unwrap().unicast);
    }

    #[test]
    fn an_ipv4_route_may_go_by_way_of_an_ipv6_gateway() {
        let gateway = "fe80::1".parse::<Ipv6Addr>().unwrap();
        let via = [&10_u16.to_ne_bytes()[..], &gateway.octets()].concat();
        let body = answer(of_type(1), &[(RTA_VIA, &via)]);
        let route = parse_route(&body, IpAddr::from([10, 0, 0, 2])).unwrap();
        assert_eq!(route.next_hop, IpAddr::from(gateway));
    }

    #[test]
    fn a_neighbour_that_was_heard_long_ago_is_known_and_one_that_failed_is_not() {
        let mac = [2, 0, 0, 0, 0, 1];
        let known = |state| parse_neighbour(&answer(in_state(state), &[(NDA_LLADDR, &mac)]));
        assert_eq!(known(NUD_STALE).unwrap(), Neighbour { mac: Some(mac), stale: true });
        assert_eq!(known(NUD_REACHABLE).unwrap(), Neighbour { mac: Some(mac), stale: false });
        // NUD_INCOMPLETE, NUD_FAILED.
        for state in [0x01, 0x20] {
            assert_eq!(known(state).unwrap(), Neighbour::default());
        }
    }

    #[test]
    fn answers_that_end_too_early_are_errors() {
        let remote = IpAddr::from([10, 0, 0, 2]);
        assert!(parse_route(&[0; FIXED - 1], remote).is_err());
        assert!(parse_route(&answer(of_type(1), &[(RTA_GATEWAY, &[10, 0])]), remote).is_err());
        assert!(parse_route(&answer(of_type(1), &[(RTA_VIA, &[2])]), remote).is_err());
        assert!(parse_neighbour(&[0; 3]).is_err());
    }
}
