//! Two hosts with a guest each, a switch and a client, every one an ordinary kernel network stack
//! in a namespace of its own.
//!
//! ```text
//!                       ┌─ NIC ─ primary host ─── veth ── primary guest
//!  client ─ wire ─ switch            │ link (wire, router)
//!                       └─ NIC ─ secondary host ─ veth ── secondary guest
//! ```
//! Both guests have the same addresses, Ethernet and IP. What joins NIC, guest and link on a host
//! is colo-xdp, or [`Network::forward_plainly`] on the primary host; without either nothing does.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::ensure;
use serde_json::Value;

use super::wire::Wire;
use crate::Result;
use crate::leftovers;
use crate::namespace::Namespace;
use crate::pass_program::PassProgram;
use crate::topology::{Names, veth};

/// The guests' Ethernet address.
pub const GUEST_MAC: &str = "52:54:00:c0:10:01";
/// The client's Ethernet address.
const CLIENT_MAC: &str = "52:54:00:c0:10:02";
/// The device of a guest and of the client, in its own namespace.
const DEVICE: &str = "eth0";
/// The VXLAN network of the guest pair.
pub const VNI: u32 = 42;
/// What VXLAN adds to an Ethernet frame's payload: inner Ethernet header, VXLAN, UDP and the
/// larger of the two IP headers (RFC 7348, section 5).
const ENCAPSULATION: u32 = 14 + 8 + 8 + 40;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The guests' address.
    #[must_use]
    pub fn guest(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, 10).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
        }
    }

    /// The client's address.
    #[must_use]
    pub fn client(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// A port of the guests.
    #[must_use]
    pub fn at(self, port: u16) -> SocketAddr {
        (self.guest(), port).into()
    }

    /// Length of the prefix of guests and client.
    fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// The end of the link on `side`, when it has addresses.
    fn underlay(self, side: Side) -> IpAddr {
        let subnet = side.number();
        match self {
            Self::V4 => Ipv4Addr::new(198, 18, subnet, 1).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, subnet.into(), 0, 0, 0, 1).into(),
        }
    }

    /// The router on the way there.
    fn router(self, side: Side) -> IpAddr {
        let subnet = side.number();
        match self {
            Self::V4 => Ipv4Addr::new(198, 18, subnet, 254).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, subnet.into(), 0, 0, 0, 0xfe).into(),
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    fn no_detection(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "nodad",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One of the two hosts, and its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The host whose guest is heard.
    Primary,
    /// The other one.
    Secondary,
}

impl Side {
    fn number(self) -> u8 {
        match self {
            Self::Primary => 1,
            Self::Secondary => 2,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

/// How the two hosts reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A cable of its own that carries the guests' frames as they are.
    Dedicated,
    /// Two networks of this family and a router between them: frames must be encapsulated.
    Routed(Family),
}

/// How guests and client avoid congestion. Not as this machine happens to be set: what loses frames, and
/// what follows from it, is another with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// Sends more until something is lost (RFC 9438); what Linux comes with.
    Cubic,
    /// Sends as fast as a model of the path says.
    Bbr,
}

impl Congestion {
    /// As `net.ipv4.tcp_congestion_control` has it.
    fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// Those of both that this kernel has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn available() -> Result<Vec<Self>> {
        let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
        let is_known = |it: &Self| known.split_whitespace().any(|name| name == it.name());
        Ok([Self::Cubic, Self::Bbr].into_iter().filter(is_known).collect())
    }
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// MTU of guests, client and NICs, in bytes.
    pub mtu: u32,
    /// Of guests and client.
    pub congestion: Congestion,
    /// The replication link.
    pub link: Link,
    /// MTU of the link, in bytes; none: as much as the guests' frames need on it.
    pub link_mtu: Option<u32>,
    /// A [`Wire`] with this seed between client and switch.
    pub client_wire: Option<u64>,
    /// A [`Wire`] with this seed in the link.
    pub link_wire: Option<u64>,
    /// Guests whose initial sequence numbers have nothing to do with each other. Otherwise both
    /// come from this kernel's clock and differ only as much as the arrival of the two SYNs does:
    /// one for every 64 ns (`seq_scale` in net/core/secure_seq.c). Here the secondary answers with
    /// SYN cookies.
    pub distant_numbers: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            mtu: 1500,
            congestion: Congestion::Cubic,
            link: Link::Dedicated,
            link_mtu: None,
            client_wire: None,
            link_wire: None,
            distant_numbers: false,
        }
    }
}

