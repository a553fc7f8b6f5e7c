//! A divergence reaches whoever takes checkpoints, and its answer releases what is held.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use colo_tests::checkpointer::{Monitor, NotifyPeer, Place};
use colo_tests::packet::Packet;
use colo_tests::payload::bytes;
use colo_tests::{Result, Stage, needs_root};
use nix::sys::signal::Signal;
use serde_json::json;

/// Makes the two guests differ in one datagram of `flow` and returns the primary's.
fn diverge(stage: &mut Stage, flow: u16) -> Result<Vec<u8>> {
    let ours = Packet::v4().udp(flow, 2, b"yes");
    stage.primary(&[&ours])?;
    stage.secondary(&[Packet::v4().udp(flow, 2, b"no!")])?;
    stage.comparator.event("divergence")?;
    Ok(ours)
}

#[test]
fn xen_is_told_over_notify_dev_and_its_checkpoint_releases_the_held_frame() -> Result {
    needs_root!();
    for vnet in [false, true] {
        let place = Place::new()?;
        let listener = UnixListener::bind(place.path())?;
        let notify = format!("chardev:unix:{}", place.path().display());
        let mut arguments = vec!["--notify", &notify];
        arguments.extend(vnet.then_some("--vnet-hdr"));
        let mut stage = Stage::plain(&arguments)?;
        let mut xen = NotifyPeer::accept(&listener, vnet)?;
        stage.comparator.event("peer-connected")?;
        xen.say("COLO_USERSPACE_PROXY_INIT")?;
        xen.expect("COLO_COMPARE_GET_XEN_INIT")?;

        for flow in 1..=3 {
            let ours = diverge(&mut stage, flow)?;
            xen.expect("DO_CHECKPOINT")?;
            stage.expect_held(2)?;
            xen.say("COLO_CHECKPOINT")?;
            stage.client().expect(&[ours])?;
            stage.comparator.event("checkpoint-done")?;
        }
        let status = stage.comparator.status()?;
        assert_eq!(status.count("checkpoint.notify.requests"), 3);
        assert_eq!(status.count("checkpoint.notify.checkpoints"), 3);
        stage.finish()?;
    }
    Ok(())
}

#[test]
fn a_notify_peer_at_fault_is_disconnected_and_the_next_one_gets_the_repeated_request() -> Result {
    needs_root!();
    let place = Place::new()?;
    let notify = format!("chardev:unix:{},server", place.path().display());
    let mut stage = Stage::plain(&["--notify", &notify, "--expired-scan-cycle", "200"])?;
    for fault in [&[0; 4][..], b"GET / HTTP/1.1\r\n\r\n", &[255; 4000]] {
        let mut peer = NotifyPeer::connect(&place.path(), false)?;
        peer.send(fault)?;
        peer.expect_end()?;
        stage.comparator.event("peer-lost")?;
    }
    let ours = diverge(&mut stage, 1)?;
    stage.comparator.event("checkpoint-requested")?;
    stage.expect_held(2)?;
    let mut peer = NotifyPeer::connect(&place.path(), false)?;
    peer.expect("DO_CHECKPOINT")?;
    peer.say("COLO_CHECKPOINT")?;
    stage.client().expect(&[ours])?;
    assert_eq!(stage.comparator.status()?.count("checkpoint.notify.faults"), 3);
    stage.finish()?;
    assert!(!place.path().exists(), "its socket goes with the comparator");
    Ok(())
}

#[test]
fn a_kvm_primary_is_asked_over_qmp_and_resume_releases_the_held_frame() -> Result {
    needs_root!();
    let place = Place::new()?;
    let listener = UnixListener::bind(place.path())?;
    let mut stage = Stage::plain(&["--qmp", &format!("unix:{}", place.path().display())])?;
    let mut qemu = Monitor::accept(&listener, "colo")?;
    stage.comparator.event("peer-connected")?;
    for flow in 1..=3 {
        let ours = diverge(&mut stage, flow)?;
        qemu.accept_request()?;
        qemu.event("STOP", &json!({}))?;
        stage.expect_held(2)?;
        qemu.event("RESUME", &json!({}))?;
        stage.client().expect(&[ours])?;
        stage.comparator.event("checkpoint-done")?;
    }
    // One that QEMU took by itself makes the guests equal too.
    let ours = Packet::v4().udp(9, 2, &bytes(1, 100));
    stage.primary(&[&ours])?;
    stage.expect_held(1)?;
    qemu.event("STOP", &json!({}))?;
    qemu.event("RESUME", &json!({}))?;
    stage.client().expect(&[ours])?;

    let status = stage.comparator.status()?;
    let qmp = &status.0["checkpoint"]["qmp"];
    assert_eq!(qmp["version"], "11.1.3", "{qmp}");
    assert_eq!((&qmp["migration"], &qmp["in_colo"]), (&json!("colo"), &json!(true)), "{qmp}");
    assert_eq!((&qmp["requests"], &qmp["checkpoints"]), (&json!(3), &json!(4)), "{qmp}");
    assert_eq!(qmp["checkpoint_delay"], 12_345, "{qmp}");
    stage.finish()?;
    Ok(())
}

