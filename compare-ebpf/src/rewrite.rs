//! The arithmetic of the sequence rewriter: offsets, and checksums that follow a change.
//!
//! Sequence numbers and timestamps are plain numbers here, modulo 2^32; what is in a frame is in
//! network byte order.

use crate::{Connection, Handshake};

/// TCP flags, in the byte that holds them (RFC 9293 section 3.1).
pub const FIN: u8 = 0x01;
/// Begins a connection.
pub const SYN: u8 = 0x02;
/// Ends one at once.
pub const RST: u8 = 0x04;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// How far beyond what a SYN-ACK acknowledged its answer may begin: the window in a SYN-ACK is
/// never scaled (RFC 7323 section 2.2).
const UNSCALED_WINDOW: u32 = 65_535;

impl Handshake {
    /// Whether a segment that begins at `sequence` can answer this handshake. Somebody who guesses
    /// addresses and ports must also guess this, or he could plant an offset.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered_by(&self, sequence: u32) -> bool {
        self.flags & Self::PASSIVE == 0
            || sequence.wrapping_sub(self.acknowledged) <= UNSCALED_WINDOW
    }

    /// The offsets that follow from the answer: it acknowledges the primary's SYN, and echoes the
    /// primary's timestamp if there is one.
    #[inline(always)]
    #[must_use]
    pub const fn answered(&self, acknowledgement: u32, echo: Option<u32>) -> Connection {
        let timestamp = match echo {
            Some(echo) if self.flags & Self::TIMESTAMP != 0 => self.timestamp.wrapping_sub(echo),
            _ => 0,
        };
        Connection {
            epoch: self.epoch,
            sequence: self.initial.wrapping_add(1).wrapping_sub(acknowledgement),
            timestamp,
            initial: self.initial,
            seen: 0,
            ended: 0,
        }
    }
}

/// What happened to the bytes that a checksum covers, as a one's complement sum.
///
/// RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')` for each word `m` that became `m'`. The order of
/// bytes in a word does not matter so long as it is the same for all (RFC 1071 section 2), so that
/// words are summed as they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Difference(u32);

impl Difference {
    /// Four bytes at an even (`odd` false) or odd offset became others; both as loaded.
    #[inline(always)]
    pub const fn replace(&mut self, old: u32, new: u32, odd: bool) {
        let old = !old;
        let sum = fold((old & 0xffff) + (old >> 16) + (new & 0xffff) + (new >> 16));
        // At an odd offset every byte counts in the other half of its word.
        let sum = if odd { (sum as u16).swap_bytes() as u32 } else { sum };
        self.0 += sum;
    }

    /// The checksum after the change, as loaded.
    #[inline(always)]
    #[must_use]
    pub const fn applied(self, checksum: u16) -> u16 {
        !(fold((!checksum) as u32 + fold(self.0)) as u16)
    }
}

/// Folds a sum into sixteen bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// The checksum of RFC 1071, over words as a little-endian machine loads them.
    fn checksum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|pair| {
            u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        });
        !(fold(words.fold(0, |sum, word| fold(sum + word))) as u16)
    }

    #[test]
    fn a_checksum_follows_every_change_at_even_and_odd_offsets() {
        let mut state = 0x2545_f491_u32;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        for _ in 0..10_000 {
            let mut bytes: Vec<u8> = (0..44).map(|_| next() as u8).collect();
            let before = checksum(&bytes);
            let mut difference = Difference::default();
            for _ in 0..1 + next() % 11 {
                let at = (next() % 41) as usize;
                let old =
                    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                let new = if next() % 8 == 0 { [0, u32::MAX][next() as usize % 2] } else { next() };
                bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
                difference.replace(old, new, at % 2 == 1);
            }
            let after = difference.applied(before);
            // Zero has two forms in one's complement; either verifies.
            let same = after == checksum(&bytes)
                || (after | checksum(&bytes) == 0xffff && after & checksum(&bytes) == 0);
            assert!(same, "{after:#x} for {:#x}", checksum(&bytes));
        }
    }

    #[test]
    fn an_offset_is_the_difference_of_initial_numbers_across_the_wrap() {
        for (secondary, primary) in [(5, 3), (3, 5), (u32::MAX, 0), (0, u32::MAX), (7, 7)] {
            let handshake = Handshake { initial: secondary, epoch: 9, ..Handshake::default() };
            let connection = handshake.answered(primary.wrapping_add(1), None);
            assert_eq!(connection.sequence, secondary.wrapping_sub(primary));
            assert_eq!((connection.epoch, connection.timestamp), (9, 0));
        }
    }

    #[test]
    fn timestamps_get_an_offset_only_where_both_sides_have_one() {
        let flags = Handshake::TIMESTAMP;
        let with = Handshake { timestamp: 100, flags, ..Handshake::default() };
        assert_eq!(with.answered(0, Some(130)).timestamp, 100_u32.wrapping_sub(130));
        assert_eq!(with.answered(0, None).timestamp, 0);
        assert_eq!(Handshake { flags: 0, ..with }.answered(0, Some(130)).timestamp, 0);
    }

    #[test]
    fn an_answer_to_a_syn_ack_begins_within_the_window_that_it_offered() {
        let passive = |acknowledged| Handshake {
            acknowledged,
            flags: Handshake::PASSIVE,
            ..Handshake::default()
        };
        let near_the_wrap = passive(u32::MAX - 10);
        assert!(near_the_wrap.is_answered_by(u32::MAX - 10));
        assert!(near_the_wrap.is_answered_by(65_535 - 11));
        assert!(!near_the_wrap.is_answered_by(65_535 - 10));
        assert!(!near_the_wrap.is_answered_by(u32::MAX - 11));
        // Of a SYN-ACK that answers the guest's SYN, nothing is known beforehand.
        assert!(Handshake::default().is_answered_by(12_345));
    }
}
