//! A port on one queue of a device.
//!
//! # Which memory a port is on
//! In copy mode all ports are attached to the region's shared registration and frames cross from
//! one to the other without a copy. A device that can do zero-copy gets a registration, and
//! memory, of its own, because on the shared one the kernel would force it to copy mode
//! ([`super::registration`]). Frames are then copied where they pass this port: one `memcpy` each,
//! beside the skb and the copy into it that zero-copy saves.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use serde::Serialize;
use xsk_rs::config::BindFlags;

use super::chunks::{Audit, MAX_PORTS};
use super::error::XskError;
use super::mode;
use super::region::{HUGE_PAGE, Region, RegionConfig, UmemFrame};
use super::registration::Rings;
use super::rings::{BATCH, Limits, RingSet};
use super::statistics::Statistics;
use crate::port::{InFlight, Port, PortError};

/// How long a bind is retried while the queue is busy. A socket that has been closed keeps its
/// queue until the kernel's deferred release has run, 12 to 20 ms measured.
const BUSY_RETRIES: Duration = Duration::from_millis(250);
/// How often it is retried.
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// How long closing waits for frames that are still being sent.
const CLOSE_WAIT: Duration = Duration::from_millis(100);
/// Descriptors per system call in copy mode; more than a TX ring is refused by the kernel.
const SEND_BUDGET: u32 = 1024;

/// Whether the device is to access the memory itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum ZeroCopy {
    /// If the driver can, else copy mode.
    #[default]
    Auto,
    /// Yes, or fail.
    On,
    /// No.
    Off,
}

/// What a port is to be.
#[derive(Debug, Clone)]
pub struct XskOptions {
    /// Interface name, in the network namespace of the thread that opens the port.
    pub device: String,
    /// Receive and transmit queue.
    pub queue: u32,
    /// Zero-copy or not.
    pub zero_copy: ZeroCopy,
    /// Entries of the RX ring, a power of two; fewer than `receive_frames` lose frames in bursts.
    pub rx_ring: u32,
    /// Entries of the TX ring, a power of two.
    pub tx_ring: u32,
    /// Chunks lent for receiving, at most the fill ring's entries. The shares of all ports, what
    /// may be held and what may be in flight for sending must fit into the region together:
    /// that is what keeps one port from starving another. A port that only sends can do with 0
    /// in copy mode; in zero-copy mode an empty fill ring cuts the queue off from the host's
    /// stack.
    pub receive_frames: u32,
    /// Give the port memory of its own in copy mode too, as zero-copy does. For measuring and
    /// testing what that costs.
    pub own_memory: bool,
}

impl XskOptions {
    /// The defaults, for one queue of a device: zero-copy if possible, rings of 2,048.
    #[must_use]
    pub fn new(device: &str, queue: u32) -> Self {
        Self {
            device: device.to_owned(),
            queue,
            zero_copy: ZeroCopy::Auto,
            rx_ring: 2048,
            tx_ring: 2048,
            receive_frames: 2048,
            own_memory: false,
        }
    }
}

/// What a port got from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obtained {
    /// The device accesses the memory itself.
    pub zero_copy: bool,
    /// Why not, where it was asked for.
    pub zero_copy_refused: Option<String>,
    /// The port is on memory of its own; frames are copied where they pass it.
    pub own_memory: bool,
    /// Frames may span several chunks.
    pub multi_buffer: bool,
    /// The kernel says when it has to be woken.
    pub need_wakeup: bool,
    /// Descriptors sent per system call, where the kernel lets us choose (6.17).
    pub send_budget: Option<u32>,
}

impl fmt::Display for Obtained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.zero_copy { "zero-copy" } else { "copy mode" })?;
        if let Some(reason) = &self.zero_copy_refused {
            write!(f, " (zero-copy refused: {reason})")?;
        }
        if self.own_memory {
            f.write_str(", memory of its own")?;
        }
        if self.multi_buffer {
            f.write_str(", multi-buffer")?;
        }
        Ok(())
    }
}

/// Memory that only this port uses, and the frames on their way through it.
#[derive(Debug)]
struct OwnMemory {
    region: Region,
    arrived: Vec<UmemFrame>,
    leaving: VecDeque<UmemFrame>,
}

/// An AF_XDP socket on one queue of a device, as a [`Port`].
///
/// It neither loads nor attaches an XDP program and touches no XSKMAP: register
/// its descriptor ([`AsFd`]) there. Close it with [`XskPort::close`]; a port that is merely dropped
/// keeps its chunks out of circulation for good.
#[derive(Debug)]
pub struct XskPort {
    options: XskOptions,
    rings: RingSet,
    own: Option<Box<OwnMemory>>,
    obtained: Obtained,
}

