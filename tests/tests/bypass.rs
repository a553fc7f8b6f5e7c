//! Flows that the operator exempts leave in the kernel, uncompared.

use colo_tests::capture::SILENCE;
use colo_tests::packet::Packet;
use colo_tests::segment::Segment;
use colo_tests::{Result, Stage, needs_root};

#[test]
fn a_bypassed_flow_leaves_without_the_secondary_and_others_are_held() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--bypass", "proto=udp,port=53"])?;
    for packet in Packet::families() {
        // Either end may have the port; a tag or two do not hide it.
        for bypassed in [
            packet.udp(4000, 53, b"question"),
            packet.udp(53, 4000, b"answer"),
            packet.clone().tagged(5).udp(53, 4000, b"answer on a VLAN"),
        ] {
            stage.primary(&[&bypassed])?;
            stage.client().expect(&[&bypassed])?;
            stage.secondary(&[&bypassed])?;
            stage.client().expect_nothing(SILENCE)?;
        }
        for compared in [
            packet.udp(4000, 54, b"question"),
            Segment::new(53, 4000).payload(b"not UDP").frame(&packet),
        ] {
            stage.primary(&[&compared])?;
            stage.expect_held(1)?;
            stage.secondary(&[&compared])?;
            stage.client().expect(&[&compared])?;
        }
    }
    let outcome = stage.finish()?;
    assert_eq!(outcome.summary.count("primary_received"), 4, "the rest never left the kernel");
    Ok(())
}

#[test]
fn rules_name_addresses_prefixes_and_sides() -> Result {
    needs_root!();
    let rules = ["addr=192.0.2.0/24,port=7,side=source", "proto=icmpv6,addr=2001:db8::2"];
    let mut stage = Stage::plain(&["--bypass", rules[0], "--bypass", rules[1]])?;
    let packet = Packet::v4();
    let outside = Packet::between([198, 51, 100, 1].into(), [198, 51, 100, 2].into());
    let bypassed = [
        packet.udp(7, 1, b"source"),
        Segment::new(7, 1).payload(b"any protocol").frame(&packet),
        Packet::v6().echo(1, 1, b"ping"),
    ];
    for frame in &bypassed {
        stage.primary(&[frame])?;
        stage.client().expect(&[frame])?;
    }
    let held = [
        packet.udp(1, 7, b"destination"),
        outside.udp(7, 1, b"other network"),
        packet.echo(1, 1, b"v4"),
    ];
    stage.primary(&held)?;
    stage.expect_held(3)?;
    stage.checkpoint()?;
    stage.client().expect_in_any_order(&held)?;
    stage.finish()?;
    Ok(())
}

#[test]
fn rules_come_and_go_while_it_runs() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    let control = stage.comparator.control().clone();
    let rule = "proto=udp,port=53";
    let frame = Packet::v4().udp(4000, 53, b"question");

    control.call(&["bypass", "add", rule])?;
    let list = control.call(&["bypass", "list"])?;
    assert!(list.to_string().contains(rule), "{list}");
    stage.primary(&[&frame])?;
    stage.client().expect(&[&frame])?;

    control.call(&["bypass", "del", rule])?;
    let list = control.call(&["bypass", "list"])?;
    assert!(!list.to_string().contains(rule), "{list}");
    stage.primary(&[&frame])?;
    stage.expect_held(1)?;
    stage.secondary(&[&frame])?;
    stage.client().expect(&[&frame])?;

    assert!(control.call(&["bypass", "del", rule]).is_err(), "there is no such rule any more");
    assert!(control.call(&["bypass", "add", "proto=udq"]).is_err(), "no such protocol");
    stage.finish()?;
    Ok(())
}
