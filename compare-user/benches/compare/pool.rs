//! Frames in one region of memory, as UMEM is: handles, no allocation.

use compare_user::frame::FrameStore;

/// Bytes between the starts of two frames, as in UMEM.
const STRIDE: usize = 2048;

/// A frame of the pool. Move-only: whoever has it owns the bytes.
pub(crate) struct Frame(u32);

/// The region. All frames are of one length.
pub(crate) struct Pool {
    memory: Vec<u8>,
    length: usize,
}

impl Pool {
    /// A pool of `count` copies of `template`, and the frames.
    pub(crate) fn new(template: &[u8], count: usize) -> (Self, Vec<Frame>) {
        let mut memory = vec![0; count * STRIDE];
        for start in (0..count).map(|frame| frame * STRIDE) {
            memory[start..start + template.len()].copy_from_slice(template);
        }
        let frames = (0..count as u32).map(Frame).collect();
        (Self { memory, length: template.len() }, frames)
    }

    pub(crate) fn write(&mut self, frame: &Frame, at: usize, bytes: &[u8]) {
        let start = frame.0 as usize * STRIDE + at;
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

impl FrameStore for Pool {
    type Frame = Frame;

    #[inline]
    fn len(&self, _: &Frame) -> usize {
        self.length
    }

    #[inline]
    fn run<'a>(&'a self, frame: &'a Frame, at: usize) -> &'a [u8] {
        let start = frame.0 as usize * STRIDE;
        let bytes = &self.memory[start..start + self.length];
        bytes.get(at..).unwrap_or_default()
    }
}
