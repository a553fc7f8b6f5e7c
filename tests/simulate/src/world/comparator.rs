//! The way to the comparator, and what it says.

use compare_user::compare::{Comparator, Timestamp};
use compare_user::frame::FlowKey;

use super::event::Event;
use super::trace::{shown_content, shown_meaning};
use super::{OUTBOX, RING, TICK, World};
use crate::frames::{Frame, Frames};
use crate::meaning::{Content, Meaning, Replica};
use crate::oracle::{Call, Verdict, Violation};
use crate::packet::{Built, Place};
use crate::time::{MICROSECOND, Time, shown};
use crate::verdict::{Output, Outputs, side};

impl World {
    pub(super) fn send_frame(
        &mut self,
        side: Replica,
        flow: u32,
        content: Content,
        built: Built,
        place: Option<Place>,
    ) {
        let passage = self.lines[flow as usize].from[side.index()].send(self.now);
        self.note_passage(passage.arrivals.len(), passage.late, passage.damage.is_some());
        let lost = side == Replica::Secondary && self.link_down;
        self.say(|| {
            let when: Vec<_> = passage.arrivals.iter().map(|at| shown(*at)).collect();
            let damaged = if passage.damage.is_some() { " damaged" } else { "" };
            format!(
                "{side:?} of flow {flow} says {}: arrives {when:?}{damaged}",
                shown_content(&content)
            )
        });
        if passage.arrivals.is_empty() || lost {
            return;
        }
        let meaning = Meaning {
            side,
            flow,
            content,
            place,
            content_at: built.content_at,
            content_end: built.content_end,
            partial_checksum: built.partial_checksum,
            offered: 0,
        };
        let frame = self.frames.add(built.bytes, meaning);
        if let Some((where_, difference)) = passage.damage {
            self.damage(&frame, where_, difference);
        }
        let copies: Vec<Frame> =
            passage.arrivals[1..].iter().map(|_| self.frames.copy(&frame)).collect();
        for (at, frame) in passage.arrivals.into_iter().zip([frame].into_iter().chain(copies)) {
            self.at(at, Event::Arrives(side, frame));
        }
    }

    /// The network changes a byte of a segment's payload. Its checksum would tell the client; the
    /// comparator does not look at it.
    pub(super) fn damage(&mut self, frame: &Frame, where_: u64, difference: u8) {
        let meaning = self.frames.meaning_mut(frame.0);
        let at = meaning.content_at;
        if let Content::Segment(segment) = &mut meaning.content
            && !segment.is_empty()
        {
            let length = (segment.end - segment.start) as u64;
            let offset = (where_ % length) as i64;
            let place = segment.start + offset;
            let was = segment.flip_at(place);
            segment.flips.retain(|flip| flip.0 != place);
            if was ^ difference != 0 {
                segment.flips.push((place, was ^ difference));
            }
            segment.damaged = true;
            self.frames.damage(frame, at + offset as usize, difference);
        }
    }

    pub(super) fn arrives(&mut self, side: Replica, frame: Frame) {
        if side == Replica::Secondary && self.link_down {
            self.frames.remove(frame);
            return;
        }
        let ring = &mut self.rings[side.index()];
        if ring.len() >= self.ring_size {
            self.frames.remove(frame);
            self.coverage.count("frames dropped at a ring");
            if self.ring_size == RING {
                self.oracle.overflowed();
            }
            return;
        }
        ring.push_back(frame);
        self.need_turn();
    }

    pub(super) fn need_turn(&mut self) {
        let waits = self.rings.iter().any(|ring| !ring.is_empty());
        if waits && !self.turn_due && !self.lane_stalled {
            self.turn_due = true;
            let at = self.now + self.lane.u64(0..40) * MICROSECOND;
            self.at(at, Event::Turn);
        }
    }

    pub(super) fn need_tick(&mut self) {
        let busy = self.oracle.held() > 0 || self.comparator.checkpoint_outstanding();
        if busy && !self.tick_due && !self.lane_stalled {
            self.tick_due = true;
            self.at(self.now / TICK * TICK + TICK, Event::Tick);
        }
    }

    /// As the lane does: a batch of each port.
    pub(super) fn turn(&mut self) -> Verdict {
        self.turn_due = false;
        if self.lane_stalled {
            return Ok(());
        }
        self.receive_all()?;
        self.send();
        self.need_turn();
        self.need_tick();
        Ok(())
    }

    /// False if there was nothing to take.
    pub(super) fn receive_all(&mut self) -> Result<bool, Violation> {
        let mut worked = false;
        for side in Replica::BOTH {
            if side == Replica::Primary && self.outbox.len() >= OUTBOX {
                continue;
            }
            let ring = &mut self.rings[side.index()];
            let batch: Vec<_> = ring.drain(..ring.len().min(self.scenario.batch)).collect();
            if !batch.is_empty() {
                worked = true;
                self.offer(side, batch)?;
            }
        }
        Ok(worked)
    }

    pub(super) fn timestamp(&self) -> Timestamp {
        Timestamp::after_origin(std::time::Duration::from_nanos(self.now))
    }

