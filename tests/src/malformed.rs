//! Frames that contradict themselves: length fields that lie, headers that are cut.

use crate::packet::{Packet, ethernet, protocol};
use crate::segment::Segment;

/// A frame that no receiver accepts.
#[derive(Debug, Clone)]
pub struct Malformed {
    /// What is wrong with it, for the message of a failing test.
    pub fault: String,
    /// Its bytes.
    pub frame: Vec<u8>,
    /// Whether a packet socket on the far end is sure to see it: the kernel may drop a frame
    /// that ends less than two bytes after its VLAN tag (`skb_vlan_untag` in
    /// net/core/skbuff.c) before any socket.
    pub reaches_capture: bool,
}

/// One frame of every malformed class, over both families, plain and tagged.
#[must_use]
pub fn every_class() -> Vec<Malformed> {
    let mut all = cut_tags();
    for packet in Packet::families() {
        all.extend(classes(&packet));
        all.extend(classes(&packet.tagged(7)));
    }
    all
}

/// One frame of every malformed class between the addresses and behind the tags of `packet`.
#[must_use]
pub fn classes(packet: &Packet) -> Vec<Malformed> {
    let start = packet.link_header().len();
    let faults = if packet.is_v4() { ipv4(packet, start) } else { ipv6(packet, start) };
    let family = if packet.is_v4() { "IPv4" } else { "IPv6" };
    let tagged = if packet.tags.is_empty() { "" } else { "tagged " };
    faults
        .into_iter()
        .chain(transport(packet, start))
        .map(|(fault, frame)| Malformed {
            fault: format!("{tagged}{family}: {fault}"),
            reaches_capture: packet.tags.is_empty() || frame.len() >= start + 2,
            frame,
        })
        .collect()
}

type Fault = (&'static str, Vec<u8>);

fn cut_tags() -> Vec<Malformed> {
    let mut one = ethernet(crate::packet::CLIENT_MAC, 0x8100);
    one.extend_from_slice(&[0, 7]);
    let mut two = ethernet(crate::packet::CLIENT_MAC, 0x88a8);
    two.extend_from_slice(&[0, 7, 0x81, 0x00, 0, 8]);
    vec![
        Malformed { fault: "cut inside a VLAN tag".into(), frame: one, reaches_capture: false },
        Malformed { fault: "cut inside an inner tag".into(), frame: two, reaches_capture: false },
    ]
}

fn ipv4(packet: &Packet, ip: usize) -> Vec<Fault> {
    let whole = packet.udp(9, 9, b"malformed");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = whole.clone();
        change(&mut frame);
        frame
    };
    vec![
        ("no header at all", whole[..ip].to_vec()),
        ("header cut after ten bytes", whole[..ip + 10].to_vec()),
        ("version 6 under the IPv4 EtherType", with(&|f| f[ip] = 0x65)),
        ("version 0", with(&|f| f[ip] = 0x05)),
        ("header length below five words", with(&|f| f[ip] = 0x44)),
        ("header length beyond the frame", with(&|f| f[ip] = 0x4f)),
        ("total length below the header length", with(&|f| set(f, ip + 2, 19))),
        ("total length zero", with(&|f| set(f, ip + 2, 0))),
        ("total length beyond the frame", with(&|f| set(f, ip + 2, 1400))),
    ]
}

fn ipv6(packet: &Packet, ip: usize) -> Vec<Fault> {
    let whole = packet.udp(9, 9, b"malformed");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = whole.clone();
        change(&mut frame);
        frame
    };
    let next_header = |number: u8, rest: &[u8]| packet.carrying(number, rest);
    vec![
        ("no header at all", whole[..ip].to_vec()),
        ("header cut after thirty bytes", whole[..ip + 30].to_vec()),
        ("version 4 under the IPv6 EtherType", with(&|f| f[ip] = 0x45)),
        ("payload length beyond the frame", with(&|f| set(f, ip + 4, 1400))),
        ("no payload where UDP should be", next_header(protocol::UDP, &[])),
        ("hop-by-hop header cut", next_header(protocol::HOP_BY_HOP, &[17])),
        (
            "extension header longer than the packet",
            next_header(protocol::ROUTING, &[17, 9, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "destination options cut",
            next_header(protocol::DESTINATION_OPTIONS, &[17, 1, 1, 4, 0, 0, 0, 0]),
        ),
        ("fragment header cut", next_header(protocol::FRAGMENT, &[17, 0, 0])),
    ]
}

fn transport(packet: &Packet, ip: usize) -> Vec<Fault> {
    let header = if packet.is_v4() { 20 } else { 40 };
    let tcp = ip + header;
    let segment = Segment::new(9, 9).payload(b"malformed").frame(packet);
    let udp = packet.udp(9, 9, b"malformed");
    let change = |frame: &[u8], at: usize, value: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + value.len()].copy_from_slice(value);
        frame
    };
    let icmp = if packet.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
    vec![
        ("TCP header cut", packet.carrying(protocol::TCP, &segment[tcp..tcp + 10])),
        ("TCP data offset below five words", change(&segment, tcp + 12, &[0x40])),
        ("TCP data offset beyond the segment", change(&segment, tcp + 12, &[0xf0])),
        ("UDP header cut", packet.carrying(protocol::UDP, &[0, 9, 0, 9])),
        ("UDP length below eight", change(&udp, tcp + 4, &[0, 7])),
        ("UDP length beyond the packet", change(&udp, tcp + 4, &[4, 0])),
        ("ICMP header cut", packet.carrying(icmp, &[8, 0])),
    ]
}

fn set(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;
    use crate::topology::{Plan, Topology};
    use etherparse::SlicedPacket;

    #[test]
    fn every_class_crosses_a_real_device() -> crate::Result {
        needs_root!();
        let mut topology = Topology::new(Plan::default())?;
        for Malformed { fault, frame, reaches_capture } in every_class() {
            topology.primary.send(&frame)?;
            if reaches_capture {
                topology.client.capture().expect(&[frame]).map_err(|e| e.context(fault))?;
            }
        }
        Ok(())
    }

    #[test]
    fn no_class_parses_as_a_whole_frame() {
        for Malformed { fault, frame, .. } in every_class() {
            assert!(frame.len() >= 14, "{fault}: no device takes less than an Ethernet header");
            // etherparse does not judge what is above UDP's and ICMP's first bytes, nor does it
            // take a lying UDP length for an error in every case; all others it refuses.
            if !fault.contains("UDP length") && !fault.contains("ICMP header cut") {
                assert!(SlicedPacket::from_ethernet(&frame).is_err(), "{fault} parses");
            }
        }
    }
}
