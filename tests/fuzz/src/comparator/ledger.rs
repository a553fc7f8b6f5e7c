//! Who has which frame, written down beside the comparator: what went in, what came out, and why.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use compare_user::compare::{
    AckGate, Amendment, Comparator, Config, Counters, Discard, Divergence, Release, Side, Sink,
    Timestamp,
};
use compare_user::frame::{Class, FlowKey, FrameStore, Headers};
use compare_user::observe::DivergenceReport;

use crate::memory;

/// A frame with a number of its own.
pub(super) struct Frame {
    number: usize,
    bytes: Box<[u8]>,
}

impl Frame {
    /// One that is never offered.
    pub(super) fn unknown(bytes: Vec<u8>) -> Self {
        Self { number: usize::MAX, bytes: bytes.into() }
    }
}

/// The store of [`Frame`]s.
pub(super) struct Frames;

impl FrameStore for Frames {
    type Frame = Frame;

    fn len(&self, frame: &Frame) -> usize {
        frame.bytes.len()
    }

    fn run<'a>(&'a self, frame: &'a Frame, at: usize) -> &'a [u8] {
        frame.bytes.get(at..).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    Released,
    Discarded,
}

/// A datagram's flow and what is compared of it.
type Content = (FlowKey, u64);

/// The books.
pub(super) struct Ledger {
    gate: AckGate,
    entries: Vec<(Side, Place)>,
    inside: [usize; 2],
    released: u64,
    discarded: u64,
    lost: u64,
    divergences: u64,
    requests: u64,
    /// When a checkpoint was asked for that is not done, and the time of the call that is made.
    asked: Option<Timestamp>,
    now: Timestamp,
    request_interval: Duration,
    /// Who may leave uncompared: the survivor, and while a failover is being made.
    survivor: Option<Side>,
    /// Secondary datagrams that may have matched none yet.
    unmatched: HashMap<Content, i64>,
    /// A call is a flush, so that a secondary's frames may leave if it survives.
    flushing: bool,
}

impl Ledger {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            gate: config.ack_gate,
            entries: Vec::new(),
            inside: [0; 2],
            released: 0,
            discarded: 0,
            lost: 0,
            divergences: 0,
            requests: 0,
            asked: None,
            now: Timestamp::ORIGIN,
            request_interval: config.request_interval,
            survivor: None,
            unmatched: HashMap::new(),
            flushing: false,
        }
    }

    /// Writes down a frame that is about to be offered.
    pub(super) fn admit(&mut self, side: Side, bytes: Vec<u8>) -> Frame {
        let frame = Frame { number: self.entries.len(), bytes: bytes.into() };
        self.entries.push((side, Place::Inside));
        self.inside[side as usize] += 1;
        if side == Side::Secondary
            && let Some(content) = content(&frame)
        {
            *self.unmatched.entry(content).or_default() += 1;
        }
        frame
    }

    /// A call is about to be made, at this time.
    pub(super) fn calling(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Everything held is about to leave or go.
    pub(super) fn flushing(&mut self) {
        self.flushing = true;
        self.asked = None;
    }

    pub(super) fn failing_over(&mut self, survivor: Side) {
        self.flushing();
        self.survivor = Some(survivor);
    }

    pub(super) fn rearmed(&mut self) {
        self.survivor = None;
    }

    fn take_out(&mut self, frame: &Frame, place: Place) -> Side {
        let (side, within) = &mut self.entries[frame.number];
        assert_eq!(*within, Place::Inside, "a frame came out twice");
        *within = place;
        self.inside[*side as usize] -= 1;
        *side
    }

    /// Compares the books with what the comparator says of itself.
    pub(super) fn audit(&mut self, comparator: &Comparator<Frame>, config: &Config) {
        self.flushing = false;
        let counters = comparator.counters();
        self.audit_totals(&counters);
        audit_limits(comparator, &counters, config);
        assert_eq!(comparator.checkpoint_outstanding(), self.asked.is_some());
    }

    fn audit_totals(&self, counters: &Counters) {
        let [primary, secondary] = self.inside;
        assert_eq!(counters.primary_held as usize, primary, "primary frames held");
        assert_eq!(counters.secondary_held as usize, secondary, "secondary frames held");
        let received = counters.primary_received + counters.secondary_received;
        assert_eq!(received, self.entries.len() as u64, "every frame is counted on arrival");
        assert_eq!(counters.released, self.released);
        assert_eq!(counters.discarded, self.discarded);
        assert_eq!(counters.lost, self.lost);
        let held = u64::from(counters.held());
        assert_eq!(received, self.released + self.discarded + self.lost + held, "conservation");
        assert_eq!(counters.divergences, self.divergences);
        assert_eq!(counters.checkpoint_requests, self.requests);
    }

    /// Nothing is left within.
    pub(super) fn assert_all_out(&self) {
        assert_eq!(self.inside, [0, 0], "a clean end leaves nothing held");
        assert!(self.entries.iter().all(|(_, place)| *place != Place::Inside));
    }
}

