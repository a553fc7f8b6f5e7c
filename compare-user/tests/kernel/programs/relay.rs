//! `relay_link`, `relay_guest`, `relay_nic` and `relay_flood`.

use std::path::PathBuf;
use std::time::Duration;

use colo_tests::packet::{CLIENT_MAC, GUEST_MAC, Packet};
use compare_user::kernel::{
    ConnectionCounts, DEFAULT_PIN_DIRECTORY, Mode, Relay, RelayOptions, Tally,
};

use super::classes::{CLIENT, Class, SERVER, classes};
use super::rewriting::{Step, conversation, shapes};
use super::run::{Counters, Program, Ran, TC_ACT_OK, XDP_DROP, XDP_PASS, XDP_REDIRECT, once};
use super::tunnel::{Arrives, Arriving, Leaving, Underlay, arriving, leaving};
use crate::network::{Wire, device, in_namespace, ip, pins, tap, veth};

/// A relay between devices that nobody else sends to.
struct Judge {
    relay: Relay,
    guest: Program,
    link: Program,
    nic: Program,
    counters: Counters<Counter>,
}

/// A device and an outcome, as they are reported.
type Counter = (&'static str, &'static str);

fn relay_options() -> RelayOptions {
    RelayOptions {
        guest: "guest".into(),
        link: "link0".into(),
        nic: Some("nic".into()),
        // The fixtures go from the one to the other, in either direction.
        guest_macs: vec![GUEST_MAC, CLIENT_MAC],
        tunnel: None,
        // Redirected socket buffers may have any length.
        mode: Mode::Generic,
        connections: 1024,
        idle_timeout: Duration::from_secs(3600),
        pin: Some(DEFAULT_PIN_DIRECTORY.into()),
        debug: false,
    }
}

fn devices() {
    for (name, far) in [("guest", "inside"), ("link0", "far"), ("nic", "network")] {
        veth(name, far);
    }
}

fn outcomes(relay: &Relay) -> Vec<(Counter, Tally)> {
    let mut all = Vec::new();
    for (device, row) in relay.outcomes().unwrap() {
        let names = ["guest", "link0", "nic"];
        let device = names.into_iter().find(|name| *name == device).unwrap();
        all.extend(row.into_iter().map(|(outcome, tally)| ((device, outcome), tally)));
    }
    all
}

impl Judge {
    fn new(change: impl FnOnce(&mut RelayOptions)) -> Self {
        let mut options = relay_options();
        change(&mut options);
        let relay = Relay::attach(options).unwrap();
        let [guest, link, nic] = ["guest", "link0", "nic"].map(|name| Program::on(&device(name)));
        let counters = Counters::from(outcomes(&relay));
        Self { relay, guest, link, nic, counters }
    }

    fn counts(&mut self) -> ConnectionCounts {
        self.relay.connections().unwrap()
    }

    /// Runs a frame at a device, which must come out as `after`, counted once as `outcome`.
    #[track_caller]
    fn expect(
        &self,
        name: &str,
        (at, frame): (&'static str, &[u8]),
        after: &[u8],
        (action, outcome): (u32, &'static str),
    ) {
        let program = match at {
            "guest" => &self.guest,
            "link0" => &self.link,
            _ => &self.nic,
        };
        let ran = program.run(frame);
        assert_eq!(ran, Ran { action, frame: after.to_vec() }, "{name} at {at}");
        let moved = self.counters.moved(outcomes(&self.relay));
        assert_eq!(moved, [once((at, outcome), after)], "{name} at {at}");
    }
}

#[test]
fn every_class_of_frame_goes_through_as_it_is_and_tcp_headers_that_lie_are_counted() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|_| {});
        let mut unparsed = 0;
        for Class { name, frame, lies, .. } in &classes() {
            judge.expect(name, ("link0", frame), frame, (XDP_REDIRECT, "to_guest"));
            judge.expect(name, ("guest", frame), frame, (XDP_REDIRECT, "to_link"));
            judge.expect(name, ("nic", frame), frame, (XDP_PASS, "host"));
            unparsed += 2 * u64::from(*lies);
            let counts = judge.counts();
            let nothing = (counts.rewritten, counts.learned, counts.implausible);
            assert_eq!((counts.unparsed, nothing), (unparsed, (0, 0, 0)), "{name}");
        }
        judge.relay.fail_over().unwrap();
        for class in &classes() {
            let Class { name, frame, lies, .. } = class;
            judge.expect(name, ("link0", frame), frame, (XDP_DROP, "after_failover"));
            judge.expect(name, ("guest", frame), frame, (XDP_REDIRECT, "to_nic"));
            let guests = !class.floods();
            let expected = if guests { (XDP_REDIRECT, "to_guest") } else { (XDP_PASS, "host") };
            judge.expect(name, ("nic", frame), frame, expected);
            unparsed += (1 + u64::from(guests)) * u64::from(*lies);
            assert_eq!(judge.counts().unparsed, unparsed, "{name}");
        }
        judge.relay.detach().unwrap();
    });
}

