//! The smallest XDP program that feeds a port: whatever comes in on a queue goes to the socket in
//! that slot of the XSKMAP.

#![allow(unsafe_code, reason = "raw bpf(2) calls, to test the port without the real program")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys as bpf;

use super::network::index;

/// The program and its map, attached to a device until the device goes.
pub(crate) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
}

fn owned(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: a new descriptor, checked, that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// One instruction: code, registers (source << 4 | destination), offset, immediate.
fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> bpf::bpf_insn {
    let mut bytes = [0; 8];
    bytes[0] = code;
    bytes[1] = registers;
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    // SAFETY: bpf_insn is eight bytes of plain integers, any of which is valid.
    unsafe { std::mem::transmute(bytes) }
}

fn load(program: &[bpf::bpf_insn]) -> OwnedFd {
    let options = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as bpf::size_t,
        prog_flags: bpf::BPF_F_XDP_HAS_FRAGS,
        ..Default::default()
    };
    // SAFETY: every pointer is to a live value of the type and length that libbpf expects.
    owned(unsafe {
        bpf::bpf_prog_load(
            bpf::BPF_PROG_TYPE_XDP,
            c"redirect".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as bpf::size_t,
            &raw const options as *mut _,
        )
    })
}

impl Redirect {
    /// Loads the program and attaches it to `device` in native mode.
    pub(crate) fn attach(device: &str) -> Self {
        // SAFETY: the name is a live C string; no options are passed.
        let map = owned(unsafe {
            bpf::bpf_map_create(
                bpf::BPF_MAP_TYPE_XSKMAP,
                c"sockets".as_ptr(),
                4,
                4,
                4,
                std::ptr::null(),
            )
        });
        let program = load(&[
            instruction(0x61, 0x12, 16, 0), // r2 = context.rx_queue_index
            instruction(0x18, 0x11, 0, map.as_raw_fd()), // r1 = map, in two instructions
            instruction(0, 0, 0, 0),
            instruction(0xb7, 0x03, 0, 1), // r3 = XDP_DROP where the slot is empty
            instruction(0x85, 0, 0, 51),   // bpf_redirect_map
            instruction(0x95, 0, 0, 0),    // exit
        ]);
        // SAFETY: no pointers but a null for "no options".
        let attached = unsafe {
            bpf::bpf_xdp_attach(
                index(device) as i32,
                program.as_raw_fd(),
                bpf::XDP_FLAGS_DRV_MODE,
                std::ptr::null(),
            )
        };
        assert_eq!(attached, 0, "attaching to {device}");
        Self { map, _program: program }
    }

    /// Sends what comes in on `queue` to this socket.
    pub(crate) fn to(&self, queue: u32, socket: &impl AsFd) {
        let value = socket.as_fd().as_raw_fd();
        // SAFETY: key and value are four bytes each, as the map was made.
        let result = unsafe {
            bpf::bpf_map_update_elem(
                self.map.as_raw_fd(),
                (&raw const queue).cast(),
                (&raw const value).cast(),
                0,
            )
        };
        assert_eq!(result, 0, "registering the socket");
    }
}
