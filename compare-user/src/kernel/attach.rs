//! Attaching an XDP program so that it stays when the process does not.
//!
//! The kernel detaches a program when the last holder of its link is gone, kill -9 included. A pin
//! in bpffs is such a holder. The next process opens the pin and swaps its own program in, in one
//! step. A link cannot change its mode, and one device cannot run native and generic XDP at the
//! same time (`dev_xdp_attach` in net/core/dev.c): to change the mode, the `shut` classifier drops
//! everything on its way up the stack while there is no XDP program.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink as AyaPin};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpLink;
use aya::programs::{Link as _, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::bpffs::{self, PinnedLink};
use super::device::Device;
use super::error::KernelError;
use super::netlink::qdisc;
use super::object::{self, Instance};

/// The mode that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Native if the device can, else generic. A pinned program is adopted in the mode it has.
    #[default]
    Auto,
    /// In the driver, before there is a socket buffer.
    Native,
    /// In the network stack, on any device.
    Generic,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(format!("mode `{text}` is not auto, native or generic")),
        }
    }
}

/// The mode that was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// On the device itself; never asked for, but others may have done so.
    Offloaded,
}

impl AttachedMode {
    /// Name for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }

    fn satisfies(self, wanted: Mode) -> bool {
        match wanted {
            Mode::Auto => true,
            Mode::Native => self == Self::Native,
            Mode::Generic => self == Self::Generic,
        }
    }

    /// The request that leads to this mode.
    fn as_request(self) -> Mode {
        if self == Self::Generic { Mode::Generic } else { Mode::Native }
    }
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program on a device. Dropping it detaches the program, unless it is pinned.
#[derive(Debug)]
pub(super) struct Attachment {
    _link: FdLink,
    pin: Option<PathBuf>,
    pub(super) mode: AttachedMode,
    /// Took over what an earlier process had left pinned.
    pub(super) adopted: bool,
}

impl Attachment {
    /// Puts a program on a device, by adopting what is pinned for it or anew.
    pub(super) fn make(
        ebpf: &mut Ebpf,
        program: &'static str,
        device: &Device,
        mode: Mode,
        pin_directory: Option<&Path>,
    ) -> Result<Self, KernelError> {
        if let Some(directory) = pin_directory {
            bpffs::prepare(directory)?;
        }
        let directory = pin_directory.unwrap_or(Path::new(bpffs::DEFAULT_PIN_DIRECTORY));
        let path = bpffs::pin_path(directory, program, device);
        let keep = pin_directory.map(|_| path.as_path());
        let attached = device.attached()?;
        match (open_pin(&path, device)?, attached) {
            (Some(pin), Some(found)) if pin.program_id == found.program_id => {
                if found.mode.satisfies(mode) {
                    Self::adopt(ebpf, program, device, found.mode, &path, keep)
                } else {
                    Self::change_mode(ebpf, program, device, (found.mode, mode), pin, keep)
                }
            }
            (_, Some(_)) => Err(foreign_program(device)),
            (_, None) => Self::anew(ebpf, program, device, mode, keep),
        }
    }

    /// Attaches a program to a device that has none.
    fn anew(
        ebpf: &mut Ebpf,
        program: &'static str,
        device: &Device,
        mode: Mode,
        keep: Option<&Path>,
    ) -> Result<Self, KernelError> {
        let (link, mode) = attach_fresh(object::xdp(ebpf, program)?, device, mode)?;
        let link = match keep {
            Some(path) => pin(link, path)?,
            None => link,
        };
        Ok(Self { _link: link, pin: keep.map(Into::into), mode, adopted: false })
    }