#[test]
fn a_connection_has_the_primarys_numbers_on_the_network_and_the_secondarys_at_the_guest() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|_| {});
        for (shape, packet) in shapes() {
            for step in conversation(shape, &packet) {
                let Step { name, to_guest, frame, after, counts } = step;
                let mut expected = judge.counts();
                let at = if to_guest { "link0" } else { "guest" };
                let outcome = if to_guest { "to_guest" } else { "to_link" };
                judge.expect(&name, (at, &frame), &after, (XDP_REDIRECT, outcome));
                counts(&mut expected);
                if name.ends_with(", SYN-ACK") {
                    expected.handshakes += 1;
                }
                assert_eq!(judge.counts(), expected, "{name}");
            }
        }
        // The same frames again, by the NIC: what is known stays known after failover.
        judge.relay.fail_over().unwrap();
        for (shape, packet) in shapes() {
            let steps = conversation(shape, &packet);
            for Step { name, to_guest, frame, after, .. } in steps {
                let (at, outcome) =
                    if to_guest { ("nic", "to_guest") } else { ("guest", "to_nic") };
                // An answer to a handshake that is over is like any other segment by now.
                let after = if name.ends_with(", a guessed answer") { continue } else { after };
                judge.expect(&name, (at, &frame), &after, (XDP_REDIRECT, outcome));
            }
        }
        // A checkpoint: both have the primary's numbers.
        judge.relay.rearm().unwrap();
        judge.relay.checkpoint().unwrap();
        for (shape, packet) in shapes() {
            for Step { name, to_guest, frame, .. } in conversation(shape, &packet) {
                // No new connection begins.
                if name.contains("SYN") {
                    continue;
                }
                let (at, outcome) =
                    if to_guest { ("link0", "to_guest") } else { ("guest", "to_link") };
                judge.expect(&name, (at, &frame), &frame, (XDP_REDIRECT, outcome));
            }
        }
        judge.relay.detach().unwrap();
    });
}

#[test]
fn a_link_that_is_a_tunnel_gives_the_guest_what_is_in_it_and_the_host_the_rest() {
    for underlay in Underlay::ALL {
        in_namespace(move || {
            devices();
            underlay.set_up("link0", true);
            let mut judge = Judge::new(|options| options.tunnel = Some(underlay.spec()));
            for failed_over in [false, true] {
                if failed_over {
                    judge.relay.fail_over().unwrap();
                }
                for Arriving { name, frame, arrives } in arriving(underlay) {
                    let (after, expected) = match arrives {
                        Arrives::Inner(inner) if failed_over => {
                            (inner, (XDP_DROP, "after_failover"))
                        }
                        Arrives::Inner(inner) => (inner, (XDP_REDIRECT, "to_guest")),
                        Arrives::Host => (frame.clone(), (XDP_PASS, "host")),
                        Arrives::OtherVni => (frame.clone(), (XDP_PASS, "other_vni")),
                        Arrives::ForeignPeer => (frame.clone(), (XDP_PASS, "foreign_peer")),
                        Arrives::Malformed => (frame.clone(), (XDP_DROP, "malformed")),
                    };
                    judge.expect(&name, ("link0", &frame), &after, expected);
                }
            }
            judge.relay.detach().unwrap();
        });
    }
}

#[test]
fn what_the_guest_sends_leaves_with_outer_headers_byte_for_byte() {
    for underlay in Underlay::ALL {
        in_namespace(move || {
            devices();
            underlay.set_up("link0", true);
            let mut judge = Judge::new(|options| options.tunnel = Some(underlay.spec()));
            for Leaving { name, inner, outer } in leaving(underlay) {
                match outer {
                    Some(outer) => {
                        judge.expect(&name, ("guest", &inner), &outer, (XDP_REDIRECT, "to_link"));
                    }
                    None => judge.expect(&name, ("guest", &inner), &inner, (XDP_DROP, "too_long")),
                }
            }
            judge.relay.fail_over().unwrap();
            for Leaving { name, inner, .. } in leaving(underlay) {
                judge.expect(&name, ("guest", &inner), &inner, (XDP_REDIRECT, "to_nic"));
            }
            judge.relay.detach().unwrap();
        });
    }
}

