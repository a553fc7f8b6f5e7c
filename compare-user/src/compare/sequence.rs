//! TCP sequence numbers.

/// A TCP sequence or acknowledgement number. Ordered modulo 2^32 (RFC 9293, section 3.4): `a` is
/// before `b` when the way forward from `a` to `b` is shorter than half the number space. A wrap
/// is ordinary traffic.
///
/// It does not implement `Ord`: the order is not transitive over the whole circle.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence(pub(super) u32);

impl Sequence {
    /// Strictly earlier in the stream than `other`.
    pub(super) fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Earlier than or at `other`.
    pub(super) fn at_or_before(self, other: Self) -> bool {
        !other.before(self)
    }

    /// The number `bytes` further on.
    pub(super) fn advanced(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// How many bytes lie between `earlier` and this number.
    pub(super) fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later of the two.
    pub(super) fn later(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
    pub(super) fn earlier(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::Sequence;

    #[test]
    fn order_survives_the_wrap() {
        let before_wrap = Sequence(0xffff_fff0);
        let after_wrap = before_wrap.advanced(0x20);
        assert_eq!(after_wrap, Sequence(0x10));
        assert!(before_wrap.before(after_wrap));
        assert!(!after_wrap.before(before_wrap));
        assert_eq!(after_wrap.distance_from(before_wrap), 0x20);
        assert_eq!(before_wrap.later(after_wrap), after_wrap);
        assert_eq!(before_wrap.earlier(after_wrap), before_wrap);
    }

    #[test]
    fn a_number_is_at_but_not_before_itself() {
        let number = Sequence(7);
        assert!(number.at_or_before(number));
        assert!(!number.before(number));
    }
}
