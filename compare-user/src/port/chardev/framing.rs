//! How frames stand in a byte stream: the framing of QEMU's network filters.
//!
//! ```text
//! u32 length, big endian
//! u32 length of the vnet header, big endian     only when vnet headers are on
//! `length` bytes: the vnet header, if any, and the frame
//! ```
//!
//! Pure: bytes in, messages out. Nothing here knows what a message means, so that notifications
//! are read with the same code as frames.

/// Largest value of the length word: what QEMU's network layer takes (a 64 KiB packet with its
/// headers).
pub const LONGEST: usize = 69_632;

/// Longest vnet header that is carried. The largest that virtio has is 24 bytes
/// (`struct virtio_net_hdr_v1_hash_tunnel` in the kernel's include/uapi/linux/virtio_net.h).
pub const LONGEST_HEADER: usize = 32;

/// Bytes of one word.
const WORD: usize = 4;

/// Which framing a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Whether a vnet word follows the length (`vnet_hdr_support` of QEMU's filters).
    pub vnet: bool,
}

/// One message of a stream, borrowed from the bytes it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The vnet header; empty without vnet headers.
    pub header: &'a [u8],
    /// What follows it: an Ethernet frame, or the text of a notification.
    pub body: &'a [u8],
}

/// What a peer did that no stream in this framing contains. Nothing after it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message without a byte.
    #[error("a frame of length 0")]
    Empty,
    /// A message longer than [`LONGEST`].
    #[error("a frame of length {length}, beyond {LONGEST}")]
    TooLong {
        /// What the length word says.
        length: u32,
    },
    /// A vnet header longer than its message, or than [`LONGEST_HEADER`].
    #[error("a vnet header of {header} bytes in a frame of length {length}")]
    Header {
        /// What the vnet word says.
        header: u32,
        /// What the length word says.
        length: u32,
    },
}

/// The words in front of a message.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    bytes: [u8; 2 * WORD],
    count: usize,
}

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.count * WORD]
    }
}

impl Framing {
    /// Finds the first message in `bytes`, and how many of them it takes; `None` when its end is
    /// not there yet.
    ///
    /// # Errors
    /// As soon as the words that are there cannot be.
    #[inline]
    pub fn decode(self, bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, Fault> {
        let Some(length) = word(bytes, 0) else {
            return Ok(None);
        };
        match length as usize {
            0 => return Err(Fault::Empty),
            1..=LONGEST => {}
            _ => return Err(Fault::TooLong { length }),
        }
        let (header, words) = if self.vnet {
            let Some(header) = word(bytes, WORD) else {
                return Ok(None);
            };
            if header > length || header as usize > LONGEST_HEADER {
                return Err(Fault::Header { header, length });
            }
            (header as usize, 2 * WORD)
        } else {
            (0, WORD)
        };
        let end = words + length as usize;
        let Some(content) = bytes.get(words..end) else {
            return Ok(None);
        };
        let (header, body) = content.split_at(header);
        Ok(Some((Message { header, body }, end)))
    }

    /// The words that stand before a vnet header of `header` bytes and a body of `body` bytes.
    /// Without vnet headers `header` must be 0.
    #[inline]
    #[must_use]
    pub fn words(self, header: usize, body: usize) -> Words {
        debug_assert!(self.vnet || header == 0, "a vnet header in a framing without");
        let mut bytes = [0; 2 * WORD];
        // Neither exceeds LONGEST by much, so both fit.
        bytes[..WORD].copy_from_slice(&((header + body) as u32).to_be_bytes());
        bytes[WORD..].copy_from_slice(&(header as u32).to_be_bytes());
        Words { bytes, count: if self.vnet { 2 } else { 1 } }
    }
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + WORD)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The bytes of a stream that have arrived and whose messages have not been taken.
#[derive(Debug)]
pub struct Inbox {
    framing: Framing,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// An empty one that takes in up to `capacity` bytes at once, and always a whole message.
    #[must_use]
    pub fn new(framing: Framing, capacity: usize) -> Self {
        let capacity = capacity.max(LONGEST + 2 * WORD);
        Self { framing, buffer: vec![0; capacity].into(), start: 0, end: 0 }
    }

    /// The next message, and the argument for [`Inbox::take`]; `None` when more bytes are needed.
    ///
    /// # Errors
    /// As [`Framing::decode`].
    #[inline]
    pub fn message(&self) -> Result<Option<(Message<'_>, usize)>, Fault> {
        self.framing.decode(&self.buffer[self.start..self.end])
    }

    /// Ends the message that [`Inbox::message`] has found.
    ///
    /// # Panics
    /// When fewer bytes are there.
    #[inline]
    pub fn take(&mut self, taken: usize) {
        self.start += taken;
        assert!(self.start <= self.end, "more was taken than had arrived");
    }

    /// Where arriving bytes are to be put; not empty once every message was taken.
    pub fn room(&mut self) -> &mut [u8] {
        // What is left is at most the start of one message.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// Says that so many bytes were put into [`Inbox::room`].
    ///
    /// # Panics
    /// When there was not that much room.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.buffer.len(), "more arrived than there was room for");
    }

    /// Bytes that have arrived and were not taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.end - self.start
    }

    /// Forgets everything, for a stream that begins anew.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Framing = Framing { vnet: false };
    const VNET: Framing = Framing { vnet: true };

    type Owned = (Vec<u8>, Vec<u8>);

    fn encode(framing: Framing, messages: &[Owned]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (header, body) in messages {
            stream.extend_from_slice(framing.words(header.len(), body.len()).as_ref());
            stream.extend_from_slice(header);
            stream.extend_from_slice(body);
        }
        stream
    }

