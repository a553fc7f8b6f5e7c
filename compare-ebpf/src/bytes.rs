//! Reading and writing the bytes of a frame.
//!
//! Through helpers: their range check is the only one needed, and they follow a frame into its
//! fragments.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;

/// Length of a frame, fragments included, from the Ethernet header on.
#[inline(always)]
pub(crate) fn length(frame: &XdpContext) -> u32 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_xdp_get_buff_len(frame.ctx) as u32 }
}

/// Copies a header out of the frame, `None` if the frame ends before it does.
#[inline(always)]
pub(crate) fn load<T: Copy>(frame: &XdpContext, offset: u32) -> Option<T> {
    let mut header = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes, or fails and writes none that are
    // read; every `T` here is made of integers.
    unsafe {
        let length = size_of::<T>() as u32;
        if bpf_xdp_load_bytes(frame.ctx, offset, header.as_mut_ptr().cast(), length) != 0 {
            return None;
        }
        Some(header.assume_init())
    }
}

/// Writes a header into the frame, `None` if the frame ends before it does.
#[inline(always)]
pub(crate) fn store<T: Copy>(frame: &XdpContext, offset: u32, value: &T) -> Option<()> {
    let length = size_of::<T>() as u32;
    // SAFETY: the helper reads exactly `length` bytes of `value`, which has no padding.
    let failed = unsafe {
        let bytes = core::ptr::from_ref(value).cast_mut().cast();
        bpf_xdp_store_bytes(frame.ctx, offset, bytes, length)
    };
    (failed == 0).then_some(())
}