fn audit_limits(comparator: &Comparator<Frame>, counters: &Counters, config: &Config) {
    assert!(counters.held() <= config.held_limit, "memory that may be held");
    assert!(counters.flows <= config.flow_limit, "flows that may be tracked");
    assert_eq!(comparator.held_frames().count(), counters.held() as usize);
    let (mut flows, mut primary, mut secondary) = (0, 0, 0);
    comparator.for_each_flow(|_, ours, theirs, _| {
        assert!(ours.max(theirs) <= config.queue_limit, "frames of a flow that may be held");
        flows += 1;
        primary += u32::from(ours);
        secondary += u32::from(theirs);
    });
    assert_eq!(flows, counters.flows);
    assert_eq!((primary, secondary), (counters.primary_held, counters.secondary_held));
}

impl Sink<Frames> for Ledger {
    fn release(&mut self, frame: Frame, why: Release, amendment: Amendment) {
        let side = self.take_out(&frame, Place::Released);
        self.released += 1;
        let said_again = side == Side::Secondary && why == Release::Slower;
        assert!(
            said_again || !amendment.without_payload,
            "{why:?} of {side:?} without its payload"
        );
        let is_cut = amendment.without_first > 0;
        assert!(!is_cut || self.gate == AckGate::Slower, "{why:?} of {side:?} cut");
        match side {
            Side::Primary => {
                assert_ne!(why, Release::Slower);
                let lost = self.survivor == Some(Side::Secondary);
                assert!(!lost, "of a lost primary nothing leaves: {why:?}");
            }
            Side::Secondary => {
                let slower = why == Release::Slower && self.gate == AckGate::Slower;
                let survives = self.survivor == Some(Side::Secondary);
                assert!(slower || survives, "{why:?} of a secondary");
            }
        }
        assert!(why != Release::Standalone || self.survivor == Some(side));
        assert!(why != Release::Flushed || self.flushing, "a flush that nobody made");
        if why == Release::Matched {
            memory::uncounted(|| self.note_match(&frame));
        }
        // Its bytes were not the comparator's to give back.
        memory::uncounted(|| drop(frame));
    }

    fn discard(&mut self, frame: Frame, side: Side, why: Discard) {
        assert_eq!(self.take_out(&frame, Place::Discarded), side);
        if why.is_loss() {
            self.lost += 1;
        } else {
            self.discarded += 1;
        }
        let survivor = self.survivor.unwrap_or(Side::Primary);
        let fits = match why {
            Discard::QueueFull | Discard::MemoryFull | Discard::FlowsFull => true,
            Discard::Superseded => side == Side::Primary,
            // Flushed also tells of an old incarnation's secondary frames.
            Discard::Flushed => side != survivor,
            Discard::Standalone => self.survivor == Some(side.other()),
            Discard::Reset => true,
            Discard::Compared
            | Discard::NotCompared
            | Discard::Retransmission
            | Discard::LateCopy => side == Side::Secondary,
        };
        assert!(fits, "{why:?} of {side:?}, survivor {survivor:?}");
        memory::uncounted(|| drop(frame));
    }

    fn diverged(&mut self, store: &Frames, divergence: &Divergence<'_, Frames>) {
        self.divergences += 1;
        memory::uncounted(|| {
            // What people are shown of it.
            let report = DivergenceReport::new(store, divergence);
            assert!(!report.to_string().is_empty());
        });
    }

    fn checkpoint_wanted(&mut self) {
        self.requests += 1;
        if let Some(before) = self.asked.replace(self.now) {
            let waited = self.now.since(before);
            assert!(waited >= self.request_interval, "asked again after {waited:?}");
        }
    }
}

impl Ledger {
    /// A datagram that matched did so with one of the secondary's that had matched no other.
    fn note_match(&mut self, frame: &Frame) {
        let Some(content) = content(frame) else { return };
        let left = self.unmatched.entry(content).or_default();
        *left -= 1;
        assert!(*left >= 0, "a datagram that the secondary has not produced");
    }
}

/// What is compared of a datagram; `None` for everything else.
fn content(frame: &Frame) -> Option<Content> {
    let headers = Headers::parse(&Frames, frame);
    if !matches!(headers.class, Class::Datagram) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    for at in usize::from(headers.content)..headers.end as usize {
        let hole = usize::from(headers.hole);
        if hole == 0 || !(hole..hole + 2).contains(&at) {
            hasher.write_u8(frame.bytes[at]);
        }
    }
    headers.fragment.hash(&mut hasher);
    Some((headers.key, hasher.finish()))
}
