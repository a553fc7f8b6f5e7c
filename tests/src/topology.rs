//! The scene: two guests, the comparator's host and a client, each in a namespace of its own.
//!
//! ```text
//!  primary guest ── tap or veth ──┐                        ┌── veth "NIC" ── client (capture)
//!                                 ├── comparator's host ───┤
//!  secondary guest ── veth or tap ┘                        └── a bridge joins primary and NIC
//! ```
//! The bridge is there because a real host has one: a frame that XDP does not take reaches the
//! client through it, so a leak is seen.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};

use crate::Result;
use crate::capture::Capture;
use crate::leftovers;
use crate::namespace::Namespace;
use crate::packet_socket::PacketSocket;
use crate::pass_program::PassProgram;
use crate::tap::Tap;

const BRIDGE: &str = "bridge0";

/// How a guest is attached to the comparator's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A tap device; the test holds its descriptor as QEMU would.
    Tap,
    /// A veth pair whose far end is in the guest's namespace.
    Veth,
}

/// A device's part in the scene, by the option of `colo-xdp run` that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `--primary`
    Primary,
    /// `--secondary`
    Secondary,
    /// `--out`
    Out,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Secondary, Self::Out];

    /// The option's name.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Primary => "--primary",
            Self::Secondary => "--secondary",
            Self::Out => "--out",
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Primary => 'p',
            Self::Secondary => 's',
            Self::Out => 'o',
        }
    }
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The primary guest's attachment.
    pub primary: Attachment,
    /// The secondary guest's attachment.
    pub secondary: Attachment,
    /// MTU of every device, in bytes.
    pub mtu: u32,
    /// Queues that the NIC receives and sends on.
    pub nic_queues: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self { primary: Attachment::Tap, secondary: Attachment::Veth, mtu: 1500, nic_queues: 1 }
    }
}

/// The scene, built. Dropping it removes every namespace and device.
#[derive(Debug)]
pub struct Topology {
    /// The primary guest.
    pub primary: Guest,
    /// The secondary guest.
    pub secondary: Guest,
    /// The client behind the NIC.
    pub client: Client,
    host: Namespace,
}

impl Topology {
    /// Builds the scene.
    ///
    /// # Errors
    /// Without root, or when `ip` or `ethtool` is missing or refuses.
    pub fn new(plan: Plan) -> Result<Self> {
        let names = Names::next();
        let host = Namespace::new("host")?;
        host.ip(&format!(
            "link add {BRIDGE} mtu {mtu} type bridge stp_state 0 mcast_snooping 0\n\
             link set {BRIDGE} up\n",
            mtu = plan.mtu
        ))?;
        let primary = Guest::new(&host, Role::Primary, plan.primary, &names, plan.mtu)?;
        let secondary = Guest::new(&host, Role::Secondary, plan.secondary, &names, plan.mtu)?;
        let client = Client::new(&host, &names, plan)?;
        Ok(Self { primary, secondary, client, host })
    }

    /// The namespace in which the comparator runs.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The device of `role` in the comparator's namespace.
    #[must_use]
    pub fn device(&self, role: Role) -> &str {
        match role {
            Role::Primary => &self.primary.device,
            Role::Secondary => &self.secondary.device,
            Role::Out => &self.client.device,
        }
    }

    /// Removes the device of `role` from under the comparator, as a guest that stops does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unplug(&mut self, role: Role) -> Result {
        match role {
            Role::Primary => self.primary.unplug(&self.host),
            Role::Secondary => self.secondary.unplug(&self.host),
            Role::Out => self.client.unplug(&self.host),
        }
    }

    /// Everything at once, for tests in which guests, client and host are busy at the same time.
    pub fn parts(&mut self) -> (&Guest, &Guest, &mut Client, &Namespace) {
        (&self.primary, &self.secondary, &mut self.client, &self.host)
    }

    /// Ends [`Guest::close_tap`] of the primary guest: the next hypervisor opens the same tap.
    ///
    /// # Errors
    /// When there is no such tap any more.
    pub fn reopen_primary_tap(&mut self) -> Result {
        self.primary.reopen_tap(&self.host)
    }

    /// Makes the device of `role` again, under the same name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug(&mut self, role: Role) -> Result {
        match role {
            Role::Primary => self.primary.plug(&self.host),
            Role::Secondary => self.secondary.plug(&self.host),
            Role::Out => self.client.plug(&self.host),
        }
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let devices = Role::ALL.map(|role| self.device(role).to_owned());
        leftovers::unpin(|name| devices.iter().any(|device| name.contains(device.as_str())));
    }
}

/// A guest: the test sends its egress frame by frame.
#[derive(Debug)]
pub struct Guest {
    device: String,
    peer: String,
    role: Role,
    mtu: u32,
    link: Option<Link>,
    // Dropped last: the link's socket is inside it.
    namespace: Option<Namespace>,
}

#[derive(Debug)]
enum Link {
    Tap(Tap),
    Veth(PacketSocket),
}

