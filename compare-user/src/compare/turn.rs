//! What holds for the length of one call: the memory, the time, who is told.

use super::clock::Timestamp;
use super::verdict::{Amendment, Discard, Divergence, Release, Side, Sink};
use crate::frame::FrameStore;

/// The surroundings of the rules, so that each of them names one parameter instead of three.
pub(super) trait Turn<F> {
    /// Where the bytes lie.
    type Store: FrameStore<Frame = F>;

    fn store(&self) -> &Self::Store;
    fn now(&self) -> Timestamp;
    fn release(&mut self, frame: F, why: Release, amendment: Amendment);
    fn discard(&mut self, frame: F, side: Side, why: Discard);
    fn diverged(&mut self, divergence: &Divergence<'_, Self::Store>);
    fn checkpoint_wanted(&mut self);
}

/// A call from outside, with what it brought.
pub(super) struct Call<'a, S: FrameStore, K: Sink<S>> {
    pub(super) store: &'a S,
    pub(super) sink: &'a mut K,
    pub(super) now: Timestamp,
}

impl<S: FrameStore, K: Sink<S>> Turn<S::Frame> for Call<'_, S, K> {
    type Store = S;

    #[inline]
    fn store(&self) -> &S {
        self.store
    }

    #[inline]
    fn now(&self) -> Timestamp {
        self.now
    }

    #[inline]
    fn release(&mut self, frame: S::Frame, why: Release, amendment: Amendment) {
        self.sink.release(frame, why, amendment);
    }

    #[inline]
    fn discard(&mut self, frame: S::Frame, side: Side, why: Discard) {
        self.sink.discard(frame, side, why);
    }

    fn diverged(&mut self, divergence: &Divergence<'_, S>) {
        self.sink.diverged(self.store, divergence);
    }

    fn checkpoint_wanted(&mut self) {
        self.sink.checkpoint_wanted();
    }
}
