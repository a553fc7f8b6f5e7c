//! TCP: the byte stream is compared, not the segments.

use colo_tests::packet::{Packet, padded};
use colo_tests::payload::{bytes, with_flipped_byte};
use colo_tests::segment::{ACK, FIN, PSH, RST, SYN, Segment};

use crate::case::{
    Case, Flow, Step, apart, asks, equal, holds, pair, primary, releases, secondary,
    secondary_first,
};

/// First sequence number of the streams.
const START: u32 = 1000;

/// A segment of the connection that a case is about.
fn segment() -> Segment {
    Segment::new(80, 4000).sequence(START).acknowledgement(500)
}

/// A segment with this payload, `offset` bytes into the stream.
fn data(packet: &Packet, offset: u32, payload: &[u8]) -> Vec<u8> {
    segment().sequence(START.wrapping_add(offset)).payload(payload).frame(packet)
}

/// Primary segments with these payload lengths, then secondary ones with those, of one stream.
fn cut(flow: &Flow, start: u32, ours: &[usize], theirs: &[usize]) -> Vec<Step> {
    let stream = bytes(1, ours.iter().sum());
    let segment = segment().sequence(start);
    let all = bytes(1, theirs.iter().sum());
    [
        primary(segment.stream(&flow.v4, &stream, ours)),
        secondary(segment.stream(&flow.v4, &all, theirs)),
    ]
    .concat()
}

/// The same payload on both sides, with another segment around it on the secondary.
fn altered(flow: &Flow, change: fn(Segment) -> Segment) -> Vec<Step> {
    let ours = segment().payload(b"the same bytes");
    pair(&ours.frame(&flow.v4), &change(ours).frame(&flow.v4))
}

/// The same segment on both sides, with another IP header around it on the secondary.
fn carried(flow: &Flow, change: fn(Packet) -> Packet) -> Vec<Step> {
    let ours = segment().payload(b"the same bytes");
    pair(&ours.frame(&flow.v4), &ours.frame(&change(flow.v4.clone())))
}

/// The same segment without payload on both sides.
fn control(flow: &Flow, flags: u8) -> Vec<Step> {
    let frame = segment().flags(flags).frame(&flow.v4);
    pair(&frame, &frame)
}

pub(crate) fn cases() -> Vec<Case> {
    [streams(), headers(), order(), acknowledgements(), connections()].concat()
}

