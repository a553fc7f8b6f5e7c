//! Timestamps (RFC 7323) where the slower replica's acknowledgements leave: what leaves has one that is no
//! earlier than what has left in the connection, and what both guests sent again is sent once.

use compare_user::compare::{AckGate, Discard, Release, Side};

use crate::rig::Rig;
use crate::wire::{Segment, data, segment};

fn slower() -> Rig {
    Rig::with(|config| config.ack_gate = AckGate::Slower)
}

/// The times that what left was given in place of its own.
fn given(rig: &Rig) -> Vec<Option<u32>> {
    rig.record.released.iter().map(|(_, _, amendment)| amendment.timestamp).collect()
}

fn at(time: u32, start: u32, payload: &[u8]) -> Segment {
    data(start, payload).timestamp(time)
}

#[test]
fn what_waited_leaves_with_the_time_of_the_latest() {
    let mut rig = slower();
    rig.primary(at(10, 0, b"one"));
    rig.primary(at(11, 3, b"two"));
    rig.primary(at(90, 6, b"six"));
    rig.secondary(at(12, 0, b"one"));
    rig.secondary(at(95, 3, b"two"));
    rig.secondary(at(20, 6, b"six"));
    assert_eq!(given(&rig), [Some(90), Some(95), Some(95)]);
    // Later than all that has left: as it is.
    rig.secondary(at(96, 9, b"more"));
    rig.primary(at(97, 9, b"more"));
    assert_eq!(given(&rig)[3..], [None]);
}

#[test]
fn the_time_wraps() {
    let mut rig = slower();
    rig.primary(at(u32::MAX - 5, 0, b"one"));
    rig.secondary(at(3, 0, b"one"));
    rig.primary(at(u32::MAX - 1, 3, b"two"));
    rig.secondary(at(2, 3, b"two"));
    assert_eq!(given(&rig), [Some(3), Some(3)]);
}

#[test]
fn a_time_that_is_not_known_to_be_right_is_given_to_nothing() {
    let mut rig = slower();
    rig.primary(at(10, 0, b"one"));
    // Of bytes that nothing says are of this stream, of bytes that differ, and of another incarnation.
    rig.secondary(at(5_000, 900, b"beyond"));
    rig.secondary(at(6_000, 0, b"oNe"));
    rig.secondary(segment(70_000).syn().timestamp(7_000));
    rig.checkpoint();
    assert_eq!(given(&rig), [None]);
}

#[test]
fn the_secondarys_acknowledgement_counts_once_it_has_left() {
    let mut rig = slower();
    rig.primary(segment(0).ack(100).timestamp(10));
    rig.secondary(segment(0).ack(100).timestamp(10));
    rig.primary(segment(0).ack(500).timestamp(11));
    rig.secondary(segment(0).ack(300).timestamp(40));
    rig.secondary(segment(0).ack(500).timestamp(41));
    assert_eq!(rig.reasons()[1..], [Release::Slower, Release::NoPayload]);
    assert_eq!(given(&rig)[1..], [None, Some(40)]);
}

#[test]
fn a_new_incarnation_has_times_of_its_own() {
    let mut rig = slower();
    rig.primary(at(9_000, 0, b"one"));
    rig.secondary(at(9_000, 0, b"one"));
    rig.primary(segment(70_000).syn().timestamp(100));
    rig.secondary(segment(90_000).syn().timestamp(100));
    rig.primary(at(101, 70_001, b"new"));
    rig.secondary(at(101, 70_001, b"new"));
    assert_eq!(given(&rig), [None; 3]);
}

#[test]
fn a_checkpoint_keeps_the_order_of_times() {
    let mut rig = slower();
    rig.primary(at(10, 0, b"one"));
    rig.primary(at(30, 3, b"two"));
    rig.checkpoint();
    rig.primary(at(20, 0, b"one"));
    assert_eq!(given(&rig), [Some(30), None, Some(30)]);
}

#[test]
fn with_another_gate_times_are_left_alone() {
    for gate in [AckGate::Payload, AckGate::All, AckGate::Off] {
        let mut rig = Rig::with(|config| config.ack_gate = gate);
        rig.primary(at(10, 0, b"one"));
        rig.primary(at(90, 3, b"two"));
        rig.primary(at(95, 0, b"one"));
        rig.secondary(at(100, 0, b"one"));
        rig.secondary(at(110, 3, b"two"));
        assert_eq!(given(&rig), [None; 3], "{gate:?}");
    }
}

#[test]
fn what_the_primary_says_again_while_it_waits_leaves_once() {
    let mut rig = slower();
    let said = |time| at(time, 0, b"one").ack(100);
    rig.secondary(segment(0).ack(100).timestamp(5));
    rig.primary(said(10));
    rig.primary(at(11, 3, b"two").ack(100));
    rig.primary(said(210));
    rig.primary(at(211, 3, b"two").ack(100));
    assert_eq!(rig.discards()[1..], [(Side::Primary, Discard::Superseded); 2]);
    rig.secondary(at(215, 0, b"onetwo").ack(100));
    assert_eq!(rig.released(), [said(10).frame(), at(11, 3, b"two").ack(100).frame()]);
    assert_eq!(given(&rig), [Some(215); 2]);
    assert_eq!(rig.comparator.counters().superseded, 2);
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn what_says_more_than_the_one_that_waits_is_kept() {
    let mut rig = slower();
    rig.primary(at(10, 0, b"one").ack(100));
    rig.primary(at(11, 0, b"one").ack(101));
    rig.primary(at(12, 0, b"onet").ack(100));
    rig.primary(at(13, 0, b"one").ack(100).fin());
    assert_eq!(rig.held(), 4);
}
