//! Where streams differ, and what must have happened to them at the end of a call.

use compare_user::compare::Reason;

use crate::frames::Frames;
use crate::meaning::{Replica, Segment};
use crate::oracle::{Oracle, Rule, Verdict};
use crate::said::Meeting;
use crate::scenario::Gate;
use crate::time::{MILLISECOND, Time};
use crate::verdict::{Output, Report};

impl Oracle {
    /// The two streams were said to differ.
    pub(in crate::oracle) fn streams_differ(
        &mut self,
        flow: u32,
        report: &Report,
        frames: &Frames,
    ) -> Verdict {
        match report.reason {
            Reason::Payload => {
                self.coverage.count("reported: payload");
                self.bytes_differ(flow, report, frames)?;
            }
            Reason::StreamEnd => {
                self.coverage.count("reported: stream end");
                self.ends_differ(flow, report, frames)?;
            }
            reason => return self.broken(Rule::Report, format!("{reason:?} of a stream")),
        }
        if let Some(stream) = &mut self.flows[flow as usize].stream {
            stream.blocked = true;
        }
        self.found(flow);
        Ok(())
    }

    pub(in crate::oracle) fn found(&mut self, flow: u32) {
        if self.flows[flow as usize].differing {
            self.coverage.count("differences found");
        }
    }

    fn bytes_differ(&mut self, flow: u32, report: &Report, frames: &Frames) -> Verdict {
        let (Some((ours, our_at)), Some((theirs, their_at))) = (report.primary, report.secondary)
        else {
            return self.broken(Rule::Report, "a difference with one frame only");
        };
        let (our, their) = (frames.meaning(ours), frames.meaning(theirs));
        let (Some(a), Some(b)) = (our.segment(), their.segment()) else {
            return self.broken(Rule::Report, "exhibits of another kind");
        };
        let Some(stream) = &mut self.flows[flow as usize].stream else {
            return self.broken(Rule::FalseDivergence, "nothing was compared");
        };
        let meeting = stream.advance();
        let place = a.start + (our_at as i64 - our.content_at as i64);
        let same = place == b.start + (their_at as i64 - their.content_at as i64);
        let inside = (a.start..a.end).contains(&place) && (b.start..b.end).contains(&place);
        let one = a.incarnation == b.incarnation && a.incarnation == stream.incarnation;
        if !same || !inside || !one || report.offset != (place - stream.origin) as u32 {
            let text = format!("{report:?}: {a:?} {b:?}, origin {}", stream.origin);
            return self.broken(Rule::Report, text);
        }
        let ambiguous = stream.ambiguous;
        if a.flip_at(place) == b.flip_at(place) {
            return self.broken(Rule::FalseDivergence, format!("{a:?} equals {b:?} at {place}"));
        }
        if !ambiguous && meeting != Some(Meeting::Difference(place)) {
            let text = format!("reported at {place}, yet they meet at {meeting:?}");
            return self.broken(Rule::Report, text);
        }
        Ok(())
    }

    fn ends_differ(&mut self, flow: u32, report: &Report, frames: &Frames) -> Verdict {
        // The side that is blamed has ended; the other shows what goes on.
        let (goes_on, shown) = match report.side {
            Replica::Primary => (Replica::Secondary, report.secondary),
            Replica::Secondary => (Replica::Primary, report.primary),
        };
        let Some((frame, _)) = shown else {
            return self.broken(Rule::Report, "a stream that goes on without showing how");
        };
        let Some(segment) = frames.meaning(frame).segment().cloned() else {
            return self.broken(Rule::Report, "exhibits of another kind");
        };
        let Some(stream) = &mut self.flows[flow as usize].stream else {
            return self.broken(Rule::FalseDivergence, "nothing was compared");
        };
        stream.advance();
        let end = match goes_on {
            Replica::Primary => stream.their_end,
            Replica::Secondary => stream.our_end,
        };
        let mark = stream.mark.unwrap_or(i64::MIN);
        let expected = (segment.start.max(mark) - stream.origin) as u32;
        let (origin, ambiguous) = (stream.origin, stream.ambiguous);
        let says_more = !segment.rst && (!segment.is_empty() || segment.fin);
        if !says_more || end.is_none_or(|end| segment.end <= end || end > mark && !ambiguous) {
            let text = format!("{segment:?} does not go beyond {end:?}, compared up to {mark}");
            return self.broken(Rule::FalseDivergence, text);
        }
        if report.offset != expected && !ambiguous {
            let text = format!("offset {} instead of {expected}, origin {origin}", report.offset);
            return self.broken(Rule::Report, text);
        }
        Ok(())
    }

