//! The XDP programs of a running comparator: one on each guest-facing device, and the sockets
//! they steer to.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::Args;
use crate::compare::Side;
use crate::frame::FlowKey;
use crate::kernel::{
    AttachOptions, BypassRule, Copies, DEFAULT_PIN_DIRECTORY, Device, KernelError, Mirror, Role,
    Standalone, Steer, Tally, TunnelSpec, spelled,
};

/// A socket that was opened for a queue of a device and is to be steered to.
pub(super) struct Opened {
    pub(super) device: String,
    pub(super) queue: u32,
    pub(super) socket: OwnedFd,
}

struct Gate {
    side: Side,
    options: AttachOptions,
    /// Gone while the device is.
    steer: Option<Steer>,
}

/// A program for each input that is a device, and the mirror.
pub(super) struct Steering {
    gates: Vec<Gate>,
    mirror: Option<Mirror>,
    tunnel: Option<TunnelSpec>,
    /// The output, if it is a device.
    output: Option<String>,
    output_lost: bool,
    opened: Receiver<Opened>,
    /// For the openers of ports.
    pub(super) opener: Sender<Opened>,
    pub(super) standalone: Standalone,
    pub(super) survivor: Side,
}

/// Attaches a device's program and tells it what it has to know.
fn attach(
    options: &AttachOptions,
    rules: &[BypassRule],
    tunnel: Option<&TunnelSpec>,
) -> Result<Steer, KernelError> {
    let mut steer = Steer::attach(options)?;
    steer.set_bypass(rules)?;
    if let Some(tunnel) = tunnel.filter(|_| options.tunnelled) {
        steer.set_tunnel(tunnel)?;
    }
    Ok(steer)
}

impl Steering {
    /// Attaches to the inputs that are devices. Until sockets are registered, frames go where `--on-exit` says.
    pub(super) fn attach(args: &Args) -> Result<Self, KernelError> {
        let output = args.out.xdp().map(|spec| Device::find(&spec.device)).transpose()?;
        let sides = [
            (Side::Primary, Role::Primary, &args.primary),
            (Side::Secondary, Role::Secondary, &args.secondary),
        ];
        let mirror = args.mirror_options().map(Mirror::attach).transpose()?;
        let mut gates = Vec::new();
        for (side, role, port) in sides {
            let Some(spec) = port.xdp() else { continue };
            let options = AttachOptions {
                device: spec.device.clone(),
                mode: spec.mode,
                empty_slot: args.empty_slot(),
                role,
                output: output.as_ref().map(|device| device.index),
                pin: Some(DEFAULT_PIN_DIRECTORY.into()),
                tunnelled: role == Role::Secondary && args.vxlan.is_some(),
                learner: mirror
                    .as_ref()
                    .filter(|_| role == Role::Primary)
                    .and_then(Mirror::learner),
                debug: args.debug_xdp,
            };
            let steer = attach(&options, &args.bypass, args.vxlan.as_ref())?;
            gates.push(Gate { side, options, steer: Some(steer) });
        }
        let (opener, opened) = crossbeam_channel::unbounded();
        Ok(Self {
            gates,
            mirror,
            tunnel: args.vxlan,
            output: output.map(|device| device.name),
            output_lost: false,
            opened,
            opener,
            standalone: Standalone::Off,
            survivor: Side::Primary,
        })
    }

    /// Follows the devices of the mirror and the next hop of its tunnel; called ten times a second.
    pub(super) fn maintain(&mut self) {
        if let Some(mirror) = &mut self.mirror
            && let Err(error) = mirror.refresh()
        {
            tracing::warn!(%error, device = mirror.nic(), "the mirror");
        }
    }

    /// Connections that the network has reset since the last call, and when.
    pub(super) fn resets(&mut self) -> Vec<(FlowKey, Instant)> {
        let resets = self.mirror.as_mut().map(Mirror::resets).unwrap_or_default();
        if resets.is_empty() {
            return Vec::new();
        }
        let (now, clock) = (Instant::now(), monotonic());
        let when = |at: u64| {
            let age = clock.saturating_sub(Duration::from_nanos(at));
            now.checked_sub(age).unwrap_or(now)
        };
        resets.iter().map(|it| (FlowKey::of_connection(&it.connection), when(it.at))).collect()
    }

    /// How each program is attached, for people.
    pub(super) fn obtained(&self) -> impl Iterator<Item = (&str, String)> {
        self.steers().map(|steer| {
            let adopted = if steer.adopted() { ", taken over" } else { "" };
            (steer.device().name.as_str(), format!("{}{adopted}", steer.mode()))
        })
    }

    /// How the mirror is attached, for people.
    pub(super) fn mirror_obtained(&self) -> Option<String> {
        let mirror = self.mirror.as_ref()?;
        Some(format!("mirror on {}: {}", mirror.nic(), mirror.mode()?))
    }

    fn steers(&self) -> impl Iterator<Item = &Steer> {
        self.gates.iter().filter_map(|gate| gate.steer.as_ref())
    }

