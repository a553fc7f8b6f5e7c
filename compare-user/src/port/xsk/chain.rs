//! Puts received descriptors together to frames.
//!
//! With multi-buffer a frame larger than a chunk arrives as several descriptors, all but the last
//! flagged as continued. They are read in batches, so a chain may be cut anywhere: what has been
//! seen of it waits here for the rest. Until then its chunks remain the port's.

use super::chunks::{Chunks, Owner, PortNumber};

/// Most chunks of one frame: a linear part and `MAX_SKB_FRAGS` (17) fragments, which is what an
/// skb can carry and hence what copy-mode transmission accepts (net/xdp/xsk.c, `xsk_build_skb`).
pub(super) const MAX_CHUNKS: usize = 18;

/// A frame whose end has not arrived.
#[derive(Debug)]
struct Partial {
    head: u32,
    tail: u32,
    length: u32,
    chunks: usize,
}

/// What one more descriptor made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Assembled {
    /// A whole frame, which is user space's now.
    Frame {
        /// First chunk.
        head: u32,
        /// Length in bytes.
        length: u32,
        /// How many chunks it takes.
        chunks: usize,
    },
    /// Part of a frame; nothing changed hands.
    Partial,
    /// So many chunks went back to the free list, with a frame that has too many of them.
    Discarded {
        /// Chunks freed.
        chunks: usize,
        /// Whether this is the first descriptor of that frame to be discarded.
        first: bool,
    },
}

/// The assembler of one receive ring.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    partial: Option<Partial>,
    /// The frame now arriving is too long: free its chunks up to its last one.
    discarding: bool,
}

impl Assembler {
    /// Takes in the next descriptor: `length` bytes in `chunk`, with `more` of the same frame to
    /// follow.
    #[inline]
    pub(super) fn push(
        &mut self,
        chunks: &mut Chunks,
        port: PortNumber,
        chunk: u32,
        length: u32,
        more: bool,
    ) -> Assembled {
        if self.partial.is_none() && !self.discarding && !more {
            chunks.transfer(chunk, Owner::receive(port), Owner::USER);
            chunks.end_chain(chunk);
            return Assembled::Frame { head: chunk, length, chunks: 1 };
        }
        self.push_part(chunks, port, chunk, length, more)
    }

    fn push_part(
        &mut self,
        chunks: &mut Chunks,
        port: PortNumber,
        chunk: u32,
        length: u32,
        more: bool,
    ) -> Assembled {
        if self.discarding {
            chunks.give_back(chunk, Owner::receive(port));
            self.discarding = more;
            return Assembled::Discarded { chunks: 1, first: false };
        }
        chunks.end_chain(chunk);
        let whole = match self.partial.take() {
            None => Partial { head: chunk, tail: chunk, length, chunks: 1 },
            Some(part) => {
                chunks.link(part.tail, chunk);
                Partial {
                    head: part.head,
                    tail: chunk,
                    length: part.length + length,
                    chunks: part.chunks + 1,
                }
            }
        };
        if whole.chunks > MAX_CHUNKS {
            hand_over(chunks, whole.head, Owner::receive(port), Owner::FREE);
            self.discarding = more;
            return Assembled::Discarded { chunks: whole.chunks, first: true };
        }
        if more {
            self.partial = Some(whole);
            return Assembled::Partial;
        }
        hand_over(chunks, whole.head, Owner::receive(port), Owner::USER);
        Assembled::Frame { head: whole.head, length: whole.length, chunks: whole.chunks }
    }

    /// Whether a frame has begun whose end has not arrived.
    pub(super) fn is_waiting(&self) -> bool {
        self.partial.is_some() || self.discarding
    }
}

