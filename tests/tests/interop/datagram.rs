//! UDP, ICMP and every other protocol: whole payloads are compared.

use colo_tests::packet::{Packet, padded, protocol};
use colo_tests::payload::{bytes, with_flipped_byte};

use crate::case::{
    Case, Flow, Step, apart, asks, equal, holds, pair, primary, releases, secondary,
    secondary_first,
};

/// A datagram of the flow that a case is about.
fn udp(packet: &Packet, payload: &[u8]) -> Vec<u8> {
    packet.udp(1000, 2000, payload)
}

/// The same message on both sides, with another IP header around it on the secondary.
fn carried(
    flow: &Flow,
    message: fn(&Packet) -> Vec<u8>,
    change: fn(Packet) -> Packet,
) -> Vec<Step> {
    pair(&message(&flow.v4), &message(&change(flow.v4.clone())))
}

fn datagram(packet: &Packet) -> Vec<u8> {
    udp(packet, b"the same bytes")
}

fn echo(packet: &Packet) -> Vec<u8> {
    packet.echo(1, 2, b"the same bytes")
}

fn gre(packet: &Packet) -> Vec<u8> {
    packet.carrying(protocol::GRE, b"\0\0\x08\0the same bytes")
}

/// Both sides send the same of another protocol.
fn both(packet: &Packet, number: u8) -> Vec<Step> {
    let frame = packet.carrying(number, b"the same bytes");
    pair(&frame, &frame)
}

pub(crate) fn cases() -> Vec<Case> {
    [payloads(), headers(), order(), icmp(), other_protocols()].concat()
}

