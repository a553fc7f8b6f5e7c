//! The timestamp of a TCP segment (RFC 7323 section 3): reading it, and setting it to a later one.

use compare_ebpf::rewrite::Difference;
use etherparse::{TcpHeader, TcpOptionElement, TcpOptionsIterator};

use super::checksum::{self, ChecksumState};
use super::headers::{Class, Headers};
use super::store::FrameStore;

/// What sets the timestamp of a frame: values and the offsets in the frame where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement {
    /// Where the timestamp is.
    pub at: usize,
    /// Where the checksum is, and what it becomes. None where it does not cover the timestamp: a partial
    /// one, which is yet to be completed.
    pub checksum: Option<(usize, u16)>,
}

/// The timestamp that the sender of a TCP segment put into it (TSval); None for all else.
#[inline]
#[must_use]
pub fn value<S: FrameStore>(store: &S, frame: &S::Frame, headers: &Headers) -> Option<u32> {
    find(store.run(frame, 0), headers).map(|(_, value)| value)
}

/// What has to be written to make `timestamp` the timestamp of a TCP segment; None for a frame that has
/// none. The rest of the frame is not read: the checksum is brought up to date (RFC 1624), so that one
/// that was wrong stays wrong.
#[must_use]
pub fn replaced<S: FrameStore>(
    store: &S,
    frame: &S::Frame,
    headers: &Headers,
    timestamp: u32,
) -> Option<Replacement> {
    let run = store.run(frame, 0);
    let (at, old) = find(run, headers)?;
    let checksum = match checksum::state(store, frame, headers) {
        ChecksumState::Partial => None,
        ChecksumState::Absent | ChecksumState::Complete => {
            let transport = usize::from(headers.transport);
            let field = transport + CHECKSUM;
            let stored = u16::from_be_bytes([run[field], run[field + 1]]);
            let mut difference = Difference::default();
            difference.replace(old, timestamp, (at - transport) % 2 == 1);
            Some((field, difference.applied(stored)))
        }
    };
    Some(Replacement { at, checksum })
}

/// Offset of the checksum in a TCP header (RFC 9293 section 3.1).
const CHECKSUM: usize = 16;

/// How nearly every stack lays its options out once the connection stands (RFC 7323 appendix A): two
/// bytes of padding, then kind and length of the timestamps.
const USUAL: [u8; 4] = [1, 1, 8, 10];

/// Offset in the frame, and value.
#[inline]
fn find(run: &[u8], headers: &Headers) -> Option<(usize, u32)> {
    if !matches!(headers.class, Class::Tcp(_)) {
        return None;
    }
    let start = usize::from(headers.transport) + TcpHeader::MIN_LEN;
    let options = run.get(start..usize::from(headers.content))?;
    let within = if options.starts_with(&USUAL) { USUAL.len() } else { search(options)? };
    // Both times are there, or the option is cut and means nothing.
    let (value, _) = options.get(within..within + 8)?.split_first_chunk::<4>()?;
    Some((start + within, u32::from_be_bytes(*value)))
}

/// Offset of the value in options that are laid out in another way.
#[cold]
fn search(options: &[u8]) -> Option<usize> {
    let mut elements = TcpOptionsIterator::from_slice(options);
    loop {
        let kind = options.len() - elements.rest().len();
        if let TcpOptionElement::Timestamp(..) = elements.next()?.ok()? {
            return Some(kind + 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::checksum::valid;
    use super::super::samples::*;
    use super::super::store::{HeapFrame, HeapFrames};
    use super::*;

    /// Parses, then calls `look` with frame and headers.
    fn with_headers<T>(frame: &[u8], look: impl Fn(&HeapFrame, &Headers) -> T) -> T {
        let frame = HeapFrame::from(frame);
        look(&frame, &Headers::parse(&HeapFrames, &frame))
    }

    fn value_of(frame: &[u8]) -> Option<u32> {
        with_headers(frame, |frame, headers| value(&HeapFrames, frame, headers))
    }

    /// The frame with another timestamp.
    fn changed(frame: &[u8], timestamp: u32) -> Vec<u8> {
        let mut changed = frame.to_vec();
        let set = with_headers(frame, |frame, headers| {
            replaced(&HeapFrames, frame, headers, timestamp).expect("it has one")
        });
        changed[set.at..set.at + 4].copy_from_slice(&timestamp.to_be_bytes());
        if let Some((at, checksum)) = set.checksum {
            changed[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        changed
    }

    /// Options with the timestamp after `before` bytes of padding.
    fn options(before: usize, timestamp: u32) -> Vec<u8> {
        let mut options = vec![1; before];
        options.extend([8, 10]);
        options.extend(timestamp.to_be_bytes());
        options.extend([9, 8, 7, 6]);
        options.resize(options.len().next_multiple_of(4), 0);
        options
    }

    fn segment(options: &[u8], payload: &[u8]) -> Vec<u8> {
        tcp_with(payload, |header| header.set_options_raw(options).expect("they fit"))
    }

    proptest! {
        #[test]
        fn the_new_time_stands_and_the_checksum_holds(
            before in 0usize..20,
            (old, new) in any::<(u32, u32)>(),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            network in 0usize..3,
        ) {
            let frame = in_network(network, segment(&options(before, old), &payload), &payload);
            let state = with_headers(&frame, |f, h| checksum::state(&HeapFrames, f, h));
            // One right checksum in 65,536 looks partial and is completed by its sender in the end.
            prop_assume!(state == ChecksumState::Complete);
            prop_assert_eq!(value_of(&frame), Some(old));
            let changed = changed(&frame, new);
            prop_assert_eq!(value_of(&changed), Some(new));
            prop_assert_eq!(with_headers(&changed, |f, h| valid(&HeapFrames, f, h)), Some(true));
        }
    }

    #[test]
    fn a_partial_checksum_does_not_cover_the_time() {
        let mut segment = segment(&options(2, 7), b"data");
        // Addresses, protocol and length, as a guest leaves them for its card.
        let length = u16::try_from(segment.len()).expect("short");
        let words = [SOURCE, DESTINATION].concat();
        let sum = words.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).sum::<u16>();
        let sum = (sum + u16::from(TCP) + length).to_be_bytes();
        segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
        let frame = ethernet(IPV4, &ipv4(TCP, &segment));
        let set = with_headers(&frame, |f, h| replaced(&HeapFrames, f, h, 8));
        assert_eq!(set, Some(Replacement { at: 14 + 20 + 20 + 4, checksum: None }));
    }

    #[test]
    fn what_has_no_timestamp_has_none() {
        let cut = segment(&[1, 1, 8, 10, 1, 2, 3, 4], b"data");
        let nonsense = segment(&[3, 0, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], b"data");
        for packet in [tcp(b"data"), segment(&[2, 4, 5, 0xb4], b""), cut, nonsense] {
            assert_eq!(value_of(&ethernet(IPV4, &ipv4(TCP, &packet))), None);
        }
        assert_eq!(value_of(&ethernet(IPV4, &ipv4(UDP, &udp(&[1; 40])))), None);
    }
}
