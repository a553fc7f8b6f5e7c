//! What it costs to find out what a frame is: header offsets, flow hash, checksum state.
//!
//! `parse` is one [`Headers::parse`]; `parse+hash` adds the flow hash, `parse+state` the test for
//! a partial checksum that every released frame passes through; `complete` finishes one.

use std::hint::black_box;

use compare_user::frame::{Headers, HeapFrame, HeapFrames, checksum};
use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;

const SOURCE: [u8; 4] = [10, 0, 0, 1];
const DESTINATION: [u8; 4] = [10, 0, 0, 2];
const SOURCE6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DESTINATION6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// The frames that are measured, by name.
fn frames() -> [(&'static str, HeapFrame); 5] {
    let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
    let four = || ethernet().ipv4(SOURCE, DESTINATION, 64);
    let six = || ethernet().ipv6(SOURCE6, DESTINATION6, 64);
    let tagged = ethernet().single_vlan(7.try_into().expect("a VLAN identifier"));
    let mut written: [Vec<u8>; 5] = Default::default();
    let [udp4, tcp4, udp6, tcp6, vlan] = &mut written;
    four().udp(1, 2).write(udp4, &[7; 22]).expect("a vector");
    four().tcp(1, 2, 3, 4).ack(5).write(tcp4, &[7; 1460]).expect("a vector");
    six().udp(1, 2).write(udp6, &[7; 22]).expect("a vector");
    six().tcp(1, 2, 3, 4).ack(5).write(tcp6, &[7; 1440]).expect("a vector");
    tagged.ipv4(SOURCE, DESTINATION, 64).udp(1, 2).write(vlan, &[7; 22]).expect("a vector");
    let names = ["udp4-64", "tcp4-1514", "udp6-84", "tcp6-1514", "vlan-udp4-68"];
    let mut frames = names.into_iter().zip(written.map(|bytes| HeapFrame::from(&bytes[..])));
    std::array::from_fn(|_| frames.next().expect("five of each"))
}

/// `frame` with its TCP or UDP checksum replaced by the pseudo-header sum.
fn partial(frame: &HeapFrame) -> HeapFrame {
    let headers = Headers::parse(&HeapFrames, frame);
    let mut frame = HeapFrame(frame.0.clone());
    let at = usize::from(headers.transport) + if headers.key.protocol == 6 { 16 } else { 6 };
    let state = |frame: &HeapFrame| checksum::state(&HeapFrames, frame, &headers);
    for sum in 0..=u16::MAX {
        frame.0[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        if state(&frame) == checksum::ChecksumState::Partial {
            return frame;
        }
    }
    unreachable!("one of them is the pseudo-header sum")
}

fn frame(criterion: &mut Criterion) {
    for (name, frame) in &frames() {
        criterion.bench_function(&format!("parse/{name}"), |bencher| {
            bencher.iter(|| Headers::parse(&HeapFrames, black_box(frame)));
        });
        criterion.bench_function(&format!("parse+hash/{name}"), |bencher| {
            bencher.iter(|| Headers::parse(&HeapFrames, black_box(frame)).key.hash(black_box(1)));
        });
        criterion.bench_function(&format!("parse+state/{name}"), |bencher| {
            bencher.iter(|| {
                let headers = Headers::parse(&HeapFrames, black_box(frame));
                checksum::state(&HeapFrames, frame, &headers)
            });
        });
        let partial = partial(frame);
        let headers = Headers::parse(&HeapFrames, &partial);
        criterion.bench_function(&format!("complete/{name}"), |bencher| {
            bencher.iter(|| checksum::completed(&HeapFrames, black_box(&partial), &headers));
        });
    }
}

criterion_group!(benches, frame);
criterion_main!(benches);