#[test]
fn a_request_that_qemu_swallowed_is_made_again() -> Result {
    needs_root!();
    let place = Place::new()?;
    let listener = UnixListener::bind(place.path())?;
    let qmp = format!("unix:{}", place.path().display());
    let mut stage = Stage::plain(&["--qmp", &qmp, "--expired-scan-cycle", "200"])?;
    let mut qemu = Monitor::accept(&listener, "colo")?;
    stage.comparator.event("peer-connected")?;
    let ours = diverge(&mut stage, 1)?;
    qemu.accept_request()?;
    // Nothing follows. The comparator has not forgotten.
    qemu.accept_request()?;
    // While the guest is stopped it would be swallowed too: it comes after the end of that.
    qemu.event("STOP", &json!({}))?;
    std::thread::sleep(Duration::from_millis(500));
    qemu.event("RESUME", &json!({}))?;
    qemu.accept_request()?;
    stage.client().expect(&[ours])?;
    stage.finish()?;
    Ok(())
}

#[test]
fn the_end_of_colo_is_reported_and_held_frames_stay_unless_failover_was_chosen() -> Result {
    needs_root!();
    for (action, how) in [("hold", "event"), ("failover", "event"), ("failover", "loss")] {
        let place = Place::new()?;
        let listener = UnixListener::bind(place.path())?;
        let qmp = format!("unix:{}", place.path().display());
        let mut stage = Stage::plain(&["--qmp", &qmp, "--on-qmp-loss", action])?;
        let mut qemu = Monitor::accept(&listener, "colo")?;
        let ours = diverge(&mut stage, 1)?;
        qemu.accept_request()?;
        stage.expect_held(2)?;
        if how == "event" {
            qemu.event("COLO_EXIT", &json!({ "mode": "primary", "reason": "error" }))?;
        } else {
            drop(qemu);
        }
        let ended = stage.comparator.event("colo-ended")?;
        assert_eq!(ended["action"], action, "{ended}");
        if action == "hold" {
            stage.expect_held(2)?;
            stage.comparator.control().call(&["failover"])?;
        }
        stage.comparator.event("standalone")?;
        stage.client().expect(&[ours])?;
        // From here on nothing is compared.
        let later = Packet::v6().udp(3, 4, &bytes(2, 200));
        stage.primary(&[&later])?;
        stage.client().expect(&[later])?;
        stage.finish()?;
    }
    Ok(())
}

#[test]
fn a_monitor_that_lies_does_no_harm() -> Result {
    needs_root!();
    let place = Place::new()?;
    let listener = UnixListener::bind(place.path())?;
    let mut stage = Stage::plain(&["--qmp", &format!("unix:{}", place.path().display())])?;
    let mut qemu = Monitor::accept(&listener, "colo")?;
    stage.comparator.event("peer-connected")?;
    for lie in [json!([]), json!({ "return": {}, "id": 1_000_000 }), json!({ "event": [] })] {
        qemu.say(&lie)?;
    }
    qemu.say(&json!({ "event": "X".repeat(3 << 20) }))?;
    let ours = diverge(&mut stage, 1)?;
    qemu.answer("query-migrate-parameters", &json!({ "x-checkpoint-delay": "often" }))?;
    // Repeated after a second, and answered properly this time.
    qemu.accept_request()?;
    qemu.event("RESUME", &json!({}))?;
    stage.client().expect(&[ours])?;
    assert_eq!(stage.comparator.status()?.count("checkpoint.qmp.unintelligible"), 5);
    stage.finish()?;
    Ok(())
}

#[test]
fn a_command_learns_of_the_divergence_and_ends_it() -> Result {
    needs_root!();
    let place = Place::new()?;
    let command = format!(
        "echo \"$COLO_XDP_REASON $COLO_XDP_FLOW $COLO_XDP_OFFSET\" > {}; \
         {} ctl --control \"$COLO_XDP_CONTROL\" checkpoint",
        place.path().display(),
        colo_tests::comparator::binary().display(),
    );
    let mut stage = Stage::plain(&["--on-divergence", &command])?;
    let ours = diverge(&mut stage, 7)?;
    stage.client().expect(&[ours])?;
    let said = std::fs::read_to_string(place.path())?;
    assert_eq!(said.trim_end(), "payload 192.0.2.1:7 > 192.0.2.2:2 udp 0");
    // Another right after the checkpoint is too early for the command, and made up for later.
    let ours = diverge(&mut stage, 8)?;
    stage.client().expect(&[ours])?;
    // Many at once: one command, the rest counted.
    let flows = 100..110;
    let ours = flows.map(|flow| diverge(&mut stage, flow)).collect::<Result<Vec<_>>>()?;
    stage.client().expect_in_any_order(&ours)?;
    let status = stage.comparator.status()?;
    let counted = |name| status.count(&format!("checkpoint.on_divergence.{name}"));
    assert!(counted("started") <= 4, "{}", status.0);
    assert!(counted("suppressed") >= 8, "{}", status.0);
    let outcome = stage.comparator.end_with(Signal::SIGTERM)?;
    outcome.check()?;
    Ok(())
}

#[test]
fn peers_that_never_answer_do_not_delay_the_end() -> Result {
    needs_root!();
    let place = Place::new()?;
    // Connections wait here for ever, as behind another client of the same monitor.
    let _listener = UnixListener::bind(place.path())?;
    let qmp = format!("unix:{}", place.path().display());
    let stage = Stage::plain(&["--qmp", &qmp, "--notify", "chardev:tcp:192.0.2.1:9"])?;
    stage.finish()?;
    Ok(())
}
