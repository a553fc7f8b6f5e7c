//! Checksums against etherparse's own, whole and in pieces.

use etherparse::{Icmpv4Type, Icmpv6Type, TcpHeaderSlice, UdpHeader};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{ChecksumState, completed, fold, ipv4_header_valid, state, valid};
use crate::frame::samples::*;
use crate::frame::{FrameStore, Headers, HeapFrame, HeapFrames};

/// Where the upper-layer header of `four` and `six` starts.
const TRANSPORT4: usize = 14 + 20;
const TRANSPORT6: usize = 14 + 40;

fn four(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV4, &ipv4(protocol, payload))
}

fn six(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV6, &ipv6(protocol, payload))
}

/// `upper` with `checksum` at offset `at`.
fn with_checksum(mut upper: Vec<u8>, at: usize, checksum: u16) -> Vec<u8> {
    upper[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    upper
}

/// Frames whose checksum etherparse computed: TCP, UDP and ICMP in both families.
fn right_frames(payload: &[u8]) -> [Vec<u8>; 6] {
    let segment = tcp_with(payload, |_| {});
    let tcp = TcpHeaderSlice::from_slice(&segment).expect("a header");
    let tcp4 = tcp.calc_checksum_ipv4_raw(SOURCE, DESTINATION, payload).expect("fits");
    let tcp6 = tcp.calc_checksum_ipv6_raw(SOURCE6, DESTINATION6, payload).expect("fits");
    let datagram = udp(payload);
    let (udp, _) = UdpHeader::from_slice(&datagram).expect("a header");
    let udp4 = udp.calc_checksum_ipv4_raw(SOURCE, DESTINATION, payload).expect("fits");
    let udp6 = udp.calc_checksum_ipv6_raw(SOURCE6, DESTINATION6, payload).expect("fits");
    let rest = [0, 1, 0, 2];
    let ping = Icmpv4Type::Unknown { type_u8: 8, code_u8: 0, bytes5to8: rest };
    let ping6 = Icmpv6Type::Unknown { type_u8: 128, code_u8: 0, bytes5to8: rest };
    let icmp4 = ping.calc_checksum(payload);
    let icmp6 = ping6.calc_checksum(SOURCE6, DESTINATION6, payload).expect("fits");
    [
        four(TCP, &with_checksum(segment.clone(), 16, tcp4)),
        six(TCP, &with_checksum(segment, 16, tcp6)),
        four(UDP, &with_checksum(datagram.clone(), 6, udp4)),
        six(UDP, &with_checksum(datagram, 6, udp6)),
        four(ICMP, &with_checksum(icmp(8, payload), 2, icmp4)),
        six(ICMPV6, &with_checksum(icmp(128, payload), 2, icmp6)),
    ]
}

/// What the guest's stack leaves for the card to complete: computed here from the words.
fn partial_sum(addresses: &[&[u8]], protocol: u8, length: usize) -> u16 {
    let words = addresses.concat();
    let words = words.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
    fold(words.sum::<u64>() + u64::from(protocol) + length as u64)
}

/// The frames of `right_frames` that can be offloaded, with the checksum's offset and with the
/// pseudo-header sum in its place.
fn partial_frames(payload: &[u8]) -> [(Vec<u8>, usize, Vec<u8>); 4] {
    let [tcp4, tcp6, udp4, udp6, _, _] = right_frames(payload);
    let partial = |right: Vec<u8>, addresses: &[&[u8]], protocol, transport, field| {
        let sum = partial_sum(addresses, protocol, right.len() - transport);
        let frame = with_checksum(right.clone(), transport + field, sum);
        (right, transport + field, frame)
    };
    let (v4, v6): ([&[u8]; 2], [&[u8]; 2]) = ([&SOURCE, &DESTINATION], [&SOURCE6, &DESTINATION6]);
    [
        partial(tcp4, &v4, TCP, TRANSPORT4, 16),
        partial(tcp6, &v6, TCP, TRANSPORT6, 16),
        partial(udp4, &v4, UDP, TRANSPORT4, 6),
        partial(udp6, &v6, UDP, TRANSPORT6, 6),
    ]
}

fn with_headers<R>(frame: &[u8], judge: impl Fn(&HeapFrame, &Headers) -> R) -> R {
    let frame = HeapFrame::from(frame);
    judge(&frame, &Headers::parse(&HeapFrames, &frame))
}

fn state_of(frame: &[u8]) -> ChecksumState {
    with_headers(frame, |frame, headers| state(&HeapFrames, frame, headers))
}

fn valid_of(frame: &[u8]) -> Option<bool> {
    with_headers(frame, |frame, headers| valid(&HeapFrames, frame, headers))
}

fn completed_of(frame: &[u8]) -> Option<(usize, u16)> {
    with_headers(frame, |frame, headers| completed(&HeapFrames, frame, headers))
}

fn write(frame: &mut [u8], (at, value): (usize, u16)) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn a_right_checksum_is_complete_and_valid() {
    for payload in [&b""[..], b"x", b"an odd number", b"an even number"] {
        for frame in right_frames(payload) {
            assert_eq!(state_of(&frame), ChecksumState::Complete);
            assert_eq!(valid_of(&frame), Some(true));
            assert_eq!(completed_of(&frame), None);
        }
    }
}

#[test]
fn a_damaged_payload_is_invalid_but_not_repaired() {
    for mut frame in right_frames(b"payload") {
        *frame.last_mut().expect("not empty") ^= 1;
        assert_eq!(valid_of(&frame), Some(false));
        assert_eq!(completed_of(&frame), None);
    }
}

#[test]
fn a_partial_checksum_is_completed_to_the_right_one() {
    for (right, at, mut frame) in partial_frames(b"offloaded") {
        assert_eq!(state_of(&frame), ChecksumState::Partial);
        assert_eq!(valid_of(&frame), Some(false));
        let completion = completed_of(&frame).expect("partial");
        assert_eq!(completion.0, at);
        write(&mut frame, completion);
        assert_eq!(frame, right);
    }
}

#[test]
fn a_right_checksum_that_equals_the_pseudo_header_sum_needs_nothing() {
    // Two payload bytes are chosen such that the finished checksum is the sum by chance.
    for (_, at, mut frame) in partial_frames(&[0, 0]) {
        let (_, value) = completed_of(&frame).expect("partial");
        let stored = u16::from_be_bytes([frame[at], frame[at + 1]]);
        // The rest sums up to !value; it has to sum up to !stored.
        let filler = fold(u64::from(value) + u64::from(!stored));
        let end = frame.len();
        write(&mut frame, (end - 2, filler));
        assert_eq!(valid_of(&frame), Some(true));
        assert_eq!(completed_of(&frame), None);
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_written_as_all_ones() {
    for (_, _, mut frame) in partial_frames(&[0, 0]).into_iter().skip(2) {
        let (_, value) = completed_of(&frame).expect("partial");
        let end = frame.len();
        write(&mut frame, (end - 2, value));
        let completion = completed_of(&frame).expect("partial");
        assert_eq!(completion.1, 0xffff);
        write(&mut frame, completion);
        assert_eq!(valid_of(&frame), Some(true));
    }
}

#[test]
fn udp_without_a_checksum_has_none() {
    let datagram = with_checksum(udp(b"payload"), 6, 0);
    for frame in [four(UDP, &datagram), six(UDP, &datagram)] {
        assert_eq!(state_of(&frame), ChecksumState::Absent);
        assert_eq!(valid_of(&frame), None);
    }
}

#[test]
fn udp_covers_its_own_length_and_not_the_bytes_behind() {
    let [_, _, right, _, _, _] = right_frames(b"payload");
    let datagram = [&right[TRANSPORT4..], b"surplus"].concat();
    assert_eq!(valid_of(&four(UDP, &datagram)), Some(true));
}

#[test]
fn padding_is_not_covered() {
    for frame in right_frames(b"x") {
        assert_eq!(valid_of(&[&frame[..], &[0xee; 20]].concat()), Some(true));
    }
}

#[test]
fn icmp_is_never_partial() {
    let length = 8 + 7;
    let sum = partial_sum(&[&SOURCE6, &DESTINATION6], ICMPV6, length);
    let frame = six(ICMPV6, &with_checksum(icmp(128, b"payload"), 2, sum));
    assert_eq!(state_of(&frame), ChecksumState::Complete);
}

#[test]
fn an_icmp_message_of_zeros_needs_a_checksum_of_all_ones() {
    assert_eq!(valid_of(&four(ICMP, &[0; 8])), Some(false));
    assert_eq!(valid_of(&four(ICMP, &with_checksum(vec![0; 8], 2, 0xffff))), Some(true));
}

#[test]
fn fragments_other_protocols_and_uncompared_frames_have_none() {
    let frames = [
        ethernet(IPV4, &ipv4_fragment(UDP, 0, true, &udp(&[5; 8]))),
        ethernet(IPV6, &ipv6(44, &fragment_header(TCP, 0, true, &tcp(&[5; 4])))),
        four(132, b"sctp"),
        ethernet(0x0806, &[0; 28]),
        four(UDP, b"cut"),
    ];
    for frame in frames {
        assert_eq!(state_of(&frame), ChecksumState::Absent);
        assert_eq!((valid_of(&frame), completed_of(&frame)), (None, None));
    }
}

#[test]
fn a_route_with_segments_left_sums_the_final_destination() {
    for (routing_type, segments_left, is_final) in [(4, 1, true), (2, 1, true), (4, 0, false)] {
        let [_, right, ..] = right_frames(b"routed");
        let mut chain = extension(TCP, 2, &right[TRANSPORT6..]);
        chain[2..4].copy_from_slice(&[routing_type, segments_left]);
        chain[8..24].copy_from_slice(&DESTINATION6);
        let mut frame = six(60, &extension(43, 0, &chain));
        frame[14 + 24] ^= 1; // the next hop, in the IP header
        assert_eq!(valid_of(&frame), Some(is_final), "type {routing_type}");
    }
}

#[test]
fn the_ipv4_header_is_verified_with_its_options() {
    let packet = ipv4_with(UDP, &udp(b"payload"), |header| {
        header.options = [1; 8].into();
        header.total_len += 8;
    });
    let mut frame = ethernet(IPV4, &packet);
    let judge = |frame: &[u8]| {
        with_headers(frame, |frame, headers| ipv4_header_valid(&HeapFrames, frame, headers))
    };
    assert_eq!(judge(&frame), Some(true));
    frame[14 + 20] ^= 4;
    assert_eq!(judge(&frame), Some(false));
    assert_eq!(judge(&six(UDP, &udp(b"payload"))), None);
}

proptest! {
    #[test]
    fn right_checksums_are_valid_whatever_the_chunks(
        payload in vec(any::<u8>(), 0..600),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        for frame in right_frames(&payload) {
            let chunks = split_behind_headers(&frame, &cuts);
            let headers = Headers::parse(&Chunked, &chunks);
            prop_assert_eq!(valid(&Chunked, &chunks, &headers), Some(true));
        }
    }

    #[test]
    fn partial_checksums_are_completed_whatever_the_chunks(
        payload in vec(any::<u8>(), 0..600),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        for (right, at, frame) in partial_frames(&payload) {
            let chunks = split_behind_headers(&frame, &cuts);
            let headers = Headers::parse(&Chunked, &chunks);
            prop_assert_eq!(Chunked.len(&chunks), frame.len());
            let expected = u16::from_be_bytes([right[at], right[at + 1]]);
            let needed = (right != frame).then_some((at, expected));
            prop_assert_eq!(completed(&Chunked, &chunks, &headers), needed);
        }
    }
}

/// Splits behind the longest headers of these frames (IPv6 and TCP), at any offsets.
fn split_behind_headers(frame: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let first = (TRANSPORT6 + 20).min(frame.len());
    let mut cuts: Vec<_> =
        cuts.iter().map(|cut| first + cut.index(frame.len() - first + 1)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.retain(|cut| *cut < frame.len());
    split(frame, &cuts)
}
