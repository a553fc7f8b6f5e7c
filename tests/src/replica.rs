//! One QEMU of a COLO pair, its network filters on a real tap, and no guest inside: the test plays
//! the guest over a datagram netdev that a hub joins to the tap.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Result;
use crate::capture::{Capture, PATIENCE};
use crate::namespace::Namespace;
use crate::packet_socket::PacketSocket;
use crate::qemu::{Launch, Qemu, START};

/// The tap of a replica.
pub const DEVICE: &str = "tap0";
/// The netdev that the filters of [`Plan`] belong to, on the tap.
const NETDEV: &str = "net";

/// A replica that is about to be started.
#[derive(Debug)]
pub struct Plan {
    launch: Launch,
    filters: u32,
}

/// Which frames of its netdev a filter sees.
#[derive(Debug, Clone, Copy)]
pub enum Queue {
    /// From the guest.
    FromGuest,
    /// To the guest.
    ToGuest,
}

impl Queue {
    /// As QEMU has it, from the netdev's point of view.
    fn name(self) -> &'static str {
        match self {
            Self::FromGuest => "rx",
            Self::ToGuest => "tx",
        }
    }
}

impl Plan {
    /// A QEMU with a guest port and a tap.
    ///
    /// # Errors
    /// When no directory can be made.
    pub fn new() -> Result<Self> {
        let launch = Launch::new()?;
        let guest = format!(
            "dgram,id=guest,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            launch.socket("guest").display(),
            launch.socket("test").display()
        );
        let launch = launch
            .option(
                "-netdev",
                &format!("tap,id={NETDEV},ifname={DEVICE},script=no,downscript=no,vhost=off"),
            )
            .option("-netdev", &guest)
            .option("-netdev", "hubport,id=port0,hubid=0,netdev=guest")
            .option("-netdev", &format!("hubport,id=port1,hubid=0,netdev={NETDEV}"));
        Ok(Self { launch, filters: 0 })
    }

    /// The path of a socket called `name`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.launch.socket(name)
    }

    /// With a chardev called `name` that waits for a peer.
    #[must_use]
    pub fn server(mut self, name: &str) -> Self {
        self.launch = self.launch.server(name);
        self
    }

    /// With a chardev called `name` that is connected to `path`.
    #[must_use]
    pub fn client(mut self, name: &str, path: &Path) -> Self {
        self.launch = self.launch.client(name, path);
        self
    }

    /// With a chardev of any other kind.
    #[must_use]
    pub fn chardev(mut self, value: &str) -> Self {
        self.launch = self.launch.option("-chardev", value);
        self
    }

    /// With a filter: `kind` and its properties, on the frames of `queue`.
    #[must_use]
    pub fn filter(mut self, kind: &str, queue: Queue, properties: &str) -> Self {
        let queue = queue.name();
        let id = self.filters;
        self.filters += 1;
        let object = format!("{kind},id=filter{id},netdev={NETDEV},queue={queue},{properties}");
        self.launch = self.launch.option("-object", &object);
        self
    }

    /// What a person would type.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.launch.command_line()
    }

    /// Starts it in a namespace of its own and waits until frames can pass.
    ///
    /// # Errors
    /// When QEMU ends, or does not make its tap in time.
    pub fn start(self) -> Result<Replica> {
        self.start_in(Namespace::new("replica")?)
    }

    /// As [`Plan::start`], in this namespace.
    ///
    /// # Errors
    /// As [`Plan::start`].
    pub fn start_in(self, namespace: Namespace) -> Result<Replica> {
        let socket = UnixDatagram::bind(self.launch.socket("test"))?;
        let guest = self.launch.socket("guest");
        let mut qemu = self.launch.start(Some(&namespace))?;
        let deadline = Instant::now() + START;
        while !guest.exists() || !has_device(&namespace)? {
            qemu.check()?;
            ensure!(Instant::now() < deadline, "QEMU makes no tap: {}", qemu.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        namespace.ip(&format!("link set {DEVICE} up"))?;
        socket.connect(&guest).context("the guest port of QEMU")?;
        let (capture, sender) =
            namespace.run(|| Ok((Capture::on(DEVICE)?, PacketSocket::sender(DEVICE)?)))?;
        Ok(Replica { capture, sender, socket, qemu, namespace })
    }
}

fn has_device(namespace: &Namespace) -> Result<bool> {
    namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?.contains(DEVICE)))
}

/// A running replica.
#[derive(Debug)]
pub struct Replica {
    /// What leaves on the tap.
    pub capture: Capture,
    sender: PacketSocket,
    socket: UnixDatagram,
    qemu: Qemu,
    // Last: everything else is in it.
    namespace: Namespace,
}

impl Replica {
    /// The path of a socket called `name`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.qemu.socket(name)
    }

    /// Where its tap is.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Checks that QEMU still runs.
    ///
    /// # Errors
    /// When it has ended; the message has its log.
    pub fn check(&mut self) -> Result {
        self.qemu.check()
    }

    /// The guest sends a frame.
    ///
    /// # Errors
    /// When QEMU takes none.
    pub fn send(&self, frame: &[u8]) -> Result {
        self.socket.send(frame).context("the guest port of QEMU")?;
        Ok(())
    }

    /// A client sends a frame to the guest, on the tap.
    ///
    /// # Errors
    /// When the tap takes none.
    pub fn send_to_guest(&self, frame: &[u8]) -> Result {
        self.sender.send(frame)
    }

    /// Whether the guest receives this frame within `within`; others, which the kernel sends on
    /// every new device, are passed over.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn receives(&self, frame: &[u8], within: Duration) -> Result<bool> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 70_000];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) if buffer[..length] == *frame => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Expects that the guest receives this frame.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn expect_at_guest(&self, frame: &[u8]) -> Result {
        let came = self.receives(frame, PATIENCE)?;
        ensure!(came, "the guest did not receive the frame: {}", self.qemu.log());
        Ok(())
    }
}
