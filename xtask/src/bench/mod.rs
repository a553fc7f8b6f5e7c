//! `cargo xtask bench`: what the software costs on this machine.

pub(crate) mod chardev;
pub(crate) mod proxy;
pub(crate) mod xdp;

use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The AF_XDP path on veth devices: forwarding alone beside comparing
    ///
    /// Needs root and two cores. Runs `colo-xdp run --compare off` and `--compare on` in turn on
    /// the same devices, with the same load, several rounds: the machine may be shared, so what
    /// counts are medians and ratios within a round.
    #[command(
        after_help = "Examples:\n  cargo xtask bench xdp\n  cargo xtask bench xdp --quick --json"
    )]
    Xdp(xdp::Options),
    /// QEMU's colo-compare and colo-xdp under the same load on socket chardevs
    ///
    /// One driver, at most 256 pairs under way, fresh processes, alternating rounds. Content and
    /// order of every released frame are checked. Prints medians: pairs per second, processor time
    /// per pair of the comparator, latency at 5,000 pairs per second; and checkpoint requests,
    /// frames out of order and lost, which identical streams should not cause.
    #[command(
        after_help = "Examples:\n  cargo xtask bench chardev\n  cargo xtask bench chardev --seconds 5 --json"
    )]
    Chardev(chardev::Options),
    /// Real TCP through mirror, comparator and relay, beside plain forwarding
    ///
    /// Needs root. Client, guests and hosts are network namespaces joined by veth devices, with the
    /// kernel's own TCP; every trial has a network of its own, and the variants take turns:
    ///
    /// plain       a bridge on the primary host, no secondary, no colo-xdp
    ///
    /// standalone  colo-xdp run --standalone: XDP forwards between NIC and primary in the kernel, the
    ///             mirror copies nothing to the link, the comparator's process has no part in it
    ///
    /// forwarding  both guests get everything; the primary's frames go through the comparator's
    ///             rings and leave without a look, the secondary's are dropped there (of downloads
    ///             it says little: the client acknowledges what it has not said yet)
    ///
    /// comparing   the proxy at work
    ///
    /// Loads: 2,000 connections opened eight at a time; 1 and 32 connections kept busy to the client
    /// and to the guest. All content is verified. What is the same in all of them, the client, the
    /// primary and the load generator, shares the cores with what is measured.
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:\n  cargo xtask bench proxy\n  cargo xtask bench proxy --quick --json\n  cargo xtask bench proxy --rounds 3 -- --max-queue-size 8192"
    )]
    Proxy(proxy::Options),
}
