//! An XDP program that passes every frame.
//!
//! A veth takes frames that another device's XDP program redirects to it only when its peer runs
//! NAPI, which an XDP program on the peer turns on (`veth_xdp_xmit` in drivers/net/veth.c). Two
//! instructions need no compiler and no loader library.
#![allow(unsafe_code, reason = "the bpf system call has no safe wrapper")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;
use nix::net::if_::if_nametoindex;

use crate::Result;

// include/uapi/linux/bpf.h, include/uapi/linux/if_link.h
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: u64 = 2;

/// `mov64 r0, XDP_PASS; exit`.
static INSTRUCTIONS: [u64; 2] = [0xb7 | XDP_PASS << 32, 0x95];
static LICENCE: &std::ffi::CStr = c"Dual MIT/GPL";

/// The program, attached in native mode until dropped.
#[derive(Debug)]
pub(crate) struct PassProgram {
    _link: OwnedFd,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The first fields of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl PassProgram {
    /// Attaches to `device` in the calling thread's namespace.
    pub(crate) fn attach(device: &str) -> Result<Self> {
        let interface = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let load = Load {
            program_type: BPF_PROG_TYPE_XDP,
            instruction_count: INSTRUCTIONS.len() as u32,
            instructions: INSTRUCTIONS.as_ptr() as u64,
            licence: LICENCE.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            // Without it a veth with a jumbo MTU refuses native XDP.
            flags: BPF_F_XDP_HAS_FRAGS,
        };
        let program = bpf(BPF_PROG_LOAD, &load).context("cannot load an XDP pass program")?;
        let create = LinkCreate {
            program: program.as_raw_fd().cast_unsigned(),
            interface,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let link = bpf(BPF_LINK_CREATE, &create)
            .with_context(|| format!("cannot attach an XDP pass program to {device}"))?;
        Ok(Self { _link: link })
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is repr(C), lives across the call and its true size is given; both
    // commands used here return a new descriptor.
    unsafe {
        let descriptor =
            libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>());
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor as i32))
    }
}