    /// Swaps the program into the pinned link; no frame passes without a program.
    fn adopt(
        ebpf: &mut Ebpf,
        program: &'static str,
        device: &Device,
        mode: AttachedMode,
        path: &Path,
        keep: Option<&Path>,
    ) -> Result<Self, KernelError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            object::fault(&device.name, "adopting the pinned program", error)
        };
        let program = object::xdp(ebpf, program)?;
        let link: FdLink = AyaPin::from_pin(path).map_err(|error| failed(&error))?.into();
        let link = XdpLink::try_from(link).map_err(|error| failed(&error))?;
        let id = program.attach_to_link(link).map_err(|error| failed(&error))?;
        let link = take(program, id)?;
        if keep.is_none() {
            bpffs::remove(path)?;
        }
        tracing::info!(device = %device.name, %mode, "took over the pinned program");
        Ok(Self { _link: link, pin: keep.map(Into::into), mode, adopted: true })
    }

    /// Replaces a pinned program by one in another mode, behind a barrier. If the new mode cannot
    /// be had the old one is restored, with this process's program, and stays pinned.
    fn change_mode(
        ebpf: &mut Ebpf,
        program: &'static str,
        device: &Device,
        (from, to): (AttachedMode, Mode),
        pin: PinnedLink,
        keep: Option<&Path>,
    ) -> Result<Self, KernelError> {
        let path = pin.path().to_owned();
        let _barrier = Barrier::raise(ebpf, device)?;
        // Before anything is taken away, be sure that the verifier accepts the replacement.
        object::xdp(ebpf, program)?;
        pin.detach()?;
        match Self::anew(ebpf, program, device, to, keep) {
            Ok(attachment) => {
                tracing::info!(device = %device.name, %from, to = %attachment.mode, "changed mode");
                Ok(Self { adopted: true, ..attachment })
            }
            Err(error) => {
                drop(Self::anew(ebpf, program, device, from.as_request(), Some(&path))?);
                Err(error)
            }
        }
    }

    /// Takes the program off the device.
    pub(super) fn detach(self) -> Result<(), KernelError> {
        match &self.pin {
            None => Ok(()),
            Some(path) => detach_pinned(path),
        }
    }
}

/// The pin of a device. One whose device is gone is removed.
fn open_pin(path: &Path, device: &Device) -> Result<Option<PinnedLink>, KernelError> {
    let Some(pin) = PinnedLink::open(path)? else { return Ok(None) };
    match pin.device_index {
        Some(index) if index == device.index => Ok(Some(pin)),
        None => {
            tracing::info!(path = %path.display(), "removed the pin of a device that is gone");
            bpffs::remove(path)?;
            Ok(None)
        }
        Some(index) => Err(KernelError::Pin {
            path: path.into(),
            operation: "adopting",
            cause: io::Error::other(format!(
                "it keeps a program on device {index}, renamed since: remove this file to open it"
            )),
        }),
    }
}

/// Attaches through a link, in the mode asked for or the best one.
fn attach_fresh(
    program: &mut Xdp,
    device: &Device,
    mode: Mode,
) -> Result<(FdLink, AttachedMode), KernelError> {
    if mode != Mode::Generic {
        match attach_in(program, device, XdpMode::Driver) {
            Ok(link) => return Ok((link, AttachedMode::Native)),
            Err(Refusal::Mode(cause)) if mode == Mode::Auto => {
                tracing::info!(device = %device.name, %cause, "no native XDP, falling back to generic");
            }
            Err(refusal) => return Err(refusal.into_error(device, "native")),
        }
    }
    let link = attach_in(program, device, XdpMode::Skb);
    let link = link.map_err(|refusal| refusal.into_error(device, "generic"))?;
    Ok((link, AttachedMode::Generic))
}

/// Why the kernel did not attach a program.
enum Refusal {
    /// Not in this mode; perhaps in another.
    Mode(io::Error),
    /// There is a program already.
    Occupied,
    /// Not in any mode.
    Other(KernelError),
}

impl Refusal {
    fn into_error(self, device: &Device, mode: &'static str) -> KernelError {
        match self {
            Self::Mode(cause) => {
                KernelError::ModeRefused { device: device.name.clone(), mode, cause }
            }
            Self::Occupied => foreign_program(device),
            Self::Other(error) => error,
        }
    }
}

fn attach_in(program: &mut Xdp, device: &Device, mode: XdpMode) -> Result<FdLink, Refusal> {
    match program.attach_to_if_index(device.index, mode) {
        Ok(id) => take(program, id).map_err(Refusal::Other),
        Err(error) => Err(refusal(device, &error)),
    }
}

fn refusal(device: &Device, error: &ProgramError) -> Refusal {
    match object::errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => Refusal::Occupied,
        Some(libc::ENODEV) => Refusal::Other(KernelError::NoDevice { device: device.name.clone() }),
        Some(code) if code != libc::EPERM && code != libc::EACCES => {
            Refusal::Mode(io::Error::from_raw_os_error(code))
        }
        _ => Refusal::Other(object::fault(&device.name, "attaching the program", error)),
    }
}

