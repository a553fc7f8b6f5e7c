//! Seeds of the header parser: a chunk size (in eights of bytes) and a frame.

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, ip_number};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Chunks that no seed fills.
const ONE_CHUNK: u8 = 255;

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = well_formed();
    seeds.extend(extension_headers());
    seeds.extend(lying());
    seeds
}

fn v4() -> PacketBuilderStep<etherparse::IpHeaders> {
    let header = etherparse::Ipv4Header::new(0, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 9]);
    let header = header.expect("an empty payload fits");
    PacketBuilder::ethernet2(GUEST, CLIENT)
        .ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
}

fn v6() -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST, CLIENT).ip(ipv6_headers())
}

fn ipv6_headers() -> etherparse::IpHeaders {
    let mut source = [0; 16];
    source[0] = 0xfd;
    let mut destination = source;
    (source[15], destination[15]) = (1, 9);
    let header =
        etherparse::Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
    etherparse::IpHeaders::Ipv6(header, Default::default())
}

fn tcp(step: PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = step.tcp(80, 4242, 0xffff_fff0, 1000).ack(77).psh();
    step.write(&mut frame, b"over the wrap of the numbers").expect("fits");
    frame
}

fn udp(step: PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8> {
    let mut frame = Vec::new();
    step.udp(53, 4242).write(&mut frame, b"answer").expect("fits");
    frame
}

/// A packet of a protocol by its number; etherparse itself refuses to write some before a payload.
fn other(step: PacketBuilderStep<etherparse::IpHeaders>, number: u8, payload: &[u8]) -> Vec<u8> {
    /// For experiments (RFC 3692).
    const PLACEHOLDER: IpNumber = IpNumber(253);
    let mut frame = Vec::new();
    step.write(&mut frame, PLACEHOLDER, payload).expect("fits");
    // The protocol of IPv4, the next header of IPv6.
    let at = if frame[14] >> 4 == 4 { 23 } else { 20 };
    edited(frame, at, &[number])
}

/// In one chunk.
fn whole(frame: Vec<u8>) -> Vec<u8> {
    in_chunks(ONE_CHUNK, frame)
}

fn in_chunks(size: u8, frame: Vec<u8>) -> Vec<u8> {
    [vec![size], frame].concat()
}

fn edited(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The frame with tags of these types put in after the addresses.
fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

fn well_formed() -> Vec<(&'static str, Vec<u8>)> {
    let echo = |step: PacketBuilderStep<etherparse::IpHeaders>| {
        let mut frame = Vec::new();
        step.icmpv4_echo_reply(7, 1).write(&mut frame, b"ping").expect("fits");
        frame
    };
    let echo6 = |step: PacketBuilderStep<etherparse::IpHeaders>| {
        let mut frame = Vec::new();
        step.icmpv6_echo_reply(7, 1).write(&mut frame, b"ping").expect("fits");
        frame
    };
    let fragment = edited(other(v4(), 17, &[7; 24]), 20, &[0x20, 0x03]);
    let pseudo_sum_only = [0x14 + 0x0e, 0x46];
    vec![
        ("ipv4-tcp", whole(tcp(v4()))),
        ("ipv6-tcp", whole(tcp(v6()))),
        ("ipv4-udp", whole(udp(v4()))),
        ("ipv6-udp", whole(udp(v6()))),
        ("ipv4-udp-without-checksum", whole(edited(udp(v4()), 40, &[0, 0]))),
        ("ipv4-tcp-partial-checksum", whole(edited(tcp(v4()), 50, &pseudo_sum_only))),
        ("icmp-echo", whole(echo(v4()))),
        ("icmpv6-echo", whole(echo6(v6()))),
        ("icmpv6-neighbour-advertisement", whole(other(v6(), 58, &[136, 0, 0, 0, 0, 0, 0, 0]))),
        ("icmpv6-mld-report", whole(other(v6(), 58, &[143, 0, 0, 0, 0, 0, 0, 1]))),
        ("igmp-report", whole(other(v4(), 2, &[0x16, 0, 0, 0, 224, 0, 0, 251]))),
        ("unknown-protocol", whole(other(v4(), 47, &[0, 0, 8, 0, 1, 2, 3]))),
        ("ipv4-fragment-in-the-middle", whole(fragment)),
        ("ipv4-fragment-first-of-tcp", whole(edited(tcp(v4()), 20, &[0x20, 0]))),
        ("ipv4-with-padding", whole([udp(v4()), vec![0; 14]].concat())),
        ("one-tag", whole(tagged(&tcp(v4()), &[[0x81, 0, 0x20, 7]]))),
        ("two-tags", whole(tagged(&udp(v6()), &[[0x88, 0xa8, 0, 5], [0x81, 0, 0, 7]]))),
        (
            "three-tags",
            whole(tagged(&udp(v4()), &[[0x91, 0, 0, 1], [0x81, 0, 0, 2], [0x81, 0, 0, 3]])),
        ),
        ("four-tags", whole(tagged(&udp(v4()), &[[0x81, 0, 0, 1]; 4]))),
        ("arp", whole([&CLIENT[..], &GUEST, &[8, 6], &[0; 28]].concat())),
        ("lldp", whole([&CLIENT[..], &GUEST, &[0x88, 0xcc], &[2, 7, 4]].concat())),
        ("ieee-802-3", whole([&CLIENT[..], &GUEST, &[0, 3], &[0x42, 0x42, 3]].concat())),
        ("tcp-in-chunks-of-64", in_chunks(8, tcp(v4()))),
        ("tcp-header-over-the-edge-of-a-chunk", in_chunks(5, tcp(v4()))),
        ("udp-in-chunks-of-48", in_chunks(6, [udp(v6()), vec![0; 90]].concat())),
    ]
}

/// An IPv6 packet of these headers, of which each names the next, and a payload.
fn chain(first: u8, headers: &[&[u8]], payload: &[u8]) -> Vec<u8> {
    other(v6(), first, &[&headers.concat(), payload].concat())
}

fn extension_headers() -> Vec<(&'static str, Vec<u8>)> {
    let udp = [0, 53, 16, 146, 0, 12, 0, 0, 1, 2, 3, 4];
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let route = |next: u8, kind: u8| {
        let mut header = vec![next, 2, kind, 1, 0, 0, 0, 0];
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77]);
        header
    };
    let fragment = |offset: u8, more: u8| [17, 0, 0, offset << 3 | more, 0, 0, 0, 9];
    let authentication = |next: u8| [next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4];
    let many: Vec<_> = (0..9).map(|at| options(if at == 8 { 17 } else { 60 })).collect();
    let many: Vec<&[u8]> = many.iter().map(|header| &header[..]).collect();
    vec![
        ("ipv6-hop-by-hop-then-udp", whole(chain(0, &[&options(17)], &udp))),
        ("ipv6-route-type-2", whole(chain(43, &[&route(17, 2)], &udp))),
        ("ipv6-segment-route", whole(chain(43, &[&route(17, 4)], &udp))),
        ("ipv6-fragment-first", whole(chain(44, &[&fragment(0, 1)], &[udp, udp].concat()))),
        ("ipv6-fragment-last", whole(chain(44, &[&fragment(2, 0)], &udp))),
        ("ipv6-atomic-fragment", whole(chain(44, &[&fragment(0, 0)], &udp))),
        ("ipv6-authenticated", whole(chain(51, &[&authentication(17)], &udp))),
        ("ipv4-authenticated", whole(other(v4(), 51, &[&authentication(17)[..], &udp].concat()))),
        ("ipv6-options-and-route", whole(chain(60, &[&options(43), &route(17, 2)], &udp))),
        ("ipv6-more-headers-than-are-followed", whole(chain(60, &many, &udp))),
        ("ipv6-nothing-follows", whole(other(v6(), 59, &[]))),
        ("ipv6-header-cut", whole(chain(0, &[&[17, 9, 1, 4, 0, 0, 0, 0]], &udp))),
    ]
}

