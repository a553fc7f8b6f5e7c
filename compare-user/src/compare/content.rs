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

    /// The compared pieces, as offset and length relative to `start`.
    fn pieces(&self) -> [(usize, usize); 2] {
        if self.hole == 0 {
            [(0, self.len()), (0, 0)]
        } else {
            let hole = usize::from(self.hole) - self.start();
            [(0, hole), (hole + 2, self.len() - hole - 2)]
        }
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
) -> Result<(), Difference> {
    if a_span.len() != b_span.len() || a_span.fragment != b_span.fragment {
        return Err(Difference::Length);
    }
    for (offset, length) in a_span.pieces() {
        let found = first_difference(
            store,
            (a, a_span.start() + offset),
            (b, b_span.start() + offset),
            length,
        );
        if let Some(at) = found {
            return Err(Difference::Byte(offset + at));
        }
    }
    Ok(())
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

    /// A hash that depends on the compared bytes and the flow, not on how they lie in memory.
    #[inline]
    pub(super) fn hash<S: FrameStore>(
        &mut self,
        store: &S,
        frame: &S::Frame,
        span: &Span,
        flow: u32,
    ) -> u64 {
        let mut hash = u64::from(flow) << 32 | u64::from(span.fragment);
        for (offset, length) in span.pieces() {
            let piece = self.piece(store, frame, span.start() + offset, length);
            hash = (hash ^ piece).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        hash
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
