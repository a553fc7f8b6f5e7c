//! Header parsing: no frame makes it panic, read beyond the frame or take memory; the offsets are
//! where it promises; a frame in chunks says what the same frame in one run says, or that it is cut;
//! and a TCP or UDP frame that etherparse understands whole is understood in the same way.

use compare_user::frame::checksum::{self, ChecksumState};
use compare_user::frame::{Class, FrameStore, Headers, HeapFrame, HeapFrames, Malformed};
use etherparse::{SlicedPacket, TransportSlice};

use crate::memory;

/// Input: the size of the chunks that the frame lies in, then the frame.
pub fn check(input: &[u8]) {
    let Some((&size, bytes)) = input.split_first() else { return };
    // No port has a longer one, and offsets are 16 bits wide.
    let bytes = &bytes[..bytes.len().min(crate::stream::LONGEST)];
    let frame = HeapFrame::from(bytes);

    let (headers, usage) = memory::used(|| Headers::parse(&HeapFrames, &frame));
    assert_eq!(usage.allocations, 0, "parsing takes no memory");
    check_offsets(&headers, bytes);
    check_checksum(&headers, bytes);
    check_second_opinion(&headers, bytes);
    check_reuse(&headers, &frame);
    check_chunks(&headers, bytes, usize::from(size).max(1) * 8);
}

/// Whether a class is one whose other fields mean something.
fn is_compared(headers: &Headers) -> bool {
    matches!(headers.class, Class::Tcp(_) | Class::Datagram)
}

fn check_offsets(headers: &Headers, bytes: &[u8]) {
    if !is_compared(headers) {
        return;
    }
    let Headers { network, transport, content, hole, end, .. } = *headers;
    assert!(network <= transport && transport <= content, "{headers:?}");
    assert!(u32::from(content) <= end && end as usize <= bytes.len(), "{headers:?}");
    if hole != 0 {
        assert!(content <= hole && u32::from(hole) + 2 <= end, "{headers:?}");
    }
    assert!(!headers.key.to_string().is_empty());
}

fn check_checksum(headers: &Headers, bytes: &[u8]) {
    let frame = HeapFrame::from(bytes);
    let ((), usage) = memory::used(|| {
        let state = checksum::state(&HeapFrames, &frame, headers);
        let valid = checksum::valid(&HeapFrames, &frame, headers);
        assert_eq!(state == ChecksumState::Absent, valid.is_none());
        if is_compared(headers) {
            let _ = checksum::ipv4_header_valid(&HeapFrames, &frame, headers);
        }
    });
    assert_eq!(usage.allocations, 0, "nor does a checksum");
    let Some((at, value)) = checksum::completed(&HeapFrames, &frame, headers) else { return };
    assert_eq!(checksum::state(&HeapFrames, &frame, headers), ChecksumState::Partial);
    let mut whole = bytes.to_vec();
    whole[at..at + 2].copy_from_slice(&value.to_be_bytes());
    let whole = HeapFrame::from(&whole[..]);
    assert_eq!(checksum::valid(&HeapFrames, &whole, headers), Some(true), "completed and right");
}

/// Frames that etherparse slices without a complaint, all the way to TCP or UDP.
fn check_second_opinion(headers: &Headers, bytes: &[u8]) {
    let Ok(packet) = SlicedPacket::from_ethernet(bytes) else { return };
    let (Some(_), Some(transport)) = (&packet.net, &packet.transport) else { return };
    match (transport, headers.class) {
        (TransportSlice::Tcp(tcp), Class::Tcp(fields)) => {
            assert_eq!(fields.sequence, tcp.sequence_number());
            assert_eq!(fields.acknowledgement, tcp.acknowledgment_number());
            assert_eq!(headers.key.source_port, tcp.source_port());
            assert_eq!(headers.key.destination_port, tcp.destination_port());
            let payload = &bytes[headers.content.into()..headers.end as usize];
            assert_eq!(payload, tcp.payload());
        }
        (TransportSlice::Udp(udp), Class::Datagram) if headers.key.protocol == 17 => {
            assert_eq!(headers.key.source_port, udp.source_port());
            assert_eq!(headers.key.destination_port, udp.destination_port());
            // Also compared: the length field and the checksum's place, and what stands behind the
            // UDP length.
            let content = &bytes[usize::from(headers.content) + 4..headers.end as usize];
            assert!(content.starts_with(udp.payload()));
        }
        // Longer chains of extension headers than are followed, and MLD.
        (_, Class::Datagram | Class::Pass(_)) => {}
        (_, class) => {
            assert!(is_stricter(class), "{class:?}, where etherparse finds {transport:?}");
        }
    }
}

/// What is refused here that etherparse lets pass: lengths that only a receiver would look at.
fn is_stricter(class: Class) -> bool {
    matches!(class, Class::Malformed(Malformed::Udp | Malformed::Icmp | Malformed::Ipv6))
}

/// Headers of an earlier frame leave nothing behind.
fn check_reuse(headers: &Headers, frame: &HeapFrame) {
    let mut again = Headers {
        network: 0xffff,
        transport: 0xffff,
        content: 0xffff,
        hole: 0xffff,
        end: 0xffff_ffff,
        fragment: 0xffff_ffff,
        ..*headers
    };
    again.key.vlan = [1, 2, 3];
    again.key.fragment = 1;
    again.parse_again(&HeapFrames, frame);
    assert_eq!(format!("{again:?}"), format!("{headers:?}"), "parsed into used headers");
}

/// A frame whose bytes lie in pieces of one size, as in the chunks of an AF_XDP region.
struct Chunks(usize);

impl FrameStore for Chunks {
    type Frame = HeapFrame;

    fn len(&self, frame: &HeapFrame) -> usize {
        frame.0.len()
    }

    fn run<'a>(&'a self, frame: &'a HeapFrame, at: usize) -> &'a [u8] {
        let end = frame.0.len().min((at / self.0 + 1) * self.0);
        frame.0.get(at..end).unwrap_or_default()
    }
}

fn check_chunks(headers: &Headers, bytes: &[u8], size: usize) {
    let store = Chunks(size);
    let frame = HeapFrame::from(bytes);
    let chunked = Headers::parse(&store, &frame);
    if format!("{chunked:?}") == format!("{headers:?}") {
        let whole = checksum::valid(&HeapFrames, &frame, headers);
        assert_eq!(checksum::valid(&store, &frame, &chunked), whole, "the same checksum");
        return;
    }
    assert!(size < bytes.len(), "a frame in one chunk is the frame");
    assert!(
        matches!(chunked.class, Class::Malformed(_)),
        "in chunks of {size}: {chunked:?}, whole: {headers:?}"
    );
    // The headers of what is compared lie within the first chunk of any size that is in use.
    assert!(size < 1024 || !is_compared(headers) || usize::from(headers.content) > size);
}