/// Moves every chunk of a chain from one owner to the next.
pub(super) fn hand_over(chunks: &mut Chunks, head: u32, from: Owner, to: Owner) {
    let mut current = Some(head);
    while let Some(chunk) = current {
        current = chunks.next(chunk);
        if to == Owner::FREE {
            chunks.give_back(chunk, from);
        } else {
            chunks.transfer(chunk, from, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ring {
        chunks: Chunks,
        port: PortNumber,
        assembler: Assembler,
    }

    impl Ring {
        fn new() -> Self {
            let mut chunks = Chunks::new(64);
            let port = chunks.attach().unwrap();
            Self { chunks, port, assembler: Assembler::default() }
        }

        /// A descriptor as the kernel produces it, in a chunk that was lent to it.
        fn descriptor(&mut self, length: u32, more: bool) -> (u32, Assembled) {
            let chunk = self.chunks.take(Owner::receive(self.port)).unwrap();
            let made = self.assembler.push(&mut self.chunks, self.port, chunk, length, more);
            (chunk, made)
        }
    }

    #[test]
    fn one_descriptor_makes_a_frame() {
        let mut ring = Ring::new();
        let (chunk, made) = ring.descriptor(60, false);
        assert_eq!(made, Assembled::Frame { head: chunk, length: 60, chunks: 1 });
        assert_eq!(ring.chunks.audit().user, 1);
    }

    #[test]
    fn continued_descriptors_make_one_frame_in_their_order() {
        let mut ring = Ring::new();
        let (first, made) = ring.descriptor(1792, true);
        assert_eq!(made, Assembled::Partial);
        let (second, made) = ring.descriptor(1792, true);
        assert_eq!(made, Assembled::Partial);
        assert_eq!(ring.chunks.audit().receive, [2], "still the port's until it is whole");

        let (third, made) = ring.descriptor(100, false);

        assert_eq!(made, Assembled::Frame { head: first, length: 3684, chunks: 3 });
        assert_eq!(ring.chunks.chain(first).collect::<Vec<_>>(), [first, second, third]);
        assert_eq!(ring.chunks.audit().user, 3);
        assert!(!ring.assembler.is_waiting());
    }

    #[test]
    fn the_longest_chain_is_a_frame_and_one_chunk_more_is_discarded() {
        let mut ring = Ring::new();
        for _ in 1..MAX_CHUNKS {
            assert_eq!(ring.descriptor(10, true).1, Assembled::Partial);
        }
        let (_, made) = ring.descriptor(10, false);
        assert!(matches!(made, Assembled::Frame { chunks: MAX_CHUNKS, length: 180, .. }));

        for _ in 0..MAX_CHUNKS {
            assert_eq!(ring.descriptor(10, true).1, Assembled::Partial);
        }
        let (_, made) = ring.descriptor(10, false);
        assert_eq!(made, Assembled::Discarded { chunks: MAX_CHUNKS + 1, first: true });
        assert_eq!(ring.chunks.audit().receive, [0]);
        assert!(!ring.assembler.is_waiting());
    }

    #[test]
    fn the_rest_of_an_overlong_chain_goes_with_it_and_the_next_frame_is_whole() {
        let mut ring = Ring::new();
        for _ in 0..=MAX_CHUNKS {
            ring.descriptor(10, true);
        }
        assert!(ring.assembler.is_waiting());
        let (_, rest) = ring.descriptor(10, true);
        assert_eq!(rest, Assembled::Discarded { chunks: 1, first: false });
        let (_, end) = ring.descriptor(10, false);
        assert_eq!(end, Assembled::Discarded { chunks: 1, first: false });

        let (chunk, made) = ring.descriptor(60, false);

        assert_eq!(made, Assembled::Frame { head: chunk, length: 60, chunks: 1 });
        let audit = ring.chunks.audit();
        assert_eq!((audit.user, audit.free, audit.receive), (1, 63, vec![0]));
    }

    #[test]
    fn a_chain_that_never_ends_goes_back_with_its_port() {
        let mut ring = Ring::new();
        ring.descriptor(1792, true);
        ring.descriptor(1792, true);
        assert!(ring.assembler.is_waiting());
        assert_eq!(ring.chunks.detach(ring.port), 2);
        assert_eq!(ring.chunks.audit().free, 64);
    }
}
