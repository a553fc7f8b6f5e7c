//! Native and generic XDP on taps and veths.

use colo_tests::packet::{Packet, arp};
use colo_tests::payload::{Seed, bytes};
use colo_tests::segment::{LARGEST_PAYLOAD, Segment};
use colo_tests::{Attachment, Plan, Result, Stage, needs_root};

const ATTACHMENTS: [Attachment; 2] = [Attachment::Tap, Attachment::Veth];

/// Traffic of every kind, and a frame that must be held.
fn play(mut stage: Stage) -> Result {
    let mut seed = Seed::new(1);
    for packet in Packet::families() {
        let stream = bytes(1, 20_000);
        let segment = Segment::new(80, 4000).sequence(1);
        let ours = segment.stream(&packet, &stream, &seed.cuts(stream.len(), LARGEST_PAYLOAD));
        stage.primary(&ours)?;
        stage.secondary(&segment.stream(
            &packet,
            &stream,
            &seed.cuts(stream.len(), LARGEST_PAYLOAD),
        ))?;
        stage.client().expect(&ours)?;
        stage.exchange(&[
            packet.udp(1, 2, &bytes(2, 18)),
            packet.udp(1, 2, &bytes(3, 1400)),
            packet.echo(1, 1, &bytes(4, 56)),
            packet.tagged(7).udp(1, 2, b"on a VLAN"),
        ])?;
    }
    stage.primary(&[arp()])?;
    stage.client().expect(&[arp()])?;
    let alone = Packet::v4().udp(5, 6, b"the primary alone");
    stage.primary(&[&alone])?;
    stage.expect_held(1)?;
    stage.checkpoint()?;
    stage.client().expect(&[alone])?;
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("divergences"), 0);
    Ok(())
}

fn play_everywhere(mode: &str) -> Result {
    for primary in ATTACHMENTS {
        for secondary in ATTACHMENTS {
            let plan = Plan { primary, secondary, ..Plan::default() };
            let option = format!("mode={mode}");
            let stage = Stage::with_port_option(plan, Some(&option), &[])?;
            play(stage).map_err(|error| error.context(format!("{mode}, {plan:?}")))?;
        }
    }
    Ok(())
}

#[test]
fn native_on_every_pair_of_attachments() -> Result {
    needs_root!();
    play_everywhere("native")
}

#[test]
fn generic_on_every_pair_of_attachments() -> Result {
    needs_root!();
    play_everywhere("generic")
}

#[test]
fn busy_polling_does_the_same() -> Result {
    needs_root!();
    play(Stage::plain(&["--poll", "busy"])?)
}

#[test]
fn bypass_and_standalone_leave_the_kernel_in_generic_mode_too() -> Result {
    needs_root!();
    let mut stage = Stage::with_port_option(
        Plan::default(),
        Some("mode=generic"),
        &["--bypass", "proto=udp,port=53"],
    )?;
    let bypassed = Packet::v4().udp(1, 53, b"question");
    stage.primary(&[&bypassed])?;
    stage.client().expect(&[bypassed])?;
    stage.comparator.control().call(&["failover"])?;
    let uncompared = Packet::v6().udp(1, 2, b"alone");
    stage.primary(&[&uncompared])?;
    stage.client().expect(&[uncompared])?;
    stage.finish()?;
    Ok(())
}
