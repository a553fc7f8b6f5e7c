//! QEMU's own filters on real netdevs around colo-xdp's chardev ports.
//!
//! The set-up of docs/qemu.md with nothing but chardevs: on the primary a mirror of what the guest
//! receives and two redirectors, on the secondary two redirectors and the rewriter; between them
//! colo-xdp in the place of colo-compare.

use std::time::Duration;

use anyhow::{Context, ensure};
use colo_tests::capture::{Capture, SILENCE};
use colo_tests::comparator::{Comparator, Launch};
use colo_tests::namespace::Namespace;
use colo_tests::packet::{CLIENT_V4, CLIENT_V6, GUEST_V4, GUEST_V6, Packet, arp};
use colo_tests::payload::bytes;
use colo_tests::replica::{DEVICE, Plan, Queue, Replica};
use colo_tests::segment::Segment;
use colo_tests::{Result, needs_qemu, needs_root};
use tempfile::TempDir;

/// How long QEMU and colo-xdp may take to find each other.
const MEET: Duration = Duration::from_secs(10);

/// A COLO pair with colo-xdp between them.
struct Pair {
    comparator: Comparator,
    primary: Replica,
    secondary: Replica,
    _directory: TempDir,
}

impl Pair {
    fn new(vnet: bool) -> Result<Self> {
        let with = |properties: &str| {
            format!("{properties},vnet_hdr_support={}", if vnet { "on" } else { "off" })
        };
        let directory = TempDir::with_prefix("colo-")?;
        let egress = directory.path().join("secondary");
        // Of the redirectors on one queue, the one made last sees a frame of the guest first: what
        // comes back from the comparator enters behind it.
        let primary = Plan::new()?
            .server("mirror")
            .server("compare")
            .server("released")
            .filter("filter-mirror", Queue::ToGuest, &with("outdev=mirror"))
            .filter("filter-redirector", Queue::FromGuest, &with("indev=released"))
            .filter("filter-redirector", Queue::FromGuest, &with("outdev=compare"))
            .start()?;
        let port = |name| format!("chardev:unix:{}", primary.socket(name).display());
        let mut launch = Launch::between([
            port("compare"),
            format!("chardev:unix:{},server", egress.display()),
            port("released"),
        ]);
        if vnet {
            launch = launch.arguments(&["--vnet-hdr"]);
        }
        let comparator = launch.start_here()?;
        let secondary = Plan::new()?
            .client("mirrored", &primary.socket("mirror"))
            .client("egress", &egress)
            .filter("filter-redirector", Queue::ToGuest, &with("indev=mirrored"))
            .filter("filter-redirector", Queue::FromGuest, &with("outdev=egress"))
            .filter("filter-rewriter", Queue::ToGuest, &with("status=on"))
            .start()?;
        await_peers(&comparator)?;
        Ok(Self { comparator, primary, secondary, _directory: directory })
    }

    /// Both guests send these, the primary first, and the client gets them in this order.
    fn answer(&mut self, frames: &[Vec<u8>]) -> Result {
        for frame in frames {
            self.primary.send(frame)?;
        }
        for frame in frames {
            self.secondary.send(frame)?;
        }
        self.primary.capture.expect(frames)
    }

    fn finish(mut self) -> Result {
        self.secondary.capture.expect_nothing(SILENCE)?;
        self.primary.check()?;
        self.secondary.check()?;
        self.comparator.stop()?;
        Ok(())
    }
}

fn await_peers(comparator: &Comparator) -> Result {
    comparator.control().await_status("all peers", MEET, |status| {
        let ports = status.0["ports"].as_array();
        ports.is_some_and(|ports| ports.iter().all(|port| port["up"] == true))
    })?;
    Ok(())
}

#[test]
fn what_the_client_sends_reaches_both_guests_and_their_equal_answers_reach_the_client() -> Result {
    needs_root!();
    needs_qemu!();
    for vnet in [false, true] {
        let mut pair = Pair::new(vnet)?;
        // Long enough that QEMU does not pad it.
        let question = bytes(1, 60);
        let questions = [
            Packet::between(CLIENT_V4.into(), GUEST_V4.into()).udp(4000, 53, &question),
            Packet::between(CLIENT_V6.into(), GUEST_V6.into()).udp(4000, 53, &question),
        ];
        for question in &questions {
            pair.primary.send_to_guest(question)?;
            pair.primary.expect_at_guest(question).context("primary")?;
            pair.secondary.expect_at_guest(question).context("secondary")?;
        }
        for packet in Packet::families() {
            let answers: Vec<_> =
                (0..20).map(|n| packet.udp(53, 4000, &bytes(n, 200 + n as usize))).collect();
            pair.answer(&answers)?;
            let stream = Segment::new(80, 4000).sequence(1).acknowledgement(1);
            pair.answer(&stream.stream(&packet, &bytes(1, 3000), &[1000, 1000, 1000]))?;
        }
        // Not held, and the secondary's is dropped.
        pair.primary.send(&arp())?;
        pair.primary.capture.expect(&[arp()])?;
        pair.secondary.send(&arp())?;
        pair.primary.capture.expect_nothing(SILENCE)?;
        pair.finish()?;
    }
    Ok(())
}

