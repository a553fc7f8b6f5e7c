//! How much memory a piece of code takes.
//!
//! A length field that decides how much is allocated is a way to take a process down. libFuzzer
//! notices gigabytes; here every target says how much its input may cost, and a few kilobytes too
//! many are found, by the replay under `cargo test` too.

#![allow(unsafe_code, reason = "the one way to see what the allocator is asked for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[derive(Clone, Copy)]
struct Account {
    live: usize,
    peak: usize,
    allocations: usize,
}

thread_local! {
    /// Per thread, so that tests that run beside each other keep their own.
    static ACCOUNT: Cell<Account> = const {
        Cell::new(Account { live: 0, peak: 0, allocations: 0 })
    };
}

fn took(bytes: usize) {
    let Account { live, peak, allocations } = ACCOUNT.get();
    let live = live.saturating_add(bytes);
    ACCOUNT.set(Account { live, peak: peak.max(live), allocations: allocations + 1 });
}

fn gave_back(bytes: usize) {
    let account = ACCOUNT.get();
    // Saturating: what another thread allocated may be given back here.
    ACCOUNT.set(Account { live: account.live.saturating_sub(bytes), ..account });
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract that it keeps with us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave_back(layout.size());
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there while the bytes move.
        took(size);
        gave_back(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a piece of code asked the allocator for, on its own thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Most bytes at once, beyond what was there before.
    pub peak: usize,
    /// How often.
    pub allocations: usize,
}

/// Runs `work` and says what it took.
pub fn used<T>(work: impl FnOnce() -> T) -> (T, Usage) {
    let before = ACCOUNT.get();
    ACCOUNT.set(Account { peak: before.live, ..before });
    let result = work();
    let after = ACCOUNT.get();
    ACCOUNT.set(Account { peak: before.peak.max(after.peak), ..after });
    let usage = Usage {
        peak: after.peak.saturating_sub(before.live),
        allocations: after.allocations - before.allocations,
    };
    (result, usage)
}

/// Runs `work`, whose memory nobody is to count: that of a check, not of what is checked.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ACCOUNT.get();
    let result = work();
    ACCOUNT.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_and_not_what_is_left() {
        let (_, usage) = used(|| {
            drop(vec![1_u8; 5000]);
            vec![1_u8; 3000]
        });
        assert_eq!(usage, Usage { peak: 5000, allocations: 2 });
    }

    #[test]
    fn a_measurement_within_another_is_part_of_it() {
        let ((_, inner), outer) = used(|| {
            let kept = vec![0_u8; 100];
            let (_, inner) = used(|| drop(vec![0_u8; 1000]));
            (kept, inner)
        });
        assert_eq!(inner.peak, 1000);
        assert_eq!(outer, Usage { peak: 1100, allocations: 2 });
    }

    #[test]
    fn what_is_not_to_be_counted_is_not() {
        let ((), usage) = used(|| uncounted(|| drop(vec![0_u8; 1000])));
        assert_eq!(usage, Usage { peak: 0, allocations: 0 });
    }
}