    /// Steers to every socket that was opened since the last call.
    pub(super) fn register_opened(&mut self) -> Result<(), KernelError> {
        for opened in self.opened.try_iter() {
            let gate = self.gates.iter_mut().find(|gate| gate.options.device == opened.device);
            if let Some(steer) = gate.and_then(|gate| gate.steer.as_mut()) {
                steer.register_socket(opened.queue, opened.socket.as_fd())?;
            }
        }
        Ok(())
    }

    /// A device is gone, and its program with it.
    pub(super) fn lose(&mut self, device: &str) {
        if self.output.as_deref() == Some(device) {
            self.output_lost = true;
        }
        for gate in self.gates.iter_mut().filter(|gate| gate.options.device == device) {
            gate.steer = None;
        }
    }

    /// Attaches again to devices that came back. True if a port can be opened now.
    pub(super) fn restore(&mut self, rules: &[BypassRule]) -> bool {
        let mut any = false;
        if self.output_lost
            && let Some(output) = &self.output
            && let Ok(output) = Device::find(output)
        {
            self.output_lost = false;
            any = true;
            for gate in &mut self.gates {
                gate.options.output = Some(output.index);
                if let Some(steer) = &mut gate.steer
                    && let Err(error) = steer.set_output(output.index)
                {
                    tracing::warn!(%error, "forwarding to the output device that came back");
                }
            }
        }
        for gate in self.gates.iter_mut().filter(|gate| gate.steer.is_none()) {
            match attach(&gate.options, rules, self.tunnel.as_ref()) {
                Ok(steer) => {
                    gate.steer = Some(steer);
                    any = true;
                }
                Err(KernelError::NoDevice { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, device = gate.options.device, "attaching again");
                }
            }
        }
        any
    }

    /// True when no device is missing.
    pub(super) fn all_open(&self) -> bool {
        !self.output_lost && self.gates.iter().all(|gate| gate.steer.is_some())
    }

    /// Tells the programs whether the kernel forwards by itself. It cannot where frames come from
    /// or go to a socket; there the lane passes them on.
    pub(super) fn apply_standalone(&mut self) -> Result<(), KernelError> {
        for gate in &mut self.gates {
            if let Some(steer) = &mut gate.steer {
                steer.set_standalone(match self.standalone {
                    Standalone::Forward if gate.side != self.survivor => Standalone::Drop,
                    Standalone::Forward if self.output.is_none() => Standalone::Off,
                    standalone => standalone,
                })?;
            }
        }
        if let Some(mirror) = &mut self.mirror {
            mirror.set_copies(match (self.standalone, self.survivor) {
                (Standalone::Off, _) => Copies::Both,
                (_, Side::Primary) => Copies::PrimaryOnly,
                (_, Side::Secondary) => Copies::SecondaryOnly,
            })?;
        }
        Ok(())
    }

    pub(super) fn set_bypass(&mut self, rules: &[BypassRule]) -> Result<(), KernelError> {
        for steer in self.gates.iter_mut().filter_map(|gate| gate.steer.as_mut()) {
            steer.set_bypass(rules)?;
        }
        Ok(())
    }

    /// What each program counted, by device and outcome.
    pub(super) fn outcomes(&self) -> Result<Value, String> {
        let mut devices = serde_json::Map::new();
        for steer in self.steers() {
            let outcomes = steer.outcomes().map_err(|error| error.to_string())?;
            let counts: serde_json::Map<String, Value> = outcomes
                .iter()
                .map(|(outcome, tally)| (outcome.name().to_owned(), counts(&tally)))
                .collect();
            devices.insert(steer.device().name.clone(), Value::Object(counts));
        }
        Ok(Value::Object(devices))
    }

    /// What the mirror counted, and whose frames it copies; null without one.
    pub(super) fn mirrored(&mut self) -> Result<Value, String> {
        let Some(mirror) = &mut self.mirror else { return Ok(Value::Null) };
        let describe = |error: KernelError| error.to_string();
        let outcomes = mirror.outcomes().map_err(describe)?;
        let counts: serde_json::Map<String, Value> = outcomes
            .iter()
            .map(|(outcome, tally)| (outcome.name().to_owned(), counts(tally)))
            .collect();
        let macs = mirror.macs().map_err(describe)?;
        let macs: Vec<String> = macs.into_iter().map(spelled).collect();
        Ok(json!({ "device": mirror.nic(), "outcomes": counts, "guest_macs": macs }))
    }

    pub(super) fn drain_debug_logs(&mut self) {
        for steer in self.gates.iter_mut().filter_map(|gate| gate.steer.as_mut()) {
            steer.drain_debug_log();
        }
    }

    /// Leaves both devices as they were found.
    pub(super) fn detach(&mut self) -> Result<(), KernelError> {
        for gate in &mut self.gates {
            if let Some(steer) = gate.steer.take() {
                steer.detach()?;
            }
        }
        match self.mirror.take() {
            Some(mirror) => mirror.detach(),
            None => Ok(()),
        }
    }
}

/// The clock that the programs read.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// A tally, for programs to read.
fn counts(tally: &Tally) -> Value {
    json!({ "packets": tally.packets, "bytes": tally.bytes })
}
