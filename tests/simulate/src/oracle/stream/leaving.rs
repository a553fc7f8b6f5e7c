//! What leaves of a stream, and what has done its work.

use compare_user::compare::{Discard, Release};

use super::above;
use crate::endpoint::insert;
use crate::frames::Frames;
use crate::meaning::{Content, Meaning, Replica, Segment};
use crate::oracle::{Call, Oracle, Rule, Verdict};
use crate::scenario::Gate;

impl Oracle {
    /// A segment of the primary's has left, neither by a flush nor in standalone.
    pub(in crate::oracle) fn segment_left(
        &mut self,
        call: Call,
        flow: u32,
        segment: &Segment,
        why: Release,
        frames: &Frames,
    ) -> Verdict {
        let entry = &mut self.flows[flow as usize];
        if why == Release::Superseded {
            self.coverage.count("released: superseded");
            return match entry.former.is_some() && call == Call::Offer(Replica::Primary) {
                true => Ok(()),
                false => self.broken(Rule::Safety, "superseded without a new connection"),
            };
        }
        let Some(stream) = entry.stream_of(segment) else {
            if segment.rst && segment.is_empty() {
                // Of one that neither guest has said anything else of since comparing began.
                return self.is_counted_right(segment, why);
            }
            return self.broken(Rule::Safety, format!("{segment:?} of an unknown connection left"));
        };
        stream.advance();
        self.is_counted_right(segment, why)?;
        self.may_leave(flow, segment)?;
        self.is_acknowledged(flow, segment)?;
        self.is_in_order(flow, segment, frames)?;
        if let Some(stream) = self.flows[flow as usize].stream_of(segment) {
            stream.note_left(segment);
        }
        Ok(())
    }

    fn is_counted_right(&mut self, segment: &Segment, why: Release) -> Verdict {
        let fine = match why {
            Release::Matched => {
                self.coverage.count("released: matched");
                !segment.is_empty() || segment.syn
            }
            Release::Retransmission => {
                self.coverage.count("released: retransmission");
                !segment.is_empty() || segment.syn
            }
            Release::NoPayload => {
                self.coverage.count("released: no payload");
                segment.is_empty() && !segment.syn
            }
            _ => false,
        };
        if segment.fin {
            self.coverage.count("FIN released");
        }
        if segment.rst {
            self.coverage.count("RST released");
        }
        if !fine {
            return self.broken(Rule::Safety, format!("{why:?} of {segment:?}"));
        }
        Ok(())
    }

    /// Every byte has been said by the secondary.
    fn may_leave(&mut self, flow: u32, segment: &Segment) -> Verdict {
        // Of several at once the later ones had not been seen when the first had done its work.
        let (gate, together) = (self.scenario.gate, self.offered_together);
        let Some(stream) = self.flows[flow as usize].stream_of(segment) else { return Ok(()) };
        let Some(mark) = stream.mark else {
            return self.broken(Rule::Safety, "left although nothing was compared");
        };
        if stream.waits_for_syn() && !segment.is_bare() && !segment.rst {
            let text = format!("{segment:?} left before the secondary's SYN");
            return self.broken(Rule::Safety, text);
        }
        if segment.fin {
            let goes_on = stream.theirs.reaches_beyond(segment.end);
            // Compared before the stream was found to begin earlier.
            let was_compared = stream.compared_once.is_some_and(|until| segment.end <= until);
            let goes_on = goes_on && !stream.ambiguous && !together;
            if segment.end > mark && !was_compared || goes_on {
                let text = format!("{segment:?} left, compared up to {mark}, goes on: {goes_on}");
                return self.broken(Rule::Safety, text);
            }
        }
        if segment.is_empty() || segment.end <= mark {
            return Ok(());
        }
        if gate != Gate::Slower || !stream.theirs.has(&above(segment, mark)) {
            let text = format!("{segment:?} left, compared up to {mark}");
            return self.broken(Rule::Safety, text);
        }
        self.on_island(flow, segment, mark)
    }

    /// What leaves beyond a gap lies behind what left so before, or begins a run after the grace.
    fn on_island(&mut self, flow: u32, segment: &Segment, mark: i64) -> Verdict {
        self.coverage.count("released: beyond a gap");
        let (now, grace) = (self.now, self.scenario.grace());
        let Some(stream) = self.flows[flow as usize].stream_of(segment) else { return Ok(()) };
        let text = match stream.island {
            Some((_, end)) if segment.start != end => {
                Some(format!("{segment:?} leaves apart from what left up to {end}"))
            }
            Some((start, _)) => {
                stream.island = Some((start, segment.end));
                None
            }
            None if segment.start <= mark => Some(format!("{segment:?} is not beyond {mark}")),
            None => {
                stream.island = Some((segment.start, segment.end));
                let offered = self.offered_at;
                (now - offered < grace).then(|| format!("{segment:?} leaves within the grace"))
            }
        };
        match text {
            Some(text) => self.broken(Rule::Island, text),
            None => Ok(()),
        }
    }

