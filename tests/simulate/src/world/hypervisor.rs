//! Who takes checkpoints, what else happens, and how it all ends.

use std::cmp::Reverse;

use super::event::Event;
use super::{RING, World};
use crate::conversation::Kind;
use crate::endpoint::State;
use crate::meaning::Replica;
use crate::network::Line;
use crate::oracle::{Call, Rule, Verdict};
use crate::scenario::Happening;
use crate::time::{MICROSECOND, MILLISECOND, Time};

impl World {
    pub(super) fn ask_for_checkpoint(&mut self) {
        if !self.checkpoint_asked {
            self.checkpoint_asked = true;
            let answer = self.hypervisor.u64(0..=u64::from(self.scenario.answer)) * MILLISECOND;
            self.at(self.now + answer, Event::CheckpointBegins);
        }
    }

    pub(super) fn checkpoint_begins(&mut self) {
        let periodic = !self.checkpoint_asked;
        if periodic && self.scenario.every > 0 && !self.calm {
            let next = self.now + Time::from(self.scenario.every) * MILLISECOND;
            self.at(next, Event::CheckpointBegins);
        }
        if self.paused || self.oracle.standalone().is_some() {
            return;
        }
        self.say(|| "checkpoint begins".to_owned());
        self.paused = true;
        let lasts = MILLISECOND + self.hypervisor.u64(0..4_000) * MICROSECOND;
        self.at(self.now + lasts, Event::CheckpointDone);
    }

    pub(super) fn copy_to_secondary(&mut self) {
        for flow in &mut self.flows {
            match &mut flow.kind {
                Kind::Stream(it) => it.copy_to_secondary(),
                Kind::Datagrams(it) => it.next[1] = it.next[0],
            }
        }
    }

    pub(super) fn checkpoint_done(&mut self) -> Verdict {
        if !self.paused {
            return Ok(());
        }
        self.checkpoint_asked = false;
        if self.oracle.standalone().is_none() {
            // Only now has it all that it needs; one that is broken off leaves it as it was.
            self.copy_to_secondary();
            self.take_what_waits()?;
            self.call(Call::Checkpoint, &[], |comparator, frames, now, outputs| {
                comparator.checkpoint_done(now, frames, outputs);
            })?;
            self.send();
        }
        self.resume();
        Ok(())
    }

    pub(super) fn take_what_waits(&mut self) -> Verdict {
        for _ in 0..2 * RING {
            if !self.receive_all()? {
                break;
            }
            self.send();
        }
        Ok(())
    }

    /// Both guests go on.
    pub(super) fn resume(&mut self) {
        self.paused = false;
        for event in std::mem::take(&mut self.waiting) {
            self.at(self.now, event);
        }
        self.set_clocks();
    }

    pub(super) fn set_clocks(&mut self) {
        let now = self.now;
        for flow in 0..self.flows.len() as u32 {
            for side in Replica::BOTH {
                if self.dead == Some(side) {
                    continue;
                }
                let conversation = self.flow(flow);
                let dice = &mut conversation.dice[side.index()];
                if let Kind::Stream(it) = &mut conversation.kind {
                    it.guests[side.index()].resume(now, dice);
                    self.set_alarm(side, flow);
                } else {
                    let at = conversation.begins.max(now);
                    self.emit_at(at, side, flow);
                }
            }
        }
    }

    pub(super) fn befall(&mut self, happening: Happening) -> Verdict {
        if self.calm {
            return Ok(());
        }
        self.say(|| format!("{happening:?}"));
        let after = |length: u32| Time::from(length) * MILLISECOND;
        match happening {
            Happening::Checkpoint => self.at(self.now, Event::CheckpointBegins),
            Happening::SecondaryLost(length) => {
                return self.lose(Replica::Secondary, after(length));
            }
            Happening::PrimaryLost(length) => return self.lose(Replica::Primary, after(length)),
            Happening::LinkDown(length) => {
                self.coverage.count("link failures");
                self.link_down = true;
                self.at(self.now + after(length), Event::LinkUp);
            }
            Happening::OutputStalled(length) => {
                self.coverage.count("output stalls");
                self.output_stalled = true;
                self.at(self.now + after(length), Event::OutputGoes);
            }
            Happening::LaneStalled(length) => {
                self.coverage.count("lane stalls");
                self.lane_stalled = true;
                self.at(self.now + after(length), Event::LaneGoes);
            }
            Happening::ShortRings(size) => self.ring_size = size as usize,
        }
        Ok(())
    }