impl XskPort {
    /// Binds a socket to the device's queue and lends it its first chunks.
    ///
    /// With [`ZeroCopy::Auto`] zero-copy is tried first, and what was obtained instead is logged
    /// and in [`XskPort::obtained`]. A queue that is busy is tried again for a quarter of a
    /// second.
    ///
    /// # Errors
    /// When a privilege is missing, the device or queue does not exist or is in use, zero-copy is
    /// demanded and refused, or memory cannot be had.
    pub fn open(region: &mut Region, options: XskOptions) -> Result<Self, XskError> {
        let mut refused = None;
        if options.zero_copy != ZeroCopy::Off {
            match Self::open_alone(region, &options, BindFlags::XDP_ZEROCOPY) {
                Ok(port) => return port.started(region),
                Err(OpenError::Fatal(error)) => return Err(error),
                Err(OpenError::Refused(cause)) => refused = Some(cause),
            }
        }
        if options.zero_copy == ZeroCopy::On {
            let cause = refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            let XskOptions { device, queue, .. } = options;
            return Err(XskError::ZeroCopyRefused { device, queue, cause });
        }
        let mut port = if options.own_memory {
            Self::open_alone(region, &options, BindFlags::XDP_COPY)
                .map_err(|error| error.into_error(&options))?
        } else {
            Self::open_shared(region, &options)?
        };
        port.obtained.zero_copy_refused = refused.map(|cause| cause.to_string());
        port.started(region)
    }

    /// On the region's shared registration.
    fn open_shared(region: &mut Region, options: &XskOptions) -> Result<Self, XskError> {
        let bound = bind(region, options, BindFlags::XDP_COPY)
            .map_err(|cause| socket_error(options, "bind the socket", cause))?;
        let (rings, obtained) = number(bound, region, options)?;
        Ok(Self { options: options.clone(), rings, own: None, obtained })
    }

    /// On a registration of its own; without multi-buffer if the driver wants it so.
    fn open_alone(
        region: &Region,
        options: &XskOptions,
        mode: BindFlags,
    ) -> Result<Self, OpenError> {
        let config = own_memory_config(region.config(), options);
        let mut refused = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        for multi_buffer in [true, false] {
            let mut own = match Region::for_one_port(config, multi_buffer) {
                Ok(own) => own,
                // Copy mode needs no second memory, so it may still be had.
                Err(XskError::Memory { cause, .. }) => return Err(OpenError::Refused(cause)),
                Err(error) => return Err(OpenError::Fatal(error)),
            };
            match bind(&own, options, mode) {
                Ok(bound) => {
                    let (rings, obtained) =
                        number(bound, &mut own, options).map_err(OpenError::Fatal)?;
                    let memory = OwnMemory {
                        region: own,
                        arrived: Vec::with_capacity(options.receive_frames as usize),
                        leaving: VecDeque::with_capacity(BATCH),
                    };
                    return Ok(Self {
                        options: options.clone(),
                        rings,
                        own: Some(Box::new(memory)),
                        obtained: Obtained { own_memory: true, ..obtained },
                    });
                }
                Err(cause) if is_about_mode(&cause) => refused = cause,
                Err(cause) => {
                    let error = socket_error(options, "bind the socket", cause);
                    return Err(OpenError::Fatal(error));
                }
            }
        }
        Err(OpenError::Refused(refused))
    }

    /// Fills the fill ring and says what was obtained.
    fn started(mut self, region: &mut Region) -> Result<Self, XskError> {
        if let Err(error) = self.service(region) {
            let cause = match error {
                PortError::DeviceGone { cause, .. } | PortError::Io { cause, .. } => cause,
            };
            let failed = socket_error(&self.options, "start receiving", cause);
            self.close(region);
            return Err(failed);
        }
        let Obtained { zero_copy, own_memory, multi_buffer, need_wakeup, send_budget, .. } =
            self.obtained;
        tracing::info!(
            device = self.options.device,
            queue = self.options.queue,
            mode = if zero_copy { "zero-copy" } else { "copy" },
            zero_copy_refused = self.obtained.zero_copy_refused,
            own_memory,
            multi_buffer,
            need_wakeup,
            send_budget,
            rx_ring = self.options.rx_ring,
            tx_ring = self.options.tx_ring,
            receive_frames = self.rings.limits().receive,
            "AF_XDP socket bound"
        );
        Ok(self)
    }

    /// What the port got from the kernel.
    #[must_use]
    pub fn obtained(&self) -> &Obtained {
        &self.obtained
    }

    /// What the port was asked to be.
    #[must_use]
    pub fn options(&self) -> &XskOptions {
        &self.options
    }

    /// The port's number in [`Audit::receive`] and [`Audit::transmit`], of the region or, where
    /// it has one, of its own memory.
    #[must_use]
    pub fn number(&self) -> usize {
        self.rings.port().get()
    }

