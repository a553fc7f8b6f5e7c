//! The relay's programs on the secondary's host, and the sequence rewriter's connections.
//!
//! Three devices, one object: `relay_guest`, `relay_link` and `relay_nic` share their maps. Links
//! and the maps with what was learned are pinned: a relay that crashes goes on in the kernel, and
//! the process that takes it over finds every offset.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use compare_ebpf::{
    Connection, ConnectionKey, Gate, GuestMac, Handshake, RelayControl, RelayEvent, RelayOutcome,
    Tally,
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::attach::{AttachedMode, Attachment, Behind, Mode};
use super::bpffs;
use super::device::{Claim, Device};
use super::error::KernelError;
use super::object::{self, Constants, Instance};
use super::outer;
use super::steer::debug_log;
use super::tunnel::TunnelSpec;

/// Maps that outlive the process.
const LASTING: &[&str] =
    &["CONNECTIONS", "HANDSHAKES", "RELAY_CONTROL", "RELAY_MACS", "RELAY_EVENTS", "RELAY_OUTCOMES"];

/// Between two looks for connections that have ended or are idle.
const SWEEP: Duration = Duration::from_secs(10);

/// How long an ended connection is kept for repetitions: twice the maximum segment lifetime that
/// Linux works with (`TCP_TIMEWAIT_LEN`).
const LINGER: Duration = Duration::from_secs(60);

/// What a page has room for beside headroom and the kernel's own structure, at least.
const ONE_BUFFER: u32 = 3400;

/// What to relay.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The secondary guest's device.
    pub guest: String,
    /// The link to the primary's host.
    pub link: String,
    /// The NIC that the guest's frames use after failover.
    pub nic: Option<String>,
    /// The guest's addresses; none if they are learned from what it sends.
    pub guest_macs: Vec<[u8; 6]>,
    /// The tunnel that the link is.
    pub tunnel: Option<TunnelSpec>,
    /// Native or generic.
    pub mode: Mode,
    /// Connections with an offset, and handshakes, that are remembered.
    pub connections: u32,
    /// How long a connection without traffic is remembered.
    pub idle_timeout: Duration,
    /// Directory on a bpffs for what outlives the process; `None` lets all of it go with it.
    pub pin: Option<PathBuf>,
    /// Lets the programs log.
    pub debug: bool,
}

/// A change of the relay's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange {
    /// A device is gone.
    Lost {
        /// Interface name.
        device: String,
        /// What was found.
        cause: String,
    },
    /// It is back, with its program on it.
    Restored {
        /// Interface name.
        device: String,
    },
}

/// What the sequence rewriter knows and has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionCounts {
    /// Connections that fit.
    pub limit: u32,
    /// Connections with an offset learned since the last checkpoint.
    pub tracked: u64,
    /// Of these, with numbers that differ from the primary's.
    pub with_offset: u64,
    /// Of these, closed or reset: kept for a minute, for repetitions.
    pub ended: u64,
    /// Handshakes that nobody has answered.
    pub handshakes: u64,
    /// Offsets learned.
    pub learned: u64,
    /// Connections that the kernel has dropped for newer ones.
    pub evicted: u64,
    /// Connections that were idle or had ended.
    pub expired: u64,
    /// Checkpoints, each of which makes all offsets zero.
    pub checkpoints: u32,
    /// Segments whose numbers were changed.
    pub rewritten: u64,
    /// Of these, with a checksum that is left to a device.
    pub partial_checksums: u64,
    /// TCP headers that end too early or lie; passed on as they are.
    pub unparsed: u64,
    /// Segments with more options than are looked at.
    pub many_options: u64,
    /// Answers to a handshake with impossible numbers; not learned from.
    pub implausible: u64,
}

/// Frames and bytes, by the name of their outcome.
pub type NamedTallies = Vec<(&'static str, Tally)>;

/// The relay. Dropping it is what a crash does: what is pinned goes on.
pub struct Relay {
    options: RelayOptions,
    ebpf: Ebpf,
    control: RelayControl,
    stations: Vec<Station>,
    maps: Option<PathBuf>,
    limit: u32,
    expired: u64,
    next_sweep: Instant,
    drain_log: Option<Box<dyn FnMut() + Send>>,
}

/// Connections since the last checkpoint.
#[derive(Default)]
struct Tracked {
    all: u64,
    with_offset: u64,
    ended: u64,
}

/// A device of the relay with its program.
struct Station {
    gate: Gate,
    name: String,
    /// What was found last; gone while the device is.
    present: Option<Present>,
    _claim: Claim,
}

struct Present {
    device: Device,
    attachment: Attachment,
    behind: Option<Behind>,
}

impl Station {
    fn program(&self) -> &'static str {
        match self.gate {
            Gate::Guest => "relay_guest",
            Gate::Link => "relay_link",
            Gate::Nic => "relay_nic",
        }
    }
}

