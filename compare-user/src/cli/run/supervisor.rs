//! Beside the lane: events, requests, signals, devices that come back, the orderly end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use serde_json::{Value, json};

use super::assembly::{Assembled, LaneHandle};
use super::link::{LinkChange, LinkWatch};
use super::steering::Steering;
use super::takers::Takers;
use super::{Args, NO_BYPASS};
use crate::checkpoint::{CommandProcess, Notice};
use crate::cli::Failure;
use crate::cli::log::Log;
use crate::cli::loss::OnLoss;
use crate::cli::service::{Service, tell};
use crate::compare::Side;
use crate::control::Request;
use crate::frame::FlowKey;
use crate::kernel::{BypassRule, Standalone};
use crate::lane::{Command, Flushed};
use crate::observe::Event;
use crate::privilege::{self, Role};

/// How often devices are looked at, and looked for when they are lost. A lost link is reported at
/// most this late.
const SEARCH: Duration = Duration::from_millis(100);

/// Longest wait for a lane's answer.
const ANSWER: Duration = Duration::from_secs(5);

struct Supervisor<'a> {
    args: &'a Args,
    steering: Steering,
    lane: LaneHandle,
    takers: Takers,
    link: LinkWatch,
    next_look: Instant,
    log: Log,
    rules: Vec<BypassRule>,
    /// A port was lost and is not back.
    searching: bool,
    /// Connections that the network has reset, until the next look.
    resets: Vec<(FlowKey, Instant)>,
}

/// Runs until a signal asks for the end, then flushes, detaches and sums up.
pub(super) fn supervise(
    args: &Args,
    assembled: Assembled,
    command: Option<CommandProcess>,
    log: Log,
) -> Result<ExitCode, Failure> {
    let Assembled { steering, lane, events, obtained } = assembled;
    let service = Service::start(args.control.as_deref())?;
    let (takers, notices) = Takers::start(args, command)?;
    let rules = args.bypass.clone();
    let link = LinkWatch::new(&args.secondary);
    let next_look = Instant::now();
    let mut supervisor = Supervisor {
        args,
        steering,
        lane,
        takers,
        link,
        next_look,
        log,
        rules,
        searching: false,
        resets: Vec::new(),
    };
    if args.standalone {
        supervisor.failover(Side::Primary).map_err(Failure::runtime)?;
    }
    privilege::confine(Role::Supervisor { devices: args.has_devices() })?;
    tell(args.json, &Event::Ready { ports: obtained, control: service.control() });
    let ended = supervisor.watch(&events, &service, &notices);
    drop(service);
    // Takers that wait for a notice to be read see that nobody will.
    drop(notices);
    match ended {
        Ok(()) => supervisor.end(&events),
        // As after a crash: what is pinned stays and lets nothing leave uncompared.
        Err(failure) => Err(supervisor.lane.stop().err().unwrap_or(failure)),
    }
}