/// A host of a guest.
#[derive(Debug)]
pub struct Host {
    /// Where colo-xdp runs.
    pub namespace: Namespace,
    /// The device to the switch.
    pub nic: String,
    /// The device to the guest.
    pub guest_device: String,
    /// The device to the other host.
    pub link: String,
    /// Where the guest is.
    pub guest: Namespace,
}

impl Host {
    fn new(side: Side, plan: &Plan, names: &Names) -> Result<Self> {
        let (host, guest, letter) = match side {
            Side::Primary => ("primary-host", "primary", 'p'),
            Side::Secondary => ("secondary-host", "secondary", 's'),
        };
        let host = Self {
            namespace: Namespace::new(host)?,
            guest: Namespace::new(guest)?,
            nic: names.of(&format!("{letter}n")),
            guest_device: names.of(&format!("{letter}g")),
            link: names.of(&format!("{letter}l")),
        };
        veth(&host.namespace, &host.guest_device, &host.guest, DEVICE, plan.mtu)?;
        host.namespace.ip(&format!("link set {} up", host.guest_device))?;
        let addresses = Family::BOTH.map(Family::guest);
        configure_station(&host.guest, plan.congestion, GUEST_MAC, addresses)?;
        // What whole guests would have in common: a secondary cannot ask, for the comparator lets
        // only the primary's ARP and neighbour discovery pass.
        for family in Family::BOTH {
            host.guest.ip(&format!(
                "neigh replace {} lladdr {CLIENT_MAC} dev {DEVICE} nud permanent",
                family.client()
            ))?;
        }
        if plan.distant_numbers && side == Side::Secondary {
            // 2: for every connection, not only under a flood.
            host.guest.set(&[("ipv4/tcp_syncookies", "2")])?;
        }
        Ok(host)
    }

    fn devices(&self) -> [&str; 3] {
        [&self.nic, &self.guest_device, &self.link]
    }

    /// Takes every device down, as when the machine loses power.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn power_off(&self) -> Result {
        self.devices().iter().try_for_each(|device| self.set_device(device, "down"))
    }

    /// Takes the link's device down, so that the other host sees no carrier.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn link_down(&self) -> Result {
        self.set_device(&self.link, "down")
    }

    /// Ends [`Host::link_down`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn link_up(&self) -> Result {
        self.set_device(&self.link, "up")
    }

    /// Takes the NIC down, as an operator does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn nic_down(&self) -> Result {
        self.set_device(&self.nic, "down")
    }

    /// Ends [`Host::nic_down`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn nic_up(&self) -> Result {
        self.set_device(&self.nic, "up")
    }

    fn set_device(&self, device: &str, state: &str) -> Result {
        self.namespace.ip(&format!("link set {device} {state}"))
    }

    /// Expects that no device of the host has an XDP program.
    ///
    /// # Errors
    /// When one has.
    pub fn expect_no_programs(&self) -> Result {
        let listing = self.namespace.command("ip", &["-json", "-details", "link", "show"])?;
        let devices: Vec<Value> = serde_json::from_slice(&listing.stdout)?;
        for device in devices {
            let name = device["ifname"].as_str().unwrap_or_default();
            ensure!(device["xdp"].is_null(), "{name} still has an XDP program: {}", device["xdp"]);
        }
        Ok(())
    }
}

/// The whole scene. Dropping it removes every namespace and device.
#[derive(Debug)]
pub struct Network {
    // Wires first: their threads use the devices.
    client_cable: Cable,
    link_cable: Cable,
    /// The primary's host.
    pub primary: Host,
    /// The secondary's host.
    pub secondary: Host,
    /// The client's namespace.
    pub client: Namespace,
    plan: Plan,
    _router: Option<Router>,
    _switch: Switch,
}

