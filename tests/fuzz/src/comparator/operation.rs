//! Operations as bytes. Every input means something, and small changes of the bytes are small changes
//! of the operations, so that a fuzzer gets on.
//!
//! | first byte, modulo 16 | operation | parameters |
//! |---|---|---|
//! | 0 to 4 | a TCP segment | flow, flags, sequence, acknowledgement, length, damage |
//! | 5, 6 | a UDP datagram | flow, number, length, damage |
//! | 7 | a fragment | flow, number, length, damage |
//! | 8 | any bytes | length, the bytes |
//! | 9 | the latest frame, from the other side | |
//! | 10 | a batch of the frames that follow | how many |
//! | 11 | time passes | how much |
//! | 12 | checkpoint done | |
//! | 13 | failover | |
//! | 14 | rearm | |
//! | 15 | the other end resets a connection | flow, age |
//!
//! Bit 7 of the first byte is the side that it is about.

use std::time::Duration;

use compare_user::compare::Side;

use super::{BATCH, wire};

/// Longest frame of any bytes.
const ANY: usize = 120;

/// One operation.
pub(super) enum Operation {
    Offer(Side, Vec<u8>),
    Batch(Side, Vec<Vec<u8>>),
    Wait(Duration),
    Checkpoint,
    Failover(Side),
    Rearm,
    Reset { of: Vec<u8>, age: Duration },
}

/// What is left of an input. Behind its end there are zeros.
pub(super) struct Input<'a> {
    rest: &'a [u8],
    latest: Vec<u8>,
}

impl<'a> Input<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest, latest: Vec::new() }
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        byte
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// A frame, if the next operation is one.
    fn frame(&mut self, kind: u8) -> Option<Vec<u8>> {
        let frame = match kind % 16 {
            0..=4 => wire::segment(&wire::Segment {
                flow: self.byte(),
                flags: self.byte(),
                sequence: self.byte(),
                acknowledgement: self.byte(),
                length: self.byte(),
                damage: self.byte(),
            }),
            5 | 6 => wire::datagram(self.byte(), self.byte(), self.byte(), self.byte()),
            7 => wire::fragment(self.byte(), self.byte(), self.byte(), self.byte()),
            8 => {
                let count = usize::from(self.byte()).min(ANY);
                self.bytes(count).to_vec()
            }
            9 => self.latest.clone(),
            _ => return None,
        };
        self.latest.clone_from(&frame);
        Some(frame)
    }
}

impl Operation {
    /// The next one; `None` at the end.
    pub(super) fn read(input: &mut Input<'_>) -> Option<Self> {
        if input.rest.is_empty() {
            return None;
        }
        let kind = input.byte();
        let side = if kind & 0x80 == 0 { Side::Primary } else { Side::Secondary };
        if let Some(frame) = input.frame(kind) {
            return Some(Self::Offer(side, frame));
        }
        Some(match kind % 16 {
            10 => {
                let count = usize::from(input.byte()) % BATCH;
                let mut frames = Vec::new();
                while frames.len() < count {
                    let kind = input.byte();
                    // Whatever is no frame ends the batch.
                    let Some(frame) = input.frame(kind) else { break };
                    frames.push(frame);
                }
                Self::Batch(side, frames)
            }
            11 => Self::Wait(span(input.byte())),
            12 => Self::Checkpoint,
            13 => Self::Failover(side),
            14 => Self::Rearm,
            _ => {
                let of =
                    wire::segment(&wire::Segment { flow: input.byte(), ..wire::Segment::NONE });
                Self::Reset { of, age: span(input.byte()) }
            }
        })
    }
}

/// From nothing over the grace and the timeout to days, at which coarse clocks wrap.
fn span(code: u8) -> Duration {
    let steps = u64::from(code & 0x3f);
    match code >> 6 {
        0 => Duration::from_micros(100 * steps),
        1 => Duration::from_millis(10 * steps),
        2 => Duration::from_millis(250 * steps),
        _ => Duration::from_secs(3600 * steps),
    }
}
