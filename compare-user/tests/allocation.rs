//! The comparator allocates nothing once it is made: not per frame, not per tick, not at a
//! checkpoint.

// The one way to count what the allocator is asked for.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use compare_user::compare::{
    Amendment, Comparator, Config, Discard, Divergence, Release, Side, Sink, Timestamp,
};
use compare_user::frame::FrameStore;
use etherparse::PacketBuilder;

struct Counting;

thread_local! {
    /// Per thread, so that tests that run beside each other count their own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract that it keeps with us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames prepared before counting starts; the comparator is given their numbers.
struct Prepared(Vec<Vec<u8>>);

impl FrameStore for Prepared {
    type Frame = usize;

    fn len(&self, frame: &usize) -> usize {
        self.0[*frame].len()
    }

    fn run<'a>(&'a self, frame: &'a usize, at: usize) -> &'a [u8] {
        self.0[*frame].get(at..).unwrap_or_default()
    }
}

#[derive(Default)]
struct Tally {
    released: usize,
    discarded: usize,
    divergences: usize,
}

impl Sink<Prepared> for Tally {
    fn release(&mut self, _: usize, _: Release, _: Amendment) {
        self.released += 1;
    }

    fn discard(&mut self, _: usize, _: Side, _: Discard) {
        self.discarded += 1;
    }

    fn diverged(&mut self, _: &Prepared, _: &Divergence<'_, Prepared>) {
        self.divergences += 1;
    }

    fn checkpoint_wanted(&mut self) {}
}

/// What one test does: frames in the order in which each side offers them, in batches.
struct Traffic {
    store: Prepared,
    primary: Vec<usize>,
    secondary: Vec<usize>,
    batch: usize,
    config: Config,
}

impl Traffic {
    fn new(frames: Vec<Vec<u8>>, batch: usize) -> Self {
        let primary: Vec<usize> = (0..frames.len()).collect();
        let config = Config { flow_limit: 4096, held_limit: 4096, ..Config::default() };
        Self { store: Prepared(frames), secondary: primary.clone(), primary, batch, config }
    }

    /// Reverses the secondary's frames in windows of this many.
    fn reordered(mut self, window: usize) -> Self {
        self.secondary.chunks_mut(window).for_each(<[usize]>::reverse);
        self
    }

    /// Offers everything, with a tick after each batch and a checkpoint in the midst of one, and
    /// returns how often the allocator was asked.
    fn run(&self) -> (usize, Tally) {
        let mut comparator = Comparator::new(self.config.clone());
        let mut tally = Tally::default();
        let mut hand = Vec::with_capacity(self.batch);
        let mut now = Timestamp::ORIGIN;
        let before = ALLOCATIONS.get();
        let batches = self.primary.chunks(self.batch).zip(self.secondary.chunks(self.batch));
        for (number, (ours, theirs)) in batches.enumerate() {
            hand.extend_from_slice(ours);
            comparator.offer_batch(Side::Primary, &mut hand, now, &self.store, &mut tally);
            if number % 50 == 49 {
                comparator.checkpoint_done(now, &self.store, &mut tally);
            }
            hand.extend_from_slice(theirs);
            comparator.offer_batch(Side::Secondary, &mut hand, now, &self.store, &mut tally);
            now = now + Duration::from_micros(100);
            comparator.tick(now, &self.store, &mut tally);
        }
        comparator.checkpoint_done(now, &self.store, &mut tally);
        let asked = ALLOCATIONS.get() - before;
        (asked, tally)
    }
}

fn assert_allocates_nothing(traffic: &Traffic) {
    let (asked, tally) = traffic.run();
    assert_eq!(tally.released, traffic.primary.len());
    assert_eq!(tally.discarded, traffic.secondary.len());
    assert_eq!(asked, 0, "asked the allocator for {} frames", 2 * traffic.primary.len());
}

fn udp(number: usize, flow: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload = [number.to_be_bytes(), [0; 8], [1; 8], [2; 8]].concat();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(53, 1000 + flow as u16)
        .write(&mut frame, &payload)
        .expect("payload fits");
    frame
}

fn tcp(number: usize, flow: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload = [number as u8; 500];
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(80, 1000 + flow as u16, (number * payload.len()) as u32, 1000)
        .ack(1)
        .write(&mut frame, &payload)
        .expect("payload fits");
    frame
}

#[test]
fn the_allocator_is_counted() {
    let before = ALLOCATIONS.get();
    let boxed = std::hint::black_box(Box::new(5));
    assert_eq!(ALLOCATIONS.get() - before, 1, "{boxed}");
}

#[test]
fn udp_in_order() {
    assert_allocates_nothing(&Traffic::new((0..25_600).map(|it| udp(it, 0)).collect(), 64));
}

#[test]
fn udp_reordered_in_windows_of_256() {
    let frames = (0..25_600).map(|it| udp(it, 0)).collect();
    assert_allocates_nothing(&Traffic::new(frames, 256).reordered(256));
}

#[test]
fn tcp_in_order() {
    assert_allocates_nothing(&Traffic::new((0..25_600).map(|it| tcp(it, 0)).collect(), 64));
}

#[test]
fn tcp_reordered_in_windows_of_256() {
    let frames = (0..25_600).map(|it| tcp(it, 0)).collect();
    assert_allocates_nothing(&Traffic::new(frames, 256).reordered(256));
}

#[test]
fn a_thousand_flows_of_each() {
    for frame in [udp, tcp] {
        let frames = (0..30_000).map(|it| frame(it / 1000, it % 1000)).collect();
        assert_allocates_nothing(&Traffic::new(frames, 1000).reordered(1000));
    }
}

#[test]
fn more_flows_contested_within_the_grace_than_frames_can_be_held() {
    // Two datagrams of each flow, swapped on the secondary's side.
    let frames = (0..2000).map(|it| udp(it % 2, it / 2)).collect();
    let mut traffic = Traffic::new(frames, 2).reordered(2);
    traffic.config.held_limit = 16;
    traffic.config.reorder_grace = Duration::from_secs(1);
    traffic.primary.truncate(98);
    traffic.secondary.truncate(98);
    assert_allocates_nothing(&traffic);
}

#[test]
fn evicted_flows_and_frames_refused_at_a_limit() {
    let frames = (0..20_000).map(|it| if it % 2 == 0 { udp(it, it) } else { tcp(it, it) });
    let mut traffic = Traffic::new(frames.collect(), 64);
    traffic.config.flow_limit = 16;
    traffic.config.held_limit = 8;
    traffic.config.queue_limit = 2;
    let (asked, tally) = traffic.run();
    assert!(tally.divergences > 0, "limits were reached");
    assert_eq!(asked, 0);
}
