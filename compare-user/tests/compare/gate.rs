//! DESIGN.md section 4.1, rules 2 and 5: what a primary segment acknowledges must have been
//! acknowledged by the secondary, or the secondary might never see data that the client thinks
//! delivered.

use compare_user::compare::{AckGate, Discard, Reason, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{Segment, data, segment};

fn reply(sequence: u32, acknowledgement: u32) -> Segment {
    data(sequence, b"reply").ack(acknowledgement)
}

#[test]
fn a_compared_segment_waits_for_the_secondarys_acknowledgement() {
    let mut rig = Rig::new();
    rig.primary(reply(0, 500));
    rig.secondary(reply(0, 400));
    assert!(rig.released().is_empty(), "compared, but the secondary has not seen 400..500");
    rig.secondary(segment(5).ack(499));
    assert!(rig.released().is_empty());
    rig.secondary(segment(5).ack(500));
    assert_eq!(rig.reasons(), [Release::Matched]);
    assert!(rig.is_clean(), "waiting is not a divergence");
}

#[test]
fn a_secondary_that_acknowledged_more_holds_nothing_back() {
    let mut rig = Rig::new();
    rig.secondary(segment(0).ack(900));
    rig.both(reply(0, 500));
    assert_eq!(rig.reasons(), [Release::Matched]);
}

#[test]
fn acknowledgements_are_ordered_across_the_wrap() {
    let mut rig = Rig::new();
    rig.primary(reply(0, 10));
    rig.secondary(reply(0, u32::MAX - 10));
    assert!(rig.released().is_empty());
    rig.secondary(segment(5).ack(10));
    assert_eq!(rig.released().len(), 1);
}

#[test]
fn an_older_acknowledgement_of_the_secondary_takes_nothing_back() {
    let mut rig = Rig::new();
    rig.secondary(segment(0).ack(500));
    rig.secondary(segment(0).ack(100));
    rig.both(reply(0, 500));
    assert_eq!(rig.released().len(), 1);
}

#[test]
fn a_segment_without_an_acknowledgement_is_not_gated() {
    let mut rig = Rig::new();
    rig.both(data(0, b"no ack flag"));
    assert_eq!(rig.released().len(), 1);
}

#[test]
fn gated_segments_leave_in_order() {
    let mut rig = Rig::new();
    rig.primary(reply(0, 500));
    rig.primary(reply(5, 300));
    rig.secondary(reply(0, 300));
    rig.secondary(reply(5, 300));
    assert!(rig.released().is_empty(), "the second could leave, but not before the first");
    rig.secondary(segment(10).ack(500));
    assert_eq!(rig.released(), [reply(0, 500).frame(), reply(5, 300).frame()]);
}

#[test]
fn waiting_for_an_acknowledgement_ends_in_a_timeout() {
    let mut rig = Rig::new();
    rig.primary(reply(0, 500));
    rig.secondary(reply(0, 400));
    rig.wait(ms(2999));
    assert!(rig.is_clean());
    rig.wait(ms(1));
    let seen = rig.divergence();
    assert_eq!((seen.reason, seen.side), (Reason::Timeout, Side::Primary));
}

#[test]
fn a_retransmission_too_obeys_the_gate() {
    let mut rig = Rig::new();
    rig.both(reply(0, 100));
    rig.primary(reply(0, 200));
    assert_eq!(rig.released().len(), 1);
    rig.secondary(segment(5).ack(200));
    assert_eq!(rig.released(), [reply(0, 100).frame(), reply(0, 200).frame()]);
}

#[test]
fn a_bare_acknowledgement_leaves_at_once() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"held"));
    rig.primary(segment(4).ack(12345));
    assert_eq!(rig.reasons(), [Release::NoPayload]);
    assert_eq!(rig.held(), 1);
}

#[test]
fn a_bare_acknowledgement_of_the_secondary_is_consumed() {
    let mut rig = Rig::new();
    rig.secondary(segment(4).ack(12345));
    assert_eq!(rig.discards(), [(Side::Secondary, Discard::Compared)]);
}

