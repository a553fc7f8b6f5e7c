//! DESIGN.md section 4.1, rules 1 to 4 and 6: the byte streams.

use compare_user::compare::{AckGate, Discard, Reason, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{NETWORKS, data, pattern, segment};

#[test]
fn equal_segments_are_released_whichever_side_is_first_in_every_network() {
    for network in &NETWORKS {
        for first in [Side::Primary, Side::Secondary] {
            let mut rig = Rig::new();
            let frame = data(100, b"hello").on(network).frame();
            rig.offer(first, frame.clone());
            assert!(rig.released().is_empty(), "{network:?}: held until the other side is seen");
            rig.offer(first.other(), frame.clone());
            assert_eq!(rig.released(), [frame], "{network:?}");
            assert_eq!(rig.reasons(), [Release::Matched]);
            assert_eq!(rig.discards(), [(Side::Secondary, Discard::Compared)]);
            assert!(rig.is_clean());
            assert_eq!(rig.held(), 0);
        }
    }
}

#[test]
fn segment_boundaries_do_not_matter() {
    let stream = pattern(1, 1000);
    for cuts in [[500, 1000], [700, 1000], [1, 1000], [999, 1000]] {
        let mut rig = Rig::new();
        let whole = data(7, &stream).frame();
        rig.primary(whole.clone());
        rig.secondary(data(7, &stream[..cuts[0]]));
        assert!(rig.released().is_empty(), "only the first {} bytes are compared", cuts[0]);
        rig.secondary(data(7 + cuts[0] as u32, &stream[cuts[0]..]));
        assert_eq!(rig.released(), [whole]);
        assert!(rig.is_clean());
    }
}

#[test]
fn one_secondary_segment_may_cover_many_primary_ones() {
    let stream = pattern(2, 1000);
    let mut rig = Rig::new();
    rig.secondary(data(0, &stream));
    for at in (0..1000).step_by(100) {
        rig.primary(data(at as u32, &stream[at..at + 100]));
        assert_eq!(rig.released().len(), at / 100 + 1, "each is released as it comes");
    }
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn overlapping_secondary_segments_are_compared_once() {
    let stream = pattern(3, 300);
    let mut rig = Rig::new();
    rig.primary(data(0, &stream));
    rig.secondary(data(0, &stream[..200]));
    rig.secondary(data(100, &stream[100..]));
    assert_eq!(rig.reasons(), [Release::Matched]);
    assert!(rig.is_clean());
}

#[test]
fn a_primary_segment_leaves_only_when_its_last_byte_is_compared() {
    let stream = pattern(4, 100);
    let mut rig = Rig::new();
    rig.primary(data(0, &stream[..60]));
    rig.primary(data(60, &stream[60..]));
    rig.secondary(data(0, &stream[..99]));
    assert_eq!(rig.released(), [data(0, &stream[..60]).frame()]);
    rig.secondary(data(99, &stream[99..]));
    assert_eq!(rig.released().len(), 2);
}

#[test]
fn one_different_byte_is_a_divergence_at_once_and_says_where() {
    let mut theirs = pattern(5, 400);
    let ours = theirs.clone();
    theirs[250] ^= 1;
    let mut rig = Rig::new();
    rig.both(data(1000, b"first bytes of the stream"));
    let start = 1000 + 25;
    rig.primary(data(start, &ours));
    rig.secondary(data(start, &theirs));
    let seen = rig.divergence();
    assert_eq!(seen.reason, Reason::Payload);
    assert_eq!(seen.flow, "10.0.0.1:80 > 10.0.0.9:4242 tcp");
    assert_eq!(seen.offset, 25 + 250);
    let (primary, at) = seen.primary.as_ref().expect("the primary frame is shown");
    assert_eq!(primary[*at], ours[250]);
    let (secondary, at) = seen.secondary.as_ref().expect("the secondary frame is shown");
    assert_eq!(secondary[*at], theirs[250]);
    assert_eq!(rig.record.requests, 1);
    assert_eq!(rig.released().len(), 1, "the segment with the difference stays");
}

#[test]
fn the_difference_is_found_at_the_right_place_whatever_the_boundaries() {
    let ours = pattern(6, 600);
    let mut theirs = ours.clone();
    theirs[333] ^= 0x80;
    let mut rig = Rig::new();
    for at in (0..600).step_by(150) {
        rig.secondary(data(at as u32, &theirs[at..at + 150]));
    }
    for at in (0..600).step_by(200) {
        rig.primary(data(at as u32, &ours[at..at + 200]));
    }
    assert_eq!(rig.divergence().offset, 333);
    assert_eq!(rig.released(), [data(0, &ours[..200]).frame()]);
}

#[test]
fn nothing_beyond_a_difference_is_released_before_the_checkpoint() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"aaaa"));
    rig.secondary(data(0, b"aaab"));
    rig.both(data(4, b"equal again"));
    rig.both(segment(15).fin());
    assert!(rig.released().is_empty());
    rig.checkpoint();
    assert_eq!(
        rig.released(),
        [data(0, b"aaaa").frame(), data(4, b"equal again").frame(), segment(15).fin().frame()]
    );
}

