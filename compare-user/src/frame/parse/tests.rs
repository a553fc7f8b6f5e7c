//! What [`Headers::parse`] makes of every kind of frame.

use proptest::collection::vec;
use proptest::prelude::*;

use super::MAX_EXTENSIONS;
use crate::frame::samples::*;
use crate::frame::{
    Class, Headers, HeapFrame, HeapFrames, Malformed, NO_TAG, PassReason, TcpFields,
};

fn parse(frame: &[u8]) -> Headers {
    Headers::parse(&HeapFrames, &HeapFrame::from(frame))
}

fn class(frame: &[u8]) -> Class {
    parse(frame).class
}

/// The compared bytes, without the hole.
fn compared(frame: &[u8]) -> Vec<u8> {
    let headers = parse(frame);
    let content = usize::from(headers.content)..headers.end as usize;
    let hole = usize::from(headers.hole);
    let is_hole = |at: &usize| hole != 0 && (hole..hole + 2).contains(at);
    content.filter(|at| !is_hole(at)).map(|at| frame[at]).collect()
}

const PAYLOAD: &[u8] = b"twelve bytes";

mod ethernet {
    use super::*;

    #[test]
    fn shorter_than_its_header_is_malformed() {
        let frame = ethernet(IPV4, &[]);
        assert_eq!(class(&[]), Class::Malformed(Malformed::Ethernet));
        assert_eq!(class(&frame[..13]), Class::Malformed(Malformed::Ethernet));
    }

    #[test]
    fn arp_passes() {
        assert_eq!(class(&ethernet(0x0806, &[0; 28])), Class::Pass(PassReason::Arp));
    }

    #[test]
    fn lldp_802_3_lengths_and_unknown_types_are_not_ip() {
        for ether_type in [0x88cc, 0x0026, 0x05dc, 0x1234] {
            let frame = ethernet(ether_type, &ipv4(UDP, &udp(PAYLOAD)));
            assert_eq!(class(&frame), Class::Pass(PassReason::NotIp), "{ether_type:#06x}");
        }
    }

    #[test]
    fn up_to_three_tags_of_any_kind_are_followed_and_their_priority_ignored() {
        let packet = ipv4(UDP, &udp(PAYLOAD));
        let frame = tagged(&[(0x88a8, 0xe007), (0x9100, 0x000c), (0x8100, 0x1fff)], IPV4, &packet);
        let headers = parse(&frame);
        assert_eq!(headers.class, Class::Datagram);
        assert_eq!(headers.key.vlan, [7, 12, 0xfff]);
        assert_eq!(headers.network, 14 + 12);

        let headers = parse(&tagged(&[(0x8100, 5)], IPV4, &packet));
        assert_eq!(headers.key.vlan, [5, NO_TAG, NO_TAG]);
        assert_eq!(headers.network, 14 + 4);
    }

    #[test]
    fn a_fourth_tag_is_not_ip() {
        let frame = tagged(&[(0x8100, 1); 4], IPV4, &ipv4(UDP, &udp(PAYLOAD)));
        assert_eq!(class(&frame), Class::Pass(PassReason::NotIp));
    }

    #[test]
    fn a_cut_tag_is_malformed() {
        let frame = tagged(&[(0x8100, 1), (0x8100, 2)], IPV4, &[]);
        assert_eq!(class(&frame[..frame.len() - 1]), Class::Malformed(Malformed::Ethernet));
    }

    #[test]
    fn arp_behind_a_tag_passes_as_arp() {
        assert_eq!(class(&tagged(&[(0x8100, 1)], 0x0806, &[0; 28])), Class::Pass(PassReason::Arp));
    }
}

mod ipv4 {
    use super::*;

    #[test]
    fn addresses_fill_the_first_four_bytes_of_the_key() {
        let key = parse(&ethernet(IPV4, &ipv4(UDP, &udp(PAYLOAD)))).key;
        assert_eq!((key.family, key.protocol, key.fragment), (4, UDP, 0));
        assert_eq!(key.source[..4], SOURCE);
        assert_eq!(key.source[4..], [0; 12]);
        assert_eq!(key.destination[..4], DESTINATION);
        assert_eq!(key.destination[4..], [0; 12]);
    }