fn payloads() -> Vec<Case> {
    vec![
        equal(
            "udp: identical, primary first",
            |f| pair(&datagram(&f.v4), &datagram(&f.v4)),
            releases(&[0]),
        ),
        equal(
            "udp: identical, secondary first",
            |f| secondary_first(&datagram(&f.v4)),
            releases(&[0]),
        ),
        equal("udp: no payload", |f| pair(&udp(&f.v4, b""), &udp(&f.v4, b"")), releases(&[0])),
        equal(
            "udp: 1472 bytes",
            |f| pair(&udp(&f.v4, &bytes(1, 1472)), &udp(&f.v4, &bytes(1, 1472))),
            releases(&[0]),
        ),
        equal("udp: only the primary has sent", |f| primary([datagram(&f.v4)]), holds()),
        equal("udp: only the secondary has sent", |f| secondary([datagram(&f.v4)]), holds()),
        equal(
            "udp: one byte differs",
            |f| pair(&udp(&f.v4, b"yes"), &udp(&f.v4, b"yet")),
            asks(&[]),
        ),
        equal(
            "udp: the last of 1472 bytes differs",
            |f| {
                let ours = bytes(1, 1472);
                pair(&udp(&f.v4, &ours), &udp(&f.v4, &with_flipped_byte(&ours, 1471)))
            },
            asks(&[]),
        ),
        equal(
            "udp: the secondary's is shorter",
            |f| pair(&udp(&f.v4, &bytes(1, 100)), &udp(&f.v4, &bytes(1, 99))),
            asks(&[]),
        ),
        equal(
            "udp: the secondary's is longer",
            |f| pair(&udp(&f.v4, &bytes(1, 100)), &udp(&f.v4, &bytes(1, 101))),
            asks(&[]),
        ),
        equal(
            "udp: a different datagram does not stop another flow",
            |f| {
                let other = f.v4.udp(1001, 2000, b"same");
                [pair(&udp(&f.v4, b"yes"), &udp(&f.v4, b"yet")), pair(&other, &other)].concat()
            },
            asks(&[1]),
        ),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        equal("udp: TTL differs", |f| carried(f, datagram, |p| p.hops(1)), releases(&[0])),
        equal("udp: TOS differs", |f| carried(f, datagram, |p| p.traffic_class(8)), releases(&[0])),
        equal(
            "udp: IP identification differs",
            |f| carried(f, datagram, |p| p.identification(99)),
            releases(&[0]),
        ),
        equal("udp: DF differs", |f| carried(f, datagram, Packet::dont_fragment), releases(&[0])),
        equal(
            "udp: Ethernet addresses differ",
            |f| {
                let ours = datagram(&f.v4);
                pair(&ours, &with_flipped_byte(&with_flipped_byte(&ours, 0), 6))
            },
            releases(&[0]),
        ),
        apart(
            "udp: IP options on one side only",
            |f| carried(f, datagram, |p| p.options(&[1, 1, 1, 0])),
            asks(&[]),
            releases(&[0]),
            "IP options are not output",
        ),
        apart(
            "udp: no checksum on the secondary",
            |f| {
                let mut theirs = datagram(&f.v4);
                theirs[14 + 20 + 6..14 + 20 + 8].fill(0);
                pair(&datagram(&f.v4), &theirs)
            },
            asks(&[]),
            releases(&[0]),
            "checksums are not output",
        ),
        equal(
            "udp: both sides padded",
            |f| pair(&padded(udp(&f.v4, b"x"), 60), &padded(udp(&f.v4, b"x"), 60)),
            releases(&[0]),
        ),
        apart(
            "udp: padded on the secondary only",
            |f| pair(&udp(&f.v4, b"x"), &padded(udp(&f.v4, b"x"), 60)),
            asks(&[]),
            releases(&[0]),
            "lengths come from the IP header: padding is not payload",
        ),
        apart(
            "udp: padding with other bytes",
            |f| {
                let ours = padded(udp(&f.v4, b"x"), 60);
                pair(&ours, &with_flipped_byte(&ours, 59))
            },
            asks(&[]),
            releases(&[0]),
            "lengths come from the IP header: padding is not payload",
        ),
        equal(
            "udp: another source port",
            |f| pair(&datagram(&f.v4), &f.v4.udp(1001, 2000, b"the same bytes")),
            holds(),
        ),
        equal(
            "udp: another destination port",
            |f| pair(&datagram(&f.v4), &f.v4.udp(1000, 2001, b"the same bytes")),
            holds(),
        ),
        equal(
            "udp: another protocol with the same bytes",
            |f| {
                let inner = f.v4.udp_datagram(1000, 2000, b"the same bytes");
                pair(
                    &datagram(&f.v4),
                    &f.v4.carrying(protocol::TCP, &[&inner[..], &[0x50; 8]].concat()),
                )
            },
            holds(),
        ),
    ]
}

fn order() -> Vec<Case> {
    vec![
        equal(
            "udp: three pairs in turn",
            |f| {
                (0..3)
                    .flat_map(|n| pair(&udp(&f.v4, &bytes(n, 50)), &udp(&f.v4, &bytes(n, 50))))
                    .collect()
            },
            releases(&[0, 1, 2]),
        ),
        apart(
            "udp: the primary is three ahead",
            |f| [primary(three(f)), secondary(three(f))].concat(),
            asks(&[2, 1, 0]),
            releases(&[0, 1, 2]),
            "a primary that runs ahead is no divergence",
        ),
        equal(
            "udp: the secondary is three ahead",
            |f| [secondary(three(f)), primary(three(f))].concat(),
            releases(&[0, 1, 2]),
        ),
        equal(
            "udp: the secondary sends all in the opposite order, then the primary",
            |f| {
                let mut reversed = three(f);
                reversed.reverse();
                [secondary(reversed), primary(three(f))].concat()
            },
            releases(&[0, 1, 2]),
        ),
        equal(
            "udp: the same datagram twice on both sides",
            |f| {
                let frame = datagram(&f.v4);
                [pair(&frame, &frame), pair(&frame, &frame)].concat()
            },
            releases(&[0, 1]),
        ),
        apart(
            "udp: twice on the primary, once on the secondary",
            |f| {
                let frame = |number| datagram(&f.v4.clone().identification(number));
                [primary([frame(1), frame(2)]), secondary([frame(1)])].concat()
            },
            releases(&[1]),
            releases(&[0]),
            "primary frames leave in their order",
        ),
        equal(
            "udp: once on the primary, twice on the secondary",
            |f| {
                let frame = datagram(&f.v4);
                [pair(&frame, &frame), secondary([&frame])].concat()
            },
            releases(&[0]),
        ),
    ]
}

