//! Messages of notify_dev on the wire.
//!
//! Both ways a message is a big-endian `u32` length and that many bytes. To the comparator, and
//! only to it, a second word stands between the two when vnet headers are on: the length of the
//! header, as in the framing of frames.

/// Longest message: the longest frame of the same framing (a 64 KiB segment and its headers).
pub const LONGEST: usize = 69_632;

/// What a peer did wrong. Nothing it sends afterwards can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message of no bytes.
    #[error("it sent a length of zero")]
    Empty,
    /// More than [`LONGEST`].
    #[error("it sent a length of {0}, the longest is {LONGEST}")]
    TooLong(u32),
    /// A header longer than the message that has it.
    #[error("it sent a vnet header length of {header} in {length} bytes")]
    Header {
        /// Length of the header.
        header: u32,
        /// Length of the message.
        length: u32,
    },
}

/// Puts messages together from the pieces in which they arrive.
#[derive(Debug)]
pub struct MessageReader {
    vnet: bool,
    buffer: Vec<u8>,
}

impl MessageReader {
    /// A reader at the start of a connection.
    #[must_use]
    pub fn new(vnet: bool) -> Self {
        Self { vnet, buffer: Vec::new() }
    }

    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message. Call it until there is none before pushing more; then no more than
    /// one message and one piece is ever stored.
    ///
    /// # Errors
    /// As soon as the words that are there cannot be; the connection is of no more use.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(length) = self.word(0) else {
            return Ok(None);
        };
        let size = match length as usize {
            0 => return Err(Fault::Empty),
            size if size > LONGEST => return Err(Fault::TooLong(length)),
            size => size,
        };
        let mut start = 4;
        if self.vnet {
            let Some(header) = self.word(4) else {
                return Ok(None);
            };
            if header > length {
                return Err(Fault::Header { header, length });
            }
            start = 8;
        }
        if self.buffer.len() < start + size {
            return Ok(None);
        }
        let message = self.buffer[start..start + size].to_vec();
        self.buffer.drain(..start + size);
        Ok(Some(message))
    }

    /// Bytes that have arrived and belong to no whole message yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.buffer.get(at..at + 4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// A message to the peer.
pub(super) fn framed(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a peer writes them: with `header` the vnet word is there.
    fn on_the_wire(message: &[u8], header: Option<u32>) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short");
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(header.map(u32::to_be_bytes).into_iter().flatten());
        bytes.extend_from_slice(message);
        bytes
    }

    #[test]
    fn to_the_peer_a_message_never_has_a_vnet_word() {
        assert_eq!(framed("DO_CHECKPOINT"), b"\0\0\0\x0dDO_CHECKPOINT");
    }

    #[test]
    fn a_fault_is_found_as_soon_as_its_word_is_there() {
        let fault = |vnet, bytes: &[u8]| {
            let mut reader = MessageReader::new(vnet);
            reader.push(bytes);
            reader.next_message().expect_err("at fault")
        };
        assert_eq!(fault(false, &[0; 4]), Fault::Empty);
        assert_eq!(fault(false, b"GET "), Fault::TooLong(0x4745_5420));
        assert_eq!(fault(true, &[0, 1, 0x10, 1]), Fault::TooLong(69_633));
        let header = Fault::Header { header: u32::MAX, length: 1 };
        assert_eq!(fault(true, &[0, 0, 0, 1, 255, 255, 255, 255]), header);
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..20),
            cuts in prop::collection::vec(1_usize..64, 1..20),
            header in prop::option::of(0_u32..2),
        ) {
            let stream: Vec<u8> =
                messages.iter().flat_map(|message| on_the_wire(message, header)).collect();
            let mut reader = MessageReader::new(header.is_some());
            let mut read = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                reader.push(piece);
                while let Some(message) = reader.next_message().expect("well formed") {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn whatever_arrives_no_more_than_one_message_and_one_piece_is_stored(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4096), 0..40),
            vnet in any::<bool>(),
            // Makes a plausible length likely, so that the reader goes on collecting.
            plausible in any::<bool>(),
        ) {
            let mut reader = MessageReader::new(vnet);
            if plausible {
                reader.push(&[0, 1, 0, 0]);
            }
            'stream: for piece in &pieces {
                reader.push(piece);
                loop {
                    match reader.next_message() {
                        Ok(Some(message)) => prop_assert!((1..=LONGEST).contains(&message.len())),
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
                prop_assert!(reader.buffer.len() < 8 + LONGEST);
            }
        }
    }
}
