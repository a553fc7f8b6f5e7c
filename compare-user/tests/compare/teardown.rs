//! DESIGN.md section 4.1, rule 5: FIN and RST leave in order, after the data they follow.

use compare_user::compare::{AckGate, Reason, Release, Side};
use compare_user::frame::{Headers, HeapFrames};

use crate::rig::{Rig, ms};
use crate::wire::{data, heap, segment};

#[test]
fn a_fin_waits_for_the_data_before_it_and_not_for_the_secondarys_fin() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"last"));
    rig.primary(segment(4).fin());
    assert!(rig.released().is_empty());
    rig.secondary(data(0, b"last"));
    assert_eq!(rig.released(), [data(0, b"last").frame(), segment(4).fin().frame()]);
    assert_eq!(rig.reasons(), [Release::Matched, Release::NoPayload]);
    assert!(rig.is_clean());
}

#[test]
fn a_fin_with_nothing_before_it_leaves_at_once() {
    let mut rig = Rig::new();
    rig.both(data(0, b"last"));
    rig.primary(segment(4).fin());
    rig.primary(segment(4).fin());
    assert_eq!(rig.released().len(), 3);
}

#[test]
fn a_fin_on_the_last_data_is_compared_with_it() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"last").fin());
    rig.secondary(data(0, b"last"));
    rig.secondary(segment(4).fin());
    assert_eq!(rig.reasons(), [Release::Matched]);
    assert!(rig.is_clean());
    assert_eq!(rig.held(), 0);
}

#[test]
fn a_fin_beyond_a_gap_waits_for_the_gap() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.primary(segment(8).fin());
    assert_eq!(rig.released().len(), 1);
    rig.both(data(4, b"4567"));
    assert_eq!(rig.released()[1..], [data(4, b"4567").frame(), segment(8).fin().frame()]);
}

#[test]
fn primary_payload_beyond_the_secondarys_fin_is_a_divergence() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.primary(data(4, b"more"));
    assert!(rig.is_clean());
    rig.secondary(segment(4).fin());
    let seen = rig.divergence();
    assert_eq!((seen.reason, seen.side, seen.offset), (Reason::StreamEnd, Side::Secondary, 4));
    assert_eq!(rig.released().len(), 1);
}

#[test]
fn secondary_payload_beyond_the_primarys_fin_is_a_divergence() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.primary(segment(4).fin());
    rig.secondary(data(4, b"more"));
    let seen = rig.divergence();
    assert_eq!((seen.reason, seen.side, seen.offset), (Reason::StreamEnd, Side::Primary, 4));
}

#[test]
fn a_fin_does_not_leave_while_the_secondary_is_known_to_go_on() {
    for fin_on_data in [false, true] {
        let mut rig = Rig::new();
        rig.secondary(data(0, b"0123more"));
        if fin_on_data {
            rig.primary(data(0, b"0123").fin());
            assert!(rig.released().is_empty());
        } else {
            rig.primary(data(0, b"0123"));
            rig.primary(segment(4).fin());
            assert_eq!(rig.released(), [data(0, b"0123").frame()]);
        }
        let seen = rig.divergence();
        assert_eq!((seen.reason, seen.side, seen.offset), (Reason::StreamEnd, Side::Primary, 4));
    }
}

#[test]
fn a_gated_fin_does_not_leave_once_the_secondary_is_known_to_go_on() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"0123").fin().ack(500));
    rig.secondary(data(0, b"0123").ack(400));
    rig.secondary(data(4, b"more").ack(500));
    assert_eq!(rig.divergence().reason, Reason::StreamEnd);
    assert!(rig.released().is_empty());
}

#[test]
fn a_fin_that_overtook_its_data_on_the_secondary_side_is_no_divergence() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"0123"));
    rig.primary(segment(4).fin());
    rig.secondary(segment(4).fin());
    rig.secondary(data(0, b"0123"));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn a_reset_with_nothing_held_before_it_leaves_at_once() {
    let mut rig = Rig::new();
    rig.primary(segment(0).rst().ack(1));
    rig.both(data(500, b"mid-stream").port(5));
    rig.primary(segment(510).rst().port(5));
    assert_eq!(rig.reasons(), [Release::NoPayload, Release::Matched, Release::NoPayload]);
    assert!(rig.is_clean());
}

