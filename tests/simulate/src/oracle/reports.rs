//! Divergences, timeouts and requests.

use compare_user::compare::Reason;

use super::{Arrivals, Call, Oracle, Rule, Verdict};
use crate::frames::Frames;
use crate::meaning::Replica;
use crate::scenario::Happening;
use crate::time;
use crate::verdict::{Output, Report};

impl Oracle {
    /// Whether a report that something was full is followed by a drop in the same call.
    pub(super) fn is_full(&self, reason: Reason, arrivals: &Arrivals) -> bool {
        matches!(reason, Reason::QueueFull | Reason::Memory | Reason::FlowTable)
            && !arrivals.lost.is_empty()
    }

    pub(super) fn diverged(
        &mut self,
        report: &Report,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        let Some(&flow) = self.by_key.get(&report.key) else {
            return self.broken(Rule::Report, format!("no such flow: {}", report.key));
        };
        self.touch(flow);
        // Of one that is cut off, a guest may have said more than the other when it heard of it.
        let excused = self.flows[flow as usize].cut_off || self.overflowed;
        let strict = self.calm && self.must_end_well() && !self.may_lack_partners(report);
        if strict && !excused {
            return self
                .broken(Rule::FalseDivergence, format!("{report:?} although nothing goes wrong"));
        }
        if !excused && (self.scenario.is_calm() || self.scenario.is_recoverable()) {
            return self.broken(
                Rule::FalseDivergence,
                format!("{report:?} although the guests say the same"),
            );
        }
        if report.reason == Reason::FlowTable {
            self.coverage.count("reported: full flow table");
            return match self.is_full(report.reason, arrivals) {
                true => Ok(()),
                false => self.broken(Rule::FalseDivergence, "the flow table is not full"),
            };
        }
        let entry = &mut self.flows[flow as usize];
        if std::mem::replace(&mut entry.reported, true) {
            return self.broken(Rule::Request, format!("{} was reported twice", report.key));
        }
        for (side, shown) in
            [(Replica::Primary, report.primary), (Replica::Secondary, report.secondary)]
        {
            let Some((frame, at)) = shown else { continue };
            let meaning = frames.meaning(frame);
            if self.inside[frame as usize] == 0 || meaning.flow != flow || meaning.side != side {
                return self
                    .broken(Rule::Report, format!("{meaning:?} is no exhibit of this flow"));
            }
            if at > frames.bytes(frame).len() {
                return self.broken(Rule::Report, "an exhibit beyond its frame");
            }
        }
        match report.reason {
            Reason::QueueFull | Reason::Memory => {
                let queue = report.reason == Reason::QueueFull;
                self.coverage.count(if queue {
                    "reported: full queue"
                } else {
                    "reported: full memory"
                });
                if !self.is_full(report.reason, arrivals) {
                    return self.broken(Rule::FalseDivergence, "nothing is full");
                }
                Ok(())
            }
            Reason::Timeout => self.timed_out(flow, report, frames),
            _ if self.flows[flow as usize].address.protocol == crate::packet::TCP
                && !self.flows[flow as usize].address.fragment =>
            {
                self.streams_differ(flow, report, frames)
            }
            _ => self.datagrams_differ(flow, report, frames),
        }
    }

    pub(super) fn timed_out(&mut self, flow: u32, report: &Report, frames: &Frames) -> Verdict {
        self.coverage.count("reported: timeout");
        let shown = match report.side {
            Replica::Primary => report.primary,
            Replica::Secondary => report.secondary,
        };
        let Some((frame, _)) = shown else {
            return self.broken(Rule::Report, "a timeout without the frame that waited");
        };
        let meaning = frames.meaning(frame);
        let waited = self.now - meaning.offered;
        if waited < self.scenario.timeout() {
            return self.broken(
                Rule::FalseDivergence,
                format!("a timeout after {} only", time::shown(waited)),
            );
        }
        if u128::from(waited) != report.waited.as_nanos() {
            return self.broken(Rule::Report, "it waited for another time than it says");
        }
        if let Some(segment) = meaning.segment()
            && let Some(stream) = &self.flows[flow as usize].stream
            && stream.incarnation == segment.incarnation
            && !segment.syn
        {
            let expected = (segment.start - stream.origin) as u32;
            if stream.mark.is_some() && report.offset != expected {
                let text = format!("offset {} instead of {expected}", report.offset);
                return self.broken(Rule::Report, text);
            }
        }
        Ok(())
    }

    /// Whether everything must end well now that nothing goes wrong any more: limits that are reached
    /// in ordinary traffic, and flows that are forgotten in the middle, are something that goes wrong.
    pub(super) fn must_end_well(&self) -> bool {
        let limits = self.scenario.limits;
        limits.queue >= 1024 && limits.held >= 24_576 && !self.flows_are_scarce()
    }

    /// What was released uncompared before comparing began again is not said again by the guests once the
    /// client has it. Where the primary, first seen in the middle, began by repeating some of it or its SYN,
    /// the rest is a gap that nobody closes.
    pub(super) fn may_lack_partners(&self, report: &Report) -> bool {
        let fails_over = self.scenario.happenings.iter().any(|(_, happening)| {
            matches!(happening, Happening::SecondaryLost(_) | Happening::PrimaryLost(_))
        });
        // A guest that says its bytes one acknowledgement at a time takes longer than a short timeout to
        // repeat what was lost before.
        let is_short = self.scenario.limits.timeout < 3_000;
        (fails_over || is_short) && report.reason == Reason::Timeout
    }

    pub(super) fn flows_are_scarce(&self) -> bool {
        (self.scenario.limits.flows as usize) < 2 * self.flows.len()
    }

    pub(super) fn requests(&mut self, call: Call, outputs: &[Output]) -> Verdict {
        let mut repeated = false;
        if call == Call::Tick
            && let Some(asked) = self.outstanding
            && self.now - asked >= self.scenario.request()
        {
            repeated = true;
        }
        let divergences = outputs.iter().filter(|it| matches!(it, Output::Diverged(_))).count();
        let wanted = outputs.iter().filter(|it| matches!(it, Output::Wanted)).count();
        let first = self.outstanding.is_none() && divergences > 0;
        let expected = usize::from(first) + usize::from(repeated);
        if wanted != expected {
            return self.broken(
                Rule::Request,
                format!("{wanted} requests in {call:?}, {divergences} divergences, {expected} due"),
            );
        }
        self.coverage.add("requests", wanted as u64);
        self.coverage.add("requests repeated", u64::from(repeated));
        if wanted > 0 {
            self.outstanding = Some(self.now);
        }
        Ok(())
    }

    /// What has waited too long must have been reported.
    pub(super) fn overdue(&mut self, frames: &Frames) -> Verdict {
        while let Some(&(offered, frame)) = self.age.front() {
            let inside = self.inside[frame as usize] != 0;
            if inside && self.now - offered < self.scenario.timeout() {
                return Ok(());
            }
            self.age.pop_front();
            if inside {
                self.coverage.count("timeouts due");
                let meaning = frames.meaning(frame);
                if !self.flows[meaning.flow as usize].reported {
                    return self.broken(Rule::Timeout, format!("nothing said of {meaning:?}"));
                }
            }
        }
        Ok(())
    }
}