    #[test]
    fn options_move_the_transport_header() {
        let packet = ipv4_with(UDP, &udp(PAYLOAD), |header| {
            header.options = [1; 8].into();
            header.total_len += 8;
        });
        let frame = ethernet(IPV4, &packet);
        assert_eq!(parse(&frame).transport, 14 + 28);
        assert_eq!(compared(&frame)[2..], *PAYLOAD);
    }

    #[test]
    fn padding_behind_the_total_length_is_ignored() {
        let frame = ethernet(IPV4, &ipv4(UDP, &udp(b"hi")));
        let mut padded = frame.clone();
        padded.resize(60, 0xee);
        assert_eq!(parse(&padded).end as usize, frame.len());
        assert_eq!(compared(&padded), compared(&frame));
    }

    #[test]
    fn lengths_and_versions_that_lie_are_malformed() {
        let good = ethernet(IPV4, &ipv4(UDP, &udp(PAYLOAD)));
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        let cases = [
            ("version 6", with(14, 0x65)),
            ("header length below 20", with(14, 0x44)),
            ("header length beyond the total length", with(14, 0x4f)),
            ("total length beyond the frame", with(17, 41)),
            ("total length below the header's", with(17, 19)),
            ("cut header", good[..14 + 19].to_vec()),
            ("no header", good[..14].to_vec()),
        ];
        for (what, frame) in cases {
            assert_eq!(class(&frame), Class::Malformed(Malformed::Ipv4), "{what}");
        }
    }

    #[test]
    fn an_authentication_header_is_stepped_over() {
        let frame = ethernet(IPV4, &ipv4(51, &authentication(UDP, &udp(PAYLOAD))));
        let headers = parse(&frame);
        assert_eq!((headers.key.protocol, headers.key.source_port), (UDP, 1000));
        assert_eq!(headers.transport, 14 + 20 + 24);

        let cut = ethernet(IPV4, &ipv4(51, &authentication(UDP, &[])[..23]));
        assert_eq!(class(&cut), Class::Malformed(Malformed::Ipv4));
    }

    #[test]
    fn igmp_passes_as_group_membership() {
        let frame = ethernet(IPV4, &ipv4(2, &icmp(0x16, &[])));
        assert_eq!(class(&frame), Class::Pass(PassReason::GroupMembership));
    }

    #[test]
    fn other_protocols_compare_the_whole_payload() {
        // ICMPv6 in IPv4 is one of them; so is an empty payload.
        for (protocol, payload) in [(132, PAYLOAD), (47, PAYLOAD), (ICMPV6, PAYLOAD), (253, b"")] {
            let frame = ethernet(IPV4, &ipv4(protocol, payload));
            let headers = parse(&frame);
            assert_eq!(headers.class, Class::Datagram);
            assert_eq!((headers.key.protocol, headers.hole), (protocol, 0));
            assert_eq!((headers.key.source_port, headers.key.destination_port), (0, 0));
            assert_eq!(compared(&frame), payload);
        }
    }
}

mod ipv6 {
    use super::*;

    #[test]
    fn addresses_fill_the_key() {
        let headers = parse(&ethernet(IPV6, &ipv6(UDP, &udp(PAYLOAD))));
        let key = headers.key;
        assert_eq!((key.family, key.protocol, key.fragment), (6, UDP, 0));
        assert_eq!((key.source, key.destination), (SOURCE6, DESTINATION6));
        assert_eq!((headers.network, headers.transport), (14, 54));
    }

    #[test]
    fn padding_behind_the_payload_length_is_ignored() {
        let frame = ethernet(IPV6, &ipv6(UDP, &udp(b"hi")));
        let padded = [&frame[..], &[0xee; 9]].concat();
        assert_eq!(parse(&padded).end as usize, frame.len());
        assert_eq!(compared(&padded), compared(&frame));
    }

    #[test]
    fn lengths_and_versions_that_lie_are_malformed() {
        let good = ethernet(IPV6, &ipv6(UDP, &udp(PAYLOAD)));
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        let cases = [
            ("version 4", with(14, 0x45)),
            ("payload length beyond the frame", with(19, 21)),
            ("cut header", good[..14 + 39].to_vec()),
            ("payload length zero, but a header to follow", with(19, 0)),
        ];
        for (what, frame) in cases {
            assert_eq!(class(&frame), Class::Malformed(Malformed::Ipv6), "{what}");
        }
    }

