//! DESIGN.md section 4.1: TCP.

use compare_user::compare::{Discard, Reason, Release};

use super::{Arrivals, Call, Flow, Oracle, Rule, Verdict};
use crate::endpoint::insert;
use crate::frames::Frames;
use crate::meaning::{Replica, Segment};
use crate::said::{Meeting, Said, meet};
use crate::scenario::Gate;
use crate::time::{MILLISECOND, Time};
use crate::verdict::{Output, Report};

/// What is known of the connection that the comparator compares now.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) incarnation: u32,
    /// Both have said the same up to here. None before the primary has said anything.
    pub(super) mark: Option<i64>,
    /// Offsets count from here.
    pub(super) origin: i64,
    ours: Said,
    theirs: Said,
    our_ack: Option<i64>,
    their_ack: Option<i64>,
    our_end: Option<i64>,
    their_end: Option<i64>,
    /// Numbers of the SYNs that have come.
    our_initial: Option<u32>,
    their_initial: Option<u32>,
    /// A checkpoint has made the secondary one that sent the primary's SYN.
    shared: bool,
    /// When the primary began it.
    begun: Option<Time>,
    /// What has left beyond a gap.
    island: Option<(i64, i64)>,
    /// How far it had been compared when the primary was found to begin earlier.
    compared_once: Option<i64>,
    /// All that has left.
    left: Vec<(i64, i64)>,
    left_ack: Option<i64>,
    /// A difference is known: nothing more is compared.
    blocked: bool,
    /// One side was heard to say two different things at one place.
    ambiguous: bool,
    /// How far the comparator has compared is not known.
    uncertain: bool,
    /// The secondary's segments by their beginning, for what it repeats.
    their_starts: Vec<i64>,
}

impl Stream {
    fn new(incarnation: u32) -> Self {
        Self {
            incarnation,
            mark: None,
            origin: 0,
            ours: Said::default(),
            theirs: Said::default(),
            our_ack: None,
            their_ack: None,
            our_end: None,
            their_end: None,
            our_initial: None,
            their_initial: None,
            shared: false,
            begun: None,
            island: None,
            compared_once: None,
            left: Vec::new(),
            left_ack: None,
            blocked: false,
            ambiguous: false,
            uncertain: false,
            their_starts: Vec::new(),
        }
    }

    fn waits_for_syn(&self) -> bool {
        self.our_initial.is_some() && self.their_initial.is_none() && !self.shared
    }

    /// Where the streams meet now, if they are compared at all. Moves the mark.
    fn advance(&mut self) -> Option<Meeting> {
        let mark = self.mark?;
        if self.waits_for_syn() || self.blocked {
            return None;
        }
        let (meeting, ambiguous) = meet(&self.ours, &self.theirs, mark);
        self.ambiguous |= ambiguous;
        let (Meeting::Gap(until) | Meeting::Difference(until)) = meeting;
        self.mark = Some(until);
        self.ours.forget_below(until);
        self.theirs.forget_below(until);
        if let Some((begin, end)) = self.island
            && begin <= until
        {
            self.island = None;
            if until < end {
                self.mark = Some(end);
                self.ours.forget_below(end);
                self.theirs.forget_below(end);
                return self.advance();
            }
        }
        Some(meeting)
    }

