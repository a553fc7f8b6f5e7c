//! What only the primary has sent does not leave.

use colo_tests::capture::SILENCE;
use colo_tests::packet::Packet;
use colo_tests::payload::{bytes, with_flipped_byte};
use colo_tests::segment::{ACK, Segment};
use colo_tests::{Result, Stage, needs_root};
use serde_json::Value;

#[test]
fn a_datagram_is_held_until_the_secondary_sends_the_same() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    for packet in Packet::families() {
        for frame in [packet.udp(1, 2, b"question"), packet.echo(3, 4, b"ping")] {
            stage.primary(&[&frame])?;
            stage.expect_held(1)?;
            stage.secondary(&[&frame])?;
            stage.client().expect(&[&frame])?;
        }
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn the_secondarys_output_never_leaves() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let frame = Packet::v4().udp(1, 2, b"from the secondary only");
    stage.secondary(&[&frame])?;
    stage.expect_held(1)?;
    stage.checkpoint()?;
    stage.client().expect_nothing(SILENCE)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_tcp_segment_is_held_until_every_byte_of_it_is_there() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    for packet in Packet::families() {
        let stream = bytes(1, 1000);
        let segment = Segment::new(80, 4000).sequence(1);
        let ours = segment.stream(&packet, &stream, &[400, 600]);
        let theirs = segment.stream(&packet, &stream, &[399, 2, 599]);
        stage.primary(&ours)?;
        stage.secondary(&theirs[..1])?;
        stage.client().expect_nothing(SILENCE)?;
        // The last part first: the gap before it is waited for.
        stage.secondary(&theirs[2..])?;
        stage.client().expect_nothing(SILENCE)?;
        stage.secondary(&theirs[1..2])?;
        stage.client().expect(&ours)?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn a_segment_that_acknowledges_more_than_the_secondary_has_seen_is_held() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let packet = Packet::v4();
    let segment = Segment::new(80, 4001).sequence(1).payload(b"answer");
    let ours = segment.clone().acknowledgement(2000).frame(&packet);
    stage.primary(&[&ours])?;
    stage.secondary(&[segment.acknowledgement(1000).frame(&packet)])?;
    stage.await_count("secondary_received", 1)?;
    stage.client().expect_nothing(SILENCE)?;
    // A bare acknowledgement of the secondary is enough.
    let acknowledged = Segment::new(80, 4001).sequence(7).acknowledgement(2000).frame(&packet);
    stage.secondary(&[acknowledged])?;
    stage.client().expect(&[ours])?;
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("divergences"), 0, "waiting is not a divergence");
    Ok(())
}

