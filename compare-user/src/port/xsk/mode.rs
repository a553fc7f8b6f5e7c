//! Socket options that xsk-rs does not offer: what mode was obtained, and how much is sent per
//! system call.

#![allow(unsafe_code, reason = "socket options of SOL_XDP have no safe wrapper")]

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h, since 6.17: descriptors that one `sendto` takes off
/// the TX ring in copy mode.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Whether the kernel runs this bound socket in zero-copy mode.
pub(super) fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    let mut length = size_of_val(&options) as libc::socklen_t;
    // SAFETY: the pointers are to live locals, and `length` says how much there is to write.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Sets how many descriptors one system call sends in copy mode; the kernel's default is 32.
pub(super) fn set_send_budget(socket: BorrowedFd<'_>, descriptors: u32) -> io::Result<()> {
    // SAFETY: the pointer is to a live local of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            MAX_TX_SKB_BUDGET,
            (&raw const descriptors).cast(),
            size_of_val(&descriptors) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
