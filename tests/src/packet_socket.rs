//! A raw packet socket on one device: sends whole frames, receives them as they were on the wire.
#![allow(unsafe_code, reason = "sockaddr_ll and PACKET_AUXDATA have no safe wrapper")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt::RcvBufForce,
};

use crate::Result;

/// Largest frame that is received whole: jumbo, tags, and some.
const LARGEST: usize = 65_550;
/// Receive buffer: room for every frame of the largest test, so that the capture loses nothing.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Frames that one call receives or sends at most: many enough that system calls cost little,
/// few enough for a veth's ring (256, `VETH_RING_SIZE` in drivers/net/veth.c).
pub(crate) const BATCH: usize = 64;
/// Room for each frame of a batch: a jumbo frame and its encapsulation.
const BATCH_FRAME: usize = 9216;
/// How long a send may wait for room.
const ROOM: Duration = Duration::from_secs(1);
/// Offset of the first VLAN tag: after the two Ethernet addresses.
const TAG_OFFSET: usize = 12;

/// A packet socket bound to one device.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: OwnedFd,
    device: String,
    buffer: Vec<u8>,
}

/// Frames that were received in one system call.
#[derive(Debug)]
pub(crate) struct Batch {
    storage: Vec<u8>,
    lengths: Vec<usize>,
}

impl Batch {
    /// Room for [`BATCH`] frames.
    pub(crate) fn new() -> Self {
        Self { storage: vec![0; BATCH * BATCH_FRAME], lengths: Vec::with_capacity(BATCH) }
    }

    /// The frames of the last call.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.lengths
            .iter()
            .zip(self.storage.chunks_exact(BATCH_FRAME))
            .map(|(&length, chunk)| &chunk[..length])
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl PacketSocket {
    /// Opens a socket that only sends on `device`, in the calling thread's namespace.
    pub(crate) fn sender(device: &str) -> Result<Self> {
        Self::bound(device, 0, Vec::new())
    }

    /// Opens a socket that receives every frame that arrives on `device`.
    pub(crate) fn receiver(device: &str) -> Result<Self> {
        let socket = Self::bound(device, libc::ETH_P_ALL as u16, vec![0; LARGEST])?;
        setsockopt(&socket.socket, RcvBufForce, &RECEIVE_BUFFER)
            .context("cannot set the receive buffer")?;
        Ok(socket)
    }

    fn bound(device: &str, protocol: u16, buffer: Vec<u8>) -> Result<Self> {
        let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .context("cannot open a packet socket")?;
        let this = Self { socket, device: device.to_owned(), buffer };
        // Before bind: what arrives right after it must carry its tags already.
        this.option(libc::PACKET_AUXDATA, 1)?;
        this.option(libc::PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: sockaddr_ll is plain old data, for which all zero bytes are a valid value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address lives across the call and its true size is given.
        let bound = unsafe {
            libc::bind(
                this.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot bind a packet socket to {device}"));
        }
        Ok(this)
    }

    fn option(&self, name: libc::c_int, value: libc::c_int) -> Result {
        // SAFETY: the value lives across the call and its true size is given.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error()).context("cannot set a packet socket option");
        }
        Ok(())
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) -> Result {
        loop {
            match nix::unistd::write(&self.socket, frame) {
                Ok(written) if written == frame.len() => return Ok(()),
                Ok(written) => bail!("{} took {written} of {} bytes", self.device, frame.len()),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => {
                    if !wait_for(self.socket.as_fd(), PollFlags::POLLOUT, ROOM)? {
                        bail!("{} had no room for {} ms", self.device, ROOM.as_millis());
                    }
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot send {} bytes on {}", frame.len(), self.device)
                    });
                }
            }
        }
    }

