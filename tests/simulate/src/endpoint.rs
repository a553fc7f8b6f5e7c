//! A model of TCP: enough of RFC 9293 that losses are repaired, small enough to be read.
//!
//! The same model plays both guests and the client. What an end says depends only on what it has
//! received (its [`Script`]), so two guests with the same input say the same; how they cut it into
//! segments, when they say it, when they acknowledge and when they repeat themselves is their own.

use fastrand::Rng;

use crate::chance::happens;
use crate::meaning::{Replica, Segment};
use crate::time::{MICROSECOND, MILLISECOND, Time};

/// What an end says, and when.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Having received so many bytes, it says up to so many.
    pub turns: Vec<(i64, i64)>,
    /// Ends its stream when it has said all, without waiting for the other's end.
    pub closes: bool,
    /// Ends the connection with a reset when it has said all and all was acknowledged.
    pub resets: bool,
    /// Resets the connection when it has received so many bytes.
    pub aborts_at: Option<i64>,
}

impl Script {
    fn available(&self, received: i64) -> i64 {
        let said = self.turns.iter().take_while(|turn| turn.0 <= received);
        said.last().map_or(0, |turn| turn.1)
    }

    /// All it ever says.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.turns.last().map_or(0, |turn| turn.1)
    }
}

/// An end's own ways.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Whose initial sequence numbers it chooses, if it is a guest.
    pub side: Replica,
    /// Segments are of at most so many bytes.
    pub longest: i64,
    /// What it says again it says in segments of at most so many bytes.
    pub again: i64,
    /// Segments may be shorter at random.
    pub ragged: bool,
    /// Bytes under way at once.
    pub flight: i64,
    /// Every so many segments are acknowledged at once.
    pub ack_every: u32,
    /// The others after this time.
    pub ack_delay: Time,
    /// First retransmission timeout.
    pub patience: Time,
    /// What it is ready to receive.
    pub window: i64,
    /// FIN on the last data instead of alone.
    pub fin_on_data: bool,
}

/// State of one end of a connection (RFC 9293 section 3.3.2, without its names for closing: what has
/// been said and acknowledged tells).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No connection, and none is expected.
    Closed,
    /// Waits for a SYN.
    Listening,
    /// Has sent a SYN.
    SynSent,
    /// Has sent a SYN-ACK.
    SynReceived,
    /// Both have begun.
    Open,
    /// A reset has ended it; whatever comes is refused.
    Reset,
}

/// Longest retransmission timeout: short, so that simulations are.
const LONGEST_PATIENCE: Time = 400 * MILLISECOND;

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it is.
    pub state: State,
    /// Which connection on these ports.
    pub incarnation: u32,
    /// Whose number its SYN has: that of the guest that it is a copy of.
    pub lineage: Replica,
    /// What it says in each incarnation is the same.
    pub script: Script,
    habits: Habits,
    /// First place not acknowledged; the end of the stream is a place.
    pub una: i64,
    /// First place never said.
    pub nxt: i64,
    /// First place not received.
    pub received: i64,
    /// The other's stream ends here.
    peer_end: Option<i64>,
    /// Received beyond a gap, ordered, apart.
    beyond: Vec<(i64, i64)>,
    peer_window: i64,
    told_window: i64,
    repeated_acks: u32,
    /// Being repaired up to here.
    recovering: Option<i64>,
    backoff: u32,
    retransmit_at: Option<Time>,
    acknowledge_at: Option<Time>,
    owed: u32,
    /// Takes nothing before this moment.
    pub shut_until: Time,
    /// Bytes that this guest says differently.
    pub flips: Vec<(i64, u8)>,
}

impl Endpoint {
    /// An end that has not begun.
    #[must_use]
    pub fn new(state: State, script: Script, habits: Habits) -> Self {
        Self {
            state,
            incarnation: 0,
            lineage: habits.side,
            script,
            habits,
            una: 0,
            nxt: 0,
            received: 0,
            peer_end: None,
            beyond: Vec::new(),
            peer_window: 20_000,
            told_window: habits.window,
            repeated_acks: 0,
            recovering: None,
            backoff: 0,
            retransmit_at: None,
            acknowledge_at: None,
            owed: 0,
            shut_until: 0,
            flips: Vec::new(),
        }
    }

    /// Begins `incarnation`; what was before is forgotten.
    fn begin(&mut self, incarnation: u32, state: State) {
        let mut next = Self::new(state, std::mem::take(&mut self.script), self.habits);
        next.incarnation = incarnation;
        next.shut_until = self.shut_until;
        next.flips = std::mem::take(&mut self.flips);
        *self = next;
    }

