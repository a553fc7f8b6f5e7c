//! `cargo xtask bench`: what the software costs on this machine.

pub(crate) mod chardev;
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
}
