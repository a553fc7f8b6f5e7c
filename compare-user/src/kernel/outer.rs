//! The outer headers of a tunnel as the XDP programs put them on, and what they look for.

use std::net::IpAddr;

use compare_ebpf::rewrite::fold;
use compare_ebpf::{FAMILY_IPV4, FAMILY_IPV6, LONGEST_OUTER, Tunnel, VXLAN_FLAG_VNI};

use super::tunnel::{TunnelSpec, Underlay};

/// Ethernet header; a device's MTU does not count it.
pub(super) const ETHERNET: u32 = 14;

/// First port of the dynamic range, RFC 6335 section 6. RFC 7348 section 5 wants the source port
/// there.
const DYNAMIC_PORTS: u16 = 49_152;

/// Hops that a tunnel may cross.
const TTL: u8 = 64;

const UDP: u8 = 17;

/// The tunnel for the programs on a link with this MTU. Without `underlay` it takes frames in and
/// sends none.
pub(super) fn tunnel(spec: &TunnelSpec, underlay: Option<&Underlay>, mtu: u32) -> Tunnel {
    let mut tunnel = Tunnel {
        vni: (spec.vni << 8).to_be(),
        port: spec.port.to_be(),
        ready: u8::from(underlay.is_some()),
        ..Tunnel::default()
    };
    (tunnel.family, tunnel.local) = address(spec.local);
    tunnel.remote = address(spec.remote).1;
    tunnel.longest = (mtu + ETHERNET).saturating_sub(tunnel.overhead());
    if let Some(underlay) = underlay {
        (tunnel.outer, tunnel.header_sum) = headers(spec, underlay);
    }
    tunnel
}

/// An address as it stands in a header, with its family.
fn address(address: IpAddr) -> (u8, [u32; 4]) {
    match address {
        IpAddr::V4(v4) => (FAMILY_IPV4, [u32::from_ne_bytes(v4.octets()), 0, 0, 0]),
        IpAddr::V6(v6) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            (FAMILY_IPV6, words)
        }
    }
}

/// The headers with lengths and IPv4 checksum zero, and the sum of the IPv4 header.
///
/// One source port for all frames of a pair: they stay in order, and meet one receive queue. UDP
/// checksums are zero, as RFC 7348 section 5 asks, over IPv6 as RFC 6935 allows: the inner frame
/// has its own.
fn headers(spec: &TunnelSpec, underlay: &Underlay) -> ([u8; LONGEST_OUTER], u32) {
    let source_port = DYNAMIC_PORTS | (spec.vni & 0x3fff) as u16;
    let mut bytes = Vec::with_capacity(LONGEST_OUTER);
    bytes.extend_from_slice(&underlay.remote_mac);
    bytes.extend_from_slice(&underlay.local_mac);
    let mut header_sum = 0;
    match (spec.local, spec.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            bytes.extend_from_slice(&[0x08, 0x00]);
            // Version and length; service; total length; identification; don't fragment.
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, UDP, 0, 0];
            header.extend_from_slice(&local.octets());
            header.extend_from_slice(&remote.octets());
            let words = header.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
            header_sum = fold(words.map(u32::from).sum());
            bytes.extend_from_slice(&header);
        }
        (local, remote) => {
            bytes.extend_from_slice(&[0x86, 0xdd]);
            // Version; payload length; next header; hop limit.
            bytes.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, UDP, TTL]);
            for end in [local, remote] {
                if let IpAddr::V6(end) = end {
                    bytes.extend_from_slice(&end.octets());
                }
            }
        }
    }
    bytes.extend_from_slice(&source_port.to_be_bytes());
    bytes.extend_from_slice(&spec.port.to_be_bytes());
    // UDP length and checksum; VXLAN flags and what is reserved.
    bytes.extend_from_slice(&[0, 0, 0, 0, VXLAN_FLAG_VNI, 0, 0, 0]);
    bytes.extend_from_slice(&(spec.vni << 8).to_be_bytes());
    let mut outer = [0; LONGEST_OUTER];
    outer[..bytes.len()].copy_from_slice(&bytes);
    (outer, header_sum)
}

#[cfg(test)]
mod tests {
    use compare_ebpf::{OUTER_IPV4, OUTER_IPV6};
    use etherparse::SlicedPacket;

    use super::*;

    const UNDERLAY: Underlay =
        Underlay { local_mac: [2, 0, 0, 0, 0, 1], remote_mac: [2, 0, 0, 0, 0, 2] };

    fn spec(local: &str, remote: &str) -> TunnelSpec {
        format!("vni=66051,local={local},remote={remote}").parse().expect("a tunnel")
    }

    /// What a program makes of the template for an empty frame, read by another parser.
    fn completed(tunnel: &Tunnel) -> Vec<u8> {
        let mut outer = tunnel.outer[..tunnel.overhead() as usize].to_vec();
        if tunnel.family == FAMILY_IPV4 {
            let total = 36_u16.to_be();
            outer[16..18].copy_from_slice(&total.to_ne_bytes());
            let checksum = !(fold(tunnel.header_sum + u32::from(total)) as u16);
            outer[24..26].copy_from_slice(&checksum.to_ne_bytes());
            outer[38..40].copy_from_slice(&16_u16.to_be_bytes());
        } else {
            outer[18..20].copy_from_slice(&16_u16.to_be_bytes());
            outer[58..60].copy_from_slice(&16_u16.to_be_bytes());
        }
        outer
    }

    #[test]
    fn the_outer_headers_are_what_a_parser_expects() {
        for (local, remote, overhead) in
            [("10.0.0.1", "10.9.0.2", OUTER_IPV4), ("fd00::1", "fd00:9::2", OUTER_IPV6)]
        {
            let spec = spec(local, remote);
            let tunnel = tunnel(&spec, Some(&UNDERLAY), 1500);
            assert_eq!((tunnel.overhead(), tunnel.ready), (overhead, 1));
            assert_eq!(tunnel.longest, 1514 - overhead);
            let outer = completed(&tunnel);
            let parsed = SlicedPacket::from_ethernet(&outer).expect("complete headers");
            let Some(etherparse::NetSlice::Ipv4(_) | etherparse::NetSlice::Ipv6(_)) = parsed.net
            else {
                panic!("no IP in {outer:?}");
            };
            if let Some(etherparse::NetSlice::Ipv4(ip)) = &parsed.net {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert!(header.dont_fragment);
            }
            let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else {
                panic!("no UDP in {outer:?}");
            };
            assert_eq!((udp.destination_port(), udp.length(), udp.checksum()), (4789, 16, 0));
            assert!(udp.source_port() >= DYNAMIC_PORTS);
            assert_eq!(udp.payload(), [8, 0, 0, 0, 1, 2, 3, 0]);
        }
    }

    #[test]
    fn without_a_next_hop_nothing_is_sent() {
        let tunnel = tunnel(&spec("10.0.0.1", "10.0.0.2"), None, 40);
        assert_eq!((tunnel.ready, tunnel.longest), (0, 4));
    }
}
