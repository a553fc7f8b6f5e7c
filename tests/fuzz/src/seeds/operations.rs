//! Seeds of the comparator: short stories in the bytes of `comparator/operation.rs`.

/// Which side an operation is about.
const PRIMARY: u8 = 0;
const SECONDARY: u8 = 0x80;

/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Only the sum of the pseudo header is in the checksum field.
const OFFLOADED: u8 = 0x20;

/// Flows: one of IPv4, one of IPv6, one whose numbers wrap, one with a tag.
const V4: u8 = 0x01;
const V6: u8 = 0x11;
const WRAPPING: u8 = 0x42;
const TAGGED: u8 = 0x23;

const SAME_FROM_OTHER: u8 = 9;
const CHECKPOINT: [u8; 1] = [12];
const REARM: [u8; 1] = [14];

/// Gates, by their number.
const PAYLOAD: u8 = 0;
const ALL: u8 = 1;
const SLOWER: u8 = 2;
const OFF: u8 = 3;

fn story(gate: u8, operations: &[&[u8]]) -> Vec<u8> {
    limited([gate, 23, 63, 15, 0], operations)
}

/// Gate, and what `comparator.rs` makes limits of: queue, memory, flows, grace.
fn limited(limits: [u8; 5], operations: &[&[u8]]) -> Vec<u8> {
    [&limits[..], &operations.concat()].concat()
}

/// `from` in fours of bytes.
fn segment(side: u8, flow: u8, flags: u8, from: u8, acknowledged: u8, length: u8) -> [u8; 7] {
    [side, flow, flags, from, acknowledged, length, 0]
}

fn damaged(mut segment: [u8; 7]) -> [u8; 7] {
    segment[6] = 0xff;
    segment
}

fn datagram(side: u8, flow: u8, number: u8) -> [u8; 5] {
    [side | 5, flow, number, 9, 0]
}

fn fragment(side: u8, flow: u8, offset: u8) -> [u8; 5] {
    [side | 7, flow, offset, 2, 0]
}

fn same_from(side: u8) -> [u8; 1] {
    [side | SAME_FROM_OTHER]
}

fn milliseconds(count: u8) -> [u8; 2] {
    match count {
        0..=6 => [11, 10 * count],
        _ => [11, 0x40 | (count / 10)],
    }
}

/// Four seconds: past every limit.
const LONG: [u8; 2] = [11, 0x80 | 16];
const DAYS: [u8; 2] = [11, 0xc0 | 63];

fn failover(survivor: u8) -> [u8; 1] {
    [survivor | 13]
}

fn reset(flow: u8) -> [u8; 3] {
    [15, flow, 0]
}

fn batch(side: u8, frames: &[&[u8]]) -> Vec<u8> {
    [&[side | 10, frames.len() as u8][..], &frames.concat()].concat()
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = streams();
    seeds.extend(datagrams());
    seeds.extend(flushes());
    seeds.extend(limits());
    seeds
}

fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let (p, s) = (PRIMARY, SECONDARY);
    let data = |side, from, length| segment(side, V4, ACK, from, 0, length);
    let wrapping = |side, from, length| segment(side, WRAPPING, ACK, from, 0, length);
    let bare = |side, acknowledged| segment(side, V4, ACK, 0, acknowledged, 0);
    vec![
        (
            "equal-segments",
            story(PAYLOAD, &[&data(p, 0, 40), &same_from(s), &data(p, 10, 40), &same_from(s)]),
        ),
        ("other-boundaries", story(PAYLOAD, &[&data(p, 0, 40), &data(s, 0, 20), &data(s, 5, 20)])),
        ("secondary-first", story(PAYLOAD, &[&data(s, 0, 40), &data(p, 0, 20), &data(p, 5, 20)])),
        (
            "over-the-wrap",
            story(
                PAYLOAD,
                &[&wrapping(p, 10, 40), &same_from(s), &wrapping(p, 20, 24), &wrapping(s, 20, 24)],
            ),
        ),
        ("a-byte-differs", story(PAYLOAD, &[&data(p, 0, 40), &damaged(data(s, 0, 40)), &LONG])),
        (
            "gap-and-its-filling",
            story(
                PAYLOAD,
                &[
                    &data(p, 0, 20),
                    &data(s, 10, 20),
                    &data(p, 10, 20),
                    &data(s, 0, 20),
                    &data(s, 5, 20),
                    &data(p, 5, 20),
                ],
            ),
        ),
        (
            "retransmissions",
            story(
                PAYLOAD,
                &[&data(p, 0, 40), &same_from(s), &data(p, 0, 40), &same_from(s), &data(p, 5, 1)],
            ),
        ),
        (
            "handshake-and-end",
            story(
                PAYLOAD,
                &[
                    &segment(p, V4, SYN, 0, 0, 0),
                    &same_from(s),
                    &segment(p, V4, ACK | FIN, 0, 1, 8),
                    &same_from(s),
                ],
            ),
        ),
        (
            "one-side-ends",
            story(
                PAYLOAD,
                &[&segment(p, V6, FIN | ACK, 0, 0, 8), &segment(s, V6, ACK, 0, 0, 20), &LONG],
            ),
        ),
        (
            "new-incarnation",
            story(
                PAYLOAD,
                &[
                    &data(p, 0, 40),
                    &segment(p, V4, SYN, 50, 0, 0),
                    &segment(s, V4, SYN, 60, 0, 0),
                    &segment(p, V4, ACK, 50, 0, 9),
                ],
            ),
        ),
        (
            "reset-by-the-guest",
            story(
                PAYLOAD,
                &[&data(p, 0, 40), &segment(p, V4, RST, 10, 0, 0), &same_from(s), &data(s, 0, 40)],
            ),
        ),
        (
            "reset-by-the-client",
            story(PAYLOAD, &[&data(p, 0, 40), &data(s, 10, 9), &reset(V4), &data(s, 0, 40)]),
        ),
        (
            "acknowledgement-gated",
            story(ALL, &[&bare(p, 20), &bare(p, 30), &bare(s, 25), &bare(s, 30)]),
        ),
        (
            "slower-acknowledges",
            story(
                SLOWER,
                &[
                    &bare(p, 20),
                    &bare(s, 10),
                    &bare(s, 10),
                    &data(s, 0, 9),
                    &data(p, 0, 9),
                    &bare(s, 20),
                ],
            ),
        ),
        (
            "slower-repeats",
            story(
                SLOWER,
                &[&data(p, 0, 40), &same_from(s), &data(s, 0, 40), &data(s, 0, 40), &bare(p, 5)],
            ),
        ),
        ("gate-off", story(OFF, &[&segment(p, V4, ACK, 0, 60, 9), &segment(s, V4, ACK, 0, 0, 9)])),
        (
            "offloaded-checksum",
            story(PAYLOAD, &[&segment(p, V4, ACK | OFFLOADED, 0, 0, 9), &same_from(s)]),
        ),
        (
            "tagged-and-untagged",
            story(
                PAYLOAD,
                &[
                    &segment(p, TAGGED, ACK, 0, 0, 9),
                    &segment(s, 0x03, ACK, 0, 0, 9),
                    &same_from(s),
                ],
            ),
        ),
        (
            "batches",
            story(
                PAYLOAD,
                &[
                    &batch(p, &[&data(0, 0, 20), &data(0, 5, 20), &wrapping(0, 0, 9)]),
                    &batch(s, &[&data(0, 0, 40), &wrapping(0, 0, 9)]),
                ],
            ),
        ),
        (
            "days-between",
            story(PAYLOAD, &[&data(p, 0, 40), &DAYS, &data(s, 0, 40), &DAYS, &same_from(p)]),
        ),
    ]
}

fn datagrams() -> Vec<(&'static str, Vec<u8>)> {
    let (p, s) = (PRIMARY, SECONDARY);
    let short = [5, V4, 1, 3, 0];
    vec![
        (
            "datagrams-in-order",
            story(
                PAYLOAD,
                &[&datagram(p, V4, 1), &same_from(s), &datagram(p, V4, 2), &same_from(s)],
            ),
        ),
        (
            "datagrams-reordered",
            story(
                PAYLOAD,
                &[
                    &datagram(p, V6, 1),
                    &datagram(p, V6, 2),
                    &datagram(s, V6, 2),
                    &datagram(s, V6, 1),
                ],
            ),
        ),
        (
            "datagram-differs",
            story(
                PAYLOAD,
                &[
                    &datagram(p, V4, 1),
                    &datagram(s, V4, 2),
                    &milliseconds(1),
                    &milliseconds(6),
                    &LONG,
                ],
            ),
        ),
        (
            "datagram-differs-no-grace",
            limited([0, 23, 63, 15, 1], &[&datagram(p, V4, 1), &datagram(s, V4, 2)]),
        ),
        ("datagram-of-other-length", limited([0, 23, 63, 15, 1], &[&short, &datagram(s, V4, 1)])),
        ("datagram-late", story(PAYLOAD, &[&datagram(p, V4, 1), &LONG, &datagram(s, V4, 1)])),
        (
            "echo",
            story(
                PAYLOAD,
                &[&datagram(p, 0x81, 1), &same_from(s), &datagram(p, 0x91, 1), &same_from(s)],
            ),
        ),
        ("other-protocols", story(PAYLOAD, &[&datagram(p, 0xc1, 1), &datagram(s, 0xc1, 1)])),
        (
            "fragments",
            story(
                PAYLOAD,
                &[
                    &fragment(p, V4, 0),
                    &fragment(p, V4, 2),
                    &fragment(s, V4, 2),
                    &fragment(s, V4, 0),
                ],
            ),
        ),
        (
            "not-ip",
            story(
                PAYLOAD,
                &[
                    &[8, 16, 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6, 0, 0],
                    &same_from(s),
                    &[8, 3, 1, 2, 3],
                ],
            ),
        ),
    ]
}

