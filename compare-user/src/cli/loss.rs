//! What is done when a side, or the way to it, seems to be lost.

use clap::ValueEnum;

/// The value of `--on-qmp-loss`, `--on-link-loss` and `--on-colo-exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnLoss {
    /// Report it; everything else is the operator's decision.
    Hold,
    /// Report it, and let the side that this process serves go on alone.
    Failover,
}

impl OnLoss {
    /// As it is written on the command line and in events.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Failover => "failover",
        }
    }
}