#[test]
fn without_a_next_hop_without_a_device_and_without_room_a_frame_is_dropped_and_counted() {
    in_namespace(|| {
        let _guest = tap("guest");
        for (name, far) in [("link0", "far"), ("nic", "network")] {
            veth(name, far);
        }
        let underlay = Underlay::V4;
        underlay.set_up("link0", false);
        let judge = Judge::new(|options| {
            options.tunnel = Some(underlay.spec());
            options.mode = Mode::Native;
        });
        let frame = Packet::v4().udp(SERVER, CLIENT, b"datagram");
        judge.expect("no next hop", ("guest", &frame), &frame, (XDP_DROP, "no_next_hop"));
        judge.relay.detach().unwrap();

        let mut judge = Judge::new(|options| options.mode = Mode::Native);
        // A tap takes no redirected frame of two buffers.
        let long = Packet::v4().udp(SERVER, CLIENT, &[7; 4000]);
        judge.expect("two buffers", ("link0", &long), &long, (XDP_DROP, "too_long"));
        judge.expect("one buffer", ("link0", &frame), &frame, (XDP_REDIRECT, "to_guest"));
        judge.relay.fail_over().unwrap();
        judge.expect("a NIC", ("guest", &frame), &frame, (XDP_REDIRECT, "to_nic"));
        ip("link del nic");
        let dropped = Ran { action: XDP_DROP, frame: frame.clone() };
        assert_eq!(judge.guest.run(&frame), dropped);
        let expected = [once(("guest", "no_device"), &frame)];
        assert_eq!(judge.counters.moved(outcomes(&judge.relay)), expected);
        judge.relay.detach().unwrap();
    });
}

#[test]
fn an_address_is_learned_from_what_the_guest_sends_and_none_from_a_group() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|options| options.guest_macs = vec![]);
        judge.relay.fail_over().unwrap();
        let frame = Packet::v4().udp(SERVER, CLIENT, b"datagram");
        let to = |mac: [u8; 6]| [&mac, &frame[6..]].concat();
        let from = |mac: [u8; 6]| [&frame[..6], &mac, &frame[12..]].concat();
        let mac = [2, 3, 4, 5, 6, 7];
        judge.expect("unknown", ("nic", &to(mac)), &to(mac), (XDP_PASS, "host"));
        for source in [mac, [3, 3, 4, 5, 6, 7]] {
            let sent = from(source);
            judge.expect("sent", ("guest", &sent), &sent, (XDP_REDIRECT, "to_nic"));
        }
        judge.expect("known", ("nic", &to(mac)), &to(mac), (XDP_REDIRECT, "to_guest"));
        let reversed = [6, 6, 5, 4, 3, 2];
        judge.expect("reversed", ("nic", &to(reversed)), &to(reversed), (XDP_PASS, "host"));
        assert_eq!(judge.relay.guest_macs().unwrap(), [mac]);
        judge.relay.detach().unwrap();
    });
}

#[test]
fn the_classifier_copies_what_goes_to_everybody_after_failover_only() {
    in_namespace(|| {
        devices();
        let mut judge = Judge::new(|_| {});
        let is_maps = |path: &PathBuf| path.to_string_lossy().contains("relay-maps-guest-");
        let maps = pins().into_iter().find(is_maps).unwrap();
        let flood = Program::with("relay_flood", &maps.join("RELAY_CONTROL"));
        let (nic, mut inside) = (device("nic"), Wire::open(&device("inside")));
        let ours = Packet::v4().udp(SERVER, CLIENT, b"datagram");
        let everybody = [&[0xff; 6], &ours[6..]].concat();
        let group = [&[0x33, 0x33, 0, 0, 0, 1], &ours[6..]].concat();
        for (failed_over, copied) in
            [(false, vec![]), (true, vec![everybody.clone(), group.clone()])]
        {
            if failed_over {
                judge.relay.fail_over().unwrap();
            }
            for frame in [&ours, &everybody, &group] {
                let expected = Ran { action: TC_ACT_OK, frame: frame.clone() };
                assert_eq!(flood.classify(frame, &nic, 0), expected);
            }
            assert_eq!(inside.drain(), copied);
        }
        judge.relay.detach().unwrap();
    });
}