    /// The primary says what came before the first that was seen of it: nobody has compared that.
    /// `waiting` are the secondary's segments that are held.
    fn begins_earlier<'a>(&mut self, start: i64, waiting: impl Iterator<Item = &'a Segment>) {
        self.compared_once = self.compared_once.max(self.mark);
        if let Some(mark) = self.mark.filter(|&mark| mark != self.origin) {
            // Where there are two such runs, what both have said of the other is not known any more.
            self.uncertain |= self.island.is_some();
            self.ambiguous |= self.uncertain;
            self.island = Some((self.origin, mark));
        }
        for segment in waiting.filter(|it| it.start < self.origin && it.end > self.origin) {
            self.theirs.add(&above(segment, start));
        }
        self.origin = start;
        self.mark = Some(start);
    }

    /// A checkpoint has made the guests equal.
    pub(super) fn flushed(&mut self) {
        self.ours = Said::default();
        self.theirs = Said::default();
        self.our_end = None;
        self.their_end = None;
        self.shared = self.our_initial.is_some();
        if let Some((_, end)) = self.island.take() {
            self.mark = self.mark.map(|mark| mark.max(end));
        }
        self.blocked = false;
        self.ambiguous = self.uncertain;
        self.their_ack = self.their_ack.max(self.our_ack);
        self.their_starts.clear();
        // What the client has not got by now it asks for.
        self.left = self.mark.map(|mark| (i64::MIN, mark)).into_iter().collect();
    }

    /// A frame that was dropped at a limit was compared first, as far as the other side had been heard.
    fn compared_before_lost(&mut self, of: Replica, segment: &Segment) {
        let Some(mark) = self.mark else { return };
        let spans = segment.start <= mark && mark < segment.end;
        if !spans || segment.fin || segment.rst || self.blocked || self.waits_for_syn() {
            return;
        }
        let mut said = Said::default();
        said.add(&above(segment, mark));
        let (meeting, ambiguous) = match of {
            Replica::Primary => meet(&said, &self.theirs, mark),
            Replica::Secondary => meet(&self.ours, &said, mark),
        };
        self.ambiguous |= ambiguous;
        let (Meeting::Gap(until) | Meeting::Difference(until)) = meeting;
        // How far it was compared depends on what else waits, and what ends a stream is compared only when both
        // are held: from here on that is not known exactly, in the second case not even after a flush.
        self.ambiguous |= until > mark;
        let end = if of == Replica::Primary { self.their_end } else { self.our_end };
        self.uncertain |= until > mark && end.is_some();
        self.mark = Some(until);
        self.ours.forget_below(until);
        self.theirs.forget_below(until);
    }

    fn note_left(&mut self, segment: &Segment) {
        insert(&mut self.left, segment.start, segment.end);
        if !segment.rst {
            self.left_ack = self.left_ack.max(segment.ack);
        }
    }

    /// All of it has left.
    fn has_left(&self, segment: &Segment) -> bool {
        self.left.iter().any(|left| left.0 <= segment.start && segment.end <= left.1)
    }

    /// Everything up to here has left.
    fn left_until(&self, from: i64) -> i64 {
        let interval = self.left.iter().find(|interval| interval.0 <= from && from <= interval.1);
        interval.map_or(from, |interval| interval.1)
    }
}

/// The part of a segment from `place` on.
fn above(segment: &Segment, place: i64) -> Segment {
    let start = segment.start.max(place).min(segment.end);
    let flips = segment.flips.iter().copied().filter(|flip| flip.0 >= start).collect();
    Segment { start, flips, ..segment.clone() }
}

/// A SYN-ACK that answers another SYN of the client's than the primary's does.
fn answers_another(theirs: &Segment, ours: &Segment) -> bool {
    theirs.ack.is_some() && ours.ack.is_some() && theirs.incarnation != ours.incarnation
}

impl Flow {
    fn current(&mut self, incarnation: u32) -> &mut Stream {
        self.stream.get_or_insert_with(|| Stream::new(incarnation))
    }

    /// The stream that a segment belongs to.
    fn stream_of(&mut self, segment: &Segment) -> Option<&mut Stream> {
        [&mut self.stream, &mut self.former]
            .into_iter()
            .flatten()
            .find(|stream| stream.incarnation == segment.incarnation)
    }
}

