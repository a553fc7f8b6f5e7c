//! Bypass rules against crafted frames, one by one through `BPF_PROG_TEST_RUN`.

use compare_user::kernel::{AttachOptions, Mode, Outcome, Steer};
use etherparse::{IpNumber, PacketBuilder};

use crate::network::{device, ethernet, in_namespace, options, udp, veth};
use crate::programs::run::{Program, XDP_DROP, XDP_REDIRECT};

/// The program on a quiet device: bypassed frames are redirected, all others dropped.
struct Judge {
    steer: Steer,
    program: Program,
}

impl Judge {
    fn new() -> Self {
        veth("guest", "inside");
        let output = Some(device("inside").index);
        let steer =
            Steer::attach(&AttachOptions { output, ..options("guest", Mode::Native) }).unwrap();
        let program = Program::on(&device("guest"));
        Self { steer, program }
    }

    fn rules(&mut self, rules: &[&str]) {
        let rules: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        self.steer.set_bypass(&rules).unwrap();
    }

    fn bypasses(&self, frame: &[u8]) -> bool {
        match self.program.run(frame).action {
            XDP_DROP => false,
            XDP_REDIRECT => true,
            other => panic!("action {other}"),
        }
    }

    #[track_caller]
    fn assert(&mut self, rule: &str, frame: &[u8], bypassed: bool) {
        self.rules(&[rule]);
        assert_eq!(self.bypasses(frame), bypassed, "{rule} on {frame:02x?}");
    }
}

const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// 10.0.0.1:1000 to 10.0.1.2:2000.
fn ipv4() -> Vec<u8> {
    ethernet(TO, 0x0800, &udp((1, 1000), (2, 2000)))
}

/// TCP from 2001:db8::1 port 1000 to 2001:db8:1::2 port 2000, behind extension headers.
fn ipv6(extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let source = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let destination = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let mut packet = Vec::new();
    let tcp = PacketBuilder::ipv6(source, destination, 64).tcp(1000, 2000, 1, 1000);
    tcp.write(&mut packet, b"stream").unwrap();
    // Chained by hand: each header's first byte is the number of the next.
    let mut next = 6;
    let mut chain: Vec<u8> = Vec::new();
    for (number, body) in extensions.iter().rev() {
        let mut header = vec![next];
        header.extend(body);
        header.extend(&chain);
        chain = header;
        next = *number;
    }
    packet[6] = next;
    packet.splice(40..40, chain);
    ethernet(TO, 0x86dd, &packet)
}

/// Padding options of one eight-byte unit more than `units`.
fn options_header(units: u8) -> Vec<u8> {
    let mut body = vec![units, 1, 4 + units * 8];
    body.resize(7 + usize::from(units) * 8, 0);
    body
}

fn fragment_header(offset_and_more: u16) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(offset_and_more.to_be_bytes());
    body.extend([0, 0, 0, 9]);
    body
}

#[test]
fn every_part_of_a_rule_must_match_an_ipv4_frame() {
    in_namespace(|| {
        let mut judge = Judge::new();
        for (rule, bypassed) in [
            ("proto=udp", true),
            ("proto=17", true),
            ("proto=tcp", false),
            ("port=1000", true),
            ("port=2000", true),
            ("port=3000", false),
            ("port=1000,side=source", true),
            ("port=1000,side=destination", false),
            ("port=2000,side=destination", true),
            ("port=2000,side=source", false),
            ("addr=10.0.0.1", true),
            ("addr=10.0.1.2", true),
            ("addr=10.0.0.2", false),
            ("addr=10.0.0.0/23", true),
            ("addr=10.0.1.0/24,side=source", false),
            ("addr=10.0.1.0/24,side=destination", true),
            ("addr=0.0.0.0/0", true),
            ("addr=::/0", false),
            // Address and port belong to the same end.
            ("addr=10.0.0.1,port=1000", true),
            ("addr=10.0.0.1,port=2000", false),
            ("proto=udp,addr=10.0.1.0/24,port=2000,side=destination", true),
            ("proto=tcp,addr=10.0.1.0/24,port=2000,side=destination", false),
        ] {
            judge.assert(rule, &ipv4(), bypassed);
        }
    });
}

