//! Counting frames.

use aya_ebpf::maps::PerCpuArray;
use compare_ebpf::Tally;

/// Adds a frame of `length` bytes to this CPU's tally at `index`.
#[inline(always)]
pub(crate) fn add(tallies: &PerCpuArray<Tally>, index: u32, length: u32) {
    let Some(tally) = tallies.get_ptr_mut(index) else { return };
    // SAFETY: a per-CPU slot, and this CPU runs one program of its kind at a time.
    unsafe {
        (*tally).packets += 1;
        (*tally).bytes += u64::from(length);
    }
}
