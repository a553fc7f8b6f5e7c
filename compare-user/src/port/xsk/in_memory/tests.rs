//! The rings of this kernel and those of libxdp do the same, position by position.
//!
//! In the product the arithmetic is libxdp's, inline C that xsk-rs calls. It takes no kernel either:
//! a ring is a structure with pointers to two positions and an array.

#![cfg(not(miri))] // miri runs no C

use std::thread;

use libxdp_sys::{
    xsk_prod_nb_free, xsk_ring_cons, xsk_ring_cons__comp_addr, xsk_ring_cons__peek,
    xsk_ring_cons__release, xsk_ring_prod, xsk_ring_prod__fill_addr, xsk_ring_prod__reserve,
    xsk_ring_prod__submit,
};
use proptest::prelude::*;

use super::{Consumer, Producer, ring};

const SIZE: u32 = 8;

/// Positions from which a few entries lead over the wrap of 32 bits, of 31 and of none.
const STARTS: [u32; 5] = [0, u32::MAX, u32::MAX - 11, i32::MAX as u32 - 3, 1 << 31];

/// One ring of libxdp with both ends here. Where the kernel's end would be, is libxdp's other end.
struct Libxdp {
    producer: xsk_ring_prod,
    consumer: xsk_ring_cons,
    positions: *mut [u32; 2],
    entries: *mut [u64; SIZE as usize],
}

// SAFETY: the structures are each used by one thread; what they share they access as libxdp does
// with the kernel.
unsafe impl Send for Libxdp {}
// SAFETY: as above.
unsafe impl Sync for Libxdp {}

impl Libxdp {
    fn new(start: u32) -> Self {
        let positions = Box::into_raw(Box::new([start; 2]));
        let entries = Box::into_raw(Box::new([0; SIZE as usize]));
        let producer: *mut u32 = positions.cast();
        let consumer = producer.wrapping_add(1);
        let flags = std::ptr::null_mut();
        let ring = entries.cast();
        // As `xsk_socket__create_shared` and `xsk_mmap_umem_rings` fill them in.
        let (mask, size) = (SIZE - 1, SIZE);
        Self {
            producer: xsk_ring_prod {
                cached_prod: start,
                cached_cons: start.wrapping_add(SIZE),
                mask,
                size,
                producer,
                consumer,
                ring,
                flags,
            },
            consumer: xsk_ring_cons {
                cached_prod: start,
                cached_cons: start,
                mask,
                size,
                producer,
                consumer,
                ring,
                flags,
            },
            positions,
            entries,
        }
    }
}

impl Drop for Libxdp {
    fn drop(&mut self) {
        // SAFETY: both came from boxes in `new`, and nobody uses the ring any more.
        unsafe {
            drop(Box::from_raw(self.positions));
            drop(Box::from_raw(self.entries));
        }
    }
}

fn free(ring: *mut xsk_ring_prod, wanted: u32) -> u32 {
    // SAFETY: the ring lives, and this thread alone uses its end.
    unsafe { xsk_prod_nb_free(ring, wanted) }
}

/// As xsk-rs's `FillQueue::produce`.
fn produce(ring: *mut xsk_ring_prod, entries: &[u64]) -> usize {
    let mut at = 0;
    // SAFETY: as in `free`; only what was reserved is written.
    unsafe {
        let count = xsk_ring_prod__reserve(ring, entries.len() as u32, &raw mut at);
        for entry in entries.iter().take(count as usize) {
            *xsk_ring_prod__fill_addr(ring, at) = *entry;
            at = at.wrapping_add(1);
        }
        xsk_ring_prod__submit(ring, count);
        count as usize
    }
}

/// As xsk-rs's `CompQueue::consume`.
fn consume(ring: *mut xsk_ring_cons, most: usize) -> Vec<u64> {
    let mut at = 0;
    // SAFETY: as in `free`; only what is there is read.
    unsafe {
        let count = xsk_ring_cons__peek(ring, most as u32, &raw mut at);
        let entry = |index: u32| *xsk_ring_cons__comp_addr(ring, at.wrapping_add(index));
        let entries = (0..count).map(entry).collect();
        xsk_ring_cons__release(ring, count);
        entries
    }
}

fn consume_ours(ring: &mut Consumer<u64>, most: usize) -> Vec<u64> {
    let mut entries = Vec::new();
    ring.consume(most, |_, entry| entries.push(entry));
    entries
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Produce(usize),
    Consume(usize),
    Free(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (1..6_usize).prop_map(Operation::Produce),
        (1..6_usize).prop_map(Operation::Consume),
        (0..=SIZE).prop_map(Operation::Free),
    ]
}

proptest! {
    #[test]
    fn a_ring_of_this_kernel_does_what_libxdps_does(
        operations in prop::collection::vec(operation(), 1..60),
        start in prop::sample::select(STARTS.to_vec()),
    ) {
        let mut theirs = Libxdp::new(start);
        let (mut producer, mut consumer): (Producer<u64>, Consumer<u64>) = ring(SIZE, start);
        let mut next = 0;
        for operation in operations {
            match operation {
                Operation::Produce(count) => {
                    let entries: Vec<u64> = (next..next + count as u64).collect();
                    let produced = produce(&raw mut theirs.producer, &entries);
                    prop_assert_eq!(producer.produce(&entries), produced);
                    prop_assert!(produced == 0 || produced == count);
                    next += produced as u64;
                }
                Operation::Consume(most) => {
                    let taken = consume(&raw mut theirs.consumer, most);
                    prop_assert_eq!(consume_ours(&mut consumer, most), taken);
                }
                Operation::Free(wanted) => {
                    let theirs = free(&raw mut theirs.producer, wanted);
                    prop_assert_eq!(producer.free(wanted), theirs);
                    prop_assert!(theirs <= SIZE);
                }
            }
        }
    }
}

#[test]
fn libxdps_rings_lose_nothing_between_two_threads_while_positions_wrap() {
    const ENTRIES: u64 = 1_000;
    for start in STARTS {
        let ring = Libxdp::new(start);
        let (mut producer, mut consumer) = (ring.producer, ring.consumer);
        // Pointers do not cross threads by themselves.
        struct End<T>(T);
        // SAFETY: see `Libxdp`.
        unsafe impl<T> Send for End<T> {}
        let end = End(&raw mut producer);
        thread::scope(|scope| {
            scope.spawn(move || {
                let end = end;
                let mut next = 0;
                while next < ENTRIES {
                    let until = ENTRIES.min(next + 1 + next % 5);
                    let entries: Vec<u64> = (next..until).collect();
                    match produce(end.0, &entries) {
                        0 => thread::yield_now(),
                        _ => next = until,
                    }
                }
            });
            let mut expected = 0;
            while expected < ENTRIES {
                let taken = consume(&raw mut consumer, 6);
                if taken.is_empty() {
                    thread::yield_now();
                }
                for entry in taken {
                    assert_eq!(entry, expected, "from {start}");
                    expected += 1;
                }
            }
            assert!(consume(&raw mut consumer, 6).is_empty());
        });
    }
}
