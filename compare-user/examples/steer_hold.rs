//! Holds the steer program on a device until it is killed: `steer_hold DEVICE auto|native|generic`.
//!
//! Prints `ready` once attached. After `kill -9` the device stays closed; the next colo-xdp on it
//! takes over.

use std::io::Write;
use std::process::ExitCode;

use compare_user::kernel::{
    AttachOptions, DEFAULT_PIN_DIRECTORY, EmptySlot, KernelError, Mode, Role, Steer,
};

fn attach(device: String, mode: Mode) -> Result<Steer, KernelError> {
    Steer::attach(&AttachOptions {
        device,
        mode,
        empty_slot: EmptySlot::Drop,
        role: Role::Primary,
        output: None,
        pin: Some(DEFAULT_PIN_DIRECTORY.into()),
        tunnelled: false,
        learner: None,
        debug: false,
    })
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [device, mode] = arguments.as_slice() else {
        return say("usage: steer_hold DEVICE auto|native|generic", 2);
    };
    let Ok(mode) = mode.parse() else { return say("mode: auto, native or generic", 2) };
    match attach(device.clone(), mode) {
        Ok(_steer) => {
            say("ready", 0);
            loop {
                std::thread::park();
            }
        }
        Err(error) => say(&error.to_string(), error.kind().exit_code()),
    }
}

fn say(line: &str, code: u8) -> ExitCode {
    // Nobody left to read it is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{line}");
    ExitCode::from(code)
}