    #[test]
    fn the_version_must_agree_with_the_ether_type() {
        let four_in_six = ethernet(IPV6, &ipv4(UDP, &udp(&[0; 64])));
        let six_in_four = ethernet(IPV4, &ipv6(UDP, &udp(&[0; 64])));
        assert_eq!(class(&four_in_six), Class::Malformed(Malformed::Ipv6));
        assert_eq!(class(&six_in_four), Class::Malformed(Malformed::Ipv4));
    }

    #[test]
    fn no_next_header_is_an_empty_datagram() {
        let frame = ethernet(IPV6, &ipv6(NO_NEXT_HEADER, &[]));
        assert_eq!(class(&frame), Class::Datagram);
        assert_eq!(compared(&frame), b"");
    }

    #[test]
    fn every_extension_header_is_stepped_over() {
        let mut chain = extension(UDP, 0, &udp(PAYLOAD));
        chain = authentication(60, &chain);
        chain = fragment_header(51, 0, false, &chain);
        chain = extension(44, 2, &chain);
        chain = extension(43, 1, &chain);
        let frame = ethernet(IPV6, &ipv6(0, &chain));
        let headers = parse(&frame);
        assert_eq!(headers.class, Class::Datagram);
        assert_eq!((headers.key.protocol, headers.key.source_port), (UDP, 1000));
        assert_eq!(headers.transport, 54 + 16 + 24 + 8 + 24 + 8);
        assert_eq!(compared(&frame)[2..], *PAYLOAD);
    }

    #[test]
    fn a_cut_extension_header_is_malformed() {
        let chains: [(u8, &[u8]); 6] = [
            (0, &extension(UDP, 0, &[])[..7]),
            (43, &extension(UDP, 1, &[])[..15]),
            (60, &[UDP]),
            (44, &fragment_header(UDP, 0, true, &[])[..7]),
            (51, &authentication(UDP, &[])[..23]),
            (0, &extension(60, 0, &[])),
        ];
        for (first, chain) in chains {
            // Bytes behind the payload length must not complete the header.
            let frame = [&ethernet(IPV6, &ipv6(first, chain))[..], &[0; 64]].concat();
            assert_eq!(class(&frame), Class::Malformed(Malformed::Ipv6), "{first} {chain:?}");
        }
    }

    #[test]
    fn behind_too_many_extension_headers_everything_is_payload() {
        let chain_of = |count: usize| {
            (1..count).fold(extension(UDP, 0, &udp(PAYLOAD)), |rest, _| extension(60, 0, &rest))
        };
        let followed = parse(&ethernet(IPV6, &ipv6(60, &chain_of(MAX_EXTENSIONS))));
        assert_eq!((followed.key.protocol, followed.key.source_port), (UDP, 1000));

        let frame = ethernet(IPV6, &ipv6(60, &chain_of(MAX_EXTENSIONS + 1)));
        assert_eq!(class(&frame), Class::Datagram);
        assert_eq!(parse(&frame).key.protocol, 60);
        assert_eq!(compared(&frame), extension(UDP, 0, &udp(PAYLOAD)));
    }

    #[test]
    fn neighbour_discovery_passes() {
        for message in 133..=137 {
            let frame = ethernet(IPV6, &ipv6(ICMPV6, &icmp(message, &[])));
            assert_eq!(class(&frame), Class::Pass(PassReason::NeighbourDiscovery), "{message}");
        }
    }

    #[test]
    fn mld_behind_its_router_alert_passes_as_group_membership() {
        for message in [130, 131, 132, 143] {
            let report = extension(ICMPV6, 0, &icmp(message, &[]));
            let frame = ethernet(IPV6, &ipv6(0, &report));
            assert_eq!(class(&frame), Class::Pass(PassReason::GroupMembership), "{message}");
        }
    }
}

mod upper_layer {
    use super::*;

    /// The same IP payload in both families.
    fn both(protocol: u8, payload: &[u8]) -> [Vec<u8>; 2] {
        [ethernet(IPV4, &ipv4(protocol, payload)), ethernet(IPV6, &ipv6(protocol, payload))]
    }

