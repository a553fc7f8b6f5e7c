//! The rings at work without a kernel: positions that wrap, rings that run full and dry, frames of
//! several chunks, a peer on another thread. `in_memory.rs` is the other side.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::region::RegionConfig;
use super::super::registration::{Kernel, RingSizes};
use super::*;
use crate::frame::FrameStore as _;

/// Chunks of the region.
const CHUNKS: u32 = 64;

/// Where the rings start: a few frames before their positions wrap.
const BEFORE_THE_WRAP: u32 = u32::MAX - 5;

/// Frames that go through in a test; miri takes a hundred times as long for each.
const FRAMES: u32 = if cfg!(miri) { 60 } else { 2_000 };

const SIZES: RingSizes = RingSizes { fill: 16, completion: 16, rx: 16, tx: 8 };

fn region() -> Region {
    let config = RegionConfig {
        frames: CHUNKS,
        frame_size: 2048,
        fill_ring: SIZES.fill,
        completion_ring: SIZES.completion,
        huge_pages: false,
    };
    Region::new(config).expect("ordinary memory")
}

/// A port of the region whose rings stand at `start`, and the kernel's side of it.
fn port(region: &mut Region, start: u32) -> (RingSet, Kernel) {
    let (rings, kernel) = region.registration().connect(SIZES, start);
    let port = region.attach().expect("ports are free");
    let limits = Limits {
        receive: SIZES.fill as usize,
        transmit: SIZES.completion as usize,
        multi_buffer: true,
        zero_copy: false,
    };
    (RingSet::new(rings, port, limits), kernel)
}

/// What frame `number` says: its number, and bytes that follow from it, over one chunk or several.
fn content(number: u32) -> Vec<u8> {
    let length = match number % 5 {
        4 => 1792 * (1 + number as usize % 3) + number as usize % 7,
        _ => 60 + number as usize % 200,
    };
    let mut bytes = vec![number as u8; length];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn bytes_of(region: &Region, frame: &UmemFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < region.len(frame) {
        bytes.extend_from_slice(region.run(frame, bytes.len()));
    }
    bytes
}

/// Every chunk is where the port's own arithmetic says.
fn assert_balanced(region: &Region, ports: &[&RingSet], held: usize) {
    let audit = region.audit();
    assert_eq!(audit.free, audit.free_list);
    for port in ports {
        assert_eq!(audit.receive[port.port().get()], port.in_flight().receive);
        assert_eq!(audit.transmit[port.port().get()], port.in_flight().transmit);
        assert_eq!(port.counts().strangers, 0);
    }
    assert_eq!(audit.user, held, "chunks in frames that user space holds");
    assert_eq!(audit.free + audit.user + audit.receiving() + audit.transmitting(), audit.total);
}

#[test]
fn frames_pass_unchanged_while_all_positions_wrap() {
    let mut region = region();
    let (mut input, mut guest) = port(&mut region, BEFORE_THE_WRAP);
    let (mut output, mut network) = port(&mut region, BEFORE_THE_WRAP);
    let (mut received, mut leaving) = (Vec::new(), VecDeque::new());
    let (mut delivered, mut seen) = (0, 0);
    for turn in 0_u32.. {
        if seen == FRAMES {
            break;
        }
        assert!(turn < 20 * FRAMES, "frames are missing");
        if delivered < FRAMES && guest.deliver(&content(delivered)) {
            delivered += 1;
        }
        input.service(&mut region).expect("no error");
        output.service(&mut region).expect("no error");
        input.receive(&mut region, &mut received, 8);
        leaving.extend(received.drain(..));
        let held = leaving.iter().map(|frame| region.chunks_of(frame)).sum();
        assert_balanced(&region, &[&input, &output], held);
        output.transmit(&mut region, &mut leaving).expect("no error");
        // The network takes two at a time, now and then.
        for _ in 0..if turn % 3 == 0 { 2 } else { 0 } {
            if let Some(bytes) = network.take() {
                assert_eq!(bytes, content(seen), "frame {seen}");
                seen += 1;
            }
        }
    }
    output.service(&mut region).expect("no error");
    assert_eq!(output.in_flight().transmit, 0);
    assert_balanced(&region, &[&input, &output], 0);
}

#[test]
fn a_peer_on_another_thread_sees_whole_frames_and_gives_every_chunk_back() {
    let mut region = region();
    let (mut input, mut guest) = port(&mut region, BEFORE_THE_WRAP);
    let (mut output, mut network) = port(&mut region, BEFORE_THE_WRAP);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut delivered, mut seen) = (0, 0);
            while seen < FRAMES {
                if delivered < FRAMES && guest.deliver(&content(delivered)) {
                    delivered += 1;
                }
                match network.take() {
                    Some(bytes) => {
                        assert_eq!(bytes, content(seen), "frame {seen}");
                        seen += 1;
                    }
                    None => thread::yield_now(),
                }
            }
            done.store(true, Ordering::Release);
        });
        let (mut received, mut leaving) = (Vec::new(), VecDeque::new());
        // A bound, so that a frame that is lost is a failure and not a test without end.
        for turn in 0_u32.. {
            assert!(turn < 10_000 * FRAMES, "frames are missing");
            input.service(&mut region).expect("no error");
            output.service(&mut region).expect("no error");
            input.receive(&mut region, &mut received, 8);
            for frame in received.drain(..) {
                // User space reads and writes what it has, while the kernel is at the rest.
                let bytes = bytes_of(&region, &frame);
                let number = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
                assert_eq!(bytes, content(number));
                region.write(&frame, bytes.len() - 1, &[number as u8]);
                leaving.push_back(frame);
            }
            output.transmit(&mut region, &mut leaving).expect("no error");
            if done.load(Ordering::Acquire) && leaving.is_empty() {
                break;
            }
            thread::yield_now();
        }
    });
    output.service(&mut region).expect("no error");
    assert_eq!(output.counts().transmitted, u64::from(FRAMES));
    assert_balanced(&region, &[&input, &output], 0);
}

