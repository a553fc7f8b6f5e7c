//! The XDP object inside this binary, and loading it.

use std::error::Error;
use std::io;

use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};

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
pub(super) struct Constants {
    pub(super) empty_slot_passes: bool,
    pub(super) secondary: bool,
    pub(super) debug: bool,
}

/// Loads an instance of the object: maps of its own, programs not yet in the kernel.
pub(super) fn load(constants: &Constants) -> Result<Ebpf, KernelError> {
    let level = if constants.debug { LOG_ALL } else { LOG_OFF };
    let passes = u8::from(constants.empty_slot_passes);
    let secondary = u8::from(constants.secondary);
    EbpfLoader::new()
        .override_global("EMPTY_SLOT_PASSES", &passes, true)
        .override_global("SECONDARY", &secondary, true)
        .override_global("AYA_LOG_LEVEL", &level, true)
        .load(OBJECT)
        .map_err(|error| fault("the XDP object", "loading its maps", &error))
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
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program =
        program.ok_or_else(|| KernelError::failed(name, "finding it", "not in the object"));
    program?.try_into().map_err(|error| KernelError::failed(name, "finding it", error))
}

fn load_once(result: Result<(), ProgramError>, name: &'static str) -> Result<(), KernelError> {
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
            Err(KernelError::Rejected { program: name, detail: format!("{io_error}: {reason}") })
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
