//! A network namespace for one test, with devices, raw senders and receivers in it.
#![allow(unsafe_code, reason = "packet sockets and taps have no safe wrapper")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use compare_user::kernel::{
    AttachOptions, DEFAULT_PIN_DIRECTORY, Device, EmptySlot, Mode, Outcome, Role, Steer,
};

/// How long anything that must happen may take, in an emulated machine on a busy host too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a network namespace that goes with its thread, however the test ends.
///
/// Without the privilege it says loudly that nothing was tested; under `CI=true` that fails.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            let ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!ci, "no network namespace under CI: {error}");
            eprintln!("SKIPPED, nothing tested: unshare(CLONE_NEWNET): {error} (run as root)");
            return;
        }
        let _pins = Pins;
        // No neighbour discovery between the frames that a test counts.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Removes what a failed test has left pinned.
struct Pins;

impl Drop for Pins {
    fn drop(&mut self) {
        for path in pins() {
            for inside in fs::read_dir(&path).into_iter().flatten().flatten() {
                let _ = fs::remove_file(inside.path());
            }
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
    }
}

/// The pins of this thread's network namespace.
pub(crate) fn pins() -> Vec<std::path::PathBuf> {
    let suffix = format!("-{}", fs::metadata("/proc/thread-self/ns/net").unwrap().ino());
    let Ok(entries) = fs::read_dir(DEFAULT_PIN_DIRECTORY) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().ends_with(&suffix)).collect()
}

/// Runs `ip` with blank-separated arguments.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

/// A veth pair, both ends up.
pub(crate) fn veth(name: &str, peer: &str) {
    ip(&format!("link add {name} type veth peer name {peer}"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {peer} up"));
}

pub(crate) fn device(name: &str) -> Device {
    Device::find(name).unwrap()
}

/// Fail closed, primary, no output, not pinned.
pub(crate) fn options(device: &str, mode: Mode) -> AttachOptions {
    AttachOptions {
        device: device.into(),
        mode,
        empty_slot: EmptySlot::Drop,
        role: Role::Primary,
        output: None,
        pin: None,
        tunnelled: false,
        learner: None,
        debug: false,
    }
}

/// As [`options`], pinned.
pub(crate) fn pinned(device: &str, mode: Mode) -> AttachOptions {
    AttachOptions { pin: Some(DEFAULT_PIN_DIRECTORY.into()), ..options(device, mode) }
}

/// Waits until an outcome has counted `frames`, and asserts that nothing else has.
pub(crate) fn assert_all_went(steer: &Steer, outcome: Outcome, frames: u64) {
    wait_until(|| steer.outcomes().unwrap()[outcome].packets >= frames);
    let outcomes = steer.outcomes().unwrap();
    assert_eq!(outcomes[outcome].packets, frames, "{outcomes:?}");
    assert_eq!(outcomes.frames(), frames, "{outcomes:?}");
}

/// Waits for a condition that must come true.
#[track_caller]
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A packet socket on a device: sends raw frames, and receives what the stack gets to see.
pub(crate) struct Wire(File);

impl Wire {
    pub(crate) fn open(device: &Device) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: takes no pointers; the descriptor is new and becomes the file's.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol));
            assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
            File::from_raw_fd(fd)
        };
        // SAFETY: all-zero is a valid address, filled in below.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = device.index as i32;
        let timeout = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
        // SAFETY: both structures live through the calls, with their true lengths.
        unsafe {
            let length = size_of_val(&address) as u32;
            assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length), 0);
            let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
            let length = size_of_val(&timeout) as u32;
            let value = (&raw const timeout).cast();
            assert_eq!(libc::setsockopt(socket.as_raw_fd(), level, name, value, length), 0);
        }
        Self(socket)
    }

    /// Sends a frame; when the far end has no room for it, as soon as it has.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let start = Instant::now();
        let sent = loop {
            match self.0.write(frame) {
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    assert!(start.elapsed() < PATIENCE, "no room within {PATIENCE:?}");
                    std::thread::yield_now();
                }
                sent => break sent.unwrap(),
            }
        };
        assert_eq!(sent, frame.len());
    }

    /// The frame that has arrived, or arrives within a tenth of a second.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 65_536];
        let length = self.0.read(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// The frames that have arrived and arrive within a tenth of a second of each other.
    pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 65_536];
        while let Ok(length) = self.0.read(&mut buffer) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

/// A tap, and the guest's end of it.
pub(crate) fn tap(name: &str) -> File {
    let tap = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: all-zero is a valid ifreq, filled in below.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: TUNSETIFF reads an ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", io::Error::last_os_error());
    ip(&format!("link set {name} up"));
    tap
}

/// Datagrams that the IPv4 layer of this namespace has been given.
pub(crate) fn ipv4_received() -> u64 {
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = snmp.lines().filter(|line| line.starts_with("Ip:"));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    let (_, value) = names.zip(values).find(|(name, _)| *name == "InReceives").unwrap();
    value.parse().unwrap()
}

/// An Ethernet frame from `payload`, to the given address.
pub(crate) fn ethernet(to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// IPv4 and UDP with eight bytes of payload, 10.0.0.`from` to 10.0.1.`to`.
pub(crate) fn udp(from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, from.0], [10, 0, 1, to.0], 64);
    let mut packet = Vec::new();
    builder.udp(from.1, to.1).write(&mut packet, b"datagram").unwrap();
    packet
}
