//! What the classifiers need of a socket buffer beside what aya has.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_MAC;
use aya_ebpf::helpers::generated::{
    bpf_skb_change_head, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;

/// An Ethernet header.
type Ethernet = [u8; 14];

/// Sets the mark that goes with the frame, and with its copies.
#[inline(always)]
pub(crate) fn set_mark(frame: &TcContext, mark: u32) {
    // SAFETY: the context is the program's own, and the field is writable.
    unsafe { (*frame.skb.skb).mark = mark };
}

/// Puts `N` bytes in front of the frame.
#[inline(always)]
pub(crate) fn prepend<const N: usize>(frame: &TcContext, bytes: &[u8; N]) -> bool {
    // SAFETY: the helpers take the program's own context, and read `N` bytes of `bytes`.
    unsafe {
        bpf_skb_change_head(frame.skb.skb, N as u32, 0) == 0
            && bpf_skb_store_bytes(frame.skb.skb, 0, bytes.as_ptr().cast(), N as u32, 0) == 0
    }
}

/// Makes the frame begin with its Ethernet header. Behind a generic XDP program it may not: where
/// the kernel had to copy the buffer for that one (`skb_cow_data_for_xdp` in net/core/skbuff.c), the
/// copy has lost the header's length, and classifiers see it from the network header on.
#[inline(always)]
pub(crate) fn make_whole(frame: &TcContext) -> bool {
    let mut header = MaybeUninit::<Ethernet>::uninit();
    // SAFETY: the helper takes the program's own context, and writes the whole header or fails.
    let header = unsafe {
        let (to, length) = (header.as_mut_ptr().cast(), size_of::<Ethernet>() as u32);
        if bpf_skb_load_bytes_relative(frame.skb.skb.cast(), 0, to, length, BPF_HDR_START_MAC) != 0
        {
            return false;
        }
        header.assume_init()
    };
    match frame.load::<Ethernet>(0) {
        Ok(first) if first == header => true,
        _ => prepend(frame, &header),
    }
}
