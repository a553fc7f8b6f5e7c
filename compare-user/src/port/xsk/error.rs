//! What can go wrong while memory is registered or a socket is bound, and what to do about it.

use std::io;

/// What an [`XskError`] is about; decides the exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XskErrorKind {
    /// The process may not do this.
    Privilege,
    /// The kernel cannot do this.
    KernelFeature,
    /// The device or queue is missing, down, in use or cannot do what was asked of it.
    Device,
    /// Anything else: memory, configuration, descriptors.
    Other,
}

/// Why AF_XDP memory or a socket could not be had. Displays as one line: where, what, why, and
/// what to do next.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// The region's configuration cannot be.
    #[error("AF_XDP memory: {reason}")]
    Configuration {
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The region's memory could not be mapped or registered.
    #[error(
        "AF_XDP memory of {frames} x {frame_size} bytes: cannot {operation}: {cause}; {}",
        remedy(cause, *kind)
    )]
    Memory {
        /// Chunks asked for.
        frames: u32,
        /// Bytes per chunk.
        frame_size: u32,
        /// The step that failed.
        operation: &'static str,
        /// What the kernel said.
        cause: io::Error,
        /// What it is about.
        kind: XskErrorKind,
    },
    /// A socket could not be made or bound.
    #[error("{device} queue {queue}: cannot {operation}: {cause}; {}", remedy(cause, *kind))]
    Socket {
        /// Interface name.
        device: String,
        /// Receive and transmit queue.
        queue: u32,
        /// The step that failed.
        operation: &'static str,
        /// What the kernel said.
        cause: io::Error,
        /// What it is about.
        kind: XskErrorKind,
    },
    /// Zero-copy was demanded and the driver refused it.
    #[error(
        "{device} queue {queue}: zero-copy is demanded but the driver refuses it: {cause}; use \
         zerocopy=auto, or a device whose driver has AF_XDP zero-copy"
    )]
    ZeroCopyRefused {
        /// Interface name.
        device: String,
        /// Receive and transmit queue.
        queue: u32,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The region has no number left for one more port.
    #[error(
        "{device} queue {queue}: {limit} ports already share this memory; use more lanes, with \
         fewer queues each"
    )]
    TooManyPorts {
        /// Interface name.
        device: String,
        /// Receive and transmit queue.
        queue: u32,
        /// Largest number of ports of one region.
        limit: usize,
    },
}

impl XskError {
    /// What the error is about.
    #[must_use]
    pub fn kind(&self) -> XskErrorKind {
        match self {
            Self::Memory { kind, .. } | Self::Socket { kind, .. } => *kind,
            Self::ZeroCopyRefused { .. } => XskErrorKind::Device,
            Self::Configuration { .. } | Self::TooManyPorts { .. } => XskErrorKind::Other,
        }
    }

    pub(super) fn memory(
        frames: u32,
        frame_size: u32,
        operation: &'static str,
        cause: io::Error,
    ) -> Self {
        let kind = kind_of(&cause);
        Self::Memory { frames, frame_size, operation, cause, kind }
    }

    pub(super) fn socket(
        device: &str,
        queue: u32,
        operation: &'static str,
        cause: io::Error,
    ) -> Self {
        let kind = kind_of(&cause);
        Self::Socket { device: device.to_owned(), queue, operation, cause, kind }
    }
}

/// Sorts the errors of `socket(AF_XDP)`, `XDP_UMEM_REG` and `bind` (net/xdp/xsk.c, xdp_umem.c
/// and xsk_buff_pool.c) by what they are about.
fn kind_of(cause: &io::Error) -> XskErrorKind {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => XskErrorKind::Privilege,
        Some(libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENOSYS) => {
            XskErrorKind::KernelFeature
        }
        Some(
            libc::ENODEV
            | libc::ENXIO
            | libc::EBUSY
            | libc::ENETDOWN
            | libc::EOPNOTSUPP
            | libc::EINVAL,
        ) => XskErrorKind::Device,
        _ => XskErrorKind::Other,
    }
}

/// What the user can do about it.
fn remedy(cause: &io::Error, kind: XskErrorKind) -> &'static str {
    match (cause.raw_os_error(), kind) {
        (_, XskErrorKind::Privilege) => {
            "run as root, or grant CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN"
        }
        (_, XskErrorKind::KernelFeature) => {
            "this kernel has no AF_XDP: use one of 5.4 or later built with CONFIG_XDP_SOCKETS=y"
        }
        (Some(libc::EBUSY), _) => {
            "another AF_XDP socket is bound to this queue: stop that program or take another queue"
        }
        (Some(libc::ENODEV | libc::ENXIO), _) => {
            "there is no such device in this network namespace: see `ip link`"
        }
        (Some(libc::ENETDOWN), _) => "bring the device up: ip link set dev DEVICE up",
        (Some(libc::EOPNOTSUPP), _) => "the driver cannot do this: try zerocopy=off",
        (Some(libc::EINVAL), _) => {
            "the device has no such queue, or rings of this size are refused: see `ethtool -l`"
        }
        (Some(libc::ENOMEM), _) => {
            "use fewer frames, or reserve huge pages (vm.nr_hugepages) if those were asked for"
        }
        (Some(libc::ENOBUFS), _) => {
            "raise the locked-memory limit (ulimit -l unlimited) or grant CAP_IPC_LOCK"
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => "raise the open-file limit (ulimit -n)",
        _ => "see the kernel log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_error(errno: i32) -> XskError {
        XskError::socket("eth0", 3, "bind the socket", io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn an_error_is_one_line_with_device_queue_cause_and_remedy() {
        let line = bind_error(libc::EBUSY).to_string();
        assert!(line.starts_with("eth0 queue 3: cannot bind the socket: "), "{line}");
        assert!(line.contains("another AF_XDP socket"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn errors_are_sorted_by_what_they_are_about() {
        assert_eq!(bind_error(libc::EPERM).kind(), XskErrorKind::Privilege);
        assert_eq!(bind_error(libc::EAFNOSUPPORT).kind(), XskErrorKind::KernelFeature);
        assert_eq!(bind_error(libc::EBUSY).kind(), XskErrorKind::Device);
        assert_eq!(bind_error(libc::ENODEV).kind(), XskErrorKind::Device);
        assert_eq!(bind_error(libc::ENOMEM).kind(), XskErrorKind::Other);
    }
}