#[test]
fn a_full_tx_ring_makes_frames_wait_and_loses_none() {
    let mut region = region();
    let (mut output, mut network) = port(&mut region, BEFORE_THE_WRAP);
    let mut leaving: VecDeque<_> = (0..20)
        .map(|number: u32| region.allocate(&[number as u8; 60]).expect("there is memory"))
        .collect();
    output.transmit(&mut region, &mut leaving).expect("no error");
    assert_eq!(leaving.len(), 20 - SIZES.tx as usize, "what the ring has no room for waits");
    assert_eq!(output.counts().back_pressure, 1);
    let mut seen = 0;
    while seen < 20 {
        if let Some(bytes) = network.take() {
            assert_eq!(bytes, [seen; 60]);
            seen += 1;
        }
        output.service(&mut region).expect("no error");
        output.transmit(&mut region, &mut leaving).expect("no error");
    }
    output.service(&mut region).expect("no error");
    assert_balanced(&region, &[&output], 0);
}

#[test]
fn a_frame_whose_chunks_the_ring_cannot_all_take_is_not_begun() {
    let mut region = region();
    let (mut output, mut network) = port(&mut region, BEFORE_THE_WRAP);
    let long = content(14);
    assert!(long.len() > 2 * 1792, "several chunks");
    let mut leaving: VecDeque<_> =
        (0..4).map(|_| region.allocate(&long).expect("there is memory")).collect();
    output.transmit(&mut region, &mut leaving).expect("no error");
    let chunks = long.len().div_ceil(1792);
    assert_eq!(leaving.len(), 4 - SIZES.tx as usize / chunks);
    while network.take().is_some_and(|bytes| bytes == long) {}
    output.service(&mut region).expect("no error");
    assert_eq!(output.in_flight().transmit, 0, "what was begun was whole");
    leaving.drain(..).for_each(|frame| region.recycle(frame));
    assert_balanced(&region, &[&output], 0);
}