#[test]
fn a_proven_difference_is_not_taken_back_by_a_retransmission() {
    let mut rig = Rig::new();
    rig.both(data(0, b"aa"));
    rig.primary(data(2, b"aa"));
    rig.secondary(data(2, b"aX"));
    rig.secondary(data(1, b"aaa"));
    assert_eq!(rig.released().len(), 1);
    assert_eq!(rig.divergence().offset, 3);
}

#[test]
fn what_precedes_a_difference_in_the_same_overlap_is_released() {
    let mut rig = Rig::new();
    rig.secondary(data(0, b"aaaabbbX"));
    rig.primary(data(0, b"aaaa"));
    rig.primary(data(4, b"bbbb"));
    assert_eq!(rig.released(), [data(0, b"aaaa").frame()]);
    assert_eq!(rig.divergence().offset, 7);
}

#[test]
fn a_primary_retransmission_leaves_at_once_whatever_the_other_queue_holds() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123456789"));
    rig.secondary(data(15, b"beyond a gap"));
    rig.primary(data(0, b"0123456789"));
    rig.primary(data(3, b"345"));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Retransmission, Release::Retransmission]);
    assert!(rig.is_clean());
}

#[test]
fn a_secondary_retransmission_is_dropped_at_once() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123456789"));
    rig.primary(data(10, b"held"));
    rig.secondary(data(0, b"0123456789"));
    assert_eq!(rig.discards()[1], (Side::Secondary, Discard::Retransmission));
    assert_eq!(rig.held(), 1);
}

#[test]
fn a_retransmission_that_carries_new_bytes_waits_for_those() {
    let mut rig = Rig::new();
    rig.both(data(0, b"01234"));
    rig.primary(data(0, b"0123456789"));
    assert_eq!(rig.released().len(), 1);
    rig.secondary(data(5, b"56789"));
    assert_eq!(rig.released()[1], data(0, b"0123456789").frame());
    assert!(rig.is_clean());
}

#[test]
fn a_retransmission_of_held_bytes_leaves_with_them() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"0123456789"));
    rig.primary(data(0, b"0123456789"));
    assert!(rig.released().is_empty());
    rig.secondary(data(0, b"0123456789"));
    assert_eq!(rig.released().len(), 2);
    assert_eq!(rig.held(), 0);
}

#[test]
fn a_keep_alive_probe_is_a_retransmission() {
    let mut rig = Rig::new();
    rig.both(data(100, b"stream"));
    rig.primary(data(105, &[0]).ack(1));
    rig.secondary(data(105, &[0]).ack(1));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn secondary_segments_out_of_order_are_waited_for() {
    let stream = pattern(9, 1600);
    let mut rig = Rig::new();
    for at in (0..1600).step_by(100) {
        rig.primary(data(at as u32, &stream[at..at + 100]));
    }
    for at in (0..1600).step_by(100).rev() {
        rig.secondary(data(at as u32, &stream[at..at + 100]));
    }
    let expected: Vec<_> =
        (0..1600).step_by(100).map(|at| data(at as u32, &stream[at..at + 100]).frame()).collect();
    assert_eq!(rig.released(), expected, "released in stream order");
    assert!(rig.is_clean());
}

#[test]
fn a_gap_on_the_primary_side_is_waited_for() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0"));
    rig.primary(data(5, b"5678"));
    rig.secondary(data(1, b"12345678"));
    assert_eq!(rig.released().len(), 1);
    rig.primary(data(1, b"1234"));
    assert_eq!(rig.released().len(), 3);
    assert!(rig.is_clean());
}

#[test]
fn a_sequence_wrap_is_ordinary_traffic() {
    let stream = pattern(11, 4000);
    let start = u32::MAX - 1500;
    let mut rig = Rig::new();
    for at in (0..4000).step_by(400) {
        rig.primary(data(start.wrapping_add(at as u32), &stream[at..at + 400]));
    }
    for at in (0..4000).step_by(1000) {
        rig.secondary(data(start.wrapping_add(at as u32), &stream[at..at + 1000]));
    }
    assert_eq!(rig.released().len(), 10);
    assert!(rig.is_clean());
}