    /// The secondary has acknowledged as much.
    fn is_acknowledged(&mut self, flow: u32, segment: &Segment) -> Verdict {
        let waits = !segment.is_bare() || self.scenario.gate != Gate::Payload;
        let Some(stream) = self.flows[flow as usize].stream_of(segment) else { return Ok(()) };
        if waits && !segment.rst && segment.ack.is_some() && segment.ack > stream.their_ack {
            let text = format!("{segment:?} left, the secondary has {:?}", stream.their_ack);
            return self.broken(Rule::AcknowledgementGate, text);
        }
        Ok(())
    }

    /// The primary's frames come in the order in which it sends them.
    fn comes_straight(&self) -> bool {
        let path = self.scenario.from_primary;
        path.late == 0 && path.twice == 0
    }

    /// Nothing that comes before it in the stream is left behind.
    fn is_in_order(&mut self, flow: u32, segment: &Segment, frames: &Frames) -> Verdict {
        if segment.fin || segment.rst {
            let held = &self.flows[flow as usize].held[Replica::Primary.index()];
            let stream = self.flows[flow as usize].stream.as_ref();
            let has_left = |other: &Segment| stream.is_some_and(|stream| stream.has_left(other));
            let before = |other: &&u32| self.inside[**other as usize] < self.came;
            let behind = held.iter().filter(before).find(|other| {
                frames.meaning(**other).segment().is_some_and(|other| {
                    other.incarnation == segment.incarnation
                        && other.start < segment.start
                        && !other.is_empty()
                        && !has_left(other)
                })
            });
            if let Some(behind) = behind {
                let text = format!("{segment:?} left before {:?}", frames.meaning(*behind));
                return self.broken(Rule::Order, text);
            }
        }
        let straight = self.comes_straight();
        let (slower, together) = (self.scenario.gate == Gate::Slower, self.offered_together);
        let plain = !segment.is_bare() && !segment.rst && !segment.repeat && !segment.syn;
        let Some(stream) = self.flows[flow as usize].stream_of(segment) else { return Ok(()) };
        // In the same call the gap may have been closed behind it.
        let on_island =
            slower && together || stream.island.is_some_and(|island| island.1 == segment.end);
        let until = stream.left_until(stream.origin);
        // What is missing may have been said again since, and then acknowledge more.
        let missing =
            self.flows[flow as usize].held[Replica::Primary.index()].iter().any(|&held| {
                let held = frames.meaning(held).segment();
                held.is_some_and(|held| held.repeat && held.start <= until && until < held.end)
            });
        // What the primary had said before it was first seen has left long ago.
        let straight = straight && !missing;
        // Where a stream begins earlier than was seen, one of two runs is forgotten.
        let Some(stream) = self.flows[flow as usize].stream_of(segment) else { return Ok(()) };
        let straight = straight && !stream.uncertain;
        if straight && plain && !on_island && segment.start > until && segment.start > stream.origin
        {
            let text = format!("{segment:?} left, what has left before ends at {until}");
            return self.broken(Rule::Order, text);
        }
        Ok(())
    }

