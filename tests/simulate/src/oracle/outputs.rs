//! What leaves and what is dropped: conservation, what passes uncompared, flushes, limits.

use compare_user::compare::{Checksum, Discard, Release};

use super::datagrams::Ghost;
use super::{Arrivals, Call, Oracle, Rule, Verdict, Violation};
use crate::frames::Frames;
use crate::meaning::{Content, Meaning, Replica};
use crate::scenario::Gate;
use crate::verdict::Output;

impl Oracle {
    /// A frame comes out of the comparator.
    pub(super) fn leaves(&mut self, frame: u32, frames: &Frames) -> Result<usize, Violation> {
        if self.inside.get(frame as usize).is_none_or(|inside| *inside == 0) {
            return self.broken(Rule::Conservation, format!("frame {frame} is not inside"));
        }
        self.came = self.inside[frame as usize];
        self.inside[frame as usize] = 0;
        let meaning = frames.meaning(frame);
        self.touch(meaning.flow);
        let side = meaning.side.index();
        let entry = &mut self.flows[meaning.flow as usize];
        let Some(at) = entry.held[side].iter().position(|held| *held == frame) else {
            return self.broken(Rule::Conservation, format!("frame {frame} is not held"));
        };
        entry.held[side].remove(at);
        self.holding -= usize::from(!entry.holds());
        self.held[side] -= 1;
        Ok(at)
    }

    pub(super) fn output(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        output: &Output,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        match output {
            Output::Released(frame, why, amendment) => {
                let place = self.leaves(frame.0, frames)?;
                self.released += 1;
                let meaning = frames.meaning(frame.0);
                self.released_checksum(meaning, amendment.checksum)?;
                self.bare = amendment.without_payload;
                self.cut = amendment.without_first.into();
                self.is_cut_right(frame.0, meaning)?;
                if self.bare && *why != Release::Slower {
                    let text = format!("{why:?} of {meaning:?} without its payload");
                    return self.broken(Rule::Safety, text);
                }
                self.released(call, flushes, frame.0, place, *why, frames)
            }
            Output::Discarded(frame, side, why) => {
                self.leaves(frame.0, frames)?;
                let meaning = frames.meaning(frame.0);
                if meaning.side != *side {
                    return self.broken(Rule::Conservation, "a discarded frame of the wrong side");
                }
                if why.is_loss() {
                    self.lost += 1;
                } else {
                    self.discarded += 1;
                }
                self.discarded(call, flushes, frame.0, *why, arrivals, frames)
            }
            Output::Diverged(report) => self.diverged(report, arrivals, frames),
            Output::Wanted => Ok(()),
        }
    }

    pub(super) fn released_checksum(&self, meaning: &Meaning, checksum: Checksum) -> Verdict {
        let is_whole = matches!(meaning.content, Content::Segment(_) | Content::Datagram(_));
        let expected = is_whole && meaning.partial_checksum;
        // What only one side keeps back until it is known to leave is looked at then.
        let of_secondary = meaning.side == Replica::Secondary && self.standalone.is_none();
        if !of_secondary && expected != (checksum == Checksum::Partial) {
            return self.broken(Rule::Checksum, format!("{checksum:?} of {meaning:?}"));
        }
        Ok(())
    }

    pub(super) fn released(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        frame: u32,
        place: usize,
        why: Release,
        frames: &Frames,
    ) -> Verdict {
        let meaning = frames.meaning(frame);
        let flow = meaning.flow;
        self.offered_at = meaning.offered;
        match why {
            Release::Standalone => {
                self.coverage.count("released: standalone");
                if self.standalone != Some(meaning.side) || !matches!(call, Call::Offer(_)) {
                    return self.broken(Rule::Safety, "released uncompared while comparing");
                }
                return Ok(());
            }
            Release::Flushed => {
                self.coverage.count("released: flushed");
                if flushes != Some(meaning.side) {
                    return self.broken(Rule::Safety, "flushed without a flush");
                }
                if place != 0 {
                    return self
                        .broken(Rule::Order, "a flush releases a flow's oldest frame first");
                }
                match &meaning.content {
                    Content::Segment(segment) => self.segment_flushed(flow, segment)?,
                    Content::Datagram(datagram) => {
                        let (identity, flushed) = (datagram.identity, self.now);
                        let ghost = Ghost { identity, flushed, sure: true };
                        self.flows[flow as usize].ghosts.push(ghost);
                    }
                    _ => return self.broken(Rule::Passing, "an uncompared frame was held"),
                }
                return Ok(());
            }
            _ => {}
        }
        if self.standalone.is_some() {
            return self.broken(Rule::Passing, format!("{why:?} in standalone"));
        }
        match &meaning.content {
            Content::Uncompared | Content::Malformed => {
                let (expected, what) = match meaning.content {
                    Content::Uncompared => (Release::Passed, "released: passed"),
                    _ => (Release::Malformed, "released: malformed"),
                };
                self.coverage.count(what);
                if why != expected || meaning.side != Replica::Primary {
                    return self.broken(Rule::Passing, format!("{why:?} of {meaning:?}"));
                }
                Ok(())
            }
            Content::Segment(segment) => match meaning.side {
                Replica::Primary => self.segment_left(call, flow, segment, why, frames),
                Replica::Secondary => self.secondary_left(flow, frame, segment, why, frames),
            },
            Content::Datagram(datagram) => {
                if why != Release::Matched || meaning.side != Replica::Primary {
                    return self.broken(Rule::Passing, format!("{why:?} of {meaning:?}"));
                }
                self.datagram_left(flow, place, datagram.identity)
            }
        }
    }

