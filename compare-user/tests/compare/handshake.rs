//! DESIGN.md section 4.1, rules 5 and 7: a SYN begins an incarnation of the flow, and is never
//! compared by number.

use compare_user::compare::{Discard, Reason, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{Segment, data, segment};

const ISN: u32 = 1000;
const OTHER_ISN: u32 = 0x7000_0000;

fn syn_ack(initial: u32) -> Segment {
    segment(initial).syn().ack(77)
}

/// Both have answered a client; the rewriter makes the secondary's numbers the primary's.
fn established() -> Rig {
    let mut rig = Rig::new();
    rig.primary(syn_ack(ISN));
    rig.secondary(syn_ack(OTHER_ISN));
    assert_eq!(rig.reasons(), [Release::Matched]);
    rig
}

#[test]
fn a_syn_ack_leaves_when_the_secondary_has_sent_its_own_whatever_its_number() {
    for first in [Side::Primary, Side::Secondary] {
        let mut rig = Rig::new();
        let number = |side| if side == Side::Primary { ISN } else { OTHER_ISN };
        rig.offer(first, syn_ack(number(first)));
        assert!(rig.released().is_empty());
        rig.offer(first.other(), syn_ack(number(first.other())));
        assert_eq!(rig.released(), [syn_ack(ISN).frame()]);
        assert!(rig.is_clean());
        assert_eq!(rig.held(), 0);
    }
}

#[test]
fn a_syn_of_the_guests_own_connection_leaves_likewise() {
    let mut rig = Rig::new();
    rig.primary(segment(ISN).syn());
    rig.secondary(segment(OTHER_ISN).syn());
    assert_eq!(rig.released(), [segment(ISN).syn().frame()]);
}

#[test]
fn a_syn_without_the_secondarys_ends_in_a_timeout() {
    let mut rig = Rig::new();
    rig.primary(syn_ack(ISN));
    rig.wait(ms(3000));
    let seen = rig.divergence();
    assert_eq!((seen.reason, seen.side), (Reason::Timeout, Side::Primary));
    assert!(rig.released().is_empty());
}

#[test]
fn a_retransmitted_syn_waits_as_the_first_does() {
    let mut rig = Rig::new();
    rig.primary(syn_ack(ISN));
    rig.primary(syn_ack(ISN));
    assert!(rig.released().is_empty());
    rig.secondary(syn_ack(OTHER_ISN));
    assert_eq!(rig.released().len(), 2);
    rig.primary(syn_ack(ISN));
    assert_eq!(rig.reasons()[2], Release::Retransmission);
}

#[test]
fn a_retransmitted_secondary_syn_changes_nothing() {
    let mut rig = established();
    rig.secondary(syn_ack(OTHER_ISN));
    assert_eq!(rig.discards()[1], (Side::Secondary, Discard::Retransmission));
    rig.both(data(ISN + 1, b"goes on"));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn a_syn_ack_that_answers_another_syn_of_the_clients_is_of_another_connection() {
    let mut rig = Rig::new();
    rig.secondary(segment(OTHER_ISN).syn().ack(50));
    rig.secondary(data(OTHER_ISN + 1, b"of the other").ack(50));
    rig.primary(segment(ISN).syn().ack(77));
    rig.secondary(segment(OTHER_ISN).syn().ack(50));
    assert!(rig.released().is_empty(), "the secondary has not answered what the primary answers");
    assert_eq!(rig.discards(), [(Side::Secondary, Discard::Flushed); 3]);
    rig.secondary(segment(30).syn().ack(77));
    assert_eq!(rig.released().len(), 1);
    rig.both(data(ISN + 1, b"goes on").ack(77));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn a_syn_ack_after_a_checkpoint_belongs_to_the_connection_whose_syn_it_answers() {
    for (answers, of_this) in [(1000, true), (0xffff_8000, true), (0xfffe_0000, false)] {
        let mut rig = Rig::new();
        rig.primary(segment(ISN).syn().ack(1000));
        rig.checkpoint();
        // On its way since before the checkpoint, or of a connection that the primary has yet to begin.
        rig.secondary(segment(OTHER_ISN).syn().ack(answers));
        assert_eq!(rig.held() == 0, of_this);
        rig.primary(segment(700).syn().ack(answers));
        assert_eq!(rig.released().len(), 1 + usize::from(!of_this));
    }
}

#[test]
fn the_first_byte_after_the_syn_is_offset_zero() {
    let mut rig = established();
    rig.primary(data(ISN + 1, b"a"));
    rig.secondary(data(ISN + 1, b"b"));
    assert_eq!(rig.divergence().offset, 0);
}

#[test]
fn a_new_incarnation_with_lower_numbers_is_compared() {
    let mut rig = established();
    rig.both(data(ISN + 1, b"old"));
    rig.primary(syn_ack(10));
    rig.secondary(syn_ack(20));
    rig.primary(data(11, b"new"));
    rig.secondary(data(11, b"nEw"));
    assert_eq!(rig.divergence().offset, 1);
    assert_eq!(rig.released().len(), 3, "the first data of the new incarnation is held");
}

#[test]
fn a_new_incarnation_lets_the_old_ones_segments_leave_first_and_drops_the_secondarys() {
    let mut rig = established();
    rig.primary(data(ISN + 1, b"equal").ack(9999));
    rig.secondary(data(ISN + 1, b"equal"));
    rig.primary(data(ISN + 6, b"unseen"));
    rig.secondary(data(ISN + 50, b"waits beyond a gap"));
    rig.primary(syn_ack(10));
    let old = [data(ISN + 1, b"equal").ack(9999).frame(), data(ISN + 6, b"unseen").frame()];
    assert_eq!(rig.released()[1..], old, "the compared and gated one, then the other");
    assert_eq!(rig.reasons()[1..], [Release::Superseded; 2]);
    assert_eq!(rig.discards().last(), Some(&(Side::Secondary, Discard::Flushed)));
    rig.secondary(syn_ack(20));
    assert_eq!(rig.released().last(), Some(&syn_ack(10).frame()));
}

#[test]
fn the_secondary_may_begin_the_next_incarnation_first() {
    let mut rig = established();
    rig.both(data(ISN + 1, b"old"));
    rig.secondary(syn_ack(20));
    rig.secondary(data(11, b"new"));
    rig.primary(data(ISN + 4, b"old again"));
    assert_eq!(rig.released().len(), 2, "the new bytes are not compared with the old stream");
    assert!(rig.is_clean());
    rig.primary(syn_ack(10));
    rig.primary(data(11, b"new"));
    assert_eq!(
        rig.reasons(),
        [
            Release::Matched,
            Release::Matched,
            Release::Superseded,
            Release::Matched,
            Release::Matched
        ]
    );
    assert!(rig.is_clean());
    assert_eq!(rig.held(), 0);
}

#[test]
fn the_secondary_may_be_two_incarnations_ahead() {
    let mut rig = Rig::new();
    for (initial, payload) in [(20, b"first"), (40, b"again")] {
        rig.secondary(syn_ack(initial));
        rig.secondary(data(initial + 1, payload));
    }
    rig.primary(syn_ack(20));
    rig.primary(data(21, b"first"));
    assert_eq!(rig.released().len(), 2);
    rig.primary(syn_ack(40));
    rig.primary(data(41, b"again"));
    assert_eq!(rig.released().len(), 4);
    assert!(rig.is_clean());
    assert_eq!(rig.held(), 0);
}

#[test]
fn late_secondary_segments_of_the_old_incarnation_do_not_touch_the_new_one() {
    let mut rig = established();
    rig.both(data(ISN + 1, b"old"));
    rig.primary(syn_ack(10));
    rig.secondary(data(ISN + 4, b"last of the old").fin().ack(5000));
    rig.secondary(syn_ack(20));
    rig.primary(data(11, b"new").ack(90));
    rig.secondary(data(11, b"new").ack(80));
    assert_eq!(rig.released().len(), 3, "an acknowledgement of the old opens no gate of the new");
    rig.secondary(segment(14).ack(90));
    assert_eq!(rig.released().len(), 4);
    assert!(rig.is_clean(), "the old stream's end is not the new one's");
}

#[test]
fn data_on_a_syn_is_compared_at_the_start_of_the_stream() {
    for first in [Side::Primary, Side::Secondary] {
        for (payload, leaves) in [(b"cookie", true), (b"other!", false)] {
            let mut rig = Rig::new();
            let number = |side| if side == Side::Primary { ISN } else { OTHER_ISN };
            rig.offer(first, segment(number(first)).syn().payload(b"cookie"));
            rig.offer(first.other(), segment(number(first.other())).syn().payload(payload));
            assert_eq!(rig.released().len(), usize::from(leaves), "{first:?} first");
            assert_eq!(rig.is_clean(), leaves);
        }
    }
}

#[test]
fn a_checkpoint_during_the_handshake_makes_the_secondary_have_sent_its_syn() {
    let mut rig = Rig::new();
    rig.primary(syn_ack(ISN));
    rig.checkpoint();
    assert_eq!(rig.reasons(), [Release::Flushed]);
    rig.both(data(ISN + 1, b"goes on"));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn a_secondary_syn_that_was_on_its_way_during_a_checkpoint_is_not_a_new_incarnation() {
    let mut rig = Rig::new();
    rig.primary(syn_ack(ISN));
    rig.checkpoint();
    rig.secondary(syn_ack(OTHER_ISN));
    rig.both(data(ISN + 1, b"goes on"));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
    assert_eq!(rig.held(), 0);
}

#[test]
fn after_a_checkpoint_the_secondary_repeats_the_primarys_syn() {
    let mut rig = established();
    rig.checkpoint();
    rig.both(syn_ack(ISN));
    assert_eq!(rig.discards()[1], (Side::Secondary, Discard::Retransmission));
    rig.both(data(ISN + 1, b"goes on"));
    assert_eq!(rig.released().len(), 3);
    assert!(rig.is_clean());
}

#[test]
fn a_flow_is_reported_once_per_checkpoint_whatever_its_incarnation() {
    let mut rig = Rig::new();
    for initial in [10, 50] {
        rig.primary(syn_ack(initial));
        rig.secondary(syn_ack(initial));
        rig.primary(data(initial + 1, b"ours"));
        rig.secondary(data(initial + 1, b"not!"));
    }
    assert_eq!(rig.record.divergences.len(), 1);
    assert_eq!(rig.record.requests, 1);
}
