//! What was sent and what arrived, compared by hash.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::payload::Source;

/// Bytes that are made or hashed at a time.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The SHA-256 of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut digester = Digester::default();
        digester.update(bytes);
        digester.finish()
    }

    /// Of the first `length` bytes that follow from `seed`.
    #[must_use]
    pub fn of_stream(seed: u64, length: u64) -> Self {
        let (mut digester, mut source) = (Digester::default(), Source::new(seed));
        let (mut chunk, mut left) = (vec![0; CHUNK], length);
        while left > 0 {
            let part = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            source.fill(&mut chunk[..part]);
            digester.update(&chunk[..part]);
            left -= part as u64;
        }
        digester.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hashes a stream as it comes.
#[derive(Debug, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Takes in what comes next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that came.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload;

    #[test]
    fn a_stream_has_the_digest_of_its_bytes() {
        let length = CHUNK + 13;
        let bytes = payload::bytes(5, length);
        assert_eq!(Digest::of_stream(5, length as u64), Digest::of(&bytes));
        assert_ne!(Digest::of(&bytes), Digest::of(&payload::with_flipped_byte(&bytes, CHUNK)));
    }

    #[test]
    fn it_is_printed_as_everybody_prints_it() {
        // FIPS 180-4's example.
        let text = Digest::of(b"abc").to_string();
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