fn streams() -> Vec<Case> {
    vec![
        equal("tcp: identical, primary first", |f| cut(f, START, &[100], &[100]), releases(&[0])),
        equal(
            "tcp: identical, secondary first",
            |f| secondary_first(&data(&f.v4, 0, b"early")),
            releases(&[0]),
        ),
        equal(
            "tcp: three segments of the primary, then three of the secondary",
            |f| cut(f, START, &[100, 200, 300], &[100, 200, 300]),
            releases(&[0, 1, 2]),
        ),
        equal(
            "tcp: three segments of the secondary, then three of the primary",
            |f| {
                let frames = segment().stream(&f.v4, &bytes(1, 600), &[100, 200, 300]);
                [secondary(&frames), primary(&frames)].concat()
            },
            releases(&[0, 1, 2]),
        ),
        equal(
            "tcp: segments of both sides in turn",
            |f| {
                let frames = segment().stream(&f.v4, &bytes(1, 600), &[100, 200, 300]);
                frames.iter().flat_map(|frame| pair(frame, frame)).collect()
            },
            releases(&[0, 1, 2]),
        ),
        equal("tcp: 1448 bytes", |f| cut(f, START, &[1448], &[1448]), releases(&[0])),
        equal("tcp: one byte", |f| cut(f, START, &[1], &[1]), releases(&[0])),
        equal(
            "tcp: 1000 against 500 + 500",
            |f| cut(f, START, &[1000], &[500, 500]),
            releases(&[0]),
        ),
        equal(
            "tcp: 1000 against 700 + 300",
            |f| cut(f, START, &[1000], &[700, 300]),
            releases(&[0]),
        ),
        equal(
            "tcp: 500 + 500 against 1000",
            |f| cut(f, START, &[500, 500], &[1000]),
            releases(&[0, 1]),
        ),
        equal(
            "tcp: 400 + 600 against 399 + 2 + 599",
            |f| cut(f, START, &[400, 600], &[399, 2, 599]),
            releases(&[0, 1]),
        ),
        equal(
            "tcp: single bytes against one segment",
            |f| cut(f, START, &[1, 1, 1], &[3]),
            releases(&[0, 1, 2]),
        ),
        equal(
            "tcp: the secondary has sent half of a segment",
            |f| cut(f, START, &[1000], &[500]),
            holds(),
        ),
        equal(
            "tcp: the secondary has sent more than the primary",
            |f| cut(f, START, &[500], &[500, 500]),
            releases(&[0]),
        ),
        equal("tcp: only the primary has sent", |f| primary([data(&f.v4, 0, b"alone")]), holds()),
        equal(
            "tcp: only the secondary has sent",
            |f| secondary([data(&f.v4, 0, b"alone")]),
            holds(),
        ),
        equal(
            "tcp: the first byte differs",
            |f| pair(&data(&f.v4, 0, b"yes"), &data(&f.v4, 0, b"les")),
            asks(&[]),
        ),
        equal(
            "tcp: the last byte differs",
            |f| pair(&data(&f.v4, 0, b"yes"), &data(&f.v4, 0, b"yet")),
            asks(&[]),
        ),
        equal(
            "tcp: the second segment differs",
            |f| {
                let stream = bytes(1, 2000);
                let other = with_flipped_byte(&stream, 1500);
                let ours = segment().stream(&f.v4, &stream, &[1000, 1000]);
                let theirs = segment().stream(&f.v4, &other, &[1000, 1000]);
                [primary(ours), secondary(theirs)].concat()
            },
            asks(&[0]),
        ),
        equal(
            "tcp: boundaries and one byte differ",
            |f| {
                let stream = bytes(1, 1000);
                let other = with_flipped_byte(&stream, 800);
                let ours = segment().stream(&f.v4, &stream, &[1000]);
                let theirs = segment().stream(&f.v4, &other, &[500, 500]);
                [primary(ours), secondary(theirs)].concat()
            },
            asks(&[]),
        ),
        equal(
            "tcp: one connection differs, another goes on",
            |f| {
                let other = Segment::new(80, 4001).sequence(7).acknowledgement(8).payload(b"same");
                let other = other.frame(&f.v4);
                [pair(&data(&f.v4, 0, b"yes"), &data(&f.v4, 0, b"yet")), pair(&other, &other)]
                    .concat()
            },
            asks(&[1]),
        ),
        equal(
            "tcp: the ports are swapped on the secondary",
            |f| {
                let theirs = Segment::new(4000, 80).sequence(START).acknowledgement(500);
                pair(&data(&f.v4, 0, b"data"), &theirs.payload(b"data").frame(&f.v4))
            },
            holds(),
        ),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        equal(
            "tcp: timestamps differ",
            |f| {
                let frame = |value| segment().timestamps(value, 9).payload(b"same").frame(&f.v4);
                pair(&frame(1), &frame(2))
            },
            releases(&[0]),
        ),
        equal(
            "tcp: options on one side only",
            |f| altered(f, |segment| segment.timestamps(1, 2)),
            releases(&[0]),
        ),
        equal(
            "tcp: a SACK block on the secondary",
            |f| altered(f, |segment| segment.options(&[1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 99])),
            releases(&[0]),
        ),
        equal("tcp: window differs", |f| altered(f, |segment| segment.window(1)), releases(&[0])),
        equal(
            "tcp: PSH differs",
            |f| altered(f, |segment| segment.flags(PSH | ACK)),
            releases(&[0]),
        ),
        equal(
            "tcp: the checksum is wrong on the secondary",
            |f| {
                let ours = data(&f.v4, 0, b"the same bytes");
                pair(&ours, &with_flipped_byte(&ours, 14 + 20 + 16))
            },
            releases(&[0]),
        ),
        equal("tcp: TTL differs", |f| carried(f, |packet| packet.hops(1)), releases(&[0])),
        equal(
            "tcp: TOS differs",
            |f| carried(f, |packet| packet.traffic_class(0x28)),
            releases(&[0]),
        ),
        equal(
            "tcp: IP identification differs",
            |f| carried(f, |packet| packet.identification(99)),
            releases(&[0]),
        ),
        equal("tcp: DF differs", |f| carried(f, Packet::dont_fragment), releases(&[0])),
        equal(
            "tcp: IP options on one side only",
            |f| carried(f, |packet| packet.options(&[1, 1, 1, 0])),
            releases(&[0]),
        ),
        equal(
            "tcp: Ethernet addresses differ",
            |f| {
                let ours = data(&f.v4, 0, b"the same bytes");
                pair(&ours, &with_flipped_byte(&with_flipped_byte(&ours, 0), 6))
            },
            releases(&[0]),
        ),
        equal(
            "tcp: a short segment is padded on the secondary",
            |f| {
                let ours = data(&f.v4, 0, b"abc");
                pair(&ours, &padded(ours.clone(), 60))
            },
            releases(&[0]),
        ),
        apart(
            "tcp: a short segment is padded on the primary",
            |f| {
                let theirs = data(&f.v4, 0, b"abc");
                pair(&padded(theirs.clone(), 60), &theirs)
            },
            holds(),
            releases(&[0]),
            "lengths come from the IP header: padding is not payload",
        ),
        apart(
            "tcp: a short segment is padded on the secondary, and more follows",
            |f| {
                let (first, next) = (data(&f.v4, 0, b"abc"), data(&f.v4, 3, b"def"));
                [pair(&first, &padded(first.clone(), 60)), pair(&next, &next)].concat()
            },
            asks(&[0]),
            releases(&[0, 1]),
            "lengths come from the IP header: padding is not payload",
        ),
    ]
}

