//! What the fuzzer calls, one function per target: bytes in, a panic if something that must hold
//! does not.
//!
//! Each target takes input that comes from outside (a guest, a peer, a client, a file), states what
//! the code under test must make of it, and nothing else: no panic, no frame lost or doubled, no
//! memory taken because a length field asked for it. The functions are ordinary code, so that the
//! corpus is replayed by `cargo test` too, without a fuzzer; `fuzz_targets` only names them to
//! libFuzzer, and `cargo xtask fuzz` builds and runs them.
//!
//! | target | input |
//! |---|---|
//! | [`headers`] | one frame, in one run or in chunks |
//! | [`framing`] | the byte stream of a chardev, cut anywhere |
//! | [`chardev`] | the same through sockets and frame memory, in and out |
//! | [`notify`] | the byte stream of a notify_dev peer |
//! | [`control`] | what a client writes to the control socket |
//! | [`qmp`] | what QEMU says, and when |
//! | [`pcap`] | a capture file, pcap or pcapng |
//! | [`comparator`] | any order of frames, ticks, checkpoints, failovers and resets |

pub mod chardev;
pub mod comparator;
pub mod control;
pub mod framing;
pub mod headers;
pub mod memory;
pub mod notify;
pub mod pcap;
mod pieces;
pub mod qmp;
#[cfg(test)]
mod replay;
pub mod seeds;
mod stream;

/// Takes one input of a target.
pub type Check = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Check); 8] = [
    ("headers", headers::check),
    ("framing", framing::check),
    ("chardev", chardev::check),
    ("notify", notify::check),
    ("control", control::check),
    ("qmp", qmp::check),
    ("pcap", pcap::check),
    ("comparator", comparator::check),
];
