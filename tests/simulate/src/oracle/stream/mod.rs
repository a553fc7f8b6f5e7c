//! DESIGN.md section 4.1: TCP.

mod differing;
mod leaving;

use super::{Arrivals, Flow, Oracle, Rule, Verdict};
use crate::endpoint::insert;
use crate::frames::Frames;
use crate::meaning::{Replica, Segment};
use crate::said::{Meeting, Said, meet};
use crate::time::Time;

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
    /// What the secondary's segments have brought to the client.
    brought: Vec<(i64, i64)>,
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
            brought: Vec::new(),
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
            held.is_some_and(|held| held.end > mark && !held.is_bare())
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
}
