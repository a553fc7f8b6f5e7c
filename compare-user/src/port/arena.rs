//! Frame memory that no device addresses.
//!
//! When every port is a socket, frames need not lie where a kernel ring can point. An [`Arena`]
//! keeps the accounting of an AF_XDP region, chunks of equal size and a free list, on ordinary
//! memory, and needs no privilege. A frame is a chain of chunks; its prefix stands in front of its
//! bytes in the first of them.

use crate::frame::FrameStore;
use crate::port::Memory;

/// End of a chain.
const LAST: u32 = u32::MAX;

/// The right to use a frame's bytes in an [`Arena`]: cannot be copied, and ends in
/// [`Memory::recycle`]. One that is merely dropped stays out of circulation, which the books of
/// the lane show.
#[derive(Debug)]
#[must_use = "a dropped frame is lost memory: recycle it"]
pub struct ArenaFrame {
    /// The first chunk.
    head: u32,
    /// Bytes of the frame, without the prefix.
    length: u32,
    /// Bytes of the prefix.
    prefix: u8,
}

/// Frame memory on the heap.
#[derive(Debug)]
pub struct Arena {
    bytes: Box<[u8]>,
    /// The chunk that follows in the same frame.
    next: Box<[u32]>,
    /// A stack: the chunk freed last is the one most likely still in the cache. Its capacity is
    /// the number of chunks, so that it never grows.
    free: Vec<u32>,
    chunk_size: usize,
}

impl Arena {
    /// Memory of `chunks` chunks. The kernel backs it with pages as they are first used.
    ///
    /// # Panics
    /// When a chunk of `chunk_size` bytes has no room for a prefix and headers (512 bytes).
    #[must_use]
    pub fn new(chunks: u32, chunk_size: usize) -> Self {
        assert!(chunk_size >= 512, "a chunk holds at least a frame's headers");
        Self {
            bytes: vec![0; chunks as usize * chunk_size].into(),
            next: vec![LAST; chunks as usize].into(),
            // Reversed, so that the first chunks taken are the first in memory.
            free: (0..chunks).rev().collect(),
            chunk_size,
        }
    }

    fn chunk(&self, chunk: u32) -> &[u8] {
        let start = chunk as usize * self.chunk_size;
        &self.bytes[start..start + self.chunk_size]
    }

    fn chunk_mut(&mut self, chunk: u32) -> &mut [u8] {
        let start = chunk as usize * self.chunk_size;
        &mut self.bytes[start..start + self.chunk_size]
    }

    fn next(&self, chunk: u32) -> Option<u32> {
        Some(self.next[chunk as usize]).filter(|&next| next != LAST)
    }

    /// Chunks that a prefix and a frame take together.
    fn chunks_for(&self, length: usize) -> usize {
        length.div_ceil(self.chunk_size).max(1)
    }

    /// Copies the bytes behind the first chunk.
    fn extend(&mut self, head: u32, bytes: &[u8]) {
        let mut tail = head;
        for part in bytes.chunks(self.chunk_size) {
            // `allocate` has seen that there are enough.
            let Some(chunk) = self.free.pop() else { return };
            self.chunk_mut(chunk)[..part.len()].copy_from_slice(part);
            self.next[tail as usize] = chunk;
            tail = chunk;
        }
        self.next[tail as usize] = LAST;
    }

    /// The chunk that holds byte `at` of prefix and frame together, and where in it.
    fn find(&self, head: u32, at: usize) -> Option<(u32, usize)> {
        let mut chunk = head;
        for _ in 0..at / self.chunk_size {
            chunk = self.next(chunk)?;
        }
        Some((chunk, at % self.chunk_size))
    }
}

impl Memory for Arena {
    #[inline]
    fn allocate(&mut self, prefix: &[u8], bytes: &[u8]) -> Option<ArenaFrame> {
        let whole = prefix.len() + bytes.len();
        let frame_prefix = u8::try_from(prefix.len()).ok()?;
        if self.chunks_for(whole) > self.free.len() {
            return None;
        }
        let head = self.free.pop()?;
        let first = bytes.len().min(self.chunk_size - prefix.len());
        let chunk = self.chunk_mut(head);
        chunk[..prefix.len()].copy_from_slice(prefix);
        chunk[prefix.len()..][..first].copy_from_slice(&bytes[..first]);
        self.extend(head, &bytes[first..]);
        Some(ArenaFrame { head, length: u32::try_from(bytes.len()).ok()?, prefix: frame_prefix })
    }

