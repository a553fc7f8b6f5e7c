//! The Internet checksum over part of a frame (RFC 1071).

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_xdp_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use compare_ebpf::rewrite::fold;

/// Bytes summed at once; `bpf_csum_diff` takes up to 512.
const CHUNK: usize = 256;

/// Chunks in the longest datagram.
const MOST_CHUNKS: u32 = 65_536 / CHUNK as u32;

/// Where a chunk is copied to: too large for the stack.
#[map]
static SUMMED: PerCpuArray<[u8; CHUNK]> = PerCpuArray::with_max_entries(1, 0);

/// The one's complement sum of the bytes from `at` to `end`, folded, in words as they are loaded.
/// `None` if the frame ends earlier.
#[inline(always)]
pub(crate) fn of(frame: &XdpContext, at: u32, end: u32) -> Option<u32> {
    let mut running = Running { buffer: SUMMED.get_ptr_mut(0)?.cast(), at, end, sum: 0 };
    for _ in 0..MOST_CHUNKS {
        if !running.take::<CHUNK>(frame)? {
            break;
        }
    }
    running.take::<128>(frame)?;
    running.take::<64>(frame)?;
    running.take::<32>(frame)?;
    running.take::<16>(frame)?;
    running.take::<8>(frame)?;
    running.take::<4>(frame)?;
    // SAFETY: the buffer has room for four bytes, and no padding is needed: a missing byte counts
    // as zero.
    unsafe { running.buffer.cast::<[u8; 4]>().write([0; 4]) };
    let mut tail = 0;
    for _ in 0..3 {
        if running.at < end {
            // SAFETY: the helper writes one byte within the four.
            unsafe {
                if bpf_xdp_load_bytes(frame.ctx, running.at, running.buffer.add(tail).cast(), 1)
                    != 0
                {
                    return None;
                }
            }
            tail += 1;
            running.at += 1;
        }
    }
    running.add::<4>();
    Some(fold(running.sum))
}

struct Running {
    buffer: *mut u8,
    at: u32,
    end: u32,
    sum: u32,
}

impl Running {
    /// Adds the next `N` bytes, if there are as many: `N` is a multiple of four.
    #[inline(always)]
    fn take<const N: usize>(&mut self, frame: &XdpContext) -> Option<bool> {
        if self.at + N as u32 > self.end {
            return Some(false);
        }
        // SAFETY: the helper writes `N` bytes of the buffer, which has at least as many.
        let failed =
            unsafe { bpf_xdp_load_bytes(frame.ctx, self.at, self.buffer.cast(), N as u32) };
        if failed != 0 {
            return None;
        }
        self.add::<N>();
        self.at += N as u32;
        Some(true)
    }

    /// Adds the first `N` bytes of the buffer.
    #[inline(always)]
    fn add<const N: usize>(&mut self) {
        // SAFETY: the helper reads `N` bytes of the buffer, and none of the other one.
        let sum =
            unsafe { bpf_csum_diff(ptr::null_mut(), 0, self.buffer.cast(), N as u32, self.sum) };
        self.sum = sum as u32;
    }
}