    pub(super) fn lose(&mut self, side: Replica, length: Time) -> Verdict {
        if self.dead.is_some() || self.lane_stalled {
            return Ok(());
        }
        if self.paused {
            // The checkpoint does not come to its end.
            self.resume();
        }
        self.dead = Some(side);
        self.take_what_waits()?;
        let survivor = side.other();
        let to = crate::verdict::side(survivor);
        self.call(Call::Failover(survivor), &[], |comparator, frames, now, outputs| {
            comparator.failover(to, now, frames, outputs);
        })?;
        self.send();
        self.at(self.now + length, Event::Returns);
        Ok(())
    }

    pub(super) fn return_to_comparing(&mut self) -> Verdict {
        let Some(lost) = self.dead.take() else { return Ok(()) };
        for flow in &mut self.flows {
            match &mut flow.kind {
                Kind::Stream(it) => match lost {
                    Replica::Primary => it.copy_to_primary(),
                    Replica::Secondary => it.copy_to_secondary(),
                },
                Kind::Datagrams(it) => it.next[lost.index()] = it.next[lost.other().index()],
            }
        }
        self.checkpoint_asked = false;
        self.call(Call::Rearm, &[], |comparator, _, _, _| comparator.rearm())?;
        self.set_clocks();
        Ok(())
    }

    /// From here on nothing goes wrong: what is under way is gone, the guests are equal, and all that was
    /// begun must end well.
    pub(super) fn become_calm(&mut self) -> Verdict {
        self.say(|| "calm".to_owned());
        self.calm = true;
        (self.link_down, self.output_stalled, self.lane_stalled) = (false, false, false);
        self.ring_size = RING;
        self.send();
        self.take_what_waits()?;
        let events = std::mem::take(&mut self.events);
        let mut kept = Vec::new();
        for Reverse(scheduled) in events.into_sorted_vec().into_iter().rev() {
            match scheduled.event {
                Event::Arrives(_, frame) => {
                    self.frames.remove(frame);
                }
                Event::GuestHears(..)
                | Event::ClientHears(..)
                | Event::CheckpointBegins
                | Event::CheckpointDone
                | Event::Returns
                | Event::Happens(_) => {}
                _ => kept.push(Reverse(scheduled)),
            }
        }
        self.events = kept.into();
        self.waiting.retain(|event| matches!(event, Event::Emit(..)));
        self.return_to_comparing()?;
        for flow in &mut self.flows {
            if let Kind::Stream(it) = &mut flow.kind {
                it.make_equal();
            }
            if let Kind::Datagrams(it) = &mut flow.kind {
                it.plant = None;
            }
        }
        self.copy_to_secondary();
        for lines in &mut self.lines {
            lines.from.iter_mut().chain(&mut lines.to).for_each(Line::calm);
            lines.inbound.calm();
            lines.outbound.calm();
        }
        self.checkpoint_asked = false;
        self.call(Call::Checkpoint, &[], |comparator, frames, now, outputs| {
            comparator.checkpoint_done(now, frames, outputs);
        })?;
        self.oracle.calm();
        self.resume();
        self.send();
        self.need_turn();
        self.need_tick();
        Ok(())
    }

    /// Everything has happened.
    pub(super) fn end(&mut self) -> Verdict {
        for flow in &self.flows {
            if let Kind::Stream(it) = &flow.kind {
                let reset = [&it.guests[0], &it.client].iter().any(|end| end.state == State::Reset);
                if !reset && !it.client.has_said_all() && !self.may_remain_unfinished() {
                    return self.broken(Rule::Liveness, self.unfinished());
                }
                self.coverage.add("streams ended well", u64::from(!reset));
            }
        }
        if self.oracle.held() > 0 {
            return self.broken(Rule::Liveness, self.unfinished());
        }
        self.call(Call::ShutDown, &[], |comparator, frames, now, outputs| {
            comparator.shut_down(now, frames, outputs);
        })?;
        self.send();
        if self.frames.living() != 0 {
            let text = format!("{} frames are nowhere", self.frames.living());
            return self.broken(Rule::Conservation, text);
        }
        Ok(())
    }
}
