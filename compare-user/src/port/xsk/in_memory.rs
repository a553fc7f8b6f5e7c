//! A kernel for unit tests, on ordinary memory: in place of `registration.rs`.
//!
//! The product's own code, `Region` and `RingSet`, is compiled against this in unit
//! tests, so that what it does with rings and memory can be tested without privileges, with ring
//! positions just before they wrap (where four thousand million frames would have to go before), and
//! under miri, which checks that no chunk's bytes are touched by both sides at once: [`Kernel`] is
//! meant to run on a thread of its own, and accesses chunks only while it has their descriptors.
//!
//! The rings behave as libxdp's (xdp-tools, headers/xdp/xsk.h): positions are free-running and taken
//! modulo the size, a producer reserves all that it asks for or nothing, a consumer takes what is
//! there, and both look at the other's position only when what they remember does not suffice. That
//! they do is tested below, against libxdp itself, at the wrap.

#![allow(unsafe_code, reason = "memory that two threads share is what this is about")]

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xsk_rs::config::BindFlags;

use super::error::XskError;
use super::region::RegionConfig;
use super::statistics::KernelStatistics;

/// Bytes in front of the data of a chunk (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// Where a chunk's data is, and how long: `struct xdp_desc`.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct FrameDesc {
    address: usize,
    length: usize,
    options: u32,
}

/// As xsk-rs has it.
pub(super) struct Lengths(usize);

impl Lengths {
    pub(super) fn data(&self) -> usize {
        self.0
    }
}

impl FrameDesc {
    pub(super) fn addr(&self) -> usize {
        self.address
    }

    pub(super) fn lengths(&self) -> Lengths {
        Lengths(self.length)
    }

    pub(super) fn set_options(&mut self, options: u32) {
        self.options = options;
    }

    pub(super) fn has_more_frames(&self) -> bool {
        self.options & libc::XDP_PKT_CONTD != 0
    }
}

/// The bytes of all chunks.
#[derive(Debug)]
struct Memory {
    bytes: *mut [u8],
    chunk: usize,
}

// SAFETY: the bytes are reached through descriptors alone, which one side at a time has; that is
// what the tests are to show, with miri as the judge.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(config: &RegionConfig) -> Self {
        let chunk = config.frame_size as usize;
        let bytes = vec![0_u8; config.frames as usize * chunk].into_boxed_slice();
        Self { bytes: Box::into_raw(bytes), chunk }
    }

    /// # Panics
    /// When the bytes do not lie in one chunk, which the kernel would refuse.
    fn at(&self, address: usize, length: usize) -> *mut u8 {
        assert!(address + length <= self.bytes.len(), "an address within the memory");
        let end = address % self.chunk + length;
        assert!(end <= self.chunk, "bytes within a chunk");
        // SAFETY: the address lies within the allocation, as the first line has seen.
        unsafe { self.bytes.cast::<u8>().add(address) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it came from a box in `new`, and nobody has a pointer to it but through `self`.
        drop(unsafe { Box::from_raw(self.bytes) });
    }
}

/// As xsk-rs's.
#[derive(Debug)]
pub(super) struct Umem {
    memory: Arc<Memory>,
}

pub(super) struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    pub(super) fn contents(&self) -> &'a [u8] {
        self.0
    }
}

pub(super) struct DataMut<'a> {
    bytes: &'a mut [u8],
    length: &'a mut usize,
}

impl DataMut<'_> {
    pub(super) fn contents_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..*self.length]
    }

    pub(super) fn cursor(&mut self) -> Cursor<'_> {
        Cursor { length: self.length, room: self.bytes.len() }
    }
}

pub(super) struct Cursor<'a> {
    length: &'a mut usize,
    room: usize,
}

impl Cursor<'_> {
    pub(super) fn set_pos(&mut self, position: usize) {
        *self.length = position.min(self.room);
    }
}

impl Umem {
    /// # Safety
    /// The kernel and nobody else writes to the chunk meanwhile.
    pub(super) unsafe fn data(&self, desc: &FrameDesc) -> Data<'_> {
        let start = self.memory.at(desc.address, desc.length);
        // SAFETY: within the memory, as `at` has seen; the rest is the caller's promise.
        Data(unsafe { std::slice::from_raw_parts(start, desc.length) })
    }

    /// # Safety
    /// Nobody else reads or writes the chunk meanwhile.
    pub(super) unsafe fn data_mut<'a>(&'a self, desc: &'a mut FrameDesc) -> DataMut<'a> {
        let room = self.memory.chunk - desc.address % self.memory.chunk;
        let start = self.memory.at(desc.address, room);
        // SAFETY: as in `data`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, room) };
        DataMut { bytes, length: &mut desc.length }
    }
}

/// As the product's.
#[derive(Debug)]
pub(super) struct Registration {
    umem: Umem,
    multi_buffer: bool,
}

impl Registration {
    pub(super) fn shared(config: &RegionConfig) -> Result<(Self, Box<[FrameDesc]>), XskError> {
        Self::single(config, true)
    }