fn order() -> Vec<Case> {
    vec![
        apart(
            "tcp: two segments of the secondary are swapped",
            |f| {
                let frames = segment().stream(&f.v4, &bytes(1, 300), &[100, 200]);
                [primary(&frames), secondary(frames.iter().rev())].concat()
            },
            asks(&[0, 1]),
            releases(&[0, 1]),
            "out of order is waited for, not a divergence",
        ),
        equal(
            "tcp: the secondary leaves a gap and fills it before the primary sends",
            |f| {
                let frames = segment().stream(&f.v4, &bytes(1, 300), &[100, 200]);
                [secondary(frames.iter().rev()), primary(&frames)].concat()
            },
            releases(&[0, 1]),
        ),
        apart(
            "tcp: both sides are out of order in the same way",
            |f| {
                let frames = segment().stream(&f.v4, &bytes(1, 300), &[100, 100, 100]);
                let order = [&frames[0], &frames[2], &frames[1]];
                [primary(order), secondary(order)].concat()
            },
            asks(&[0, 2, 1]),
            releases(&[0, 2, 1]),
            "out of order is waited for, not a divergence",
        ),
        equal(
            "tcp: sequence numbers wrap",
            |f| cut(f, u32::MAX - 150, &[100, 100, 100], &[100, 100, 100]),
            releases(&[0, 1, 2]),
        ),
        equal(
            "tcp: sequence numbers wrap inside a segment that is cut differently",
            |f| cut(f, u32::MAX - 149, &[100, 200], &[200, 100]),
            releases(&[0, 1]),
        ),
        equal(
            "tcp: the wrap is the cut",
            |f| cut(f, u32::MAX - 99, &[100, 50], &[100, 50]),
            releases(&[0, 1]),
        ),
        apart(
            "tcp: the primary retransmits what has been compared",
            |f| {
                let frame = data(&f.v4, 0, b"again");
                [pair(&frame, &frame), primary([&frame])].concat()
            },
            releases(&[0]),
            releases(&[0, 1]),
            "what has been compared is released again at once",
        ),
        equal(
            "tcp: both sides retransmit",
            |f| {
                let frame = data(&f.v4, 0, b"again");
                [pair(&frame, &frame), pair(&frame, &frame)].concat()
            },
            releases(&[0, 1]),
        ),
        equal(
            "tcp: the secondary retransmits, then both go on",
            |f| {
                let (first, next) = (data(&f.v4, 0, b"again"), data(&f.v4, 5, b"next"));
                [pair(&first, &first), secondary([&first]), pair(&next, &next)].concat()
            },
            releases(&[0, 1]),
        ),
        apart(
            "tcp: a keep-alive probe of the primary",
            |f| {
                let frame = data(&f.v4, 0, b"data");
                [pair(&frame, &frame), primary([data(&f.v4, 3, b"a")])].concat()
            },
            releases(&[0]),
            releases(&[0, 1]),
            "one old byte is a retransmission",
        ),
        apart(
            "tcp: the same payload at another place in the stream",
            |f| pair(&data(&f.v4, 0, b"same"), &data(&f.v4, 100, b"same")),
            releases(&[0]),
            holds(),
            "compared by position in the stream, not by luck",
        ),
    ]
}

