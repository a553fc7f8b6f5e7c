//! The kernel side against the real kernel: devices in a network namespace of each test's own.
#![allow(clippy::unwrap_used, reason = "a step that fails is the test's failure")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "skips and measurements are said")]

mod adoption;
mod announcing;
mod attaching;
mod link_state;
mod mirroring;
mod network;
mod pins;
mod programs;
mod relay_command;
mod relaying;
mod rules;
mod sharing;
mod steering;
mod tunnel;
