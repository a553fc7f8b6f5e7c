//! The frames of a simulation: their bytes, and what they mean.

use compare_user::frame::FrameStore;

use crate::meaning::Meaning;

/// A frame, by number. It can only be moved, as a frame in device memory.
#[derive(Debug)]
pub struct Frame(pub u32);

struct Entry {
    bytes: Box<[u8]>,
    meaning: Meaning,
}

/// All frames that exist, by number; numbers are never used again.
pub struct Frames {
    entries: Vec<Option<Entry>>,
    /// Bytes that lie together: frames longer than this are read in pieces.
    chunk: usize,
    living: usize,
}

impl Frames {
    /// No frames yet.
    #[must_use]
    pub fn new(chunk: usize) -> Self {
        Self { entries: Vec::new(), chunk, living: 0 }
    }

    /// Adds a frame.
    pub fn add(&mut self, bytes: Vec<u8>, meaning: Meaning) -> Frame {
        let number = u32::try_from(self.entries.len()).expect("fewer than 2^32 frames");
        self.entries.push(Some(Entry { bytes: bytes.into(), meaning }));
        self.living += 1;
        Frame(number)
    }

    /// Another frame with the same bytes and meaning.
    pub fn copy(&mut self, frame: &Frame) -> Frame {
        let entry = self.entry(frame.0);
        let (bytes, meaning) = (entry.bytes.to_vec(), entry.meaning.clone());
        self.add(bytes, meaning)
    }

    fn entry(&self, number: u32) -> &Entry {
        self.entries[number as usize].as_ref().expect("a frame that exists")
    }

    /// What a frame means.
    #[must_use]
    pub fn meaning(&self, number: u32) -> &Meaning {
        &self.entry(number).meaning
    }

    /// To note something of it.
    pub fn meaning_mut(&mut self, number: u32) -> &mut Meaning {
        &mut self.entries[number as usize].as_mut().expect("a frame that exists").meaning
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self, number: u32) -> &[u8] {
        &self.entry(number).bytes
    }

    /// Changes a byte.
    pub fn damage(&mut self, frame: &Frame, at: usize, difference: u8) {
        let entry = self.entries[frame.0 as usize].as_mut().expect("a frame that exists");
        entry.bytes[at] ^= difference;
    }

    /// Ends a frame.
    pub fn remove(&mut self, frame: Frame) -> Meaning {
        self.living -= 1;
        self.entries[frame.0 as usize].take().expect("a frame ends once").meaning
    }

    /// Frames that exist.
    #[must_use]
    pub fn living(&self) -> usize {
        self.living
    }
}

impl FrameStore for Frames {
    type Frame = Frame;

    fn len(&self, frame: &Frame) -> usize {
        self.entry(frame.0).bytes.len()
    }

    fn run<'a>(&'a self, frame: &'a Frame, at: usize) -> &'a [u8] {
        let bytes = &self.entry(frame.0).bytes;
        let end = (at / self.chunk + 1) * self.chunk;
        bytes.get(at..end.min(bytes.len())).unwrap_or_default()
    }
}