fn acknowledgements() -> Vec<Case> {
    vec![
        apart(
            "tcp: a bare ACK of the primary",
            |f| primary([segment().frame(&f.v4)]),
            holds(),
            releases(&[0]),
            "a bare ACK carries no output: it leaves at once",
        ),
        equal("tcp: a bare ACK of both", |f| control(f, ACK), releases(&[0])),
        equal("tcp: a bare ACK of the secondary", |f| secondary([segment().frame(&f.v4)]), holds()),
        equal(
            "tcp: the secondary acknowledges more",
            |f| altered(f, |segment| segment.acknowledgement(900)),
            releases(&[0]),
        ),
        apart(
            "tcp: the primary acknowledges more, boundaries equal",
            |f| altered(f, |segment| segment.acknowledgement(100)),
            releases(&[0]),
            holds(),
            "the secondary might never see what the client thinks delivered",
        ),
        apart(
            "tcp: the primary acknowledges more, boundaries differ",
            |f| {
                let ours = segment().payload(&bytes(1, 100)).frame(&f.v4);
                let theirs =
                    segment().acknowledgement(100).stream(&f.v4, &bytes(1, 100), &[50, 50]);
                [primary([ours]), secondary(theirs)].concat()
            },
            asks(&[]),
            holds(),
            "waiting for an acknowledgement is no divergence",
        ),
        apart(
            "tcp: the secondary's acknowledgement follows",
            |f| {
                let behind = segment().acknowledgement(100);
                let ours = segment().payload(&bytes(1, 100)).frame(&f.v4);
                let theirs = behind.stream(&f.v4, &bytes(1, 100), &[50, 50]);
                let later = segment().sequence(START + 100).frame(&f.v4);
                [primary([ours]), secondary(theirs), secondary([later])].concat()
            },
            asks(&[0]),
            releases(&[0]),
            "waiting for an acknowledgement is no divergence, and it ends",
        ),
    ]
}

fn connections() -> Vec<Case> {
    vec![
        equal("tcp: SYN of both", |f| control(f, SYN), releases(&[0])),
        equal("tcp: SYN-ACK of both", |f| control(f, SYN | ACK), releases(&[0])),
        equal(
            "tcp: SYN-ACK with another initial sequence number",
            |f| {
                let frame = |number| segment().sequence(number).flags(SYN | ACK).frame(&f.v4);
                pair(&frame(1), &frame(77_777))
            },
            releases(&[0]),
        ),
        equal(
            "tcp: SYN of the primary only",
            |f| primary([segment().flags(SYN).frame(&f.v4)]),
            holds(),
        ),
        equal("tcp: FIN of both", |f| control(f, FIN | ACK), releases(&[0])),
        equal(
            "tcp: FIN of the primary only",
            |f| primary([segment().flags(FIN | ACK).frame(&f.v4)]),
            holds(),
        ),
        equal(
            "tcp: FIN with data",
            |f| {
                let frame = segment().flags(FIN | ACK).payload(b"the end").frame(&f.v4);
                pair(&frame, &frame)
            },
            releases(&[0]),
        ),
        equal("tcp: RST of both", |f| control(f, RST), releases(&[0])),
        apart(
            "tcp: RST of the primary only",
            |f| primary([segment().flags(RST | ACK).frame(&f.v4)]),
            holds(),
            releases(&[0]),
            "a RST waits for the data before it, and here is none",
        ),
        equal("tcp: a whole connection, side by side", conversation, releases(&[0, 1, 2, 3, 4])),
        apart(
            "tcp: a new connection with lower numbers, other data",
            |f| {
                let old = segment().sequence(5_000_000);
                let new = segment().sequence(100);
                let syn = new.clone().flags(SYN | ACK).frame(&f.v4);
                let new = new.sequence(101);
                [
                    pair(
                        &old.clone().payload(b"old").frame(&f.v4),
                        &old.payload(b"old").frame(&f.v4),
                    ),
                    pair(&syn, &syn),
                    pair(
                        &new.clone().payload(b"yes").frame(&f.v4),
                        &new.payload(b"yet").frame(&f.v4),
                    ),
                ]
                .concat()
            },
            releases(&[0, 1, 2]),
            asks(&[0, 1]),
            "a SYN starts the comparison anew: the first data is compared too",
        ),
    ]
}

/// SYN-ACK, data, acknowledgement, data, FIN: each of the primary, then of the secondary.
fn conversation(flow: &Flow) -> Vec<Step> {
    let at = |offset: u32| segment().sequence(START + offset);
    [
        segment().flags(SYN | ACK),
        at(1).payload(b"hello"),
        at(6).acknowledgement(600),
        at(6).acknowledgement(600).flags(PSH | ACK).payload(b"world"),
        at(11).acknowledgement(600).flags(FIN | ACK),
    ]
    .iter()
    .flat_map(|segment| pair(&segment.frame(&flow.v4), &segment.frame(&flow.v4)))
    .collect()
}
