//! Taking the payload out of a TCP segment, or the beginning of it.
//!
//! The frame keeps its length, so that nothing has to be given back: the IP length says where the packet
//! ends, and what follows it is padding to everybody who reads the frame (RFC 894, RFC 1122 section
//! 2.3.3).

use std::ops::Range;

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
const SEQUENCE: usize = 4;
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
    let [transport, padding] = [headers.transport, headers.content].map(usize::from);
    let (length, header_checksum) = lengths(run, headers, padding)?;
    let flags = (transport + FLAGS, fields.flags & !OF_PAYLOAD);
    let checksum = if checksum::state(store, frame, headers) == ChecksumState::Partial {
        checksum::partial_of_segment(run, headers, padding - transport)
    } else {
        let right = checksum::of_bare_segment(run, headers, flags)?;
        if checksum::valid(store, frame, headers) == Some(false) { !right } else { right }
    };
    let checksum = (transport + CHECKSUM, checksum.to_be_bytes());
    Some(Removal { length, header_checksum, flags, checksum, padding })
}

/// What takes the first bytes out of the payload of a TCP segment: values and the offsets in the frame where
/// they go, in network byte order. The rest of the payload moves to `content`; all from `padding` on is to be
/// zeroed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The length in the IP header.
    pub length: (usize, [u8; 2]),
    /// The checksum of an IPv4 header.
    pub header_checksum: Option<(usize, [u8; 2])>,
    /// The sequence number.
    pub sequence: (usize, [u8; 4]),
    /// The partial checksum of the segment, as a guest leaves it that offloads checksums.
    pub partial_checksum: (usize, [u8; 2]),
    /// What the checksum was; a partial one stays so.
    pub state: ChecksumState,
    /// What was wrong has to be wrong again.
    pub is_wrong: bool,
    /// Where the payload is, and what of it remains.
    pub content: usize,
    /// The remaining bytes of the payload, where they are now.
    pub rest: Range<usize>,
    /// Where the payload ends then.
    pub padding: usize,
}

/// What takes the `first` bytes out of the payload of a TCP segment; None for a frame that is none, or has
/// not more. Reads the whole payload.
#[must_use]
pub fn cut<S: FrameStore>(
    store: &S,
    frame: &S::Frame,
    headers: &Headers,
    first: u32,
) -> Option<Cut> {
    let Class::Tcp(fields) = headers.class else { return None };
    let run = store.run(frame, 0);
    let [transport, content] = [headers.transport, headers.content].map(usize::from);
    let rest = content.checked_add(first as usize)?..headers.end as usize;
    if rest.is_empty() {
        return None;
    }
    let padding = content + rest.len();
    let (length, header_checksum) = lengths(run, headers, padding)?;
    let sequence = fields.sequence.wrapping_add(first).to_be_bytes();
    let partial = checksum::partial_of_segment(run, headers, padding - transport);
    Some(Cut {
        length,
        header_checksum,
        sequence: (transport + SEQUENCE, sequence),
        partial_checksum: (transport + CHECKSUM, partial.to_be_bytes()),
        state: checksum::state(store, frame, headers),
        is_wrong: checksum::valid(store, frame, headers) == Some(false),
        content,
        rest,
        padding,
    })
}

/// A value and the offset in the frame where it goes.
type Word = (usize, [u8; 2]);

/// The length in the IP header, and the checksum of an IPv4 header, of a packet that ends at `end`.
fn lengths(run: &[u8], headers: &Headers, end: usize) -> Option<(Word, Option<Word>)> {
    let network = usize::from(headers.network);
    let bytes = |at: usize| run.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let length = u16::try_from(end - network).ok()?;
    if headers.key.family != 4 {
        let length = length.checked_sub(IPV6_HEADER as u16)?;
        return Some(((network + IPV6_LENGTH, length.to_be_bytes()), None));
    }
    let (at, field) = (network + IPV4_LENGTH, network + IPV4_CHECKSUM);
    let mut difference = Difference::default();
    difference.replace(u32::from(bytes(at)?), u32::from(length), false);
    let checksum = difference.applied(bytes(field)?);
    Some(((at, length.to_be_bytes()), Some((field, checksum.to_be_bytes()))))
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

    /// The frame without the first bytes of its payload; a checksum that has to be computed is left partial.
    fn without_first(frame: &[u8], first: u32) -> Option<(Vec<u8>, Cut)> {
        let cut = parsed(frame, |f, headers| cut(&HeapFrames, f, headers, first))?;
        let mut changed = frame.to_vec();
        changed.copy_within(cut.rest.clone(), cut.content);
        changed[cut.padding..].fill(0);
        let words = [Some(cut.length), cut.header_checksum, Some(cut.partial_checksum)];
        for (at, word) in words.into_iter().flatten() {
            changed[at..at + 2].copy_from_slice(&word);
        }
        changed[cut.sequence.0..cut.sequence.0 + 4].copy_from_slice(&cut.sequence.1);
        Some((changed, cut))
    }

    proptest! {
        #[test]
        fn what_is_cut_is_a_whole_segment_of_the_rest(
            payload in proptest::collection::vec(any::<u8>(), 1..90),
            first in 1u32..90,
            network in 0usize..3,
        ) {
            let frame = in_network(network, tcp(&payload), &payload);
            let state = |frame: &[u8]| parsed(frame, |f, h| checksum::state(&HeapFrames, f, h));
            prop_assume!(state(&frame) == ChecksumState::Complete);
            let Some((mut cut, how)) = without_first(&frame, first) else {
                prop_assert!(first as usize >= payload.len());
                return Ok(());
            };
            prop_assert_eq!((how.state, how.is_wrong), (ChecksumState::Complete, false));
            prop_assert_eq!(state(&cut), ChecksumState::Partial);
            let completed = parsed(&cut, |f, h| checksum::completed(&HeapFrames, f, h));
            if let Some((at, value)) = completed {
                cut[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
            let before = parsed(&frame, |_, headers| *headers);
            let after = parsed(&cut, |_, headers| *headers);
            let rest = usize::from(after.content)..after.end as usize;
            prop_assert_eq!(&cut[rest], &payload[first as usize..]);
            let (Class::Tcp(before), Class::Tcp(after)) = (before.class, after.class) else {
                return Err(TestCaseError::fail("no segment"));
            };
            prop_assert_eq!(after.sequence, before.sequence.wrapping_add(first));
            prop_assert_eq!((after.flags, after.acknowledgement), (before.flags, before.acknowledgement));
            prop_assert_eq!(parsed(&cut, |f, h| valid(&HeapFrames, f, h)), Some(true));
            prop_assert_ne!(parsed(&cut, |f, h| ipv4_header_valid(&HeapFrames, f, h)), Some(false));
        }
    }

    #[test]
    fn of_a_wrong_checksum_a_cut_says_so() {
        let mut frame = in_network(1, tcp(b"some data"), b"some data");
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let (_, cut) = without_first(&frame, 4).expect("a segment");
        assert!(cut.is_wrong);
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
        assert_eq!(without_first(&frame, 1), None);
        assert_eq!(parsed(&frame, |f, h| removed(&HeapFrames, f, h)), None);
    }
}