impl Oracle {
    pub(super) fn primary_says(
        &mut self,
        flow: u32,
        frame: u32,
        segment: &Segment,
        lost: bool,
        frames: &Frames,
    ) {
        let entry = &mut self.flows[flow as usize];
        if segment.syn {
            let repeated = entry.stream.as_ref().is_some_and(|stream| {
                stream.incarnation == segment.incarnation
                    && stream.our_initial == Some(segment.initial)
            });
            if !repeated {
                self.begins(flow, segment, frames);
            }
        } else if entry.current(segment.incarnation).mark.is_none() {
            self.coverage.count("flows seen in mid-stream");
            let stream = self.flows[flow as usize].current(segment.incarnation);
            stream.mark = Some(segment.start);
            stream.origin = segment.start;
        } else {
            let held = entry.held[Replica::Secondary.index()].clone();
            let stream = entry.current(segment.incarnation);
            let joined = stream.our_initial.is_none();
            if joined && !segment.is_empty() && segment.start < stream.origin {
                self.coverage.count("flows that begin earlier than was seen");
                let waiting = held.iter().filter_map(|&held| frames.meaning(held).segment());
                let same = waiting.filter(|it| it.incarnation == segment.incarnation);
                stream.begins_earlier(segment.start, same);
            }
        }
        let entry = &mut self.flows[flow as usize];
        let stream = entry.current(segment.incarnation);
        if lost {
            stream.advance();
        }
        let mark = stream.mark.unwrap_or(i64::MIN);
        // Only one that comes first is looked at before it is dropped.
        let is_first = !entry.held[Replica::Primary.index()].iter().any(|&held| {
            let held = (held != frame).then(|| frames.meaning(held).segment()).flatten();
            held.is_some_and(|held| held.end > mark)
        });
        let stream = entry.current(segment.incarnation);
        if segment.ack.is_some() {
            stream.our_ack = stream.our_ack.max(segment.ack);
        }
        if segment.fin {
            stream.our_end = Some(segment.end);
        }
        if lost {
            // The client sees a gap, and what follows it leaves all the same.
            insert(&mut stream.left, segment.start, segment.end);
        }
        if lost && is_first {
            stream.compared_before_lost(Replica::Primary, segment);
        } else if !lost {
            stream.ours.add(&above(segment, stream.mark.unwrap_or(i64::MIN)));
        }
    }

    /// The primary begins a connection; what the secondary has said of it already counts now.
    fn begins(&mut self, flow: u32, segment: &Segment, frames: &Frames) {
        self.coverage.count("incarnations");
        let now = self.now;
        let entry = &mut self.flows[flow as usize];
        let mut stream = Stream::new(segment.incarnation);
        stream.mark = Some(0);
        stream.our_initial = Some(segment.initial);
        stream.begun = Some(now);
        entry.former = entry.stream.replace(stream);
        let ahead = std::mem::take(&mut entry.ahead);
        let mut rest = ahead.into_iter().peekable();
        let mut begun = false;
        while let Some(&frame) = rest.peek() {
            let Some(theirs) = frames.meaning(frame).segment() else { break };
            if theirs.syn && begun {
                break;
            }
            begun |= theirs.syn && !answers_another(theirs, segment);
            if theirs.syn {
                self.coverage.count(match begun {
                    true => "incarnations begun by the secondary",
                    false => "incarnations that only the secondary began",
                });
            }
            // What comes before its SYN is of a connection that the primary passed over.
            if begun {
                self.flows[flow as usize].current(segment.incarnation).hear(theirs);
            }
            rest.next();
        }
        self.flows[flow as usize].ahead = rest.collect();
    }

    pub(super) fn secondary_says(
        &mut self,
        flow: u32,
        frame: u32,
        segment: &Segment,
        lost: bool,
        useless: bool,
        gone: bool,
    ) -> Verdict {
        let entry = &mut self.flows[flow as usize];
        if !entry.ahead.is_empty() {
            if !gone {
                entry.ahead.push(frame);
            }
            return Ok(());
        }
        let stream = entry.current(segment.incarnation);
        if segment.syn {
            let known = stream.their_initial == Some(segment.initial)
                || stream.shared && stream.our_initial == Some(segment.initial);
            if known {
                return Ok(());
            }
            // What a SYN-ACK acknowledges tells connections apart.
            let of_another = stream.incarnation != segment.incarnation
                && segment.ack.is_some()
                && stream.our_ack.is_some();
            let begun = stream.our_initial.is_some() && stream.their_initial.is_none();
            if !begun || of_another && stream.shared {
                if !gone {
                    entry.ahead.push(frame);
                }
                return Ok(());
            }
            if of_another {
                return match useless || lost {
                    true => Ok(()),
                    false => self.broken(Rule::Drop, "kept what answers another connection"),
                };
            }
        } else if stream.waits_for_syn() {
            return match useless || lost {
                true => Ok(()),
                false => self.broken(Rule::Drop, "kept what belongs to no connection"),
            };
        }
        if !lost {
            stream.hear(segment);
        } else {
            stream.advance();
            stream.hear(&Segment { start: segment.end, flips: Vec::new(), ..segment.clone() });
            stream.compared_before_lost(Replica::Secondary, segment);
        }
        Ok(())
    }
}

