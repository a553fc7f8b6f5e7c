//! DESIGN.md section 4.3: checkpoint, failover, rearm and shutdown.

use compare_user::compare::{Checksum, Discard, Reason, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{Bytes, IPV4, data, segment};

fn numbered(number: u16) -> Bytes {
    IPV4.udp(4242, &number.to_be_bytes())
}

/// As a guest that offloads checksums leaves it: the field holds the pseudo-header sum.
fn with_partial_checksum(payload: &[u8]) -> Bytes {
    let mut frame = IPV4.udp(5, payload);
    let words = [0x0a00, 0x0001, 0x0a00, 0x0009, 17, 8 + payload.len() as u32];
    let sum: u32 = words.iter().sum();
    frame[14 + 20 + 6..14 + 20 + 8].copy_from_slice(&(sum as u16).to_be_bytes());
    frame
}

#[test]
fn a_checkpoint_releases_every_primary_frame_oldest_first_and_drops_every_secondary_one() {
    let mut rig = Rig::new();
    let mut expected = Vec::new();
    for number in 0..5_u16 {
        let stream = data(100 - 10 * u32::from(number), b"backwards").frame();
        for frame in [numbered(number), stream] {
            rig.primary(frame.clone());
            expected.push(frame);
        }
        rig.secondary(numbered(100 + number));
        rig.secondary(data(5000, b"far ahead").port(6));
    }
    let before = rig.released().len();
    rig.checkpoint();
    let mut released = rig.released().split_off(before);
    // The first segment's number is the mark: those before it have left as retransmissions.
    released.extend(rig.released().drain(..before));
    released.sort_unstable();
    expected.sort_unstable();
    assert_eq!(released, expected);
    assert_eq!(rig.held(), 0);
    assert!(rig.discards().iter().all(|drop| *drop == (Side::Secondary, Discard::Flushed)));
    assert_eq!(rig.discards().len(), 10);
}

#[test]
fn a_flow_is_flushed_in_the_order_in_which_its_frames_came() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0"));
    let order = [data(5, b"5"), data(3, b"3"), data(4, b"4"), data(1, b"12")].map(|it| it.frame());
    for frame in &order {
        rig.primary(frame.clone());
    }
    rig.wait(ms(3500));
    rig.primary(data(6, b"young"));
    rig.checkpoint();
    assert_eq!(rig.released()[1..5], order);
    assert_eq!(rig.released()[5], data(6, b"young").frame(), "those past the timeout first");
}

#[test]
fn marks_move_to_the_end_of_what_a_checkpoint_released() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"0123456789"));
    rig.secondary(data(0, b"01234xxxxx"));
    rig.checkpoint();
    rig.secondary(data(0, b"01234xxxxx"));
    assert_eq!(rig.discards().last(), Some(&(Side::Secondary, Discard::Retransmission)));
    rig.primary(data(0, b"0123456789"));
    assert_eq!(rig.reasons(), [Release::Flushed, Release::Retransmission]);
    rig.both(data(10, b"next"));
    assert_eq!(rig.reasons()[2], Release::Matched);
    assert_eq!(rig.record.divergences.len(), 1);
}

#[test]
fn a_checkpoint_ends_the_outstanding_request() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"ours"));
    rig.secondary(data(0, b"not!"));
    assert!(rig.comparator.checkpoint_outstanding());
    rig.checkpoint();
    assert!(!rig.comparator.checkpoint_outstanding());
    assert_eq!(rig.comparator.counters().checkpoints, 1);
    assert_eq!(rig.comparator.counters().flushed, 1);
}

#[test]
fn late_copies_of_flushed_datagrams_are_no_divergence() {
    let mut rig = Rig::new();
    for number in 0..100 {
        rig.primary(numbered(number));
    }
    rig.checkpoint();
    for number in 0..100 {
        rig.secondary(numbered(number));
    }
    rig.primary(numbered(500));
    rig.wait(ms(3));
    rig.secondary(numbered(500));
    assert_eq!(rig.released().last(), Some(&numbered(500)));
    rig.wait(ms(5000));
    assert!(rig.is_clean());
    assert_eq!(rig.held(), 0);
    let late = rig.discards().iter().filter(|drop| drop.1 == Discard::LateCopy).count();
    assert_eq!(late, 100);
}

#[test]
fn each_flushed_datagram_excuses_one_copy_only() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.checkpoint();
    rig.secondary(numbered(1));
    rig.secondary(numbered(1));
    rig.wait(ms(3000));
    assert_eq!(rig.divergence().reason, Reason::Timeout);
}

#[test]
fn a_different_datagram_after_a_flush_is_still_a_divergence() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.checkpoint();
    rig.secondary(numbered(2));
    rig.primary(numbered(3));
    rig.wait(ms(3));
    assert_eq!(rig.divergence().reason, Reason::Payload);
}

