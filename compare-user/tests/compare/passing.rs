//! DESIGN.md section 4, class table: what passes uncompared, and frames that contradict
//! themselves.

use compare_user::compare::{Discard, Release, Side};

use crate::rig::Rig;
use crate::wire::{Bytes, IPV4, IPV6, Network, data};

fn ethernet(ether_type: u16, body: &[u8]) -> Bytes {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(body);
    frame
}

fn icmpv6(message: u8) -> Bytes {
    let mut body = vec![message, 0, 0, 0];
    body.extend([0; 20]);
    IPV6.protocol(58, &body)
}

fn assert_passes(frame: Bytes, why: Release, what: &str) {
    let mut rig = Rig::new();
    rig.primary(frame.clone());
    assert_eq!(rig.reasons(), [why], "{what}: the primary's leaves at once");
    rig.secondary(frame);
    assert_eq!(rig.released().len(), 1, "{what}");
    assert_eq!(rig.discards(), [(Side::Secondary, Discard::NotCompared)], "{what}");
    let counters = rig.comparator.counters();
    let (passed, malformed) = if why == Release::Passed { (1, 0) } else { (0, 2) };
    assert_eq!((counters.passed, counters.malformed), (passed, malformed), "{what}: counted");
    assert_eq!(counters.flows, 0, "{what}: no flow is made");
    assert!(rig.is_clean());
}

#[test]
fn what_is_no_guests_output_passes_uncompared() {
    for (frame, what) in [
        (ethernet(0x0806, &[0; 28]), "ARP"),
        (ethernet(0x88cc, &[0; 46]), "LLDP"),
        (ethernet(46, &[0; 46]), "802.3"),
        (ethernet(0x1234, &[0; 46]), "an unknown EtherType"),
        (Network { tags: &[7], ..IPV4 }.protocol(2, &[0x16, 0, 0, 0, 224, 0, 0, 1]), "IGMP"),
        (IPV4.protocol(2, &[0x16, 0, 0, 0, 224, 0, 0, 1]), "IGMP"),
    ] {
        assert_passes(frame, Release::Passed, what);
    }
    for message in (130..=137).chain([143]) {
        assert_passes(icmpv6(message), Release::Passed, "neighbour discovery and MLD");
    }
}

#[test]
fn a_frame_that_contradicts_itself_is_handled_like_one_that_is_not_ip() {
    let cut = |frame: Bytes, length: usize| frame[..length].to_vec();
    let set = |mut frame: Bytes, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let tcp = data(0, b"payload").frame();
    let udp = IPV4.udp(5, b"payload");
    let udp6 = IPV6.udp(5, b"payload");
    for (frame, what) in [
        (vec![], "empty"),
        (vec![0; 13], "runt"),
        (ethernet(0x8100, &[0]), "a cut tag"),
        (cut(udp.clone(), 14 + 10), "a cut IPv4 header"),
        (set(udp.clone(), 14, 0x44), "a header length below the least"),
        (set(udp.clone(), 14, 0x65), "version 6 in an IPv4 frame"),
        (set(udp.clone(), 14 + 2, 0xff), "a total length beyond the frame"),
        (set(udp.clone(), 14 + 3, 5), "a total length below the header's"),
        (set(udp.clone(), 14 + 20 + 4, 0xff), "a UDP length beyond the packet"),
        (set(udp, 14 + 20 + 5, 7), "a UDP length below its header"),
        (set(tcp.clone(), 14 + 20 + 12, 0x40), "a TCP data offset below the least"),
        (set(tcp.clone(), 14 + 20 + 12, 0xf0), "a TCP data offset beyond the packet"),
        (set(set(tcp, 14 + 2, 0), 14 + 3, 30), "a cut TCP header"),
        (IPV4.protocol(1, &[0; 7]), "a cut ICMP header"),
        (IPV6.protocol(58, &[128; 7]), "a cut ICMPv6 header"),
        (cut(udp6.clone(), 14 + 30), "a cut IPv6 header"),
        (set(udp6, 14 + 4, 0xff), "an IPv6 payload length beyond the frame"),
        (IPV6.protocol(60, &[17]), "a cut extension header"),
    ] {
        assert_passes(frame, Release::Malformed, what);
    }
}

#[test]
fn a_malformed_frame_does_not_disturb_the_flow_that_it_names() {
    let mut rig = Rig::new();
    let mut bad = data(0, b"payload").frame();
    bad[14 + 20 + 12] = 0xf0;
    rig.primary(data(0, b"payload"));
    rig.primary(bad.clone());
    rig.secondary(bad);
    rig.secondary(data(0, b"payload"));
    assert_eq!(rig.reasons(), [Release::Malformed, Release::Matched]);
    assert!(rig.is_clean());
}

#[test]
fn other_ipv6_messages_are_compared() {
    let mut rig = Rig::new();
    rig.primary(icmpv6(1));
    assert!(rig.released().is_empty());
    rig.secondary(icmpv6(1));
    assert_eq!(rig.reasons(), [Release::Matched]);
}
