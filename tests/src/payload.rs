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

/// `length` bytes that look random and are the same for the same seed.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut generator = Seed::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&generator.step().to_le_bytes());
    }
    bytes.truncate(length);
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
