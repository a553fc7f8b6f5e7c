//! Opening and resetting connections.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::Result;

/// How long one step of an exchange may take: opening a connection, or the next bytes on it. Long
/// enough for a few retransmissions of a lost SYN (after 1, 3 and 7 s), and for the comparator's
/// timeout.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);

/// How long an earlier connection on the same port may take to end: a few retransmissions of its
/// last segment.
const ENDING: Duration = Duration::from_secs(5);
/// Between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Connects to `there`, from port `from` if given; reads and writes on it have an end.
///
/// # Errors
/// When nobody answers in time, or the port is in use.
pub fn connect(from: Option<u16>, there: SocketAddr) -> Result<TcpStream> {
    let stream = match from {
        None => TcpStream::connect_timeout(&there, PATIENCE)
            .with_context(|| format!("cannot connect to {there}"))?,
        Some(port) => connect_from(port, there)?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// As [`connect`], from port `from`, which an earlier connection to the same service may have used:
/// its end is waited for, that is the other side's last acknowledgement.
///
/// # Errors
/// As [`connect`].
pub fn connect_from(from: u16, there: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + ENDING;
    loop {
        match try_connect_from(from, there) {
            Err(Errno::EADDRNOTAVAIL) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            outcome => {
                return outcome
                    .with_context(|| format!("cannot connect from port {from} to {there}"));
            }
        }
    }
}

fn try_connect_from(from: u16, there: SocketAddr) -> nix::Result<TcpStream> {
    let family = if there.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // On Linux this bounds connect too (socket(7)).
    let seconds = TimeVal::seconds(i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX));
    setsockopt(&socket, sockopt::SendTimeout, &seconds)?;
    let any: SocketAddr = if there.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, from).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, from).into()
    };
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(there))?;
    Ok(socket.into())
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) -> Result {
    // Zero seconds to linger: close discards what is unsent and resets (socket(7)).
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    drop(stream);
    Ok(())
}