#[test]
fn a_late_copy_of_a_flow_that_was_forgotten_excuses_no_other_flows_datagram() {
    // Found by the simulator: the slot of the one became that of the other.
    let mut rig = Rig::with(|config| config.flow_limit = 1);
    rig.primary(IPV4.udp(1, b"equal"));
    rig.checkpoint();
    rig.secondary(IPV4.udp(2, b"equal"));
    rig.wait(ms(3000));
    assert_eq!(rig.divergence().reason, Reason::Timeout);
}

#[test]
fn an_equal_datagram_after_a_flush_is_matched_and_not_taken_for_a_late_copy() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.checkpoint();
    rig.wait(ms(10));
    rig.secondary(numbered(1));
    rig.wait(ms(10));
    rig.primary(numbered(1));
    assert_eq!(rig.reasons(), [Release::Flushed, Release::Matched]);
    assert!(rig.is_clean());
}

#[test]
fn a_copy_later_than_one_timeout_is_not_excused() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.checkpoint();
    rig.wait(ms(3001));
    rig.secondary(numbered(1));
    rig.wait(ms(3000));
    assert_eq!(rig.divergence().reason, Reason::Timeout);
}

#[test]
fn late_copies_make_room_for_live_frames_in_a_full_queue() {
    let mut rig = Rig::with(|config| config.queue_limit = 8);
    for number in 0..8 {
        rig.primary(numbered(number));
    }
    rig.checkpoint();
    for number in 0..8 {
        rig.secondary(numbered(number));
    }
    rig.secondary(numbered(100));
    rig.primary(numbered(100));
    assert_eq!(rig.released().last(), Some(&numbered(100)));
    assert!(rig.is_clean());
    assert_eq!(rig.comparator.counters().lost, 0);
}

#[test]
fn failover_to_the_primary_flushes_and_then_passes_everything() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.secondary(numbered(2));
    rig.failover(Side::Primary);
    assert_eq!(rig.comparator.standalone(), Some(Side::Primary));
    assert_eq!(rig.reasons(), [Release::Flushed]);
    for frame in [numbered(3), data(0, b"stream").frame(), segment(9).syn().frame()] {
        rig.both(frame);
    }
    assert_eq!(rig.reasons()[1..], [Release::Standalone; 3]);
    assert_eq!(rig.discards()[1..], [(Side::Secondary, Discard::Standalone); 3]);
    rig.wait(ms(10_000));
    assert!(rig.is_clean());
}

#[test]
fn failover_to_the_secondary_releases_what_it_had_waiting_and_then_its_frames() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.secondary(numbered(2));
    rig.secondary(data(0, b"stream"));
    rig.failover(Side::Secondary);
    assert_eq!(rig.released(), [numbered(2), data(0, b"stream").frame()]);
    assert_eq!(rig.discards(), [(Side::Primary, Discard::Flushed)]);
    rig.both(numbered(3));
    assert_eq!(rig.reasons()[2], Release::Standalone);
    assert_eq!(rig.discards()[1], (Side::Primary, Discard::Standalone));
}

#[test]
fn partial_checksums_are_marked_on_whatever_leaves() {
    let partial = with_partial_checksum(b"payload");
    let mut rig = Rig::new();
    rig.both(partial.clone());
    rig.primary(with_partial_checksum(b"held"));
    rig.checkpoint();
    rig.both(IPV4.udp(5, b"complete"));
    let marks: Vec<_> = rig.record.released.iter().map(|released| released.2.checksum).collect();
    assert_eq!(marks, [Checksum::Partial, Checksum::Partial, Checksum::AsFound]);

    let mut rig = Rig::new();
    rig.secondary(partial.clone());
    rig.failover(Side::Secondary);
    rig.secondary(partial);
    let marks: Vec<_> = rig.record.released.iter().map(|released| released.2.checksum).collect();
    assert_eq!(marks, [Checksum::Partial; 2], "the survivor's waiting frame, and its next");
}

#[test]
fn rearm_compares_again_and_forgets_the_old_streams() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.failover(Side::Primary);
    rig.primary(data(4, b"passed uncompared"));
    rig.comparator.rearm();
    assert_eq!(rig.comparator.standalone(), None);
    rig.primary(data(900, b"next"));
    assert_eq!(rig.released().len(), 2, "held again");
    rig.secondary(data(900, b"next"));
    assert_eq!(rig.reasons()[2], Release::Matched);
    rig.both(numbered(1));
    assert_eq!(rig.released().len(), 4);
    assert!(rig.is_clean());
}

#[test]
fn rearm_without_a_failover_changes_nothing() {
    let mut rig = Rig::new();
    rig.both(data(0, b"0123"));
    rig.comparator.rearm();
    rig.primary(data(0, b"0123"));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Retransmission]);
}

#[test]
fn a_clean_end_loses_nothing_that_the_primary_sent() {
    let mut rig = Rig::new();
    rig.primary(numbered(1));
    rig.primary(data(0, b"stream"));
    rig.secondary(numbered(2));
    rig.shut_down();
    assert_eq!(rig.released(), [numbered(1), data(0, b"stream").frame()]);
    assert_eq!(rig.held(), 0);
}