impl Guest {
    fn new(
        host: &Namespace,
        role: Role,
        attachment: Attachment,
        names: &Names,
        mtu: u32,
    ) -> Result<Self> {
        let namespace = match (attachment, role) {
            (Attachment::Tap, _) => None,
            (Attachment::Veth, Role::Secondary) => Some(Namespace::new("secondary")?),
            (Attachment::Veth, _) => Some(Namespace::new("primary")?),
        };
        let (device, peer) = (names.device(role), names.peer(role));
        let mut guest = Self { device, peer, role, mtu, link: None, namespace };
        guest.plug(host)?;
        Ok(guest)
    }

    fn plug(&mut self, host: &Namespace) -> Result {
        ensure!(self.link.is_none(), "{} is plugged in already", self.device);
        let link = match &self.namespace {
            None => Link::Tap(host.run(|| Tap::new(&self.device))?),
            Some(guest) => {
                veth(host, &self.device, guest, &self.peer, self.mtu)?;
                offloads_off(guest, &self.peer)?;
                Link::Veth(guest.run(|| PacketSocket::sender(&self.peer))?)
            }
        };
        self.link = Some(link);
        let bridged = if self.role == Role::Primary {
            format!("link set {} master {BRIDGE}\n", self.device)
        } else {
            String::new()
        };
        host.ip(&format!("link set {0} mtu {1}\nlink set {0} up\n{bridged}", self.device, self.mtu))
    }

    fn unplug(&mut self, host: &Namespace) -> Result {
        ensure!(self.link.is_some(), "{} is not plugged in", self.device);
        // Before the tap's descriptor goes: a child process that another thread is just starting
        // has a copy of it for a moment, and this does not wait for that.
        host.ip(&format!("link del {}", self.device))?;
        self.link = None;
        Ok(())
    }

    /// Sets the guest's end of its veth up or down, and with it the carrier of the device.
    ///
    /// # Errors
    /// When the guest is on a tap, or the kernel refuses.
    pub fn set_carrier(&self, on: bool) -> Result {
        let guest = self.namespace.as_ref().context("a tap has no other end")?;
        guest.ip(&format!("link set {} {}", self.peer, if on { "up" } else { "down" }))
    }

    /// Closes the guest's end of a tap that stays, as when a hypervisor ends whose taps were made
    /// for it. The device loses its carrier.
    ///
    /// # Errors
    /// When the guest is not on a tap, or the kernel refuses.
    pub fn close_tap(&mut self) -> Result {
        match self.link.take() {
            Some(Link::Tap(tap)) => tap.leave(),
            _ => Err(anyhow::anyhow!("{} is no tap that is plugged in", self.device)),
        }
    }

    fn reopen_tap(&mut self, host: &Namespace) -> Result {
        ensure!(self.link.is_none(), "{} is open", self.device);
        self.link = Some(Link::Tap(host.run(|| Tap::new(&self.device))?));
        Ok(())
    }

    /// Sends one frame as the guest's egress.
    ///
    /// # Errors
    /// When the device is unplugged or takes no frames.
    pub fn send(&self, frame: &[u8]) -> Result {
        match self.link.as_ref() {
            Some(Link::Tap(tap)) => tap.send(frame),
            Some(Link::Veth(socket)) => socket.send(frame),
            None => Err(anyhow::anyhow!("{} is not plugged in", self.device)),
        }
        .with_context(|| format!("{} guest", self.role.option().trim_start_matches('-')))
    }

    /// Sends frames, in order.
    ///
    /// # Errors
    /// As [`Guest::send`].
    pub fn send_all<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result {
        frames.iter().try_for_each(|frame| self.send(frame.as_ref()))
    }
}

/// The client: sees what is released.
#[derive(Debug)]
pub struct Client {
    device: String,
    peer: String,
    mtu: u32,
    queues: u32,
    link: Option<ClientLink>,
    // Dropped last: the link's socket is inside it.
    namespace: Namespace,
}

#[derive(Debug)]
struct ClientLink {
    capture: Capture,
    /// Lets the client's end take frames that an XDP program redirects to the NIC.
    _pass: PassProgram,
}

impl Client {
    fn new(host: &Namespace, names: &Names, plan: Plan) -> Result<Self> {
        let mut client = Self {
            device: names.device(Role::Out),
            peer: names.peer(Role::Out),
            mtu: plan.mtu,
            queues: plan.nic_queues,
            link: None,
            namespace: Namespace::new("client")?,
        };
        client.plug(host)?;
        Ok(client)
    }