#[test]
fn ipv6_rules_see_behind_extension_headers() {
    in_namespace(|| {
        let mut judge = Judge::new();
        let (hop_by_hop, routing, options, authentication) = (0, 43, 60, 51);
        let mut integrity = vec![4];
        integrity.resize(23, 0);
        for extensions in [
            vec![],
            vec![(hop_by_hop, options_header(0))],
            vec![(hop_by_hop, options_header(2)), (routing, options_header(1))],
            // An atomic fragment is a whole datagram.
            vec![(44, fragment_header(0))],
            vec![(authentication, integrity)],
            vec![(options, options_header(0)); 6],
        ] {
            let frame = ipv6(&extensions);
            judge.assert("proto=tcp,port=2000,side=destination", &frame, true);
            judge.assert("proto=tcp,port=1000,side=source", &frame, true);
            judge.assert("port=2000,side=source", &frame, false);
            judge.assert("proto=udp", &frame, false);
            judge.assert("addr=2001:db8::/48,side=source", &frame, true);
            judge.assert("addr=2001:db8::/48,side=destination", &frame, false);
            judge.assert("addr=2001:db8:1::2", &frame, true);
            judge.assert("addr=0.0.0.0/0", &frame, false);
        }
        judge.assert("proto=tcp", &ipv6(&vec![(options, options_header(0)); 7]), false);
    });
}

#[test]
fn up_to_two_vlan_tags_are_looked_through() {
    in_namespace(|| {
        let mut judge = Judge::new();
        let tag = |ethertype: u16, frame: &[u8]| {
            let mut tagged = frame[..12].to_vec();
            tagged.extend(ethertype.to_be_bytes());
            tagged.extend([0, 5]);
            tagged.extend(&frame[12..]);
            tagged
        };
        for frame in [ipv4(), ipv6(&[])] {
            let one = tag(0x8100, &frame);
            let two = tag(0x88a8, &one);
            judge.assert("port=2000", &one, true);
            judge.assert("port=2000", &two, true);
            judge.assert("port=2000", &tag(0x88a8, &two), false);
        }
    });
}

#[test]
fn ipv4_options_do_not_hide_the_ports() {
    in_namespace(|| {
        let mut judge = Judge::new();
        let mut packet = udp((1, 1000), (2, 2000));
        packet[0] = 0x4f;
        packet.splice(20..20, [1; 40]);
        judge.assert("port=2000", &ethernet(TO, 0x0800, &packet), true);
        packet[0] = 0x44;
        judge.assert("proto=udp", &ethernet(TO, 0x0800, &packet), false);
    });
}

#[test]
fn no_piece_of_a_datagram_matches_a_port_but_all_match_the_addresses() {
    in_namespace(|| {
        let mut judge = Judge::new();
        for fragment in [0x2000_u16, 0x2010, 0x0010] {
            let mut packet = udp((1, 1000), (2, 2000));
            packet[6..8].copy_from_slice(&fragment.to_be_bytes());
            let frame = ethernet(TO, 0x0800, &packet);
            judge.assert("port=2000", &frame, false);
            judge.assert("proto=udp,addr=10.0.1.2", &frame, true);
        }
        for fragment in [1_u16, 8 << 3 | 1, 8 << 3] {
            let frame = ipv6(&[(44, fragment_header(fragment))]);
            judge.assert("port=2000", &frame, false);
            judge.assert("proto=tcp,addr=2001:db8::1", &frame, true);
        }
        // Don't-fragment is no fragment.
        let mut packet = udp((1, 1000), (2, 2000));
        packet[6] = 0x40;
        judge.assert("port=2000", &ethernet(TO, 0x0800, &packet), true);
    });
}