#[test]
fn a_bare_acknowledgement_leaves_at_once_unless_told_otherwise() -> Result {
    needs_root!();
    let frame =
        Segment::new(80, 4002).sequence(1).acknowledgement(500).flags(ACK).frame(&Packet::v4());
    let mut stage = Stage::plain(&[])?;
    stage.primary(&[&frame])?;
    stage.client().expect(&[&frame])?;
    stage.finish()?;

    let mut stage = Stage::plain(&["--ack-gate", "all"])?;
    stage.primary(&[&frame])?;
    stage.expect_held(1)?;
    stage.secondary(&[&frame])?;
    stage.client().expect(&[&frame])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn what_the_secondary_says_again_reaches_the_client_without_its_payload() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--ack-gate", "slower"])?;
    for packet in Packet::families() {
        let segment = Segment::new(80, 4005).sequence(1).acknowledgement(500);
        let said = bytes(3, 600);
        let frame = segment.clone().payload(&said).frame(&packet);
        stage.exchange(&[&frame])?;
        // The client's acknowledgement was lost on the link, and nobody can tell whether this is what left.
        let again = segment.clone().payload(&with_flipped_byte(&said, 40)).frame(&packet);
        stage.secondary(&[&again, &again])?;
        let mut bare = segment.frame(&packet);
        bare.resize(frame.len(), 0);
        stage.client().expect(&[bare])?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn what_the_secondary_has_said_of_a_waiting_segment_reaches_the_client_and_then_the_rest() -> Result
{
    needs_root!();
    let mut stage = Stage::plain(&["--ack-gate", "slower"])?;
    for packet in Packet::families() {
        let segment = Segment::new(80, 4006).sequence(1).acknowledgement(500);
        let stream = bytes(4, 3000);
        let part = |from: usize, to: usize| {
            let segment = segment.clone().sequence(1 + from as u32).payload(&stream[from..to]);
            segment.frame(&packet)
        };
        // A frame keeps its length; what is cut off is padding at its end.
        let padded = |from: usize, to: usize, cut: usize| {
            let mut frame = part(from, to);
            frame.resize(frame.len() + cut, 0);
            frame
        };
        stage.primary(&[&part(0, 1000), &part(1000, 2400)])?;
        // The secondary waits for the acknowledgement of all that it has said.
        stage.secondary(&[&part(0, 1300)])?;
        stage.client().expect(&[part(0, 1000), padded(1000, 1300, 1000)])?;
        stage.secondary(&[&part(1300, 2400)])?;
        stage.client().expect(&[padded(1300, 2400, 300)])?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn one_different_byte_of_a_stream_is_a_divergence_that_names_both_bytes() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    for (serial, packet) in Packet::families().iter().enumerate() {
        let stream = bytes(1, 3000);
        let other = with_flipped_byte(&stream, 1234);
        let segment = Segment::new(80, 4003).sequence(77);
        let ours = segment.stream(packet, &stream, &[1000, 1000, 1000]);
        let theirs = segment.stream(packet, &other, &[1400, 1400, 200]);
        stage.primary(&ours)?;
        stage.secondary(&theirs)?;
        let divergence = stage.comparator.event("divergence")?;
        assert_eq!(divergence["reason"], "payload", "{divergence}");
        assert_eq!(divergence["offset"], 1234, "{divergence}");
        assert_eq!(divergence["primary"]["byte"], Value::from(stream[1234]), "{divergence}");
        assert_eq!(divergence["secondary"]["byte"], Value::from(other[1234]), "{divergence}");
        stage.comparator.event("checkpoint-requested")?;
        // What was equal has left, the rest has not.
        stage.client().expect(&ours[..1])?;
        stage.client().expect_nothing(SILENCE)?;
        stage.checkpoint()?;
        stage.client().expect(&ours[1..])?;
        assert_eq!(stage.comparator.status()?.count("divergences"), serial as u64 + 1);
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn a_different_datagram_is_a_divergence_and_other_flows_go_on() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let packet = Packet::v4();
    let ours = packet.udp(1, 2, b"yes");
    stage.primary(&[&ours])?;
    stage.secondary(&[packet.udp(1, 2, b"yet")])?;
    let divergence = stage.comparator.event("divergence")?;
    assert_eq!(divergence["reason"], "payload", "{divergence}");
    assert_eq!(divergence["primary"]["byte"], Value::from(b's'), "{divergence}");
    assert_eq!(divergence["secondary"]["byte"], Value::from(b't'), "{divergence}");

    let other_flow: Vec<_> = (0..50).map(|n| packet.udp(3, 4, &bytes(n, 100))).collect();
    stage.exchange(&other_flow)?;

    stage.expect_held(2)?;
    stage.checkpoint()?;
    stage.client().expect(&[ours])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn a_shorter_datagram_is_a_divergence_of_length() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let ours = Packet::v6().echo(1, 1, &bytes(1, 100));
    stage.primary(&[&ours])?;
    stage.secondary(&[Packet::v6().echo(1, 1, &bytes(1, 99))])?;
    let divergence = stage.comparator.event("divergence")?;
    assert!(["length", "payload"].map(Value::from).contains(&divergence["reason"]), "{divergence}");
    stage.checkpoint()?;
    stage.client().expect(&[ours])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn tags_are_part_of_the_flow() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let ours = Packet::v4().tagged(10).udp(1, 2, b"on VLAN 10");
    stage.primary(&[&ours])?;
    stage.secondary(&[Packet::v4().tagged(11).udp(1, 2, b"on VLAN 10")])?;
    stage.expect_held(2)?;
    stage.secondary(&[&ours])?;
    stage.client().expect(&[&ours])?;
    stage.checkpoint()?;
    stage.finish()?;
    Ok(())
}