    fn plug(&mut self, host: &Namespace) -> Result {
        ensure!(self.link.is_none(), "{} is plugged in already", self.device);
        veth(host, &self.device, &self.namespace, &self.peer, self.mtu)?;
        if self.queues > 1 {
            // The far end first: with a program on it, it receives on as many as the NIC sends on.
            let count = self.queues.to_string();
            let set = |device| ["-L", device, "rx", count.as_str(), "tx", count.as_str()];
            self.namespace.command("ethtool", &set(&self.peer))?;
            host.command("ethtool", &set(&self.device))?;
        }
        let pass = self.namespace.run(|| PassProgram::attach(&self.peer))?;
        // After the program, which turns GRO on: merged segments are not what was on the wire.
        offloads_off(&self.namespace, &self.peer)?;
        let capture = self.namespace.run(|| Capture::on(&self.peer))?;
        self.link = Some(ClientLink { capture, _pass: pass });
        host.ip(&format!("link set {0} up\nlink set {0} master {BRIDGE}", self.device))
    }

    fn unplug(&mut self, host: &Namespace) -> Result {
        self.link.take().with_context(|| format!("{} is not plugged in", self.device))?;
        host.ip(&format!("link del {}", self.device))
    }

    /// The capture at the client's end.
    ///
    /// # Panics
    /// When the NIC is unplugged.
    pub fn capture(&mut self) -> &mut Capture {
        &mut self.link.as_mut().expect("the NIC is plugged in").capture
    }
}

/// Makes a veth pair, `device` in `host` and `peer`, up, in `far`.
pub(crate) fn veth(
    host: &Namespace,
    device: &str,
    far: &Namespace,
    peer: &str,
    mtu: u32,
) -> Result {
    host.ip(&format!(
        "link add {device} mtu {mtu} type veth peer name {peer} mtu {mtu} netns {}",
        far.name()
    ))?;
    far.ip(&format!("link set {peer} up"))
}

fn offloads_off(namespace: &Namespace, device: &str) -> Result {
    let off = ["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
    namespace.command("ethtool", &off)?;
    Ok(())
}

/// Device names of one topology: short enough for the kernel, with the process id, and unique on
/// the whole machine, because pins in the BPF file system are named after devices.
pub(crate) struct Names {
    stem: String,
}

impl Names {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { stem: format!("cx{}n{serial}", std::process::id()) }
    }

    /// The device whose part `prefix` names, in two letters at most.
    pub(crate) fn of(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.stem)
    }

    /// The end in the comparator's namespace.
    pub(crate) fn device(&self, role: Role) -> String {
        format!("{}{}", role.letter(), self.stem)
    }

    /// The end in the guest's or the client's namespace.
    pub(crate) fn peer(&self, role: Role) -> String {
        format!("g{}{}", role.letter(), self.stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::SILENCE;
    use crate::needs_root;
    use crate::packet::{Packet, padded};

    #[test]
    fn without_a_comparator_the_primary_reaches_the_client_through_the_bridge() -> Result {
        needs_root!();
        for primary in [Attachment::Tap, Attachment::Veth] {
            let mut topology = Topology::new(Plan { primary, ..Plan::default() })?;
            let frames: Vec<_> = (0_usize..40)
                .map(|index| {
                    let payload = crate::payload::bytes(index as u64, 37 * index);
                    let packet = if index % 2 == 0 { Packet::v4() } else { Packet::v6() };
                    let packet = (0..index % 3).fold(packet, |it, tag| it.tagged(tag as u16 + 5));
                    padded(packet.udp(1, index as u16, &payload[..payload.len().min(1430)]), 60)
                })
                .collect();
            topology.primary.send_all(&frames)?;
            topology.client.capture().expect(&frames)?;
            topology.secondary.send_all(&frames)?;
            topology.client.capture().expect_nothing(SILENCE)?;
        }
        Ok(())
    }

    #[test]
    fn every_device_can_be_unplugged_and_plugged_again() -> Result {
        needs_root!();
        for attachment in [Attachment::Tap, Attachment::Veth] {
            let plan = Plan { primary: attachment, secondary: attachment, ..Plan::default() };
            let mut topology = Topology::new(plan)?;
            for role in Role::ALL {
                let device = topology.device(role).to_owned();
                let present = |topology: &Topology| {
                    topology.host().run(|| {
                        Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?.contains(&device))
                    })
                };
                assert!(present(&topology)?);
                topology.unplug(role)?;
                assert!(!present(&topology)?, "{device} is still there");
                topology.plug(role)?;
                assert!(present(&topology)?);
            }
            let frame = Packet::v4().udp(1, 2, b"after the return");
            topology.primary.send(&frame)?;
            topology.client.capture().expect(&[frame])?;
        }
        Ok(())
    }

    #[test]
    fn jumbo_frames_cross_whole() -> Result {
        needs_root!();
        for primary in [Attachment::Tap, Attachment::Veth] {
            let mut topology = Topology::new(Plan { primary, mtu: 9000, ..Plan::default() })?;
            let frame = Packet::v4().udp(1, 2, &crate::payload::bytes(3, 8972));
            assert_eq!(frame.len(), 9014);
            topology.primary.send(&frame)?;
            topology.client.capture().expect(&[frame])?;
        }
        Ok(())
    }
}