    pub(super) fn single(
        config: &RegionConfig,
        multi_buffer: bool,
    ) -> Result<(Self, Box<[FrameDesc]>), XskError> {
        if config.frames == 0 {
            let cause = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(XskError::memory(0, config.frame_size, "map and register it", cause));
        }
        let memory = Arc::new(Memory::new(config));
        let blank =
            |chunk| FrameDesc { address: chunk * memory.chunk + HEADROOM, ..FrameDesc::default() };
        let descs = (0..config.frames as usize).map(blank).collect();
        Ok((Self { umem: Umem { memory }, multi_buffer }, descs))
    }

    /// There is no device here; [`Registration::connect`] is for tests.
    pub(super) fn attach(
        &self,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: BindFlags,
    ) -> io::Result<Rings> {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// A socket whose rings stand at `start`, and the other side of it.
    pub(super) fn connect(&self, sizes: RingSizes, start: u32) -> (Rings, Kernel) {
        let (fill, filled) = ring(sizes.fill, start);
        let (completed, completion) = ring(sizes.completion, start);
        let (received, rx) = ring(sizes.rx, start);
        let (tx, transmit) = ring(sizes.tx, start);
        let rings = Rings {
            rx: RxQueue(rx),
            tx: TxQueue(tx),
            fill: FillQueue(fill),
            completion: CompQueue(completion),
        };
        let memory = Arc::clone(&self.umem.memory);
        (rings, Kernel { memory, filled, received, transmit, completed })
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    pub(super) fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }
}

/// Entries of each ring, powers of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct RingSizes {
    pub(super) fill: u32,
    pub(super) completion: u32,
    pub(super) rx: u32,
    pub(super) tx: u32,
}

/// A ring as both sides see it.
#[derive(Debug)]
struct Shared<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    entries: Box<[UnsafeCell<T>]>,
}

// SAFETY: an entry belongs to the producer until the producer's position has passed it and to the
// consumer until the consumer's has; each side writes its position with release ordering and reads
// the other's with acquire ordering.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn entry(&self, position: u32) -> *mut T {
        self.entries[position as usize & (self.entries.len() - 1)].get()
    }
}

fn ring<T: Default>(size: u32, start: u32) -> (Producer<T>, Consumer<T>) {
    assert!(size.is_power_of_two());
    let shared = Arc::new(Shared {
        producer: AtomicU32::new(start),
        consumer: AtomicU32::new(start),
        entries: (0..size).map(|_| UnsafeCell::default()).collect(),
    });
    (
        Producer { ring: Arc::clone(&shared), at: start, free_until: start.wrapping_add(size) },
        Consumer { ring: shared, at: start, full_until: start },
    )
}

#[derive(Debug)]
struct Producer<T> {
    ring: Arc<Shared<T>>,
    at: u32,
    /// The consumer's position when it was last looked at, and the size.
    free_until: u32,
}

impl<T: Copy> Producer<T> {
    /// Entries that are free; exact when they are fewer than `wanted`.
    fn free(&mut self, wanted: u32) -> u32 {
        if self.free_until.wrapping_sub(self.at) < wanted {
            let consumer = self.ring.consumer.load(Ordering::Acquire);
            self.free_until = consumer.wrapping_add(self.ring.entries.len() as u32);
        }
        self.free_until.wrapping_sub(self.at)
    }

    /// All or nothing.
    fn produce(&mut self, entries: &[T]) -> usize {
        if (self.free(entries.len() as u32) as usize) < entries.len() {
            return 0;
        }
        for entry in entries {
            // SAFETY: the entry is free, so the consumer does not look at it.
            unsafe { self.ring.entry(self.at).write(*entry) };
            self.at = self.at.wrapping_add(1);
        }
        self.ring.producer.store(self.at, Ordering::Release);
        entries.len()
    }
}

#[derive(Debug)]
struct Consumer<T> {
    ring: Arc<Shared<T>>,
    at: u32,
    /// The producer's position when it was last looked at.
    full_until: u32,
}

impl<T: Copy> Consumer<T> {
    /// Entries that can be taken; looks for new ones only when it knows of none.
    fn available(&mut self) -> u32 {
        if self.full_until == self.at {
            self.full_until = self.ring.producer.load(Ordering::Acquire);
        }
        self.full_until.wrapping_sub(self.at)
    }

    fn next(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        // SAFETY: the entry is full, so the producer does not touch it.
        let entry = unsafe { self.ring.entry(self.at).read() };
        self.at = self.at.wrapping_add(1);
        Some(entry)
    }

    /// Tells the producer what has been taken.
    fn release(&mut self) {
        self.ring.consumer.store(self.at, Ordering::Release);
    }

    fn consume(&mut self, most: usize, mut take: impl FnMut(usize, T)) -> usize {
        let count = most.min(self.available() as usize);
        for index in 0..count {
            if let Some(entry) = self.next() {
                take(index, entry);
            }
        }
        self.release();
        count
    }
}

