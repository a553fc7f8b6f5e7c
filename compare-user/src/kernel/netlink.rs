//! Questions to rtnetlink: the link of a name or an index here, routes and neighbours in [`route`],
//! the qdisc for classifiers in [`qdisc`].
//!
//! sysfs would answer most of it, but only for the network namespace it was mounted in, which
//! after setns(2) is not the thread's own.

pub(in crate::kernel) mod qdisc;
pub(in crate::kernel) mod route;

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

// linux/rtnetlink.h, linux/if_link.h, linux/netlink.h.
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
/// Attribute type without the nested and byte-order bits.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct ifinfomsg`, which follows it.
const INFO: usize = 16;
/// A link's answer with all its statistics and virtual functions stays below this.
const ANSWER: usize = 64 * 1024;

/// What rtnetlink says about a device.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `IFF_*`.
    pub(super) flags: u32,
    pub(super) address: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// `veth`, `tun`, ...; none for hardware.
    pub(super) kind: Option<String>,
    /// Receive queues allocated; fewer may be in use.
    pub(super) rx_queues: u32,
    /// The same for transmit queues.
    pub(super) tx_queues: u32,
    /// Index of the device at the other end (veth), in that device's namespace.
    pub(super) peer: Option<u32>,
    /// The other end is in another network namespace.
    pub(super) peer_elsewhere: bool,
    /// What the driver says; `IFF_RUNNING` may follow it up to a second later (net/core/link_watch.c).
    pub(super) carrier: bool,
    /// Index of the bridge or bond that the device is part of.
    pub(super) master: Option<u32>,
}

/// What to look for.
pub(super) enum Key<'a> {
    Name(&'a str),
    Index(u32),
}

/// Asks for a link; ENODEV if there is none.
pub(super) fn link(key: &Key<'_>) -> io::Result<Link> {
    parse(&ask(request(key))?)
}

fn request(key: &Key<'_>) -> Request {
    let (index, name) = match key {
        Key::Name(name) => (0, Some(*name)),
        Key::Index(index) => (*index, None),
    };
    // struct ifinfomsg: family and type, index, flags and their mask.
    let mut info = [0; INFO];
    info[4..8].copy_from_slice(&u32::to_ne_bytes(index));
    let mut request = Request::new(RTM_GETLINK, 0, &info);
    if let Some(name) = name {
        request.attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    }
    request
}

fn parse(body: &[u8]) -> io::Result<Link> {
    let info = body.get(..INFO).ok_or_else(short)?;
    let mut link =
        Link { index: u32_at(&info[4..8]), flags: u32_at(&info[8..12]), ..Link::default() };
    for (kind, value) in Attributes(&body[INFO..]) {
        match kind {
            IFLA_ADDRESS => link.address = value.try_into().ok(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value),
            IFLA_NUM_TX_QUEUES => link.tx_queues = number(value),
            IFLA_NUM_RX_QUEUES => link.rx_queues = number(value),
            IFLA_LINK => link.peer = Some(number(value)).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => link.peer_elsewhere = true,
            IFLA_CARRIER => link.carrier = value.first().is_some_and(|carrier| *carrier != 0),
            IFLA_MASTER => link.master = Some(number(value)).filter(|index| *index != 0),
            IFLA_LINKINFO => {
                let kind = Attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, name)| text(name));
            }
            _ => {}
        }
    }
    Ok(link)
}

/// A message to rtnetlink.
struct Request(Vec<u8>);

impl Request {
    /// A message of type `kind` with flags beside `NLM_F_REQUEST` and its fixed part.
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut message = Vec::with_capacity(128);
        // The length comes last; sequence number and sender may be zero on a socket of one's own.
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(fixed);
        Self(message)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Sends a request and returns the answer behind its header, which is empty for a mere
/// acknowledgement.
fn ask(request: Request) -> io::Result<Vec<u8>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(socket.as_raw_fd(), &request.finish(), MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    body(answer)
}

fn body(mut answer: Vec<u8>) -> io::Result<Vec<u8>> {
    let kind = answer.get(4..6).map(u16_at).ok_or_else(short)?;
    if answer.len() < HEADER {
        return Err(short());
    }
    let body = answer.split_off(HEADER);
    if kind != NLMSG_ERROR {
        return Ok(body);
    }
    match body.get(..4).map(u32_at).ok_or_else(short)? {
        0 => Ok(Vec::new()),
        code => Err(io::Error::from_raw_os_error((code as i32).wrapping_neg())),
    }
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "short rtnetlink answer")
}

/// The attributes in a message; ends at the first one whose length lies.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(self.0.get(..2).map(u16_at)?);
        let kind = self.0.get(2..4).map(u16_at)?;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn number(value: &[u8]) -> u32 {
    value.get(..4).map_or(0, u32_at)
}

/// The first two bytes; callers pass at least that many.
fn u16_at(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

/// The first four bytes; callers pass at least that many.
fn u32_at(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_by_name_and_by_index() {
        let lo = link(&Key::Name("lo")).unwrap();
        assert_eq!((lo.name.as_str(), lo.address), ("lo", Some([0; 6])));
        assert!(lo.mtu > 0);
        assert_eq!(link(&Key::Index(lo.index)).unwrap().name, "lo");
    }

    #[test]
    fn a_name_nobody_has_is_enodev() {
        let error = link(&Key::Name("colo-nobody")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn an_attribute_that_lies_about_its_length_ends_the_walk() {
        let attributes: Vec<_> = Attributes(&[6, 0, 3, 0, b'a', 0, 0, 0, 99, 0, 4, 0]).collect();
        assert_eq!(attributes, [(IFLA_IFNAME, &b"a\0"[..])]);
        assert_eq!(Attributes(&[3, 0, 3, 0]).count(), 0);
    }
}
