//! Comparing and hashing the compared bytes of frames where they lie.

use etherparse::{IpNumber, ip_number};
use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

use crate::frame::{FlowKey, FrameStore, Headers};

/// Which bytes of a datagram are compared: `start..end` of the frame without the two bytes at
/// `hole`, and the fragment word.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    start: u16,
    hole: u16,
    end: u32,
    fragment: u32,
}

impl Span {
    pub(super) const EMPTY: Self = Self { start: 0, hole: 0, end: 0, fragment: 0 };

    #[inline]
    pub(super) fn new(headers: &Headers) -> Self {
        Self {
            start: headers.content,
            hole: headers.hole,
            end: headers.end,
            fragment: headers.fragment,
        }
    }

    /// Offset of the first compared byte.
    pub(super) fn start(&self) -> usize {
        usize::from(self.start)
    }

    /// Length including the hole.
    pub(super) fn len(&self) -> usize {
        self.end as usize - self.start()
    }

    /// Lengths, from `start`, of what lies before the hole and of that with the hole.
    ///
    /// What lies before is short: two bytes of UDP or ICMP, at most 16 of a first fragment of TCP.
    fn around_hole(&self) -> (usize, usize) {
        if self.hole == 0 {
            return (0, 0);
        }
        let before = usize::from(self.hole) - self.start();
        (before, before + 2)
    }
}

/// How much of the transport header lies among the compared bytes, before the payload: of UDP the
/// length and the checksum's hole. Of every other protocol the header counts as payload.
pub(super) fn compared_header(key: &FlowKey) -> usize {
    if IpNumber(key.protocol) == ip_number::UDP && key.fragment == 0 { 4 } else { 0 }
}

/// How two datagrams differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    /// Lengths, or fragment positions.
    Length,
    /// The byte at this offset from the start of the content.
    Byte(usize),
}

/// Index of the first byte in which `length` bytes of `a` from `a_at` and of `b` from `b_at`
/// differ. A range that a frame does not have counts as different where it ends.
#[inline]
pub(super) fn first_difference<S: FrameStore>(
    store: &S,
    (a, a_at): (&S::Frame, usize),
    (b, b_at): (&S::Frame, usize),
    length: usize,
) -> Option<usize> {
    let mut done = 0;
    while done < length {
        let a_run = store.run(a, a_at + done);
        let b_run = store.run(b, b_at + done);
        let step = a_run.len().min(b_run.len()).min(length - done);
        if step == 0 {
            return Some(done);
        }
        let (a_run, b_run) = (&a_run[..step], &b_run[..step]);
        if a_run != b_run {
            let at = a_run.iter().zip(b_run).position(|(x, y)| x != y).unwrap_or(0);
            return Some(done + at);
        }
        done += step;
    }
    None
}

/// Whether two datagrams of one flow are the same output.
#[inline]
pub(super) fn same_datagram<S: FrameStore>(
    store: &S,
    (a, a_span): (&S::Frame, &Span),
    (b, b_span): (&S::Frame, &Span),
) -> bool {
    let length = a_span.len();
    if length != b_span.len() || a_span.fragment != b_span.fragment {
        return false;
    }
    let (before, after) = a_span.around_hole();
    let a_run = store.run(a, a_span.start()).get(..length);
    let b_run = store.run(b, b_span.start()).get(..length);
    if let (Some(x), Some(y)) = (a_run, b_run) {
        let (x_rest, y_rest) = (&x[after..], &y[after..]);
        // Most that differ do so in their first bytes: no need to call for the rest.
        if let (Some(x), Some(y)) = (x_rest.first_chunk::<8>(), y_rest.first_chunk::<8>())
            && x != y
        {
            return false;
        }
        return x_rest == y_rest && x[..before].iter().eq(&y[..before]);
    }
    datagram_difference(store, (a, a_span), (b, b_span)).is_none()
}

/// How two datagrams of one flow differ, if they do.
#[cold]
pub(super) fn datagram_difference<S: FrameStore>(
    store: &S,
    (a, a_span): (&S::Frame, &Span),
    (b, b_span): (&S::Frame, &Span),
) -> Option<Difference> {
    if a_span.len() != b_span.len() || a_span.fragment != b_span.fragment {
        return Some(Difference::Length);
    }
    let (before, after) = a_span.around_hole();
    [(0, before), (after, a_span.len() - after)].into_iter().find_map(|(at, length)| {
        let (a_at, b_at) = (a_span.start() + at, b_span.start() + at);
        let found = first_difference(store, (a, a_at), (b, b_at), length)?;
        Some(Difference::Byte(at + found))
    })
}

/// Hashes the compared bytes of datagrams, however they are spread over memory.
pub(super) struct ContentHasher {
    secrets: RapidSecrets,
    /// Where a piece that spans several runs is put together; grows to the largest such frame.
    gathered: Vec<u8>,
}

impl ContentHasher {
    /// Largest piece that is put together: an IP packet.
    const LARGEST_PIECE: usize = 65_536;

    pub(super) fn new(seed: u64) -> Self {
        Self {
            secrets: RapidSecrets::seed(seed),
            gathered: Vec::with_capacity(Self::LARGEST_PIECE),
        }
    }

    /// A hash that depends on the compared bytes and the flow, not on how they lie in memory. The
    /// few bytes before the hole do not count: whoever finds by hash compares the bytes anyway.
    #[inline]
    pub(super) fn hash<S: FrameStore>(
        &mut self,
        store: &S,
        frame: &S::Frame,
        span: &Span,
        flow: u32,
    ) -> u64 {
        let (_, after) = span.around_hole();
        let piece = self.piece(store, frame, span.start() + after, span.len() - after);
        let place = u64::from(flow) << 32 | u64::from(span.fragment);
        (place ^ piece).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[inline]
    fn piece<S: FrameStore>(
        &mut self,
        store: &S,
        frame: &S::Frame,
        at: usize,
        length: usize,
    ) -> u64 {
        let run = store.run(frame, at);
        if let Some(bytes) = run.get(..length) {
            return rapidhash_v3_inline::<true, false, false>(bytes, &self.secrets);
        }
        self.gathered.clear();
        while self.gathered.len() < length {
            let run = store.run(frame, at + self.gathered.len());
            if run.is_empty() {
                break;
            }
            let step = run.len().min(length - self.gathered.len());
            self.gathered.extend_from_slice(&run[..step]);
        }
        rapidhash_v3_inline::<true, false, false>(&self.gathered, &self.secrets)
    }
}
