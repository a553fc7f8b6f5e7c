//! Telling the network where a guest is now.
//!
//! A switch sends frames for a guest where it last saw one from it. After a failover that is the
//! primary's host. A hypervisor that has moved a guest sends reverse ARP requests in the guest's
//! name (QEMU's `announce-self`, in net/announce.c): they ask nothing that anybody answers today,
//! they name no IP address that might be wrong, and every switch learns from their source.
#![allow(unsafe_code, reason = "packet sockets have no safe wrapper for their addresses")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::KernelError;
use super::netlink::{self, Key};
use super::object;

/// When the frames of an announcement are sent. The first may be lost with whatever else is
/// changing at that moment; QEMU waits as long between its own.
const SCHEDULE: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(250),
    Duration::from_millis(350),
];

/// Shortest Ethernet frame without its checksum.
const SHORTEST_FRAME: usize = 60;

const BROADCAST: [u8; 6] = [0xff; 6];
/// RFC 903.
const ETHERTYPE_RARP: u16 = 0x8035;
const RARP_REQUEST: u16 = 3;
/// Ethernet addresses of six bytes, IPv4 addresses of four (RFC 826).
const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const LENGTHS: [u8; 2] = [6, 4];
const NO_ADDRESS: [u8; 4] = [0; 4];

/// Announces guests on a device.
///
/// The socket is opened at once, so that it takes no privilege when the time comes, and is bound
/// to no device, so that the device may go and come back.
#[derive(Debug)]
pub struct Announcer {
    device: String,
    socket: OwnedFd,
    under_way: Option<Announcement>,
}

#[derive(Debug)]
struct Announcement {
    macs: Vec<[u8; 6]>,
    since: Instant,
    /// Rounds sent.
    sent: usize,
}

impl Announcement {
    fn due(&self) -> Option<Instant> {
        SCHEDULE.get(self.sent).map(|after| self.since + *after)
    }
}

impl Announcer {
    /// Gets ready to announce on a device.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open(device: &str) -> Result<Self, KernelError> {
        // Protocol zero: it receives nothing.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(|error| {
                object::fault(device, "opening a packet socket", &io::Error::from(error))
            })?;
        Ok(Self { device: device.into(), socket, under_way: None })
    }

    /// Starts to announce these addresses, in place of what is under way. [`Announcer::tick`] does
    /// the sending.
    pub fn start(&mut self, macs: Vec<[u8; 6]>, now: Instant) {
        self.under_way = Some(Announcement { macs, since: now, sent: 0 });
    }

    /// The guests are somewhere else again.
    pub fn stop(&mut self) {
        self.under_way = None;
    }

    /// When [`Announcer::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.under_way.as_ref().and_then(Announcement::due)
    }

    /// Sends what is due; never blocks. A device that cannot take it now misses it.
    pub fn tick(&mut self, now: Instant) {
        let Some(announcement) = &mut self.under_way else { return };
        // Rounds that were missed are worth one.
        let mut due = false;
        while announcement.due().is_some_and(|at| at <= now) {
            announcement.sent += 1;
            due = true;
        }
        if due && let Err(error) = send(&self.device, &self.socket, &announcement.macs) {
            tracing::warn!(device = self.device, %error, "announcing the guest");
        }
        if announcement.due().is_none() {
            self.under_way = None;
        }
    }
}

fn send(device: &str, socket: &OwnedFd, macs: &[[u8; 6]]) -> io::Result<()> {
    // Looked up each time: a device that came back has another index.
    let index = netlink::link(&Key::Name(device))?.index;
    // SAFETY: all-zero is a valid sockaddr_ll, which is made of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHERTYPE_RARP.to_be();
    address.sll_ifindex = index as i32;
    for mac in macs {
        let frame = rarp_request(*mac);
        // SAFETY: the frame and the address live through the call, with their true lengths.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A guest's broadcast that asks for its own protocol address.
fn rarp_request(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST_FRAME);
    frame.extend(BROADCAST);
    frame.extend(mac);
    for word in [ETHERTYPE_RARP, HARDWARE_ETHERNET, PROTOCOL_IPV4] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(LENGTHS);
    frame.extend(RARP_REQUEST.to_be_bytes());
    // Sender and target are the same station.
    for _ in 0..2 {
        frame.extend(mac);
        frame.extend(NO_ADDRESS);
    }
    frame.resize(SHORTEST_FRAME, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_a_rarp_request_of_the_guest_itself() {
        let frame = rarp_request([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // to everybody
            0x52, 0x54, 0x00, 0x12, 0x34, 0x56, // from the guest
            0x80, 0x35, // RARP
            0x00, 0x01, 0x08, 0x00, 6, 4, // Ethernet and IPv4
            0x00, 0x03, // request
            0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0, 0, 0, 0, // sender
            0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0, 0, 0, 0, // target
        ];
        assert_eq!(frame[..expected.len()], expected);
        assert_eq!(frame[expected.len()..], [0; SHORTEST_FRAME - 42]);
    }

    /// When the rounds of an announcement are due, if nobody is late.
    #[test]
    fn five_rounds_are_due_within_a_third_of_a_second() {
        let since = Instant::now();
        let mut announcement = Announcement { macs: Vec::new(), since, sent: 0 };
        let mut due = Vec::new();
        while let Some(at) = announcement.due() {
            due.push((at - since).as_millis());
            announcement.sent += 1;
        }
        assert_eq!(due, [0, 50, 150, 250, 350]);
    }
}