#[test]
fn a_reset_waits_for_the_data_before_it() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"last"));
    rig.primary(segment(4).rst());
    assert!(rig.released().is_empty());
    rig.secondary(data(0, b"last"));
    assert_eq!(rig.released(), [data(0, b"last").frame(), segment(4).rst().frame()]);
}

#[test]
fn a_reset_does_not_overtake_the_syn_before_it() {
    let mut rig = Rig::new();
    rig.primary(segment(99).syn());
    rig.primary(segment(100).rst());
    assert!(rig.released().is_empty());
    rig.secondary(segment(5).syn());
    assert_eq!(rig.released(), [segment(99).syn().frame(), segment(100).rst().frame()]);
}

#[test]
fn a_reset_waits_behind_gated_data() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"last").ack(500));
    rig.secondary(data(0, b"last").ack(400));
    rig.primary(segment(4).rst());
    assert!(rig.released().is_empty());
    rig.secondary(segment(4).ack(500));
    assert_eq!(rig.released(), [data(0, b"last").ack(500).frame(), segment(4).rst().frame()]);
}

#[test]
fn after_a_checkpoint_an_old_end_of_stream_is_forgotten() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.secondary(segment(4).fin());
    rig.primary(data(4, b"more"));
    assert_eq!(rig.divergence().reason, Reason::StreamEnd);
    rig.checkpoint();
    rig.both(data(8, b"and on"));
    assert_eq!(rig.released().len(), 3);
    assert_eq!(rig.record.divergences.len(), 1);
}

#[test]
fn what_is_held_in_a_connection_that_the_client_has_reset_is_dropped_and_no_divergence() {
    let mut rig = Rig::with(|config| config.ack_gate = AckGate::Slower);
    rig.both(data(0, b"both").ack(100));
    // The primary had said more than the secondary when the reset reached them.
    rig.primary(data(4, b"more").ack(100));
    rig.primary(segment(8).ack(200));
    rig.reset(segment(0));
    assert_eq!(rig.held(), 0);
    assert_eq!(rig.released().len(), 1);
    assert_eq!(rig.comparator.counters().reset, 2);
    rig.wait(ms(10_000));
    assert!(rig.is_clean());
}

#[test]
fn a_refused_reset_costs_what_a_lost_frame_does() {
    let mut rig = Rig::new();
    rig.both(data(0, b"both"));
    rig.primary(data(4, b"more"));
    rig.reset(segment(0));
    // Both go on, the primary with a retransmission.
    rig.secondary(data(4, b"more"));
    rig.primary(data(4, b"more"));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn a_reset_of_the_connection_before_leaves_the_new_one_alone() {
    let mut rig = Rig::new();
    rig.both(data(0, b"old"));
    let (key, reset) = (Headers::parse(&HeapFrames, &heap(&segment(0).frame())).key, rig.now);
    rig.wait(ms(1));
    rig.both(segment(1000).syn());
    rig.primary(data(1001, b"new"));
    // It is told when the next connection is there already.
    rig.reset_at(&key, reset);
    assert_eq!(rig.held(), 1);
    rig.secondary(data(1001, b"new"));
    assert_eq!(rig.released().len(), 3);
    // Of a flow that nobody knows it means nothing.
    rig.reset(segment(0).port(9));
    assert!(rig.is_clean());
}

#[test]
fn a_reset_after_a_fin_is_no_payload_beyond_the_other_sides_fin() {
    // Found by the simulator. The primary has closed, and refuses what the client still sends: the
    // number of its reset lies beyond the one of its FIN.
    let mut rig = Rig::with(|config| config.ack_gate = AckGate::Slower);
    rig.both(data(0, b"bye").ack(100));
    rig.primary(segment(3).fin().ack(100));
    rig.primary(segment(4).ack(200));
    rig.primary(segment(4).rst().ack(200));
    rig.secondary(segment(3).fin().ack(100));
    assert!(rig.is_clean());
    rig.secondary(segment(4).ack(200));
    assert_eq!(rig.held(), 0);
    assert_eq!(rig.released().len(), 4);
    assert!(rig.is_clean());
}

#[test]
fn a_reset_does_not_wait_for_bytes_that_were_lost() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.primary(data(4, b"4567"));
    // 8 to 12 never came, and a guest that has reset its connection does not repeat them.
    rig.primary(segment(12).rst());
    rig.secondary(data(4, b"4567"));
    assert_eq!(rig.released()[1..], [data(4, b"4567").frame(), segment(12).rst().frame()]);
}
