//! What the guests and their clients do.

use super::event::Event;
use super::trace::brief;
use super::{ATTEMPTS, RESET_TOLD, World};
use crate::chance::happens;
use crate::conversation::Kind;
use crate::endpoint::State;
use crate::meaning::{Content, Datagram, Replica, Segment};
use crate::network::Line;
use crate::packet;
use crate::scenario::Gate;
use crate::time::{MILLISECOND, Time};

impl World {
    pub(super) fn stands_still(&self, side: Replica) -> bool {
        self.paused || self.dead == Some(side)
    }

    pub(super) fn guest_hears(&mut self, side: Replica, flow: u32, segment: Box<Segment>) {
        if self.dead == Some(side) {
            return;
        }
        if self.paused {
            self.waiting.push(Event::GuestHears(side, flow, segment));
            return;
        }
        let now = self.now;
        let mut said = Vec::new();
        let conversation = self.flow(flow);
        let dice = &mut conversation.dice[side.index()];
        if let Kind::Stream(it) = &mut conversation.kind {
            it.guests[side.index()].hear(&segment, now, dice, &mut said);
        }
        self.say(|| format!("{side:?} of flow {flow} hears {}", brief(&segment)));
        self.guest_says(side, flow, said);
    }

    pub(super) fn guest_wakes(&mut self, side: Replica, flow: u32) {
        self.alarms[flow as usize].guests[side.index()] = None;
        if self.stands_still(side) {
            return;
        }
        let now = self.now;
        let mut said = Vec::new();
        let conversation = self.flow(flow);
        let dice = &mut conversation.dice[side.index()];
        if let Kind::Stream(it) = &mut conversation.kind
            && it.guests[side.index()].alarm().is_some_and(|at| at <= now)
        {
            it.guests[side.index()].wake(now, dice, &mut said);
        }
        self.guest_says(side, flow, said);
    }

    /// A guest's segments become frames.
    pub(super) fn guest_says(&mut self, side: Replica, flow: u32, said: Vec<Segment>) {
        for mut segment in said {
            let conversation = &mut self.flows[flow as usize];
            let Kind::Stream(it) = &conversation.kind else { return };
            let lineage = it.guests[side.index()].lineage;
            let dice = &mut conversation.dice[side.index()];
            let built = it.frame(&conversation.address, &mut segment, lineage, dice);
            let (wraps, ack_wraps) = it.wraps(&segment);
            self.coverage.add("sequence numbers wrapped", u64::from(wraps));
            self.coverage.add("acknowledgements wrapped", u64::from(ack_wraps));
            self.coverage.add("window probes", u64::from(segment.probe));
            if segment.syn {
                self.lines[flow as usize].from[side.index()].fence();
            }
            self.send_frame(side, flow, Content::Segment(segment), built, None);
        }
        self.set_alarm(side, flow);
    }

    pub(super) fn set_alarm(&mut self, side: Replica, flow: u32) {
        let Kind::Stream(it) = &self.flows[flow as usize].kind else { return };
        let Some(at) = it.guests[side.index()].alarm() else { return };
        let at = at.max(self.now);
        let alarm = &mut self.alarms[flow as usize].guests[side.index()];
        if alarm.is_none_or(|set| at < set) {
            *alarm = Some(at);
            self.at(at, Event::GuestAlarm(side, flow));
        }
    }

    pub(super) fn client_hears(&mut self, flow: u32, segment: &Segment) {
        self.say(|| format!("client of flow {flow} hears {}", brief(segment)));
        let now = self.now;
        let mut said = Vec::new();
        if let Kind::Stream(it) = &mut self.flow(flow).kind {
            it.client.hear(segment, now, &mut it.dice, &mut said);
        }
        self.client_says(flow, said);
    }

    pub(super) fn client_wakes(&mut self, flow: u32) {
        self.alarms[flow as usize].client = None;
        let now = self.now;
        let mut said = Vec::new();
        if let Kind::Stream(it) = &mut self.flow(flow).kind
            && it.client.alarm().is_some_and(|at| at <= now)
        {
            it.client.wake(now, &mut it.dice, &mut said);
        }
        self.client_says(flow, said);
    }

    /// The client's packets pass the mirror, which copies them for both guests.
    pub(super) fn client_says(&mut self, flow: u32, said: Vec<Segment>) {
        for segment in said {
            let passage = self.lines[flow as usize].inbound.send(self.now);
            self.note_passage(passage.arrivals.len(), passage.late, false);
            if segment.syn {
                self.lines[flow as usize].to.iter_mut().for_each(Line::fence);
            }
            if segment.rst && self.scenario.gate == Gate::Slower {
                for &at in &passage.arrivals {
                    self.at(at + RESET_TOLD, Event::ResetTold(flow, at));
                }
            }
            for at in passage.arrivals {
                for side in Replica::BOTH {
                    if side == Replica::Secondary && self.link_down {
                        continue;
                    }
                    let copy = self.lines[flow as usize].to[side.index()].send(at);
                    self.note_passage(copy.arrivals.len(), copy.late, false);
                    for at in copy.arrivals {
                        self.at(at, Event::GuestHears(side, flow, Box::new(segment.clone())));
                    }
                }
            }
        }
        self.client_after(flow);
    }

