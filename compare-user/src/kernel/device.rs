//! What there is to know about a network device, and the claim that keeps others off it.
#![allow(unsafe_code, reason = "ethtool has no interface but its ioctl")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};

use super::error::KernelError;
use super::netlink::{self, Key, Link};

/// How long a claim waits for the one before it: a process that was just killed still closes its
/// files, and a child that was just forked holds copies of them until it calls exec.
const CLAIM_PATIENCE: Duration = Duration::from_millis(200);

/// Bytes of an interface name with its NUL, `IFNAMSIZ`.
const NAME_SIZE: usize = 16;

/// Where the other end of a veth pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// In this network namespace, by this name.
    Here(String),
    /// In another network namespace.
    Elsewhere,
}

/// A network device, as it was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Interface name.
    pub name: String,
    /// Interface index; another one if the device is removed and made again.
    pub index: u32,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Largest payload of a frame, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    /// Receive queues, each of which takes one AF_XDP socket.
    pub rx_queues: u32,
    /// Transmit queues. An AF_XDP socket on a queue beyond them can be bound, but not send.
    pub tx_queues: u32,
    /// Driver name, empty if the device does not tell.
    pub driver: String,
    /// The other end of a veth.
    pub peer: Option<Peer>,
    /// Index of the bridge (or bond) that it is a port of.
    pub bridge: Option<u32>,
}

impl Device {
    /// Looks up a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::NoDevice`], or a failed system call.
    pub fn find(name: &str) -> Result<Self, KernelError> {
        let missing = || KernelError::NoDevice { device: name.into() };
        if name.is_empty() || name.len() >= NAME_SIZE || name.contains(['/', '\0']) {
            return Err(missing());
        }
        let link = netlink::link(&Key::Name(name)).map_err(|error| {
            if error.raw_os_error() == Some(libc::ENODEV) {
                missing()
            } else {
                KernelError::failed(name, "looking up the device", error)
            }
        })?;
        Ok(Self::from(link))
    }

    /// The offloads that decide what frames look like when they reach an XDP program.
    ///
    /// # Errors
    /// When the device does not answer ethtool requests at all.
    pub fn offloads(&self) -> Result<Offloads, KernelError> {
        let read = |command| {
            ethtool_value(&self.name, command)
                .map_err(|error| KernelError::failed(&self.name, "reading the offloads", error))
        };
        Ok(Offloads {
            tx_checksum: read(ETHTOOL_GTXCSUM)? != 0,
            tso: read(ETHTOOL_GTSO)? != 0,
            gso: read(ETHTOOL_GGSO)? != 0,
            gro: read(ETHTOOL_GGRO)? != 0,
            tx_vlan: read(ETHTOOL_GFLAGS)? & ETH_FLAG_TXVLAN != 0,
        })
    }
}

impl From<Link> for Device {
    fn from(link: Link) -> Self {
        let channels = channels(&link.name).unwrap_or_default();
        let peer = match link.peer {
            Some(_) if link.peer_elsewhere => Some(Peer::Elsewhere),
            Some(index) if link.kind.as_deref() == Some("veth") => {
                netlink::link(&Key::Index(index)).ok().map(|peer| Peer::Here(peer.name))
            }
            _ => None,
        };
        Self {
            index: link.index,
            mac: link.address,
            mtu: link.mtu,
            up: link.flags & libc::IFF_UP as u32 != 0,
            running: link.flags & libc::IFF_RUNNING as u32 != 0,
            rx_queues: channels.receive.unwrap_or(link.rx_queues).max(1),
            tx_queues: channels.transmit.unwrap_or(link.tx_queues).max(1),
            driver: driver(&link.name).unwrap_or_default(),
            peer,
            bridge: link.master,
            name: link.name,
        }
    }
}

/// Whether a device can carry frames at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It can.
    Up,
    /// It was set down by somebody on this host.
    Down,
    /// Its other end is gone or down: a cable, a veth's peer, a tap's process.
    NoCarrier,
    /// There is no such device.
    Gone,
}

impl LinkState {
    /// The state of a device now; one question to the kernel, cheap enough to be asked often.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn of(device: &str) -> Result<Self, KernelError> {
        match netlink::link(&Key::Name(device)) {
            Ok(link) if link.flags & libc::IFF_UP as u32 == 0 => Ok(Self::Down),
            Ok(link) if !link.carrier => Ok(Self::NoCarrier),
            Ok(_) => Ok(Self::Up),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Self::Gone),
            Err(error) => Err(KernelError::failed(device, "looking at the link", error)),
        }
    }
}