    /// Every message of a stream that arrives in pieces of these sizes, and the first fault.
    fn receive(framing: Framing, stream: &[u8], pieces: &[usize]) -> (Vec<Owned>, Option<Fault>) {
        let mut inbox = Inbox::new(framing, 0);
        let mut messages = Vec::new();
        let mut rest = stream;
        let mut pieces = pieces.iter().copied().cycle();
        loop {
            match inbox.message() {
                Err(fault) => return (messages, Some(fault)),
                Ok(Some((message, taken))) => {
                    messages.push((message.header.to_vec(), message.body.to_vec()));
                    inbox.take(taken);
                }
                Ok(None) if rest.is_empty() => return (messages, None),
                Ok(None) => {
                    let room = inbox.room();
                    let count = pieces.next().unwrap_or(1).min(room.len()).min(rest.len());
                    room[..count].copy_from_slice(&rest[..count]);
                    inbox.filled(count);
                    rest = &rest[count..];
                }
            }
        }
    }

    #[test]
    fn a_frame_is_a_length_and_its_bytes() {
        let stream = [0, 0, 0, 3, 7, 8, 9, 0];
        let (message, taken) = PLAIN.decode(&stream).unwrap().unwrap();
        assert_eq!((message.header, message.body, taken), (&[][..], &[7, 8, 9][..], 7));
        assert_eq!(encode(PLAIN, &[(vec![], vec![7, 8, 9])]), stream[..7]);
    }

    #[test]
    fn the_vnet_header_is_inside_the_length() {
        let stream = [0, 0, 0, 3, 0, 0, 0, 2, 7, 8, 9];
        let (message, taken) = VNET.decode(&stream).unwrap().unwrap();
        assert_eq!((message.header, message.body, taken), (&[7, 8][..], &[9][..], 11));
        assert_eq!(encode(VNET, &[(vec![7, 8], vec![9])]), stream);
    }

    #[test]
    fn a_length_that_cannot_be_is_found_before_its_bytes_come() {
        let fault = |framing: Framing, words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            framing.decode(&bytes).err()
        };
        let longest = LONGEST as u32;
        assert_eq!(fault(PLAIN, &[0]), Some(Fault::Empty));
        assert_eq!(fault(VNET, &[0]), Some(Fault::Empty));
        assert_eq!(fault(PLAIN, &[longest]), None);
        let length = longest + 1;
        assert_eq!(fault(PLAIN, &[length]), Some(Fault::TooLong { length }));
        assert_eq!(fault(VNET, &[20, 20]), None);
        for header in [21, u32::MAX] {
            assert_eq!(fault(VNET, &[20, header]), Some(Fault::Header { header, length: 20 }));
        }
        assert_eq!(fault(VNET, &[100, 32]), None);
        assert_eq!(fault(VNET, &[100, 33]), Some(Fault::Header { header: 33, length: 100 }));
    }

    #[test]
    fn the_longest_frame_fits_the_smallest_inbox() {
        for framing in [PLAIN, VNET] {
            let message = (vec![], vec![0xa5; LONGEST]);
            let stream = encode(framing, &[message.clone(), message.clone()]);
            assert_eq!(
                receive(framing, &stream, &[65_536]),
                (vec![message.clone(), message], None)
            );
        }
    }

    #[test]
    fn a_cleared_inbox_begins_anew() {
        let mut inbox = Inbox::new(PLAIN, 0);
        inbox.room()[..6].copy_from_slice(&[0, 0, 0, 9, 1, 2]);
        inbox.filled(6);
        assert_eq!((inbox.message(), inbox.waiting()), (Ok(None), 6));
        inbox.clear();
        inbox.room()[..5].copy_from_slice(&[0, 0, 0, 1, 3]);
        inbox.filled(5);
        assert_eq!(inbox.message().unwrap().unwrap().0.body, [3]);
    }

    fn messages(vnet: bool) -> impl Strategy<Value = Vec<Owned>> {
        let header = vec(any::<u8>(), 0..=if vnet { LONGEST_HEADER } else { 0 });
        let body = prop_oneof![9 => vec(any::<u8>(), 1..200), 1 => vec(any::<u8>(), 1..9000)];
        vec((header, body), 0..12)
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_gives_the_same_frames(
            (vnet, sent) in any::<bool>().prop_flat_map(|vnet| (Just(vnet), messages(vnet))),
            pieces in vec(1usize..3000, 1..20),
        ) {
            let framing = Framing { vnet };
            let stream = encode(framing, &sent);
            prop_assert_eq!(receive(framing, &stream, &pieces), (sent, None));
        }

        #[test]
        fn garbage_gives_the_same_frames_and_the_same_fault_however_it_is_split(
            vnet in any::<bool>(),
            // Small words now and then, or hardly any garbage would look like a frame.
            stream in vec(prop_oneof![3 => Just(0u8), 1 => 0u8..40, 1 => any::<u8>()], 0..600),
            pieces in vec(1usize..50, 1..20),
        ) {
            let framing = Framing { vnet };
            let whole = receive(framing, &stream, &[stream.len().max(1)]);
            prop_assert_eq!(receive(framing, &stream, &pieces), whole);
        }

        #[test]
        fn a_stream_that_is_cut_loses_only_the_frame_that_was_cut(
            sent in messages(true),
            cut in any::<prop::sample::Index>(),
        ) {
            let stream = encode(VNET, &sent);
            let (received, fault) = receive(VNET, &stream[..cut.index(stream.len() + 1)], &[64]);
            prop_assert_eq!(fault, None);
            prop_assert_eq!(&received[..], &sent[..received.len()]);
        }
    }
}