    /// Opens the next connection.
    pub fn connect(&mut self, incarnation: u32, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        self.begin(incarnation, State::SynSent);
        self.say_syn(now, rng, out);
    }

    /// In the middle of a connection.
    pub fn join(&mut self, said: i64, received: i64) {
        self.state = State::Open;
        (self.una, self.nxt, self.received) = (said, said, received);
    }

    /// It takes the ways of the other guest that it now is a copy of, but keeps its own habits.
    #[must_use]
    pub fn copied(&self, habits_of: &Self) -> Self {
        Self { habits: habits_of.habits, ..self.clone() }
    }

    /// All is said, heard and acknowledged, or the connection is gone.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self.state {
            State::Closed | State::Reset => true,
            State::Open => self.una > self.total() && self.has_heard_end(),
            _ => false,
        }
    }

    /// All that the scripts say has been said and heard, whether the ends were closed or not.
    #[must_use]
    pub fn has_said_all(&self) -> bool {
        self.is_done() || self.state == State::Open && self.una >= self.total()
    }

    fn total(&self) -> i64 {
        self.script.total()
    }

    fn has_heard_end(&self) -> bool {
        self.peer_end.is_some_and(|end| self.received > end)
    }

    fn has_said_end(&self) -> bool {
        self.nxt > self.total()
    }

    /// When it next does something by itself.
    #[must_use]
    pub fn alarm(&self) -> Option<Time> {
        [self.retransmit_at, self.acknowledge_at].into_iter().flatten().min()
    }

    fn window(&self, now: Time) -> i64 {
        if now < self.shut_until { 0 } else { self.habits.window }
    }

    fn segment(&self, now: Time, start: i64, end: i64) -> Segment {
        let ack = (!matches!(self.state, State::SynSent)).then_some(self.received);
        let flips = self.flips.iter().filter(|flip| (start..end).contains(&flip.0)).copied();
        Segment {
            incarnation: self.incarnation,
            start,
            end,
            ack,
            window: self.window(now),
            repeat: start < self.nxt && (start, end) != (self.nxt, self.nxt),
            flips: flips.collect(),
            ..Segment::default()
        }
    }

    fn say_syn(&mut self, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        let syn = Segment { syn: true, ..self.segment(now, 0, 0) };
        self.say(syn, out);
        self.rearm(now, rng);
    }

    fn rearm(&mut self, now: Time, rng: &mut Rng) {
        let patience = (self.habits.patience << self.backoff.min(6)).min(LONGEST_PATIENCE);
        self.retransmit_at = Some(now + patience + rng.u64(0..=patience / 4));
    }

    fn acknowledged(&mut self) {
        self.acknowledge_at = None;
        self.owed = 0;
    }

    fn say(&mut self, segment: Segment, out: &mut Vec<Segment>) {
        self.told_window = segment.window;
        self.acknowledged();
        out.push(segment);
    }

    /// An acknowledgement by itself.
    fn acknowledge(&mut self, now: Time, out: &mut Vec<Segment>) {
        let segment = self.segment(now, self.nxt, self.nxt);
        self.say(segment, out);
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        if self.acknowledge_at.is_some_and(|at| at <= now) {
            self.acknowledge(now, out);
        }
        if self.retransmit_at.is_some_and(|at| at <= now) {
            self.retransmit_at = None;
            self.repeat(now, rng, out);
        }
        self.go_on(now, rng, out);
    }

    fn repeat(&mut self, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        self.backoff += 1;
        match self.state {
            State::SynSent | State::SynReceived => self.say_syn(now, rng, out),
            State::Open if self.una < self.nxt => {
                self.recovering = Some(self.nxt);
                self.say_again(now, out);
                self.rearm(now, rng);
            }
            State::Open if self.wants_window() => {
                // A probe: one old byte, or none, at a place long acknowledged. Before the first byte
                // lies the SYN.
                let start = self.una - 1;
                let end = if rng.bool() && start >= 0 { self.una } else { start };
                let probe = Segment { probe: true, ..self.segment(now, start, end) };
                self.say(probe, out);
                self.rearm(now, rng);
            }
            _ => {}
        }
    }

    fn wants_window(&self) -> bool {
        self.una == self.nxt
            && self.peer_window == 0
            && self.script.available(self.received) > self.nxt
    }

    /// Says the first unacknowledged bytes once more, as many as fit: cut anew.
    fn say_again(&mut self, now: Time, out: &mut Vec<Segment>) {
        let total = self.total();
        let said = self.nxt.min(total);
        let end = said.min(self.una + self.habits.again);
        let fin = self.has_said_end() && end == total;
        let start = self.una.min(end);
        let again = Segment { fin, repeat: true, ..self.segment(now, start, end) };
        self.say(again, out);
    }

    fn length(&self, rng: &mut Rng) -> i64 {
        if self.habits.ragged { rng.i64(1..=self.habits.longest) } else { self.habits.longest }
    }

    /// Says what may be said now.
    fn go_on(&mut self, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        if self.state != State::Open {
            return;
        }
        if self.script.aborts_at.is_some_and(|at| self.received >= at) {
            return self.reset(now, out);
        }
        let total = self.total();
        let available = self.script.available(self.received);
        let limit = available.min(self.una + self.peer_window.min(self.habits.flight));
        let may_close = self.script.closes || self.has_heard_end();
        let was = self.nxt;
        while self.nxt < limit {
            let end = limit.min(self.nxt + self.length(rng));
            let fin = end == total && may_close && self.habits.fin_on_data && !self.script.resets;
            let segment = Segment { fin, ..self.segment(now, self.nxt, end) };
            self.nxt = end + i64::from(fin);
            self.say(segment, out);
        }
        let said_all = self.nxt == total && available == total;
        if said_all && self.script.resets && self.una == total {
            return self.reset(now, out);
        }
        if said_all && may_close && !self.script.resets {
            let fin = Segment { fin: true, ..self.segment(now, total, total) };
            self.nxt = total + 1;
            self.say(fin, out);
        }
        if self.nxt > was || self.retransmit_at.is_none() && self.wants_window() {
            self.backoff = 0;
            self.rearm(now, rng);
        } else if self.una == self.nxt && !self.wants_window() {
            self.retransmit_at = None;
        }
    }

    fn reset(&mut self, now: Time, out: &mut Vec<Segment>) {
        out.push(Segment { rst: true, ..self.segment(now, self.nxt, self.nxt) });
        self.end();
    }

    fn end(&mut self) {
        self.state = State::Reset;
        self.retransmit_at = None;
        self.acknowledge_at = None;
    }

    /// A segment of the other end has come.
    pub fn hear(&mut self, heard: &Segment, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        let fresh = heard.syn && heard.ack.is_none();
        if fresh && self.accepts_syn(heard) {
            self.begin(heard.incarnation, State::SynReceived);
            return self.say_syn(now, rng, out);
        }
        if heard.incarnation != self.incarnation || heard.rst {
            if heard.rst && heard.incarnation == self.incarnation && self.state != State::Listening
            {
                self.end();
            }
            return;
        }
        match self.state {
            State::Closed | State::Listening => {}
            State::Reset => self.refuse(heard, out),
            State::SynSent => {
                if heard.syn && heard.ack.is_some() {
                    self.state = State::Open;
                    self.opened();
                    self.peer_window = heard.window;
                    self.acknowledge(now, out);
                    self.go_on(now, rng, out);
                }
            }
            State::SynReceived if heard.syn => self.say_syn(now, rng, out),
            State::SynReceived if heard.ack.is_none() => {}
            State::SynReceived => {
                self.state = State::Open;
                self.opened();
                self.take(heard, now, rng, out);
            }
            // Whoever says it again has not heard the answer.
            State::Open if heard.syn => self.acknowledge(now, out),
            State::Open => self.take(heard, now, rng, out),
        }
    }

    fn accepts_syn(&self, heard: &Segment) -> bool {
        match self.state {
            State::Listening => true,
            State::SynSent => false,
            _ => heard.incarnation > self.incarnation,
        }
    }

    fn opened(&mut self) {
        self.backoff = 0;
        self.retransmit_at = None;
    }

    /// What a closed end says to whoever does not know.
    fn refuse(&self, heard: &Segment, out: &mut Vec<Segment>) {
        let place = heard.ack.unwrap_or(0);
        out.push(Segment {
            incarnation: self.incarnation,
            start: place,
            end: place,
            rst: true,
            ..Segment::default()
        });
    }

    fn take(&mut self, heard: &Segment, now: Time, rng: &mut Rng, out: &mut Vec<Segment>) {
        let late = self.has_said_end() && self.has_heard_end() && !heard.is_empty();
        if late && heard.end > self.received {
            return self.reset(now, out);
        }
        self.take_acknowledgement(heard, now, rng, out);
        self.take_data(heard, now, out);
        self.go_on(now, rng, out);
    }

    fn take_acknowledgement(
        &mut self,
        heard: &Segment,
        now: Time,
        rng: &mut Rng,
        out: &mut Vec<Segment>,
    ) {
        let Some(ack) = heard.ack else { return };
        if ack > self.nxt {
            // What was never said (RFC 9293 section 3.10.7.4).
            return self.acknowledge(now, out);
        }
        let opens = heard.window > self.peer_window;
        if ack >= self.una {
            self.peer_window = heard.window;
        }
        if ack > self.una {
            self.una = ack;
            self.repeated_acks = 0;
            self.backoff = 0;
            self.retransmit_at = None;
            if self.una < self.nxt {
                self.rearm(now, rng);
            }
            match self.recovering {
                Some(until) if ack < until => self.say_again(now, out),
                _ => self.recovering = None,
            }
        } else if ack == self.una && heard.is_bare() && self.una < self.nxt && !opens {
            self.repeated_acks += 1;
            if self.repeated_acks == 3 && self.recovering.is_none() {
                self.recovering = Some(self.nxt);
                self.say_again(now, out);
                self.rearm(now, rng);
            }
        }
    }

    fn take_data(&mut self, heard: &Segment, now: Time, out: &mut Vec<Segment>) {
        if heard.is_empty() && !heard.fin {
            // A keep-alive or probe wants an answer; so does a window that has opened.
            if heard.start < self.received || self.told_window == 0 && self.window(now) > 0 {
                self.acknowledge(now, out);
            }
            return;
        }
        if self.window(now) == 0 && heard.end > self.received {
            return self.acknowledge(now, out);
        }
        if heard.fin {
            self.peer_end = Some(heard.end);
        }
        let end = heard.end + i64::from(heard.fin);
        let in_order = heard.start <= self.received && end > self.received;
        let was_beyond = !self.beyond.is_empty();
        if in_order {
            self.received = end;
            self.take_up();
        } else if heard.start > self.received {
            insert(&mut self.beyond, heard.start, end);
        }
        self.owed += 1;
        let at_once = !in_order || was_beyond || self.owed >= self.habits.ack_every || heard.fin;
        if at_once {
            self.acknowledge(now, out);
        } else if self.acknowledge_at.is_none() {
            self.acknowledge_at = Some(now + self.habits.ack_delay);
        }
    }

    fn take_up(&mut self) {
        while let Some(&(start, end)) = self.beyond.first()
            && start <= self.received
        {
            self.received = self.received.max(end);
            self.beyond.remove(0);
        }
    }

    /// The window opens again: says so.
    pub fn reopen(&mut self, now: Time, out: &mut Vec<Segment>) {
        if self.state == State::Open && self.told_window == 0 {
            self.acknowledge(now, out);
        }
    }

    /// The guest that is now a copy of another one looks at its clocks.
    pub fn resume(&mut self, now: Time, rng: &mut Rng) {
        let waits = matches!(self.state, State::SynSent | State::SynReceived)
            || self.state == State::Open && (self.una < self.nxt || self.wants_window());
        self.retransmit_at = None;
        if waits {
            self.rearm(now, rng);
        }
        if self.owed > 0 {
            self.acknowledge_at = Some(now + self.habits.ack_delay);
        }
    }
}