impl Stream {
    /// The secondary says something in this connection.
    fn hear(&mut self, segment: &Segment) {
        if segment.syn {
            self.their_initial = Some(segment.initial);
        }
        self.their_ack = self.their_ack.max(segment.ack);
        if segment.fin {
            self.their_end = Some(segment.end);
        }
        self.their_starts.push(segment.start);
        self.theirs.add(&above(segment, self.mark.unwrap_or(i64::MIN)));
    }
}

impl Oracle {
    pub(super) fn segment_flushed(&mut self, flow: u32, segment: &Segment) -> Verdict {
        if let Some(stream) = self.flows[flow as usize].stream_of(segment) {
            stream.mark = stream.mark.map(|mark| mark.max(segment.end));
            stream.note_left(segment);
        }
        Ok(())
    }

    /// Whether a waiting frame of the secondary's may be dropped because the primary has begun another
    /// connection.
    pub(super) fn is_of_another_incarnation(
        &mut self,
        flow: u32,
        frame: u32,
        arrivals: &Arrivals,
        frames: &Frames,
    ) -> bool {
        let begun = self.began(Replica::Primary, flow, arrivals, frames);
        let entry = &mut self.flows[flow as usize];
        let waits = entry.stream.as_ref().is_some_and(Stream::waits_for_syn);
        let waited = waits || self.began(Replica::Secondary, flow, arrivals, frames);
        begun || waited && arrivals.useless.contains(&frame)
    }

    fn began(&self, side: Replica, flow: u32, arrivals: &Arrivals, frames: &Frames) -> bool {
        arrivals.frames.iter().any(|&frame| {
            let meaning = frames.meaning(frame);
            meaning.flow == flow
                && meaning.side == side
                && meaning.segment().is_some_and(|segment| segment.syn)
        })
    }

    /// A segment of the primary's has left, neither by a flush nor in standalone.
    pub(super) fn segment_left(
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
    pub(super) fn secondary_left(
        &mut self,
        flow: u32,
        frame: u32,
        segment: &Segment,
        why: Release,
        frames: &Frames,
    ) -> Verdict {
        // Of several at once, what waits now may not have been compared when it left.
        let straight = self.comes_straight() && !self.offered_together;
        let entry = &mut self.flows[flow as usize];
        let primary_waits = !entry.held[Replica::Primary.index()].is_empty();
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
                let mut ours = waits.flips.clone();
                ours.retain(|flip| (segment.start..segment.end).contains(&flip.0));
                covers && !segment.fin && ours == segment.flips
            });
            let (name, honest) = match (self.bare, segment.is_empty()) {
                (true, _) => ("released: secondary's repetition, without payload", true),
                (_, true) => ("released: secondary's end again", true),
                (false, false) => ("released: secondary's repetition", is_right),
            };
            what = name;
            told && !segment.rst && segment.end <= mark && said_twice >= 2 && honest
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

    /// A frame of the secondary's has done its work.
    pub(super) fn secondary_consumed(
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

    /// The two streams were said to differ.
    pub(super) fn streams_differ(
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

    pub(super) fn found(&mut self, flow: u32) {
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
    pub(super) fn was_reset(&mut self, flow: u32, at: Time, outputs: &[Output]) -> Verdict {
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
    pub(super) fn stream_settled(&mut self, flow: u32, frames: &Frames) -> Verdict {
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
        let stale = theirs
            .iter()
            .find(|(frame, it)| it.end <= mark && !it.syn && !hidden(&theirs, *frame, it));
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