impl Relay {
    /// Claims the devices and puts the programs on them, or takes over what an earlier process has
    /// left pinned, with all that it has learned.
    ///
    /// # Errors
    /// A missing or busy device, another's program on it, a missing privilege or kernel feature.
    pub fn attach(options: RelayOptions) -> Result<Self, KernelError> {
        let mut stations = Vec::new();
        let named = [
            (Gate::Guest, Some(&options.guest)),
            (Gate::Link, Some(&options.link)),
            (Gate::Nic, options.nic.as_ref()),
        ];
        for (gate, name) in named {
            let Some(name) = name else { continue };
            Device::find(name)?;
            let claim = Claim::take(name)?;
            stations.push(Station { gate, name: name.clone(), present: None, _claim: claim });
        }
        let constants = Constants {
            tunnelled: options.tunnel.is_some(),
            debug: options.debug,
            ..Constants::default()
        };
        let mut instance = Instance::of(constants);
        instance.sizes =
            vec![("CONNECTIONS", options.connections), ("HANDSHAKES", options.connections)];
        let maps = options.pin.as_ref().map(|directory| {
            // Not the interface's index: the guest's device comes and goes with the guest.
            Device::find(&options.guest)
                .map(|guest| bpffs::pin_path(directory, "relay-maps", &guest))
        });
        let maps = maps.transpose()?;
        if let Some(maps) = &maps {
            bpffs::prepare(maps)?;
            instance = instance.sharing(maps, LASTING);
        }
        let mut ebpf = instance.load()?;
        let drain_log = if options.debug { Some(debug_log(&mut ebpf)?) } else { None };
        let control = object::read_entry(&ebpf, "RELAY_CONTROL", 0)?;
        let mut relay = Self {
            limit: options.connections,
            options,
            ebpf,
            control,
            stations,
            maps,
            expired: 0,
            next_sweep: Instant::now() + SWEEP,
            drain_log,
        };
        relay.check_limit()?;
        relay.enter_macs()?;
        relay.update_tunnel()?;
        // First every way out, then the programs that use them: those that are taken over go on
        // without a pause.
        for index in 0..relay.stations.len() {
            let device = Device::find(&relay.stations[index].name)?;
            relay.lead_to(relay.stations[index].gate, &device)?;
        }
        for index in 0..relay.stations.len() {
            let device = Device::find(&relay.stations[index].name)?;
            relay.occupy(index, device)?;
        }
        Ok(relay)
    }

    /// A map that was there already has the size that it had.
    fn check_limit(&mut self) -> Result<(), KernelError> {
        let Map::LruHashMap(data) = object::map(&mut self.ebpf, "CONNECTIONS")? else {
            return Err(KernelError::failed("CONNECTIONS", "opening", "of another kind"));
        };
        let info = data.info().map_err(|error| object::fault("CONNECTIONS", "reading", &error))?;
        self.limit = info.max_entries();
        if self.limit != self.options.connections {
            tracing::warn!(
                kept = self.limit,
                asked = self.options.connections,
                "the relay that was taken over keeps its size; stop it cleanly to change it"
            );
        }
        Ok(())
    }

    /// The guest's addresses as they were given, or permission to learn them.
    fn enter_macs(&mut self) -> Result<(), KernelError> {
        let mut entered: HashMap<_, GuestMac, u32> =
            HashMap::try_from(object::map(&mut self.ebpf, "RELAY_MACS")?)
                .map_err(|error| KernelError::failed("RELAY_MACS", "opening", error))?;
        for mac in &self.options.guest_macs {
            entered
                .insert(GuestMac(*mac), 0, 0)
                .map_err(|error| object::fault("RELAY_MACS", "writing", &error))?;
        }
        let learns = u8::from(self.options.guest_macs.is_empty());
        self.set_control(RelayControl { learns, ..self.control })
    }

    fn set_control(&mut self, control: RelayControl) -> Result<(), KernelError> {
        object::write_entry(&mut self.ebpf, "RELAY_CONTROL", 0, control)?;
        self.control = control;
        Ok(())
    }

