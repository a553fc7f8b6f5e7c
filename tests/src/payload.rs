//! Deterministic bytes and orders from a seed.

/// A small generator with a full period (Steele, Lea, Flood 2014: splitmix64).
#[derive(Debug, Clone)]
pub struct Seed(u64);

impl Seed {
    /// A generator whose every output follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.step() % bound as u64) as usize
    }

    /// Puts `items` into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Lengths between 1 and `largest` that add up to `total`.
    pub fn cuts(&mut self, total: usize, largest: usize) -> Vec<usize> {
        let mut left = total;
        let mut lengths = Vec::new();
        while left > 0 {
            let length = 1 + self.below(largest.min(left));
            lengths.push(length);
            left -= length;
        }
        lengths
    }
}

/// The endless stream that [`bytes`] takes its bytes from, piece by piece.
#[derive(Debug, Clone)]
pub struct Source {
    generator: Seed,
    word: [u8; 8],
    used: usize,
}

impl Source {
    /// The stream that follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { generator: Seed::new(seed), word: [0; 8], used: 8 }
    }

    /// Fills `piece` with what comes next.
    pub fn fill(&mut self, piece: &mut [u8]) {
        let left = (8 - self.used).min(piece.len());
        let (start, rest) = piece.split_at_mut(left);
        start.copy_from_slice(&self.word[self.used..self.used + left]);
        self.used += left;
        let (words, end) = rest.as_chunks_mut::<8>();
        for word in words {
            *word = self.generator.step().to_le_bytes();
        }
        if !end.is_empty() {
            self.word = self.generator.step().to_le_bytes();
            self.used = end.len();
            end.copy_from_slice(&self.word[..end.len()]);
        }
    }
}

/// `length` bytes that look random and are the same for the same seed.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Source::new(seed).fill(&mut bytes);
    bytes
}

/// `bytes` with the byte at `at` replaced by another value.
///
/// # Panics
/// When `at` lies beyond the end.
#[must_use]
pub fn with_flipped_byte(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut other = bytes.to_vec();
    other[at] ^= 0x5a;
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(bytes(1, 100), bytes(1, 100));
        assert_ne!(bytes(1, 100), bytes(2, 100));
        assert_eq!(bytes(1, 100)[..50], bytes(1, 50)[..]);
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let whole = bytes(3, 10_000);
        for cuts in [vec![10_000], vec![1; 10_000], Seed::new(4).cuts(10_000, 100)] {
            let (mut source, mut joined) = (Source::new(3), Vec::new());
            for cut in cuts {
                let mut piece = vec![0; cut];
                source.fill(&mut piece);
                joined.extend(piece);
            }
            assert!(joined == whole);
        }
    }

    #[test]
    fn cuts_add_up_and_shuffling_keeps_every_item() {
        let mut seed = Seed::new(7);
        let lengths = seed.cuts(10_000, 1448);
        assert_eq!(lengths.iter().sum::<usize>(), 10_000);
        assert!(lengths.iter().all(|length| (1..=1448).contains(length)));

        let mut order: Vec<usize> = (0..100).collect();
        seed.shuffle(&mut order);
        assert!(!order.is_sorted());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
