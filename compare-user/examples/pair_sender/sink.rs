//! What stands where the network would be: an XDP program that counts every frame, adds up the
//! numbers that the frames carry, and drops them. If wanted it also notes when some of them arrived.
//!
//! A few dozen instructions need no compiler and no loader. Their maps are such that user space can map
//! them into its memory (`BPF_F_MMAPABLE`), so that looking at the count costs a load and no system
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
const BPF_KTIME_GET_NS: i32 = 5;
const BPF_PSEUDO_MAP_FD: u8 = 1;
static LICENCE: &CStr = c"Dual MIT/GPL";

/// Bytes of a page: what is mapped is a multiple of it.
const PAGE: usize = 4096;

/// The arrival of every frame whose number is a multiple of this is noted.
pub(crate) const SAMPLED: u64 = 1 << SAMPLED_BITS;
const SAMPLED_BITS: i32 = 4;
/// Arrivals that are remembered; one of later frames takes the place of an earlier one.
const ARRIVALS: u64 = 4096;

/// What the map holds.
#[repr(C)]
struct Tally {
    frames: AtomicU64,
    sum: AtomicU64,
}

/// When one frame arrived.
#[repr(C)]
struct Arrival {
    /// Which one; written last.
    number: AtomicU64,
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    at: AtomicU64,
}

/// What the program is to do beside counting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Where in a frame its number stands, in this machine's byte order.
    pub(crate) number_at: usize,
    /// Whether arrivals are noted.
    pub(crate) arrivals: bool,
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
    arrivals: Option<NonNull<[Arrival; ARRIVALS as usize]>>,
}

impl Sink {
    /// Attaches to `device` in the calling thread's namespace.
    pub(crate) fn attach(device: &str, reading: Reading) -> anyhow::Result<Self> {
        let interface = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let (counted, tally) = shared_array(1).context("cannot make the sink's counters")?;
        let noted = match reading.arrivals {
            true => Some(shared_array(ARRIVALS as u32).context("cannot make the sink's notes")?),
            false => None,
        };
        let arrivals = noted.as_ref().map(|(map, _)| map.as_raw_fd());
        let code = program(reading.number_at as i16, counted.as_raw_fd(), arrivals);
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
        let arrivals = noted.map(|(_, memory)| memory.cast());
        Ok(Self { _link: link, tally: tally.cast(), arrivals })
    }

