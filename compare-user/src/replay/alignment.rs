//! Captures taken in front of the sequence rewriter: the two guests chose different initial
//! sequence numbers, and the secondary's have not been shifted onto the primary's yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::frame::{Class, FlowKey, Headers, HeapFrame, HeapFrames, TcpFields};
use crate::port::pcap::{Capture, CaptureError};

/// Offset of the sequence number in a TCP header.
const SEQUENCE: usize = 4;

/// What is known of one TCP flow that carries exactly one SYN per side.
#[derive(Default)]
struct Seen {
    primary: Option<u32>,
    secondary: Option<u32>,
    /// Sequence number of the secondary's first segment after its SYN.
    continues: Option<u32>,
    /// More than one connection on this flow: numbers cannot be told apart offline.
    several: bool,
}

/// By how much the secondary's sequence numbers are ahead of the primary's, per flow.
pub(super) struct Alignment {
    shifts: HashMap<FlowKey, u32>,
}

impl Alignment {
    /// Reads both captures through for SYN segments.
    pub(super) fn learn(primary: Capture, secondary: Capture) -> Result<Self, CaptureError> {
        let mut flows: HashMap<FlowKey, Seen> = HashMap::new();
        each_segment(primary, |key, fields| {
            if fields.has(TcpFields::SYN) {
                let seen = flows.entry(key).or_default();
                note(&mut seen.primary, &mut seen.several, fields.sequence);
            }
        })?;
        each_segment(secondary, |key, fields| {
            let Entry::Occupied(mut seen) = flows.entry(key) else { return };
            let seen = seen.get_mut();
            if fields.has(TcpFields::SYN) {
                note(&mut seen.secondary, &mut seen.several, fields.sequence);
            } else if seen.secondary.is_some() {
                seen.continues.get_or_insert(fields.sequence);
            }
        })?;
        let shifts = flows.into_iter().filter_map(|(key, seen)| Some((key, seen.shift()?)));
        Ok(Self { shifts: shifts.collect() })
    }

    /// Shifts the sequence number of a secondary segment. True if it did.
    pub(super) fn apply(&self, bytes: &mut [u8]) -> bool {
        if self.shifts.is_empty() {
            return false;
        }
        let frame = HeapFrame::from(&*bytes);
        let headers = Headers::parse(&HeapFrames, &frame);
        let Class::Tcp(fields) = headers.class else { return false };
        let Some(shift) = self.shifts.get(&headers.key) else { return false };
        let at = usize::from(headers.transport) + SEQUENCE;
        let shifted = fields.sequence.wrapping_sub(*shift);
        bytes[at..at + 4].copy_from_slice(&shifted.to_be_bytes());
        true
    }
}

impl Seen {
    /// The shift, if there is one and the capture shows that it has not been applied: the
    /// secondary's stream goes on nearer to its own SYN than to the primary's.
    fn shift(&self) -> Option<u32> {
        let (primary, secondary) = (self.primary?, self.secondary?);
        let distance = |from: u32| {
            let forward = self.continues.unwrap_or(secondary).wrapping_sub(from);
            forward.min(forward.wrapping_neg())
        };
        let applied = distance(primary) < distance(secondary);
        let shift = secondary.wrapping_sub(primary);
        (shift != 0 && !applied && !self.several).then_some(shift)
    }
}

fn note(known: &mut Option<u32>, several: &mut bool, sequence: u32) {
    *several |= known.is_some_and(|before| before != sequence);
    *known = Some(sequence);
}

fn each_segment(
    capture: Capture,
    mut each: impl FnMut(FlowKey, TcpFields),
) -> Result<(), CaptureError> {
    for packet in capture {
        let (_, bytes) = packet?;
        let headers = Headers::parse(&HeapFrames, &HeapFrame(bytes.into_boxed_slice()));
        if let Class::Tcp(fields) = headers.class {
            each(headers.key, fields);
        }
    }
    Ok(())
}
