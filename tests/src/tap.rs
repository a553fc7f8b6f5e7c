//! A tap device whose guest is this process.
#![allow(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::Result;
use crate::packet_socket::wait_for;
use nix::poll::PollFlags;

nix::ioctl_write_ptr_bad!(
    /// Binds an open `/dev/net/tun` to a device name.
    set_interface,
    libc::TUNSETIFF,
    libc::ifreq
);

nix::ioctl_write_int_bad!(
    /// Whether the device stays when nobody has it open.
    set_persistence,
    libc::TUNSETPERSIST
);

/// How long a write may wait for room in the device.
const ROOM: Duration = Duration::from_secs(1);

/// The guest's end of a tap device. The device disappears when this is dropped, unless by
/// [`Tap::leave`].
#[derive(Debug)]
pub(crate) struct Tap {
    file: File,
}

impl Tap {
    /// Makes tap device `name` in the calling thread's namespace.
    ///
    /// Non-blocking, as QEMU opens it: only then does the kernel build frames for native XDP
    /// (`tun_can_build_skb` in drivers/net/tun.c).
    pub(crate) fn new(name: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .context("cannot open /dev/net/tun")?;
        // SAFETY: ifreq is plain old data, for which all zero bytes are a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            bail!("device name {name} is longer than the kernel allows");
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open and `request` lives across the call.
        unsafe { set_interface(file.as_raw_fd(), &raw const request) }
            .with_context(|| format!("cannot make tap device {name}"))?;
        Ok(Self { file })
    }

    /// Closes the guest's end; the device stays.
    pub(crate) fn leave(self) -> Result {
        // SAFETY: the descriptor is open, and the request takes a number.
        unsafe { set_persistence(self.file.as_raw_fd(), 1) }.context("cannot make the tap stay")?;
        Ok(())
    }

    /// Sends one frame as the guest.
    pub(crate) fn send(&self, frame: &[u8]) -> Result {
        loop {
            match (&self.file).write(frame) {
                Ok(written) if written == frame.len() => return Ok(()),
                Ok(written) => bail!("the tap took {written} of {} bytes", frame.len()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait_for(self.file.as_fd(), PollFlags::POLLOUT, ROOM)? {
                        bail!("the tap had no room for {} ms", ROOM.as_millis());
                    }
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot send {} bytes into the tap", frame.len())
                    });
                }
            }
        }
    }
}
