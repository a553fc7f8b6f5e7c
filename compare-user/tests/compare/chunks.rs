//! Frames that lie in several pieces, cut differently on each side, as multi-buffer frames in
//! UMEM may.

use compare_user::compare::{
    Amendment, Comparator, Config, Discard, Divergence, Release, Side, Sink, Timestamp,
};
use compare_user::frame::FrameStore;

use crate::rig::ms;
use crate::wire::{Bytes, IPV4, data, pattern};

/// Frames whose first run is 128 bytes, and every further run as long as the frame says.
struct Chunks;

struct Chunked {
    bytes: Bytes,
    step: usize,
}

impl FrameStore for Chunks {
    type Frame = Chunked;

    fn len(&self, frame: &Chunked) -> usize {
        frame.bytes.len()
    }

    fn run<'a>(&'a self, frame: &'a Chunked, at: usize) -> &'a [u8] {
        let end = match at {
            0..128 => 128,
            _ => at + frame.step - (at - 128) % frame.step,
        };
        frame.bytes.get(at..end.min(frame.bytes.len())).unwrap_or_default()
    }
}

#[derive(Default)]
struct Record {
    released: Vec<Bytes>,
    offsets: Vec<u32>,
}

impl Sink<Chunks> for Record {
    fn release(&mut self, frame: Chunked, _: Release, _: Amendment) {
        self.released.push(frame.bytes);
    }

    fn discard(&mut self, _: Chunked, _: Side, _: Discard) {}

    fn diverged(&mut self, _: &Chunks, divergence: &Divergence<'_, Chunks>) {
        self.offsets.push(divergence.offset);
    }

    fn checkpoint_wanted(&mut self) {}
}

fn run(frames: &[(Side, &Bytes)]) -> Record {
    let mut comparator = Comparator::new(Config { flow_limit: 8, ..Config::default() });
    let mut record = Record::default();
    for (side, bytes) in frames {
        let step = if *side == Side::Primary { 37 } else { 101 };
        let frame = Chunked { bytes: (*bytes).clone(), step };
        comparator.offer(*side, frame, Timestamp::ORIGIN, &Chunks, &mut record);
    }
    comparator.tick(Timestamp::after_origin(ms(3)), &Chunks, &mut record);
    record
}

#[test]
fn the_pieces_that_a_frame_lies_in_do_not_matter() {
    let frames = [IPV4.udp(5, &pattern(1, 1400)), data(0, &pattern(2, 1400)).frame()];
    for frame in &frames {
        for first in [Side::Primary, Side::Secondary] {
            let record = run(&[(first, frame), (first.other(), frame)]);
            assert_eq!(record.released, std::slice::from_ref(frame));
            assert!(record.offsets.is_empty());
        }
    }
}

#[test]
fn a_reordered_datagram_is_found_by_its_content_whatever_its_pieces() {
    let frames: Vec<_> = (0..4).map(|seed| IPV4.udp(5, &pattern(seed, 1400))).collect();
    let ours = frames.iter().map(|frame| (Side::Primary, frame));
    let theirs = frames.iter().rev().map(|frame| (Side::Secondary, frame));
    for order in
        [ours.clone().chain(theirs.clone()).collect::<Vec<_>>(), theirs.chain(ours).collect()]
    {
        let record = run(&order);
        assert_eq!(record.released, frames);
        assert!(record.offsets.is_empty());
    }
}

#[test]
fn a_difference_in_a_later_piece_is_found_where_it_is() {
    for (frame, header) in [
        (IPV4.udp(5, &pattern(1, 1400)), 14 + 20 + 8),
        (data(0, &pattern(2, 1400)).frame(), 14 + 20 + 20),
    ] {
        for at in [header, 127, 128, 129, 164, 165, 228, 229, 700, frame.len() - 1] {
            let mut other = frame.clone();
            other[at] ^= 1;
            let record = run(&[(Side::Primary, &frame), (Side::Secondary, &other)]);
            assert_eq!(record.offsets, [(at - header) as u32]);
            assert!(record.released.is_empty());
        }
    }
}
