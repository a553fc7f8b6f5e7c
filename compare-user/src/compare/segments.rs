//! The segments of one side of a TCP flow, by sequence number.
//!
//! Segments arrive in order nearly always: those go to the back of a queue. A segment that
//! arrives behind its place goes to a pairing heap of stragglers (insert O(1), remove-first
//! O(log n) amortised), so that a reordered window of any size costs about what an ordered one
//! does. The first segment is the earlier of the two fronts.

use super::held::{Held, List, NIL, Slab};

/// One side's segments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segments {
    in_order: List,
    /// Root of the heap of stragglers.
    stragglers: u32,
}

impl Segments {
    pub(super) const EMPTY: Self = Self { in_order: List::EMPTY, stragglers: NIL };

    pub(super) fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.stragglers == NIL
    }

    /// Adds a held segment at its place.
    #[inline]
    pub(super) fn insert<F>(&mut self, slab: &mut Slab<F>, record: u32) {
        let tail = self.in_order.tail;
        let start = slab.get(record).segment.start;
        if tail == NIL || slab.get(tail).segment.start.at_or_before(start) {
            slab.enqueue(&mut self.in_order, record);
        } else {
            slab.get_mut(record).tree.previous = NIL;
            slab.get_mut(record).tree.next = NIL;
            self.stragglers = meld(slab, self.stragglers, record);
        }
    }

    /// The segment with the lowest sequence number; of equals the one that arrived first.
    #[inline]
    pub(super) fn first<F>(&self, slab: &Slab<F>) -> Option<u32> {
        match (self.in_order.head, self.stragglers) {
            (NIL, NIL) => None,
            (head, NIL) => Some(head),
            (NIL, root) => Some(root),
            (head, root) if goes_first(slab.get(root), slab.get(head)) => Some(root),
            (head, _) => Some(head),
        }
    }

    /// The last of those in order.
    pub(super) fn last(&self) -> Option<u32> {
        Some(self.in_order.tail).filter(|&tail| tail != NIL)
    }

    /// The front of those in order; `NIL` if there are none.
    pub(super) fn front(&self) -> u32 {
        self.in_order.head
    }

    /// Takes out one of those in order; it stays held.
    pub(super) fn remove_in_order<F>(&mut self, slab: &mut Slab<F>, record: u32) {
        slab.dequeue(&mut self.in_order, record);
    }

    /// Takes the first segment out; it stays held.
    #[inline]
    pub(super) fn remove_first<F>(&mut self, slab: &mut Slab<F>) -> Option<u32> {
        let first = self.first(slab)?;
        if first == self.stragglers {
            let children = slab.get(first).tree.previous;
            self.stragglers = meld_siblings(slab, children);
        } else {
            slab.dequeue(&mut self.in_order, first);
        }
        Some(first)
    }
}

fn goes_first<F>(a: &Held<F>, b: &Held<F>) -> bool {
    if a.segment.start == b.segment.start {
        a.arrived < b.arrived
    } else {
        a.segment.start.before(b.segment.start)
    }
}

/// Joins two heaps; `tree.previous` is a root's first child, `tree.next` a child's sibling.
fn meld<F>(slab: &mut Slab<F>, a: u32, b: u32) -> u32 {
    if a == NIL {
        return b;
    }
    if b == NIL {
        return a;
    }
    let (root, child) = if goes_first(slab.get(b), slab.get(a)) { (b, a) } else { (a, b) };
    slab.get_mut(child).tree.next = slab.get(root).tree.previous;
    slab.get_mut(root).tree.previous = child;
    root
}

/// Joins the children of a removed root: pairs from left to right, then the pairs from right to
/// left. Without recursion, as a heap may be as long as the queue limit.
fn meld_siblings<F>(slab: &mut Slab<F>, mut child: u32) -> u32 {
    let mut pairs = NIL;
    while child != NIL {
        let partner = slab.get(child).tree.next;
        let rest = if partner == NIL { NIL } else { slab.get(partner).tree.next };
        slab.get_mut(child).tree.next = NIL;
        if partner != NIL {
            slab.get_mut(partner).tree.next = NIL;
        }
        let pair = meld(slab, child, partner);
        slab.get_mut(pair).tree.next = pairs;
        pairs = pair;
        child = rest;
    }
    let mut root = NIL;
    while pairs != NIL {
        let next = slab.get(pairs).tree.next;
        slab.get_mut(pairs).tree.next = NIL;
        root = meld(slab, root, pairs);
        pairs = next;
    }
    root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::clock::Timestamp;
    use super::super::content::Span;
    use super::super::held::{Arrival, Segment};
    use super::super::sequence::Sequence;
    use super::super::verdict::{Checksum, Side};
    use super::*;

    proptest! {
        #[test]
        fn segments_come_out_in_stream_order_across_the_wrap(
            offsets in proptest::collection::vec(0u32..5000, 1..300),
            removals in proptest::collection::vec(any::<bool>(), 300),
        ) {
            let base = Sequence(u32::MAX - 2000);
            let mut slab = Slab::new(512);
            let mut segments = Segments::EMPTY;
            let mut model: Vec<(u32, usize)> = Vec::new();
            for (arrived, &offset) in offsets.iter().enumerate() {
                let start = base.advanced(offset);
                let record = slab.hold(Arrival {
                    frame: (offset, arrived),
                    side: Side::Secondary,
                    flow: 0,
                    now: Timestamp::after_origin(std::time::Duration::from_nanos(arrived as u64)),
                    span: Span::default(),
                    segment: Segment { start, end: start.advanced(1), ..Segment::default() },
                    checksum: Checksum::AsFound,
                });
                segments.insert(&mut slab, record);
                model.push((offset, arrived));
                if removals[arrived] {
                    let first = segments.remove_first(&mut slab).expect("one was inserted");
                    let smallest = *model.iter().min().expect("one was inserted");
                    prop_assert_eq!(slab.take(first), smallest);
                    model.retain(|entry| *entry != smallest);
                }
            }
            model.sort_unstable();
            let mut left = Vec::new();
            while let Some(first) = segments.remove_first(&mut slab) {
                left.push(slab.take(first));
            }
            prop_assert_eq!(left, model);
            prop_assert!(segments.is_empty());
            prop_assert_eq!(slab.frames(), 0);
        }
    }
}