    /// Where the chunks of the port's own memory are, if it has one.
    #[must_use]
    pub fn own_audit(&self) -> Option<Audit> {
        self.own.as_ref().map(|own| own.region.audit())
    }

    /// Asks the kernel whether the device is still there: one system call, for now and then. An
    /// idle port does not learn otherwise that its device was removed.
    ///
    /// # Errors
    /// [`PortError::DeviceGone`] from then on.
    pub fn check(&self) -> Result<(), PortError> {
        self.rings.check().map_err(|cause| self.port_error("checking the socket", cause))
    }

    /// Whether [`XskPort::check`] finds nothing wrong.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.check().is_ok()
    }

    /// What the socket has counted, in the kernel and here. One system call; once the device is
    /// gone the kernel's counters can still be read.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn statistics(&self) -> Result<Statistics, PortError> {
        let kernel = self
            .rings
            .kernel_statistics()
            .map_err(|cause| self.port_error("reading the statistics", cause))?;
        Ok(Statistics {
            device: self.options.device.clone(),
            queue: self.options.queue,
            kernel,
            port: self.rings.counts(),
        })
    }

    /// Closes the socket and gives every chunk that the kernel still had back to the region;
    /// returns how many those were. Frames on their way out get a tenth of a second to leave
    /// first.
    pub fn close(mut self, region: &mut Region) -> usize {
        let deadline = Instant::now() + CLOSE_WAIT;
        while self.is_sending() && Instant::now() < deadline {
            if self.service(region).is_err() || !self.is_alive() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.own {
            None => self.rings.close(region),
            Some(mut own) => {
                for frame in own.leaving.drain(..).chain(own.arrived.drain(..)) {
                    own.region.recycle(frame);
                }
                self.rings.close(&mut own.region);
                0
            }
        }
    }

    fn is_sending(&self) -> bool {
        self.rings.in_flight().transmit > 0
            || self.own.as_ref().is_some_and(|own| !own.leaving.is_empty())
    }

    fn port_error(&self, operation: &'static str, cause: io::Error) -> PortError {
        let device = self.options.device.clone();
        match cause.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => PortError::DeviceGone { device, cause },
            _ => PortError::Io { device, operation, cause },
        }
    }
}

impl Port for XskPort {
    type Store = Region;

    fn receive(
        &mut self,
        store: &mut Region,
        into: &mut Vec<UmemFrame>,
        limit: usize,
    ) -> Result<(), PortError> {
        match &mut self.own {
            None => self.rings.receive(store, into, limit),
            Some(own) => own.receive(&mut self.rings, store, into, limit),
        }
        Ok(())
    }

    fn transmit(
        &mut self,
        store: &mut Region,
        from: &mut VecDeque<UmemFrame>,
    ) -> Result<(), PortError> {
        let sent = match &mut self.own {
            None => self.rings.transmit(store, from),
            Some(own) => own.transmit(&mut self.rings, store, from),
        };
        sent.map_err(|cause| self.port_error("sending", cause))
    }

    fn service(&mut self, store: &mut Region) -> Result<(), PortError> {
        let done = match &mut self.own {
            None => self.rings.service(store),
            Some(own) => own.service(&mut self.rings),
        };
        done.map_err(|cause| self.port_error("servicing the rings", cause))
    }

    fn wait(&self) -> Option<PollFd<'_>> {
        Some(PollFd::new(self.rings.descriptor(), PollFlags::POLLIN))
    }

    fn name(&self) -> &str {
        &self.options.device
    }

    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }

    fn close(self, store: &mut Region) {
        Self::close(self, store);
    }

    /// The RX ring or the fill ring had no room (`rx_ring_full`, `rx_dropped`).
    fn kernel_dropped(&self) -> u64 {
        self.rings.kernel_statistics().map_or(0, |kernel| kernel.rx_dropped + kernel.rx_ring_full)
    }

    fn statistics(&self) -> serde_json::Value {
        Self::statistics(self)
            .map(serde_json::to_value)
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default()
    }

    /// Counts chunks, and only those of the region that the ports share: a port with memory of
    /// its own has none of them in flight.
    fn in_flight(&self) -> InFlight {
        if self.own.is_some() { InFlight::default() } else { self.rings.in_flight() }
    }
}

impl AsFd for XskPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rings.descriptor()
    }
}

impl OwnMemory {
    fn receive(
        &mut self,
        rings: &mut RingSet,
        store: &mut Region,
        into: &mut Vec<UmemFrame>,
        limit: usize,
    ) {
        // What does not fit into the lane's memory waits in the ring.
        let limit = limit.min(store.free()).min(self.arrived.capacity());
        rings.receive(&mut self.region, &mut self.arrived, limit);
        for frame in self.arrived.drain(..) {
            match store.copy_from(&self.region, &frame) {
                Some(copy) => into.push(copy),
                None => rings.counts_mut().no_memory += 1,
            }
            self.region.recycle(frame);
        }
    }

