//! How a stream arrives: in pieces whose sizes stand in front of it.

/// Input of a stream target: `n`, `n` sizes, the stream. The sizes are used in turn; without any it
/// arrives whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces<'a> {
    sizes: &'a [u8],
    /// What arrives.
    pub(crate) stream: &'a [u8],
}

/// Most sizes: enough for a rhythm that no buffer size is a multiple of.
const MOST: u8 = 7;

impl<'a> Pieces<'a> {
    pub(crate) fn read(input: &'a [u8]) -> Self {
        let Some((&count, rest)) = input.split_first() else {
            return Self { sizes: &[], stream: &[] };
        };
        let (sizes, stream) = rest.split_at(usize::from(count % (MOST + 1)).min(rest.len()));
        Self { sizes, stream }
    }

    /// The same rhythm for another stream.
    pub(crate) fn with(self, stream: &'a [u8]) -> Self {
        Self { stream, ..self }
    }

    /// The sizes for ever. Small ones are exact, larger ones reach past any buffer.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> + 'a {
        let sizes = self.sizes;
        let size = |&size: &u8| match size {
            0..=127 => usize::from(size).max(1),
            _ => usize::from(size - 127) * 551,
        };
        let whole = sizes.is_empty().then_some(usize::MAX).into_iter().cycle();
        sizes.iter().cycle().map(size).chain(whole)
    }

    /// The stream, piece by piece.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut sizes = self.sizes();
        let mut rest = self.stream;
        std::iter::from_fn(move || {
            let (piece, later) = rest.split_at(sizes.next()?.min(rest.len()));
            rest = later;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_take_turns_and_the_pieces_are_the_stream() {
        let pieces: Vec<_> = Pieces::read(&[2, 1, 3, 9, 8, 7, 6, 5]).iter().collect();
        assert_eq!(pieces, [&[9][..], &[8, 7, 6], &[5]]);
    }

    #[test]
    fn without_sizes_there_is_one_piece() {
        assert_eq!(Pieces::read(&[0, 9, 8]).iter().collect::<Vec<_>>(), [&[9, 8][..]]);
        assert_eq!(Pieces::read(&[]).iter().count(), 0);
    }
}