/// Takes a link out of aya's bookkeeping, which would detach it with the program.
fn take(program: &mut Xdp, id: aya::programs::xdp::XdpLinkId) -> Result<FdLink, KernelError> {
    let link =
        program.take_link(id).map_err(|error| KernelError::failed("link", "taking", error))?;
    link.try_into().map_err(|_| KernelError::NoFeature {
        what: "bpf_link for XDP".into(),
        remedy: "colo-xdp needs Linux 5.18 or later".into(),
    })
}

fn pin(link: FdLink, path: &Path) -> Result<FdLink, KernelError> {
    let pinned = link.pin(path).map_err(|error| KernelError::Pin {
        path: path.into(),
        operation: "pinning",
        cause: io::Error::other(error),
    })?;
    Ok(pinned.into())
}

fn foreign_program(device: &Device) -> KernelError {
    match device.attached() {
        Ok(Some(found)) => KernelError::ForeignProgram {
            device: device.name.clone(),
            id: found.program_id,
            name: found.name,
            mode: found.mode.name(),
        },
        Ok(None) => KernelError::failed(&device.name, "attaching", "the device is busy: try again"),
        Err(error) => error,
    }
}

/// A classifier behind a device's XDP program, on what it passes to the stack.
///
/// It outlives the process, as a pinned [`Attachment`] does, and is adopted like one. Dropping it is
/// what a crash does.
#[derive(Debug)]
pub(super) enum Behind {
    /// A tcx link, kept by a pin: Linux 6.6 and later.
    Link {
        /// Keeps the link open.
        _link: FdLink,
        /// Where it is pinned.
        pin: PathBuf,
    },
    /// A filter, kept by the device itself.
    Filter(ManuallyDrop<Filter>),
}

impl Behind {
    /// Puts a classifier on a device.
    pub(super) fn make(
        ebpf: &mut Ebpf,
        name: &'static str,
        device: &Device,
        directory: &Path,
    ) -> Result<Self, KernelError> {
        let path = bpffs::pin_path(directory, name, device);
        let failed = |error: &(dyn std::error::Error + 'static)| {
            object::fault(&device.name, "attaching the classifier", error)
        };
        let program = object::classifier(ebpf, name)?;
        let adopted = open_pin(&path, device)?.is_some();
        let id = if adopted {
            let link: FdLink = AyaPin::from_pin(&path).map_err(|error| failed(&error))?.into();
            let link = link.try_into().map_err(|error: LinkError| failed(&error))?;
            program.attach_to_link(link).map_err(|error| failed(&error))?
        } else {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            match program.attach_with_options(&device.name, TcAttachType::Ingress, order) {
                Ok(id) => id,
                Err(error) if is_without_tcx(&error) => {
                    let filter = Filter::make(program, name, device)?;
                    return Ok(Self::Filter(ManuallyDrop::new(filter)));
                }
                Err(error) => return Err(failed(&error)),
            }
        };
        let link = program.take_link(id).map_err(|error| failed(&error))?;
        let link = FdLink::try_from(link).map_err(|error| failed(&error))?;
        let link = if adopted { link } else { pin(link, &path)? };
        Ok(Self::Link { _link: link, pin: path })
    }

    /// Takes it off the device.
    pub(super) fn detach(self) -> Result<(), KernelError> {
        match self {
            Self::Link { pin, .. } => detach_pinned(&pin),
            Self::Filter(filter) => ManuallyDrop::into_inner(filter).detach(),
        }
    }
}

/// What a kernel says that does not know tcx (`link_create` in kernel/bpf/syscall.c).
fn is_without_tcx(error: &ProgramError) -> bool {
    object::errno(error) == Some(libc::EINVAL)
}

/// A classifier as a filter of the device's `clsact` qdisc, where there is no tcx.
#[derive(Debug)]
pub(super) struct Filter {
    link: Option<SchedClassifierLink>,
    device: Device,
    /// The qdisc was not there before.
    made_qdisc: bool,
}

/// Priority of our filters, behind those that the kernel numbers itself (`tcf_auto_prio` in
/// net/sched/cls_api.c), and by program the handle at that priority.
const FILTER_PRIORITY: u16 = 0xc010;
const FILTERS: [&str; 3] = ["flood", "relay_flood", "shut"];