/// Frames that contradict themselves.
fn lying() -> Vec<(&'static str, Vec<u8>)> {
    let cut = |mut frame: Vec<u8>, length: usize| {
        frame.truncate(length);
        frame
    };
    vec![
        ("empty", whole(Vec::new())),
        ("ethernet-cut", whole(cut(udp(v4()), 13))),
        ("tag-cut", whole(cut(tagged(&udp(v4()), &[[0x81, 0, 0, 7]]), 15))),
        ("ipv4-header-cut", whole(cut(udp(v4()), 30))),
        ("ipv4-version-6", whole(edited(udp(v4()), 14, &[0x65]))),
        ("ipv4-header-length-too-small", whole(edited(udp(v4()), 14, &[0x44]))),
        ("ipv4-header-length-too-large", whole(edited(udp(v4()), 14, &[0x4f]))),
        ("ipv4-total-length-beyond-the-frame", whole(edited(udp(v4()), 16, &[0xff, 0xff]))),
        ("ipv4-total-length-within-the-header", whole(edited(udp(v4()), 16, &[0, 19]))),
        ("ipv4-fragment-not-of-eights", whole(edited(other(v4(), 17, &[7; 23]), 20, &[0x20, 0]))),
        (
            "ipv4-fragment-beyond-the-datagram",
            whole(edited(other(v4(), 17, &[7; 24]), 20, &[0x1f, 0xff])),
        ),
        ("ipv6-payload-length-zero", whole(edited(tcp(v6()), 18, &[0, 0]))),
        ("ipv6-payload-length-beyond", whole(edited(tcp(v6()), 18, &[0xff, 0xff]))),
        ("tcp-data-offset-too-small", whole(edited(tcp(v4()), 46, &[0x40]))),
        ("tcp-data-offset-beyond", whole(edited(tcp(v4()), 46, &[0xf0]))),
        ("tcp-header-cut", whole(other(v4(), ip_number::TCP.0, &[0; 19]))),
        ("udp-length-too-small", whole(edited(udp(v4()), 38, &[0, 7]))),
        ("udp-length-beyond", whole(edited(udp(v4()), 38, &[0xff, 0xff]))),
        ("udp-length-short-of-the-payload", whole(edited(udp(v4()), 38, &[0, 8]))),
        ("icmp-cut", whole(other(v4(), 1, &[0; 7]))),
    ]
}
