//! `BPF_PROG_TEST_RUN`: a program that the product has loaded, one frame, and what it did.
//!
//! The kernel runs the program and returns its action and the frame after it; it carries out no
//! redirect of an XDP program. What a classifier clones does leave.
#![allow(unsafe_code, reason = "libbpf-rs runs only programs that it has loaded itself")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::MapInfo;
use aya::programs::{ProgramFd, ProgramInfo, loaded_programs};
use compare_user::kernel::{Device, Tally};
use libbpf_rs::libbpf_sys;

// linux/bpf.h.
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_REDIRECT: u32 = 4;
// linux/pkt_cls.h.
pub(super) const TC_ACT_OK: u32 = 0;
pub(super) const TC_ACT_SHOT: u32 = 2;
pub(super) const TC_ACT_REDIRECT: u32 = 7;

/// What became of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// What the program returned.
    pub(crate) action: u32,
    /// The frame behind it.
    pub(super) frame: Vec<u8>,
}

/// A program in the kernel.
pub(crate) struct Program(ProgramFd);

impl Program {
    /// The XDP program on a device.
    pub(crate) fn on(device: &Device) -> Self {
        let id = device.attached().unwrap().expect("a program on the device").program_id;
        Self::only(|program| program.id() == id)
    }

    /// The program of this name that uses the map pinned at `map`: names repeat between the
    /// processes of a machine, maps do not.
    pub(super) fn with(name: &str, map: &Path) -> Self {
        let map = MapInfo::from_pin(map).unwrap().id();
        Self::only(|program| {
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            program.name_as_str() == Some(name) && maps.contains(&map)
        })
    }

    fn only(is_it: impl Fn(&ProgramInfo) -> bool) -> Self {
        let mut found = loaded_programs().filter_map(Result::ok).filter(is_it);
        let program = found.next().expect("a loaded program");
        assert!(found.next().is_none(), "two programs like this");
        Self(program.fd().unwrap())
    }

    /// Runs an XDP program on one frame.
    pub(crate) fn run(&self, frame: &[u8]) -> Ran {
        self.ran(frame, libbpf_sys::bpf_test_run_opts::default())
    }

    /// Runs an XDP program on the same frame again and again; nanoseconds for each.
    pub(crate) fn cost(&self, frame: &[u8], repeat: i32) -> (u32, u32) {
        let options = libbpf_sys::bpf_test_run_opts { repeat, ..Default::default() };
        let options = self.test(frame, &mut [], options);
        (options.retval, options.duration)
    }

    /// Runs a classifier on one frame that has come in on a device with a mark.
    pub(super) fn classify(&self, frame: &[u8], device: &Device, mark: u32) -> Ran {
        // struct __sk_buff of linux/bpf.h; what a caller may not set is zero.
        let mut context = [0_u8; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[40..44].copy_from_slice(&device.index.to_ne_bytes());
        let options = libbpf_sys::bpf_test_run_opts {
            ctx_in: context.as_ptr().cast(),
            ctx_size_in: context.len() as u32,
            ..Default::default()
        };
        self.ran(frame, options)
    }

    fn ran(&self, frame: &[u8], options: libbpf_sys::bpf_test_run_opts) -> Ran {
        // Outer headers are shorter.
        let mut after = vec![0; frame.len() + 256];
        let options = self.test(frame, &mut after, options);
        after.truncate(options.data_size_out as usize);
        Ran { action: options.retval, frame: after }
    }

    fn test(
        &self,
        frame: &[u8],
        after: &mut [u8],
        options: libbpf_sys::bpf_test_run_opts,
    ) -> libbpf_sys::bpf_test_run_opts {
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as u32,
            data_out: if after.is_empty() {
                std::ptr::null_mut()
            } else {
                after.as_mut_ptr().cast()
            },
            data_size_out: after.len() as u32,
            ..options
        };
        let program = self.0.as_fd().as_raw_fd();
        // SAFETY: frame, room behind it, context and options live through the call, with their true
        // lengths.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program, &mut options) };
        assert_eq!(result, 0, "test run of {} bytes: {}", frame.len(), io::Error::last_os_error());
        options
    }
}

/// Counters, and what they were when last looked at.
pub(super) struct Counters<K>(RefCell<Vec<(K, Tally)>>);

impl<K: Copy + PartialEq> Counters<K> {
    pub(super) fn from(now: Vec<(K, Tally)>) -> Self {
        Self(RefCell::new(now))
    }

    /// Those that have moved since the last call, and by how much.
    pub(super) fn moved(&self, now: Vec<(K, Tally)>) -> Vec<(K, Tally)> {
        let before = self.0.replace(now);
        let now = self.0.borrow();
        let differences = before.iter().zip(now.iter()).map(|((key, old), (_, new))| {
            let packets = new.packets - old.packets;
            (*key, Tally { packets, bytes: new.bytes - old.bytes })
        });
        differences.filter(|(_, tally)| *tally != Tally::default()).collect()
    }
}

/// What has moved when one frame of this length was counted once, under this key.
pub(super) fn once<K>(key: K, frame: &[u8]) -> (K, Tally) {
    (key, Tally { packets: 1, bytes: frame.len() as u64 })
}
