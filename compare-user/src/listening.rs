//! Sockets that peers connect to. Nobody is asked who they are, and a peer may release held frames or
//! put others in their place: so a unix socket is its owner's alone, and a TCP socket takes peers of
//! this host unless the address says otherwise.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// Listens on `path` with mode 0600. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// When another process listens there, `path` is something other than a socket, or the directory
/// does not allow it, or allows everybody to put another socket in this one's place.
pub(crate) fn unix(path: &Path) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    check_directory(path)?;
    match std::fs::symlink_metadata(path) {
        // A symbolic link too: it is not followed.
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "it exists and is no socket"));
        }
        Ok(_) => make_room(path, &address)?,
        Err(_) => {}
    }
    let socket = new_socket(SockFlag::empty())?;
    // Before it is bound: the file is made with the mode that the socket has (unix_bind in
    // net/unix/af_unix.c), so that there is no moment in which others may connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(UnixListener::from(socket))
}

fn new_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | flags, None)?)
}

/// Removes a socket that nobody listens on.
fn make_room(path: &Path, address: &UnixAddr) -> io::Result<()> {
    // Without waiting: whoever listens may never accept.
    let probe = new_socket(SockFlag::SOCK_NONBLOCK)?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path),
        // Gone since it was looked at.
        Err(Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EAGAIN) => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there"))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// In a directory that everybody may change, anybody could take the socket away and have its
/// clients talk to another one.
fn check_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if is_open_to_all(&std::fs::metadata(directory)?) {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("everybody may replace files in {0} (`chmod o-w {0}`)", directory.display()),
        ));
    }
    Ok(())
}

fn is_open_to_all(directory: &Metadata) -> bool {
    directory.mode() & (libc::S_IWOTH | libc::S_ISVTX) == libc::S_IWOTH
}

/// Listens on an address of TCP; says so if others than this host can reach it.
///
/// # Errors
/// When the host has no address, or none of them can be listened on.
pub(crate) fn tcp(host: &str, port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(&addresses(host, port)?[..])?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "whoever can reach this address may release held frames or have others released: let \
             nobody but the peer reach it"
        );
    }
    Ok(listener)
}

/// The addresses of a host, of this one if it has no name.
///
/// # Errors
/// When the name cannot be resolved.
pub(crate) fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let found: Vec<_> = (host, port).to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::from(ErrorKind::NotFound));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).expect("it is ours");
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        let first = unix(&path).expect("the path is free");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(unix(&path).expect_err("in use").kind(), ErrorKind::AddrInUse);
        drop(first);
        unix(&path).expect("nobody listens any more");

        let file = directory.path().join("file");
        std::fs::write(&file, "precious").expect("the directory is ours");
        assert_eq!(unix(&file).expect_err("no socket").kind(), ErrorKind::AlreadyExists);
        assert!(file.exists());
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (link, victim) = (directory.path().join("link"), directory.path().join("victim"));
        drop(unix(&victim).expect("the path is free"));
        set_mode(&victim, 0o640);
        for target in [victim.clone(), directory.path().join("nowhere")] {
            std::os::unix::fs::symlink(&target, &link).expect("the directory is ours");
            assert_eq!(unix(&link).expect_err("a link").kind(), ErrorKind::AlreadyExists);
            assert!(link.is_symlink(), "it is left alone");
            std::fs::remove_file(&link).expect("it is there");
        }
        assert_eq!(mode(&victim), 0o640, "what it leads to is left alone");
        assert!(!directory.path().join("nowhere").exists());
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        let stubborn = new_socket(SockFlag::empty()).expect("a socket");
        let address = UnixAddr::new(&path).expect("short enough");
        bind(stubborn.as_raw_fd(), &address).expect("the path is free");
        listen(&stubborn, Backlog::new(0).expect("a length")).expect("bound");
        let clients: Vec<_> = std::iter::from_fn(|| {
            let client = new_socket(SockFlag::SOCK_NONBLOCK).ok()?;
            connect(client.as_raw_fd(), &address).ok().map(|()| client)
        })
        .collect();
        assert!(!clients.is_empty(), "the queue has room for one");
        assert_eq!(unix(&path).expect_err("in use").kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_directory_in_which_everybody_may_replace_the_socket_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        for (mode, allowed) in [(0o777, false), (0o702, false), (0o1777, true), (0o770, true)] {
            set_mode(directory.path(), mode);
            let outcome = unix(&path);
            assert_eq!(outcome.is_ok(), allowed, "{mode:o}: {outcome:?}");
            if let Err(error) = outcome {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert!(error.to_string().contains("chmod o-w"), "{error}");
                assert!(!path.exists());
            }
        }
    }

    #[test]
    fn without_a_host_only_this_one_is_let_in() {
        let listener = tcp("", 0).expect("any port");
        let address = listener.local_addr().expect("bound");
        assert!(address.ip().is_loopback(), "{address}");
        assert!(
            addresses("", 9000).expect("no name to look up").iter().all(|it| it.ip().is_loopback())
        );
        let listener = tcp("0.0.0.0", 0).expect("it is allowed, and said");
        assert!(listener.local_addr().expect("bound").ip().is_unspecified());
    }
}