/// Adds an interval to ordered, disjoint ones.
pub fn insert(intervals: &mut Vec<(i64, i64)>, start: i64, end: i64) {
    if start >= end {
        return;
    }
    let first = intervals.partition_point(|interval| interval.1 < start);
    let last = intervals.partition_point(|interval| interval.0 <= end);
    if first == last {
        intervals.insert(first, (start, end));
        return;
    }
    let merged = (start.min(intervals[first].0), end.max(intervals[last - 1].1));
    intervals.drain(first + 1..last);
    intervals[first] = merged;
}

/// Longest segments of a flow, at random.
pub fn longest(rng: &mut Rng) -> i64 {
    crate::chance::one_of(rng, &[1_448, 1_448, 536, 100, 60])
}

/// Ways of an end, at random.
#[must_use]
pub fn habits(side: Replica, longest: i64, rng: &mut Rng) -> Habits {
    Habits {
        side,
        longest,
        again: longest,
        ragged: happens(rng, 300),
        // A secondary with less under way than one segment of the primary's has would wait for ever.
        flight: (longest * rng.i64(1..24)).max(4_344),
        ack_every: rng.u32(1..4),
        ack_delay: rng.u64(200..40_000) * MICROSECOND,
        patience: rng.u64(15..60) * MILLISECOND,
        window: crate::chance::one_of(rng, &[60_000, 20_000, 4_000]),
        fin_on_data: rng.bool(),
    }
}

#[cfg(test)]
mod tests {
    use super::insert;

    #[test]
    fn intervals_merge_where_they_touch() {
        let mut intervals = Vec::new();
        for (start, end) in [(10, 20), (30, 40), (0, 5), (20, 25), (4, 11), (50, 50), (26, 60)] {
            insert(&mut intervals, start, end);
        }
        assert_eq!(intervals, [(0, 25), (26, 60)]);
    }
}