    /// Lets frames leave on a device.
    fn lead_to(&mut self, gate: Gate, device: &Device) -> Result<(), KernelError> {
        object::set_device(&mut self.ebpf, "RELAY_DEVICES", gate as u32, device.index, None)?;
        if gate == Gate::Guest {
            object::write_entry(&mut self.ebpf, "RELAY_GUEST", 0, device.index)?;
        }
        Ok(())
    }

    /// Puts a station's program on its device and lets frames leave there.
    fn occupy(&mut self, index: usize, device: Device) -> Result<(), KernelError> {
        let station = &self.stations[index];
        let (program, gate) = (station.program(), station.gate);
        self.lead_to(gate, &device)?;
        let pin = self.options.pin.as_deref();
        let attachment =
            Attachment::make(&mut self.ebpf, program, &device, self.options.mode, pin)?;
        let behind = match (gate, pin) {
            (Gate::Nic, Some(pin)) => {
                Some(Behind::make(&mut self.ebpf, "relay_flood", &device, pin)?)
            }
            _ => None,
        };
        tracing::info!(device = %device.name, mode = %attachment.mode, "relaying");
        let station = &mut self.stations[index];
        station.present = Some(Present { device, attachment, behind });
        self.note_pieces()
    }

    /// Tells the programs which devices send frames of several buffers. Generic programs redirect
    /// socket buffers, which any device sends.
    fn note_pieces(&mut self) -> Result<(), KernelError> {
        let mut pieces = 0;
        let present: Vec<_> =
            self.stations.iter().filter_map(|it| Some((it.gate, it.present.as_ref()?))).collect();
        let generic = |it: &&(Gate, &Present)| it.1.attachment.mode == AttachedMode::Generic;
        let all_generic = present.iter().filter(generic).count() == present.len();
        for (gate, present) in present {
            if all_generic || present.device.xdp_features()?.accepts_multi_buffer {
                pieces |= 1 << gate as u8;
            } else if present.device.mtu > ONE_BUFFER {
                tracing::warn!(
                    device = present.device.name,
                    mtu = present.device.mtu,
                    "this device takes no redirected frames of more than one buffer (about {} \
                     bytes): longer ones are dropped and counted as too_long",
                    ONE_BUFFER
                );
            }
        }
        self.set_control(RelayControl { pieces, ..self.control })
    }

    /// How each program is attached, for people.
    #[must_use]
    pub fn obtained(&self) -> Vec<String> {
        let present = self.stations.iter().filter_map(|station| station.present.as_ref());
        present
            .map(|it| {
                let adopted = if it.attachment.adopted { ", taken over" } else { "" };
                format!("relay on {}: {}{adopted}", it.device.name, it.attachment.mode)
            })
            .collect()
    }

    /// A checkpoint is done: the secondary has the primary's numbers, every offset is zero. Returns
    /// how many connections are forgotten.
    ///
    /// # Errors
    /// When the maps cannot be written.
    pub fn checkpoint(&mut self) -> Result<u64, KernelError> {
        let forgotten = self.tracked()?.all;
        // One word ends the epoch for every frame at once; the entries go when they are swept.
        self.set_control(RelayControl {
            epoch: self.control.epoch.wrapping_add(1),
            ..self.control
        })?;
        self.next_sweep = Instant::now();
        Ok(forgotten)
    }

    /// The primary is lost: the guest's frames leave on the NIC, and come from there. Returns how
    /// many connections go on with an offset.
    ///
    /// # Errors
    /// Without a NIC, or when the map cannot be written.
    pub fn fail_over(&mut self) -> Result<u64, KernelError> {
        if self.options.nic.is_none() {
            let cause = "no NIC was named: start the relay with --nic DEVICE";
            return Err(KernelError::failed("relay", "failing over", cause));
        }
        self.set_control(RelayControl { failed_over: 1, ..self.control })?;
        Ok(self.tracked()?.with_offset)
    }