#[test]
fn with_all_gated_a_bare_acknowledgement_waits_for_the_secondarys() {
    let mut rig = Rig::with(|config| config.ack_gate = AckGate::All);
    rig.primary(segment(0).ack(100));
    rig.primary(segment(0).ack(200));
    assert!(rig.released().is_empty());
    rig.secondary(segment(0).ack(100));
    assert_eq!(rig.released(), [segment(0).ack(100).frame()]);
    rig.secondary(segment(0).ack(250));
    assert_eq!(rig.reasons(), [Release::NoPayload; 2]);
    rig.primary(segment(0).ack(250));
    assert_eq!(rig.released().len(), 3, "what is acknowledged already leaves at once");
}

#[test]
fn a_checkpoint_makes_the_secondary_have_acknowledged_what_the_primary_has() {
    let mut rig = Rig::new();
    rig.primary(reply(0, 500));
    rig.secondary(reply(0, 100));
    rig.checkpoint();
    assert_eq!(rig.reasons(), [Release::Flushed]);
    rig.primary(data(5, b"more").ack(500));
    rig.secondary(data(5, b"more").ack(400));
    assert_eq!(rig.reasons(), [Release::Flushed, Release::Matched]);
}

#[test]
fn a_reset_is_not_gated() {
    let mut rig = Rig::new();
    rig.primary(segment(0).rst().ack(500));
    assert_eq!(rig.reasons(), [Release::NoPayload]);
}

#[test]
fn a_fin_is_gated() {
    let mut rig = Rig::new();
    rig.both(reply(0, 100));
    rig.primary(segment(5).fin().ack(200));
    assert_eq!(rig.released().len(), 1);
    rig.secondary(segment(5).ack(200));
    assert_eq!(rig.released().len(), 2);
}

fn slower() -> Rig {
    Rig::with(|config| config.ack_gate = AckGate::Slower)
}

#[test]
fn the_slower_replicas_acknowledgement_leaves_in_place_of_the_others() {
    let mut rig = slower();
    rig.primary(segment(0).ack(100));
    rig.secondary(segment(0).ack(100));
    // The primary has more; the secondary comes to it in steps of its own.
    rig.primary(segment(0).ack(500));
    rig.secondary(segment(0).ack(200));
    rig.secondary(segment(0).ack(300));
    rig.secondary(segment(0).ack(700));
    let acknowledged = [100, 200, 300, 500].map(|number| segment(0).ack(number).frame());
    assert_eq!(rig.released(), acknowledged);
    use Release::{NoPayload, Slower};
    assert_eq!(rig.reasons(), [NoPayload, Slower, Slower, NoPayload]);
    // Now the primary is the slower one.
    rig.primary(segment(0).ack(600));
    assert_eq!(rig.reasons()[4..], [NoPayload]);
    assert!(rig.is_clean());
}

