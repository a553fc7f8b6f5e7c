//! The `steer` program on one device: where its frames go, and how many went where.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::Array;
use aya::maps::xdp::XskMap;
use compare_ebpf::{Control, Outcome, RULES_PER_BANK, Rule, Standalone, Tally};

use super::attach::{AttachedMode, Attachment, Mode};
use super::device::{Claim, Device};
use super::error::KernelError;
use super::mirror::Learner;
use super::object::{self, Constants, Instance};
use super::outer;
use super::rule::BypassRule;
use super::tunnel::TunnelSpec;

/// What happens to a frame whose queue has no socket: before the first one is registered, and
/// after the process that owned it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptySlot {
    /// It is dropped: fail closed.
    #[default]
    Drop,
    /// It goes on into the kernel's stack, uncompared: fail open.
    Pass,
}

/// Whose egress the device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The primary's: bypassed flows leave on the output device.
    Primary,
    /// The secondary's: bypassed flows are dropped, the primary's copy leaves.
    Secondary,
}

/// How to attach.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Interface name, in the calling thread's network namespace.
    pub device: String,
    /// Native or generic.
    pub mode: Mode,
    /// Fail closed or open.
    pub empty_slot: EmptySlot,
    /// Primary or secondary.
    pub role: Role,
    /// Index of the device that bypassed and standalone frames leave on. Without one they are
    /// dropped.
    pub output: Option<u32>,
    /// Directory on a bpffs that keeps the program attached after the process is gone, usually
    /// [`DEFAULT_PIN_DIRECTORY`](super::DEFAULT_PIN_DIRECTORY); `None` lets it go with the process.
    pub pin: Option<PathBuf>,
    /// The link is a tunnel: only what comes through it is steered, without its outer headers;
    /// everything else goes to the host. Until [`Steer::set_tunnel`] nothing comes through.
    pub tunnelled: bool,
    /// The mirror that learns the guest's addresses from its egress.
    pub learner: Option<Learner>,
    /// Lets the program log what it does not steer; read with [`Steer::drain_debug_log`].
    pub debug: bool,
}

/// The `steer` program on a device.
///
/// Dropping it is what a crash does: a pinned program stays, any other goes. Say
/// [`detach`](Self::detach) or [`leave_closed`](Self::leave_closed).
pub struct Steer {
    device: Device,
    ebpf: Ebpf,
    attachment: Attachment,
    control: Control,
    drain_log: Option<Box<dyn FnMut() + Send>>,
    _claim: Claim,
}

impl Steer {
    /// Claims the device, loads an instance of the program for it and attaches it.
    ///
    /// What an earlier process left pinned is taken over in one step, with empty counters, no
    /// rules and standalone off. From the first moment on, frames go where `empty_slot` says until
    /// sockets are registered.
    ///
    /// # Errors
    /// A missing or busy device, another's program on it, a mode that cannot be had, a missing
    /// privilege or kernel feature: see [`KernelError`].
    pub fn attach(options: &AttachOptions) -> Result<Self, KernelError> {
        let device = Device::find(&options.device)?;
        let claim = Claim::take(&device.name)?;
        let mut instance = Instance::of(Constants {
            empty_slot_passes: options.empty_slot == EmptySlot::Pass,
            secondary: options.role == Role::Secondary,
            tunnelled: options.tunnelled,
            learns: options.learner.is_some(),
            slot: options.learner.as_ref().map_or(0, |learner| learner.slot),
            debug: options.debug,
        });
        if let Some(learner) = &options.learner {
            instance = instance.sharing(&learner.maps, Learner::MAPS);
        }
        let mut ebpf = instance.load()?;
        let drain_log = if options.debug { Some(debug_log(&mut ebpf)?) } else { None };
        if let Some(output) = options.output {
            set_output(&mut ebpf, output)?;
        }
        let attachment =
            Attachment::make(&mut ebpf, "steer", &device, options.mode, options.pin.as_deref())?;
        tracing::info!(device = %device.name, mode = %attachment.mode, "steering");
        let control = Control::default();
        Ok(Self { device, ebpf, attachment, control, drain_log, _claim: claim })
    }

    /// The device, as it was when the program was attached.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The mode that was obtained.
    #[must_use]
    pub fn mode(&self) -> AttachedMode {
        self.attachment.mode
    }