/// As xsk-rs's.
#[derive(Debug)]
pub(super) struct RxQueue(Consumer<FrameDesc>);

impl RxQueue {
    /// # Safety
    /// None here.
    pub(super) unsafe fn consume(&mut self, into: &mut [FrameDesc]) -> usize {
        self.0.consume(into.len(), |index, desc| into[index] = desc)
    }
}

/// As xsk-rs's. Only the address completes.
#[derive(Debug)]
pub(super) struct CompQueue(Consumer<usize>);

impl CompQueue {
    /// # Safety
    /// None here.
    pub(super) unsafe fn consume(&mut self, into: &mut [FrameDesc]) -> usize {
        let length = into.len();
        self.0.consume(length, |index, address| {
            into[index] = FrameDesc { address, ..FrameDesc::default() };
        })
    }
}

/// As xsk-rs's. Only the address is lent.
#[derive(Debug)]
pub(super) struct FillQueue(Producer<usize>);

impl FillQueue {
    /// # Safety
    /// Nobody but the kernel uses the chunks from here on.
    pub(super) unsafe fn produce(&mut self, descs: &[FrameDesc]) -> usize {
        let addresses: Vec<usize> = descs.iter().map(|desc| desc.address).collect();
        self.0.produce(&addresses)
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        false
    }
}

/// As xsk-rs's.
#[derive(Debug)]
pub(super) struct TxQueue(Producer<FrameDesc>);

impl TxQueue {
    /// # Safety
    /// Nobody but the kernel uses the chunks from here on.
    pub(super) unsafe fn produce(&mut self, descs: &[FrameDesc]) -> usize {
        self.0.produce(descs)
    }

    pub(super) fn nb_free(&mut self, wanted: u32) -> u32 {
        self.0.free(wanted)
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        true
    }
}

/// As the product's.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
}

impl Rings {
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        unreachable!("nothing here waits")
    }

    /// The other side looks at the rings all the time.
    pub(super) fn send(&self) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn probe(&self) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn statistics(&self) -> io::Result<KernelStatistics> {
        Ok(KernelStatistics::default())
    }
}

/// The kernel's side of one socket.
#[derive(Debug)]
pub(super) struct Kernel {
    memory: Arc<Memory>,
    filled: Consumer<usize>,
    received: Producer<FrameDesc>,
    transmit: Consumer<FrameDesc>,
    completed: Producer<usize>,
}

impl Kernel {
    /// Bytes of a frame that one chunk holds.
    fn room(&self) -> usize {
        self.memory.chunk - HEADROOM
    }

    /// Delivers a frame; false if the fill ring or the RX ring has no room for all of it. Nothing has
    /// happened then: a driver would count a drop.
    pub(super) fn deliver(&mut self, bytes: &[u8]) -> bool {
        let parts: Vec<&[u8]> = bytes.chunks(self.room()).collect();
        if (self.received.free(parts.len() as u32) as usize) < parts.len() {
            return false;
        }
        let before = (self.filled.at, self.filled.full_until);
        let mut descs = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let Some(address) = self.filled.next() else {
                (self.filled.at, self.filled.full_until) = before;
                return false;
            };
            // As `xp_aligned_extract_addr`: wherever in the chunk the address points.
            let address = address - address % self.memory.chunk + HEADROOM;
            let start = self.memory.at(address, part.len());
            // SAFETY: the chunk was lent, and is until its descriptor is produced.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), start, part.len()) };
            let last = index + 1 == parts.len();
            let options = if last { 0 } else { libc::XDP_PKT_CONTD };
            descs.push(FrameDesc { address, length: part.len(), options });
        }
        self.filled.release();
        assert_eq!(self.received.produce(&descs), descs.len(), "there was room");
        true
    }

    /// Takes the next frame off the TX ring and completes its chunks; `None` if no whole frame is
    /// there or the completion ring has no room.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let before = (self.transmit.at, self.transmit.full_until);
        let mut bytes = Vec::new();
        let mut addresses = Vec::new();
        while let Some(desc) = self.transmit.next() {
            let start = self.memory.at(desc.address, desc.length);
            // SAFETY: the chunk is being sent until its address is produced.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(start, desc.length) });
            addresses.push(desc.address);
            if !desc.has_more_frames() {
                if self.completed.produce(&addresses) == 0 {
                    break;
                }
                self.transmit.release();
                return Some(bytes);
            }
        }
        (self.transmit.at, self.transmit.full_until) = before;
        None
    }

    /// Puts an address on the completion ring that nothing was sent from.
    pub(super) fn complete_nonsense(&mut self, address: usize) {
        assert_eq!(self.completed.produce(&[address]), 1, "there is room");
    }

    /// Puts a descriptor on the RX ring of a chunk that was not lent.
    pub(super) fn deliver_nonsense(&mut self, address: usize) {
        let desc = FrameDesc { address, length: 60, options: 0 };
        assert_eq!(self.received.produce(&[desc]), 1, "there is room");
    }
}

#[path = "in_memory/tests.rs"]
mod tests;
