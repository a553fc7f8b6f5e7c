//! Devices for one test: a network namespace that only its thread is in, veth pairs, taps, and
//! raw access to the far ends.

#![allow(unsafe_code, reason = "packet sockets and taps have no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

/// Runs a test in a network namespace of its own, which ends with it, whatever happens.
///
/// Without the privilege to make one the test is skipped, audibly; under `CI=true` it fails.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        if let Err(cause) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "cannot make a network namespace ({cause}); under CI=true this is a failure"
            );
            // Past the test harness, which hides what passing tests print.
            let skip = format!(
                "SKIPPED: no network namespace ({cause}); run as root
"
            );
            io::stderr().write_all(skip.as_bytes()).unwrap();
            return;
        }
        for which in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
            // Neighbour discovery would send frames of its own.
            std::fs::write(path, "1").unwrap();
        }
        test();
    };
    let thread = std::thread::spawn(run);
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these arguments in the test's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// A veth pair `NAME` and `NAME-far`, up, with room for jumbo frames.
pub(crate) fn veth(name: &str) -> Far {
    ip(&format!("link add {name} mtu 9000 type veth peer name {name}-far mtu 9000"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {name}-far up"));
    Far::open(&format!("{name}-far")).unwrap()
}

pub(crate) fn index(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).unwrap()
}

/// Raw access to the far end of a veth pair.
pub(crate) struct Far(OwnedFd);

impl Far {
    fn open(device: &str) -> io::Result<Self> {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::c_int::from(protocol),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // Room for all that a test sends before it looks.
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).map_err(io::Error::from)?;
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index(device) as i32;
        // SAFETY: the pointer is to a live sockaddr_ll of the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound == 0 { Ok(Self(socket)) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that arrives within a second.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        self.next_within(Duration::from_secs(1))
    }

    pub(crate) fn next_within(&self, time: Duration) -> Option<Vec<u8>> {
        use std::os::fd::AsFd;
        let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(time).unwrap();
        if poll(&mut waiting, timeout).unwrap() == 0 {
            return None;
        }
        let mut frame = vec![0; 65_536];
        // SAFETY: the pointer and length are those of a live buffer.
        let length =
            unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }
}

/// A tap as a hypervisor opens it: what is written to it is the guest's egress.
pub(crate) struct Tap(File);

impl Tap {
    pub(crate) fn create(name: &str) -> Self {
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        ip(&format!("link set {name} up"));
        Self(file)
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }

    /// The next frame that the guest would receive; blocks until there is one.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 65_536];
        let length = self.0.read(&mut frame).unwrap();
        frame.truncate(length);
        frame
    }
}