#[test]
fn a_fill_ring_that_runs_dry_is_filled_again() {
    let mut region = region();
    let (mut input, mut guest) = port(&mut region, BEFORE_THE_WRAP);
    let mut received = Vec::new();
    assert!(!guest.deliver(&content(0)), "nothing was lent yet");
    for round in 0..8 {
        input.service(&mut region).expect("no error");
        let mut delivered = 0;
        while guest.deliver(&[round; 60]) {
            delivered += 1;
        }
        assert_eq!(delivered, SIZES.fill, "the whole share");
        input.receive(&mut region, &mut received, usize::MAX);
        assert_eq!(received.len(), delivered as usize);
        for frame in received.drain(..) {
            assert_eq!(bytes_of(&region, &frame), [round; 60]);
            region.recycle(frame);
        }
        assert_balanced(&region, &[&input], 0);
    }
}

#[test]
fn a_share_of_less_than_a_batch_is_topped_up_before_it_is_used_up() {
    let mut region = region();
    let (mut input, mut guest) = port(&mut region, BEFORE_THE_WRAP);
    let mut received = Vec::new();
    // A frame of four chunks, when all but three of the sixteen that are lent have been used: it
    // would wait for ever if the ring were filled only when it is empty.
    input.service(&mut region).expect("no error");
    for number in 0..13 {
        assert!(guest.deliver(&[number; 60]));
    }
    let long = content(29);
    assert_eq!(long.len().div_ceil(1792), 4);
    assert!(!guest.deliver(&long), "three chunks are left");
    input.receive(&mut region, &mut received, usize::MAX);
    input.service(&mut region).expect("no error");
    assert!(guest.deliver(&long), "the ring was filled meanwhile");
    input.receive(&mut region, &mut received, usize::MAX);
    assert_eq!(bytes_of(&region, received.last().expect("received")), long);
    received.drain(..).for_each(|frame| region.recycle(frame));
    assert_balanced(&region, &[&input], 0);
}

#[test]
fn a_descriptor_of_a_chunk_that_was_not_lent_corrupts_nothing() {
    let mut region = region();
    let (mut port, mut kernel) = port(&mut region, BEFORE_THE_WRAP);
    port.service(&mut region).expect("no error");
    let held = region.allocate(&[7; 60]).expect("there is memory");
    let before = region.audit();
    // The last chunk is on the free list; the second address lies outside.
    for address in [(CHUNKS as usize - 1) * 2048, CHUNKS as usize * 2048, usize::MAX - 4096] {
        kernel.deliver_nonsense(address);
        kernel.complete_nonsense(address);
    }
    let mut received = Vec::new();
    port.receive(&mut region, &mut received, usize::MAX);
    // One frame under way, or the completion ring is not looked at.
    let mut leaving = VecDeque::from([held]);
    port.transmit(&mut region, &mut leaving).expect("no error");
    port.service(&mut region).expect("no error");
    assert!(received.is_empty());
    assert_eq!(port.counts().strangers, 6);
    assert_eq!(kernel.take(), Some(vec![7; 60]));
    port.service(&mut region).expect("no error");
    let after = region.audit();
    assert_eq!((after.free, after.user), (before.free + 1, 0));
    assert_eq!(after.receive, before.receive);
}

#[test]
fn a_closed_port_leaves_nothing_behind() {
    let mut region = region();
    let (mut input, mut guest) = port(&mut region, BEFORE_THE_WRAP);
    let (mut output, _network) = port(&mut region, BEFORE_THE_WRAP);
    input.service(&mut region).expect("no error");
    assert!(guest.deliver(&content(4)), "a frame of several chunks");
    let mut received = Vec::new();
    input.receive(&mut region, &mut received, 1);
    let mut leaving = VecDeque::from(received);
    output.transmit(&mut region, &mut leaving).expect("no error");
    let in_flight = output.in_flight().transmit;
    assert!(in_flight > 1);
    assert_eq!(output.close(&mut region), in_flight);
    let lent = input.in_flight().receive;
    assert_eq!(input.close(&mut region), lent);
    assert_eq!(region.free(), region.total());
}
