//! The kernel side against the real kernel: devices in a network namespace of each test's own.

mod adoption;
mod attaching;
mod network;
mod rules;
mod steering;
