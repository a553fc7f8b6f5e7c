//! IP fragments.

use colo_tests::packet::{Packet, protocol};
use colo_tests::payload::{bytes, with_flipped_byte};
use colo_tests::segment::Segment;

use crate::case::{Case, Step, apart, asks, equal, pair, primary, releases, secondary};

const COMPARED: &str = "a fragment is compared as a fragment, by payload and offset";

/// A datagram of 2,000 bytes in two fragments.
fn udp(packet: &Packet, payload: &[u8]) -> Vec<Vec<u8>> {
    let packet = packet.clone().identification(7);
    packet.fragments(protocol::UDP, &packet.udp_datagram(1000, 2000, payload), 1024)
}

/// A segment of 1,600 bytes in two fragments.
fn tcp(packet: &Packet, payload: &[u8]) -> Vec<Vec<u8>> {
    let packet = packet.clone().identification(7);
    let segment = Segment::new(80, 4000).sequence(1).payload(payload).bytes(&packet);
    packet.fragments(protocol::TCP, &segment, 1024)
}

/// Each fragment of the primary, then that of the secondary.
fn in_turn(ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> Vec<Step> {
    ours.iter().zip(theirs).flat_map(|(ours, theirs)| pair(ours, theirs)).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        equal(
            "fragments: of the same datagram, in turn",
            |f| in_turn(&udp(&f.v4, &bytes(1, 2000)), &udp(&f.v4, &bytes(1, 2000))),
            releases(&[0, 1]),
        ),
        equal(
            "fragments: of the same datagram, side after side",
            |f| {
                let frames = udp(&f.v4, &bytes(1, 2000));
                [primary(&frames), secondary(&frames)].concat()
            },
            releases(&[0, 1]),
        ),
        equal(
            "fragments: the second one differs",
            |f| {
                let ours = bytes(1, 2000);
                let mut theirs = udp(&f.v4, &with_flipped_byte(&ours, 1900));
                let ours = udp(&f.v4, &ours);
                // Only the payload differs, not the checksum in the first.
                theirs[0].clone_from(&ours[0]);
                in_turn(&ours, &theirs)
            },
            asks(&[0]),
        ),
        equal(
            "fragments: IP identification differs",
            |f| {
                let theirs = f.v4.clone().identification(8);
                let datagram = theirs.udp_datagram(1000, 2000, &bytes(1, 2000));
                let theirs = theirs.fragments(protocol::UDP, &datagram, 1024);
                in_turn(&udp(&f.v4, &bytes(1, 2000)), &theirs)
            },
            releases(&[0, 1]),
        ),
        equal(
            "fragments: of the same echo",
            |f| {
                let message = [&[8, 0, 0, 0, 0, 1, 0, 2][..], &bytes(1, 2000)].concat();
                let frames = f.v4.fragments(protocol::ICMP, &message, 1024);
                in_turn(&frames, &frames)
            },
            releases(&[0, 1]),
        ),
        equal(
            "fragments: of another protocol",
            |f| {
                let frames = f.v4.fragments(253, &bytes(1, 2000), 1024);
                in_turn(&frames, &frames)
            },
            releases(&[0, 1]),
        ),
        equal(
            "fragments: of the same TCP segment",
            |f| in_turn(&tcp(&f.v4, &bytes(1, 1600)), &tcp(&f.v4, &bytes(1, 1600))),
            releases(&[0, 1]),
        ),
        apart(
            "fragments: the second of a TCP segment differs where a header would be",
            |f| {
                let ours = tcp(&f.v4, &bytes(1, 1600));
                let mut theirs = ours.clone();
                theirs[1] = with_flipped_byte(&ours[1], 14 + 20 + 14);
                in_turn(&ours, &theirs)
            },
            releases(&[0, 1]),
            asks(&[0]),
            COMPARED,
        ),
        apart(
            "fragments: IPv6, the second one differs",
            |f| {
                let ours = udp(&f.v6, &bytes(1, 2000));
                let mut theirs = ours.clone();
                let last = theirs[1].len() - 1;
                theirs[1] = with_flipped_byte(&ours[1], last);
                in_turn(&ours, &theirs)
            },
            releases(&[0, 1]),
            asks(&[0]),
            COMPARED,
        ),
    ]
}
