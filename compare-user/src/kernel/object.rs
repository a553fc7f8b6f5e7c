//! The XDP object inside this binary, and loading it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::xdp::DevMap;
use aya::maps::{Array, Map, PerCpuArray};
use aya::programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use compare_ebpf::{GUEST_SLOTS, Tally};

use super::error::KernelError;
use super::probe::Capabilities;

/// The object that `cargo xtask build-ebpf` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/colo-xdp-ebpf"));

/// What loading and attaching takes.
const CAPABILITIES: &str = "CAP_BPF and CAP_NET_ADMIN";

/// `aya-log`'s switch: the lowest level that is off, and all levels on.
const LOG_OFF: u8 = 0;
const LOG_ALL: u8 = 5;

/// Read-only values of the programs, fixed before they are loaded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Constants {
    pub(super) empty_slot_passes: bool,
    pub(super) secondary: bool,
    pub(super) tunnelled: bool,
    pub(super) learns: bool,
    pub(super) slot: u32,
    pub(super) debug: bool,
}

/// An instance of the object to load: maps of its own, programs not yet in the kernel.
#[derive(Debug, Default)]
pub(super) struct Instance {
    pub(super) constants: Constants,
    /// Entries of maps that are not as large as the object says.
    pub(super) sizes: Vec<(&'static str, u32)>,
    /// Maps that lie in the BPF file system, where other instances find them; made if they are not
    /// there yet.
    pub(super) shared: Vec<(&'static str, PathBuf)>,
}

impl Instance {
    /// With these constants and nothing shared.
    pub(super) fn of(constants: Constants) -> Self {
        Self { constants, ..Self::default() }
    }

    /// Shares these maps through files of their names in a directory.
    pub(super) fn sharing(mut self, directory: &Path, maps: &[&'static str]) -> Self {
        self.shared.extend(maps.iter().map(|name| (*name, directory.join(name))));
        self
    }

    /// Loads it.
    pub(super) fn load(&self) -> Result<Ebpf, KernelError> {
        let Constants { empty_slot_passes, secondary, tunnelled, learns, slot, debug } =
            self.constants;
        let level = if debug { LOG_ALL } else { LOG_OFF };
        let flags = [empty_slot_passes, secondary, tunnelled, learns].map(u8::from);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("EMPTY_SLOT_PASSES", &flags[0], true)
            .override_global("SECONDARY", &flags[1], true)
            .override_global("TUNNELLED", &flags[2], true)
            .override_global("LEARNS", &flags[3], true)
            .override_global("SLOT", &slot, true)
            .override_global("AYA_LOG_LEVEL", &level, true);
        for (name, entries) in &self.sizes {
            loader.map_max_entries(name, *entries);
        }
        for (name, path) in &self.shared {
            loader.map_pin_path(name, path.as_path());
        }
        let loaded = loader.load(OBJECT);
        loaded.map_err(|error| fault("the XDP object", "loading its maps", &error))
    }
}

/// A map of the object.
pub(super) fn map<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, KernelError> {
    ebpf.map_mut(name).ok_or_else(|| no_map(name))
}

/// Writes one entry of an array.
pub(super) fn write_entry<T: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    index: u32,
    value: T,
) -> Result<(), KernelError> {
    let mut array = Array::<_, T>::try_from(map(ebpf, name)?)
        .map_err(|error| KernelError::failed(name, "opening", error))?;
    array.set(index, value, 0).map_err(|error| fault(name, "writing", &error))
}

/// Reads one entry of an array.
pub(super) fn read_entry<T: Pod>(
    ebpf: &Ebpf,
    name: &'static str,
    index: u32,
) -> Result<T, KernelError> {
    let map = ebpf.map(name).ok_or_else(|| no_map(name))?;
    let array = Array::<_, T>::try_from(map)
        .map_err(|error| KernelError::failed(name, "opening", error))?;
    array.get(&index, 0).map_err(|error| fault(name, "reading", &error))
}

/// The sums over all processors of a per-processor array's first `count` entries.
pub(super) fn sums<T: Pod + Default>(
    ebpf: &Ebpf,
    name: &'static str,
    count: u32,
    add: impl Fn(&mut T, &T),
) -> Result<Vec<T>, KernelError> {
    let map = ebpf.map(name).ok_or_else(|| no_map(name))?;
    let array = PerCpuArray::<_, T>::try_from(map)
        .map_err(|error| KernelError::failed(name, "opening", error))?;
    (0..count)
        .map(|index| {
            let values = array.get(&index, 0).map_err(|error| fault(name, "reading", &error))?;
            let mut sum = T::default();
            values.iter().for_each(|value| add(&mut sum, value));
            Ok(sum)
        })
        .collect()
}

/// The sums over all processors of frames and bytes.
pub(super) fn tallies(
    ebpf: &Ebpf,
    name: &'static str,
    count: u32,
) -> Result<Vec<Tally>, KernelError> {
    sums(ebpf, name, count, |sum: &mut Tally, tally| {
        sum.packets += tally.packets;
        sum.bytes += tally.bytes;
    })
}

/// Lets redirected frames of a DEVMAP slot leave on a device, through a program of their own if
/// there is one; with index zero the slot becomes empty.
pub(super) fn set_device(
    ebpf: &mut Ebpf,
    name: &'static str,
    slot: u32,
    device: u32,
    program: Option<&ProgramFd>,
) -> Result<(), KernelError> {
    let mut devices = DevMap::try_from(map(ebpf, name)?)
        .map_err(|error| KernelError::failed(name, "opening", error))?;
    // The kernel empties the slot when the index is zero, and wants no program then
    // (`__dev_map_update_elem`).
    let program = program.filter(|_| device != 0);
    devices.set(slot, device, program, 0).map_err(|error| match errno(&error) {
        // dev_map_update_elem of the kernel: nobody has that index in this namespace.
        Some(libc::EINVAL) => KernelError::NoDevice { device: format!("with index {device}") },
        _ => fault(name, "setting the device", &error),
    })
}

fn no_map(name: &'static str) -> KernelError {
    KernelError::failed(name, "finding the map", "not in the object")
}

/// An XDP program of the object, in the kernel.
pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, KernelError> {
    let program: &mut Xdp = program(ebpf, name)?;
    load_once(program.load(), name)?;
    Ok(program)
}

/// A traffic control program of the object, in the kernel.
pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program: &mut SchedClassifier = program(ebpf, name)?;
    load_once(program.load(), name)?;
    Ok(program)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program =
        program.ok_or_else(|| KernelError::failed(name, "finding it", "not in the object"));
    program?.try_into().map_err(|error| KernelError::failed(name, "finding it", error))
}

/// What the verifier said of one program.
#[derive(Debug)]
pub struct Verdict {
    /// The program's name.
    pub program: String,
    /// The constants that it was loaded with.
    pub constants: &'static str,
    /// Instructions that the verifier has followed, each as often as it did; zero before Linux 5.16.
    /// The kernel gives up at a million.
    pub instructions: Result<u32, KernelError>,
}

/// Shows every program to this kernel's verifier, with all constants on; if `each`, also as `run` and
/// `relay` load it: the verifier leaves out what a constant turns off. Nothing is attached, and
/// nothing stays.
///
/// # Errors
/// When the maps cannot be made; what is said of a program is in its [`Verdict`].
pub fn verify(each: bool) -> Result<Vec<Verdict>, KernelError> {
    let none = Constants::default();
    let all = Constants {
        empty_slot_passes: true,
        secondary: true,
        tunnelled: true,
        learns: true,
        slot: GUEST_SLOTS - 1,
        debug: true,
    };
    let variants = [
        ("all", all),
        ("none", none),
        ("learns", Constants { learns: true, ..none }),
        ("secondary, tunnelled", Constants { secondary: true, tunnelled: true, ..none }),
        ("debug", Constants { debug: true, ..none }),
    ];
    let count = if each { variants.len() } else { 1 };
    let mut verdicts = Vec::new();
    for (name, constants) in variants.into_iter().take(count) {
        let mut ebpf = Instance::of(constants).load()?;
        verdicts.extend(ebpf.programs_mut().map(|(program, loaded)| Verdict {
            program: program.to_owned(),
            constants: name,
            instructions: verify_one(program, loaded),
        }));
    }
    Ok(verdicts)
}

fn verify_one(name: &str, program: &mut Program) -> Result<u32, KernelError> {
    let result = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(KernelError::failed(name, "loading the program", "of another kind")),
    };
    load_once(result, name)?;
    let info = program.info().map_err(|error| fault(name, "asking for the program", &error))?;
    Ok(info.verified_instruction_count().unwrap_or(0))
}

