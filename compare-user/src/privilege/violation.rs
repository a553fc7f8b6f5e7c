//! The end of a process that has made a system call which its filter refuses.
#![allow(unsafe_code, reason = "a signal handler that reads what the kernel says of the signal")]

use std::cell::Cell;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::PrivilegeError;
use crate::kernel::FaultKind;

thread_local! {
    /// Constant and without a destructor, so that a signal handler may read it.
    static THREAD: Cell<&'static str> = const { Cell::new("main") };
}

/// What the calling thread is called in the line.
pub(super) fn name_this_thread(name: &'static str) {
    THREAD.set(name);
}

/// `siginfo_t` as far as SIGSYS goes, on a machine of 64 bits (asm-generic/siginfo.h).
#[repr(C)]
struct Refused {
    signal: i32,
    errno: i32,
    code: i32,
    _padding: i32,
    address: *const libc::c_void,
    number: i32,
    architecture: u32,
}

/// Has the process say what was refused, and end with the code of a runtime fault.
pub(super) fn watch() -> Result<(), PrivilegeError> {
    let handler = SigHandler::SigAction(end);
    // On the thread's spare stack: it may be the stack that could not grow.
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK, SigSet::all());
    // SAFETY: the handler makes no call but write(2) and _exit(2), and allocates nothing.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop).map_err(|error| {
        PrivilegeError::Refused { what: "watching for SIGSYS", cause: error.to_string() }
    })
}

extern "C" fn end(_: i32, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t of SIGSYS, which begins with these fields.
    let number = unsafe { (*information.cast::<Refused>()).number };
    let mut line = Line::default();
    line.add(b"colo-xdp: the ");
    line.add(THREAD.get().as_bytes());
    line.add(b" thread made system call ");
    line.add_number(number.unsigned_abs());
    line.add(b", which its seccomp filter refuses: look it up with `ausyscall ");
    line.add_number(number.unsigned_abs());
    line.add(b"` and report it; --seccomp off goes without the filter\n");
    let text = &line.text[..line.length];
    // SAFETY: the bytes are there; both calls may be made in a signal handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(FaultKind::Runtime.exit_code().into());
    }
}

/// Text without an allocation; what does not fit is left out.
struct Line {
    text: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { text: [0; 256], length: 0 }
    }
}

impl Line {
    fn add(&mut self, bytes: &[u8]) {
        let room = &mut self.text[self.length..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    fn add_number(&mut self, mut number: u32) {
        let mut digits = [0; 10];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.add(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_numbers_and_an_end() {
        let mut line = Line::default();
        line.add(b"call ");
        for number in [0, 59, u32::MAX] {
            line.add_number(number);
            line.add(b" ");
        }
        assert_eq!(&line.text[..line.length], b"call 0 59 4294967295 ");
        line.add(&[b'x'; 300]);
        assert_eq!(line.length, line.text.len());
    }
}
