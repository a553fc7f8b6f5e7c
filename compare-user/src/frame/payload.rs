//! Taking the payload out of a TCP segment.
//!
//! The frame keeps its length, so that nothing has to be given back: the IP length says where the packet
//! ends, and what follows it is padding to everybody who reads the frame (RFC 894, RFC 1122 section
//! 2.3.3).

use compare_ebpf::rewrite::Difference;

use super::checksum::{self, ChecksumState};
use super::headers::{Class, Headers, TcpFields};
use super::store::FrameStore;

/// What makes a TCP segment one without payload: values and the offsets in the frame where they go, in
/// network byte order. All from `padding` on is to be zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// The length in the IP header.
    pub length: (usize, [u8; 2]),
    /// The checksum of an IPv4 header.
    pub header_checksum: Option<(usize, [u8; 2])>,
    /// The flags, without those that are about the payload.
    pub flags: (usize, u8),
    /// The checksum of the segment.
    pub checksum: (usize, [u8; 2]),
    /// Where the payload was.
    pub padding: usize,
}

/// Offsets in the headers (RFC 791 section 3.1, RFC 8200 section 3, RFC 9293 section 3.1).
const IPV4_LENGTH: usize = 2;
const IPV4_CHECKSUM: usize = 10;
const IPV6_LENGTH: usize = 4;
const IPV6_HEADER: usize = 40;
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;

/// What the payload of a TCP segment would end, push or point into.
const OF_PAYLOAD: u8 = TcpFields::FIN | TcpFields::PSH | TcpFields::URG;

/// What takes the payload out of a TCP segment; None for a frame that is none. A checksum that was wrong
/// stays wrong, and a partial one is to be completed as before. Reads the whole payload.
#[must_use]
pub fn removed<S: FrameStore>(store: &S, frame: &S::Frame, headers: &Headers) -> Option<Removal> {
    let Class::Tcp(fields) = headers.class else { return None };
    let run = store.run(frame, 0);
    let [network, transport, padding] =
        [headers.network, headers.transport, headers.content].map(usize::from);
    let bytes = |at: usize| run.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let length = u16::try_from(padding - network).ok()?;
    let (length, header_checksum) = if headers.key.family == 4 {
        let (at, field) = (network + IPV4_LENGTH, network + IPV4_CHECKSUM);
        let mut difference = Difference::default();
        difference.replace(u32::from(bytes(at)?), u32::from(length), false);
        let checksum = difference.applied(bytes(field)?);
        ((at, length.to_be_bytes()), Some((field, checksum.to_be_bytes())))
    } else {
        let length = length.checked_sub(IPV6_HEADER as u16)?;
        ((network + IPV6_LENGTH, length.to_be_bytes()), None)
    };
    let flags = (transport + FLAGS, fields.flags & !OF_PAYLOAD);
    let checksum = if checksum::state(store, frame, headers) == ChecksumState::Partial {
        checksum::partial_of_bare_segment(run, headers)
    } else {
        let right = checksum::of_bare_segment(run, headers, flags)?;
        if checksum::valid(store, frame, headers) == Some(false) { !right } else { right }
    };
    let checksum = (transport + CHECKSUM, checksum.to_be_bytes());
    Some(Removal { length, header_checksum, flags, checksum, padding })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::checksum::{ipv4_header_valid, valid};
    use super::super::samples::*;
    use super::super::store::{HeapFrame, HeapFrames};
    use super::*;

    /// The frame without its payload.
    fn without_payload(frame: &[u8]) -> Vec<u8> {
        let parsed = HeapFrame::from(frame);
        let headers = Headers::parse(&HeapFrames, &parsed);
        let removal = removed(&HeapFrames, &parsed, &headers).expect("a TCP segment");
        let mut changed = frame.to_vec();
        let words = [Some(removal.length), removal.header_checksum, Some(removal.checksum)];
        for (at, word) in words.into_iter().flatten() {
            changed[at..at + 2].copy_from_slice(&word);
        }
        changed[removal.flags.0] = removal.flags.1;
        changed[removal.padding..].fill(0);
        changed
    }

    fn parsed<T>(frame: &[u8], look: impl Fn(&HeapFrame, &Headers) -> T) -> T {
        let frame = HeapFrame::from(frame);
        look(&frame, &Headers::parse(&HeapFrames, &frame))
    }

    proptest! {
        #[test]
        fn what_remains_is_a_whole_segment_without_payload(
            payload in proptest::collection::vec(any::<u8>(), 0..90),
            flags in any::<u8>(),
            network in 0usize..3,
        ) {
            let segment = tcp_with(&payload, |header| {
                (header.fin, header.psh, header.ack) = (flags & 1 != 0, flags & 8 != 0, true);
            });
            let frame = in_network(network, segment, &payload);
            prop_assume!(parsed(&frame, |f, h| checksum::state(&HeapFrames, f, h)) == ChecksumState::Complete);
            let bare = without_payload(&frame);
            prop_assert_eq!(bare.len(), frame.len());
            let before = parsed(&frame, |_, headers| *headers);
            let after = parsed(&bare, |_, headers| *headers);
            prop_assert_eq!(usize::from(after.content), after.end as usize);
            prop_assert_eq!((after.key, after.content), (before.key, before.content));
            let (Class::Tcp(before), Class::Tcp(after)) = (before.class, after.class) else {
                return Err(TestCaseError::fail("no segment"));
            };
            prop_assert_eq!((after.sequence, after.acknowledgement), (before.sequence, before.acknowledgement));
            prop_assert_eq!(after.flags, before.flags & !(TcpFields::FIN | TcpFields::PSH));
            prop_assert_eq!(parsed(&bare, |f, h| valid(&HeapFrames, f, h)), Some(true));
            prop_assert_ne!(parsed(&bare, |f, h| ipv4_header_valid(&HeapFrames, f, h)), Some(false));
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut frame = in_network(1, tcp(b"some data"), b"some data");
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let bare = without_payload(&frame);
        assert_eq!(parsed(&bare, |f, h| valid(&HeapFrames, f, h)), Some(false));
    }

    #[test]
    fn a_partial_checksum_stays_partial() {
        for (network, header) in [(0, 14 + 40), (1, 14 + 20)] {
            let mut frame = in_network(network, tcp(b"some data"), b"some data");
            let state = |frame: &[u8]| parsed(frame, |f, h| checksum::state(&HeapFrames, f, h));
            // As a guest leaves it for its card: addresses, protocol and length.
            let addresses: &[u8] = if network == 0 { &frame[22..54] } else { &frame[26..34] };
            let words =
                addresses.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum = words.sum::<u32>() + u32::from(TCP) + (frame.len() - header) as u32;
            let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
            frame[header + 16..header + 18].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(state(&frame), ChecksumState::Partial);
            assert_eq!(state(&without_payload(&frame)), ChecksumState::Partial);
        }
    }

    #[test]
    fn of_another_frame_nothing_is_removed() {
        let frame = ethernet(IPV4, &ipv4(UDP, &udp(&[1; 40])));
        assert_eq!(parsed(&frame, |f, h| removed(&HeapFrames, f, h)), None);
    }
}
