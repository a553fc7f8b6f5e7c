//! The checkpoint is done: what is held leaves, what waits is dropped.

use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::segment::Segment;

use crate::case::{
    Case, Flow, Step, apart, asks, equal, holds, pair, primary, releases, secondary,
};

fn udp(packet: &Packet, number: u64) -> Vec<u8> {
    packet.udp(1000, 2000, &bytes(number, 50))
}

fn segments(packet: &Packet) -> Vec<Vec<u8>> {
    let segment = Segment::new(80, 4000).sequence(1).acknowledgement(500);
    segment.stream(packet, &bytes(1, 300), &[100, 100, 100])
}

fn then_checkpoint(steps: Vec<Step>) -> Vec<Step> {
    [steps, vec![Step::Checkpoint]].concat()
}

/// Three held datagrams, then the checkpoint.
fn three(flow: &Flow) -> Vec<Step> {
    then_checkpoint(primary((0..3).map(|number| udp(&flow.v4, number))))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        equal("flush: nothing is held", |_| vec![Step::Checkpoint], holds()),
        equal(
            "flush: one datagram is held",
            |f| then_checkpoint(primary([udp(&f.v4, 1)])),
            releases(&[0]),
        ),
        apart(
            "flush: three datagrams are held",
            three,
            releases(&[2, 1, 0]),
            releases(&[0, 1, 2]),
            "oldest first",
        ),
        equal(
            "flush: three segments are held",
            |f| then_checkpoint(primary(segments(&f.v4))),
            releases(&[0, 1, 2]),
        ),
        equal(
            "flush: only the secondary has sent",
            |f| then_checkpoint(secondary([udp(&f.v4, 1)])),
            holds(),
        ),
        equal(
            "flush: what the secondary sent before no longer counts",
            |f| {
                let frame = udp(&f.v4, 1);
                [then_checkpoint(secondary([&frame])), primary([&frame])].concat()
            },
            holds(),
        ),
        equal(
            "flush: a divergence is over",
            |f| {
                let next = udp(&f.v4, 3);
                [then_checkpoint(pair(&udp(&f.v4, 1), &udp(&f.v4, 2))), pair(&next, &next)].concat()
            },
            asks(&[0, 1]),
        ),
        equal(
            "flush: a TCP stream goes on after it",
            |f| {
                let frames = segments(&f.v4);
                [
                    pair(&frames[0], &frames[0]),
                    then_checkpoint(primary([&frames[1]])),
                    pair(&frames[2], &frames[2]),
                ]
                .concat()
            },
            releases(&[0, 1, 2]),
        ),
        equal(
            "flush: twice",
            |f| {
                [
                    then_checkpoint(primary([udp(&f.v4, 1)])),
                    then_checkpoint(primary([udp(&f.v4, 2)])),
                ]
                .concat()
            },
            releases(&[0, 1]),
        ),
        apart(
            "flush: the secondary's copy comes late",
            |f| {
                let (late, next) = (udp(&f.v4, 1), udp(&f.v4, 2));
                [then_checkpoint(primary([&late])), secondary([&late]), pair(&next, &next)].concat()
            },
            asks(&[0, 1]),
            releases(&[0, 1]),
            "a copy of a flushed frame is recognised",
        ),
        apart(
            "flush: the secondary's copy of a TCP segment comes late",
            |f| {
                let frames = segments(&f.v4);
                [
                    pair(&frames[0], &frames[0]),
                    then_checkpoint(primary([&frames[1]])),
                    secondary([&frames[1]]),
                    pair(&frames[2], &frames[2]),
                ]
                .concat()
            },
            asks(&[0, 1]),
            releases(&[0, 1, 2]),
            "a copy of a flushed segment is recognised",
        ),
    ]
}