#[test]
fn a_secondary_that_lacks_something_says_so_again_and_again() {
    let mut rig = slower();
    rig.primary(segment(0).ack(100));
    rig.secondary(segment(0).ack(100));
    // Nothing waits: what the secondary repeats is no news.
    rig.secondary(segment(0).ack(100));
    assert_eq!(rig.released().len(), 1);
    for number in [200, 300, 400] {
        rig.primary(segment(0).ack(number));
        rig.secondary(segment(0).ack(100));
    }
    assert_eq!(rig.reasons()[1..], [Release::Slower; 3]);
    assert_eq!(rig.held(), 1, "of the primary's, the latest waits");
    let superseded = (Side::Primary, Discard::Superseded);
    assert_eq!(rig.discards().iter().filter(|it| **it == superseded).count(), 2);
    rig.secondary(segment(0).ack(400));
    assert_eq!(rig.released().last(), Some(&segment(0).ack(400).frame()));
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn no_acknowledgement_leaves_that_one_of_the_two_has_not_given() {
    let mut rig = slower();
    rig.both(reply(0, 100));
    rig.secondary(segment(5).ack(900));
    rig.secondary(segment(5).ack(300));
    assert_eq!(rig.released().len(), 1, "the primary has 100");
    rig.primary(segment(5).ack(400));
    assert_eq!(rig.reasons()[1..], [Release::NoPayload]);
    rig.primary(data(5, b"more").ack(950));
    rig.secondary(segment(5).ack(930));
    assert_eq!(rig.reasons()[2..], [Release::Slower], "the answer waits for what lies between");
    rig.secondary(segment(5).ack(950));
    assert_eq!(rig.released().len(), 3, "what waits says it too");
    rig.secondary(data(5, b"more").ack(950));
    assert_eq!(rig.reasons()[3..], [Release::Matched]);
}

#[test]
fn a_diverged_flow_is_not_spoken_for_by_its_secondary() {
    let mut rig = slower();
    rig.both(reply(0, 100));
    rig.primary(data(5, b"same").ack(300));
    rig.secondary(data(5, b"SAME").ack(200));
    rig.secondary(segment(9).ack(250));
    assert_eq!(rig.released().len(), 1);
    assert_eq!(rig.divergence().reason, Reason::Payload);
}

#[test]
fn a_secondary_that_missed_the_clients_acknowledgement_gets_it_again() {
    let mut rig = slower();
    rig.both(data(0, b"page"));
    // The primary has the acknowledgement and goes on; the secondary repeats what the client has. The
    // first repetition may be the client's doing, ...
    rig.primary(data(4, b"next"));
    rig.secondary(data(0, b"page"));
    assert_eq!(rig.reasons(), [Release::Matched]);
    rig.secondary(data(0, b"page"));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Slower]);
    rig.secondary(data(4, b"next"));
    assert_eq!(rig.released().len(), 3);
    rig.secondary(data(0, b"page"));
    assert_eq!(rig.released().len(), 3);
    // ... and so is any that the primary makes too.
    rig.primary(data(0, b"page"));
    rig.secondary(data(0, b"page"));
    assert_eq!(rig.reasons()[3..], [Release::Retransmission]);
    rig.secondary(data(0, b"page"));
    assert_eq!(rig.reasons()[4..], [Release::Slower]);
    assert!(rig.is_clean());
}

#[test]
fn what_the_secondary_says_again_leaves_without_a_payload_that_nobody_can_compare() {
    for payload in [b"page", b"PAGE"] {
        let mut rig = slower();
        rig.both(data(0, b"page"));
        rig.secondary(data(0, payload));
        rig.secondary(data(0, payload));
        assert_eq!(rig.reasons()[1..], [Release::Slower]);
        assert!(rig.record.released[1].2.without_payload);
    }
    // Of what the primary has waiting, only the same leaves whole.
    for (payload, same) in [(b"one ", true), (b"ONE ", false)] {
        let mut rig = slower();
        rig.primary(data(4, b"one long segment"));
        rig.secondary(data(4, b"one "));
        rig.secondary(data(4, payload));
        rig.secondary(data(4, payload));
        assert_eq!(rig.reasons(), [Release::Slower]);
        assert_eq!(rig.record.released[0].2.without_payload, !same);
    }
}

#[test]
fn a_secondary_that_missed_the_answer_to_its_syn_ack_gets_it_again() {
    let mut rig = slower();
    rig.primary(segment(1000).syn().ack(1));
    rig.secondary(segment(5000).syn().ack(1));
    // Both repeat it: the client may have neither, and must not take the secondary's.
    rig.secondary(segment(5000).syn().ack(1));
    rig.primary(segment(1000).syn().ack(1));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Retransmission]);
    // The primary speaks, so the client has answered it.
    rig.primary(data(1001, b"220 ready").ack(1));
    rig.secondary(segment(5000).syn().ack(1));
    assert_eq!(rig.reasons()[2..], [Release::Slower]);
    assert!(rig.is_clean());
}

