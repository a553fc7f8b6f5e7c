//! The bare scene for measurements: three veth pairs and nothing else on them.
//!
//! ```text
//!  primary guest's end ─────┐                      ┌───── the NIC's far end
//!                           ├─ comparator's host ──┤
//!  secondary guest's end ───┘                      └
//! ```
//! Unlike [`crate::Topology`] it has no bridge, no capture and no taps, and the three far ends
//! are in one namespace, so that one process can hold them all.

use crate::Result;
use crate::leftovers;
use crate::namespace::Namespace;
use crate::topology::{Names, Role, veth};

/// Largest IP packet of the devices: an Ethernet frame of 1,514 bytes.
const MTU: u32 = 1500;

/// Three pairs, in the order of [`Role::ALL`]. Dropping it removes them.
#[derive(Debug)]
pub struct Wires {
    host: Namespace,
    far: Namespace,
    devices: [String; 3],
    peers: [String; 3],
}

impl Wires {
    /// Makes the pairs.
    ///
    /// # Errors
    /// Without root, or when `ip` is missing or refuses.
    pub fn new() -> Result<Self> {
        let names = Names::next();
        let wires = Self {
            host: Namespace::new("host")?,
            far: Namespace::new("far")?,
            devices: Role::ALL.map(|role| names.device(role)),
            peers: Role::ALL.map(|role| names.peer(role)),
        };
        for (device, peer) in wires.devices.iter().zip(&wires.peers) {
            veth(&wires.host, device, &wires.far, peer, MTU)?;
            wires.host.ip(&format!("link set {device} up"))?;
        }
        Ok(wires)
    }

    /// Where the comparator runs.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// Where both guests and the network are.
    #[must_use]
    pub fn far(&self) -> &Namespace {
        &self.far
    }

    /// The comparator's ends.
    #[must_use]
    pub fn devices(&self) -> [&str; 3] {
        self.devices.each_ref().map(String::as_str)
    }

    /// The far ends.
    #[must_use]
    pub fn peers(&self) -> [&str; 3] {
        self.peers.each_ref().map(String::as_str)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        leftovers::unpin(|name| self.devices.iter().any(|device| name.contains(device.as_str())));
    }
}
