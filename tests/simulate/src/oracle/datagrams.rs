//! DESIGN.md section 4.2: datagrams.

use compare_user::compare::Reason;

use super::{Oracle, Rule, Verdict};
use crate::frames::Frames;
use crate::meaning::{Content, Meaning, Replica};
use crate::packet::UDP;
use crate::time::{MILLISECOND, Time};
use crate::verdict::Report;

/// A datagram that a flush released; the secondary's copy of it may come late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ghost {
    pub(super) identity: u64,
    pub(super) flushed: Time,
    /// Its flow has not been forgotten since: the comparator must know of it.
    pub(super) sure: bool,
}

impl Ghost {
    fn excuses(&self, identity: u64, arrived: Time, timeout: Time) -> bool {
        self.identity == identity && arrived >= self.flushed && arrived - self.flushed <= timeout
    }
}

impl Oracle {
    pub(super) fn datagram_left(&mut self, flow: u32, place: usize, identity: u64) -> Verdict {
        self.coverage.count("released: matched");
        if place != 0 {
            return self.broken(Rule::Order, "a datagram overtook one of its flow");
        }
        *self.pairs.entry((flow, identity)).or_default() += 1;
        Ok(())
    }

    pub(super) fn datagram_consumed(&mut self, flow: u32, identity: u64) {
        *self.pairs.entry((flow, identity)).or_default() -= 1;
    }