    fn transmit(
        &mut self,
        rings: &mut RingSet,
        store: &mut Region,
        from: &mut VecDeque<UmemFrame>,
    ) -> io::Result<()> {
        // No more is copied than the ring takes, but for a batch: what it has no room for must be
        // seen to wait, in `from`.
        rings.transmit(&mut self.region, &mut self.leaving)?;
        while self.leaving.is_empty() && !from.is_empty() {
            self.copy_batch(store, from);
            if self.leaving.is_empty() {
                break;
            }
            rings.transmit(&mut self.region, &mut self.leaving)?;
        }
        Ok(())
    }

    /// Moves frames from the lane's memory into this one; as many as there is room for.
    fn copy_batch(&mut self, store: &mut Region, from: &mut VecDeque<UmemFrame>) {
        for _ in 0..BATCH {
            let Some(frame) = from.pop_front() else { return };
            let Some(copy) = self.region.copy_from(store, &frame) else {
                from.push_front(frame);
                return;
            };
            self.leaving.push_back(copy);
            store.recycle(frame);
        }
    }

    fn service(&mut self, rings: &mut RingSet) -> io::Result<()> {
        rings.service(&mut self.region)?;
        rings.transmit(&mut self.region, &mut self.leaving)
    }
}

/// Why a socket with memory of its own was not opened.
enum OpenError {
    /// The driver does not have the mode.
    Refused(io::Error),
    /// No other mode would help.
    Fatal(XskError),
}

impl OpenError {
    fn into_error(self, options: &XskOptions) -> XskError {
        match self {
            Self::Refused(cause) => socket_error(options, "bind the socket", cause),
            Self::Fatal(error) => error,
        }
    }
}

/// Whether a bind failed because of the mode that was asked for. Drivers answer EOPNOTSUPP, but
/// virtio_net EINVAL, and some ENOMEM or ENOSPC when they cannot reconfigure their queues.
fn is_about_mode(cause: &io::Error) -> bool {
    !matches!(
        cause.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::EBUSY | libc::ENODEV | libc::EMFILE | libc::ENFILE)
    )
}

fn socket_error(options: &XskOptions, operation: &'static str, cause: io::Error) -> XskError {
    XskError::socket(&options.device, options.queue, operation, cause)
}

/// Room for what is lent and for what is being sent, in whole huge pages.
fn own_memory_config(shared: &RegionConfig, options: &XskOptions) -> RegionConfig {
    let fill_ring = options.receive_frames.next_power_of_two();
    RegionConfig {
        frames: (fill_ring + options.tx_ring).next_multiple_of(HUGE_PAGE / shared.frame_size),
        fill_ring,
        completion_ring: options.tx_ring,
        ..*shared
    }
}

/// A socket with its device.
struct Bound {
    rings: Rings,
    zero_copy: bool,
}

/// Binds a socket on the region's registration, with retries while the queue is busy.
fn bind(region: &Region, options: &XskOptions, mode: BindFlags) -> io::Result<Bound> {
    let XskOptions { device, queue, rx_ring, tx_ring, .. } = options;
    let deadline = Instant::now() + BUSY_RETRIES;
    loop {
        match region.registration().attach(device, *queue, *rx_ring, *tx_ring, mode) {
            Ok(rings) => {
                // What the bind was asked for and what it gave are two things.
                let zero_copy = mode::is_zero_copy(rings.descriptor())?;
                return Ok(Bound { rings, zero_copy });
            }
            Err(cause)
                if cause.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(cause) => return Err(cause),
        }
    }
}

/// Gives a bound socket its number and limits in the region.
fn number(
    bound: Bound,
    region: &mut Region,
    options: &XskOptions,
) -> Result<(RingSet, Obtained), XskError> {
    let Bound { rings, zero_copy } = bound;
    let budget = SEND_BUDGET.min(options.tx_ring);
    let send_budget = mode::set_send_budget(rings.descriptor(), budget).ok().map(|()| budget);
    let Some(port) = region.attach() else {
        let (device, queue) = (options.device.clone(), options.queue);
        return Err(XskError::TooManyPorts { device, queue, limit: MAX_PORTS });
    };
    let config = region.config();
    let limits = Limits {
        receive: options.receive_frames.min(config.fill_ring) as usize,
        transmit: config.completion_ring as usize,
        multi_buffer: region.registration().multi_buffer(),
        zero_copy,
    };
    let rings = RingSet::new(rings, port, limits);
    let obtained = Obtained {
        zero_copy,
        zero_copy_refused: None,
        own_memory: false,
        multi_buffer: limits.multi_buffer,
        need_wakeup: rings.needs_wakeup(),
        send_budget,
    };
    Ok((rings, obtained))
}
