//! The `mirror` programs: copies of what the network sends to a guest, for the secondary.
//!
//! Guests share a NIC, each with a process of its own. What belongs to the NIC is pinned: the
//! program that finds the guest, its classifier, and three maps. Each process loads the program of
//! its own guest, enters it in a slot, and takes it out again; the last one takes the NIC's program
//! off. A process that crashes leaves its slot in work: the primary goes on receiving, and the next
//! process for the same device takes the slot over.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, ProgramArray, RingBuf};
use aya::programs::ProgramFd;
use compare_ebpf::{
    ConnectionKey, GUEST_SLOTS, GuestMac, MirrorGuest, MirrorOutcome, Reset, Tally,
};
use nix::fcntl::{Flock, FlockArg};

use super::attach::{AttachedMode, Attachment, Behind, Mode};
use super::bpffs;
use super::device::Device;
use super::error::KernelError;
use super::mac::spelled;
use super::object::{self, Constants, Instance};
use super::outer::{self, ETHERNET};
use super::tunnel::TunnelSpec;

/// Slots of the `COPIES` map.
const PRIMARY: u32 = 0;
const LINK: u32 = 1;

/// A VLAN tag, which a device takes beyond its MTU (`xdp_ok_fwd_dev` in linux/filter.h).
const VLAN_TAG: u32 = 4;

/// Maps that all processes on a NIC share.
const SHARED: &[&str] = &["MIRROR_MACS", "MIRROR_PROGRAMS", "MIRROR_GUESTS"];

/// Where `steer` on the primary's device enters the addresses that the guest uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learner {
    /// Directory of the shared maps.
    pub(super) maps: PathBuf,
    /// The guest's slot.
    pub(super) slot: u32,
}

impl Learner {
    /// The shared maps that learning takes.
    pub(super) const MAPS: &'static [&'static str] = &["MIRROR_MACS", "MIRROR_GUESTS"];
}

/// What to mirror.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// The NIC.
    pub nic: String,
    /// Native or generic.
    pub mode: Mode,
    /// The primary guest's device.
    pub primary: String,
    /// The link to the secondary's host.
    pub link: String,
    /// The guest's addresses; none if they are learned from what it sends.
    pub macs: Vec<[u8; 6]>,
    /// The tunnel that the link is.
    pub tunnel: Option<TunnelSpec>,
    /// Directory on a bpffs for what outlives the process.
    pub pin: PathBuf,
    /// Lets the programs log.
    pub debug: bool,
}

/// Who gets the guest's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// Both guests.
    #[default]
    Both,
    /// The primary alone: the secondary is lost.
    PrimaryOnly,
    /// The secondary alone: the primary is lost.
    SecondaryOnly,
}

/// One guest's mirror on a NIC. Dropping it is what a crash does: the mirror goes on.
pub struct Mirror {
    options: MirrorOptions,
    maps: PathBuf,
    slot: u32,
    nic: Device,
    /// Gone while the NIC is.
    on_nic: Option<OnNic>,
    guest: Ebpf,
    resets: RingBuf<MapData>,
    copies: Copies,
    /// What the programs were told last.
    told: MirrorGuest,
}

/// The programs of the NIC.
#[derive(Debug)]
struct OnNic {
    ebpf: Ebpf,
    attachment: Attachment,
    behind: Behind,
}