    #[test]
    fn tcp_compares_the_payload_behind_the_options() {
        let segment = tcp_with(PAYLOAD, |header| {
            header.set_options_raw(&[1; 12]).expect("fits");
            header.syn = true;
            header.sequence_number = 0xfedc_ba98;
            header.acknowledgment_number = 0x0123_4567;
        });
        for frame in both(TCP, &segment) {
            let headers = parse(&frame);
            let Class::Tcp(fields) = headers.class else { panic!("{:?}", headers.class) };
            assert_eq!(fields.sequence, 0xfedc_ba98);
            assert_eq!(fields.acknowledgement, 0x0123_4567);
            assert_eq!(fields.flags, TcpFields::SYN | TcpFields::ACK | TcpFields::PSH);
            assert!(fields.has(TcpFields::SYN) && !fields.has(TcpFields::FIN));
            assert_eq!((headers.key.source_port, headers.key.destination_port), (1000, 2000));
            assert_eq!(headers.hole, 0);
            assert_eq!(compared(&frame), PAYLOAD);
        }
    }

    #[test]
    fn tcp_headers_that_are_cut_or_lie_are_malformed() {
        let with_offset = |words: u8| {
            let mut segment = tcp(PAYLOAD);
            segment[12] = words << 4;
            segment
        };
        let segments = [tcp(&[])[..19].to_vec(), with_offset(4), with_offset(9), with_offset(15)];
        for segment in segments {
            for frame in both(TCP, &segment) {
                // Padding must not complete the header.
                let padded = [&frame[..], &[0; 64]].concat();
                assert_eq!(class(&padded), Class::Malformed(Malformed::Tcp), "{segment:?}");
            }
        }
    }

    #[test]
    fn udp_compares_length_and_payload_but_not_the_checksum() {
        for frame in both(UDP, &udp(PAYLOAD)) {
            let headers = parse(&frame);
            assert_eq!((headers.key.source_port, headers.key.destination_port), (1000, 2000));
            assert_eq!(headers.content, headers.transport + 4);
            assert_eq!(headers.hole, headers.transport + 6);
            assert_eq!(compared(&frame), [&[0, 20], PAYLOAD].concat());
        }
    }

    #[test]
    fn udp_options_behind_its_length_are_compared() {
        for frame in both(UDP, &[&udp(PAYLOAD)[..], b"surplus"].concat()) {
            assert!(compared(&frame).ends_with(b"surplus"));
        }
    }

    #[test]
    fn udp_headers_that_are_cut_or_lie_are_malformed() {
        let with_length = |length: u8| {
            let mut datagram = udp(PAYLOAD);
            datagram[5] = length;
            datagram
        };
        let datagrams = [udp(&[])[..7].to_vec(), with_length(0), with_length(7), with_length(21)];
        for datagram in datagrams {
            for frame in both(UDP, &datagram) {
                let padded = [&frame[..], &[0; 64]].concat();
                assert_eq!(class(&padded), Class::Malformed(Malformed::Udp), "{datagram:?}");
            }
        }
    }

    #[test]
    fn icmp_compares_the_message_but_not_its_checksum() {
        let frames = [
            ethernet(IPV4, &ipv4(ICMP, &icmp(0, PAYLOAD))),
            ethernet(IPV6, &ipv6(ICMPV6, &icmp(129, PAYLOAD))),
        ];
        for (frame, message) in frames.into_iter().zip([0, 129]) {
            let headers = parse(&frame);
            assert_eq!(headers.class, Class::Datagram);
            assert_eq!((headers.key.source_port, headers.key.destination_port), (0, 0));
            assert_eq!(compared(&frame), [&[message, 0, 0, 1, 0, 2], PAYLOAD].concat());
        }
    }

    #[test]
    fn icmp_headers_that_are_cut_are_malformed() {
        let frames = [
            ethernet(IPV4, &ipv4(ICMP, &icmp(0, &[])[..7])),
            ethernet(IPV6, &ipv6(ICMPV6, &icmp(129, &[])[..7])),
        ];
        for frame in frames {
            assert_eq!(class(&frame), Class::Malformed(Malformed::Icmp));
        }
    }
}

mod fragments {
    use super::*;

    /// The same fragment in both families.
    fn both(protocol: u8, offset: u16, more: bool, payload: &[u8]) -> [Vec<u8>; 2] {
        let six = fragment_header(protocol, offset, more, payload);
        [
            ethernet(IPV4, &ipv4_fragment(protocol, offset, more, payload)),
            ethernet(IPV6, &ipv6(44, &six)),
        ]
    }

