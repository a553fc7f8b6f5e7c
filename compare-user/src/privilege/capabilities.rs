//! The capabilities that a role keeps.

use caps::{CapSet, Capability, CapsHashSet};

use super::{PrivilegeError, Role};

/// What a role keeps of what the process was started with.
fn kept(role: Role) -> &'static [Capability] {
    use Capability::{CAP_BPF, CAP_DAC_OVERRIDE, CAP_IPC_LOCK, CAP_NET_ADMIN, CAP_NET_RAW};
    match role {
        // A device that comes back has no program: it is loaded and attached again.
        Role::Supervisor { devices: true } => &[CAP_NET_ADMIN, CAP_BPF],
        // And its sockets are opened again, with memory of their own where they had some.
        Role::Lane { devices: true, connects: false } => &[CAP_NET_RAW, CAP_IPC_LOCK],
        // The sockets of a QEMU that runs as another user belong to that user. Root connects to
        // them by virtue of this; anybody else needs to be let in and has nothing to keep.
        Role::Lane { devices: true, connects: true } => {
            &[CAP_NET_RAW, CAP_IPC_LOCK, CAP_DAC_OVERRIDE]
        }
        Role::Lane { devices: false, connects: true } | Role::UnixPeer { connects: true } => {
            &[CAP_DAC_OVERRIDE]
        }
        Role::Supervisor { devices: false }
        | Role::Lane { devices: false, connects: false }
        | Role::Control
        | Role::Signals
        | Role::UnixPeer { connects: false }
        | Role::TcpPeer
        | Role::Command
        | Role::Reader => &[],
    }
}

/// Keeps what programs started by this thread inherit, and no more.
pub(super) fn keep_inherited() -> Result<(), PrivilegeError> {
    let ambient = caps::read(None, CapSet::Ambient).map_err(refused("reading capabilities"))?;
    set(&ambient)
}

/// Empties every set of the calling thread but for what the role keeps.
pub(super) fn reduce(role: Role) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(refused("reading capabilities"))?;
    let mut keep: CapsHashSet = kept(role).iter().copied().collect();
    if keep.contains(&Capability::CAP_BPF) && !permitted.contains(&Capability::CAP_BPF) {
        // What holds the older one instead of it goes on with that.
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    keep.retain(|capability| permitted.contains(capability));
    // While it may: whoever lacks CAP_SETPCAP keeps a bounding set that no_new_privs has made idle.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .map_err(refused("reading capabilities"))?
    {
        let bounding =
            caps::read(None, CapSet::Bounding).map_err(refused("reading capabilities"))?;
        for capability in bounding {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(refused("emptying the bounding set"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(refused("emptying the ambient set"))?;
    caps::clear(None, CapSet::Inheritable).map_err(refused("emptying the inheritable set"))?;
    set(&keep)
}

fn set(keep: &CapsHashSet) -> Result<(), PrivilegeError> {
    // In this order: what is effective must be permitted.
    caps::set(None, CapSet::Effective, keep).map_err(refused("giving up capabilities"))?;
    caps::set(None, CapSet::Permitted, keep).map_err(refused("giving up capabilities"))
}

fn refused(what: &'static str) -> impl Fn(caps::errors::CapsError) -> PrivilegeError {
    move |error| PrivilegeError::Refused { what, cause: error.to_string() }
}