impl Mirror {
    /// Takes a slot on the NIC and puts the programs to work, or takes over what an earlier process
    /// for the same primary has left there.
    ///
    /// # Errors
    /// A missing device, a foreign program on the NIC, all slots taken, an address that another
    /// guest has, a missing privilege or kernel feature.
    pub fn attach(options: MirrorOptions) -> Result<Self, KernelError> {
        bpffs::prepare(&options.pin)?;
        let nic = Device::find(&options.nic)?;
        let primary = Device::find(&options.primary)?;
        let maps = bpffs::pin_path(&options.pin, "mirror-maps", &nic);
        bpffs::prepare(&maps)?;
        let _lock = lock(&maps)?;
        let on_nic = OnNic::attach(&options, &nic, &maps)?;
        let slot = slot_for(&on_nic.ebpf, &primary)?;
        let constants = Constants { slot, debug: options.debug, ..Constants::default() };
        let mut guest = Instance::of(constants).sharing(&maps, SHARED).load()?;
        let program = loaded(&mut guest, "mirror_guest")?;
        loaded(&mut guest, "wrap_copy")?;
        let resets = guest.take_map("RESETS").and_then(|map| RingBuf::try_from(map).ok());
        let resets =
            resets.ok_or_else(|| KernelError::failed("RESETS", "opening", "not in the object"))?;
        let told = MirrorGuest { taken: 1, ..MirrorGuest::default() };
        let mut mirror = Self {
            options,
            maps,
            slot,
            nic,
            on_nic: Some(on_nic),
            guest,
            resets,
            copies: Copies::Both,
            told,
        };
        mirror.tell(&MirrorGuest { primary: primary.index, ..told }, None)?;
        mirror.enter_macs()?;
        programs(&mut mirror.guest)?
            .set(slot, &program, 0)
            .map_err(|error| object::fault("MIRROR_PROGRAMS", "writing", &error))?;
        mirror.refresh()?;
        Ok(mirror)
    }

    /// How the NIC's program is attached.
    #[must_use]
    pub fn mode(&self) -> Option<AttachedMode> {
        self.on_nic.as_ref().map(|on_nic| on_nic.attachment.mode)
    }

    /// The NIC.
    #[must_use]
    pub fn nic(&self) -> &str {
        &self.options.nic
    }

    /// For `steer` on the primary's device; none when the addresses were given.
    #[must_use]
    pub fn learner(&self) -> Option<Learner> {
        let learns = self.options.macs.is_empty();
        learns.then(|| Learner { maps: self.maps.clone(), slot: self.slot })
    }

    /// Who gets the guest's frames from now on.
    ///
    /// # Errors
    /// When the maps cannot be written.
    pub fn set_copies(&mut self, copies: Copies) -> Result<(), KernelError> {
        self.copies = copies;
        self.refresh()
    }

    /// Connections that the network has reset since the last call: neither guest says anything more
    /// in them.
    pub fn resets(&mut self) -> Vec<Reset> {
        let mut resets = Vec::new();
        while let Some(item) = self.resets.next() {
            resets.extend(read_reset(&item));
        }
        resets
    }

    /// Looks at the devices and the tunnel's next hop, and tells the programs what has changed.
    /// Cheap enough for ten times a second.
    ///
    /// # Errors
    /// When the maps cannot be written, or a NIC that came back refuses the programs.
    pub fn refresh(&mut self) -> Result<(), KernelError> {
        self.refresh_nic()?;
        let primary = find(&self.options.primary)?;
        let link = find(&self.options.link)?;
        let bridge = |device: Option<&Device>| device.and_then(|device| device.bridge);
        let mut guest =
            MirrorGuest { taken: 1, learned: self.told.learned, ..MirrorGuest::default() };
        if bridge(primary.as_ref()).is_some() {
            guest.bridged =
                u32::from(bridge(primary.as_ref()) == bridge(find(&self.options.nic)?.as_ref()));
        }
        if self.copies != Copies::SecondaryOnly {
            guest.primary = primary.as_ref().map_or(0, |device| device.index);
        }
        let carries = |device: &&Device| device.up && device.running;
        if let Some(link) = link.as_ref().filter(carries)
            && self.copies != Copies::PrimaryOnly
        {
            guest.link = link.index;
            guest.longest_copy = link.mtu + ETHERNET + VLAN_TAG;
            if let Some(spec) = &self.options.tunnel {
                let underlay = spec.resolve(link)?;
                guest.tunnel = outer::tunnel(spec, underlay.as_ref(), link.mtu);
                guest.longest_copy = guest.tunnel.longest;
            }
        }
        let wrapper = match &self.options.tunnel {
            Some(_) => Some(loaded(&mut self.guest, "wrap_copy")?),
            None => None,
        };
        self.tell(&guest, wrapper.as_ref())
    }

