//! The kernel's view of a region: a UMEM object that sockets attach to.
//!
//! # Why there is more than one
//! The kernel gives every socket that shares a UMEM the mode of the first one
//! (`xp_assign_dev_shared` in net/xdp/xsk_buff_pool.c), so a copy-mode tap and a zero-copy NIC
//! cannot share a UMEM object. xsk-rs maps the memory of each UMEM itself, so a second
//! registration has memory of its own here, and the port on it copies each frame once
//! ([`super::socket`]).
//!
//! # The anchor
//! The *first* socket of a UMEM object is special twice over: libxdp makes it on the UMEM's own
//! descriptor, which stays open, and bound, until the whole UMEM is deleted; and every later
//! bind names that descriptor and fails with EBADF once its device is gone. A port that happened to
//! be first could thus neither be closed nor survive the removal of its device. So a registration
//! that several ports share is opened with a socket that no port uses, bound to the loopback
//! device of a network namespace that only this socket keeps alive: nothing ever removes that
//! device, no one else can claim its queue, and nothing is ever sent there. It costs two pages of
//! rings and needs CAP_SYS_ADMIN for a moment.

#![allow(unsafe_code, reason = "creating an AF_XDP socket is unsafe in xsk-rs")]

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sched::{CloneFlags, unshare};
pub(super) use xsk_rs::FrameDesc;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use super::error::XskError;
use super::region::RegionConfig;
use super::statistics::KernelStatistics;

/// The four rings of one socket. Dropping all of them closes it.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
}

impl Rings {
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open for as long as the rings, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Makes the kernel look at the TX ring.
    ///
    /// Our own system call, because xsk-rs's hides the difference between "all sent" and "try
    /// again" (EAGAIN).
    pub(super) fn send(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open while the rings are; no buffer is passed.
        let sent = unsafe {
            libc::sendto(
                self.tx.fd().as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Makes the kernel look at the socket as for receiving.
    pub(super) fn probe(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open while the rings are; no buffer is passed.
        let got = unsafe {
            libc::recvfrom(
                self.rx.fd().as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        if got >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// What the kernel has counted.
    pub(super) fn statistics(&self) -> io::Result<KernelStatistics> {
        Ok(self.rx.fd().xdp_statistics()?.into())
    }
}

/// A UMEM object, and the socket that keeps it usable.
#[derive(Debug)]
pub(super) struct Registration {
    /// Before `umem`, so that the socket is deleted first.
    _anchor: Option<Rings>,
    umem: Umem,
    /// Whether frames may span several chunks. A property of the UMEM: the first bind sets it.
    multi_buffer: bool,
}

impl Registration {
    /// Maps and registers memory that sockets on any number of devices can share, in copy mode.
    pub(super) fn shared(config: &RegionConfig) -> Result<(Self, Box<[FrameDesc]>), XskError> {
        let config = *config;
        let memory_error = move |operation| {
            move |cause| XskError::memory(config.frames, config.frame_size, operation, cause)
        };
        // A thread of its own, because a thread cannot go back to the namespace it came from
        // without more privileges still. It inherits the caller's affinity, so the memory is
        // populated on the node of the lane that asks for it.
        std::thread::Builder::new()
            .name("xsk-anchor".to_owned())
            .spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .map_err(memory_error("make a network namespace for the anchor socket"))?;
                anchored(&config)
            })
            .map_err(memory_error("start a thread for the anchor socket"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Maps and registers memory for one socket, which must be attached next.
    pub(super) fn single(
        config: &RegionConfig,
        multi_buffer: bool,
    ) -> Result<(Self, Box<[FrameDesc]>), XskError> {
        let (umem, descs) = register(config)?;
        Ok((Self { _anchor: None, umem, multi_buffer }, descs))
    }

    /// Makes a socket on this UMEM and binds it to a device's queue, in the calling thread's
    /// network namespace. `mode` counts only for the first socket of a registration.
    ///
    /// # Errors
    /// What `socket`, `setsockopt` or `bind` said; EBUSY as well when the queue is bound to this
    /// UMEM already, which the kernel would allow.
    pub(super) fn attach(
        &self,
        device: &str,
        queue: u32,
        rx_ring: u32,
        tx_ring: u32,
        mode: BindFlags,
    ) -> io::Result<Rings> {
        let mut flags = mode | BindFlags::XDP_USE_NEED_WAKEUP;
        if self.multi_buffer {
            flags |= BindFlags::XDP_USE_SG;
        }
        attach(&self.umem, device, queue, rx_ring, tx_ring, flags)
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    pub(super) fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }
}

/// Registers the memory and binds the anchor; with multi-buffer if the kernel has it (6.6).
fn anchored(config: &RegionConfig) -> Result<(Registration, Box<[FrameDesc]>), XskError> {
    /// The anchor's rings are never used; two entries are the fewest the kernel takes.
    const ANCHOR_RING: u32 = 2;
    let mut multi_buffer = true;
    loop {
        let (mut registration, descs) = Registration::single(config, multi_buffer)?;
        match registration.attach("lo", 0, ANCHOR_RING, ANCHOR_RING, BindFlags::XDP_COPY) {
            Ok(rings) => {
                registration._anchor = Some(rings);
                return Ok((registration, descs));
            }
            Err(cause) if multi_buffer && cause.raw_os_error() == Some(libc::EINVAL) => {
                multi_buffer = false;
            }
            Err(cause) => {
                let (frames, size) = (config.frames, config.frame_size);
                return Err(XskError::memory(frames, size, "bind the anchor socket", cause));
            }
        }
    }
}

fn register(config: &RegionConfig) -> Result<(Umem, Box<[FrameDesc]>), XskError> {
    let invalid = |reason: String| XskError::Configuration { reason };
    let ring = |size: u32| QueueSize::new(size).map_err(|cause| invalid(cause.to_string()));
    let frames = NonZeroU32::new(config.frames)
        .ok_or_else(|| invalid("the number of frames must not be 0".to_owned()))?;
    let umem_config = UmemConfig::builder()
        .frame_size(config.frame_size.try_into().map_err(|e| invalid(format!("{e}")))?)
        .fill_queue_size(ring(config.fill_ring)?)
        .comp_queue_size(ring(config.completion_ring)?)
        .build()
        .map_err(|cause| invalid(cause.to_string()))?;
    let (umem, descs) = Umem::new(umem_config, frames, config.huge_pages).map_err(|cause| {
        let operation = "map and register it";
        XskError::memory(config.frames, config.frame_size, operation, os_error(&cause))
    })?;
    Ok((umem, descs.into()))
}

fn attach(
    umem: &Umem,
    device: &str,
    queue: u32,
    rx_ring: u32,
    tx_ring: u32,
    bind_flags: BindFlags,
) -> io::Result<Rings> {
    let ring = |size| QueueSize::new(size).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let interface: Interface =
        device.parse().map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring(rx_ring)?)
        .tx_queue_size(ring(tx_ring)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(bind_flags)
        .build();
    // SAFETY: the one condition is that INHIBIT_PROG_LOAD is set when the queue is bound already;
    // it is always set.
    let created = unsafe { Socket::new(config, umem, &interface, queue) };
    let (tx, rx, own) = created.map_err(|cause| os_error(&cause))?;
    // No rings of its own: the queue is bound to this UMEM already, and a second socket would
    // share the first one's fill and completion rings.
    let (fill, completion) = own.ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
    Ok(Rings { rx, tx, fill, completion })
}

/// The system's error inside one of xsk-rs.
fn os_error(error: &dyn Error) -> io::Error {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
