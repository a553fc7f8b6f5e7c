//! Beside the kernel's relay: requests, signals, devices that come back, the orderly end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select, tick};
use serde_json::{Value, json};

use super::Args;
use crate::checkpoint::qmp::{self, QemuRole, QmpStatus};
use crate::checkpoint::{Agent, NOTICES, Notice};
use crate::cli::Failure;
use crate::cli::log::Log;
use crate::cli::loss::OnLoss;
use crate::cli::service::{Service, tell};
use crate::compare::Side;
use crate::control::Request;
use crate::kernel::{Announcer, DeviceChange, Relay, spelled};
use crate::observe::{Counted, Event, RelayMode, RelayStatus};
use crate::privilege::{self, Role};

/// How often devices, the tunnel's next hop and idle connections are looked after.
const MAINTENANCE: Duration = Duration::from_millis(100);

struct Supervisor<'a> {
    args: &'a Args,
    relay: Relay,
    /// With a NIC: tells the network where the guest is after failover.
    announcer: Option<Announcer>,
    qmp: Option<Agent<QmpStatus>>,
    /// Keeps the channel open that QEMU may have no use for.
    _notices: Sender<Notice>,
    log: Log,
}

/// Runs until a signal asks for the end, then detaches and sums up.
pub(super) fn supervise(args: &Args, relay: Relay, log: Log) -> Result<ExitCode, Failure> {
    let service = Service::start(args.control.as_deref())?;
    let (sender, notices) = bounded(NOTICES);
    let qmp = listen_to_qemu(args, &sender)?;
    let announcer = args.nic.as_deref().map(Announcer::open).transpose()?;
    let mut supervisor = Supervisor { args, relay, announcer, qmp, _notices: sender, log };
    privilege::confine(Role::Supervisor { devices: true })?;
    let devices = supervisor.relay.obtained();
    tell(args.json, &Event::RelayReady { devices, control: service.control() });
    if supervisor.relay.failed_over() {
        // Taken over from a process that may not have come to it.
        supervisor.announce();
    }
    supervisor.watch(&service, &notices);
    drop(service);
    supervisor.end()
}

fn listen_to_qemu(
    args: &Args,
    notices: &Sender<Notice>,
) -> Result<Option<Agent<QmpStatus>>, Failure> {
    let Some(spec) = &args.qmp else { return Ok(None) };
    let agent = qmp::start(spec, QemuRole::Secondary, notices.clone());
    agent.map(Some).map_err(|error| Failure::runtime(format!("--qmp: {error}")))
}