impl Network {
    /// Builds it. The guests can be reached once something joins the devices of a host.
    ///
    /// # Errors
    /// Without root, or when `ip` or `ethtool` is missing or refuses.
    pub fn new(plan: Plan) -> Result<Self> {
        let names = Names::next();
        let primary = Host::new(Side::Primary, &plan, &names)?;
        let secondary = Host::new(Side::Secondary, &plan, &names)?;
        let mut switch = Switch::new(plan.mtu)?;
        switch.attach(&primary, "primary", plan.mtu)?;
        switch.attach(&secondary, "secondary", plan.mtu)?;
        let client = Namespace::new("client")?;
        let client_cable = Cable::between(
            (&client, DEVICE),
            (&switch.namespace, "client"),
            plan.mtu,
            plan.client_wire,
        )?;
        switch.namespace.ip("link set client master switch")?;
        configure_station(&client, plan.congestion, CLIENT_MAC, Family::BOTH.map(Family::client))?;
        let link_mtu = plan.link_mtu.unwrap_or(match plan.link {
            Link::Dedicated => plan.mtu,
            Link::Routed(_) => plan.mtu + ENCAPSULATION,
        });
        let (link_cable, router) = match plan.link {
            Link::Dedicated => {
                let ends = [&primary, &secondary].map(|host| (&host.namespace, host.link.as_str()));
                (Cable::between(ends[0], ends[1], link_mtu, plan.link_wire)?, None)
            }
            Link::Routed(family) => {
                let (cable, router) =
                    Router::between(&primary, &secondary, family, link_mtu, plan.link_wire)?;
                (cable, Some(router))
            }
        };
        Ok(Self {
            client_cable,
            link_cable,
            primary,
            secondary,
            client,
            plan,
            _router: router,
            _switch: switch,
        })
    }

    /// The plan it was built to.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The host on one side.
    #[must_use]
    pub fn host(&self, side: Side) -> &Host {
        match side {
            Side::Primary => &self.primary,
            Side::Secondary => &self.secondary,
        }
    }

    /// The wire between client (forth: from the client) and switch.
    ///
    /// # Panics
    /// When the plan has none.
    #[must_use]
    pub fn client_wire(&self) -> &Wire {
        self.client_cable.wire.as_ref().expect("the plan has a wire at the client")
    }

    /// The wire in the link; forth: from the primary host.
    ///
    /// # Panics
    /// When the plan has none.
    #[must_use]
    pub fn link_wire(&self) -> &Wire {
        self.link_cable.wire.as_ref().expect("the plan has a wire in the link")
    }

    /// The wires that there are, and where.
    pub(super) fn wires(&self) -> impl Iterator<Item = (&'static str, &Wire)> {
        [("at the client", &self.client_cable), ("in the link", &self.link_cable)]
            .into_iter()
            .filter_map(|(place, cable)| Some((place, cable.wire.as_ref()?)))
    }

    /// What `--vxlan` takes on this side; none on a link that needs no encapsulation.
    #[must_use]
    pub fn vxlan(&self, side: Side) -> Option<String> {
        let Link::Routed(family) = self.plan.link else { return None };
        let (local, remote) = (family.underlay(side), family.underlay(side.other()));
        Some(format!("vni={VNI},local={local},remote={remote}"))
    }

    /// Removes the link: both of its devices are gone.
    ///
    /// # Errors
    /// When the link is more than a cable, or the kernel refuses.
    pub fn remove_link(&self) -> Result {
        ensure!(
            self.plan.link == Link::Dedicated && self.plan.link_wire.is_none(),
            "only a plain cable is removed"
        );
        self.primary.namespace.ip(&format!("link del {}", self.primary.link))
    }

    /// Ends [`Network::remove_link`]: two new devices under the same names.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn replace_link(&mut self) -> Result {
        let [near, far] =
            [&self.primary, &self.secondary].map(|host| (&host.namespace, host.link.as_str()));
        let mtu = self.plan.link_mtu.unwrap_or(self.plan.mtu);
        self.link_cable = Cable::between(near, far, mtu, None)?;
        Ok(())
    }

    /// Joins NIC and guest of the primary host with a bridge: what there is without COLO.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forward_plainly(&self) -> Result {
        let Host { namespace, nic, guest_device, .. } = &self.primary;
        namespace.ip(&format!(
            "link add plain mtu {} type bridge stp_state 0 mcast_snooping 0\n\
             link set {nic} master plain\n\
             link set {guest_device} master plain\n\
             link set plain up",
            self.plan.mtu
        ))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let hosts = [&self.primary, &self.secondary];
        leftovers::unpin(|name| {
            hosts.iter().flat_map(|host| host.devices()).any(|device| name.contains(device))
        });
    }
}

