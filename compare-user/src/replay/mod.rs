//! Comparing two captures offline: the comparator without devices, privileges or a clock.
//!
//! The captures come from two machines with two clocks, so time proves nothing: no timeout and
//! no grace runs while frames are taken in (they are merged by their time since each capture
//! began, so that neither side runs far ahead). At the end, what is still unmatched is the
//! difference. Acknowledgements are not gated: this is about bytes.

mod alignment;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::compare::{
    AckGate, Amendment, Comparator, Config, Counters, Discard, Divergence, Reason, Release, Side,
    Sink, Timestamp,
};
use crate::frame::{Class, FlowKey, Headers, HeapFrame, HeapFrames};
use crate::observe::DivergenceReport;
use crate::port::pcap::{Capture, CaptureError};
use alignment::Alignment;

/// Frames that may be held at once, of both sides.
const HELD: u32 = 1 << 20;

/// What was found in one flow.
#[derive(Debug, Clone, Serialize)]
pub struct FlowVerdict {
    /// The flow.
    pub flow: FlowKey,
    /// Frames in the primary's capture.
    pub primary_frames: u64,
    /// Frames in the secondary's capture.
    pub secondary_frames: u64,
    /// True if both sides produced the same output.
    pub equal: bool,
    /// The secondary's sequence numbers were shifted onto the primary's: the captures were
    /// taken in front of the sequence rewriter.
    pub aligned: bool,
    /// The first difference.
    pub divergence: Option<DivergenceReport>,
}

/// What was found in two captures.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// True if every flow is equal.
    pub equal: bool,
    /// Every flow, in order of first appearance.
    pub flows: Vec<FlowVerdict>,
    /// What the comparator counted before the end of the captures.
    pub counters: Counters,
    /// Packets that a snap length cut, of both captures.
    pub cut: u64,
}

struct Flows {
    verdicts: Vec<FlowVerdict>,
    index: HashMap<FlowKey, usize>,
}

impl Flows {
    fn entry(&mut self, key: &FlowKey) -> &mut FlowVerdict {
        let index = *self.index.entry(*key).or_insert_with(|| {
            self.verdicts.push(FlowVerdict {
                flow: *key,
                primary_frames: 0,
                secondary_frames: 0,
                equal: true,
                aligned: false,
                divergence: None,
            });
            self.verdicts.len() - 1
        });
        &mut self.verdicts[index]
    }
}

impl Sink<HeapFrames> for Flows {
    fn release(&mut self, _: HeapFrame, _: Release, _: Amendment) {}

    fn discard(&mut self, _: HeapFrame, _: Side, _: Discard) {}

    fn diverged(&mut self, store: &HeapFrames, divergence: &Divergence<'_, HeapFrames>) {
        let verdict = self.entry(divergence.flow);
        verdict.equal = false;
        if verdict.divergence.is_none() {
            verdict.divergence = Some(DivergenceReport::new(store, divergence));
        }
    }

    fn checkpoint_wanted(&mut self) {}
}

/// Compares two capture files.
///
/// # Errors
/// When a capture cannot be read to its end.
pub fn replay(primary: &Path, secondary: &Path) -> Result<Verdict, CaptureError> {
    let alignment = Alignment::learn(Capture::open(primary)?, Capture::open(secondary)?)?;
    let mut ours = Source::open(primary, Side::Primary)?;
    let mut theirs = Source::open(secondary, Side::Secondary)?;
    let mut flows = Flows { verdicts: Vec::new(), index: HashMap::new() };
    let mut comparator = Comparator::new(config());
    let start = Timestamp::ORIGIN;
    while let Some(source) = earlier(&mut ours, &mut theirs) {
        let side = source.side;
        let Some(mut bytes) = source.next()? else { break };
        let aligned = side == Side::Secondary && alignment.apply(&mut bytes);
        let frame = HeapFrame(bytes.into_boxed_slice());
        let headers = Headers::parse(&HeapFrames, &frame);
        if matches!(headers.class, Class::Tcp(_) | Class::Datagram) {
            let verdict = flows.entry(&headers.key);
            verdict.aligned |= aligned;
            match side {
                Side::Primary => verdict.primary_frames += 1,
                Side::Secondary => verdict.secondary_frames += 1,
            }
        }
        comparator.offer(side, frame, start, &HeapFrames, &mut flows);
    }
    let counters = comparator.counters();
    finish(&mut comparator, &mut flows);
    Ok(Verdict {
        equal: flows.verdicts.iter().all(|verdict| verdict.equal),
        flows: flows.verdicts,
        counters,
        cut: ours.capture.cut() + theirs.capture.cut(),
    })
}

fn config() -> Config {
    Config {
        queue_limit: u16::MAX,
        flow_limit: 1 << 20,
        held_limit: HELD,
        ack_gate: AckGate::Off,
        ..Config::default()
    }
}

/// Lets time pass at last: first mismatches are told, then what found no partner at all.
fn finish(comparator: &mut Comparator<HeapFrame>, flows: &mut Flows) {
    let config = config();
    let grace_over = Timestamp::ORIGIN + config.reorder_grace + Duration::from_millis(1);
    comparator.tick(grace_over, &HeapFrames, flows);
    comparator.tick(Timestamp::ORIGIN + config.compare_timeout, &HeapFrames, flows);
}

/// True if the difference is only that the capture ended before a partner came.
#[must_use]
pub fn is_unmatched(report: &DivergenceReport) -> bool {
    report.reason == Reason::Timeout
}

/// One capture with its next packet in view.
struct Source {
    capture: Capture,
    ahead: Option<Result<(Duration, Vec<u8>), CaptureError>>,
    side: Side,
    began: Option<Duration>,
}

impl Source {
    fn open(path: &Path, side: Side) -> Result<Self, CaptureError> {
        let mut capture = Capture::open(path)?;
        let ahead = capture.next();
        Ok(Self { capture, ahead, side, began: None })
    }

    /// Time since the capture began of the next packet; `None` at the end. A packet that cannot
    /// be read is due at once, so that its error is.
    fn due(&mut self) -> Option<Duration> {
        let time = match self.ahead.as_ref()? {
            Ok((time, _)) => *time,
            Err(_) => return Some(Duration::ZERO),
        };
        let began = *self.began.get_or_insert(time);
        Some(time.saturating_sub(began))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, CaptureError> {
        let packet = std::mem::replace(&mut self.ahead, self.capture.next());
        packet.transpose().map(|packet| packet.map(|(_, bytes)| bytes))
    }
}

/// The source whose next packet is due first.
fn earlier<'a>(ours: &'a mut Source, theirs: &'a mut Source) -> Option<&'a mut Source> {
    match (ours.due(), theirs.due()) {
        (None, None) => None,
        (Some(_), None) => Some(ours),
        (None, Some(_)) => Some(theirs),
        (Some(a), Some(b)) => Some(if b < a { theirs } else { ours }),
    }
}
