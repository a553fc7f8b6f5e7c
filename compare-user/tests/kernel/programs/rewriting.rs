//! Connections through the relay: what the secondary and the network say, and what the other one is
//! to get. The frames behind the relay are made from the numbers that they must have, with a
//! checksum of their own, not by changing those in front of it.

use std::net::IpAddr;

use colo_tests::packet::{GUEST_V4, GUEST_V6, Packet, protocol};
use colo_tests::segment::{ACK, FIN, PSH, RST, SYN, Segment};
use compare_user::kernel::ConnectionCounts;

use super::capture::{self, Named};
use super::classes::{CLIENT, INNER_TAG, OUTER_TAG, SERVER};

/// Initial sequence numbers, and clocks: all differences wrap, and none is the same in another byte
/// order.
const PRIMARY: u32 = 0xfffe_fdfc;
const SECONDARY: u32 = 0x0102_0304;
const PRIMARY_CLOCK: u32 = 0xffff_f0f1;
const SECONDARY_CLOCK: u32 = 0x0304_0506;

/// A frame on its way through the relay.
pub(super) struct Step {
    pub(super) name: String,
    /// From the link, or after failover from the NIC; else from the guest.
    pub(super) to_guest: bool,
    pub(super) frame: Vec<u8>,
    pub(super) after: Vec<u8>,
    /// What is counted for it.
    pub(super) counts: fn(&mut ConnectionCounts),
}

/// The shapes of a connection: family, tags, options and extension headers.
pub(super) fn shapes() -> Vec<(&'static str, Packet)> {
    let padding = [1, 4, 0, 0, 0, 0];
    // Options are no part of what connection it is: these have another client.
    let to = |client: &str| {
        let client: IpAddr = client.parse().unwrap();
        let guest: IpAddr = if client.is_ipv4() { GUEST_V4.into() } else { GUEST_V6.into() };
        Packet::between(guest, client)
    };
    vec![
        ("IPv4", Packet::v4()),
        ("IPv6", Packet::v6()),
        ("IPv4 behind a tag", Packet::v4().tagged(OUTER_TAG)),
        ("IPv6 behind two tags", Packet::v6().tagged(OUTER_TAG).tagged(INNER_TAG)),
        ("IPv4 behind options", to("198.51.100.7").options(&[1; 12])),
        (
            "IPv6 behind two headers",
            to("2001:db8:a::b")
                .extension(protocol::HOP_BY_HOP, &padding)
                .extension(protocol::DESTINATION_OPTIONS, &padding),
        ),
    ]
}

/// A connection's frames, read from the file.
pub(super) fn conversation(shape: &str, packet: &Packet) -> Vec<Step> {
    let prefix = format!("{shape}, ");
    let stored = capture::stored("rewriting").into_iter();
    let mut stored = stored.filter(|named| named.name.starts_with(&prefix));
    let mut steps = make(shape, packet);
    for step in &mut steps {
        for (name, frame) in
            [(step.name.clone(), &mut step.frame), (after(&step.name), &mut step.after)]
        {
            let stored = stored.next().expect("the file is of another time");
            assert_eq!(stored.name, name, "the file is of another time");
            *frame = stored.frame;
        }
    }
    steps
}

fn after(name: &str) -> String {
    format!("{name}, after")
}

#[test]
fn the_file_of_rewritten_connections_is_what_the_code_makes() {
    let mut all = Vec::new();
    for (shape, packet) in shapes() {
        for step in make(shape, &packet) {
            all.push(Named { name: step.name.clone(), frame: step.frame });
            all.push(Named { name: after(&step.name), frame: step.after });
        }
    }
    capture::assert_stored("rewriting", &all);
}

/// The frames of one connection.
struct Script {
    shape: &'static str,
    /// From the guest to the client, and the other way.
    packets: [Packet; 2],
    steps: Vec<Step>,
}

fn unchanged(_: &mut ConnectionCounts) {}

fn rewritten(counts: &mut ConnectionCounts) {
    counts.rewritten += 1;
}

impl Script {
    fn step(
        &mut self,
        name: &str,
        to_guest: bool,
        [frame, after]: [Vec<u8>; 2],
        counts: fn(&mut ConnectionCounts),
    ) {
        let name = format!("{}, {name}", self.shape);
        self.steps.push(Step { name, to_guest, frame, after, counts });
    }

    /// What the guest sends, and what is to leave.
    fn guest(&mut self, name: &str, [said, left]: [Segment; 2]) {
        let frames = [said, left].map(|segment| segment.frame(&self.packets[0]));
        let counts = if frames[0] == frames[1] { unchanged } else { rewritten };
        self.step(name, false, frames, counts);
    }

    /// What the client sends, and what is to reach the guest.
    fn client(&mut self, name: &str, [said, arrived]: [Segment; 2]) {
        let frames = [said, arrived].map(|segment| self.of_client(&segment));
        let counts = if frames[0] == frames[1] { unchanged } else { rewritten };
        self.step(name, true, frames, counts);
    }