/// Offloads of a device; `true` is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Leaves checksums to the device: the receiver sees partial ones.
    pub tx_checksum: bool,
    /// Leaves TCP segmentation to the device: the receiver sees frames beyond the MTU.
    pub tso: bool,
    /// As `tso`, in software, as late as possible.
    pub gso: bool,
    /// Merges received segments; on a veth it also turns NAPI on.
    pub gro: bool,
    /// Leaves VLAN tags beside the frame, where an XDP program does not see them.
    pub tx_vlan: bool,
}

/// A device, or a queue that is only sent on, taken for this process; dropping it gives it back.
///
/// Whoever puts a program on a device needs it alone. Whoever only sends shares it, a queue each,
/// also with one who has a program there: several guests may have one NIC.
///
/// It is a listening unix socket in the abstract name space, which is one per network namespace as
/// device names are, and which the kernel removes with the process, however that ends.
#[derive(Debug)]
pub struct Claim {
    _listener: UnixListener,
}

impl Claim {
    /// Takes a device.
    ///
    /// # Errors
    /// [`KernelError::InUse`] if another instance has it.
    pub fn take(device: &str) -> Result<Self, KernelError> {
        Self::bind(device, device.into(), format!("colo-xdp/device/{device}"))
    }

    /// Takes a queue of a device for sending.
    ///
    /// # Errors
    /// [`KernelError::InUse`] if another instance sends on it.
    pub fn take_queue(device: &str, queue: u32) -> Result<Self, KernelError> {
        // No device name holds a slash or a blank, so no two claims share a name.
        let name = format!("colo-xdp/device/{device}/queue/{queue}");
        Self::bind(device, format!("{device} queue {queue}"), name)
    }

    /// `what` names the place for people.
    fn bind(device: &str, what: String, name: String) -> Result<Self, KernelError> {
        let name = name.into_bytes();
        let failed = |error| KernelError::failed(device, "claiming the device", error);
        let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
        let start = Instant::now();
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(Self { _listener: listener }),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(failed(error));
                }
                Err(_) if start.elapsed() < CLAIM_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => {
                    let pid = holder(&name).map_or_else(String::new, |pid| format!(" (pid {pid})"));
                    return Err(KernelError::InUse { device: what, holder: pid });
                }
            }
        }
    }
}

/// The process that listens on an abstract name, if it can be had: its queue of connections, which
/// it never accepts, may be full, and it may be in another pid namespace.
fn holder(name: &[u8]) -> Option<i32> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name).ok()?).ok()?;
    let pid = getsockopt(&socket, sockopt::PeerCredentials).ok()?.pid();
    (pid != 0).then_some(pid)
}

// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGSO: u32 = 0x23;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
/// Words of `struct ethtool_drvinfo`; the driver's name fills 32 bytes from the second on.
const DRVINFO_WORDS: usize = 49;
/// Words of `struct ethtool_channels`, and of its counts of channels by kind.
const CHANNELS_WORDS: usize = 9;
const CHANNELS_RX: usize = 5;
const CHANNELS_TX: usize = 6;
const CHANNELS_COMBINED: usize = 8;

/// Queues in use, as far as the driver tells.
#[derive(Default)]
struct Channels {
    receive: Option<u32>,
    transmit: Option<u32>,
}

fn channels(device: &str) -> Option<Channels> {
    let mut channels = [0; CHANNELS_WORDS];
    channels[0] = ETHTOOL_GCHANNELS;
    ethtool(device, &mut channels).ok()?;
    let queues = |kind: usize| {
        let count = channels[kind].saturating_add(channels[CHANNELS_COMBINED]);
        Some(count).filter(|count| *count != 0)
    };
    Some(Channels { receive: queues(CHANNELS_RX), transmit: queues(CHANNELS_TX) })
}

fn driver(device: &str) -> Option<String> {
    let mut info = [0; DRVINFO_WORDS];
    info[0] = ETHTOOL_GDRVINFO;
    ethtool(device, &mut info).ok()?;
    let name = info[1..9].iter().flat_map(|word| word.to_ne_bytes());
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok()
}

/// One of the requests that take `struct ethtool_value`; a driver without the feature says 0.
fn ethtool_value(device: &str, command: u32) -> io::Result<u32> {
    let mut value = [command, 0];
    match ethtool(device, &mut value) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
        other => other.map(|()| value[1]),
    }
}

/// Runs an ethtool request on a structure made of words, of which the first is the command.
fn ethtool<const N: usize>(device: &str, request: &mut [u32; N]) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero is a valid ifreq: integers and pointers that nobody reads.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name[..NAME_SIZE - 1].iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: ifreq and the request live through the call, and the request is as long as the
    // structure that belongs to its command (the constants above), which the kernel fills in.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut ifreq) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