    /// Attaches again after the NIC was gone.
    fn refresh_nic(&mut self) -> Result<(), KernelError> {
        match find(&self.options.nic)? {
            Some(nic) if nic.index == self.nic.index && self.on_nic.is_some() => {}
            Some(nic) => {
                let _lock = lock(&self.maps)?;
                self.on_nic = None;
                self.on_nic = Some(OnNic::attach(&self.options, &nic, &self.maps)?);
                self.nic = nic;
            }
            None => self.on_nic = None,
        }
        Ok(())
    }

    /// Writes what has changed since the last time.
    fn tell(
        &mut self,
        guest: &MirrorGuest,
        wrapper: Option<&ProgramFd>,
    ) -> Result<(), KernelError> {
        let before = self.told;
        // The count of learned addresses is the programs' own.
        let now: MirrorGuest = object::read_entry(&self.guest, "MIRROR_GUESTS", self.slot)?;
        let guest = MirrorGuest { learned: now.learned, ..*guest };
        if guest.primary != before.primary {
            object::set_device(&mut self.guest, "COPIES", PRIMARY, guest.primary, None)?;
        }
        if guest.link != before.link {
            object::set_device(&mut self.guest, "COPIES", LINK, guest.link, wrapper)?;
        }
        if guest != now {
            object::write_entry(&mut self.guest, "MIRROR_GUESTS", self.slot, guest)?;
        }
        self.told = guest;
        Ok(())
    }

    /// Enters the addresses that were given.
    fn enter_macs(&mut self) -> Result<(), KernelError> {
        let slot = self.slot;
        let mut entered = macs(&mut self.guest)?;
        for mac in &self.options.macs {
            match entered.get(&GuestMac(*mac), 0) {
                Ok(holder) if holder != slot => {
                    return Err(KernelError::failed(
                        spelled(*mac),
                        "mirroring this address",
                        "another guest on the NIC has it",
                    ));
                }
                _ => entered
                    .insert(GuestMac(*mac), slot, 0)
                    .map_err(|error| object::fault("MIRROR_MACS", "writing", &error))?,
            }
        }
        Ok(())
    }

    /// The guest's addresses, given or learned.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn macs(&mut self) -> Result<Vec<[u8; 6]>, KernelError> {
        let slot = self.slot;
        Ok(macs_of(&mut self.guest, slot)?.into_iter().map(|mac| mac.0).collect())
    }

    /// Frames by outcome: the guest's own, with those of nobody and all flooded ones of the NIC.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn outcomes(&self) -> Result<Vec<(MirrorOutcome, Tally)>, KernelError> {
        let count = MirrorOutcome::ALL.len() as u32;
        let mut sums = object::tallies(&self.guest, "MIRROR_OUTCOMES", count)?;
        if let Some(on_nic) = &self.on_nic {
            let shared = object::tallies(&on_nic.ebpf, "MIRROR_OUTCOMES", count)?;
            for (sum, tally) in sums.iter_mut().zip(shared) {
                sum.packets += tally.packets;
                sum.bytes += tally.bytes;
            }
        }
        Ok(MirrorOutcome::ALL.into_iter().zip(sums).collect())
    }

    /// Takes the guest off the NIC; with the last one the NIC is as it was found.
    ///
    /// # Errors
    /// When a map cannot be written or the kernel does not detach.
    pub fn detach(mut self) -> Result<(), KernelError> {
        let _lock = lock(&self.maps)?;
        let slot = self.slot;
        for mac in macs_of(&mut self.guest, slot)? {
            let _ = macs(&mut self.guest)?.remove(&mac);
        }
        let _ = programs(&mut self.guest)?.clear_index(&slot);
        object::write_entry(&mut self.guest, "MIRROR_GUESTS", slot, MirrorGuest::default())?;
        let Some(on_nic) = self.on_nic.take() else { return Ok(()) };
        if guests(&on_nic.ebpf)?.iter().any(|guest| guest.taken != 0) {
            return Ok(());
        }
        on_nic.attachment.detach()?;
        on_nic.behind.detach()?;
        for name in SHARED.iter().chain(&["MIRROR_OUTCOMES"]) {
            bpffs::remove(&self.maps.join(name))?;
        }
        let _ = fs::remove_dir(&self.maps);
        Ok(())
    }
}