#[test]
fn the_offset_of_a_difference_counts_from_the_start_of_the_stream_across_a_wrap() {
    let mut rig = Rig::new();
    let start = u32::MAX - 4;
    rig.both(data(start, b"0123456789"));
    rig.primary(data(start.wrapping_add(10), b"abc"));
    rig.secondary(data(start.wrapping_add(10), b"abX"));
    assert_eq!(rig.divergence().offset, 12);
}

#[test]
fn the_same_payload_at_another_place_in_the_stream_is_not_the_same() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123456789"));
    rig.primary(data(10, b"payload"));
    rig.secondary(data(20, b"payload"));
    assert_eq!(rig.released().len(), 1, "by position in the stream");
    rig.wait(ms(3000));
    assert_eq!(rig.divergence().reason, Reason::Timeout);
}

#[test]
fn a_flow_first_seen_in_mid_stream_starts_at_the_primarys_first_byte() {
    let mut rig = Rig::new();
    rig.secondary(data(90, b"before and after"));
    rig.secondary(data(50, b"long before"));
    rig.primary(data(97, b"and after"));
    assert_eq!(rig.reasons(), [Release::Matched]);
    assert_eq!(rig.held(), 0, "what lies before the first byte is dropped");
    assert!(rig.is_clean());
}

/// A comparator that died had held the first part; the next one sees first what the primary says after
/// it, and then the first part again.
#[test]
fn what_comes_before_the_first_byte_that_was_seen_is_compared_too() {
    for gate in [AckGate::Payload, AckGate::Slower] {
        let mut rig = Rig::with(|config| config.ack_gate = gate);
        rig.both(data(200, b"later"));
        assert_eq!(rig.released().len(), 1);
        rig.primary(data(100, &pattern(1, 100)));
        assert_eq!(rig.released().len(), 1, "nobody has compared it");
        rig.secondary(data(100, &pattern(1, 50)));
        assert_eq!(rig.released().len(), 1);
        rig.secondary(data(150, &pattern(1, 100)[50..]));
        assert_eq!(rig.released().len(), 2);
        // What had been compared before lies behind it and is not asked for again.
        rig.both(data(205, b"and so on"));
        assert_eq!(rig.released().len(), 3);
        rig.primary(data(100, &pattern(1, 100)));
        assert_eq!(rig.reasons().last(), Some(&Release::Retransmission));
        assert_eq!(rig.held(), 0);
        assert!(rig.is_clean());
    }
}

#[test]
fn what_comes_before_the_first_byte_that_was_seen_may_differ() {
    let mut rig = Rig::new();
    rig.primary(data(200, b"later"));
    rig.primary(data(100, &pattern(1, 100)));
    rig.secondary(data(100, &pattern(2, 100)));
    assert_eq!(rig.released().len(), 0);
    assert_eq!(rig.divergence().reason, Reason::Payload);
}

#[test]
fn flows_are_told_apart_by_every_part_of_the_key() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"same"));
    rig.secondary(data(0, b"same").port(4243));
    for network in &NETWORKS[1..] {
        rig.secondary(data(0, b"same").on(network));
    }
    assert!(rig.released().is_empty());
    assert_eq!(rig.held(), 5);
    rig.secondary(data(0, b"same"));
    assert_eq!(rig.released().len(), 1);
}

#[test]
fn other_flows_go_on_while_one_is_divergent() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"ours"));
    rig.secondary(data(0, b"not!"));
    rig.both(data(0, b"fine").port(9));
    assert_eq!(rig.released(), [data(0, b"fine").port(9).frame()]);
}

#[test]
fn a_batch_is_judged_like_its_frames_one_by_one() {
    let stream = pattern(12, 100 * 50);
    let frames: Vec<_> = (0..100)
        .map(|at| data(at / 7 * 50, &stream[at as usize * 50..][..50]).port(at as u16 % 7).frame())
        .collect();
    let mut rig = Rig::new();
    rig.offer_batch(Side::Primary, frames.clone());
    rig.offer_batch(Side::Secondary, frames.clone());
    let mut one_by_one = Rig::new();
    for frame in &frames {
        one_by_one.primary(frame.clone());
    }
    for frame in &frames {
        one_by_one.secondary(frame.clone());
    }
    assert_eq!(rig.released(), frames);
    assert_eq!(rig.released(), one_by_one.released());
    assert_eq!(rig.comparator.counters(), one_by_one.comparator.counters());
}

#[test]
fn what_the_secondary_said_before_a_stream_was_first_seen_is_not_kept() {
    // Found by the simulator.
    let mut rig = Rig::new();
    rig.secondary(data(100, b"acknowledged long ago"));
    rig.primary(segment(121).ack(5));
    assert_eq!(rig.held(), 0);
    rig.wait(ms(3000));
    assert!(rig.is_clean());
}