/// Gives the device of a guest or the client its addresses.
fn configure_station(
    namespace: &Namespace,
    congestion: Congestion,
    mac: &str,
    addresses: [IpAddr; 2],
) -> Result {
    namespace.enable_ipv6(DEVICE)?;
    // What one connection learned must not make the next one on this side differ.
    namespace.set(&[
        ("ipv4/tcp_no_metrics_save", "1"),
        ("ipv4/tcp_congestion_control", congestion.name()),
    ])?;
    let mut lines =
        format!("link set lo up\nlink set {DEVICE} address {mac}\nlink set {DEVICE} up\n");
    for (family, address) in Family::BOTH.iter().zip(addresses) {
        lines += &format!(
            "addr add {address}/{} dev {DEVICE} {}\n",
            family.prefix(),
            family.no_detection()
        );
    }
    namespace.ip(&lines)?;
    // XDP sees frames as they are sent: whole, with their checksums. GRO makes the device take
    // frames that XDP redirects to it (`veth_xdp_xmit` in drivers/net/veth.c wants NAPI).
    namespace.command(
        "ethtool",
        &["-K", DEVICE, "tx", "off", "tso", "off", "gso", "off", "gro", "on"],
    )?;
    // A queue, which a veth has not by itself: a sender then waits for a full ring instead of
    // losing what it sends.
    namespace.command("tc", &["qdisc", "replace", "dev", DEVICE, "root", "pfifo"])?;
    Ok(())
}

/// A bridge that the client and both hosts are attached to.
#[derive(Debug)]
struct Switch {
    programs: Vec<PassProgram>,
    namespace: Namespace,
}

impl Switch {
    fn new(mtu: u32) -> Result<Self> {
        let namespace = Namespace::new("switch")?;
        namespace.ip(&format!(
            "link add switch mtu {mtu} type bridge stp_state 0 mcast_snooping 0\n\
             link set switch up"
        ))?;
        Ok(Self { programs: Vec::new(), namespace })
    }

    /// Attaches a host's NIC to port `port`.
    fn attach(&mut self, host: &Host, port: &str, mtu: u32) -> Result {
        veth(&host.namespace, &host.nic, &self.namespace, port, mtu)?;
        host.namespace.ip(&format!("link set {} up", host.nic))?;
        self.namespace.ip(&format!("link set {port} master switch"))?;
        // In standalone XDP redirects to the NIC, whose peer this port is.
        self.programs.push(redirectable(&self.namespace, port)?);
        Ok(())
    }
}

/// Makes `device` take, one by one, what XDP redirects to its peer.
fn redirectable(namespace: &Namespace, device: &str) -> Result<PassProgram> {
    let program = namespace.run(|| PassProgram::attach(device))?;
    // After the program, which turns it on: merged frames would travel on merged.
    namespace.command("ethtool", &["-K", device, "gro", "off"])?;
    Ok(program)
}

/// A cable, perhaps with a wire in it.
#[derive(Debug)]
struct Cable {
    wire: Option<Wire>,
    _between: Option<Namespace>,
}

impl Cable {
    /// Connects two new devices, both up.
    fn between(
        (near, near_device): (&Namespace, &str),
        (far, far_device): (&Namespace, &str),
        mtu: u32,
        wire: Option<u64>,
    ) -> Result<Self> {
        let Some(seed) = wire else {
            veth(near, near_device, far, far_device, mtu)?;
            near.ip(&format!("link set {near_device} up"))?;
            return Ok(Self { wire: None, _between: None });
        };
        let between = Namespace::new("wire")?;
        for (end, device, port) in [(near, near_device, "near"), (far, far_device, "far")] {
            veth(end, device, &between, port, mtu)?;
            // The wire carries bytes: a checksum must be among them.
            end.command("ethtool", &["-K", device, "tx", "off"])?;
            end.ip(&format!("link set {device} up"))?;
        }
        let wire = Wire::between(&between, ["near", "far"], seed)?;
        Ok(Self { wire: Some(wire), _between: Some(between) })
    }
}