impl Filter {
    /// Puts a classifier on what a device receives, in the place of what an earlier process has left
    /// there.
    fn make(
        program: &mut SchedClassifier,
        name: &'static str,
        device: &Device,
    ) -> Result<Self, KernelError> {
        let refused = |error: &dyn fmt::Display| KernelError::NoFeature {
            what: format!("a classifier on {} ({error})", device.name),
            remedy: "it takes Linux 6.6, or the kernel modules sch_ingress and cls_bpf".into(),
        };
        let made_qdisc = match tc::qdisc_add_clsact(&device.name) {
            Ok(()) => true,
            Err(error) if object::errno(&error) == Some(libc::EEXIST) => false,
            Err(error) => return Err(refused(&error)),
        };
        let handle = FILTERS.iter().position(|it| *it == name).unwrap_or(FILTERS.len());
        let handle = TcHandle::new(0, 1 + handle as u16);
        let ingress = TcAttachType::Ingress;
        let options = NlOptions { priority: FILTER_PRIORITY, handle, classid: None };
        let options = TcAttachOptions::Netlink(options);
        let id = match program.attach_with_options(&device.name, ingress, options) {
            Err(error) if object::errno(&error) == Some(libc::EEXIST) => {
                let left = SchedClassifierLink::attached(
                    &device.name,
                    ingress,
                    FILTER_PRIORITY,
                    handle,
                    None,
                );
                let left = left.map_err(|error| refused(&error))?;
                program.attach_to_link(left)
            }
            attached => attached,
        };
        let link = id.and_then(|id| program.take_link(id)).map_err(|error| refused(&error))?;
        Ok(Self { link: Some(link), device: device.clone(), made_qdisc })
    }

    fn detach(mut self) -> Result<(), KernelError> {
        self.take_off()
    }

    /// The filter, and the qdisc if it was made for it and nobody else uses it.
    fn take_off(&mut self) -> Result<(), KernelError> {
        let Some(link) = self.link.take() else { return Ok(()) };
        let failed = |error: &(dyn std::error::Error + 'static)| {
            object::fault(&self.device.name, "detaching the classifier", error)
        };
        match link.detach() {
            Ok(()) if self.made_qdisc => {
                let removed = qdisc::remove_unused_clsact(self.device.index);
                removed.map_err(|error| failed(&error))
            }
            // The device is gone, and took it along.
            Err(error) if object::errno(&error) == Some(libc::ENODEV) => Ok(()),
            detached => detached.map_err(|error| failed(&error)),
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::warn!(%error, "a classifier that was to go");
        }
    }
}

/// Detaches what a pin keeps, through the pin: the kernel detaches at once only when told so, the
/// pin's own reference goes after a grace period.
fn detach_pinned(path: &Path) -> Result<(), KernelError> {
    match PinnedLink::open(path)? {
        Some(pin) => pin.detach(),
        None => Ok(()),
    }
}

/// While it stands, nothing that a device receives gets past the first step of the stack.
enum Barrier {
    Link { _link: SchedClassifierLink },
    Filter { _filter: Filter },
}

impl Barrier {
    fn raise(ebpf: &mut Ebpf, device: &Device) -> Result<Self, KernelError> {
        let program = object::classifier(ebpf, "shut")?;
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let link = program.attach_with_options(&device.name, TcAttachType::Ingress, order);
        // Taken, so that it falls with the barrier and not with the object.
        match link.and_then(|id| program.take_link(id)) {
            Ok(link) => Ok(Self::Link { _link: link }),
            Err(error) if is_without_tcx(&error) => {
                Ok(Self::Filter { _filter: Filter::make(program, "shut", device)? })
            }
            Err(error) => Err(object::fault(&device.name, "closing the device", &error)),
        }
    }
}

/// The `pass` program on a device, for as long as the value lives.
///
/// A veth accepts redirected frames only while its *peer* runs an XDP program (or has GRO on), and
/// some NICs transmit zero-copy only with one of their own.
#[derive(Debug)]
pub struct Pass {
    _link: FdLink,
    _ebpf: Ebpf,
    mode: AttachedMode,
}

impl Pass {
    /// Attaches the program, native if the device can.
    ///
    /// # Errors
    /// [`KernelError::ForeignProgram`] if there is an XDP program already, which serves as well;
    /// else as [`Steer::attach`](super::Steer::attach).
    pub fn attach(device: &Device) -> Result<Self, KernelError> {
        let mut ebpf = Instance::default().load()?;
        let (link, mode) = attach_fresh(object::xdp(&mut ebpf, "pass")?, device, Mode::Auto)?;
        Ok(Self { _link: link, _ebpf: ebpf, mode })
    }

    /// The mode that was obtained.
    #[must_use]
    pub fn mode(&self) -> AttachedMode {
        self.mode
    }
}