#[test]
fn a_secondary_that_missed_the_acknowledgement_of_its_fin_gets_it_again() {
    let mut rig = slower();
    rig.both(data(0, b"bye").fin());
    rig.secondary(segment(3).fin());
    rig.secondary(segment(3).fin());
    assert_eq!(rig.reasons(), [Release::Matched, Release::Slower]);
    // One that has not left is not repeated.
    let mut rig = slower();
    rig.both(data(0, b"bye"));
    rig.secondary(segment(3).fin());
    rig.secondary(segment(3).fin());
    rig.secondary(segment(3).fin());
    assert_eq!(rig.released().len(), 1);
}

#[test]
fn a_secondary_that_cuts_the_stream_finer_is_not_left_waiting_for_the_rest() {
    let mut rig = slower();
    rig.both(data(0, b"head").ack(100));
    rig.primary(data(4, b"one long segment").ack(100));
    rig.secondary(data(4, b"one ").ack(100));
    // The rest was lost. The secondary repeats what nobody has acknowledged, and nothing more.
    rig.secondary(data(4, b"one ").ack(100));
    assert_eq!(rig.released().len(), 1);
    rig.secondary(data(4, b"one ").ack(100));
    assert_eq!(rig.reasons()[1..], [Release::Slower]);
    assert_eq!(rig.released()[1], data(4, b"one ").ack(100).frame());
    rig.secondary(data(8, b"long segment").ack(100));
    assert_eq!(rig.reasons()[2..], [Release::Matched]);
    assert!(rig.is_clean());
}

#[test]
fn what_the_secondary_repeats_acknowledges_nothing_that_the_primary_has_not() {
    let mut rig = slower();
    rig.both(data(0, b"page").ack(100));
    rig.primary(data(4, b"next").ack(100));
    rig.secondary(data(0, b"page").ack(200));
    rig.secondary(data(0, b"page").ack(200));
    assert_eq!(rig.released().len(), 1);
}

/// Segments of ten bytes by number, and whether a released frame is one of them.
fn ten(number: u32) -> Segment {
    data(number * 10, format!("segment {number:02}").as_bytes()).ack(1)
}

/// The second of four segments is missing from the secondary; the two behind it have left.
fn beyond_a_gap() -> Rig {
    let mut rig = slower();
    rig.both(ten(0));
    rig.primary(ten(1));
    rig.both(ten(2));
    rig.wait(ms(3));
    rig.both(ten(3));
    rig
}

#[test]
fn what_both_have_said_beyond_a_gap_leaves_so_that_the_client_can_tell_of_it() {
    // Lost: the secondary's second segment, or the primary's, or both.
    for (primary_lost, secondary_lost) in [(false, true), (true, false), (true, true)] {
        let mut rig = slower();
        rig.both(ten(0));
        if !primary_lost {
            rig.primary(ten(1));
        }
        if !secondary_lost {
            rig.secondary(ten(1));
        }
        for number in 2..5 {
            rig.both(ten(number));
        }
        assert_eq!(rig.released(), [ten(0).frame()], "it may be out of order only");
        rig.wait(ms(3));
        rig.both(ten(5));
        let beyond: Vec<_> = (2..6).map(|number| ten(number).frame()).collect();
        assert_eq!(rig.released()[1..], beyond, "{primary_lost} {secondary_lost}");
        // Told by the client, whose was lost sends it again; then all goes on as before.
        if primary_lost {
            rig.primary(ten(1));
        }
        if secondary_lost {
            rig.secondary(ten(1));
        }
        rig.both(ten(6));
        assert_eq!(rig.released()[5..], [ten(1).frame(), ten(6).frame()]);
        assert!(rig.is_clean());
        assert_eq!(rig.held(), 0);
    }
}

#[test]
fn a_difference_beyond_a_gap_is_held_and_found_when_the_gap_is_closed() {
    let mut rig = slower();
    rig.both(ten(0));
    rig.primary(ten(1));
    rig.primary(ten(2));
    rig.secondary(data(20, b"SEGMENT 02").ack(1));
    rig.wait(ms(3));
    rig.both(ten(3));
    assert_eq!(rig.released(), [ten(0).frame()]);
    rig.secondary(ten(1));
    assert_eq!(rig.released()[1..], [ten(1).frame()]);
    let seen = rig.divergence();
    assert_eq!((seen.reason, seen.offset), (Reason::Payload, 20));
}