#[test]
fn frames_that_end_early_or_are_no_ip_match_nothing_and_are_counted() {
    in_namespace(|| {
        let mut judge = Judge::new();
        judge.rules(&["proto=udp", "proto=tcp", "addr=0.0.0.0/0", "addr=::/0", "port=2000"]);
        let mut unparsed = 0;
        for whole in [ipv4(), ipv6(&[(0, options_header(1))])] {
            // Up to the end of the ports.
            let headers = if whole[12] == 8 { 14 + 20 + 4 } else { 14 + 40 + 16 + 4 };
            for length in 14..headers {
                assert!(!judge.bypasses(&whole[..length]), "{length} bytes");
                unparsed += 1;
            }
            assert!(judge.bypasses(&whole[..headers]));
        }
        assert!(!judge.bypasses(&ethernet(TO, 0x0806, &[0; 46])));
        assert!(!judge.bypasses(&ethernet(TO, 0x0800, &[0x60; 46])));
        assert!(!judge.bypasses(&ethernet(TO, 0x86dd, &[0x40; 46])));
        let counted = judge.steer.outcomes().unwrap()[Outcome::Unparsed].packets;
        assert_eq!(counted, unparsed + 3);
    });
}

#[test]
fn protocols_without_ports_match_by_number() {
    in_namespace(|| {
        let mut judge = Judge::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 2], 64);
        let mut packet = Vec::new();
        builder.icmpv4_echo_request(1, 2).write(&mut packet, b"ping").unwrap();
        let ping = ethernet(TO, 0x0800, &packet);
        judge.assert("proto=icmp", &ping, true);
        judge.assert("proto=icmpv6", &ping, false);

        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 2], 64);
        builder.write(&mut packet, IpNumber(89), b"hello").unwrap();
        judge.assert("proto=89", &ethernet(TO, 0x0800, &packet), true);
        // A port never matches where there is none, not even by coincidence of bytes.
        judge.assert("port=26725", &ethernet(TO, 0x0800, &packet), false);
    });
}

#[test]
fn the_last_of_sixty_four_rules_counts_and_one_more_is_refused() {
    in_namespace(|| {
        let mut judge = Judge::new();
        let mut rules: Vec<String> = (1..64).map(|port| format!("port={port}")).collect();
        rules.push("port=2000".into());
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        judge.rules(&rules);
        assert!(judge.bypasses(&ipv4()));
        judge.rules(&rules[..63]);
        assert!(!judge.bypasses(&ipv4()));
        let many: Vec<_> = (1..=65).map(|port| format!("port={port}").parse().unwrap()).collect();
        assert!(judge.steer.set_bypass(&many).is_err());
    });
}

#[test]
fn without_rules_frames_are_not_read() {
    in_namespace(|| {
        let judge = Judge::new();
        judge.program.run(&ipv4()[..14]);
        assert_eq!(judge.steer.outcomes().unwrap()[Outcome::Unparsed].packets, 0);
        assert_eq!(judge.steer.outcomes().unwrap()[Outcome::NoSocketDropped].packets, 1);
    });
}

/// Figures with `cargo test --test kernel -- --nocapture cost`, on an idle machine.
#[test]
fn the_cost_of_rules_falls_on_those_who_have_them() {
    in_namespace(|| {
        let mut judge = Judge::new();
        let rules: Vec<String> = (3001..3065).map(|port| format!("port={port}")).collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut cost = |count: usize| {
            judge.rules(&rules[..count]);
            let (action, nanoseconds) = judge.program.cost(&ipv4(), 100_000);
            assert_eq!(action, XDP_DROP);
            println!("{count} rules: {nanoseconds} ns per frame");
            nanoseconds
        };
        let (none, one, all) = (cost(0), cost(1), cost(64));
        assert!(none < one && one < all, "{none} {one} {all}");
    });
}
