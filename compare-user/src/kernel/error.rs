//! What can go wrong with the kernel, each as one line: the cause, then the remedy.

use std::io;
use std::path::PathBuf;

/// The class of a [`KernelError`], which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The process may not do it.
    Privilege,
    /// The kernel cannot do it.
    KernelFeature,
    /// The device is missing, busy or unsuitable.
    Device,
    /// Anything else.
    Runtime,
}

impl FaultKind {
    /// The documented exit code of the command line.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Privilege => 3,
            Self::KernelFeature => 4,
            Self::Device => 5,
            Self::Runtime => 6,
        }
    }
}

/// Why a program could not be loaded, attached or steered.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel said EPERM.
    #[error(
        "{operation}: not permitted: run as root, or with {capabilities} (now missing: {missing})"
    )]
    NotPermitted {
        /// What was tried.
        operation: String,
        /// What it takes.
        capabilities: &'static str,
        /// What this process lacks of all that colo-xdp ever needs.
        missing: String,
    },
    /// The kernel has no such feature.
    #[error("this kernel has no {what}: {remedy}")]
    NoFeature {
        /// The feature.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The verifier or the loader refused a program.
    #[error("the kernel rejects program {program}: {detail}: colo-xdp needs Linux 5.18 or later")]
    Rejected {
        /// The program's name.
        program: String,
        /// First line of what the kernel said; the whole log goes to the debug log.
        detail: String,
    },
    /// No device of that name in this network namespace.
    #[error(
        "no device {device} in this network namespace: see `ip link` (or enter its namespace first)"
    )]
    NoDevice {
        /// Interface name.
        device: String,
    },
    /// Another instance works on the device.
    #[error("device {device} is in use by another colo-xdp{holder}: stop it first")]
    InUse {
        /// Interface name.
        device: String,
        /// ` (pid N)`, or nothing where the process cannot be seen.
        holder: String,
    },
    /// Somebody else's XDP program is on the device.
    #[error(
        "device {device} already runs XDP program {name} (id {id}, {mode}): look with `bpftool prog show id {id}` and detach it first"
    )]
    ForeignProgram {
        /// Interface name.
        device: String,
        /// The program's id.
        id: u32,
        /// The program's name, empty if the kernel does not tell.
        name: String,
        /// The mode that it is attached in.
        mode: &'static str,
    },
    /// The device cannot run XDP in the mode asked for.
    #[error("device {device} refuses {mode} XDP: {cause}: use mode=auto or lower the MTU")]
    ModeRefused {
        /// Interface name.
        device: String,
        /// The mode asked for.
        mode: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The file that keeps the program attached cannot be made, read or removed.
    #[error(
        "{}: {operation} failed: {cause}: fail-closed needs a bpffs there (`mount -t bpf bpf /sys/fs/bpf`) and a directory in it that is this user's",
        path.display()
    )]
    Pin {
        /// Path below the bpffs.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Others could remove what is pinned, and so detach the programs, or put something in its place.
    #[error("{} {exposure}: whoever may change it could detach the programs: {remedy}", path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        exposure: String,
        /// What to do.
        remedy: String,
    },
    /// More bypass rules than the map holds.
    #[error("{given} bypass rules, at most {limit} fit: merge some with prefixes")]
    TooManyRules {
        /// Rules given.
        given: usize,
        /// Rules that fit.
        limit: u32,
    },
    /// Any other failed operation.
    #[error("{subject}: {operation} failed: {cause}")]
    Failed {
        /// Interface name or map.
        subject: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel or the loader said.
        cause: String,
    },
}

impl KernelError {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::NotPermitted { .. } => FaultKind::Privilege,
            Self::NoFeature { .. } | Self::Rejected { .. } => FaultKind::KernelFeature,
            Self::NoDevice { .. }
            | Self::InUse { .. }
            | Self::ForeignProgram { .. }
            | Self::ModeRefused { .. } => FaultKind::Device,
            Self::Pin { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                FaultKind::Privilege
            }
            Self::Pin { .. }
            | Self::Exposed { .. }
            | Self::TooManyRules { .. }
            | Self::Failed { .. } => FaultKind::Runtime,
        }
    }

    /// An operation on `subject` that failed in a way with no remedy of its own.
    pub(crate) fn failed(
        subject: impl Into<String>,
        operation: &'static str,
        cause: impl std::fmt::Display,
    ) -> Self {
        Self::Failed { subject: subject.into(), operation, cause: cause.to_string() }
    }
}
