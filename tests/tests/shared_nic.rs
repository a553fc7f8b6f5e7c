//! Several guests on one NIC: a comparator for each, with a queue of its own to send on.

use colo_tests::comparator::run_to_exit;
use colo_tests::filter::{Filter, Place};
use colo_tests::packet::Packet;
use colo_tests::{Comparator, Launch, Plan, Result, Role, Topology, needs_root};
use tempfile::TempDir;

/// A second guest, on sockets, whose comparator sends on queue 1 of the first one's NIC.
struct SecondGuest {
    comparator: Comparator,
    primary: Filter,
    secondary: Filter,
    _directory: TempDir,
}

fn ports(places: &[Place; 2], topology: &Topology, queue: u32) -> [String; 3] {
    let out = format!("xdp:{},queues={queue}-{queue}", topology.device(Role::Out));
    [places[0].port() + ",server", places[1].port() + ",server", out]
}

impl SecondGuest {
    fn new(topology: &Topology) -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        let places = ["primary", "secondary"].map(|name| Place::Unix(directory.path().join(name)));
        let launch = Launch::between(ports(&places, topology, 1));
        let comparator = launch.start(topology.host())?;
        let primary = Filter::connect(&places[0], None, false)?;
        let secondary = Filter::connect(&places[1], None, false)?;
        Ok(Self { comparator, primary, secondary, _directory: directory })
    }

    fn send(&mut self, frame: &[u8]) -> Result {
        self.primary.send(&[frame])?;
        self.secondary.send(&[frame])
    }
}

/// A NIC with two queues.
fn topology() -> Result<Topology> {
    Topology::new(Plan { nic_queues: 2, ..Plan::default() })
}

#[test]
fn two_comparators_send_on_one_nic_and_neither_minds_the_end_of_the_other() -> Result {
    needs_root!();
    let mut topology = topology()?;
    let first = Launch::on(&topology).start(topology.host())?;
    let mut second = SecondGuest::new(&topology)?;
    let [ours, theirs] = [1, 2].map(|port| Packet::v4().udp(port, 9, b"two guests"));
    for _ in 0..20 {
        topology.primary.send(&ours)?;
        topology.secondary.send(&ours)?;
        topology.client.capture().expect(&[&ours])?;
        second.send(&theirs)?;
        topology.client.capture().expect(&[&theirs])?;
    }
    first.stop()?;
    second.send(&theirs)?;
    topology.client.capture().expect(&[&theirs])?;
    second.comparator.stop()?;
    Ok(())
}

#[test]
fn a_queue_that_another_comparator_sends_on_is_refused_by_name() -> Result {
    needs_root!();
    let topology = topology()?;
    let first = Launch::on(&topology).start(topology.host())?;
    let directory = TempDir::with_prefix("colo-")?;
    let places = ["primary", "secondary"].map(|name| Place::Unix(directory.path().join(name)));
    let ports = ports(&places, &topology, 0);
    let arguments = ["run", "--primary", &ports[0], "--secondary", &ports[1], "--out", &ports[2]];
    let second = run_to_exit(Some(topology.host()), None, &arguments)?;
    assert_eq!(second.status.code(), Some(5));
    let message = String::from_utf8_lossy(&second.stderr);
    let named = format!("{} queue 0 is in use by another colo-xdp", topology.device(Role::Out));
    assert!(message.contains(&named), "{message}");
    assert_eq!(message.trim().lines().count(), 1, "{message}");
    first.stop()?;
    Ok(())
}

#[test]
fn a_queue_that_the_nic_does_not_send_on_is_refused_with_a_way_to_add_it() -> Result {
    needs_root!();
    let topology = topology()?;
    let directory = TempDir::with_prefix("colo-")?;
    let places = ["primary", "secondary"].map(|name| Place::Unix(directory.path().join(name)));
    let ports = ports(&places, &topology, 2);
    let arguments = ["run", "--primary", &ports[0], "--secondary", &ports[1], "--out", &ports[2]];
    let refused = run_to_exit(Some(topology.host()), None, &arguments)?;
    assert_eq!(refused.status.code(), Some(5));
    let message = String::from_utf8_lossy(&refused.stderr);
    let named = format!("{} sends on 2 queues", topology.device(Role::Out));
    assert!(message.contains(&named) && message.contains("combined 3"), "{message}");
    assert_eq!(message.trim().lines().count(), 1, "{message}");
    Ok(())
}
