//! Everyone who is told about divergences, as the options of `run` name them.

use crossbeam_channel::{Receiver, Sender};
use serde_json::{Map, Value};

use super::Args;
use crate::checkpoint::notify::{self, NotifyStatus};
use crate::checkpoint::qmp::{self, QemuRole, QmpStatus};
use crate::checkpoint::{Agent, CommandProcess, NOTICES, Notice, OnDivergence};
use crate::cli::Failure;
use crate::observe::DivergenceReport;

/// Those that were asked for.
pub(super) struct Takers {
    notify: Option<Agent<NotifyStatus>>,
    qmp: Option<Agent<QmpStatus>>,
    command: Option<OnDivergence>,
    /// Keeps the channel open that nobody may have a use for.
    _notices: Sender<Notice>,
}

impl Takers {
    /// Starts them. What they report comes out of the receiver.
    pub(super) fn start(
        args: &Args,
        command: Option<CommandProcess>,
    ) -> Result<(Self, Receiver<Notice>), Failure> {
        let (notices, heard) = crossbeam_channel::bounded(NOTICES);
        let notify = match &args.notify {
            Some(spec) => {
                Some(notify::start(spec, args.vnet_hdr, notices.clone()).map_err(|error| {
                    Failure::runtime(format!("--notify {}: {error}", spec.address))
                })?)
            }
            None => None,
        };
        let qmp = match &args.qmp {
            Some(spec) => Some(
                qmp::start(spec, QemuRole::Primary, notices.clone())
                    .map_err(|error| Failure::runtime(format!("--qmp: {error}")))?,
            ),
            None => None,
        };
        let command = command
            .map(OnDivergence::start)
            .transpose()
            .map_err(|error| Failure::runtime(format!("--on-divergence: {error}")))?;
        Ok((Self { notify, qmp, command, _notices: notices }, heard))
    }

    /// A checkpoint is wanted.
    pub(super) fn request(&mut self) {
        if let Some(notify) = &self.notify {
            notify.request();
        }
        if let Some(qmp) = &self.qmp {
            qmp.request();
        }
        if let Some(command) = &mut self.command {
            command.repeat();
        }
    }

    /// A checkpoint is done.
    pub(super) fn flushed(&mut self) {
        if let Some(command) = &mut self.command {
            command.forget();
        }
    }

    /// A divergence was found.
    pub(super) fn diverged(&mut self, report: &DivergenceReport) {
        if let Some(command) = &mut self.command {
            command.run(report);
        }
    }

    /// Each one's state, by the name of its option.
    pub(super) fn status(&self) -> Value {
        let mut status = Map::new();
        if let Some(notify) = &self.notify {
            status.insert("notify".into(), notify.status());
        }
        if let Some(qmp) = &self.qmp {
            status.insert("qmp".into(), qmp.status());
        }
        if let Some(command) = &self.command {
            let counted = serde_json::to_value(command.status()).unwrap_or(Value::Null);
            status.insert("on_divergence".into(), counted);
        }
        Value::Object(status)
    }
}
