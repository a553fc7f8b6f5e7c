//! What a checkpoint does to an idle TCP connection, on a real socket.
//!
//! A checkpoint makes the secondary guest equal to the primary, kernel included. Here the guests
//! are ordinary kernels, and of those only sockets can be made equal: the secondary's is closed
//! without a word and made again with the numbers of the primary's, by the repair mode that was
//! built for process migration (`do_tcp_setsockopt` in net/ipv4/tcp.c). Only for connections with
//! nothing unread, unsent or unacknowledged.
#![allow(unsafe_code, reason = "the options of TCP's repair mode have no safe wrapper")]

use std::io;
use std::mem::size_of;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use crate::Result;
use crate::namespace::Namespace;
use crate::service::Conversation;

// include/uapi/linux/tcp.h
const TCP_REPAIR_ON: libc::c_int = 1;
/// Without the window probe that leaving repair mode sends otherwise.
const TCP_REPAIR_OFF_NO_WP: libc::c_int = -1;
const TCP_RECV_QUEUE: libc::c_int = 1;
const TCP_SEND_QUEUE: libc::c_int = 2;
const TCPI_OPT_TIMESTAMPS: u8 = 1;
const TCPI_OPT_SACK: u8 = 2;
const TCPI_OPT_WSCALE: u8 = 4;

// Option kinds of RFC 9293, section 3.2, and RFC 7323.
const KIND_MSS: u32 = 2;
const KIND_WINDOW: u32 = 3;
const KIND_SACK_PERMITTED: u32 = 4;
const KIND_TIMESTAMPS: u32 = 8;

/// `struct tcp_repair_window`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    last_update: u32,
    send: u32,
    largest: u32,
    receive: u32,
    last_advertised: u32,
}

/// `struct tcp_repair_opt`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Negotiated {
    kind: u32,
    value: u32,
}

/// Everything by which one end of an idle connection is known to the other.
#[derive(Debug, Clone)]
pub struct Numbers {
    sent: u32,
    received: u32,
    window: Window,
    negotiated: Vec<Negotiated>,
    timestamp: Option<u32>,
}

/// Makes the secondary's end of an idle conversation equal to the primary's.
///
/// # Errors
/// When the connection is not idle, or the kernel refuses.
pub fn checkpoint(
    primary: &Conversation,
    secondary: &Conversation,
    secondary_guest: &Namespace,
) -> Result {
    let numbers = primary.look(Numbers::of).context("the primary's socket")?;
    secondary
        .exchange(|old| secondary_guest.run(|| numbers.rebuild(old)))
        .context("the secondary's socket")
}

impl Numbers {
    /// Those of an idle socket.
    ///
    /// # Errors
    /// When it is not idle, or without root.
    pub fn of(stream: &TcpStream) -> Result<Self> {
        set(stream, libc::TCP_REPAIR, &TCP_REPAIR_ON).context("cannot enter repair mode")?;
        let numbers = Self::read(stream);
        set(stream, libc::TCP_REPAIR, &TCP_REPAIR_OFF_NO_WP).context("cannot leave repair mode")?;
        numbers
    }

    fn read(stream: &TcpStream) -> Result<Self> {
        for (queue, request) in [("unread", libc::FIONREAD), ("unacknowledged", libc::TIOCOUTQ)] {
            let mut bytes: libc::c_int = 0;
            // SAFETY: both requests write one int, which lives across the call.
            let asked = unsafe { libc::ioctl(stream.as_raw_fd(), request, &raw mut bytes) };
            ensure!(asked == 0 && bytes == 0, "not idle: {bytes} bytes {queue}");
        }
        let mut information = [0_u8; 8];
        get(stream, libc::TCP_INFO, &mut information)?;
        // struct tcp_info: the sixth byte is the options, the seventh two window scales.
        let [_, _, _, _, _, options, scales, _] = information;
        let mss: u32 = get_number(stream, libc::TCP_MAXSEG)?;
        let mut negotiated = vec![Negotiated { kind: KIND_MSS, value: mss }];
        if options & TCPI_OPT_WSCALE != 0 {
            let (send, receive) = (u32::from(scales & 15), u32::from(scales >> 4));
            negotiated.push(Negotiated { kind: KIND_WINDOW, value: send | receive << 16 });
        }
        if options & TCPI_OPT_SACK != 0 {
            negotiated.push(Negotiated { kind: KIND_SACK_PERMITTED, value: 0 });
        }
        let timestamps = options & TCPI_OPT_TIMESTAMPS != 0;
        if timestamps {
            negotiated.push(Negotiated { kind: KIND_TIMESTAMPS, value: 0 });
        }
        let mut window = Window::default();
        get(stream, libc::TCP_REPAIR_WINDOW, &mut window)?;
        let queue = |queue: libc::c_int| -> Result<u32> {
            set(stream, libc::TCP_REPAIR_QUEUE, &queue)?;
            get_number(stream, libc::TCP_QUEUE_SEQ)
        };
        Ok(Self {
            sent: queue(TCP_SEND_QUEUE)?,
            received: queue(TCP_RECV_QUEUE)?,
            window,
            negotiated,
            timestamp: timestamps.then(|| get_number(stream, libc::TCP_TIMESTAMP)).transpose()?,
        })
    }