impl Supervisor<'_> {
    fn watch(&mut self, service: &Service, notices: &Receiver<Notice>) {
        let maintenance = tick(MAINTENANCE);
        loop {
            let announcement = self.announcer.as_ref().and_then(Announcer::deadline);
            let announcement = announcement.map_or_else(never, at);
            select! {
                recv(service.calls) -> call => if let Ok(call) = call {
                    let answer = self.answer(call.request);
                    let _ = call.reply.send(answer);
                },
                recv(notices) -> notice => if let Ok(notice) = notice {
                    self.act_on(notice);
                },
                recv(service.signals) -> _ => return,
                recv(maintenance) -> _ => self.maintain(),
                recv(announcement) -> _ => if let Some(announcer) = &mut self.announcer {
                    announcer.tick(Instant::now());
                },
            }
        }
    }

    fn maintain(&mut self) {
        for change in self.relay.maintain() {
            tell(
                self.args.json,
                &match change {
                    DeviceChange::Lost { device, cause } => Event::PortLost { device, cause },
                    DeviceChange::Restored { device } => Event::PortRestored { device },
                },
            );
        }
        self.relay.drain_debug_log();
    }

    /// Does what the secondary QEMU says.
    fn act_on(&mut self, notice: Notice) {
        match notice {
            Notice::Connected { peer } => tell(self.args.json, &Event::PeerConnected { peer }),
            // A QEMU whose monitor is gone is gone itself; the comparator's side goes on.
            Notice::Lost { peer, cause } => tell(self.args.json, &Event::PeerLost { peer, cause }),
            Notice::Done => {
                if let Err(error) = self.checkpoint() {
                    tracing::error!(error, "the guests are equal and the relay is not told");
                }
            }
            Notice::ColoEnded { cause } => {
                let action = self.args.on_colo_exit();
                tell(self.args.json, &Event::ColoEnded { cause, action: action.name() });
                if action == OnLoss::Failover
                    && !self.relay.failed_over()
                    && let Err(error) = self.failover()
                {
                    tracing::error!(error, "failover");
                }
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Value, String> {
        match request {
            Request::Status => {
                serde_json::to_value(self.status()?).map_err(|error| error.to_string())
            }
            Request::Checkpoint => {
                let forgotten = self.checkpoint()?;
                Ok(json!({ "forgotten": forgotten }))
            }
            Request::Failover { survivor: Some(Side::Primary) } => {
                Err("the relay has no primary: it puts the secondary on the network".into())
            }
            Request::Failover { .. } => {
                let connections = self.failover()?;
                Ok(json!({ "connections": connections }))
            }
            Request::Rearm => self.rearm().map(|()| json!({})),
            Request::Log { level } => self.log.set(&level).map(|()| json!({ "level": level })),
            Request::Flows { .. } => {
                Err("the relay has no flows: ask the comparator on the primary's host".into())
            }
            Request::BypassAdd { .. } | Request::BypassDelete { .. } | Request::BypassList => {
                Err("the relay has no bypass rules: ask the comparator on the primary's host"
                    .into())
            }
        }
    }

    /// Both guests are the same from now on, their sequence numbers included.
    fn checkpoint(&mut self) -> Result<u64, String> {
        if self.relay.failed_over() {
            return Err("the relay has no primary any more, so no checkpoint: rearm first".into());
        }
        let forgotten = self.relay.checkpoint().map_err(|error| error.to_string())?;
        tell(self.args.json, &Event::OffsetsForgotten { forgotten });
        Ok(forgotten)
    }

    /// The secondary takes the primary's place on the network. Doing it again is harmless.
    fn failover(&mut self) -> Result<u64, String> {
        let connections = self.relay.fail_over().map_err(|error| error.to_string())?;
        tell(self.args.json, &Event::FailedOver { connections });
        self.announce();
        Ok(connections)
    }

    /// Frames for the guest come here from now on.
    fn announce(&mut self) {
        let Some(announcer) = &mut self.announcer else { return };
        match self.relay.guest_macs() {
            Ok(macs) if macs.is_empty() => tracing::warn!(
                "no address of the guest is known yet: the network learns where it is from its \
                 next frame"
            ),
            Ok(macs) => announcer.start(macs, Instant::now()),
            Err(error) => tracing::warn!(%error, "announcing the guest"),
        }
    }

    fn rearm(&mut self) -> Result<(), String> {
        if let Some(announcer) = &mut self.announcer {
            announcer.stop();
        }
        self.relay.rearm().map_err(|error| error.to_string())?;
        tell(self.args.json, &Event::Rearmed);
        Ok(())
    }

    fn status(&mut self) -> Result<RelayStatus, String> {
        let told = |error: crate::kernel::KernelError| error.to_string();
        let devices = self.relay.outcomes().map_err(told)?.into_iter().map(|(device, outcomes)| {
            let counted = outcomes.into_iter().map(|(outcome, tally)| {
                (outcome, Counted { packets: tally.packets, bytes: tally.bytes })
            });
            (device, counted.collect())
        });
        let failed_over = self.relay.failed_over();
        Ok(RelayStatus {
            mode: if failed_over { RelayMode::FailedOver } else { RelayMode::Relaying },
            devices: devices.collect(),
            connections: self.relay.connections().map_err(told)?,
            guest_macs: self.relay.guest_macs().map_err(told)?.into_iter().map(spelled).collect(),
            qmp: self.qmp.as_ref().map(Agent::status),
        })
    }

    /// The counters go with the programs, so they are read first.
    fn end(mut self) -> Result<ExitCode, Failure> {
        let status = self.status().map(Box::new);
        if self.args.keep {
            self.relay.leave();
        } else {
            self.relay.detach()?;
        }
        let status = status.map_err(Failure::runtime)?;
        tell(self.args.json, &Event::RelaySummary { status });
        Ok(ExitCode::SUCCESS)
    }
}