    #[test]
    fn are_flows_of_their_own_without_ports() {
        for frame in both(UDP, 0, true, &udp(&[5; 16])) {
            let headers = parse(&frame);
            assert_eq!(headers.class, Class::Datagram);
            assert_eq!((headers.key.fragment, headers.key.protocol), (1, UDP));
            assert_eq!((headers.key.source_port, headers.key.destination_port), (0, 0));
        }
    }

    #[test]
    fn carry_offset_and_more_fragments() {
        for (offset, more, expected) in [(0, true, 1), (1480, true, 2961), (1480, false, 2960)] {
            for frame in both(253, offset, more, &[5; 24]) {
                assert_eq!(parse(&frame).fragment, expected);
                assert_eq!(compared(&frame), [5; 24]);
            }
        }
    }

    #[test]
    fn the_first_leaves_out_the_checksum_of_its_protocol() {
        for (protocol, offset) in [(TCP, 16), (UDP, 6)] {
            for frame in both(protocol, 0, true, &[5; 24]) {
                let headers = parse(&frame);
                assert_eq!(headers.content, headers.transport);
                assert_eq!(headers.hole, headers.transport + offset);
            }
        }
        let [four, _] = both(ICMP, 0, true, &[5; 24]);
        let [_, six] = both(ICMPV6, 0, true, &[5; 24]);
        for headers in [parse(&four), parse(&six)] {
            assert_eq!(headers.hole, headers.transport + 2);
        }
    }

    #[test]
    fn the_first_has_no_hole_when_its_checksum_is_in_the_next() {
        for frame in both(TCP, 0, true, &[5; 16]) {
            assert_eq!(parse(&frame).hole, 0);
            assert_eq!(compared(&frame), [5; 16]);
        }
    }

    #[test]
    fn are_never_taken_for_neighbour_discovery_or_group_membership() {
        let [_, solicitation] = both(ICMPV6, 0, true, &icmp(135, &[0; 16]));
        let [_, report] = both(ICMPV6, 0, true, &icmp(143, &[0; 16]));
        let [igmp, _] = both(2, 0, true, &icmp(0x16, &[0; 16]));
        for frame in [solicitation, report, igmp] {
            assert_eq!(class(&frame), Class::Datagram);
        }
    }

    #[test]
    fn an_atomic_ipv6_fragment_is_a_whole_datagram() {
        let frame = ethernet(IPV6, &ipv6(44, &fragment_header(UDP, 0, false, &udp(PAYLOAD))));
        let headers = parse(&frame);
        assert_eq!((headers.key.fragment, headers.fragment), (0, 0));
        assert_eq!(headers.key.source_port, 1000);
    }

    #[test]
    fn with_more_to_follow_must_be_whole_units_of_eight_bytes() {
        let [four, six] = both(UDP, 8, true, &[5; 23]);
        assert_eq!(class(&four), Class::Malformed(Malformed::Ipv4));
        assert_eq!(class(&six), Class::Malformed(Malformed::Ipv6));
        for last in both(UDP, 8, false, &[5; 23]) {
            assert_eq!(class(&last), Class::Datagram);
        }
    }

    #[test]
    fn must_not_reach_beyond_the_largest_datagram() {
        let [four, six] = both(UDP, 65_528, false, &[5; 8]);
        assert_eq!(class(&four), Class::Malformed(Malformed::Ipv4));
        assert_eq!(class(&six), Class::Malformed(Malformed::Ipv6));
        for largest in both(UDP, 65_528, false, &[5; 7]) {
            assert_eq!(class(&largest), Class::Datagram);
        }
    }
}

mod chunks {
    use super::*;

    #[test]
    fn a_frame_whose_headers_lie_in_the_first_run_parses_as_if_whole() {
        let frame = ethernet(IPV4, &ipv4(TCP, &tcp(&[7; 3000])));
        let whole = parse(&frame);
        for cuts in [vec![54], vec![200], vec![128, 129, 2048]] {
            let chunked = Headers::parse(&Chunked, &split(&frame, &cuts));
            assert_eq!(fields(&chunked), fields(&whole), "{cuts:?}");
        }
    }

