//! DESIGN.md section 4.3: limits and time.

use compare_user::compare::{AckGate, Config, Discard, Reason, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{Bytes, IPV4, data, segment};

fn numbered(number: u16) -> Bytes {
    IPV4.udp(4242, &number.to_be_bytes())
}

/// A datagram of the flow to `port`.
fn to(port: u16) -> Bytes {
    IPV4.udp(port, b"payload")
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = Config::default();
    assert_eq!(config.queue_limit, 1024);
    assert_eq!(config.flow_limit, 1_048_576);
    assert_eq!(config.compare_timeout, ms(3000));
    assert_eq!(config.reorder_grace, ms(2));
}

#[test]
fn a_full_primary_queue_drops_the_new_frame_counts_it_and_asks_for_a_checkpoint() {
    let mut rig = Rig::with(|config| config.queue_limit = 4);
    for number in 0..6 {
        rig.primary(numbered(number));
    }
    assert_eq!(rig.discards(), [(Side::Primary, Discard::QueueFull); 2]);
    let seen = rig.divergence();
    assert_eq!((seen.reason, seen.side), (Reason::QueueFull, Side::Primary));
    assert_eq!(rig.record.requests, 1);
    assert_eq!(rig.comparator.counters().lost, 2);
    rig.checkpoint();
    assert_eq!(rig.released(), (0..4).map(numbered).collect::<Vec<_>>(), "the held ones remain");
}

#[test]
fn a_full_secondary_queue_likewise() {
    let mut rig = Rig::with(|config| config.queue_limit = 4);
    for at in 0..6 {
        rig.secondary(data(10 + at, b"x"));
    }
    assert_eq!(rig.discards(), [(Side::Secondary, Discard::QueueFull); 2]);
    assert_eq!(rig.divergence().side, Side::Secondary);
}

#[test]
fn the_queue_limit_is_per_flow_and_side() {
    let mut rig = Rig::with(|config| config.queue_limit = 4);
    for port in [1, 2] {
        for at in 0..4 {
            rig.primary(data(10 + at, b"x").port(port));
            rig.secondary(data(100 + at, b"x").port(port));
        }
    }
    assert_eq!(rig.held(), 16);
    assert!(rig.is_clean());
}

#[test]
fn a_segment_that_its_partner_waits_for_needs_no_place_in_a_full_queue() {
    let mut rig = Rig::with(|config| config.queue_limit = 4);
    rig.primary(data(0, b"0123456789"));
    for at in 1..5 {
        rig.secondary(data(at * 2, b"..").ack(0));
    }
    rig.secondary(data(0, b"01"));
    assert!(rig.discards().contains(&(Side::Secondary, Discard::Compared)));
    assert_eq!(rig.comparator.counters().lost, 0);
}

#[test]
fn a_matched_segment_that_overtakes_what_waits_at_the_gate_needs_no_place_in_a_full_queue() {
    let mut rig = Rig::with(|config| {
        config.queue_limit = 2;
        config.ack_gate = AckGate::All;
    });
    rig.both(data(0, b"hello").ack(0));
    rig.primary(segment(10).ack(100));
    rig.primary(segment(10).ack(195));
    rig.secondary(data(5, b"world").ack(0));
    rig.primary(data(5, b"world").ack(0));
    assert_eq!(rig.reasons(), [Release::Matched; 2]);
    assert_eq!(rig.held(), 2);
    assert!(rig.is_clean());
}

#[test]
fn the_memory_limit_is_over_all_flows() {
    let mut rig = Rig::with(|config| config.held_limit = 4);
    for port in 0..4 {
        rig.primary(to(port));
    }
    rig.primary(to(4));
    assert_eq!(rig.discards(), [(Side::Primary, Discard::MemoryFull)]);
    assert_eq!(rig.divergence().reason, Reason::Memory);
    assert_eq!(rig.record.requests, 1);
    assert_eq!(rig.held(), 4);
}

#[test]
fn a_partner_is_matched_even_when_memory_is_full() {
    let mut rig = Rig::with(|config| config.held_limit = 2);
    rig.primary(to(1));
    rig.primary(data(0, b"stream"));
    rig.secondary(to(1));
    rig.primary(to(2));
    rig.secondary(data(0, b"stream"));
    assert_eq!(rig.released().len(), 2);
    assert!(rig.is_clean());
}

#[test]
fn the_flow_idle_longest_goes_when_the_table_is_full() {
    let mut rig = Rig::with(|config| config.flow_limit = 3);
    for port in [1, 2, 3] {
        rig.both(data(0, b"0123").port(port));
        rig.wait(ms(2000));
    }
    rig.both(data(4, b"4567").port(1));
    rig.wait(ms(2000));
    rig.both(data(0, b"0123").port(4));
    let counters = rig.comparator.counters();
    assert_eq!((counters.flows, counters.flows_evicted), (3, 1));
    let mut ports = Vec::new();
    rig.comparator.for_each_flow(|key, _, _, _| ports.push(key.destination_port));
    ports.sort_unstable();
    assert_eq!(ports, [1, 3, 4], "flow 2 was idle longest");
}

#[test]
fn a_flow_that_holds_frames_is_never_evicted() {
    let mut rig = Rig::with(|config| config.flow_limit = 2);
    rig.primary(to(1));
    rig.wait(ms(2000));
    for port in 2..50 {
        rig.both(to(port));
    }
    assert_eq!(rig.comparator.counters().flows_evicted, 47);
    rig.secondary(to(1));
    assert_eq!(rig.released().last(), Some(&to(1)));
    assert!(rig.is_clean());
}

#[test]
fn a_table_of_flows_that_all_hold_drops_the_new_frame_and_asks_for_a_checkpoint() {
    let mut rig = Rig::with(|config| config.flow_limit = 2);
    rig.primary(to(1));
    rig.secondary(to(2));
    rig.primary(to(3));
    rig.secondary(to(4));
    assert_eq!(
        rig.discards(),
        [(Side::Primary, Discard::FlowsFull), (Side::Secondary, Discard::FlowsFull)]
    );
    assert_eq!(rig.divergence().reason, Reason::FlowTable);
    assert_eq!(rig.record.requests, 1);
    assert_eq!(rig.held(), 2, "nothing held is dropped");
    rig.checkpoint();
    rig.both(to(3));
    assert_eq!(rig.released(), [to(1), to(3)]);
}

#[test]
fn a_held_frame_of_either_side_is_a_divergence_at_the_timeout() {
    for side in [Side::Primary, Side::Secondary] {
        for frame in [to(1), data(7, b"stream").frame(), segment(7).syn().frame()] {
            let mut rig = Rig::new();
            rig.offer(side, frame.clone());
            rig.wait(ms(2999));
            assert!(rig.is_clean());
            rig.wait(ms(1));
            let seen = rig.divergence();
            assert_eq!((seen.reason, seen.side), (Reason::Timeout, side));
            assert_eq!(seen.waited, ms(3000));
            assert_eq!(rig.record.requests, 1);
            assert_eq!(rig.held(), 1, "it stays held until the checkpoint");
        }
    }
}

#[test]
fn each_frame_has_its_own_deadline() {
    let mut rig = Rig::new();
    rig.primary(to(1));
    rig.wait(ms(1000));
    rig.primary(to(2));
    rig.wait(ms(2000));
    assert_eq!(rig.record.divergences.len(), 1);
    rig.wait(ms(1000));
    let flows: Vec<_> = rig.record.divergences.iter().map(|seen| seen.flow.as_str()).collect();
    assert_eq!(flows, ["10.0.0.1:53 > 10.0.0.9:1 udp", "10.0.0.1:53 > 10.0.0.9:2 udp"]);
}

#[test]
fn a_frame_past_its_deadline_is_still_released_when_its_partner_comes() {
    let mut rig = Rig::new();
    rig.primary(to(1));
    rig.wait(ms(3000));
    rig.secondary(to(1));
    assert_eq!(rig.released(), [to(1)]);
    assert_eq!(rig.held(), 0);
}

#[test]
fn one_flow_is_reported_once_and_one_checkpoint_asked_for_while_one_is_outstanding() {
    let mut rig = Rig::new();
    for number in 0..10 {
        rig.primary(numbered(number));
        rig.secondary(numbered(1000 + number));
    }
    for port in [7, 8] {
        rig.primary(data(0, b"ours").port(port));
        rig.secondary(data(0, b"not!").port(port));
    }
    rig.wait(ms(100));
    assert_eq!(rig.record.divergences.len(), 3, "each flow once");
    assert_eq!(rig.comparator.counters().divergences, 3);
    assert_eq!(rig.record.requests, 1);
    assert!(rig.comparator.checkpoint_outstanding());
}

#[test]
fn an_unanswered_request_is_repeated_each_interval() {
    let mut rig = Rig::with(|config| config.request_interval = ms(100));
    rig.primary(data(0, b"ours"));
    rig.secondary(data(0, b"not!"));
    for _ in 0..10 {
        rig.wait(ms(50));
    }
    assert_eq!(rig.record.requests, 1 + 5);
    assert_eq!(rig.record.divergences.len(), 1);
    rig.checkpoint();
    rig.wait(ms(1000));
    assert_eq!(rig.record.requests, 6, "not after the checkpoint");
}

#[test]
fn a_divergence_after_a_checkpoint_asks_again() {
    let mut rig = Rig::new();
    for start in [0, 4] {
        rig.primary(data(start, b"ours"));
        rig.secondary(data(start, b"not!"));
        rig.checkpoint();
    }
    assert_eq!(rig.record.requests, 2);
    assert_eq!(rig.record.divergences.len(), 2);
}

#[test]
fn held_frames_and_reports_are_visible_per_flow() {
    let mut rig = Rig::new();
    rig.primary(data(0, b"ours"));
    rig.primary(data(4, b"more"));
    rig.secondary(data(0, b"not!"));
    let mut seen = Vec::new();
    rig.comparator.for_each_flow(|key, ours, theirs, reported| {
        seen.push((key.to_string(), ours, theirs, reported));
    });
    assert_eq!(seen, [("10.0.0.1:80 > 10.0.0.9:4242 tcp".to_owned(), 2, 1, true)]);
}
