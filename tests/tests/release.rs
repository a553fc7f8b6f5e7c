//! What both guests send alike leaves, whatever may differ around it.

use colo_tests::capture::SILENCE;
use colo_tests::packet::{Packet, arp, lldp, protocol};
use colo_tests::payload::{Seed, bytes};
use colo_tests::segment::{ACK, FIN, LARGEST_PAYLOAD, PSH, RST, SYN, Segment};
use colo_tests::{Result, Stage, needs_root};

/// Longer than any delay between the two senders on a busy machine: these tests are not about
/// how fast a divergence is reported.
const PATIENT: [&str; 2] = ["--reorder-grace", "500ms"];

#[test]
fn a_tcp_connection_leaves_in_order_however_the_secondary_cuts_and_reorders_it() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let mut seed = Seed::new(1);
    for packet in Packet::families() {
        let segment = Segment::new(80, 4000).sequence(10_000).acknowledgement(501);
        stage.exchange(&[segment.clone().flags(SYN | ACK).frame(&packet)])?;

        let stream = bytes(2, 24_000);
        let data = segment.flags(PSH | ACK).sequence(10_001).timestamps(1, 1);
        let ours = data.stream(&packet, &stream, &seed.cuts(stream.len(), LARGEST_PAYLOAD));
        let other = data.timestamps(99, 98).window(1);
        let mut theirs = other.stream(&packet, &stream, &seed.cuts(stream.len(), LARGEST_PAYLOAD));
        seed.shuffle(&mut theirs);
        stage.primary(&ours)?;
        stage.secondary(&theirs)?;
        stage.client().expect(&ours)?;

        let end = 10_001 + stream.len() as u32;
        let fin = Segment::new(80, 4000).sequence(end).acknowledgement(501).flags(FIN | ACK);
        stage.exchange(&[fin.frame(&packet)])?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn a_tcp_stream_across_the_sequence_wrap_is_ordinary_traffic() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let packet = Packet::v4();
    let stream = bytes(3, 8000);
    let segment = Segment::new(80, 4001).sequence(u32::MAX - 3500);
    let ours = segment.stream(&packet, &stream, &[1000; 8]);
    let theirs =
        segment.stream(&packet, &stream, &[700, 1300, 900, 1100, 1448, 552, 2000 - 600, 600]);
    stage.primary(&ours)?;
    stage.secondary(&theirs)?;
    stage.client().expect(&ours)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_retransmission_leaves_at_once() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let segment =
        Segment::new(80, 4002).sequence(1).payload(b"once and again").frame(&Packet::v4());
    stage.exchange(&[&segment])?;
    stage.primary(&[&segment])?;
    stage.client().expect(&[&segment])?;
    stage.secondary(&[&segment])?;
    stage.client().expect_nothing(SILENCE)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_reset_leaves_when_both_guests_reset() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let packet = Packet::v6();
    let segment = Segment::new(80, 4003).sequence(1);
    stage.exchange(&[
        segment.clone().payload(b"before the reset").frame(&packet),
        segment.sequence(17).flags(RST | ACK).frame(&packet),
    ])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn datagrams_leave_in_the_primarys_order_however_the_secondary_orders_them() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let mut seed = Seed::new(4);
    for packet in Packet::families() {
        let ours: Vec<_> = (0..60).map(|n| packet.udp(7, 9, &bytes(n, 20 * n as usize))).collect();
        let mut theirs = ours.clone();
        seed.shuffle(&mut theirs);
        stage.primary(&ours)?;
        stage.secondary(&theirs)?;
        stage.client().expect(&ours)?;

        // And when the secondary is ahead.
        stage.secondary(&theirs)?;
        stage.await_count("held", theirs.len() as u64)?;
        stage.primary(&ours)?;
        stage.client().expect(&ours)?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn icmp_and_any_other_protocol_leave() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    for packet in Packet::families() {
        stage.exchange(&[
            packet.echo(1, 1, &bytes(1, 56)),
            packet.echo(1, 2, &bytes(2, 1400)),
            packet.carrying(protocol::GRE, &bytes(3, 300)),
            packet.carrying(253, &bytes(4, 30)),
        ])?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn fragments_leave_and_their_identification_does_not_matter() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    for packet in Packet::families() {
        let datagram = packet.udp_datagram(5, 6, &bytes(5, 4000));
        let ours = packet.clone().identification(1).fragments(protocol::UDP, &datagram, 1400);
        let theirs = packet.identification(2).fragments(protocol::UDP, &datagram, 1400);
        stage.primary(&ours)?;
        stage.secondary(&theirs)?;
        stage.client().expect(&ours)?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn header_fields_that_no_two_guests_agree_on_are_not_compared() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let pad_options = |length: usize| vec![1_u8; length];
    let v4 = [
        Packet::v4().hops(64).traffic_class(0).identification(1),
        Packet::v4().hops(63).traffic_class(0x2e).identification(9).dont_fragment(),
        Packet::v4().options(&pad_options(8)),
    ];
    let v6 = [
        Packet::v6().hops(64).traffic_class(0).flow_label(1),
        Packet::v6().hops(63).traffic_class(0x2e).flow_label(0xfffff),
        Packet::v6().extension(protocol::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]),
    ];
    let mut sequence = 1;
    for [ours, theirs, optioned] in [v4, v6] {
        for theirs in [&theirs, &optioned] {
            let udp = |packet: &Packet| packet.udp(1, 2, b"the same question");
            let segment = Segment::new(80, 4004).sequence(sequence).payload(b"the same answer");
            let ours = [udp(&ours), segment.clone().flags(ACK | PSH).window(1).frame(&ours)];
            let theirs = [udp(theirs), segment.timestamps(5, 6).window(2).frame(theirs)];
            sequence += 15;
            stage.primary(&ours)?;
            stage.secondary(&theirs)?;
            stage.client().expect(&ours)?;
        }
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn what_is_not_compared_leaves_at_once_and_the_secondarys_copy_is_dropped() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let solicitation = Packet::v6().hops(255).icmp(135, 0, &bytes(1, 20));
    let router_alert = [5, 2, 0, 0, 1, 0];
    let report = Packet::v6().extension(protocol::HOP_BY_HOP, &router_alert).icmp(143, 0, &[0; 4]);
    let membership =
        Packet::v4().hops(1).carrying(protocol::IGMP, &[0x16, 0, 0x09, 4, 224, 0, 0, 251]);
    let frames = [arp(), lldp(), solicitation, report, membership];
    stage.secondary(&frames)?;
    stage.await_count("secondary_dropped", frames.len() as u64)?;
    stage.client().expect_nothing(SILENCE)?;
    for frame in &frames {
        stage.primary(&[frame])?;
        stage.client().expect(&[frame])?;
    }
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("released"), frames.len() as u64);
    assert!(outcome.summary.count("passed") >= frames.len() as u64);
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

#[test]
fn hundreds_of_flows_side_by_side_keep_their_order() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&PATIENT)?;
    let mut seed = Seed::new(9);
    for round in 0..10_u64 {
        let frames: Vec<_> = (0..60_u16)
            .map(|flow| {
                let packet = &Packet::families()[usize::from(flow % 2)];
                let payload = bytes(round << 16 | u64::from(flow), 100 + seed.below(1200));
                packet.udp(1000 + flow, 2000 + (round as u16 % 5), &payload)
            })
            .collect();
        let mut theirs = frames.clone();
        seed.shuffle(&mut theirs);
        stage.primary(&frames)?;
        stage.secondary(&theirs)?;
        stage.client().expect_in_any_order(&frames)?;
    }
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("released"), 600);
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}