    fn of_client(&self, segment: &Segment) -> Vec<u8> {
        let mut frame = segment.frame(&self.packets[1]);
        exchange_addresses(&mut frame);
        if frame[12..14] == [0x81, 0x00] {
            // Priority has no part in what connection it is.
            frame[14] |= 0xa0;
        }
        frame
    }
}

/// The harness's frames all have the guest's Ethernet address as their source.
fn exchange_addresses(frame: &mut [u8]) {
    let (destination, source) = frame[..12].split_at_mut(6);
    destination.swap_with_slice(source);
}

/// The primary's numbers and the secondary's, `by` after the beginning.
fn sequence(by: u32) -> [u32; 2] {
    [PRIMARY.wrapping_add(by), SECONDARY.wrapping_add(by)]
}

fn clock(by: u32) -> [u32; 2] {
    [PRIMARY_CLOCK.wrapping_add(by), SECONDARY_CLOCK.wrapping_add(by)]
}

fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

fn make(shape: &str, packet: &Packet) -> Vec<Step> {
    let shape = shapes().into_iter().find(|(name, _)| *name == shape).unwrap().0;
    let mut script =
        Script { shape, packets: [packet.clone(), packet.clone().exchanged()], steps: Vec::new() };
    handshake(&mut script);
    data(&mut script);
    options(&mut script);
    checksums(&mut script);
    pieces(&mut script);
    end(&mut script);
    script.steps
}

fn client() -> Segment {
    Segment::new(CLIENT, SERVER).sequence(101)
}

fn guest() -> Segment {
    Segment::new(SERVER, CLIENT).acknowledgement(101)
}

fn same(segment: Segment) -> [Segment; 2] {
    [segment.clone(), segment]
}

/// A segment of the guest with the secondary's numbers, and with the primary's.
fn both(by: u32, make: impl Fn(Segment, usize) -> Segment) -> [Segment; 2] {
    [1, 0].map(|side| make(guest().sequence(sequence(by)[side]), side))
}

/// A segment of the client that acknowledges the primary's numbers, and the secondary's.
fn answering(by: u32, make: impl Fn(Segment, usize) -> Segment) -> [Segment; 2] {
    [0, 1].map(|side| make(client().acknowledgement(sequence(by)[side]), side))
}

fn handshake(script: &mut Script) {
    let syn = client().sequence(100).flags(SYN).options(&timestamps(10, 0));
    script.client("SYN", same(syn));
    let answer = guest().sequence(SECONDARY).flags(SYN | ACK);
    script.guest("SYN-ACK", same(answer.options(&timestamps(SECONDARY_CLOCK, 10))));
    let guess = client().sequence(0x7777_7777).acknowledgement(PRIMARY.wrapping_add(1));
    let guess = script.of_client(&guess);
    script.step("a guessed answer", true, [guess.clone(), guess], |counts| counts.implausible += 1);
    let answer = answering(1, |segment, side| segment.options(&timestamps(11, clock(0)[side])));
    let frames = answer.map(|segment| script.of_client(&segment));
    script.step("the answer", true, frames, |counts| {
        counts.learned += 1;
        counts.tracked += 1;
        counts.with_offset += 1;
        counts.handshakes -= 1;
        counts.rewritten += 1;
    });
}

fn data(script: &mut Script) {
    script
        .client("a request", answering(1, |segment, _| segment.flags(PSH | ACK).payload(b"GET ")));
    script.guest("a page", both(1, |segment, _| segment.flags(PSH | ACK).payload(b"page")));
    script.guest("a page of odd length", both(5, |segment, _| segment.payload(b"odd")));
    script.guest("1,400 bytes", both(8, |segment, _| segment.payload(&[0xa5; 1400])));
    script.client("an acknowledgement across the wrap", answering(0x0002_0000, |it, _| it));
    script.guest("a repeated SYN-ACK", same(guest().sequence(SECONDARY).flags(SYN | ACK)));
    script.client("another's SYN on its ports", same(client().sequence(9).flags(SYN)));
}

