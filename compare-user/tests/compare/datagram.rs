//! DESIGN.md section 4.2: UDP, ICMP, ICMPv6, fragments and every other protocol.

use std::time::Duration;

use compare_user::compare::{Discard, Reason, Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{Bytes, IPV4, IPV6, NETWORKS, fragment, fragment_v6, pattern};

fn numbered(number: u16) -> Bytes {
    IPV4.udp(4242, &number.to_be_bytes())
}

#[test]
fn equal_datagrams_are_released_whichever_side_is_first_in_every_network() {
    for network in &NETWORKS {
        let frames =
            [network.udp(5, b"answer"), network.echo(1, b"pong"), network.protocol(47, b"tunnel")];
        for frame in frames {
            for first in [Side::Primary, Side::Secondary] {
                let mut rig = Rig::new();
                rig.offer(first, frame.clone());
                assert!(rig.released().is_empty());
                rig.offer(first.other(), frame.clone());
                assert_eq!(rig.reasons(), [Release::Matched], "{network:?}");
                assert_eq!(rig.discards(), [(Side::Secondary, Discard::Compared)]);
                assert!(rig.is_clean());
            }
        }
    }
}

#[test]
fn a_primary_that_runs_ahead_is_released_in_order_without_a_divergence() {
    let mut rig = Rig::new();
    for number in 0..256 {
        rig.primary(numbered(number));
    }
    rig.wait(ms(2000));
    for number in 0..256 {
        rig.secondary(numbered(number));
    }
    assert_eq!(rig.released(), (0..256).map(numbered).collect::<Vec<_>>());
    assert!(rig.is_clean());
}

#[test]
fn a_secondary_that_runs_ahead_is_waited_with() {
    let mut rig = Rig::new();
    for number in 0..256 {
        rig.secondary(numbered(number));
    }
    rig.wait(ms(2000));
    for number in 0..256 {
        rig.primary(numbered(number));
        assert_eq!(rig.released().len(), usize::from(number) + 1);
    }
    assert!(rig.is_clean());
}

#[test]
fn a_reordered_secondary_releases_the_primary_in_its_own_order() {
    for window in [2_u16, 16, 256, 1000] {
        let mut rig = Rig::new();
        for number in 0..window {
            rig.primary(numbered(number));
        }
        for number in (0..window).rev() {
            rig.secondary(numbered(number));
        }
        assert_eq!(rig.released(), (0..window).map(numbered).collect::<Vec<_>>());
        assert!(rig.is_clean());
        assert_eq!(rig.held(), 0);
    }
}

#[test]
fn equal_datagrams_are_matched_one_to_one() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.primary(numbered(7));
    }
    rig.secondary(numbered(7));
    rig.secondary(numbered(7));
    assert_eq!(rig.released().len(), 2);
    assert_eq!(rig.held(), 1);
}

#[test]
fn a_different_payload_is_a_divergence_after_the_grace_and_says_where() {
    let ours = pattern(1, 300);
    let mut theirs = ours.clone();
    theirs[123] ^= 4;
    let mut rig = Rig::new();
    rig.primary(IPV4.udp(5, &ours));
    rig.secondary(IPV4.udp(5, &theirs));
    assert!(rig.is_clean(), "within the grace the partner may still come");
    rig.wait(ms(2) + Duration::from_nanos(1));
    let seen = rig.divergence();
    assert_eq!(seen.reason, Reason::Payload);
    assert_eq!(seen.flow, "10.0.0.1:53 > 10.0.0.9:5 udp");
    assert_eq!(seen.offset, 123, "bytes into the datagram's payload");
    let (frame, at) = seen.primary.as_ref().expect("the primary frame is shown");
    assert_eq!(frame[*at], ours[123]);
    let (frame, at) = seen.secondary.as_ref().expect("the secondary frame is shown");
    assert_eq!(frame[*at], theirs[123]);
    assert_eq!(rig.record.requests, 1);
    assert!(rig.released().is_empty());
}

#[test]
fn a_different_length_is_a_divergence() {
    let mut rig = Rig::new();
    rig.primary(IPV4.udp(5, b"1234"));
    rig.secondary(IPV4.udp(5, b"12345"));
    rig.wait(ms(3));
    assert_eq!(rig.divergence().reason, Reason::Length);
}