    /// Whether an earlier process's pinned program was taken over.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.attachment.adopted
    }

    /// Sends the frames of a receive queue to an AF_XDP socket, which must be bound to this device
    /// and this queue: the kernel drops the frames of any other, and no counter of ours moves.
    ///
    /// # Errors
    /// When the queue is out of range or the descriptor is no bound AF_XDP socket.
    pub fn register_socket(
        &mut self,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        let mut sockets = XskMap::try_from(object::map(&mut self.ebpf, "SOCKETS")?)
            .map_err(|error| KernelError::failed("SOCKETS", "opening", error))?;
        sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| {
            object::fault(&self.device.name, "registering the AF_XDP socket of a queue", &error)
        })
    }

    /// Turns the device to standalone operation, or back to comparing.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_standalone(&mut self, standalone: Standalone) -> Result<(), KernelError> {
        self.write_control(Control { standalone: standalone as u8, ..self.control })
    }

    /// Replaces the bypass rules, all at once for every frame.
    ///
    /// # Errors
    /// When there are more than the map holds, or it cannot be written; the old rules stay.
    pub fn set_bypass(&mut self, rules: &[BypassRule]) -> Result<(), KernelError> {
        let limit = RULES_PER_BANK;
        if rules.len() > limit as usize {
            return Err(KernelError::TooManyRules { given: rules.len(), limit });
        }
        let idle = self.control.bank ^ 1;
        let mut bank = Array::<_, Rule>::try_from(object::map(&mut self.ebpf, "RULES")?)
            .map_err(|error| KernelError::failed("RULES", "opening", error))?;
        for (index, rule) in (u32::from(idle) * limit..).zip(rules) {
            bank.set(index, Rule::from(rule), 0)
                .map_err(|error| object::fault("RULES", "writing", &error))?;
        }
        // One byte at a time, see Control: the length of the idle bank, then the bank.
        let mut control = self.control;
        control.rules[usize::from(idle)] = rules.len() as u8;
        self.write_control(control)?;
        self.write_control(Control { bank: idle, ..control })
    }

    /// Sets the device that bypassed and standalone frames leave on, by interface index.
    ///
    /// # Errors
    /// When there is no such device, or it cannot transmit redirected frames.
    pub fn set_output(&mut self, index: u32) -> Result<(), KernelError> {
        set_output(&mut self.ebpf, index)
    }

    /// Tells a program on a tunnelled link what its tunnel is.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_tunnel(&mut self, spec: &TunnelSpec) -> Result<(), KernelError> {
        // It takes frames out only: the way back is the mirror's.
        let tunnel = outer::tunnel(spec, None, self.device.mtu);
        object::write_entry(&mut self.ebpf, "TUNNEL", 0, tunnel)
    }

    /// How many frames went where since the program was attached.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn outcomes(&self) -> Result<Outcomes, KernelError> {
        let tallies = object::tallies(&self.ebpf, "OUTCOMES", Outcome::ALL.len() as u32)?;
        let mut outcomes = Outcomes::default();
        outcomes.0.copy_from_slice(&tallies);
        Ok(outcomes)
    }

    /// Hands what the program has logged to the `log` facade. Nothing without
    /// [`AttachOptions::debug`].
    pub fn drain_debug_log(&mut self) {
        if let Some(drain) = &mut self.drain_log {
            drain();
        }
    }

    /// Takes the program off and leaves the device as it was found.
    ///
    /// # Errors
    /// When the kernel refuses; the pin is then still there.
    pub fn detach(self) -> Result<(), KernelError> {
        self.attachment.detach()
    }

    /// Leaves a pinned program on the device; frames go where [`AttachOptions::empty_slot`] says
    /// once the sockets are closed, and with standalone on to the output device. A program that is
    /// not pinned comes off.
    pub fn leave_closed(self) {
        drop(self);
    }

    fn write_control(&mut self, control: Control) -> Result<(), KernelError> {
        object::write_entry(&mut self.ebpf, "CONTROL", 0, control)?;
        self.control = control;
        Ok(())
    }
}

/// Frames and bytes by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes([Tally; Outcome::ALL.len()]);

impl Outcomes {
    /// Each outcome with its tally.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, Tally)> + '_ {
        Outcome::ALL.into_iter().zip(self.0)
    }

    /// Frames that the program has seen. Each has one outcome, [`Outcome::Unparsed`] aside.
    #[must_use]
    pub fn frames(&self) -> u64 {
        let counted = self.iter().filter(|(outcome, _)| *outcome != Outcome::Unparsed);
        counted.map(|(_, tally)| tally.packets).sum()
    }
}

impl std::ops::Index<Outcome> for Outcomes {
    type Output = Tally;

    fn index(&self, outcome: Outcome) -> &Tally {
        &self.0[outcome as usize]
    }
}

fn set_output(ebpf: &mut Ebpf, index: u32) -> Result<(), KernelError> {
    object::set_device(ebpf, "OUTPUT", 0, index, None)
}

/// What a program has logged, to the `log` facade.
pub(super) fn debug_log(ebpf: &mut Ebpf) -> Result<Box<dyn FnMut() + Send>, KernelError> {
    let mut log = aya_log::EbpfLogger::init(ebpf)
        .map_err(|error| object::fault("AYA_LOGS", "opening the debug log", &error))?;
    Ok(Box::new(move || log.flush()))
}
