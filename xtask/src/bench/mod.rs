//! `cargo xtask bench`: what the software costs on this machine.

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
}