#[test]
fn other_gates_wait_for_the_gap() {
    let mut rig = Rig::with(|config| config.ack_gate = AckGate::All);
    rig.both(ten(0));
    rig.primary(ten(1));
    rig.both(ten(2));
    rig.wait(ms(3));
    rig.both(ten(3));
    assert_eq!(rig.released(), [ten(0).frame()]);
}

#[test]
fn segments_cut_differently_beyond_a_gap_leave_when_all_of_them_is_said() {
    let mut rig = slower();
    rig.both(ten(0));
    rig.primary(ten(1));
    rig.primary(data(20, b"one long segment here").ack(1));
    rig.secondary(data(20, b"one long").ack(1));
    rig.wait(ms(3));
    rig.secondary(data(28, b" segment").ack(1));
    assert_eq!(rig.released().len(), 1);
    rig.secondary(data(36, b" here and on").ack(1));
    assert_eq!(rig.released().len(), 2);
    rig.secondary(ten(1));
    rig.primary(data(41, b" and on").ack(1));
    assert_eq!(rig.released().len(), 4);
    assert!(rig.is_clean());
}

/// As [`ten`], for more of them.
fn numbered(number: u32) -> Segment {
    data(number * 10, format!("{number:010}").as_bytes()).ack(1)
}

#[test]
fn the_end_of_a_window_leaves_beyond_a_gap_as_large_as_a_window() {
    for (window, said) in [(400, 390..400), (400, 5..40), (1000, 480..500), (1000, 505..530)] {
        let mut rig = slower();
        rig.both(numbered(0));
        for number in 1..window {
            rig.primary(numbered(number));
        }
        rig.wait(ms(3));
        for number in said.clone() {
            rig.secondary(numbered(number));
        }
        let left: Vec<_> = said.map(|number| numbered(number).frame()).collect();
        assert_eq!(rig.released()[1..], left);
        for number in 1..window {
            rig.secondary(numbered(number));
        }
        assert_eq!(rig.released().len(), window as usize);
        assert_eq!(rig.held(), 0);
        assert!(rig.is_clean());
    }
}

#[test]
fn a_checkpoint_forgets_what_had_left_beyond_a_gap() {
    let mut rig = beyond_a_gap();
    assert_eq!(rig.released().len(), 3);
    rig.checkpoint();
    assert_eq!(rig.reasons()[3..], [Release::Flushed]);
    // The secondary is the primary now, and sends again what nobody has acknowledged.
    rig.both(ten(1));
    rig.both(ten(2));
    rig.both(ten(3));
    rig.both(ten(4));
    assert_eq!(rig.released().last(), Some(&ten(4).frame()));
    assert!(rig.is_clean());
}

// Found by the simulator (tests/simulate).

#[test]
fn a_repetition_that_leaves_opens_the_gate_first() {
    let mut rig = slower();
    rig.both(data(0, b"page").ack(100));
    rig.primary(segment(4).ack(200));
    rig.secondary(data(0, b"page").ack(100));
    rig.secondary(data(0, b"page").ack(200));
    let released = [segment(4).ack(200).frame(), data(0, b"page").ack(200).frame()];
    assert_eq!(rig.released()[1..], released);
    assert_eq!(rig.held(), 0);
}

#[test]
fn data_does_not_wait_behind_an_acknowledgement_that_came_later() {
    let mut rig = slower();
    rig.primary(data(0, b"data").ack(100));
    rig.primary(segment(4).ack(500));
    rig.secondary(data(0, b"data").ack(100));
    assert_eq!(rig.released(), [data(0, b"data").ack(100).frame()]);
    // Nor is it overtaken by the secondary's acknowledgement, which has a newer timestamp.
    rig.secondary(segment(4).ack(300));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Slower]);
}

