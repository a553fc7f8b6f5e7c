//! The kernel's side: load the XDP programs, attach them, hand them sockets and rules.
//!
//! [`Steer`] is the program on a guest-facing device or on the link; [`Mirror`] copies what the
//! network sends to a guest; [`Relay`] is the secondary's host; [`Pass`] makes a device accept
//! redirected frames; [`device`] what there is to know about a device, and the claim
//! that keeps a second instance off it; [`probe`] what this kernel and this process can do.

mod announce;
mod attach;
mod attached;
mod bpffs;
pub mod device;
mod error;
mod mac;
mod mirror;
mod netlink;
mod object;
mod outer;
mod passing;
pub mod probe;
mod relay;
mod rule;
mod steer;
mod tunnel;

pub use announce::Announcer;
pub use attach::{AttachedMode, Mode, Pass};
pub use attached::{Attached, XdpFeatures};
pub use bpffs::DEFAULT_PIN_DIRECTORY;
pub use compare_ebpf::{MirrorOutcome, Outcome, Reset, Standalone, Tally, Tunnel};
pub use device::{Claim, Device, LinkState};
pub use error::{FaultKind, KernelError};
pub use mac::{parse_mac, spelled};
pub use mirror::{Copies, Learner, Mirror, MirrorOptions};
pub use object::{Verdict, verify};
pub use passing::Passing;
pub use relay::{ConnectionCounts, DeviceChange, NamedTallies, Relay, RelayOptions};
pub use rule::{BypassRule, RuleError};
pub use steer::{AttachOptions, EmptySlot, Outcomes, Role, Steer};
pub use tunnel::{TunnelError, TunnelSpec, Underlay};
