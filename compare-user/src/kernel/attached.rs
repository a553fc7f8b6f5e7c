//! What is attached to a device, and what its driver says it can do.
#![allow(unsafe_code, reason = "libbpf-rs asks for a program before it lets one query a device")]

use std::path::Path;

use libbpf_rs::libbpf_sys;

use super::attach::AttachedMode;
use super::bpffs::{self, PinnedLink};
use super::device::Device;
use super::error::KernelError;

/// An XDP program on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's id of the program.
    pub program_id: u32,
    /// The program's name; empty without the privilege to ask.
    pub name: String,
    /// The mode that it runs in.
    pub mode: AttachedMode,
    /// Kept by a pin in the default directory: a colo-xdp runs there or has left the device
    /// closed.
    pub pinned_by_us: bool,
}

/// What a driver says about XDP (Linux 6.3 and later; all off before).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpFeatures {
    /// The driver answers at all.
    pub known: bool,
    /// Native XDP programs.
    pub native: bool,
    /// Redirecting received frames.
    pub redirect: bool,
    /// Accepting frames that others redirect to it. A veth does while its peer has NAPI.
    pub accepts_redirect: bool,
    /// Zero-copy AF_XDP. A driver that says yes may still refuse a bind.
    pub zero_copy: bool,
    /// Receiving frames longer than one buffer.
    pub multi_buffer: bool,
    /// Accepting redirected frames longer than one buffer.
    pub accepts_multi_buffer: bool,
}

// `enum netdev_xdp_act` of linux/netdev.h.
const XDP_ACT_BASIC: u64 = 1 << 0;
const XDP_ACT_REDIRECT: u64 = 1 << 1;
const XDP_ACT_NDO_XMIT: u64 = 1 << 2;
const XDP_ACT_XSK_ZEROCOPY: u64 = 1 << 3;
const XDP_ACT_RX_SG: u64 = 1 << 5;
const XDP_ACT_NDO_XMIT_SG: u64 = 1 << 6;

/// The programs that may be pinned on a device.
const PROGRAMS: [&str; 5] = ["steer", "mirror", "relay_guest", "relay_link", "relay_nic"];

impl Device {
    /// The XDP program on the device, if there is one. Privilege is only needed for its name.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn attached(&self) -> Result<Option<Attached>, KernelError> {
        let answer = query(self)?;
        let (mode, program_id) = match answer.attach_mode.into() {
            libbpf_sys::XDP_ATTACHED_DRV => (AttachedMode::Native, answer.drv_prog_id),
            libbpf_sys::XDP_ATTACHED_SKB => (AttachedMode::Generic, answer.skb_prog_id),
            libbpf_sys::XDP_ATTACHED_HW => (AttachedMode::Offloaded, answer.hw_prog_id),
            // Native or generic beside an offloaded one.
            libbpf_sys::XDP_ATTACHED_MULTI if answer.drv_prog_id != 0 => {
                (AttachedMode::Native, answer.drv_prog_id)
            }
            libbpf_sys::XDP_ATTACHED_MULTI => (AttachedMode::Generic, answer.skb_prog_id),
            _ => return Ok(None),
        };
        let directory = Path::new(bpffs::DEFAULT_PIN_DIRECTORY);
        let pinned = PROGRAMS.iter().any(|program| {
            let pin = bpffs::pin_path(directory, program, self);
            let pinned = PinnedLink::open(&pin).ok().flatten();
            pinned.is_some_and(|pinned| pinned.program_id == program_id)
        });
        Ok(Some(Attached {
            program_id,
            name: name_of(program_id).unwrap_or_default(),
            mode,
            pinned_by_us: pinned,
        }))
    }

    /// What the device's driver says about XDP.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn xdp_features(&self) -> Result<XdpFeatures, KernelError> {
        let flags = query(self)?.feature_flags;
        Ok(XdpFeatures {
            known: flags != 0,
            native: flags & XDP_ACT_BASIC != 0,
            redirect: flags & XDP_ACT_REDIRECT != 0,
            accepts_redirect: flags & XDP_ACT_NDO_XMIT != 0,
            zero_copy: flags & XDP_ACT_XSK_ZEROCOPY != 0,
            multi_buffer: flags & XDP_ACT_RX_SG != 0,
            accepts_multi_buffer: flags & XDP_ACT_NDO_XMIT_SG != 0,
        })
    }
}

fn query(device: &Device) -> Result<libbpf_sys::bpf_xdp_query_opts, KernelError> {
    let mut answer = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the options are ours and `sz` is their length, which is all that libbpf relies on.
    let result = unsafe { libbpf_sys::bpf_xdp_query(device.index as i32, 0, &mut answer) };
    if result < 0 {
        let cause = std::io::Error::from_raw_os_error(-result);
        return Err(KernelError::failed(&device.name, "asking for its XDP program", cause));
    }
    Ok(answer)
}

fn name_of(program_id: u32) -> Option<String> {
    let mut programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == program_id)?;
    program.name_as_str().map(str::to_owned)
}