    #[inline]
    fn prefix<'a>(&'a self, frame: &'a ArenaFrame) -> &'a [u8] {
        &self.chunk(frame.head)[..usize::from(frame.prefix)]
    }

    #[inline]
    fn recycle(&mut self, frame: ArenaFrame) {
        let mut current = Some(frame.head);
        while let Some(chunk) = current {
            current = self.next(chunk);
            self.free.push(chunk);
        }
    }

    fn write(&mut self, frame: &ArenaFrame, at: usize, bytes: &[u8]) {
        let whole = usize::from(frame.prefix) + at;
        for (index, byte) in bytes.iter().enumerate() {
            assert!(at + index < frame.length as usize, "the written range lies within the frame");
            if let Some((chunk, offset)) = self.find(frame.head, whole + index) {
                self.chunk_mut(chunk)[offset] = *byte;
            }
        }
    }

    fn total(&self) -> usize {
        self.next.len()
    }

    fn free(&self) -> usize {
        self.free.len()
    }

    fn occupies(&self, frame: &ArenaFrame) -> usize {
        self.chunks_for(usize::from(frame.prefix) + frame.length as usize)
    }
}

impl FrameStore for Arena {
    type Frame = ArenaFrame;

    #[inline]
    fn len(&self, frame: &ArenaFrame) -> usize {
        frame.length as usize
    }

    #[inline]
    fn run<'a>(&'a self, frame: &'a ArenaFrame, at: usize) -> &'a [u8] {
        let start = usize::from(frame.prefix) + at;
        let end = usize::from(frame.prefix) + frame.length as usize;
        if start >= end {
            return &[];
        }
        // Nearly every frame is one chunk, and nearly every read starts in the first.
        if start < self.chunk_size {
            return &self.chunk(frame.head)[start..end.min(self.chunk_size)];
        }
        match self.find(frame.head, start) {
            Some((chunk, offset)) => {
                &self.chunk(chunk)[offset..self.chunk_size.min(offset + end - start)]
            }
            None => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(arena: &Arena, frame: &ArenaFrame) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < arena.len(frame) {
            bytes.extend_from_slice(arena.run(frame, bytes.len()));
        }
        bytes
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn frames_of_every_length_come_back_as_they_were_and_all_chunks_with_them() {
        let mut arena = Arena::new(64, 2048);
        for prefix in [0, 12, 32] {
            for length in [0, 1, 60, 2015, 2016, 2036, 2048, 2049, 4084, 4096, 69_632] {
                let (header, bytes) = (vec![0xee; prefix], pattern(length));
                let frame = arena.allocate(&header, &bytes).expect("there is room");
                assert_eq!(arena.len(&frame), length);
                assert_eq!(content(&arena, &frame), bytes, "{length} after {prefix}");
                assert_eq!(arena.prefix(&frame), header);
                assert_eq!(arena.free() + arena.occupies(&frame), arena.total());
                assert!(arena.run(&frame, length).is_empty());
                arena.recycle(frame);
                assert_eq!(arena.free(), 64);
            }
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_takes_nothing() {
        let mut arena = Arena::new(3, 2048);
        assert!(arena.allocate(&[], &pattern(3 * 2048 + 1)).is_none());
        assert_eq!(arena.free(), 3);
        let frame = arena.allocate(&[], &pattern(3 * 2048)).expect("just fits");
        assert!(arena.allocate(&[], &[1]).is_none());
        arena.recycle(frame);
        assert_eq!(arena.free(), 3);
    }

    #[test]
    fn a_write_reaches_over_the_edge_of_a_chunk_and_spares_the_prefix() {
        let mut arena = Arena::new(4, 2048);
        let mut bytes = pattern(3000);
        let frame = arena.allocate(&[9; 12], &bytes).expect("there is room");
        arena.write(&frame, 2035, &[1, 2, 3]);
        bytes[2035..2038].copy_from_slice(&[1, 2, 3]);
        arena.write(&frame, 0, &[7]);
        bytes[0] = 7;
        assert_eq!(content(&arena, &frame), bytes);
        assert_eq!(arena.prefix(&frame), [9; 12]);
        arena.recycle(frame);
    }

    #[test]
    #[should_panic(expected = "within the frame")]
    fn a_write_beyond_the_frame_is_refused() {
        let mut arena = Arena::new(4, 2048);
        let frame = arena.allocate(&[], &[0; 10]).expect("there is room");
        arena.write(&frame, 9, &[1, 2]);
    }
}
