//! Frames of every size, tagged and not, and with checksums that the guest left to the device.

use colo_tests::packet::{Packet, padded, protocol};
use colo_tests::payload::bytes;
use colo_tests::segment::Segment;
use colo_tests::{Attachment, Plan, Result, Stage, needs_root};

/// Ethernet header.
const LINK: usize = 14;
const UDP: usize = 8;

/// A UDP frame of `length` bytes in all, padded if its headers and payload need less.
fn datagram(packet: &Packet, length: usize) -> Vec<u8> {
    let headers = LINK + if packet.is_v4() { 20 } else { 40 } + UDP;
    let payload = bytes(length as u64, length.saturating_sub(headers));
    padded(packet.udp(1, 2, &payload), length)
}

#[test]
fn every_length_from_60_to_1514_bytes() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--reorder-grace", "500ms"])?;
    // The headers of IPv6 and UDP take 62 bytes.
    for (packet, shortest) in [(Packet::v4(), 60), (Packet::v6(), 62)] {
        let frames: Vec<_> = (shortest..=1514).map(|length| datagram(&packet, length)).collect();
        stage.exchange(&frames)?;
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn padding_is_sent_as_it_came_and_not_compared() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let bare = Packet::v4().udp(1, 2, b"short");
    let mut ours = padded(bare.clone(), 60);
    ours[59] = 0xff;
    stage.primary(&[&ours])?;
    stage.secondary(&[&padded(bare.clone(), 64)])?;
    stage.client().expect(&[&ours])?;
    stage.primary(&[&ours])?;
    stage.secondary(&[bare])?;
    stage.client().expect(&[ours])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn single_and_stacked_vlan_tags() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--reorder-grace", "500ms"])?;
    for packet in Packet::families() {
        for packet in [packet.clone().tagged(1), packet.clone().tagged(100).tagged(4094)] {
            let stream = bytes(1, 5000);
            let segment = Segment::new(80, 4000).sequence(1);
            let ours = segment.stream(&packet, &stream, &[1400, 1400, 1400, 800]);
            stage.primary(&ours)?;
            stage.secondary(&segment.stream(&packet, &stream, &[800, 1400, 1400, 1400]))?;
            stage.client().expect(&ours)?;
            stage.exchange(&[packet.udp(1, 2, b"tagged"), packet.echo(1, 1, b"tagged")])?;
        }
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn jumbo_frames() -> Result {
    needs_root!();
    for (primary, frame_size) in [(Attachment::Tap, "4096"), (Attachment::Veth, "2048")] {
        let plan = Plan { primary, mtu: 9000, ..Plan::default() };
        let arguments = ["--frame-size", frame_size, "--reorder-grace", "500ms"];
        let mut stage = Stage::new(plan, &arguments)?;
        for packet in Packet::families() {
            let lengths = [62, 1514, 1515, 2047, 2048, 3000, 4096, 8192, 9000, 9014];
            stage.exchange(&lengths.map(|length| datagram(&packet, length)))?;
            let stream = bytes(1, 50_000);
            let segment = Segment::new(80, 4000).sequence(1);
            let ours = segment.stream(&packet, &stream, &[8900, 8900, 8900, 8900, 8900, 5500]);
            stage.primary(&ours)?;
            stage.secondary(&segment.stream(&packet, &stream, &[1000; 50]))?;
            stage.client().expect(&ours)?;
        }
        let outcome = stage.finish()?;
        assert_eq!(outcome.summary.count("divergences"), 0);
    }
    Ok(())
}

#[test]
fn a_checksum_that_the_guest_left_unfinished_is_completed_before_the_frame_leaves() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    for packet in Packet::families() {
        let datagram = packet.udp_datagram(1, 2, &bytes(1, 333));
        let segment = Segment::new(80, 4000).sequence(1).payload(&bytes(2, 1001)).bytes(&packet);
        for (number, whole, field) in [(protocol::UDP, datagram, 6), (protocol::TCP, segment, 16)] {
            let mut unfinished = whole.clone();
            let partial = packet.partial_checksum(number, whole.len());
            unfinished[field..field + 2].copy_from_slice(&partial.to_be_bytes());
            let sent = packet.carrying(number, &unfinished);
            // The secondary's checksum is whole: that is not a difference either.
            stage.primary(&[&sent])?;
            stage.secondary(&[packet.carrying(number, &whole)])?;
            stage.client().expect(&[packet.carrying(number, &whole)])?;
        }
    }
    stage.finish()?;
    Ok(())
}
