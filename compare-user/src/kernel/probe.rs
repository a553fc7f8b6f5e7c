//! What this process may do and what this kernel can do.
#![allow(unsafe_code, reason = "no safe wrapper opens an AF_XDP socket")]

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use libbpf_rs::{MapType, ProgramType, libbpf_sys};
use nix::sys::resource::{Resource, getrlimit};

use super::bpffs;

/// A capability, by its bit in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Attach programs, change devices.
    NetAdmin = 12,
    /// Open AF_XDP sockets.
    NetRaw = 13,
    /// Lock frame memory beyond `ulimit -l`.
    IpcLock = 14,
    /// Mount the BPF file system; stands in for `Bpf`.
    SysAdmin = 21,
    /// Load programs and maps.
    Bpf = 39,
}

impl Capability {
    /// All that colo-xdp asks for.
    pub const ALL: [Self; 5] =
        [Self::NetAdmin, Self::NetRaw, Self::Bpf, Self::SysAdmin, Self::IpcLock];

    /// Name as in capabilities(7).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// The effective capabilities of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of the calling thread; none if /proc cannot be read.
    #[must_use]
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether one is held, or another that includes it.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        let holds = |capability: Capability| self.0 & (1 << capability as u32) != 0;
        holds(capability) || (capability == Capability::Bpf && holds(Capability::SysAdmin))
    }

    /// Names of those that are not held, `none` if all are.
    #[must_use]
    pub fn missing(self) -> String {
        let missing = Capability::ALL.into_iter().filter(|capability| !self.has(*capability));
        let names: Vec<_> = missing.map(Capability::name).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// Whether a kernel feature is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// The kernel would not say.
    Unknown(String),
}

impl Support {
    /// Asks through libbpf, which takes any refusal for an absence: so not without the privilege.
    fn ask(
        capabilities: Capabilities,
        question: impl FnOnce() -> Result<bool, libbpf_rs::Error>,
    ) -> Self {
        if !capabilities.has(Capability::Bpf) || !capabilities.has(Capability::NetAdmin) {
            return Self::Unknown("needs CAP_BPF and CAP_NET_ADMIN".into());
        }
        match question() {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// Whether the BPF just-in-time compiler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jit {
    /// It does.
    On,
    /// Programs are interpreted.
    Off,
    /// The setting is only visible in the first network namespace.
    Unknown,
}

/// What the host offers.
#[derive(Debug, Clone)]
pub struct Host {
    /// Kernel release.
    pub release: String,
    /// Capabilities held.
    pub capabilities: Capabilities,
    /// Bytes of memory that may be locked, `u64::MAX` for all. The kernel ignores the limit for a
    /// holder of CAP_IPC_LOCK.
    pub locked_memory: u64,
    /// AF_XDP sockets.
    pub af_xdp: Support,
    /// XDP programs.
    pub xdp: Support,
    /// XSKMAP, which redirects to AF_XDP sockets.
    pub xskmap: Support,
    /// DEVMAP, which redirects to devices.
    pub devmap: Support,
    /// The helpers that read frames longer than one buffer, Linux 5.18.
    pub multi_buffer: Support,
    /// The just-in-time compiler.
    pub jit: Jit,
    /// The kernel describes its types.
    pub btf: bool,
    /// A BPF file system is mounted on /sys/fs/bpf.
    pub bpffs: bool,
}

impl Host {
    /// Asks the kernel. Loads and discards tiny programs and maps where there is no other way.
    #[must_use]
    pub fn probe() -> Self {
        // A refused probe is an answer, not something to print.
        let print = libbpf_rs::set_print(None);
        let capabilities = Capabilities::of_this_process();
        let helper = libbpf_sys::BPF_FUNC_xdp_load_bytes;
        let host = Self {
            release: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            capabilities,
            locked_memory: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
            af_xdp: af_xdp(),
            xdp: Support::ask(capabilities, || ProgramType::Xdp.is_supported()),
            xskmap: Support::ask(capabilities, || MapType::Xskmap.is_supported()),
            devmap: Support::ask(capabilities, || MapType::Devmap.is_supported()),
            multi_buffer: Support::ask(capabilities, || {
                ProgramType::Xdp.is_helper_supported(helper)
            }),
            jit: jit(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            bpffs: bpffs::is_mounted(),
        };
        libbpf_rs::set_print(print);
        host
    }
}

fn af_xdp() -> Support {
    match xdp_socket() {
        Ok(()) => Support::Yes,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Support::No,
        Err(error) => Support::Unknown(error.to_string()),
    }
}

fn xdp_socket() -> io::Result<()> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

fn jit() -> Jit {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(value) if value.trim() == "0" => Jit::Off,
        Ok(_) => Jit::On,
        Err(_) => Jit::Unknown,
    }
}