fn flushes() -> Vec<(&'static str, Vec<u8>)> {
    let (p, s) = (PRIMARY, SECONDARY);
    let data = |side, from, length| segment(side, V4, ACK, from, 0, length);
    vec![
        (
            "checkpoint",
            story(
                PAYLOAD,
                &[
                    &data(p, 0, 40),
                    &data(s, 10, 9),
                    &datagram(p, V4, 1),
                    &CHECKPOINT,
                    &data(s, 0, 40),
                    &data(p, 10, 9),
                    &same_from(s),
                ],
            ),
        ),
        (
            "late-copies-after-a-checkpoint",
            story(
                PAYLOAD,
                &[
                    &datagram(p, V4, 1),
                    &CHECKPOINT,
                    &datagram(p, V4, 2),
                    &datagram(s, V4, 1),
                    &datagram(s, V4, 2),
                    &LONG,
                    &LONG,
                ],
            ),
        ),
        (
            "asked-again",
            story(
                PAYLOAD,
                &[
                    &data(p, 0, 40),
                    &damaged(data(s, 0, 40)),
                    &milliseconds(250),
                    &LONG,
                    &LONG,
                    &CHECKPOINT,
                ],
            ),
        ),
        (
            "failover-to-primary",
            story(
                PAYLOAD,
                &[&data(p, 0, 40), &data(s, 10, 9), &failover(p), &data(p, 10, 9), &same_from(s)],
            ),
        ),
        (
            "failover-to-secondary",
            story(
                PAYLOAD,
                &[&data(p, 0, 40), &data(s, 10, 9), &failover(s), &data(p, 10, 9), &same_from(s)],
            ),
        ),
        (
            "rearmed",
            story(
                PAYLOAD,
                &[
                    &data(p, 0, 40),
                    &failover(s),
                    &data(s, 0, 40),
                    &REARM,
                    &data(p, 20, 9),
                    &same_from(s),
                ],
            ),
        ),
        ("rearmed-without-failover", story(PAYLOAD, &[&data(p, 0, 40), &REARM, &data(s, 0, 40)])),
    ]
}

fn limits() -> Vec<(&'static str, Vec<u8>)> {
    let (p, s) = (PRIMARY, SECONDARY);
    let data = |side, from| segment(side, V4, ACK, from, 0, 4);
    let of_flow = |flow| datagram(p, flow, 1);
    vec![
        (
            "queue-full",
            limited(
                [0, 1, 63, 15, 0],
                &[
                    &data(p, 0),
                    &data(p, 1),
                    &data(p, 2),
                    &data(p, 3),
                    &data(s, 0),
                    &CHECKPOINT,
                    &data(p, 4),
                ],
            ),
        ),
        (
            "memory-full",
            limited(
                [0, 23, 2, 15, 0],
                &[
                    &of_flow(1),
                    &of_flow(2),
                    &of_flow(3),
                    &of_flow(4),
                    &datagram(s, 1, 1),
                    &CHECKPOINT,
                    &of_flow(5),
                ],
            ),
        ),
        (
            "flows-full",
            limited(
                [0, 23, 63, 1, 0],
                &[
                    &of_flow(1),
                    &of_flow(2),
                    &of_flow(3),
                    &datagram(s, 1, 1),
                    &of_flow(4),
                    &CHECKPOINT,
                    &of_flow(5),
                ],
            ),
        ),
        (
            "one-of-everything",
            limited(
                [0, 0, 0, 0, 1],
                &[&data(p, 0), &datagram(p, 2, 1), &data(s, 0), &datagram(p, 2, 1), &same_from(s)],
            ),
        ),
        (
            "contested-flow-evicted",
            limited(
                [0, 23, 63, 1, 0],
                &[
                    &of_flow(1),
                    &datagram(s, 1, 2),
                    &CHECKPOINT,
                    &of_flow(2),
                    &datagram(s, 2, 2),
                    &CHECKPOINT,
                    &of_flow(3),
                    &datagram(s, 3, 2),
                    &milliseconds(6),
                    &LONG,
                ],
            ),
        ),
    ]
}