    /// A segment of the secondary's has left in place of the primary's.
    pub(in crate::oracle) fn secondary_left(
        &mut self,
        flow: u32,
        frame: u32,
        segment: &Segment,
        why: Release,
        frames: &Frames,
    ) -> Verdict {
        // Of several at once, what waits now may not have been compared when it left.
        let straight = self.comes_straight() && !self.offered_together;
        let (cut, from) = (self.cut, segment.start + self.cut);
        let (now, offered, grace) = (self.now, self.offered_at, self.scenario.grace());
        let entry = &mut self.flows[flow as usize];
        let primary_waits = !entry.held[Replica::Primary.index()].is_empty();
        let compared = entry.stream_of(segment).and_then(|stream| {
            stream.advance();
            stream.mark.filter(|_| !stream.uncertain)
        });
        let compared = compared.unwrap_or(i64::MIN);
        // The first that the primary has waiting, if the secondary's ends within it.
        let segments = entry.held[Replica::Primary.index()]
            .iter()
            .filter_map(|&held| Some((held, frames.meaning(held).segment()?)));
        let begun = segments
            .filter(|(_, it)| it.incarnation == segment.incarnation)
            .filter(|(_, it)| it.end > compared || it.fin)
            .filter(|(_, it)| !it.is_bare())
            .min_by_key(|(held, it)| (it.start, self.inside[*held as usize]))
            .filter(|(_, it)| it.start < segment.end && segment.end < it.end)
            .map(|(held, it)| (held, it.clone()));
        let waiting: Vec<Segment> = entry.held[Replica::Primary.index()]
            .iter()
            .filter_map(|&held| frames.meaning(held).segment().cloned())
            .collect();
        let Some(stream) = entry.stream_of(segment) else {
            return self.broken(Rule::SlowerReplica, "the secondary spoke in no connection");
        };
        stream.advance();
        let mark = stream.mark.unwrap_or(i64::MIN);
        let (both, left) = (stream.our_ack.min(stream.their_ack), stream.left_ack);
        let told = segment.ack.is_none() || segment.ack <= both;
        let said_twice =
            stream.their_starts.iter().filter(|start| **start == segment.start).count();
        let what;
        let fine = if segment.syn {
            what = "released: secondary's SYN-ACK";
            // It has left in the primary's numbers, and the client has answered.
            !stream.waits_for_syn() && primary_waits
        } else if segment.is_bare() {
            what = "released: secondary's acknowledgement";
            let new = segment.ack > left;
            let repeated = segment.ack == left && !waiting.is_empty();
            // With a newer timestamp than what waits, it must not overtake what says as much; but for an
            // end, which waits behind whatever data waits, and for what waits behind a longer segment.
            let hidden = |waits: &Segment| {
                let is_longer = |it: &Segment| it.start <= waits.start && it.end > mark;
                waiting.iter().any(|it| is_longer(it) && !it.is_bare())
            };
            let overtakes = straight
                && waiting.iter().any(|waits| {
                    waits.ack.is_some()
                        && waits.ack <= segment.ack
                        && !waits.is_empty()
                        && !waits.fin
                        && waits.end <= mark
                        && !hidden(waits)
                });
            told && !stream.blocked && (new || repeated) && !overtakes
        } else {
            // What of it has left cannot be compared again; the client lacks only what the primary has
            // waiting, which tells whether this copy is right.
            let is_right = waiting.iter().any(|waits| {
                let covers = waits.start <= segment.start && segment.end <= waits.end;
                let ours = flips_in(waits, segment.start, segment.end);
                covers && !segment.fin && ours == segment.flips
            });
            let (name, honest) = match (self.bare, segment.is_empty()) {
                (true, _) => ("released: secondary's repetition, without payload", true),
                (_, true) => ("released: secondary's end again", true),
                (false, false) => ("released: secondary's repetition", is_right),
            };
            let begins = begun.as_ref().is_some_and(|(frame, waits)| {
                let until = self.parts.get(frame).copied().unwrap_or(waits.start);
                from == until.max(segment.start)
                    && segment.start <= until
                    && flips_in(waits, from, segment.end) == flips_in(segment, from, segment.end)
            });
            let is_part = begins && !self.bare && now - offered >= grace;
            what = if is_part && (cut > 0 || said_twice < 2) {
                "released: secondary's beginning of what waits"
            } else {
                name
            };
            let again = said_twice >= 2 && honest && cut == 0;
            if !self.bare {
                insert(&mut stream.brought, from, segment.end);
            }
            if let Some((frame, waits)) = begun.filter(|_| !self.bare && !segment.is_empty()) {
                let until = self.parts.get(&frame).copied().unwrap_or(waits.start);
                if (segment.start..segment.end).contains(&until) {
                    self.parts.insert(frame, segment.end);
                }
            }
            told && !segment.rst && segment.end <= mark && (again || is_part)
        };
        if !segment.rst && !segment.syn {
            stream.left_ack = stream.left_ack.max(segment.ack.filter(|_| segment.is_bare()));
        }
        self.coverage.count(what);
        if !fine || why != Release::Slower || self.scenario.gate != Gate::Slower {
            let text = format!(
                "{what}: frame {frame}; compared up to {mark}, both have {both:?}, left {left:?}: {segment:?}"
            );
            return self.broken(Rule::SlowerReplica, text);
        }
        Ok(())
    }

    /// Of the primary's segment is cut off what the secondary's has brought to the client while it waited.
    pub(in crate::oracle) fn is_cut_right(&mut self, frame: u32, meaning: &Meaning) -> Verdict {
        let Content::Segment(segment) = &meaning.content else { return Ok(()) };
        if meaning.side == Replica::Secondary {
            return Ok(());
        }
        let until = self.parts.remove(&frame).unwrap_or(segment.start);
        if until > segment.start {
            self.coverage.count("released: without what has left");
        }
        let (start, end) = (segment.start, segment.start + self.cut);
        let brought = self.flows[meaning.flow as usize].stream_of(segment).is_some_and(|stream| {
            stream.brought.iter().any(|(from, until)| *from <= start && end <= *until)
        });
        if end < until || self.cut > 0 && (!brought || end >= segment.end) {
            let text = format!("{segment:?} without {}, left until {until}", self.cut);
            return self.broken(Rule::Safety, text);
        }
        Ok(())
    }

    /// A frame of the secondary's has done its work.
    pub(in crate::oracle) fn secondary_consumed(
        &mut self,
        flow: u32,
        segment: &Segment,
        why: Discard,
    ) -> Verdict {
        if segment.is_empty() {
            return Ok(());
        }
        let Some(stream) = self.flows[flow as usize].stream_of(segment) else { return Ok(()) };
        stream.advance();
        let mark = stream.mark.unwrap_or(i64::MIN);
        let on_island = stream
            .island
            .is_some_and(|island| island.0 <= segment.start && segment.end <= island.1);
        if segment.end > mark && !on_island {
            let text = format!("{why:?} of {segment:?}, compared up to {mark}");
            return self.broken(Rule::Drop, text);
        }
        Ok(())
    }
}

/// Where a segment differs between two places from what the guests agree on.
fn flips_in(segment: &Segment, from: i64, until: i64) -> Vec<(i64, u8)> {
    segment.flips.iter().copied().filter(|flip| (from..until).contains(&flip.0)).collect()
}