fn options(script: &mut Script) {
    let stamped = |by: u32, echo: u32| {
        both(1, |segment, side| segment.options(&timestamps(clock(by)[side], echo)))
    };
    script.guest("timestamps", stamped(77, 11));
    script.client("an echoed timestamp", {
        answering(1, |segment, side| segment.options(&timestamps(12, clock(77)[side])))
    });
    script.client("an echo of zero", {
        answering(1, |segment, _| segment.options(&timestamps(12, 0)))
    });
    // A clock's echo in the other byte order is not what is moved: nor is a longer option.
    script.guest("a timestamp option of the wrong length", {
        both(1, |segment, _| segment.options(&[8, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
    });
    let blocks = |count: u32, side: usize| {
        let edges = (0..2 * count).map(|edge| sequence(1000 * (edge + 1))[side].to_be_bytes());
        edges.collect::<Vec<_>>().concat()
    };
    script.client("four SACK blocks", {
        answering(1, |segment, side| {
            segment.options(&[&[1, 1, 5, 34][..], &blocks(4, side)].concat())
        })
    });
    script.client("a SACK block at an odd offset", {
        answering(1, |segment, side| {
            segment.options(&[&[1, 5, 10][..], &blocks(1, side), &[0]].concat())
        })
    });
    script.client("timestamps and SACK blocks", {
        answering(1, |segment, side| {
            let stamps = timestamps(13, clock(77)[side]);
            segment.options(&[&stamps, &[1, 1, 5, 26][..], &blocks(3, side)].concat())
        })
    });
    script.client("a SACK option that is longer than the header", {
        answering(1, |segment, _| segment.options(&[1, 1, 5, 34, 1, 2, 3, 4, 5, 6, 7, 8]))
    });
    script.guest("options that end before the timestamps", {
        both(1, |segment, _| {
            segment.options(&[&[0, 0][..], &timestamps(1, 2)[2..], &[0, 0]].concat())
        })
    });
    for length in [0, 1] {
        script.guest(&format!("an option of length {length}"), {
            both(1, |segment, _| {
                segment.options(&[&[254, length][..], &timestamps(1, 2)[2..]].concat())
            })
        });
    }
    let many = |segment: Segment| {
        segment.options(&[&[254, 2].repeat(15)[..], &timestamps(1, 2)[2..]].concat())
    };
    let frames =
        both(1, |segment, _| many(segment)).map(|segment| segment.frame(&script.packets[0]));
    script.step("more options than are looked at", false, frames, |counts| {
        counts.rewritten += 1;
        counts.many_options += 1;
    });
}

fn checksums(script: &mut Script) {
    let packet = script.packets[0].clone();
    let partial = both(1, |segment, _| segment.payload(b"page")).map(|segment| {
        let bytes = segment.bytes(&packet);
        let sum = packet.partial_checksum(protocol::TCP, bytes.len()).to_be_bytes();
        let mut frame = segment.frame(&packet);
        let at = frame.len() - bytes.len() + 16;
        frame[at..at + 2].copy_from_slice(&sum);
        frame
    });
    script.step("a partial checksum", false, partial, |counts| {
        counts.rewritten += 1;
        counts.partial_checksums += 1;
    });
    // The last two bytes make the complete checksum what the partial one would be.
    let lookalike = |segment: Segment| {
        let with =
            |last: u16| segment.clone().payload(&[b"page", &last.to_be_bytes()[..]].concat());
        let bytes = with(0).bytes(&packet);
        let checksum = u16::from_be_bytes([bytes[16], bytes[17]]);
        let wanted = packet.partial_checksum(protocol::TCP, bytes.len());
        // One's complement: what the sum must grow by.
        let last = u32::from(!wanted) + u32::from(checksum);
        with(((last & 0xffff) + (last >> 16)) as u16)
    };
    let looks_partial = lookalike(guest().sequence(sequence(1)[1]));
    let is = looks_partial.bytes(&packet);
    let partial = packet.partial_checksum(protocol::TCP, is.len());
    assert_eq!(is[16..18], partial.to_be_bytes(), "it looks partial");
    let right = looks_partial.clone().sequence(sequence(1)[0]);
    script.guest("a complete checksum that looks partial", [looks_partial, right]);
    // What is wrong stays wrong by as much: the relay judges nobody.
    let wrong = both(1, |segment, _| segment.payload(b"page")).map(|segment| {
        let mut frame = segment.frame(&packet);
        let end = frame.len();
        frame[end - 1] ^= 1;
        frame
    });
    script.step("a wrong checksum", false, wrong, rewritten);
}

/// IPv4 and IPv6 fragments: only the first has the numbers, and the checksum of all.
fn pieces(script: &mut Script) {
    let packet = script.packets[0].clone();
    let cut = both(1, |segment, _| segment.payload(&[0x33; 100]))
        .map(|segment| packet.fragments(protocol::TCP, &segment.bytes(&packet), 64));
    for (index, frames) in cut[0].iter().zip(&cut[1]).enumerate() {
        let (said, left) = frames;
        let counts = if index == 0 { rewritten } else { unchanged };
        let name = format!("piece {index} of a segment");
        script.step(&name, false, [said.clone(), left.clone()], counts);
    }
}

fn end(script: &mut Script) {
    script.client("another port", {
        same(Segment::new(CLIENT.swap_bytes(), SERVER).acknowledgement(PRIMARY.wrapping_add(1)))
    });
    script.client("an acknowledgement number without ACK", {
        same(client().flags(PSH).acknowledgement(PRIMARY.wrapping_add(1)))
    });
    script.guest("FIN", both(9, |segment, _| segment.flags(FIN | ACK)));
    let fin = answering(10, |segment, _| segment.flags(FIN | ACK));
    let frames = fin.map(|segment| script.of_client(&segment));
    script.step("the other FIN", true, frames, |counts| {
        counts.rewritten += 1;
        counts.ended += 1;
    });
    script.guest("a repeated FIN", both(9, |segment, _| segment.flags(FIN | ACK)));
    script.guest("RST", both(10, |segment, _| segment.flags(RST)));
}