    /// When the frame with this number arrived, in nanoseconds of CLOCK_MONOTONIC. None when it has
    /// not, its arrival is not noted, or later frames have taken its place.
    pub(crate) fn arrival(&self, number: u64) -> Option<u64> {
        // SAFETY: as for the tally.
        let arrivals = unsafe { self.arrivals?.as_ref() };
        let arrival = &arrivals[(number / SAMPLED % ARRIVALS) as usize];
        let noted = || arrival.number.load(Ordering::Acquire) == number;
        let at = noted().then(|| arrival.at.load(Ordering::Acquire))?;
        // Not overwritten in between.
        noted().then_some(at)
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

/// Makes an array of `entries` times two 64-bit words, and maps it.
fn shared_array(entries: u32) -> io::Result<(OwnedFd, NonNull<()>)> {
    const ENTRY: usize = 2 * size_of::<u64>();
    let create = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: ENTRY as u32,
        max_entries: entries,
        flags: BPF_F_MMAPABLE,
    };
    let map = bpf(BPF_MAP_CREATE, &create)?;
    let length = (entries as usize * ENTRY).next_multiple_of(PAGE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            map.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let address = NonNull::new(address.cast());
    Ok((map, address.ok_or_else(|| io::Error::other("mapped at address 0"))?))
}

/// One instruction: operation, destination and source register, offset, immediate value.
const fn instruction(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | ((from << 4 | to) as u64) << 8
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// Operations (Documentation/bpf/standardization/instruction-set.rst).
mod operation {
    pub(super) const MOVE_IMMEDIATE: u8 = 0xb7;
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const ADD_IMMEDIATE: u8 = 0x07;
    pub(super) const AND_IMMEDIATE: u8 = 0x57;
    pub(super) const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const LOAD_DOUBLE: u8 = 0x79;
    pub(super) const LOAD_IMMEDIATE: u8 = 0x18;
    pub(super) const STORE_WORD: u8 = 0x63;
    pub(super) const STORE_DOUBLE: u8 = 0x7b;
    pub(super) const STORE_WORD_IMMEDIATE: u8 = 0x62;
    pub(super) const ATOMIC_DOUBLE: u8 = 0xdb;
    pub(super) const JUMP_GREATER: u8 = 0x2d;
    pub(super) const JUMP_EQUAL_IMMEDIATE: u8 = 0x15;
    pub(super) const JUMP_ANY_BIT_IMMEDIATE: u8 = 0x45;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
}

/// The program, for the maps with these descriptors.
fn program(number_at: i16, tally: i32, arrivals: Option<i32>) -> Vec<u64> {
    use operation::*;
    // r8 = the number, 0 in a frame that ends before it
    let mut code = vec![
        instruction(MOVE_IMMEDIATE, 8, 0, 0, 0),
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, i32::from(number_at) + 8),
        instruction(JUMP_GREATER, 4, 3, 1, 0),
        instruction(LOAD_DOUBLE, 8, 2, number_at, 0),
    ];
    if let Some(arrivals) = arrivals {
        code.extend(note_arrival(arrivals));
    }
    code.extend([
        // r0 = the tally
        instruction(STORE_WORD_IMMEDIATE, 10, 0, -4, 0),
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_IMMEDIATE, 2, 0, 0, -4),
        instruction(LOAD_IMMEDIATE, 1, BPF_PSEUDO_MAP_FD, 0, tally),
        0,
        instruction(CALL, 0, 0, 0, BPF_MAP_LOOKUP_ELEM),
        instruction(JUMP_EQUAL_IMMEDIATE, 0, 0, 3, 0),
        // The sum first: whoever has seen the count sees it too.
        instruction(ATOMIC_DOUBLE, 0, 8, 8, 0),
        instruction(MOVE_IMMEDIATE, 1, 0, 0, 1),
        instruction(ATOMIC_DOUBLE, 0, 1, 0, 0),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    code
}

/// Notes when the frame with the number in r8 arrived, if it is one of those.
fn note_arrival(arrivals: i32) -> [u64; 16] {
    use operation::*;
    [
        instruction(JUMP_EQUAL_IMMEDIATE, 8, 0, 15, 0),
        instruction(JUMP_ANY_BIT_IMMEDIATE, 8, 0, 14, SAMPLED as i32 - 1),
        // r7 = now
        instruction(CALL, 0, 0, 0, BPF_KTIME_GET_NS),
        instruction(MOVE, 7, 0, 0, 0),
        // r0 = its place
        instruction(MOVE, 1, 8, 0, 0),
        instruction(SHIFT_RIGHT_IMMEDIATE, 1, 0, 0, SAMPLED_BITS),
        instruction(AND_IMMEDIATE, 1, 0, 0, ARRIVALS as i32 - 1),
        instruction(STORE_WORD, 10, 1, -4, 0),
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_IMMEDIATE, 2, 0, 0, -4),
        instruction(LOAD_IMMEDIATE, 1, BPF_PSEUDO_MAP_FD, 0, arrivals),
        0,
        instruction(CALL, 0, 0, 0, BPF_MAP_LOOKUP_ELEM),
        instruction(JUMP_EQUAL_IMMEDIATE, 0, 0, 2, 0),
        // The number last: whoever has seen it sees the time too.
        instruction(STORE_DOUBLE, 0, 7, 8, 0),
        instruction(STORE_DOUBLE, 0, 8, 0, 0),
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