fn load_once(result: Result<(), ProgramError>, name: &str) -> Result<(), KernelError> {
    match result {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) if errno(&error) == Some(libc::EPERM) => {
            Err(fault(name, "loading the program", &error))
        }
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            tracing::debug!(program = name, %log, "verifier log");
            // The last line but the statistics says what was wrong.
            const STATISTICS: [&str; 3] = ["processed ", "verification time ", "stack depth "];
            let is_statistics = |line: &str| STATISTICS.iter().any(|name| line.starts_with(name));
            let reason = log.lines().rfind(|line| !is_statistics(line)).unwrap_or_default();
            let detail = format!("{io_error}: {reason}");
            Err(KernelError::Rejected { program: name.into(), detail })
        }
        Err(error) => Err(fault(name, "loading the program", &error)),
    }
}

/// The error of an operation, with EPERM told apart.
pub(super) fn fault(
    subject: &str,
    operation: &'static str,
    error: &(dyn Error + 'static),
) -> KernelError {
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) => KernelError::NotPermitted {
            operation: format!("{subject}: {operation}"),
            capabilities: CAPABILITIES,
            missing: Capabilities::of_this_process().missing(),
        },
        Some(code) => KernelError::failed(subject, operation, io::Error::from_raw_os_error(code)),
        None => KernelError::failed(subject, operation, error),
    }
}

/// The system call's error number at the bottom of an error.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}