fn three(flow: &Flow) -> Vec<Vec<u8>> {
    (0..3).map(|n| udp(&flow.v4, &bytes(n, 50))).collect()
}

fn icmp() -> Vec<Case> {
    vec![
        equal(
            "icmp: identical, primary first",
            |f| pair(&echo(&f.v4), &echo(&f.v4)),
            releases(&[0]),
        ),
        equal(
            "icmp: identical, secondary first",
            |f| secondary_first(&echo(&f.v4)),
            releases(&[0]),
        ),
        equal("icmp: only the primary has sent", |f| primary([echo(&f.v4)]), holds()),
        equal(
            "icmp: payload differs",
            |f| pair(&f.v4.echo(1, 2, b"yes"), &f.v4.echo(1, 2, b"yet")),
            asks(&[]),
        ),
        equal(
            "icmp: the sequence number differs",
            |f| pair(&f.v4.echo(1, 2, b"same"), &f.v4.echo(1, 3, b"same")),
            asks(&[]),
        ),
        equal(
            "icmp: the type differs",
            |f| pair(&f.v4.icmp(0, 0, b"same"), &f.v4.icmp(8, 0, b"same")),
            asks(&[]),
        ),
        equal("icmp: TTL differs", |f| carried(f, echo, |p| p.hops(1)), releases(&[0])),
        equal("icmp: TOS differs", |f| carried(f, echo, |p| p.traffic_class(8)), releases(&[0])),
        equal(
            "icmp: IP identification differs",
            |f| carried(f, echo, |p| p.identification(99)),
            releases(&[0]),
        ),
        equal("icmp: DF differs", |f| carried(f, echo, Packet::dont_fragment), releases(&[0])),
        equal(
            "icmp: destination unreachable",
            |f| {
                let frame = f.v4.icmp(3, 3, &bytes(1, 32));
                pair(&frame, &frame)
            },
            releases(&[0]),
        ),
        equal(
            "icmp: longer on the secondary",
            |f| pair(&f.v4.echo(1, 2, &bytes(1, 56)), &f.v4.echo(1, 2, &bytes(1, 57))),
            asks(&[]),
        ),
    ]
}

fn other_protocols() -> Vec<Case> {
    vec![
        equal("gre: identical, primary first", |f| pair(&gre(&f.v4), &gre(&f.v4)), releases(&[0])),
        equal("gre: identical, secondary first", |f| secondary_first(&gre(&f.v4)), releases(&[0])),
        equal(
            "gre: payload differs",
            |f| pair(&gre(&f.v4), &f.v4.carrying(protocol::GRE, b"\0\0\x08\0the same bytez")),
            asks(&[]),
        ),
        apart(
            "gre: IP identification differs",
            |f| carried(f, gre, |p| p.identification(99)),
            asks(&[]),
            releases(&[0]),
            "one rule for all protocols: the IP header is not output",
        ),
        apart(
            "gre: TTL differs",
            |f| carried(f, gre, |p| p.hops(1)),
            asks(&[]),
            releases(&[0]),
            "one rule for all protocols: the IP header is not output",
        ),
        equal("esp: identical", |f| both(&f.v4, 50), releases(&[0])),
        equal("sctp: identical", |f| both(&f.v4, 132), releases(&[0])),
        equal("protocol 253: identical", |f| both(&f.v4, 253), releases(&[0])),
        equal(
            "protocol 253: only the primary has sent",
            |f| primary([f.v4.carrying(253, b"alone")]),
            holds(),
        ),
    ]
}