impl OnNic {
    fn attach(options: &MirrorOptions, nic: &Device, maps: &Path) -> Result<Self, KernelError> {
        let constants = Constants { debug: options.debug, ..Constants::default() };
        let instance = Instance::of(constants).sharing(maps, SHARED);
        let mut ebpf = instance.sharing(maps, &["MIRROR_OUTCOMES"]).load()?;
        let attachment =
            Attachment::make(&mut ebpf, "mirror", nic, options.mode, Some(&options.pin))?;
        let behind = Behind::make(&mut ebpf, "flood", nic, &options.pin)?;
        tracing::info!(device = %nic.name, mode = %attachment.mode, "mirroring");
        Ok(Self { ebpf, attachment, behind })
    }
}

/// A reset as the program has written it.
fn read_reset(bytes: &[u8]) -> Option<Reset> {
    let (at, connection) = bytes.split_first_chunk()?;
    Some(Reset { at: u64::from_ne_bytes(*at), connection: read_key(connection)?, reserved: 0 })
}

fn read_key(bytes: &[u8]) -> Option<ConnectionKey> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let words = |at: usize| Some([word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?]);
    let half = |at: usize| {
        let bytes = bytes.get(at..at + 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    Some(ConnectionKey {
        guest: words(0)?,
        remote: words(16)?,
        guest_port: half(32)?,
        remote_port: half(34)?,
        tags: [half(36)?, half(38)?],
        family: *bytes.get(40)?,
        reserved: [0; 3],
    })
}

/// The slot of the guest whose device this is, or a free one.
fn slot_for(ebpf: &Ebpf, primary: &Device) -> Result<u32, KernelError> {
    let guests = guests(ebpf)?;
    let mine = |guest: &MirrorGuest| guest.taken != 0 && guest.primary == primary.index;
    let free = |guest: &MirrorGuest| guest.taken == 0;
    let slot = guests.iter().position(mine).or_else(|| guests.iter().position(free));
    slot.and_then(|slot| u32::try_from(slot).ok()).ok_or_else(|| {
        let cause = format!("{GUEST_SLOTS} guests are on this NIC already");
        KernelError::failed(&primary.name, "finding a place for the guest", cause)
    })
}

fn guests(ebpf: &Ebpf) -> Result<Vec<MirrorGuest>, KernelError> {
    (0..GUEST_SLOTS).map(|slot| object::read_entry(ebpf, "MIRROR_GUESTS", slot)).collect()
}

fn macs(ebpf: &mut Ebpf) -> Result<HashMap<&mut MapData, GuestMac, u32>, KernelError> {
    HashMap::try_from(object::map(ebpf, "MIRROR_MACS")?)
        .map_err(|error| KernelError::failed("MIRROR_MACS", "opening", error))
}

fn macs_of(ebpf: &mut Ebpf, slot: u32) -> Result<Vec<GuestMac>, KernelError> {
    let entries = macs(ebpf)?;
    let entries = entries.iter().filter_map(Result::ok);
    let mut macs: Vec<_> =
        entries.filter(|(_, holder)| *holder == slot).map(|(mac, _)| mac).collect();
    macs.sort_unstable();
    Ok(macs)
}

fn programs(ebpf: &mut Ebpf) -> Result<ProgramArray<&mut MapData>, KernelError> {
    ProgramArray::try_from(object::map(ebpf, "MIRROR_PROGRAMS")?)
        .map_err(|error| KernelError::failed("MIRROR_PROGRAMS", "opening", error))
}

/// A program of the object, in the kernel and attached to nothing.
fn loaded(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, KernelError> {
    let program = object::xdp(ebpf, name)?;
    let descriptor = program.fd().map_err(|error| object::fault(name, "finding it", &error))?;
    descriptor.try_clone().map_err(|error| KernelError::failed(name, "keeping it", error))
}

/// One process at a time changes what is shared on a NIC.
fn lock(maps: &Path) -> Result<Flock<File>, KernelError> {
    let failed =
        |cause: io::Error| KernelError::Pin { path: maps.into(), operation: "locking", cause };
    let directory = File::open(maps).map_err(failed)?;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
}

/// A device, or none if it is not there.
fn find(name: &str) -> Result<Option<Device>, KernelError> {
    match Device::find(name) {
        Ok(device) => Ok(Some(device)),
        Err(KernelError::NoDevice { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