#[test]
fn data_does_not_wait_behind_a_repetition_that_acknowledges_more() {
    let mut rig = Rig::new();
    rig.both(data(0, b"once").ack(100));
    rig.primary(data(4, b"more").ack(100));
    rig.primary(data(0, b"once").ack(500));
    rig.secondary(data(4, b"more").ack(100));
    assert_eq!(rig.reasons(), [Release::Matched; 2]);
    rig.secondary(segment(8).ack(500));
    assert_eq!(rig.reasons()[2..], [Release::Matched]);
}

#[test]
fn a_repetition_that_came_before_it_was_compared_waits_for_itself_only() {
    let mut rig = Rig::new();
    rig.secondary(segment(0).ack(100));
    rig.primary(data(0, b"once").ack(100));
    rig.primary(data(4, b"more").ack(100));
    rig.primary(data(0, b"once").ack(500));
    rig.secondary(data(0, b"oncemore").ack(100));
    assert_eq!(rig.released(), [data(0, b"once"), data(4, b"more")].map(|it| it.ack(100).frame()));
    assert_eq!(rig.held(), 1);
    rig.secondary(segment(8).ack(500));
    assert_eq!(rig.held(), 0);
}

#[test]
fn an_acknowledgement_that_comes_late_replaces_no_later_one() {
    let mut rig = slower();
    rig.both(segment(0).ack(100));
    rig.primary(segment(0).ack(500));
    rig.primary(segment(0).ack(300));
    assert_eq!(rig.held(), 1);
    rig.secondary(segment(0).ack(500));
    assert_eq!(rig.released().last(), Some(&segment(0).ack(500).frame()));
    // One that the secondary has given already need not wait for the one that waits.
    rig.primary(segment(0).ack(900));
    rig.primary(segment(0).ack(400));
    assert_eq!(rig.released().last(), Some(&segment(0).ack(400).frame()));
    assert_eq!(rig.held(), 1);
}

#[test]
fn a_segment_that_reaches_what_left_beyond_a_gap_leaves() {
    let mut rig = beyond_a_gap();
    assert_eq!(rig.released().len(), 3, "the second and third lie beyond a gap");
    // The gap is closed by what the two have cut differently.
    rig.secondary(data(10, b"segment 01").ack(1));
    assert_eq!(rig.released().len(), 4);
    let mut rig = slower();
    rig.both(ten(0));
    rig.both(data(20, b"segment 02segment 03").ack(1));
    rig.wait(ms(3));
    rig.both(data(40, b"on").ack(1));
    assert_eq!(rig.released().len(), 3);
    rig.secondary(data(10, b"segment 01").ack(1));
    rig.primary(data(10, b"segment 01segment 02").ack(1));
    assert_eq!(rig.released().len(), 4);
    assert_eq!(rig.held(), 0);
    assert!(rig.is_clean());
}

#[test]
fn after_a_checkpoint_the_stream_goes_on_behind_what_had_left_beyond_a_gap() {
    let mut rig = beyond_a_gap();
    rig.checkpoint();
    assert_eq!(rig.released().len(), 4);
    // The client has got all of it, and nobody says it again.
    rig.both(ten(4));
    assert_eq!(rig.reasons()[4..], [Release::Matched]);
    assert_eq!(rig.held(), 0);
}

#[test]
fn what_was_repeated_before_a_checkpoint_was_not_repeated_by_this_secondary() {
    let mut rig = slower();
    rig.both(data(0, b"page").ack(100));
    rig.secondary(data(0, b"page").ack(100));
    rig.checkpoint();
    rig.secondary(data(0, b"page").ack(100));
    assert_eq!(rig.released().len(), 1);
    rig.secondary(data(0, b"page").ack(100));
    assert_eq!(rig.reasons()[1..], [Release::Slower]);
}

#[test]
fn what_a_checkpoint_has_acknowledged_the_secondary_does_not_tell_again() {
    let mut rig = slower();
    rig.both(data(0, b"page").ack(100));
    rig.primary(data(4, b"next").ack(300));
    rig.checkpoint();
    rig.secondary(segment(8).ack(300));
    assert_eq!(rig.reasons(), [Release::Matched, Release::Flushed]);
}