    pub(super) fn discarded(
        &mut self,
        call: Call,
        flushes: Option<Replica>,
        frame: u32,
        why: Discard,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        let meaning = frames.meaning(frame);
        let flow = meaning.flow;
        let primary = meaning.side == Replica::Primary;
        let fine = match why {
            Discard::Standalone => {
                self.standalone == Some(meaning.side.other()) && matches!(call, Call::Offer(_))
            }
            Discard::NotCompared => {
                !primary && matches!(meaning.content, Content::Uncompared | Content::Malformed)
            }
            Discard::QueueFull | Discard::MemoryFull | Discard::FlowsFull => {
                return self.limit_reached(frame, why, arrivals, frames);
            }
            Discard::Reset => {
                self.coverage.count("dropped: reset connection");
                matches!(call, Call::Reset(reset, _) if reset == flow)
                    && meaning.segment().is_some()
            }
            Discard::Flushed if flushes.is_some() => flushes != Some(meaning.side),
            Discard::Flushed => {
                !primary && self.is_of_another_incarnation(flow, frame, arrivals, frames)
            }
            Discard::Superseded => {
                self.coverage.count("dropped: superseded acknowledgement");
                let own = meaning.segment().and_then(|segment| segment.ack);
                let held = &self.flows[flow as usize].held[Replica::Primary.index()];
                // A later one has come, which waits or has left.
                let later = arrivals.frames.iter().chain(held).any(|&other| {
                    let other = frames.meaning(other);
                    other.flow == flow
                        && other.side == Replica::Primary
                        && other.segment().is_some_and(|other| other.is_bare() && other.ack >= own)
                });
                // Or one that waits says all of it.
                let again = meaning.segment().is_some_and(|own| {
                    held.iter().filter_map(|&held| frames.meaning(held).segment()).any(|held| {
                        (held.start, held.end, held.fin, held.rst)
                            == (own.start, own.end, own.fin, own.rst)
                            && held.ack >= own.ack
                    })
                });
                let bare = meaning.segment().is_some_and(crate::meaning::Segment::is_bare);
                primary && (bare && later || again) && self.scenario.gate == Gate::Slower
            }
            Discard::LateCopy => {
                self.coverage.count("dropped: late copy");
                return self.late_copy(flow, frame, frames);
            }
            Discard::Compared | Discard::Retransmission => match &meaning.content {
                Content::Segment(segment) if !primary => {
                    let what = match why {
                        Discard::Compared => "dropped: compared",
                        _ => "dropped: retransmission",
                    };
                    self.coverage.count(what);
                    return self.secondary_consumed(flow, segment, why);
                }
                Content::Datagram(datagram) if !primary && why == Discard::Compared => {
                    self.coverage.count("dropped: compared");
                    self.datagram_consumed(flow, datagram.identity);
                    true
                }
                _ => false,
            },
        };
        if !fine {
            return self.broken(Rule::Drop, format!("{why:?} of {meaning:?} in {call:?}"));
        }
        Ok(())
    }

    pub(super) fn limit_reached(
        &mut self,
        frame: u32,
        why: Discard,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> Verdict {
        let meaning = frames.meaning(frame);
        if !arrivals.frames.contains(&frame) {
            return self.broken(Rule::Drop, "a held frame was dropped at a limit");
        }
        let limits = self.scenario.limits;
        // What came and went in the same call may have been there at that moment.
        let slack = arrivals.frames.len();
        let full = match why {
            Discard::QueueFull => {
                self.coverage.count("dropped: full queue");
                let held = self.flows[meaning.flow as usize].held[meaning.side.index()].len();
                held + slack > usize::from(limits.queue)
            }
            Discard::MemoryFull => {
                self.coverage.count("dropped: full memory");
                self.held.iter().sum::<usize>() + slack > limits.held as usize
            }
            _ => {
                self.coverage.count("dropped: full flow table");
                self.holding + slack > limits.flows as usize
            }
        };
        if !full {
            return self.broken(Rule::Limit, format!("{why:?} below the limit"));
        }
        Ok(())
    }
}
