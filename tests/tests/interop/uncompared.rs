//! What has no content to compare passes; IPv6 and tagged frames, which QEMU passes too, do not.

use colo_tests::packet::{Packet, arp, lldp, protocol};
use colo_tests::payload::bytes;

use crate::case::{
    Case, Step, apart, asks, equal, holds, pair, primary, releases, secondary, secondary_first,
};

const IPV6: &str = "IPv6 is compared";
const TAGGED: &str = "tagged frames are compared";

/// An 802.3 frame: a length in place of the EtherType, then an LLC header (spanning tree).
fn ieee_802_3() -> Vec<u8> {
    let mut frame = lldp();
    frame[12..14].copy_from_slice(&38_u16.to_be_bytes());
    frame.truncate(14);
    frame.extend_from_slice(&[0x42, 0x42, 0x03]);
    frame.resize(60, 0);
    frame
}

/// Two datagrams that differ.
fn different(packet: &Packet) -> Vec<Step> {
    pair(&packet.udp(1, 2, b"yes"), &packet.udp(1, 2, b"yet"))
}

/// Two datagrams that do not.
fn same(packet: &Packet) -> Vec<Step> {
    pair(&packet.udp(1, 2, b"same"), &packet.udp(1, 2, b"same"))
}

pub(crate) fn cases() -> Vec<Case> {
    [not_ip(), ipv6(), tagged()].concat()
}

fn not_ip() -> Vec<Case> {
    vec![
        equal("arp: of the primary", |_| primary([arp()]), releases(&[0])),
        equal("arp: of the secondary", |_| secondary([arp()]), holds()),
        equal("arp: of both", |_| pair(&arp(), &arp()), releases(&[0])),
        equal("lldp: of the primary", |_| primary([lldp()]), releases(&[0])),
        equal("lldp: of the secondary", |_| secondary([lldp()]), holds()),
        equal("802.3: of the primary", |_| primary([ieee_802_3()]), releases(&[0])),
        equal("802.3: of the secondary", |_| secondary([ieee_802_3()]), holds()),
        equal(
            "an unknown EtherType",
            |_| {
                let mut frame = lldp();
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                primary([frame])
            },
            releases(&[0]),
        ),
        equal("an Ethernet header and nothing else", |_| primary([&lldp()[..14]]), releases(&[0])),
        equal(
            "a frame shorter than an Ethernet header",
            |_| primary([&lldp()[..10]]),
            releases(&[0]),
        ),
        equal("a frame of one byte", |_| primary([[0]]), releases(&[0])),
        apart(
            "igmp: of the primary",
            |f| primary([f.v4.carrying(protocol::IGMP, &[0x16, 0, 9, 4, 224, 0, 0, 251])]),
            holds(),
            releases(&[0]),
            "multicast membership is no output: it leaves at once, as ARP does",
        ),
    ]
}

fn ipv6() -> Vec<Case> {
    vec![
        equal("ipv6: the same datagram", |f| same(&f.v6), releases(&[0])),
        equal(
            "ipv6: the same datagram, secondary first",
            |f| secondary_first(&f.v6.udp(1, 2, b"same")),
            releases(&[0]),
        ),
        apart("ipv6: a different datagram", |f| different(&f.v6), releases(&[0]), asks(&[]), IPV6),
        apart(
            "ipv6: only the primary has sent",
            |f| primary([f.v6.udp(1, 2, b"alone")]),
            releases(&[0]),
            holds(),
            IPV6,
        ),
        apart(
            "ipv6: a different echo",
            |f| pair(&f.v6.echo(1, 2, b"yes"), &f.v6.echo(1, 2, b"yet")),
            releases(&[0]),
            asks(&[]),
            IPV6,
        ),
        apart(
            "ipv6: a different TCP stream",
            |f| {
                let segment = colo_tests::segment::Segment::new(80, 4000).sequence(1);
                pair(
                    &segment.clone().payload(b"yes").frame(&f.v6),
                    &segment.payload(b"yet").frame(&f.v6),
                )
            },
            releases(&[0]),
            asks(&[]),
            IPV6,
        ),
        equal(
            "ipv6: neighbour solicitation of the primary",
            |f| primary([f.v6.clone().hops(255).icmp(135, 0, &bytes(1, 20))]),
            releases(&[0]),
        ),
        equal(
            "ipv6: neighbour advertisement of the secondary",
            |f| secondary([f.v6.clone().hops(255).icmp(136, 0, &bytes(1, 20))]),
            holds(),
        ),
        equal(
            "ipv6: multicast listener report of the primary",
            |f| primary([f.v6.icmp(143, 0, &bytes(1, 24))]),
            releases(&[0]),
        ),
    ]
}

fn tagged() -> Vec<Case> {
    vec![
        equal("vlan: the same datagram", |f| same(&f.v4.clone().tagged(10)), releases(&[0])),
        apart(
            "vlan: a different datagram",
            |f| different(&f.v4.clone().tagged(10)),
            releases(&[0]),
            asks(&[]),
            TAGGED,
        ),
        apart(
            "vlan: only the primary has sent",
            |f| primary([f.v4.clone().tagged(10).udp(1, 2, b"alone")]),
            releases(&[0]),
            holds(),
            TAGGED,
        ),
        apart(
            "vlan: another tag on the secondary",
            |f| {
                let frame = |tag| f.v4.clone().tagged(tag).udp(1, 2, b"same");
                pair(&frame(10), &frame(11))
            },
            releases(&[0]),
            holds(),
            TAGGED,
        ),
        equal(
            "vlan: the same datagram behind two tags",
            |f| same(&f.v4.clone().tagged(10).tagged(20)),
            releases(&[0]),
        ),
        equal(
            "vlan: a different datagram behind two tags",
            |f| different(&f.v4.clone().tagged(10).tagged(20)),
            asks(&[]),
        ),
        apart(
            "vlan: a different IPv6 datagram",
            |f| different(&f.v6.clone().tagged(10)),
            releases(&[0]),
            asks(&[]),
            TAGGED,
        ),
        apart(
            "vlan: a tag on the primary only",
            |f| pair(&f.v4.clone().tagged(10).udp(1, 2, b"same"), &f.v4.udp(1, 2, b"same")),
            releases(&[0]),
            holds(),
            TAGGED,
        ),
    ]
}