#[test]
fn the_grace_is_the_operators_choice() {
    let mut rig = Rig::with(|config| config.reorder_grace = ms(50));
    rig.primary(numbered(0));
    rig.secondary(numbered(1));
    rig.wait(ms(49));
    assert!(rig.is_clean());
    rig.secondary(numbered(0));
    rig.primary(numbered(1));
    assert_eq!(rig.released().len(), 2);
    rig.wait(ms(100));
    assert!(rig.is_clean());
}

#[test]
fn no_grace_reports_at_once() {
    let mut rig = Rig::with(|config| config.reorder_grace = Duration::ZERO);
    rig.primary(numbered(0));
    rig.secondary(numbered(1));
    assert_eq!(rig.divergence().reason, Reason::Payload);
}

#[test]
fn a_head_without_partner_beside_frames_that_waited_longer_than_the_grace_is_a_divergence() {
    let mut rig = Rig::new();
    rig.secondary(numbered(1));
    rig.wait(ms(10));
    assert!(rig.is_clean(), "a secondary alone waits for the timeout");
    rig.primary(numbered(0));
    assert_eq!(rig.divergence().reason, Reason::Payload);
}

#[test]
fn the_grace_is_judged_anew_for_each_head() {
    let mut rig = Rig::new();
    rig.primary(numbered(0));
    rig.secondary(numbered(1));
    rig.wait(ms(1));
    rig.secondary(numbered(0));
    rig.primary(numbered(1));
    rig.primary(numbered(2));
    rig.secondary(numbered(3));
    rig.wait(Duration::from_micros(1500));
    assert!(rig.is_clean(), "datagram 3 has waited 1.5 ms only");
    rig.secondary(numbered(2));
    rig.primary(numbered(3));
    assert_eq!(rig.released().len(), 4);
    assert!(rig.is_clean());
}

#[test]
fn nothing_overtakes_a_head_that_diverged() {
    let mut rig = Rig::new();
    rig.primary(numbered(0));
    rig.secondary(numbered(99));
    rig.wait(ms(3));
    rig.both(numbered(1));
    rig.wait(ms(3));
    assert!(rig.released().is_empty());
    assert_eq!(rig.record.divergences.len(), 1);
    rig.checkpoint();
    assert_eq!(rig.released(), [numbered(0), numbered(1)]);
}

#[test]
fn fragments_are_compared_by_payload_and_place_and_not_by_identification() {
    let pieces = |id| {
        [
            fragment(id, 0, true, &pattern(3, 64)),
            fragment(id, 64, true, &pattern(4, 64)),
            fragment(id, 128, false, &pattern(5, 20)),
        ]
    };
    let mut rig = Rig::new();
    for piece in pieces(1) {
        rig.primary(piece);
    }
    for piece in pieces(999) {
        rig.secondary(piece);
    }
    assert_eq!(rig.released(), pieces(1));
    assert!(rig.is_clean());
}

#[test]
fn ipv6_fragments_are_compared_likewise() {
    let pieces = |id| {
        [fragment_v6(id, 0, true, &pattern(3, 64)), fragment_v6(id, 64, false, &pattern(4, 9))]
    };
    let mut rig = Rig::new();
    for piece in pieces(1) {
        rig.primary(piece);
    }
    for piece in pieces(0x0102_0304).into_iter().rev() {
        rig.secondary(piece);
    }
    assert_eq!(rig.released(), pieces(1));
    assert!(rig.is_clean());
}

#[test]
fn a_fragment_at_another_place_or_with_another_end_is_different() {
    let payload = pattern(6, 64);
    for other in [fragment(1, 128, true, &payload), fragment(1, 64, false, &payload)] {
        let mut rig = Rig::new();
        rig.primary(fragment(1, 64, true, &payload));
        rig.secondary(other);
        rig.wait(ms(3));
        assert_eq!(rig.divergence().reason, Reason::Length);
    }
}

#[test]
fn fragments_whose_data_looks_like_ports_are_one_flow() {
    let mut rig = Rig::new();
    rig.primary(fragment(1, 64, true, &[1; 8]));
    rig.primary(fragment(1, 72, false, &[2; 8]));
    assert_eq!(rig.comparator.counters().flows, 1);
}

#[test]
fn icmp_of_both_families_is_compared_with_its_header() {
    for network in [IPV4, IPV6] {
        let mut rig = Rig::new();
        rig.primary(network.echo(1, b"pong"));
        rig.secondary(network.echo(2, b"pong"));
        rig.wait(ms(3));
        assert_eq!(rig.divergence().reason, Reason::Payload, "the echo's sequence is output");
    }
}