    /// Closes `old` without a word and makes a socket with the same addresses and these numbers,
    /// in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rebuild(&self, old: TcpStream) -> Result<TcpStream> {
        let (here, there) = (old.local_addr()?, old.peer_addr()?);
        let patience = old.read_timeout()?;
        set(&old, libc::TCP_REPAIR, &TCP_REPAIR_ON).context("cannot enter repair mode")?;
        forget_addresses(&old).context("cannot leave the old socket's addresses")?;
        drop(old);
        let family = if here.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let new = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let new = TcpStream::from(new);
        set(&new, libc::TCP_REPAIR, &TCP_REPAIR_ON)?;
        bind(new.as_raw_fd(), &SockaddrStorage::from(here)).with_context(|| here.to_string())?;
        for (queue, number) in [(TCP_SEND_QUEUE, self.sent), (TCP_RECV_QUEUE, self.received)] {
            set(&new, libc::TCP_REPAIR_QUEUE, &queue)?;
            set(&new, libc::TCP_QUEUE_SEQ, &number)?;
        }
        // In repair mode this only makes the connection established.
        connect(new.as_raw_fd(), &SockaddrStorage::from(there)).context("cannot establish")?;
        set_slice(&new, libc::TCP_REPAIR_OPTIONS, &self.negotiated).context("options")?;
        if let Some(timestamp) = self.timestamp {
            set(&new, libc::TCP_TIMESTAMP, &timestamp).context("timestamp")?;
        }
        set(&new, libc::TCP_REPAIR_WINDOW, &self.window).context("window")?;
        set(&new, libc::TCP_REPAIR, &TCP_REPAIR_OFF_NO_WP).context("cannot leave repair mode")?;
        new.set_nodelay(true)?;
        new.set_read_timeout(patience)?;
        new.set_write_timeout(patience)?;
        Ok(new)
    }
}

/// Takes the socket out of its connection, without a word in repair mode (`tcp_disconnect` in
/// net/ipv4/tcp.c).
///
/// Closing it is not enough: a process that another thread is just starting has a copy of every
/// descriptor until its `exec`, and the addresses stay in use as long as that copy is open.
fn forget_addresses(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: all zeroes is a value of this plain structure, and means AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nowhere` lives across the call, which only reads, and its true size is given.
    let done = unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Plain old data that socket options consist of.
///
/// # Safety
/// Every byte pattern is a value, and there is no padding.
unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: bytes.
unsafe impl Plain for [u8; 8] {}
// SAFETY: repr(C), five integers of one size.
unsafe impl Plain for Window {}
// SAFETY: repr(C), two integers of one size.
unsafe impl Plain for Negotiated {}

fn set<T: Plain>(stream: &TcpStream, option: libc::c_int, value: &T) -> io::Result<()> {
    set_slice(stream, option, std::slice::from_ref(value))
}

fn set_slice<T: Plain>(stream: &TcpStream, option: libc::c_int, values: &[T]) -> io::Result<()> {
    // SAFETY: `values` lives across the call, which only reads, and its true size is given.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            values.as_ptr().cast(),
            size_of_val(values) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get<T: Plain>(stream: &TcpStream, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, for which every byte pattern
    // is a value.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_number(stream: &TcpStream, option: libc::c_int) -> Result<u32> {
    let mut number = 0_u32;
    get(stream, option, &mut number).with_context(|| format!("TCP option {option}"))?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::load::Talk;
    use crate::needs_root;
    use crate::pair::{Family, Network, Plan};
    use crate::service::Services;

    #[test]
    fn a_conversation_goes_on_over_a_socket_that_was_made_again() -> Result {
        needs_root!();
        let network = Network::new(Plan::default())?;
        network.forward_plainly()?;
        let services = Services::start(&network.primary.guest)?;
        for family in Family::BOTH {
            let mut talk = network.client.run(|| Talk::open(family.guest()))?;
            talk.say("before")?;
            // The acknowledgement of the answer may be late.
            thread::sleep(Duration::from_millis(100));
            let guest = services.conversation(talk.client()?).context("it is held")?;
            // As a process that is being started would have it.
            let copied = guest.look(|stream| Ok(stream.try_clone()?))?;
            // Equal to itself.
            checkpoint(&guest, &guest, &network.primary.guest)?;
            drop(copied);
            talk.say("after")?;
            talk.say("a longer line, ".repeat(200).trim_end())?;
            talk.end()?;
        }
        assert!(services.report().failures.is_empty(), "{:?}", services.report());
        Ok(())
    }
}
