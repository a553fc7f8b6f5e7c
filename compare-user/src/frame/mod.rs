//! What a frame says: header offsets, flow key, checksums.
//!
//! Everything here reads bytes through [`FrameStore`], so that the same code serves frames in
//! UMEM, in heap buffers and in capture files, contiguous or in several chunks.

pub mod checksum;
mod headers;
mod key;
mod parse;
pub mod payload;
#[cfg(test)]
pub(crate) mod samples;
mod store;
pub mod timestamp;

pub use headers::{Class, Headers, Malformed, PassReason, TcpFields};
pub use key::{FlowKey, NO_TAG};
pub use store::{FrameStore, HeapFrame, HeapFrames};