    /// A primary is there again: relays as before.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn rearm(&mut self) -> Result<(), KernelError> {
        self.set_control(RelayControl { failed_over: 0, ..self.control })
    }

    /// Whether the guest's frames use the NIC.
    #[must_use]
    pub fn failed_over(&self) -> bool {
        self.control.failed_over != 0
    }

    /// Attaches to devices that came back, follows the tunnel's next hop, and forgets connections
    /// that have ended. Cheap enough for ten times a second.
    pub fn maintain(&mut self) -> Vec<DeviceChange> {
        let mut changes = Vec::new();
        for index in 0..self.stations.len() {
            changes.extend(self.look_at(index));
        }
        if let Err(error) = self.update_tunnel() {
            tracing::warn!(%error, "the tunnel's next hop");
        }
        if Instant::now() >= self.next_sweep {
            self.sweep_now();
        }
        changes
    }

    /// Forgets connections that have ended, were idle, or belong to a time before the last
    /// checkpoint; [`maintain`](Self::maintain) does so every ten seconds.
    pub fn sweep_now(&mut self) {
        self.next_sweep = Instant::now() + SWEEP;
        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "forgetting connections that have ended");
        }
    }

    /// Compares a station with the device of its name.
    fn look_at(&mut self, index: usize) -> Option<DeviceChange> {
        let station = &mut self.stations[index];
        let device = station.name.clone();
        let found = Device::find(&device);
        let lost = match (&station.present, &found) {
            (Some(present), Ok(found)) => present.device.index != found.index,
            (Some(_), Err(KernelError::NoDevice { .. })) => true,
            _ => false,
        };
        if lost {
            station.present = None;
            return Some(DeviceChange::Lost { device, cause: "the device is gone".into() });
        }
        if station.present.is_some() {
            return None;
        }
        let found = found.ok()?;
        match self.occupy(index, found) {
            Ok(()) => Some(DeviceChange::Restored { device }),
            Err(error) => {
                tracing::warn!(%error, device, "attaching again");
                None
            }
        }
    }

    /// Tells the programs what the tunnel looks like now.
    fn update_tunnel(&mut self) -> Result<(), KernelError> {
        let Some(spec) = self.options.tunnel else { return Ok(()) };
        let link = match Device::find(&self.options.link) {
            Err(KernelError::NoDevice { .. }) => return Ok(()),
            found => found?,
        };
        let underlay = spec.resolve(&link)?;
        let tunnel = outer::tunnel(&spec, underlay.as_ref(), link.mtu);
        if object::read_entry::<compare_ebpf::Tunnel>(&self.ebpf, "TUNNEL", 0)? != tunnel {
            object::write_entry(&mut self.ebpf, "TUNNEL", 0, tunnel)?;
        }
        Ok(())
    }

    /// Removes what belongs to an earlier epoch, has ended, or was idle for too long.
    fn sweep(&mut self) -> Result<(), KernelError> {
        let (epoch, failed_over) = (self.control.epoch, self.failed_over());
        let idle = self.options.idle_timeout.as_secs();
        let now = monotonic_seconds();
        let is_over = |connection: &Connection| {
            let age = u64::from(now.wrapping_sub(connection.seen));
            connection.epoch != epoch
                || connection.has_ended() && age > LINGER.as_secs()
                // After failover there is nobody left to put a forgotten connection right.
                || !failed_over && age > idle
        };
        let mut connections = self.connections_map()?;
        let entries = connections.iter().filter_map(Result::ok);
        let over: Vec<ConnectionKey> =
            entries.filter(|(_, connection)| is_over(connection)).map(|(key, _)| key).collect();
        let mut expired = 0;
        for key in &over {
            expired += u64::from(connections.remove(key).is_ok());
        }
        self.expired += expired;
        let mut handshakes = self.handshakes_map()?;
        let entries = handshakes.iter().filter_map(Result::ok);
        let old: Vec<ConnectionKey> = entries
            .filter(|(_, handshake): &(_, Handshake)| handshake.epoch != epoch)
            .map(|(key, _)| key)
            .collect();
        for key in &old {
            let _ = handshakes.remove(key);
        }
        Ok(())
    }

    /// Counts the connections of this epoch.
    fn tracked(&mut self) -> Result<Tracked, KernelError> {
        let epoch = self.control.epoch;
        let mut tracked = Tracked::default();
        for (_, connection) in self.connections_map()?.iter().filter_map(Result::ok) {
            if connection.epoch == epoch {
                tracked.all += 1;
                tracked.with_offset += u64::from(connection.sequence | connection.timestamp != 0);
                tracked.ended += u64::from(connection.has_ended());
            }
        }
        Ok(tracked)
    }

    fn connections_map(
        &mut self,
    ) -> Result<HashMap<&mut MapData, ConnectionKey, Connection>, KernelError> {
        HashMap::try_from(object::map(&mut self.ebpf, "CONNECTIONS")?)
            .map_err(|error| KernelError::failed("CONNECTIONS", "opening", error))
    }

    fn handshakes_map(
        &mut self,
    ) -> Result<HashMap<&mut MapData, ConnectionKey, Handshake>, KernelError> {
        HashMap::try_from(object::map(&mut self.ebpf, "HANDSHAKES")?)
            .map_err(|error| KernelError::failed("HANDSHAKES", "opening", error))
    }

    /// Frames by device and outcome.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn outcomes(&self) -> Result<Vec<(String, NamedTallies)>, KernelError> {
        let (rows, columns) = (Gate::ALL.len(), RelayOutcome::ALL.len());
        let tallies = object::tallies(&self.ebpf, "RELAY_OUTCOMES", (rows * columns) as u32)?;
        let row = |gate: Gate| {
            let row = tallies.iter().skip(gate as usize * columns).take(columns).copied();
            RelayOutcome::ALL.iter().map(|outcome| outcome.name()).zip(row).collect()
        };
        Ok(self.stations.iter().map(|it| (it.name.clone(), row(it.gate))).collect())
    }

    /// What the sequence rewriter knows and has done.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn connections(&mut self) -> Result<ConnectionCounts, KernelError> {
        let count = RelayEvent::ALL.len() as u32;
        let events = object::sums(&self.ebpf, "RELAY_EVENTS", count, |sum: &mut u64, more| {
            *sum += more;
        })?;
        let of = |event: RelayEvent| events[event as usize];
        let tracked = self.tracked()?;
        let epoch = self.control.epoch;
        let handshakes = self.handshakes_map()?;
        let handshakes = handshakes.iter().filter_map(Result::ok);
        let handshakes = handshakes.filter(|(_, it)| it.epoch == epoch).count() as u64;
        let present = self.connections_map()?.keys().filter_map(Result::ok).count() as u64;
        let gone = of(RelayEvent::Replaced) + self.expired + present;
        Ok(ConnectionCounts {
            limit: self.limit,
            tracked: tracked.all,
            with_offset: tracked.with_offset,
            ended: tracked.ended,
            handshakes,
            learned: of(RelayEvent::Learned),
            // Of connections that came in, those that nobody took out and that are not there. While
            // frames come in this may be off by those of one moment.
            evicted: of(RelayEvent::Entered).saturating_sub(gone),
            expired: self.expired,
            checkpoints: self.control.epoch,
            rewritten: of(RelayEvent::Rewritten),
            partial_checksums: of(RelayEvent::Partial),
            unparsed: of(RelayEvent::Unparsed),
            many_options: of(RelayEvent::ManyOptions),
            implausible: of(RelayEvent::Implausible),
        })
    }

    /// The guest's addresses, given or learned.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn guest_macs(&self) -> Result<Vec<[u8; 6]>, KernelError> {
        let map = self.ebpf.map("RELAY_MACS");
        let map = map.ok_or_else(|| KernelError::failed("RELAY_MACS", "finding", "no such map"))?;
        let macs = HashMap::<_, GuestMac, u32>::try_from(map)
            .map_err(|error| KernelError::failed("RELAY_MACS", "opening", error))?;
        let mut macs: Vec<_> = macs.keys().filter_map(Result::ok).map(|mac| mac.0).collect();
        macs.sort_unstable();
        Ok(macs)
    }

    /// Hands what the programs have logged to the `log` facade.
    pub fn drain_debug_log(&mut self) {
        if let Some(drain) = &mut self.drain_log {
            drain();
        }
    }

    /// Takes the programs off, forgets the connections, and leaves the devices as they were found.
    ///
    /// # Errors
    /// When the kernel refuses; what is pinned may then still be there.
    pub fn detach(mut self) -> Result<(), KernelError> {
        for station in &mut self.stations {
            let Some(present) = station.present.take() else { continue };
            present.attachment.detach()?;
            if let Some(behind) = present.behind {
                behind.detach()?;
            }
        }
        if let Some(maps) = &self.maps {
            for name in LASTING {
                bpffs::remove(&maps.join(name))?;
            }
            let _ = fs::remove_dir(maps);
        }
        Ok(())
    }

    /// Leaves the programs at work; without a pin they go with the process.
    pub fn leave(self) {
        drop(self);
    }
}

/// The clock that the programs note in `Connection::seen`.
fn monotonic_seconds() -> u32 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u32)
}