#[test]
fn what_only_the_primary_answers_is_held_until_the_checkpoint() -> Result {
    needs_root!();
    needs_qemu!();
    let mut pair = Pair::new(false)?;
    let ours = Packet::v4().udp(53, 4000, b"yes");
    pair.primary.send(&ours)?;
    pair.primary.capture.expect_nothing(SILENCE)?;
    pair.secondary.send(&Packet::v4().udp(53, 4000, b"yet"))?;
    pair.comparator.event("checkpoint-requested")?;
    pair.primary.capture.expect_nothing(SILENCE)?;
    pair.comparator.control().call(&["checkpoint"])?;
    pair.primary.capture.expect(&[ours])?;
    pair.finish()
}

/// The second set-up: the primary's egress by AF_XDP from its tap to the NIC, the secondary's over
/// TCP from QEMU's redirector on another host.
#[test]
fn the_primary_by_af_xdp_and_the_secondary_from_qemus_redirector_over_tcp() -> Result {
    needs_root!();
    needs_qemu!();
    let host = Namespace::new("host")?;
    let client = Namespace::new("client")?;
    let primary = Plan::new()?
        .chardev("socket,id=mirror,host=0.0.0.0,port=9003,server=on,wait=off")
        .filter("filter-mirror", Queue::ToGuest, "outdev=mirror")
        .start_in(host)?;
    let secondary = Plan::new()?
        .chardev("socket,id=mirrored,host=198.51.100.1,port=9003,reconnect=1")
        .chardev("socket,id=egress,host=198.51.100.1,port=9004,reconnect=1")
        .filter("filter-redirector", Queue::ToGuest, "indev=mirrored")
        .filter("filter-redirector", Queue::FromGuest, "outdev=egress")
        .filter("filter-rewriter", Queue::ToGuest, "status=on")
        .start()?;
    let host = primary.namespace();
    host.ip(&format!(
        "link add br0 type bridge stp_state 0 mcast_snooping 0\n\
         link add nic0 type veth peer name client0 netns {}\n\
         link add link0 type veth peer name link1 netns {}\n\
         address add 198.51.100.1/24 dev link0\n\
         link set {DEVICE} master br0\nlink set nic0 master br0\n\
         link set br0 up\nlink set nic0 up\nlink set link0 up",
        client.name(),
        secondary.namespace().name(),
    ))?;
    client.ip("link set client0 up")?;
    secondary.namespace().ip("address add 198.51.100.2/24 dev link1\nlink set link1 up")?;
    let mut at_client = Capture::inside(&client, "client0")?;

    let ports = [
        format!("xdp:{DEVICE}"),
        "chardev:tcp:198.51.100.1:9004,server".to_owned(),
        "xdp:nic0".to_owned(),
    ];
    let comparator = Launch::between(ports).start(host)?;
    await_peers(&comparator)?;

    let question = Packet::between(CLIENT_V4.into(), GUEST_V4.into()).udp(4000, 53, &bytes(1, 60));
    // Until the secondary's QEMU has found the mirror, which it tries once a second, nobody tells it.
    let mut attempts = 0;
    while !secondary.receives(&question, Duration::from_millis(250))? {
        ensure!(attempts < 20, "the secondary's guest receives nothing");
        attempts += 1;
        primary.send_to_guest(&question)?;
        primary.expect_at_guest(&question)?;
    }
    for packet in Packet::families() {
        let answers: Vec<_> = (0..20).map(|n| packet.udp(53, 4000, &bytes(n, 500))).collect();
        for answer in &answers {
            primary.send(answer)?;
        }
        at_client.expect_nothing(SILENCE)?;
        for answer in &answers {
            secondary.send(answer)?;
        }
        at_client.expect(&answers)?;
    }
    comparator.stop()?;
    Ok(())
}
