//! What each thread may still do once everything is set up.
//!
//! Linux keeps capabilities and system-call filters by thread. Each thread of the program gives up
//! what its [`Role`] does without, first thing in its life; the supervisor, which sets everything
//! up, does so before it says that it is ready. What is given up cannot be had again:
//!
//! - `no_new_privs` is set on the whole process by [`begin`];
//! - [`confine`] empties the thread's bounding, ambient and inheritable sets of capabilities, keeps
//!   in the others what `capabilities` lists for the role, and
//! - installs a seccomp filter that refuses every system call that `filter` does not list.
//!
//! A call that is refused ends the process, with a line that names it: a comparator that silently
//! does half of its work would be worse than one that stops, and what it leaves behind is closed.
//!
//! Threads share their memory. Whoever can run code of their own in one of them can, with some
//! work, make another one act; that the lane and the sockets' threads hold no privilege takes the
//! short way from them, not every way. What holds against such code is what no thread may do: start
//! a program, write to a file, trace a process, mount, load a module, open a connection to a place
//! that has nothing to do with its task.

mod capabilities;
mod filter;
mod violation;

use std::str::FromStr;
use std::sync::OnceLock;

use nix::sys::prctl;

/// What becomes of a system call that a thread has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    /// The process ends, with a line that names the call.
    On,
    /// The kernel logs it (audit) and carries it out.
    Log,
    /// No filter is installed.
    Off,
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            _ => Err(format!("'{text}' is not on, log or off")),
        }
    }
}

/// What a thread does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Looks after the rest.
    Supervisor {
        /// There are devices: attaches to those that come back and writes the programs' maps.
        devices: bool,
    },
    /// Moves frames.
    Lane {
        /// Some ports are devices, whose sockets are opened again when they come back.
        devices: bool,
        /// Some ports connect to unix sockets, again and again.
        connects: bool,
    },
    /// Serves the control socket and its clients.
    Control,
    /// Waits for signals.
    Signals,
    /// Has one peer at a time on a unix socket.
    UnixPeer {
        /// Connects to it, again and again; otherwise it listens.
        connects: bool,
    },
    /// Has one peer at a time over TCP, and looks up its host's name.
    TcpPeer,
    /// Passes divergences on to the process that runs `--on-divergence`.
    Command,
    /// `replay`: reads two files.
    Reader,
}

/// Why a thread could not give up what it should.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel would not.
    #[error("{what}: {cause}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        cause: String,
    },
    /// No filter can be had.
    #[error("{0}; --seccomp off goes without the filter")]
    Filter(String),
}

/// What the process was told, once it was.
static SECCOMP: OnceLock<Seccomp> = OnceLock::new();

/// Forbids this process, from now on, to gain privileges by starting a program, and says what
/// [`confine`] is to do. Before it, and in programs that never call it, `confine` does nothing.
///
/// # Errors
/// When the kernel has no `no_new_privs`, or no filter can be had on this machine.
pub fn begin(seccomp: Seccomp) -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(|error| PrivilegeError::Refused {
        what: "setting no_new_privs",
        cause: error.to_string(),
    })?;
    if seccomp == Seccomp::On {
        violation::watch()?;
    }
    let _ = SECCOMP.set(seccomp);
    Ok(())
}

/// Gives up, on the calling thread and those that it starts, what `role` has no use for.
///
/// # Errors
/// When the kernel refuses; the thread must then not go on.
pub fn confine(role: Role) -> Result<(), PrivilegeError> {
    let Some(seccomp) = SECCOMP.get() else { return Ok(()) };
    capabilities::reduce(role)?;
    let action = match seccomp {
        Seccomp::Off => return Ok(()),
        Seccomp::Log => seccompiler::SeccompAction::Log,
        // Raises SIGSYS, which `violation` turns into a line and the end.
        Seccomp::On => seccompiler::SeccompAction::Trap,
    };
    violation::name_this_thread(role.name());
    filter::install(role, action)
}

/// Gives up every capability that programs started by this process do not inherit. For the process of
/// `--on-divergence`: the command has what it would have had without it between, root's
/// capabilities if it is root's.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn keep_inherited() -> Result<(), PrivilegeError> {
    capabilities::keep_inherited()
}

/// As [`confine`], on a thread that has nobody to tell of a failure: it ends the process.
pub(crate) fn confine_or_exit(role: Role) {
    if let Err(error) = confine(role) {
        tracing::error!(%error, thread = role.name(), "privileges could not be given up");
        std::process::exit(crate::kernel::FaultKind::Runtime.exit_code().into());
    }
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Supervisor { .. } => "supervisor",
            Self::Lane { .. } => "lane",
            Self::Control => "control",
            Self::Signals => "signals",
            Self::UnixPeer { .. } | Self::TcpPeer => "peer",
            Self::Command => "on-divergence",
            Self::Reader => "replay",
        }
    }
}
