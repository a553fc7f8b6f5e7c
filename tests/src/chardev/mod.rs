//! The framing of QEMU's socket netdevs and filters, and a peer that speaks it.
//!
//! `u32 length`, big-endian; where vnet headers are on, `u32 vnet_hdr_len`; then `length` bytes, in
//! which the vnet header, if any, comes first.

mod peer;

pub use peer::Peer;

use anyhow::ensure;

use crate::Result;

/// Largest length that the framing allows: a frame of 64 KiB and 4 KiB for headers.
pub const LARGEST: usize = 69_632;
/// What virtio-net puts in front of a frame on a chardev (`virtio_net_hdr_mrg_rxbuf`).
pub const VNET_HEADER: usize = 12;

/// Whether messages carry the vnet word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Length and frame.
    Plain,
    /// Length, vnet header length, vnet header and frame.
    Vnet,
}

/// One frame as it crosses a chardev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Length of the vnet header at the start of `bytes`; zero without vnet headers.
    pub vnet_header: usize,
    /// Vnet header and frame.
    pub bytes: Vec<u8>,
}

impl Message {
    /// A frame without a vnet header.
    #[must_use]
    pub fn plain(frame: &[u8]) -> Self {
        Self { vnet_header: 0, bytes: frame.to_vec() }
    }

    /// A frame behind a vnet header.
    #[must_use]
    pub fn with_vnet_header(header: &[u8], frame: &[u8]) -> Self {
        Self { vnet_header: header.len(), bytes: [header, frame].concat() }
    }

    /// The frame without its vnet header.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.bytes[self.vnet_header..]
    }
}

impl Framing {
    /// Bytes in front of what `length` counts.
    #[must_use]
    pub fn prefix(self) -> usize {
        match self {
            Self::Plain => 4,
            Self::Vnet => 8,
        }
    }

    /// Appends a message as it stands on the wire.
    ///
    /// # Panics
    /// When it is longer than 32 bits can say.
    pub fn encode(self, message: &Message, wire: &mut Vec<u8>) {
        let word = |length: usize| u32::try_from(length).expect("a frame fits").to_be_bytes();
        wire.extend_from_slice(&word(message.bytes.len()));
        if self == Self::Vnet {
            wire.extend_from_slice(&word(message.vnet_header));
        }
        wire.extend_from_slice(&message.bytes);
    }

    /// The first message in `wire` and how many bytes it takes there; none while it is incomplete.
    ///
    /// # Errors
    /// When a length is one that no peer may send.
    pub fn decode(self, wire: &[u8]) -> Result<Option<(Message, usize)>> {
        let word = |at: usize| -> Option<usize> {
            let bytes = wire.get(at..at + 4)?.try_into().expect("four bytes");
            usize::try_from(u32::from_be_bytes(bytes)).ok()
        };
        let Some(length) = word(0) else { return Ok(None) };
        ensure!((1..=LARGEST).contains(&length), "a message claims {length} bytes");
        let vnet_header = match self {
            Self::Plain => Some(0),
            Self::Vnet => word(4),
        };
        let Some(vnet_header) = vnet_header else { return Ok(None) };
        ensure!(vnet_header <= length, "a vnet header of {vnet_header} in {length} bytes");
        let end = self.prefix() + length;
        let Some(bytes) = wire.get(self.prefix()..end) else { return Ok(None) };
        Ok(Some((Message { vnet_header, bytes: bytes.to_vec() }, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_a_part_of_it_is_waited_for() -> Result {
        for (framing, message) in [
            (Framing::Plain, Message::plain(b"frame")),
            (Framing::Vnet, Message::plain(b"frame")),
            (Framing::Vnet, Message::with_vnet_header(&[1; 12], b"frame")),
        ] {
            let mut wire = Vec::new();
            framing.encode(&message, &mut wire);
            framing.encode(&message, &mut wire);
            let end = wire.len() / 2;
            for length in 0..end {
                assert_eq!(framing.decode(&wire[..length])?, None, "{length} bytes");
            }
            assert_eq!(framing.decode(&wire)?, Some((message.clone(), end)));
        }
        Ok(())
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for (framing, wire) in [
            (Framing::Plain, vec![0; 4]),
            (Framing::Plain, vec![0xff; 4]),
            (Framing::Vnet, vec![0, 0, 0, 1, 0, 0, 0, 2, 0]),
        ] {
            assert!(framing.decode(&wire).is_err(), "{wire:?}");
        }
    }
}
