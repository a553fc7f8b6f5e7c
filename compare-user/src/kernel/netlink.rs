//! One question to rtnetlink: the link of a name or an index.
//!
//! sysfs would answer most of it, but only for the network namespace it was mounted in, which
//! after setns(2) is not the thread's own.

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
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
/// Attribute type without the nested and byte-order bits.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Length of `struct nlmsghdr`, and of `struct ifinfomsg` behind it.
const HEADER: usize = 16;
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
    /// Index of the device at the other end (veth), in that device's namespace.
    pub(super) peer: Option<u32>,
    /// The other end is in another network namespace.
    pub(super) peer_elsewhere: bool,
}

/// What to look for.
pub(super) enum Key<'a> {
    Name(&'a str),
    Index(u32),
}

/// Asks for a link; ENODEV if there is none.
pub(super) fn link(key: &Key<'_>) -> io::Result<Link> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(socket.as_raw_fd(), &request(key), MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse(&answer[..length])
}

fn request(key: &Key<'_>) -> Vec<u8> {
    let (index, name) = match key {
        Key::Name(name) => (0, Some(*name)),
        Key::Index(index) => (*index, None),
    };
    let mut message = Vec::with_capacity(64);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&index.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    if let Some(name) = name {
        // Attribute length and type, the name and its NUL.
        message.extend_from_slice(&(name.len() as u16 + 5).to_ne_bytes());
        message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
        message.extend_from_slice(name.as_bytes());
        message.push(0);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

fn parse(answer: &[u8]) -> io::Result<Link> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "short rtnetlink answer");
    let kind = answer.get(4..6).map(u16_at).ok_or_else(short)?;
    let body = answer.get(HEADER..).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let code = body.get(..4).map(u32_at).ok_or_else(short)?;
        return Err(io::Error::from_raw_os_error((code as i32).wrapping_neg()));
    }
    let info = body.get(..HEADER).ok_or_else(short)?;
    let mut link =
        Link { index: u32_at(&info[4..8]), flags: u32_at(&info[8..12]), ..Link::default() };
    for (kind, value) in Attributes(&body[HEADER..]) {
        match kind {
            IFLA_ADDRESS => link.address = value.try_into().ok(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value),
            IFLA_NUM_RX_QUEUES => link.rx_queues = number(value),
            IFLA_LINK => link.peer = Some(number(value)).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => link.peer_elsewhere = true,
            IFLA_LINKINFO => {
                let kind = Attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, name)| text(name));
            }
            _ => {}
        }
    }
    Ok(link)
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
