//! What stands where the network would be: an XDP program that counts every frame, adds up the
//! numbers that the frames carry, and drops them.
//!
//! Twenty instructions need no compiler and no loader. Their map is one that user space can map
//! into its memory (`BPF_F_MMAPABLE`), so that looking at the count costs a load and no system
//! call: the sender looks once per batch, without pause while its window is closed.

#![allow(unsafe_code, reason = "the bpf system call has no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use nix::net::if_::if_nametoindex;

use crate::frames::TAG_AT;

// include/uapi/linux/bpf.h, include/uapi/linux/if_link.h
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_DROP: i32 = 1;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_PSEUDO_MAP_FD: u8 = 1;
static LICENCE: &CStr = c"Dual MIT/GPL";

/// Bytes that are mapped: an array of one element takes a page.
const PAGE: usize = 4096;

/// What the map holds.
#[repr(C)]
struct Tally {
    frames: AtomicU64,
    sum: AtomicU64,
}

/// The first fields of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
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

/// The program, attached in native mode until dropped.
pub(crate) struct Sink {
    _link: OwnedFd,
    tally: NonNull<Tally>,
}

impl Sink {
    /// Attaches to `device` in the calling thread's namespace.
    pub(crate) fn attach(device: &str) -> anyhow::Result<Self> {
        let interface = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let map = bpf(
            BPF_MAP_CREATE,
            &MapCreate {
                map_type: BPF_MAP_TYPE_ARRAY,
                key_size: 4,
                value_size: size_of::<Tally>() as u32,
                max_entries: 1,
                flags: BPF_F_MMAPABLE,
            },
        )
        .context("cannot make the sink's map")?;
        let tally = map_memory(&map).context("cannot map the sink's counters")?;
        let code = program(map.as_raw_fd());
        let load = Load {
            program_type: BPF_PROG_TYPE_XDP,
            instruction_count: code.len() as u32,
            instructions: code.as_ptr() as u64,
            licence: LICENCE.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            flags: 0,
        };
        let program = bpf(BPF_PROG_LOAD, &load).context("cannot load the sink's program")?;
        let create = LinkCreate {
            program: program.as_raw_fd().cast_unsigned(),
            interface,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let link = bpf(BPF_LINK_CREATE, &create)
            .with_context(|| format!("cannot attach the sink's program to {device}"))?;
        Ok(Self { _link: link, tally })
    }

    /// Frames that have arrived.
    pub(crate) fn frames(&self) -> u64 {
        self.tally().frames.load(Ordering::Relaxed)
    }

    /// Sum of the numbers that they carry, modulo 2^64.
    pub(crate) fn sum(&self) -> u64 {
        self.tally().sum.load(Ordering::Relaxed)
    }

    fn tally(&self) -> &Tally {
        // SAFETY: mapped for as long as the process lives, page-aligned, and only ever changed
        // atomically, here and in the program.
        unsafe { self.tally.as_ref() }
    }
}

fn map_memory(map: &OwnedFd) -> io::Result<NonNull<Tally>> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_READ,
            libc::MAP_SHARED,
            map.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

/// One instruction: operation, destination and source register, offset, immediate value.
const fn instruction(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | ((from << 4 | to) as u64) << 8
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// The program, for the map with this descriptor.
fn program(map: i32) -> [u64; 19] {
    /// Operations (Documentation/bpf/standardization/instruction-set.rst).
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const MOVE: u8 = 0xbf;
    const ADD_IMMEDIATE: u8 = 0x07;
    const LOAD_WORD: u8 = 0x61;
    const LOAD_DOUBLE: u8 = 0x79;
    const LOAD_IMMEDIATE: u8 = 0x18;
    const STORE_WORD_IMMEDIATE: u8 = 0x62;
    const ATOMIC_DOUBLE: u8 = 0xdb;
    const JUMP_GREATER: u8 = 0x2d;
    const JUMP_EQUAL_IMMEDIATE: u8 = 0x15;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    let tag = TAG_AT as i16;
    [
        // r8 = the number at TAG_AT, 0 in a frame that ends before it
        instruction(MOVE_IMMEDIATE, 8, 0, 0, 0),
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, i32::from(tag) + 8),
        instruction(JUMP_GREATER, 4, 3, 1, 0),
        instruction(LOAD_DOUBLE, 8, 2, tag, 0),
        // r0 = the tally
        instruction(STORE_WORD_IMMEDIATE, 10, 0, -4, 0),
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_IMMEDIATE, 2, 0, 0, -4),
        instruction(LOAD_IMMEDIATE, 1, BPF_PSEUDO_MAP_FD, 0, map),
        0,
        instruction(CALL, 0, 0, 0, BPF_MAP_LOOKUP_ELEM),
        instruction(JUMP_EQUAL_IMMEDIATE, 0, 0, 3, 0),
        // The sum first: whoever has seen the count sees it too.
        instruction(ATOMIC_DOUBLE, 0, 8, 8, 0),
        instruction(MOVE_IMMEDIATE, 1, 0, 0, 1),
        instruction(ATOMIC_DOUBLE, 0, 1, 0, 0),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is repr(C), lives across the call and its true size is given; the
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