    /// At the end of a call: each of the primary's that left has used up one of the secondary's.
    pub(super) fn datagrams_paired(&mut self) -> Verdict {
        let unpaired = self.pairs.iter().find(|pair| *pair.1 != 0).map(|pair| (*pair.0, *pair.1));
        self.pairs.clear();
        match unpaired {
            Some(((flow, _), count)) => self.broken(
                Rule::Safety,
                format!("flow {flow}: {count} datagrams left more than the secondary has said"),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn late_copy(&mut self, flow: u32, frame: u32, frames: &Frames) -> Verdict {
        let meaning = frames.meaning(frame);
        let (Content::Datagram(datagram), Replica::Secondary) = (&meaning.content, meaning.side)
        else {
            return self.broken(Rule::Drop, format!("{meaning:?} as a late copy"));
        };
        let timeout = self.scenario.timeout();
        let (identity, arrived) = (datagram.identity, meaning.offered);
        let ghosts = &mut self.flows[flow as usize].ghosts;
        match ghosts.iter().position(|ghost| ghost.excuses(identity, arrived, timeout)) {
            Some(at) => {
                ghosts.remove(at);
                Ok(())
            }
            None => self.broken(Rule::Drop, format!("{meaning:?} is no late copy")),
        }
    }

    fn identity(meaning: &Meaning) -> u64 {
        match &meaning.content {
            Content::Datagram(datagram) => datagram.identity,
            _ => 0,
        }
    }

    /// Whether a waiting datagram of the secondary's may still be excused as a late copy.
    fn may_be_late(&self, flow: u32, meaning: &Meaning, surely: bool) -> bool {
        let timeout = self.scenario.timeout();
        let identity = Self::identity(meaning);
        let ghosts = &self.flows[flow as usize].ghosts;
        ghosts
            .iter()
            .filter(|ghost| ghost.sure || !surely)
            .any(|ghost| ghost.excuses(identity, meaning.offered, timeout))
    }

    /// The oldest of the secondary's that waits.
    fn oldest_waiting(&self, flow: u32) -> Option<u32> {
        self.flows[flow as usize].held[Replica::Secondary.index()].first().copied()
    }

    pub(super) fn datagrams_differ(
        &mut self,
        flow: u32,
        report: &Report,
        frames: &Frames,
    ) -> Verdict {
        let what = match report.reason {
            Reason::Payload => "reported: payload",
            Reason::Length => "reported: length",
            _ => return self.broken(Rule::Report, format!("{:?} of datagrams", report.reason)),
        };
        self.coverage.count(what);
        let (Some((ours, our_at)), Some((theirs, their_at))) = (report.primary, report.secondary)
        else {
            return self.broken(Rule::Report, "a difference with one frame only");
        };
        let entry = &self.flows[flow as usize];
        let head = entry.held[Replica::Primary.index()].first().copied();
        if head != Some(ours) || self.oldest_waiting(flow) != Some(theirs) {
            return self.broken(Rule::Report, "it does not show the oldest frames");
        }
        let (our, their) = (frames.meaning(ours), frames.meaning(theirs));
        let waited = self.now - their.offered;
        if waited <= self.scenario.grace() && self.scenario.grace() > 0 {
            return self.broken(Rule::FalseDivergence, "reported within the grace");
        }
        let identity = Self::identity(our);
        let waiting = &entry.held[Replica::Secondary.index()];
        let has_come =
            waiting.iter().any(|&frame| Self::identity(frames.meaning(frame)) == identity);
        // Of those offered together, the one may have come before the other.
        if has_come && !self.offered_together {
            return self.broken(Rule::FalseDivergence, "the secondary has said the same");
        }
        let ghosts: usize = self.flows.iter().map(|flow| flow.ghosts.len()).sum();
        if self.may_be_late(flow, their, true) && ghosts <= self.scenario.limits.held as usize / 2 {
            return self.broken(Rule::FalseDivergence, "a late copy is no divergence");
        }
        let expected = expected_difference(frames, ours, theirs, &entry.address);
        let shown = (report.reason, report.offset as usize, our_at - our.content_at);
        let same_place = our_at - our.content_at == their_at - their.content_at;
        if shown != expected || !same_place {
            return self.broken(Rule::Report, format!("{shown:?} instead of {expected:?}"));
        }
        self.found(flow);
        Ok(())
    }

    pub(super) fn datagrams_settled(&mut self, flow: u32, frames: &Frames) -> Verdict {
        let entry = &self.flows[flow as usize];
        if entry.held.iter().any(Vec::is_empty) {
            self.contested.remove(&flow);
        } else {
            self.contested.insert(flow);
        }
        if self.standalone.is_some() {
            return Ok(());
        }
        let Some(&head) = entry.held[Replica::Primary.index()].first() else { return Ok(()) };
        let waiting = &entry.held[Replica::Secondary.index()];
        let identity = Self::identity(frames.meaning(head));
        if waiting.iter().any(|&frame| Self::identity(frames.meaning(frame)) == identity) {
            return self.broken(Rule::Liveness, format!("flow {flow}: the head has its partner"));
        }
        Ok(())
    }

    /// At a tick: an unmatched head beside frames that have waited longer than the grace has been
    /// reported.
    pub(super) fn datagrams_overdue(&mut self, flow: u32, frames: &Frames) -> Verdict {
        let entry = &self.flows[flow as usize];
        if entry.reported || entry.held[Replica::Primary.index()].is_empty() {
            return Ok(());
        }
        let Some(oldest) = self.oldest_waiting(flow) else { return Ok(()) };
        let meaning = frames.meaning(oldest);
        // A flow is looked at again when a grace has passed since it was looked at.
        let limit = 2 * self.scenario.grace() + MILLISECOND;
        if self.now - meaning.offered > limit && !self.may_be_late(flow, meaning, false) {
            return self.broken(Rule::Detection, format!("flow {flow}: {meaning:?} still waits"));
        }
        Ok(())
    }
}

/// Where two datagrams differ: reason, offset as an operator counts it, offset in what is compared.
fn expected_difference(
    frames: &Frames,
    ours: u32,
    theirs: u32,
    address: &crate::meaning::Address,
) -> (Reason, usize, usize) {
    let [a, b] = [ours, theirs].map(|frame| {
        let meaning = frames.meaning(frame);
        &frames.bytes(frame)[meaning.content_at..meaning.content_end]
    });
    let is_udp = address.protocol == UDP && !address.fragment;
    let places = [ours, theirs].map(|frame| frames.meaning(frame).place);
    if a.len() != b.len() || places[0] != places[1] {
        return (Reason::Length, 0, 0);
    }
    let hole = if is_udp { Some(2) } else { crate::packet::hole(address, places[0], a.len()) };
    let in_hole = |at: usize| hole.is_some_and(|hole| (hole..hole + 2).contains(&at));
    let at = (0..a.len()).find(|&at| a[at] != b[at] && !in_hole(at)).unwrap_or(usize::MAX);
    let header = if is_udp { 4 } else { 0 };
    (Reason::Payload, at.saturating_sub(header), at)
}