    /// The next frame that arrives within `within`, or none.
    pub(crate) fn receive(&mut self, within: Duration) -> Result<Option<Vec<u8>>> {
        if !wait_for(self.socket.as_fd(), PollFlags::POLLIN, within)? {
            return Ok(None);
        }
        // SAFETY: iovec and msghdr are plain old data; every pointer set below points to a live
        // buffer of the length given with it.
        let (length, tag) = unsafe {
            let mut control = [0_u64; 16];
            let mut piece = libc::iovec {
                iov_base: self.buffer.as_mut_ptr().cast(),
                iov_len: self.buffer.len(),
            };
            let mut message: libc::msghdr = zeroed();
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let length = libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0);
            (length, stripped_tag(&message))
        };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Ok(None);
            }
            return Err(error).with_context(|| format!("cannot receive on {}", self.device));
        };
        let mut frame = self.buffer[..length].to_vec();
        if let Some(tag) = tag {
            frame.splice(TAG_OFFSET..TAG_OFFSET, tag);
        }
        Ok(Some(frame))
    }

    /// Receives what has arrived, as many frames as `batch` has room for, without waiting.
    /// VLAN tags that the kernel took out stay out.
    pub(crate) fn receive_batch(&self, batch: &mut Batch) -> Result {
        let Batch { storage, lengths } = batch;
        lengths.clear();
        // SAFETY: iovec and mmsghdr are plain old data; every pointer set here points into
        // `storage` or `pieces`, which outlive the call, at a piece of the length given with it.
        let received = unsafe {
            let mut pieces: [libc::iovec; BATCH] = zeroed();
            let mut messages: [libc::mmsghdr; BATCH] = zeroed();
            for (index, chunk) in storage.chunks_exact_mut(BATCH_FRAME).enumerate() {
                pieces[index].iov_base = chunk.as_mut_ptr().cast();
                pieces[index].iov_len = chunk.len();
                messages[index].msg_hdr.msg_iov = &raw mut pieces[index];
                messages[index].msg_hdr.msg_iovlen = 1;
            }
            let received = libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            );
            let received = usize::try_from(received);
            lengths.extend(
                messages[..received.unwrap_or(0)].iter().map(|message| message.msg_len as usize),
            );
            received
        };
        if received.is_err() {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error).with_context(|| format!("cannot receive on {}", self.device));
            }
        }
        Ok(())
    }

    /// Sends frames in one system call, in order. Returns how many the device took; a full
    /// device, or one that is down, takes fewer.
    pub(crate) fn send_batch(&self, frames: &[&[u8]]) -> usize {
        let frames = &frames[..frames.len().min(BATCH)];
        // SAFETY: iovec and mmsghdr are plain old data; every pointer set here points to a frame
        // or into `pieces`, which outlive the call; the kernel only reads through them.
        let sent = unsafe {
            let mut pieces: [libc::iovec; BATCH] = zeroed();
            let mut messages: [libc::mmsghdr; BATCH] = zeroed();
            for (index, frame) in frames.iter().enumerate() {
                pieces[index].iov_base = frame.as_ptr().cast_mut().cast();
                pieces[index].iov_len = frame.len();
                messages[index].msg_hdr.msg_iov = &raw mut pieces[index];
                messages[index].msg_hdr.msg_iovlen = 1;
            }
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                frames.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).unwrap_or(0)
    }

    /// Frames that the socket has dropped since the last call, because nobody read them in time.
    pub(crate) fn dropped(&self) -> Result<u32> {
        // SAFETY: tpacket_stats is two integers, for which all zero bytes are a valid value.
        let mut statistics: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `statistics`.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if got != 0 {
            return Err(io::Error::last_os_error()).context("no packet socket statistics");
        }
        Ok(statistics.tp_drops)
    }
}

/// The outer VLAN tag of a received frame: the kernel takes it out of the bytes and puts it into a
/// control message (`tpacket_rcv` in net/packet/af_packet.c).
///
/// # Safety
/// `message` must be as `recvmsg` left it, its control buffer still alive.
unsafe fn stripped_tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the CMSG functions walk the control buffer within msg_controllen, which the kernel
    // has set; PACKET_AUXDATA carries a tpacket_auxdata, read unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_PACKET
                && (*header).cmsg_type == libc::PACKET_AUXDATA
            {
                let data: libc::tpacket_auxdata =
                    libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
                    return None;
                }
                let [a, b] = data.tp_vlan_tpid.to_be_bytes();
                let [c, d] = data.tp_vlan_tci.to_be_bytes();
                return Some([a, b, c, d]);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

/// Waits until `descriptor` is ready; false when `within` passes first.
pub(crate) fn wait_for(
    descriptor: BorrowedFd<'_>,
    events: PollFlags,
    within: Duration,
) -> Result<bool> {
    let milliseconds = u16::try_from(within.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    let mut descriptors = [PollFd::new(descriptor, events)];
    match poll(&mut descriptors, PollTimeout::from(milliseconds)) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error).context("poll"),
    }
}
