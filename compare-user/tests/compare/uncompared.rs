//! DESIGN.md section 4, "Never compared", and the reference's table: what may differ.

use compare_user::compare::{Release, Side};

use crate::rig::{Rig, ms};
use crate::wire::{Bytes, IPV4, IPV6, Network, data, padded, segment};

/// Ways in which two networks may differ below the compared bytes.
fn variations() -> Vec<Network> {
    let v4 = [
        Network { mac: [2, 9, 9, 9, 9, 9], ..IPV4 },
        Network { ttl: 63, ..IPV4 },
        Network { tos: 0x48, ..IPV4 },
        Network { identification: 999, ..IPV4 },
        Network { dont_fragment: false, ..IPV4 },
        Network { ipv4_options: &[1, 1, 1, 1], ..IPV4 },
    ];
    let v6 = [
        Network { mac: [2, 9, 9, 9, 9, 9], ..IPV6 },
        Network { ttl: 63, ..IPV6 },
        Network { tos: 0x48, ..IPV6 },
        Network { flow_label: 0x1_2345, ..IPV6 },
    ];
    v4.into_iter().chain(v6).collect()
}

fn assert_same(ours: Bytes, theirs: Bytes, what: &str) {
    for first in [Side::Primary, Side::Secondary] {
        let mut rig = Rig::new();
        let frame = |side| if side == Side::Primary { ours.clone() } else { theirs.clone() };
        rig.offer(first, frame(first));
        rig.offer(first.other(), frame(first.other()));
        assert_eq!(rig.released(), std::slice::from_ref(&ours), "{what}, {first:?} first");
        assert!(rig.is_clean());
    }
}

#[test]
fn link_and_ip_fields_are_not_output() {
    for other in variations() {
        let base = if other.ipv6 { IPV6 } else { IPV4 };
        let what = format!("{other:?}");
        assert_same(base.udp(5, b"payload"), other.udp(5, b"payload"), &what);
        assert_same(base.echo(5, b"payload"), other.echo(5, b"payload"), &what);
        assert_same(base.protocol(47, b"payload"), other.protocol(47, b"payload"), &what);
        let tcp = |network| data(0, b"payload").on(network).frame();
        assert_same(tcp(&base), tcp(&other), &what);
    }
}

#[test]
fn vlan_priority_is_not_output() {
    let ours = Network { tags: &[7], ..IPV4 }.udp(5, b"payload");
    let mut theirs = ours.clone();
    theirs[14] |= 0xe0;
    assert_same(ours, theirs, "priority bits of the tag");
}

#[test]
fn ipv6_options_are_not_output() {
    let with_option = |pad: u8| {
        let mut body = vec![17, 0, 1, 4, 0, 0, 0, pad];
        body.extend([0, 53, 0, 5, 0, 12, 0x12, 0x34]);
        body.extend(b"data");
        IPV6.protocol(60, &body)
    };
    assert_same(with_option(0), with_option(1), "a destination option");
}

#[test]
fn checksums_are_not_output() {
    for (frame, at) in [
        (IPV4.udp(5, b"payload"), 14 + 20 + 6),
        (IPV6.udp(5, b"payload"), 14 + 40 + 6),
        (IPV4.echo(5, b"payload"), 14 + 20 + 2),
        (IPV6.echo(5, b"payload"), 14 + 40 + 2),
        (data(0, b"payload").frame(), 14 + 20 + 16),
        (data(0, b"payload").frame(), 14 + 10),
    ] {
        let mut theirs = frame.clone();
        theirs[at..at + 2].copy_from_slice(&[0, 0]);
        assert_same(frame, theirs, "a checksum of zero");
    }
}

#[test]
fn padding_behind_the_ip_length_is_not_output() {
    for frame in [IPV4.udp(5, b"1"), IPV6.udp(5, b"1"), data(0, b"1").frame()] {
        assert_same(frame.clone(), padded(frame.clone(), 0), "on one side only");
        assert_same(padded(frame.clone(), 0), padded(frame, 9), "different");
    }
}

#[test]
fn padding_is_not_tcp_payload() {
    let mut rig = Rig::new();
    rig.primary(padded(segment(0).ack(1).frame(), 7));
    assert_eq!(rig.reasons(), [Release::NoPayload]);
    rig.both(padded(data(0, b"1").frame(), 7));
    rig.both(padded(data(1, b"2").frame(), 8));
    assert_eq!(rig.released().len(), 3);
}

#[test]
fn tcp_options_window_urgent_pointer_and_push_are_not_output() {
    let plain = || data(0, b"payload");
    for (other, what) in [
        (plain().timestamp(123_456), "options"),
        (plain().window(9), "window"),
        (plain().urgent(3), "urgent pointer"),
        (plain().psh(), "push"),
    ] {
        assert_same(plain().frame(), other.frame(), what);
    }
}

#[test]
fn udp_ports_and_length_are_output() {
    let mut rig = Rig::new();
    rig.primary(IPV4.udp(5, b"payload"));
    rig.secondary(IPV4.udp(6, b"payload"));
    rig.wait(ms(100));
    assert!(rig.released().is_empty(), "another port is another flow");
}
