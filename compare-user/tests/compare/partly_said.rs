//! A segment of the primary's of which the secondary has said the beginning (DESIGN.md section 4.1).

use compare_user::compare::{AckGate, Discard, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{data, segment};

fn slower() -> Rig {
    Rig::with(|config| config.ack_gate = AckGate::Slower)
}

/// Bytes cut off the beginning of each frame that left.
fn cuts(rig: &Rig) -> Vec<u32> {
    rig.record.released.iter().map(|(.., amendment)| amendment.without_first).collect()
}

/// The primary says ten bytes and twenty; the secondary, which cuts the stream elsewhere, fifteen.
fn partly_said() -> Rig {
    let mut rig = slower();
    rig.primary(data(0, b"0123456789"));
    rig.primary(data(10, b"abcdefghijklmnopqrst"));
    rig.secondary(data(0, b"0123456789abcde"));
    assert_eq!(rig.reasons(), [Release::Matched]);
    rig
}

#[test]
fn the_beginning_leaves_after_the_grace_and_the_rest_without_it() {
    let mut rig = partly_said();
    rig.wait(ms(2));
    assert_eq!(rig.released().len(), 1);
    rig.wait(ms(1));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Slower]);
    assert_eq!(rig.released()[1], data(0, b"0123456789abcde").frame());
    assert_eq!(cuts(&rig), [0, 10], "what had left is cut off");
    rig.secondary(data(15, b"fghijklmnopqrst"));
    assert_eq!(rig.reasons()[2..], [Release::Matched]);
    assert_eq!(rig.released()[2], data(10, b"abcdefghijklmnopqrst").frame());
    assert_eq!(cuts(&rig), [0, 10, 5]);
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn whichever_of_the_two_comes_first() {
    let mut rig = slower();
    rig.primary(data(0, b"0123456789"));
    rig.secondary(data(0, b"0123456789abcde"));
    rig.wait(ms(5));
    rig.primary(data(10, b"abcdefghijklmnopqrst"));
    rig.wait(ms(3));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Slower]);
    assert_eq!(cuts(&rig), [0, 10]);
    assert!(rig.is_clean());
}

#[test]
fn a_piece_leaves_after_the_other() {
    let mut rig = partly_said();
    rig.wait(ms(3));
    rig.secondary(data(15, b"fghij"));
    rig.wait(ms(3));
    rig.secondary(data(20, b"klmno"));
    rig.wait(ms(3));
    assert_eq!(rig.reasons()[1..], [Release::Slower; 3]);
    rig.secondary(data(25, b"pqrst"));
    assert_eq!(cuts(&rig), [0, 10, 0, 0, 15]);
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn a_secondary_that_goes_on_within_the_grace_leaves_nothing_to_do() {
    let mut rig = partly_said();
    rig.secondary(data(15, b"fghij"));
    rig.secondary(data(20, b"klmnopqrst"));
    assert_eq!(rig.reasons(), [Release::Matched; 2]);
    assert_eq!(rig.discards(), [(Side::Secondary, Discard::Compared); 3]);
    rig.wait(ms(5));
    assert_eq!(cuts(&rig), [0, 0]);
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn a_difference_behind_it_is_found_all_the_same() {
    let mut rig = partly_said();
    rig.secondary(data(15, b"fgXij"));
    let seen = rig.divergence();
    assert_eq!((seen.offset, seen.side), (17, Side::Secondary));
    rig.wait(ms(5));
    assert_eq!(rig.released().len(), 1, "nothing leaves of what differs");
    rig.checkpoint();
    assert_eq!(rig.reasons()[1..], [Release::Flushed]);
    assert_eq!(rig.held(), 0);
}

#[test]
fn a_copy_that_nobody_has_compared_does_not_leave() {
    for (again, left) in [(b"01234a", true), (b"0X234a", false)] {
        let mut rig = slower();
        rig.both(data(0, b"01234"));
        // Of what both say again, more than they had said, only the last byte is new.
        rig.primary(data(0, b"01234abcde"));
        rig.secondary(data(0, again));
        rig.wait(ms(3));
        assert_eq!(rig.released().len() == 2, left);
        rig.secondary(data(6, b"bcde"));
        assert_eq!(cuts(&rig).last(), Some(&if left { 6 } else { 0 }));
        assert_eq!(rig.held(), 0);
        assert!(rig.is_clean());
    }
}

#[test]
fn a_checkpoint_releases_what_has_not_left() {
    for (wait, cut) in [(ms(0), 0), (ms(3), 5)] {
        let mut rig = partly_said();
        rig.wait(wait);
        rig.checkpoint();
        assert_eq!(rig.reasons().last(), Some(&Release::Flushed));
        assert_eq!(cuts(&rig).last(), Some(&cut));
        assert_eq!(rig.held(), 0);
        // Its time does not come any more.
        rig.wait(ms(5));
        assert_eq!(rig.reasons().last(), Some(&Release::Flushed));
    }
}

#[test]
fn it_acknowledges_no_more_than_the_primary_has() {
    let mut rig = slower();
    rig.primary(data(0, b"0123456789").ack(1));
    rig.secondary(data(0, b"01234").ack(50));
    rig.wait(ms(5));
    assert!(rig.released().is_empty());
    rig.primary(segment(10).ack(50));
    rig.wait(ms(5));
    assert!(rig.reasons().contains(&Release::Slower));
    assert!(rig.is_clean());
}

#[test]
fn with_another_gate_the_secondarys_segment_has_done_its_work() {
    for gate in [AckGate::Payload, AckGate::All, AckGate::Off] {
        let mut rig = Rig::with(|config| config.ack_gate = gate);
        rig.primary(data(0, b"0123456789"));
        rig.secondary(data(0, b"01234"));
        assert_eq!(rig.discards(), [(Side::Secondary, Discard::Compared)]);
        rig.wait(ms(5));
        assert!(rig.released().is_empty());
    }
}

#[test]
fn in_a_full_queue_the_secondarys_segment_has_done_its_work() {
    let mut rig = Rig::with(|config| {
        config.queue_limit = 4;
        config.ack_gate = AckGate::Slower;
    });
    rig.primary(data(0, b"0123456789"));
    for at in 1..5 {
        rig.secondary(data(at * 2, b"..").ack(0));
    }
    rig.secondary(data(0, b"01").ack(0));
    assert_eq!(rig.comparator.counters().lost, 0);
}
