//! `cargo xtask bench`: measurements that need a whole process, or two to compare.

mod chardev;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Benchmark {
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

/// Runs it.
///
/// # Errors
/// Something is missing, a build failed, or a comparator did not do what it must.
pub(crate) fn run(benchmark: &Benchmark) -> Result<()> {
    match benchmark {
        Benchmark::Chardev(options) => chardev::run(options),
    }
}