    /// The client's alarm, and its next connection when this one is over.
    pub(super) fn client_after(&mut self, flow: u32) {
        let Kind::Stream(it) = &self.flows[flow as usize].kind else { return };
        if let Some(at) = it.client.alarm() {
            let at = at.max(self.now);
            let alarm = &mut self.alarms[flow as usize].client;
            if alarm.is_none_or(|set| at < set) {
                *alarm = Some(at);
                self.at(at, Event::ClientAlarm(flow));
            }
        }
    }

    pub(super) fn note_passage(&mut self, arrivals: usize, late: bool, damaged: bool) {
        self.coverage.add("frames lost by the network", u64::from(arrivals == 0));
        self.coverage.add("frames twice", u64::from(arrivals > 1));
        self.coverage.add("frames late", u64::from(late));
        self.coverage.add("frames damaged", u64::from(damaged));
    }

    /// The client takes nothing for a while.
    pub(super) fn shut(&mut self, flow: u32) {
        let now = self.now;
        if let Kind::Stream(it) = &mut self.flow(flow).kind
            && let Some((from, until)) = it.shut
        {
            it.client.shut_until = now + until - from;
        }
    }

    pub(super) fn reopen(&mut self, flow: u32) {
        let now = self.now;
        let mut said = Vec::new();
        if let Kind::Stream(it) = &mut self.flow(flow).kind {
            it.client.reopen(now, &mut said);
        }
        self.client_says(flow, said);
    }

    /// Opens the next connection of a flow, if the one before is over.
    pub(super) fn connect(&mut self, flow: u32) {
        let now = self.now;
        let (paused, dead) = (self.paused, self.dead);
        let Kind::Stream(it) = &mut self.flow(flow).kind else { return };
        let begun = it.client.incarnation.max(it.guests[0].incarnation);
        if it.joined && begun == 0 {
            return self.go_on_joined(flow);
        }
        // One that knows of the end does not wait for the other.
        let over = begun == 0 || it.client.is_done() || it.guests[0].is_done();
        it.attempts += 1;
        if begun >= it.incarnations || it.attempts > ATTEMPTS {
            return;
        }
        if !over || paused && it.active {
            return self.at(now + 50 * MILLISECOND, Event::Connect(flow));
        }
        let next = begun + 1;
        if !it.active {
            let mut said = Vec::new();
            it.client.connect(next, now, &mut it.dice, &mut said);
            self.client_says(flow, said);
        } else {
            if let State::Closed | State::Reset | State::Open = it.client.state {
                it.client.state = State::Listening;
            }
            for side in Replica::BOTH {
                if dead == Some(side) {
                    continue;
                }
                let conversation = self.flow(flow);
                let dice = &mut conversation.dice[side.index()];
                let Kind::Stream(it) = &mut conversation.kind else { return };
                let mut said = Vec::new();
                it.guests[side.index()].connect(next, now, dice, &mut said);
                self.guest_says(side, flow, said);
            }
        }
        self.at(now + 50 * MILLISECOND, Event::Connect(flow));
    }

    /// Both ends of a connection that has been there before go on.
    pub(super) fn go_on_joined(&mut self, flow: u32) {
        let now = self.now;
        let Kind::Stream(it) = &mut self.flow(flow).kind else { return };
        let mut said = Vec::new();
        it.client.wake(now, &mut it.dice, &mut said);
        self.client_says(flow, said);
        for side in Replica::BOTH {
            if self.stands_still(side) {
                continue;
            }
            let conversation = self.flow(flow);
            let dice = &mut conversation.dice[side.index()];
            let Kind::Stream(it) = &mut conversation.kind else { return };
            let mut said = Vec::new();
            it.guests[side.index()].wake(now, dice, &mut said);
            self.guest_says(side, flow, said);
        }
    }

    pub(super) fn emit_at(&mut self, at: Time, side: Replica, flow: u32) {
        let Kind::Datagrams(it) = &mut self.flow(flow).kind else { return };
        if !std::mem::replace(&mut it.due[side.index()], true) {
            self.at(at, Event::Emit(side, flow));
        }
    }

    pub(super) fn emit(&mut self, side: Replica, flow: u32) {
        let (dead, paused) = (self.dead == Some(side), self.paused);
        if paused && !dead {
            return self.waiting.push(Event::Emit(side, flow));
        }
        let conversation = &mut self.flows[flow as usize];
        let dice = &mut conversation.dice[side.index()];
        let Kind::Datagrams(it) = &mut conversation.kind else { return };
        it.due[side.index()] = false;
        if dead {
            return;
        }
        let number = it.next[side.index()];
        if number >= it.count {
            return;
        }
        it.next[side.index()] += 1;
        let noise = happens(dice, it.noise);
        let made = it.frame(&conversation.address, side, number, dice);
        let next = self.now + it.interval + dice.u64(0..=it.jitter);
        if let Some((built, place, identity)) = made {
            let content = Content::Datagram(Datagram { number, identity });
            self.send_frame(side, flow, content, built, place);
        }
        if noise {
            let conversation = &mut self.flows[flow as usize];
            let dice = &mut conversation.dice[side.index()];
            let (content, built) = if dice.bool() {
                (Content::Uncompared, packet::uncompared(&conversation.address, dice))
            } else {
                (Content::Malformed, packet::malformed(&conversation.address, dice))
            };
            self.send_frame(side, flow, content, built, None);
        }
        self.emit_at(next, side, flow);
    }
}