    /// What was held of the connection has been dropped, unless the connection began after the reset.
    pub(in crate::oracle) fn was_reset(
        &mut self,
        flow: u32,
        at: Time,
        outputs: &[Output],
    ) -> Verdict {
        self.coverage.count("resets told");
        let entry = &mut self.flows[flow as usize];
        let Some(stream) = &mut entry.stream else { return Ok(()) };
        let dropped = !outputs.is_empty();
        let later = stream.begun.is_some_and(|begun| begun > at + MILLISECOND);
        let earlier = stream.begun.is_none_or(|begun| begun + MILLISECOND < at);
        if dropped {
            let kept = stream.island;
            stream.ours.keep_only(kept);
            stream.theirs.keep_only(kept);
        }
        let held = entry.held[Replica::Primary.index()].len();
        if dropped && later || earlier && held > 0 {
            let text = format!("flow {flow}: reset at {at}, dropped {dropped}, {held} held");
            return self.broken(Rule::Drop, text);
        }
        Ok(())
    }

    /// At the end of a call: what must have happened has happened.
    pub(in crate::oracle) fn stream_settled(&mut self, flow: u32, frames: &Frames) -> Verdict {
        if self.standalone.is_some() {
            return Ok(());
        }
        let entry = &mut self.flows[flow as usize];
        let Some(stream) = &mut entry.stream else { return Ok(()) };
        let meeting = stream.advance();
        let Some(mark) = stream.mark else { return Ok(()) };
        if stream.waits_for_syn() || stream.ambiguous {
            return Ok(());
        }
        let segments = |side: Replica| -> Vec<(u32, &Segment)> {
            let held = entry.held[side.index()].iter();
            let ahead = &entry.ahead;
            held.filter(|frame| !ahead.contains(frame))
                .filter_map(|&frame| Some((frame, frames.meaning(frame).segment()?)))
                .filter(|held| held.1.incarnation == stream.incarnation)
                .collect()
        };
        let (ours, theirs) = (segments(Replica::Primary), segments(Replica::Secondary));
        let says_beyond = |held: &[(u32, &Segment)], end: Option<i64>| {
            end.is_some_and(|end| {
                end <= mark && held.iter().any(|(_, it)| !it.is_empty() && it.end > mark)
            })
        };
        let differ = matches!(meeting, Some(Meeting::Difference(_)));
        let one_goes_on =
            says_beyond(&ours, stream.their_end) || says_beyond(&theirs, stream.our_end);
        if !stream.blocked && (differ || one_goes_on) {
            stream.blocked = true;
            if !entry.reported {
                let text = format!("flow {flow}: {meeting:?} at {mark}, goes on: {one_goes_on}");
                return self.broken(Rule::Detection, text);
            }
        }
        if stream.blocked {
            return Ok(());
        }
        // Behind one that reaches beyond the mark and begins before it, or came before it, a segment waits
        // its turn.
        let came = |frame: u32| self.inside[frame as usize];
        let hidden = |held: &[(u32, &Segment)], frame: u32, segment: &Segment| {
            held.iter().any(|(other, it)| {
                let is_before = (it.start, came(*other)) < (segment.start, came(frame));
                it.end > mark && is_before && !it.is_bare()
            })
        };
        // With what the primary has waiting stays what has said the beginning of it.
        let slower = self.scenario.gate == Gate::Slower;
        let accompanies = |it: &Segment| {
            slower && ours.iter().any(|(_, ours)| ours.start < it.end && it.end < ours.end)
        };
        let stale = theirs.iter().find(|(frame, it)| {
            it.end <= mark && !it.syn && !hidden(&theirs, *frame, it) && !accompanies(it)
        });
        if let Some((_, segment)) = stale {
            let text = format!("flow {flow}: {segment:?} is kept, compared up to {mark}");
            return self.broken(Rule::Liveness, text);
        }
        let past: Vec<(u32, &Segment)> = ours
            .iter()
            .copied()
            .filter(|(frame, it)| it.is_bare() || it.end <= mark && !hidden(&ours, *frame, it))
            .collect();
        let acknowledged = |it: &Segment| it.rst || it.ack <= stream.their_ack;
        // Bare acknowledgements keep nothing else back.
        let (bare, more): (Vec<_>, Vec<_>) = past.iter().partition(|(_, it)| it.is_bare());
        let ready = |held: &[&(u32, &Segment)]| {
            !held.is_empty() && held.iter().all(|(_, it)| acknowledged(it))
        };
        if ready(&more) || more.is_empty() && ready(&bare) {
            let text = format!(
                "flow {flow}: {:?} may leave, compared up to {mark}, acknowledged {:?}",
                past[0].1, stream.their_ack
            );
            return self.broken(Rule::Liveness, text);
        }
        if past.iter().any(|(_, it)| !acknowledged(it)) {
            self.coverage.count("gates closed");
        }
        Ok(())
    }
}
