//! Where the bytes of frames live.

/// The memory that frames live in.
///
/// The comparator is generic over this trait: it keeps frames as opaque values and reads their
/// bytes only through the store. A frame may lie in several pieces (an AF_XDP multi-buffer
/// frame is a chain of UMEM chunks), so bytes are read a contiguous run at a time.
pub trait FrameStore {
    /// A frame. Implementations that own scarce memory make it move-only.
    type Frame;

    /// The whole length of `frame` in bytes.
    fn len(&self, frame: &Self::Frame) -> usize;

    /// The longest contiguous run of the frame's bytes that starts at offset `at`.
    ///
    /// Empty exactly when `at >= self.len(frame)`. The run that starts at 0 is at least
    /// `min(len, 128)` bytes long, or the frame's first chunk.
    fn run<'a>(&'a self, frame: &'a Self::Frame, at: usize) -> &'a [u8];
}

/// A frame in an ordinary heap buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct HeapFrame(pub Box<[u8]>);

impl From<&[u8]> for HeapFrame {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// The store of [`HeapFrame`]s: each frame carries its own bytes.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeapFrames;

impl FrameStore for HeapFrames {
    type Frame = HeapFrame;

    fn len(&self, frame: &HeapFrame) -> usize {
        frame.0.len()
    }

    fn run<'a>(&'a self, frame: &'a HeapFrame, at: usize) -> &'a [u8] {
        frame.0.get(at..).unwrap_or_default()
    }
}