impl Supervisor<'_> {
    fn watch(
        &mut self,
        events: &Receiver<Event>,
        service: &Service,
        notices: &Receiver<Notice>,
    ) -> Result<(), Failure> {
        let mut last = Instant::now();
        loop {
            select! {
                recv(events) -> event => match event {
                    Ok(event) => self.heed(&event),
                    Err(_) => return Err(Failure::runtime("the lane ended by itself")),
                },
                recv(service.calls) -> call => if let Ok(call) = call {
                    let answer = self.answer(call.request);
                    let _ = call.reply.send(answer);
                },
                recv(notices) -> notice => if let Ok(notice) = notice {
                    self.act_on(notice);
                },
                recv(service.signals) -> _ => return Ok(()),
                default(SEARCH) => {}
            }
            if self.searching {
                self.search();
            }
            self.look_around();
            self.steering.drain_debug_logs();
            if last.elapsed() >= SEARCH {
                last = Instant::now();
                self.steering.maintain();
                self.pass_on_resets();
            }
        }
    }

    /// Tells the lane of connections that the network has reset, one look later: by then both guests
    /// have said what they had begun to say.
    fn pass_on_resets(&mut self) {
        let seen = self.steering.resets();
        let due = std::mem::replace(&mut self.resets, seen);
        if !due.is_empty()
            && let Err(error) = self.lane.send(Command::Reset(due))
        {
            tracing::debug!(error, "telling the lane of resets");
        }
    }

    fn heed(&mut self, event: &Event) {
        tell(self.args.json, event);
        match event {
            Event::Divergence(report) => self.takers.diverged(report),
            Event::CheckpointRequested => self.takers.request(),
            Event::CheckpointDone { .. } | Event::Standalone { .. } => self.takers.flushed(),
            Event::PortLost { device, .. } => {
                self.steering.lose(device);
                self.searching = true;
            }
            _ => {}
        }
    }

    /// Does what whoever takes checkpoints says.
    fn act_on(&mut self, notice: Notice) {
        match notice {
            Notice::Connected { peer } => tell(self.args.json, &Event::PeerConnected { peer }),
            Notice::Lost { peer, cause } => tell(self.args.json, &Event::PeerLost { peer, cause }),
            Notice::Done => {
                if let Err(error) = self.lane.ask(Command::Checkpoint, ANSWER) {
                    tracing::error!(error, "a checkpoint is done and the flush failed");
                }
            }
            Notice::ColoEnded { cause } => {
                let action = self.args.on_qmp_loss;
                tell(self.args.json, &Event::ColoEnded { cause, action: action.name() });
                self.lose_secondary(action);
            }
        }
    }

    /// Looks at devices, if it is time for it.
    fn look_around(&mut self) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + SEARCH;
        self.look_at_link();
        self.lane.tend_output();
    }

    /// Tells when the secondary's frames can come no longer, and when they can again.
    fn look_at_link(&mut self) {
        match self.link.look(&self.lane.secondary) {
            Some(LinkChange::Lost { device, cause }) => {
                let action = self.args.on_link_loss;
                tell(self.args.json, &Event::LinkLost { device, cause, action: action.name() });
                self.lose_secondary(action);
            }
            Some(LinkChange::Restored { device }) => {
                tell(self.args.json, &Event::LinkRestored { device });
            }
            None => {}
        }
    }

    /// There is no second guest any more, as far as can be told.
    fn lose_secondary(&mut self, action: OnLoss) {
        let comparing = self.steering.standalone == Standalone::Off;
        if action == OnLoss::Failover
            && comparing
            && let Err(error) = self.failover(Side::Primary)
        {
            tracing::error!(error, "failover");
        }
    }

    /// Looks for devices that came back.
    fn search(&mut self) {
        let ready = self.steering.restore(&self.rules);
        if !ready {
            return;
        }
        let reopened = self.lane.ask(Command::Reopen, ANSWER);
        if reopened.is_err() {
            return;
        }
        let registered = self.steering.register_opened();
        self.searching = !self.steering.all_open() || registered.is_err();
        if let Err(error) = registered {
            tracing::warn!(%error, "registering a reopened socket");
        }
        if self.steering.standalone != Standalone::Off
            && let Err(error) = self.steering.apply_standalone()
        {
            tracing::warn!(%error, "standalone on a device that came back");
        }
    }

    fn answer(&mut self, request: Request) -> Result<Value, String> {
        match request {
            Request::Status => {
                let status = self.lane.ask(Command::Status, ANSWER)?;
                let mut value = serde_json::to_value(&*status).map_err(|e| e.to_string())?;
                value["steer"] = self.steering.outcomes()?;
                value["mirror"] = self.steering.mirrored()?;
                value["checkpoint"] = self.takers.status();
                Ok(value)
            }
            Request::Flows { limit } => {
                let flows = self.lane.ask(|reply| Command::Flows(limit, reply), ANSWER)?;
                Ok(json!({ "flows": flows }))
            }
            Request::Checkpoint => Ok(flushed(self.lane.ask(Command::Checkpoint, ANSWER)?)),
            Request::Failover { survivor } => {
                self.failover(survivor.unwrap_or(Side::Primary)).map(flushed)
            }
            Request::Rearm => self.rearm(),
            Request::BypassAdd { rule } => {
                let rule: BypassRule = parse(&rule)?;
                let mut rules = self.rules.clone();
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
                self.bypass(rules)
            }
            Request::BypassDelete { rule } => {
                let rule: BypassRule = parse(&rule)?;
                let mut rules = self.rules.clone();
                rules.retain(|known| *known != rule);
                if rules.len() == self.rules.len() {
                    return Err(format!("no such rule: {rule}"));
                }
                self.bypass(rules)
            }
            Request::BypassList => Ok(self.listed_rules()),
            Request::Log { level } => self.log.set(&level).map(|()| json!({ "level": level })),
        }
    }

    /// What was held leaves first; only then does the kernel forward by itself.
    fn failover(&mut self, survivor: Side) -> Result<Flushed, String> {
        let flushed = self.lane.ask(|reply| Command::Failover(survivor, reply), ANSWER)?;
        self.steering.survivor = survivor;
        self.steering.standalone = Standalone::Forward;
        self.steering.apply_standalone().map_err(|error| error.to_string())?;
        Ok(flushed)
    }

    /// The lane compares again before the kernel steers to it again.
    fn rearm(&mut self) -> Result<Value, String> {
        self.lane.ask(Command::Rearm, ANSWER)?;
        self.steering.standalone = Standalone::Off;
        self.steering.apply_standalone().map_err(|error| error.to_string())?;
        Ok(json!({}))
    }

    fn bypass(&mut self, rules: Vec<BypassRule>) -> Result<Value, String> {
        if !self.args.can_bypass() {
            return Err(NO_BYPASS.to_owned());
        }
        self.steering.set_bypass(&rules).map_err(|error| error.to_string())?;
        self.rules = rules;
        Ok(self.listed_rules())
    }

    fn listed_rules(&self) -> Value {
        json!({ "rules": self.rules.iter().map(BypassRule::to_string).collect::<Vec<_>>() })
    }

    /// Detaches first, so that no frame reaches a ring that nobody reads any more; then the lane
    /// takes what is in the rings, flushes and sends.
    fn end(mut self, events: &Receiver<Event>) -> Result<ExitCode, Failure> {
        if !self.args.keep_closed {
            self.steering.detach()?;
        }
        let status = self.lane.stop();
        for event in events.try_iter() {
            tell(self.args.json, &event);
        }
        let status = status?;
        let frames_unaccounted = status.frames.unaccounted;
        tell(self.args.json, &Event::Summary { status, frames_unaccounted });
        Ok(ExitCode::SUCCESS)
    }
}

fn flushed(flushed: Flushed) -> Value {
    json!({ "released": flushed.released, "dropped": flushed.dropped })
}

fn parse(rule: &str) -> Result<BypassRule, String> {
    rule.parse().map_err(|error: crate::kernel::RuleError| error.to_string())
}