    #[test]
    fn a_header_that_reaches_into_the_second_run_counts_as_cut() {
        let frame = ethernet(IPV4, &ipv4(TCP, &tcp(&[7; 300])));
        for (cut, layer) in [(13, Malformed::Ethernet), (33, Malformed::Ipv4), (53, Malformed::Tcp)]
        {
            let headers = Headers::parse(&Chunked, &split(&frame, &[cut]));
            assert_eq!(headers.class, Class::Malformed(layer), "cut at {cut}");
        }
    }
}

/// Everything that a parse yields, comparable.
fn fields(headers: &Headers) -> impl PartialEq + std::fmt::Debug {
    let Headers { class, key, network, transport, content, hole, end, fragment } = *headers;
    (class, key, network, transport, content, hole, end, fragment)
}

/// The invariants that [`Headers::parse`] documents.
fn check(headers: &Headers, len: usize) -> Result<(), TestCaseError> {
    if matches!(headers.class, Class::Pass(_) | Class::Malformed(_)) {
        return Ok(());
    }
    let Headers { network, transport, content, hole, .. } = *headers;
    let end = headers.end as usize;
    prop_assert!(network <= transport && transport <= content, "{:?}", headers);
    prop_assert!(usize::from(content) <= end && end <= len, "{:?} {}", headers, len);
    if hole != 0 {
        prop_assert!(content <= hole && usize::from(hole) + 2 <= end, "{:?}", headers);
    }
    prop_assert_eq!(headers.key.fragment == 1, headers.fragment != 0);
    Ok(())
}

/// Valid frames of every kind that is compared.
fn valid_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = || vec(any::<u8>(), 0..200);
    let upper = prop_oneof![
        payload().prop_map(|bytes| (TCP, tcp(&bytes))),
        payload().prop_map(|bytes| (UDP, udp(&bytes))),
        payload().prop_map(|bytes| (ICMP, icmp(8, &bytes))),
        payload().prop_map(|bytes| (ICMPV6, icmp(128, &bytes))),
        payload().prop_map(|bytes| (253, bytes)),
    ];
    let packet = (upper, 0..5).prop_map(|((protocol, bytes), shape)| match shape {
        0 => (IPV4, ipv4(protocol, &bytes)),
        1 => (IPV4, ipv4_fragment(protocol, 800, false, &bytes)),
        2 => (IPV6, ipv6(60, &extension(protocol, 1, &bytes))),
        3 => (IPV6, ipv6(44, &fragment_header(protocol, 0, bytes.len() % 8 == 0, &bytes))),
        _ => (IPV6, ipv6(51, &authentication(protocol, &bytes))),
    });
    (packet, vec(any::<u16>(), 0..4)).prop_map(|((ether_type, packet), tags)| {
        let tags: Vec<_> = tags.into_iter().map(|control| (0x8100, control)).collect();
        tagged(&tags, ether_type, &packet)
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_offsets_stay_inside(frame in vec(any::<u8>(), 0..300)) {
        check(&parse(&frame), frame.len())?;
    }

    #[test]
    fn valid_frames_are_compared(frame in valid_frame()) {
        let headers = parse(&frame);
        prop_assert!(matches!(headers.class, Class::Tcp(_) | Class::Datagram), "{:?}", headers);
        prop_assert_eq!(headers.end as usize, frame.len());
        check(&headers, frame.len())?;
    }

    #[test]
    fn mutated_frames_never_panic_and_offsets_stay_inside(
        frame in valid_frame(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = frame;
        for (at, value) in changes {
            // Mostly in the headers, where a change matters.
            let at = at.index(frame.len().min(90));
            frame[at] = value;
        }
        check(&parse(&frame), frame.len())?;
        frame.truncate(cut.index(frame.len()));
        check(&parse(&frame), frame.len())?;
    }

    #[test]
    fn chunks_do_not_matter_once_the_headers_lie_in_the_first(
        frame in valid_frame(),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = parse(&frame);
        let first = match whole.class {
            Class::Tcp(_) => usize::from(whole.content),
            _ => usize::from(whole.transport) + 8,
        };
        if first < frame.len() {
            let cut = first + cut.index(frame.len() - first);
            let chunked = Headers::parse(&Chunked, &split(&frame, &[cut]));
            prop_assert_eq!(fields(&chunked), fields(&whole));
        }
    }
}
