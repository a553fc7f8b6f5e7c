//! `--qmp` against the monitor of a live QEMU.

use std::path::Path;
use std::time::Duration;

use colo_tests::chardev::{Framing, Message, Peer};
use colo_tests::comparator::{Comparator, Launch};
use colo_tests::monitor::{ListeningWire, QmpClient};
use colo_tests::packet::Packet;
use colo_tests::qemu::{self, Qemu};
use colo_tests::{Result, needs_qemu};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(5);

/// A QEMU with two monitors, colo-xdp at one of them, the test at the other.
struct Scene {
    comparator: Comparator,
    wire: ListeningWire,
    monitor: QmpClient,
    primary: Peer,
    secondary: Peer,
    out: Peer,
    qemu: Option<Qemu>,
    _directory: TempDir,
}

impl Scene {
    fn new(delay: u32, claims_colo: bool) -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        let launch = qemu::Launch::new()?;
        let address = |name| format!("unix:{},server=on,wait=off", launch.socket(name).display());
        let (ours, theirs) = (address("ours"), address("theirs"));
        let qemu = launch.option("-qmp", &ours).option("-qmp", &theirs).start(None)?;
        let mut monitor = QmpClient::connect(&qemu.socket("ours"), qemu::START)?;
        set_delay(&mut monitor, delay)?;

        let wire =
            ListeningWire::new(directory.path().join("qmp"), qemu.socket("theirs"), claims_colo)?;
        let places = ["primary", "secondary", "out"].map(|name| directory.path().join(name));
        let ports =
            places.each_ref().map(|place| format!("chardev:unix:{},server", place.display()));
        let qmp = format!("unix:{}", wire.path().display());
        // No request is repeated: each is counted.
        let arguments = ["--qmp", &qmp, "--expired-scan-cycle", "1h"];
        let mut comparator = Launch::between(ports).arguments(&arguments).start_here()?;
        comparator.event("peer-connected")?;
        let connect = |place: &Path| Peer::connect(place, Framing::Plain, PATIENCE);
        let (primary, secondary) = (connect(&places[0])?, connect(&places[1])?);
        let out = connect(&places[2])?;
        let qemu = Some(qemu);
        Ok(Self { comparator, wire, monitor, primary, secondary, out, qemu, _directory: directory })
    }

    /// The guests differ in a datagram of `flow`; returns the primary's.
    fn diverge(&mut self, flow: u16) -> Result<Message> {
        let ours = Message::plain(&Packet::v4().udp(flow, 2, b"yes"));
        self.primary.send(&ours)?;
        self.secondary.send(&Message::plain(&Packet::v4().udp(flow, 2, b"yet")))?;
        self.comparator.event("divergence")?;
        Ok(ours)
    }

    /// What `ctl status` shows of the monitor.
    fn status(&self) -> Result<Value> {
        Ok(self.comparator.status()?.0["checkpoint"]["qmp"].clone())
    }
}

fn set_delay(monitor: &mut QmpClient, delay: u32) -> Result {
    monitor.execute("migrate-set-parameters", &json!({ "x-checkpoint-delay": delay }))?;
    Ok(())
}

fn delay(monitor: &mut QmpClient) -> Result<Value> {
    Ok(monitor.execute("query-migrate-parameters", &json!({}))?["x-checkpoint-delay"].clone())
}

#[test]
fn a_live_qemu_is_asked_by_the_parameter_it_has_and_its_resume_releases_the_held_frame() -> Result {
    needs_qemu!();
    let mut scene = Scene::new(12_345, true)?;
    for (round, value) in [(1, 12_345), (2, 77_777)] {
        // Whoever changes it meanwhile is not overruled.
        set_delay(&mut scene.monitor, value)?;
        let held = scene.diverge(round as u16)?;
        let set = scene.wire.expect("migrate-set-parameters", round)?;
        assert_eq!(set, json!({ "x-checkpoint-delay": value }));
        assert_eq!(delay(&mut scene.monitor)?, value);
        assert_eq!(scene.out.receive(Duration::from_millis(50))?, None, "it is held");

        scene.monitor.execute("stop", &json!({}))?;
        assert_eq!(scene.out.receive(Duration::from_millis(50))?, None, "still held while stopped");
        scene.monitor.execute("cont", &json!({}))?;
        scene.comparator.event("checkpoint-done")?;
        assert_eq!(scene.out.receive(PATIENCE)?, Some(held));
    }
    let status = scene.status()?;
    let version = &scene.monitor.greeting["QMP"]["version"]["qemu"];
    let version = ["major", "minor", "micro"].map(|part| version[part].to_string()).join(".");
    assert_eq!(status["version"], version, "{status}");
    assert_eq!((&status["requests"], &status["checkpoints"]), (&json!(2), &json!(2)), "{status}");
    scene.comparator.stop()?;
    Ok(())
}

#[test]
fn a_live_qemu_that_is_not_in_colo_takes_no_checkpoint_when_it_resumes() -> Result {
    needs_qemu!();
    let mut scene = Scene::new(20_000, false)?;
    let held = scene.diverge(1)?;
    scene.wire.expect("migrate-set-parameters", 1)?;
    scene.monitor.execute("stop", &json!({}))?;
    scene.monitor.execute("cont", &json!({}))?;
    assert_eq!(scene.out.receive(Duration::from_millis(200))?, None, "it is held");
    let status = scene.status()?;
    assert_eq!((&status["in_colo"], &status["checkpoints"]), (&json!(false), &json!(0)));
    scene.comparator.control().call(&["checkpoint"])?;
    assert_eq!(scene.out.receive(PATIENCE)?, Some(held));
    scene.comparator.stop()?;
    Ok(())
}

#[test]
fn a_qemu_that_ends_is_reported_and_what_is_held_stays() -> Result {
    needs_qemu!();
    let mut scene = Scene::new(20_000, false)?;
    let held = scene.diverge(1)?;
    scene.wire.expect("migrate-set-parameters", 1)?;
    drop(scene.qemu.take());
    scene.comparator.event("peer-lost")?;
    assert_eq!(scene.out.receive(Duration::from_millis(100))?, None, "it is held");
    scene.comparator.control().call(&["checkpoint"])?;
    assert_eq!(scene.out.receive(PATIENCE)?, Some(held));
    scene.comparator.stop()?;
    Ok(())
}