    pub(super) fn offer(&mut self, from: Replica, mut batch: Vec<Frame>) -> Verdict {
        let offered: Vec<u32> = batch.iter().map(|frame| frame.0).collect();
        for &frame in &offered {
            self.frames.meaning_mut(frame).offered = self.now;
        }
        self.call(Call::Offer(from), &offered, |comparator, frames, now, outputs| {
            if batch.len() == 1 {
                let frame = batch.pop().expect("there is one");
                comparator.offer(side(from), frame, now, frames, outputs);
            } else {
                comparator.offer_batch(side(from), &mut batch, now, frames, outputs);
            }
        })
    }

    /// Calls the comparator, has the oracle judge what it says, and carries it out.
    pub(super) fn call(
        &mut self,
        call: Call,
        offered: &[u32],
        ask: impl FnOnce(&mut Comparator<Frame>, &Frames, Timestamp, &mut Outputs),
    ) -> Verdict {
        self.steps += 1;
        let now = self.timestamp();
        let mut outputs = Outputs::default();
        ask(&mut self.comparator, &self.frames, now, &mut outputs);
        let outputs = outputs.0;
        if self.trace.is_some() && (call != Call::Tick || !outputs.is_empty()) {
            self.trace_call(call, offered, &outputs);
        }
        self.oracle.judge(call, offered, &outputs, &self.frames, self.now)?;
        let counters = self.comparator.counters();
        self.oracle.audit(&counters, self.comparator.checkpoint_outstanding())?;
        if self.oracle.has_evicted(&counters) || self.steps.is_multiple_of(512) {
            self.compare_flows()?;
        }
        self.carry_out(outputs);
        Ok(())
    }

    pub(super) fn trace_call(&mut self, call: Call, offered: &[u32], outputs: &[Output]) {
        let mut lines = vec![format!("{call:?}")];
        for &frame in offered {
            lines.push(format!("  takes {frame}: {}", shown_meaning(self.frames.meaning(frame))));
        }
        for output in outputs {
            lines.push(match output {
                Output::Released(frame, why, amendment) => {
                    format!(
                        "  releases {} {why:?}{}{}: {}",
                        frame.0,
                        if amendment.without_payload { " without payload" } else { "" },
                        match amendment.without_first {
                            0 => String::new(),
                            first => format!(" without the first {first}"),
                        },
                        shown_meaning(self.frames.meaning(frame.0))
                    )
                }
                Output::Discarded(frame, _, why) => {
                    format!(
                        "  drops {} {why:?}: {}",
                        frame.0,
                        shown_meaning(self.frames.meaning(frame.0))
                    )
                }
                other => format!("  {other:?}"),
            });
        }
        for line in lines {
            self.say(|| line);
        }
    }

    pub(super) fn compare_flows(&mut self) -> Verdict {
        let mut known: Vec<(FlowKey, u16, u16, bool)> = Vec::new();
        self.comparator.for_each_flow(|key, primary, secondary, reported| {
            known.push((*key, primary, secondary, reported));
        });
        self.oracle.known(&known)
    }

    pub(super) fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Released(frame, _, amendment) => {
                    if amendment.without_payload {
                        self.frames.meaning_mut(frame.0).lose_payload();
                    }
                    self.frames.meaning_mut(frame.0).lose_first(amendment.without_first);
                    self.outbox.push_back(frame);
                }
                Output::Discarded(frame, ..) => {
                    self.frames.remove(frame);
                }
                Output::Diverged(_) => {}
                Output::Wanted => self.ask_for_checkpoint(),
            }
        }
    }

    /// What was released reaches the client.
    pub(super) fn send(&mut self) {
        if self.output_stalled {
            return;
        }
        while let Some(frame) = self.outbox.pop_front() {
            let meaning = self.frames.remove(frame);
            let Content::Segment(segment) = meaning.content else { continue };
            if segment.damaged {
                // Its checksum is wrong.
                continue;
            }
            let flow = meaning.flow;
            let line = &mut self.lines[flow as usize].outbound;
            if segment.syn {
                line.fence();
            }
            let passage = line.send(self.now);
            self.note_passage(passage.arrivals.len(), passage.late, false);
            for at in passage.arrivals {
                self.at(at, Event::ClientHears(flow, Box::new(segment.clone())));
            }
        }
    }

    pub(super) fn tick(&mut self) -> Verdict {
        self.tick_due = false;
        if self.lane_stalled {
            return Ok(());
        }
        self.call(Call::Tick, &[], |comparator, frames, now, outputs| {
            comparator.tick(now, frames, outputs);
        })?;
        self.send();
        self.need_tick();
        Ok(())
    }

    pub(super) fn reset_told(&mut self, flow: u32, at: Time) -> Verdict {
        let mut key = None;
        self.comparator.for_each_flow(|known, _, _, _| {
            if self.oracle.is_key_of(flow, known) {
                key = Some(*known);
            }
        });
        let Some(key) = key else { return Ok(()) };
        let told = Call::Reset(flow, at);
        let at = Timestamp::after_origin(std::time::Duration::from_nanos(at));
        self.call(told, &[], |comparator, frames, now, outputs| {
            comparator.connection_reset(&key, at, now, frames, outputs);
        })?;
        self.send();
        Ok(())
    }
}
