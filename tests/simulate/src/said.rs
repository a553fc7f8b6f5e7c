//! What one side has said of a stream, byte by byte.

use crate::endpoint::insert;
use crate::meaning::Segment;

/// Bytes that have come, as agreed on or differently. Of one place both may have come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// As agreed on: ordered intervals, apart.
    clean: Vec<(i64, i64)>,
    /// Differently: place and difference.
    flipped: Vec<(i64, u8)>,
}

impl Said {
    pub(crate) fn add(&mut self, segment: &Segment) {
        let mut from = segment.start;
        let mut flips = segment.flips.clone();
        flips.sort_unstable();
        for (place, difference) in flips {
            insert(&mut self.clean, from, place);
            from = place + 1;
            if !self.flipped.contains(&(place, difference)) {
                self.flipped.push((place, difference));
            }
        }
        insert(&mut self.clean, from, segment.end);
    }

    /// What is below has been compared and is of no more interest.
    pub(crate) fn forget_below(&mut self, place: i64) {
        self.flipped.retain(|flip| flip.0 >= place);
        let past = self.clean.partition_point(|interval| interval.1 <= place);
        self.clean.drain(..past);
        if let Some(first) = self.clean.first_mut() {
            first.0 = first.0.max(place);
        }
    }

    /// What is above was never seen, but for `kept`.
    pub(crate) fn keep_only(&mut self, kept: Option<(i64, i64)>) {
        self.flipped.clear();
        self.clean = kept.into_iter().collect();
    }

    /// The first place from `place` on of which something different was said.
    fn next_flip(&self, place: i64) -> i64 {
        let places = self.flipped.iter().map(|flip| flip.0).filter(|at| *at >= place);
        places.min().unwrap_or(i64::MAX)
    }

    /// How far from `place` on all was said as agreed on.
    fn clean_until(&self, place: i64) -> Option<i64> {
        let at = self.clean.partition_point(|interval| interval.1 <= place);
        self.clean.get(at).filter(|interval| interval.0 <= place).map(|interval| interval.1)
    }

    /// What was said at `place`: differences, zero for none.
    fn values(&self, place: i64) -> Vec<u8> {
        let mut values: Vec<u8> =
            self.flipped.iter().filter(|flip| flip.0 == place).map(|flip| flip.1).collect();
        if self.clean_until(place).is_some() {
            values.push(0);
        }
        values
    }

    /// Whether anything was said beyond `place`.
    pub(crate) fn reaches_beyond(&self, place: i64) -> bool {
        self.clean.last().is_some_and(|interval| interval.1 > place)
            || self.flipped.iter().any(|flip| flip.0 >= place)
    }

    /// Whether all of a segment was said as the segment has it.
    pub(crate) fn has(&self, segment: &Segment) -> bool {
        let mut from = segment.start;
        let mut flips = segment.flips.clone();
        flips.sort_unstable();
        for (place, difference) in flips.into_iter().chain([(segment.end, 0)]) {
            if from < place && self.clean_until(from).is_none_or(|until| until < place) {
                return false;
            }
            if place < segment.end && !self.flipped.contains(&(place, difference)) {
                return false;
            }
            from = place + 1;
        }
        true
    }
}

/// What two sides say from a place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// Equal up to here; then one of them has not been heard.
    Gap(i64),
    /// Equal up to here, and different here.
    Difference(i64),
}

/// Compares two sides. The second value is true if one of them was heard to say two different things at
/// some place: then it depends on which came first, and the later end is returned.
pub(crate) fn meet(ours: &Said, theirs: &Said, mut place: i64) -> (Meeting, bool) {
    let mut ambiguous = false;
    loop {
        let flip = ours.next_flip(place).min(theirs.next_flip(place));
        if flip > place {
            let (Some(a), Some(b)) = (ours.clean_until(place), theirs.clean_until(place)) else {
                return (Meeting::Gap(place), ambiguous);
            };
            place = a.min(b).min(flip);
            continue;
        }
        let (a, b) = (ours.values(place), theirs.values(place));
        if a.is_empty() || b.is_empty() {
            return (Meeting::Gap(place), ambiguous);
        }
        if !a.iter().any(|value| b.contains(value)) {
            return (Meeting::Difference(place), ambiguous);
        }
        ambiguous |= a.len() > 1 || b.len() > 1;
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start: i64, end: i64, flips: &[(i64, u8)]) -> Segment {
        Segment { start, end, flips: flips.to_vec(), ..Segment::default() }
    }

    fn said(segments: &[Segment]) -> Said {
        let mut said = Said::default();
        segments.iter().for_each(|segment| said.add(segment));
        said
    }

    #[test]
    fn two_sides_meet_up_to_a_gap_or_a_difference() {
        let ours = said(&[segment(0, 10, &[]), segment(10, 30, &[])]);
        assert_eq!(meet(&ours, &said(&[segment(0, 25, &[])]), 0), (Meeting::Gap(25), false));
        let theirs = said(&[segment(0, 25, &[(12, 4)])]);
        assert_eq!(meet(&ours, &theirs, 0), (Meeting::Difference(12), false));
        assert_eq!(meet(&theirs, &theirs, 0), (Meeting::Gap(25), false));
        let both = said(&[segment(0, 25, &[(12, 4)]), segment(0, 25, &[])]);
        assert_eq!(meet(&ours, &both, 0), (Meeting::Gap(25), true));
    }

    #[test]
    fn a_segment_is_had_when_every_byte_is() {
        let mut said = said(&[segment(0, 10, &[(5, 1)])]);
        assert!(said.has(&segment(0, 5, &[])));
        assert!(!said.has(&segment(0, 6, &[])));
        assert!(said.has(&segment(0, 10, &[(5, 1)])));
        assert!(!said.has(&segment(8, 11, &[])));
        said.forget_below(7);
        assert!(said.has(&segment(7, 10, &[])));
        assert!(!said.has(&segment(6, 10, &[])));
    }
}