/// The router between the two networks of a routed link.
#[derive(Debug)]
struct Router {
    _programs: [PassProgram; 2],
    _namespace: Namespace,
}

impl Router {
    fn between(
        primary: &Host,
        secondary: &Host,
        family: Family,
        mtu: u32,
        wire: Option<u64>,
    ) -> Result<(Cable, Self)> {
        let namespace = Namespace::new("router")?;
        namespace.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let cable = Cable::between(
            (&primary.namespace, &primary.link),
            (&namespace, "primary"),
            mtu,
            wire,
        )?;
        Cable::between(
            (&secondary.namespace, &secondary.link),
            (&namespace, "secondary"),
            mtu,
            None,
        )?;
        for (host, side, port) in
            [(primary, Side::Primary, "primary"), (secondary, Side::Secondary, "secondary")]
        {
            let prefix = family.prefix();
            let (flag, nodad) = (family.flag(), family.no_detection());
            let (end, gateway) = (family.underlay(side), family.router(side));
            if family == Family::V6 {
                namespace.enable_ipv6(port)?;
                // Neighbours are solicited for others from the link-local address only
                // (`ndisc_send_ns` in net/ipv6/ndisc.c), by a router and for the tunnel.
                namespace.ip(&format!("addr add fe80::fe/64 dev {port} nodad"))?;
                host.namespace.enable_ipv6(&host.link)?;
                host.namespace.ip(&format!("addr add fe80::1/64 dev {} nodad", host.link))?;
            }
            namespace.ip(&format!("addr add {gateway}/{prefix} dev {port} {nodad}"))?;
            host.namespace.ip(&format!("addr add {end}/{prefix} dev {} {nodad}", host.link))?;
            let other = family.underlay(side.other());
            let (other, gateway) = (other.to_string(), gateway.to_string());
            host.namespace.command("ip", &[flag, "route", "add", &other, "via", &gateway])?;
        }
        let programs =
            [redirectable(&namespace, "primary")?, redirectable(&namespace, "secondary")?];
        Ok((cable, Self { _programs: programs, _namespace: namespace }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::needs_root;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// Carries a word from one namespace to a port of another.
    fn carry_a_word(from: &Namespace, to: &Namespace, address: SocketAddr) -> Result {
        let listener = to.run(|| Ok(TcpListener::bind(address)?))?;
        let mut near = from.run(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?))?;
        near.write_all(b"word")?;
        let (mut far, _) = listener.accept()?;
        far.set_read_timeout(Some(PATIENCE))?;
        let mut word = [0; 4];
        far.read_exact(&mut word)?;
        ensure!(&word == b"word");
        Ok(())
    }

    #[test]
    fn plainly_forwarded_the_client_reaches_the_primary_guest_over_both_families() -> Result {
        needs_root!();
        for client_wire in [None, Some(1)] {
            let network = Network::new(Plan { client_wire, ..Plan::default() })?;
            network.forward_plainly()?;
            for family in Family::BOTH {
                carry_a_word(&network.client, &network.primary.guest, family.at(80))?;
            }
        }
        Ok(())
    }

    #[test]
    fn the_hosts_reach_each_other_through_the_router() -> Result {
        needs_root!();
        for family in Family::BOTH {
            for link_wire in [None, Some(1)] {
                let link = Link::Routed(family);
                let network = Network::new(Plan { link, link_wire, ..Plan::default() })?;
                let there = SocketAddr::new(family.underlay(Side::Secondary), 4789);
                carry_a_word(&network.primary.namespace, &network.secondary.namespace, there)?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_network_has_no_programs_on_its_hosts_and_leaves_nothing() -> Result {
        needs_root!();
        let network = Network::new(Plan::default())?;
        network.primary.expect_no_programs()?;
        network.secondary.expect_no_programs()?;
        let _program =
            network.primary.namespace.run(|| PassProgram::attach(&network.primary.nic))?;
        network.primary.expect_no_programs().expect_err("there is one now");
        let path = network.client.path();
        drop(network);
        ensure!(!path.exists());
        Ok(())
    }
}
