//! The frame memory of a lane.
//!
//! One [`Region`] holds every frame that a lane receives, holds and releases. It is cut into
//! chunks of equal size; a frame is a chunk, or a chain of them where it is larger. All ports of
//! the lane address the same region, so a frame received on one device is sent on another from
//! where it lies.
//!
//! # Ownership
//! The kernel writes into chunks lent for receiving and reads chunks being sent, so user space
//! may touch a chunk's bytes only while it is in a frame. A [`UmemFrame`] is the right to do so:
//! it comes only from a port, [`Region::allocate`] or nothing, it cannot be copied, and it ends
//! only in a port's transmit ring or in [`Region::recycle`]. [`Region::audit`] counts the chunks.

#![allow(unsafe_code, reason = "reads and writes memory that is shared with the kernel")]

use super::chain::{Assembled, Assembler, MAX_CHUNKS, hand_over};
use super::chunks::{Audit, Chunks, Owner, PortNumber};
use super::error::XskError;
use super::registration::{FrameDesc, Registration};
use crate::frame::FrameStore;
use crate::port::Memory;
use crate::port::chardev::framing::LONGEST_HEADER;

/// Bytes before the data of a chunk, for XDP programs that grow a frame at its front
/// (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 256;

/// Memory on huge pages comes in multiples of this.
pub(super) const HUGE_PAGE: u32 = 2 << 20;

/// Flag of every descriptor of a frame but its last (`XDP_PKT_CONTD`).
const CONTINUED: u32 = libc::XDP_PKT_CONTD;

/// How a region is laid out.
#[derive(Debug, Clone, Copy)]
pub struct RegionConfig {
    /// Number of chunks. It must cover what is held at most, what each port lends for receiving
    /// and what is being sent.
    pub frames: u32,
    /// Bytes per chunk, 2048 or 4096; 256 of them are headroom. A larger frame becomes a chain.
    pub frame_size: u32,
    /// Entries of each port's fill ring, a power of two.
    pub fill_ring: u32,
    /// Entries of each port's completion ring, a power of two; also the most a port has in
    /// flight for sending.
    pub completion_ring: u32,
    /// Back the memory with huge pages, which must be reserved beforehand.
    pub huge_pages: bool,
}

impl Default for RegionConfig {
    /// 32 MiB: 16,384 chunks of 2,048 bytes, which hold an Ethernet frame of 1,792 bytes each.
    fn default() -> Self {
        Self {
            frames: 16_384,
            frame_size: 2048,
            fill_ring: 2048,
            completion_ring: 2048,
            huge_pages: false,
        }
    }
}

impl RegionConfig {
    fn check(&self) -> Result<(), XskError> {
        let reason = if !matches!(self.frame_size, 2048 | 4096) {
            format!("a frame size of {} bytes cannot be: use 2048 or 4096", self.frame_size)
        } else if self.huge_pages
            && !(u64::from(self.frames) * u64::from(self.frame_size))
                .is_multiple_of(u64::from(HUGE_PAGE))
        {
            "with huge pages the memory must be a multiple of 2 MiB".to_owned()
        } else {
            return Ok(());
        };
        Err(XskError::Configuration { reason })
    }
}

/// The right to use a frame's bytes in a [`Region`]: cannot be copied, must be handed on.
///
/// A frame that is merely dropped would never be free again. [`UmemFrame::leaked`] counts such
/// losses in builds with debug assertions; release builds see them in [`Region::audit`].
#[derive(Debug)]
#[must_use = "a dropped frame is lost memory: transmit or recycle it"]
pub struct UmemFrame {
    /// The first chunk.
    head: u32,
    /// Length of the whole frame in bytes.
    length: u32,
}

impl UmemFrame {
    /// Frames that were dropped on this thread instead of being transmitted or recycled. Always
    /// 0 in release builds, where nothing counts them.
    #[must_use]
    pub fn leaked() -> u64 {
        #[cfg(debug_assertions)]
        return LEAKED.get();
        #[cfg(not(debug_assertions))]
        return 0;
    }

    /// Ends the frame; its chunks must go to a new owner.
    #[inline]
    fn into_head(self) -> u32 {
        std::mem::ManuallyDrop::new(self).head
    }
}

#[cfg(debug_assertions)]
thread_local! {
    static LEAKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(debug_assertions)]
impl Drop for UmemFrame {
    fn drop(&mut self) {
        LEAKED.set(LEAKED.get() + 1);
    }
}

/// What goes with a frame and is not part of it.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    bytes: [u8; LONGEST_HEADER],
    length: u8,
}

impl Prefix {
    const EMPTY: Self = Self { bytes: [0; LONGEST_HEADER], length: 0 };
}

/// What arrived with one descriptor of a receive ring.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A whole frame, of so many chunks.
    Frame(UmemFrame, usize),
    /// Part of a frame.
    Partial,
    /// So many chunks of a frame with too many of them; `true` for the first descriptor of it.
    Discarded(usize, bool),
    /// A chunk that was not lent to this port.
    Stranger,
}

/// The memory that a lane's frames live in.
#[derive(Debug)]
pub struct Region {
    registration: Registration,
    /// What the descriptor of each chunk says now: where its data starts and how long it is.
    descs: Box<[FrameDesc]>,
    /// The descriptor of each chunk as it was at first, with all its room. Only read where frames
    /// are made from bytes.
    blank: Box<[FrameDesc]>,
    chunks: Chunks,
    /// Prefixes by first chunk; empty until there is one.
    prefixes: Box<[Prefix]>,
    config: RegionConfig,
    /// Right shift that turns an address into a chunk number.
    shift: u32,
}

impl Region {
    /// Maps and registers the memory, for any number of ports in copy mode.
    ///
    /// # Errors
    /// When the configuration cannot be, a privilege is missing, the kernel has no AF_XDP, or
    /// memory cannot be had or locked.
    pub fn new(config: RegionConfig) -> Result<Self, XskError> {
        config.check()?;
        let (registration, blank) = Registration::shared(&config)?;
        Ok(Self::over(registration, blank, config))
    }

    /// Memory for one port alone, whose mode need not be that of others.
    pub(super) fn for_one_port(config: RegionConfig, multi_buffer: bool) -> Result<Self, XskError> {
        config.check()?;
        let (registration, blank) = Registration::single(&config, multi_buffer)?;
        Ok(Self::over(registration, blank, config))
    }

    fn over(registration: Registration, blank: Box<[FrameDesc]>, config: RegionConfig) -> Self {
        Self {
            registration,
            descs: blank.clone(),
            blank,
            chunks: Chunks::new(config.frames),
            prefixes: Box::default(),
            config,
            shift: config.frame_size.trailing_zeros(),
        }
    }

    /// How the region is laid out.
    #[must_use]
    pub fn config(&self) -> &RegionConfig {
        &self.config
    }

    /// Chunks on the free list.
    #[must_use]
    pub fn free(&self) -> usize {
        self.chunks.free()
    }

    /// All chunks.
    #[must_use]
    pub fn total(&self) -> usize {
        self.chunks.total()
    }

    /// Counts where every chunk is. Walks the whole table: for tests and the end of a run.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.chunks.audit()
    }

    /// Chunks that `frame` takes.
    #[must_use]
    pub fn chunks_of(&self, frame: &UmemFrame) -> usize {
        self.chunks.chain(frame.head).count()
    }

    /// Copies `bytes` into a new frame; `None` when too few chunks are free, or when a frame
    /// cannot have that length (0, or more than 18 chunks hold).
    #[must_use]
    pub fn allocate(&mut self, bytes: &[u8]) -> Option<UmemFrame> {
        if bytes.is_empty() {
            return None;
        }
        let frame = self.reserve(bytes.len(), MAX_CHUNKS)?;
        self.write(&frame, 0, bytes);
        Some(frame)
    }

    /// Copies a frame of another region into a new frame of this one; `None` as for
    /// [`Region::allocate`].
    pub(super) fn copy_from(&mut self, other: &Self, original: &UmemFrame) -> Option<UmemFrame> {
        let length = other.len(original);
        let frame = self.reserve(length, MAX_CHUNKS)?;
        let mut at = 0;
        while at < length {
            let run = other.run(original, at);
            self.write(&frame, at, run);
            at += run.len();
        }
        Some(frame)
    }

    /// Overwrites part of a frame, such as a checksum field.
    ///
    /// # Panics
    /// When the frame ends before `offset + bytes.len()`.
    pub fn write(&mut self, frame: &UmemFrame, offset: usize, bytes: &[u8]) {
        let (mut skip, mut rest) = (offset, bytes);
        let mut current = Some(frame.head);
        while !rest.is_empty() {
            let chunk = current.expect("the written range lies within the frame");
            let room = self.length_of(chunk).saturating_sub(skip).min(rest.len());
            let (now, later) = rest.split_at(room);
            self.write_chunk(chunk, skip, now);
            rest = later;
            skip = skip.saturating_sub(self.length_of(chunk));
            current = self.chunks.next(chunk);
        }
    }

    /// Gives a frame's memory back.
    #[inline]
    pub fn recycle(&mut self, frame: UmemFrame) {
        hand_over(&mut self.chunks, frame.into_head(), Owner::USER, Owner::FREE);
    }

    /// Bytes of a frame that one chunk holds.
    fn room(&self) -> usize {
        (self.config.frame_size - HEADROOM) as usize
    }

    /// Longest frame that AF_XDP sends, whatever the device.
    #[must_use]
    pub fn longest_sent(&self) -> usize {
        MAX_CHUNKS * self.room()
    }

    /// A frame of `length` bytes with no defined content, in at most `most` chunks.
    fn reserve(&mut self, length: usize, most: usize) -> Option<UmemFrame> {
        let room = self.room();
        let count = length.div_ceil(room).max(1);
        if count > most || count > self.chunks.free() {
            return None;
        }
        let head = self.chunks.take(Owner::USER)?;
        let (mut chunk, mut left) = (head, length);
        loop {
            self.descs[chunk as usize] = self.blank[chunk as usize];
            let part = left.min(room);
            let desc = &mut self.descs[chunk as usize];
            // SAFETY: the chunk came off the free list, so neither the kernel nor a frame uses
            // it, and its blank descriptor lies within this region.
            unsafe { self.registration.umem().data_mut(desc) }.cursor().set_pos(part);
            left -= part;
            if left == 0 {
                break;
            }
            let next = self.chunks.take(Owner::USER)?;
            self.chunks.link(chunk, next);
            chunk = next;
        }
        self.chunks.end_chain(chunk);
        Some(UmemFrame { head, length: u32::try_from(length).ok()? })
    }

    fn set_prefix(&mut self, chunk: u32, bytes: &[u8]) {
        if self.prefixes.is_empty() {
            if bytes.is_empty() {
                return;
            }
            self.prefixes = vec![Prefix::EMPTY; self.chunks.total()].into();
        }
        let prefix = &mut self.prefixes[chunk as usize];
        prefix.bytes[..bytes.len()].copy_from_slice(bytes);
        // At most LONGEST_HEADER, or the line above has panicked.
        prefix.length = bytes.len() as u8;
    }

    /// The data in one chunk of a frame.
    #[inline]
    fn bytes(&self, chunk: u32) -> &[u8] {
        debug_assert!(self.chunks.is_with(chunk, Owner::USER), "chunk {chunk} is in no frame");
        // SAFETY: the chunk is in a frame (a UmemFrame is the only way here), so the kernel does
        // not write to it; its descriptor is the one the kernel gave for it, or made by `reserve`,
        // and lies within this region; writing takes `&mut self`.
        unsafe { self.registration.umem().data(&self.descs[chunk as usize]) }.contents()
    }

    /// Starts to bring the first bytes of a chunk into this core's cache. The kernel has written
    /// them, often on another core: a batch of such misses at once costs little more than one,
    /// while the parser would take them one after the other. Measured (`cargo xtask bench xdp`,
    /// "alone"): 7 % of the lane's time per pair of 1,514 bytes; of 64 bytes 1 % on a quiet machine
    /// and 13 % beside neighbours that use its memory. More lines than two gain nothing.
    #[inline]
    fn prefetch(&self, chunk: u32) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            const LINE: usize = 64;
            const LINES: usize = 2;
            for line in self.bytes(chunk).chunks(LINE).take(LINES) {
                // SAFETY: the address is that of a live slice, and nothing is read from it: a
                // prefetch has no effect that a program could see.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = chunk;
    }

    /// Bytes of data in one chunk.
    fn length_of(&self, chunk: u32) -> usize {
        self.descs[chunk as usize].lengths().data()
    }

    fn write_chunk(&mut self, chunk: u32, at: usize, bytes: &[u8]) {
        debug_assert!(self.chunks.is_with(chunk, Owner::USER), "chunk {chunk} is in no frame");
        if bytes.is_empty() {
            return;
        }
        let desc = &mut self.descs[chunk as usize];
        // SAFETY: as in `bytes`; `&mut self` excludes every other access from user space.
        let mut data = unsafe { self.registration.umem().data_mut(desc) };
        data.contents_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The run that starts in a later chunk than the first.
    fn run_in_chain(&self, frame: &UmemFrame, at: usize) -> &[u8] {
        let mut skip = at;
        for chunk in self.chunks.chain(frame.head) {
            let bytes = self.bytes(chunk);
            if skip < bytes.len() {
                return &bytes[skip..];
            }
            skip -= bytes.len();
        }
        &[]
    }
}

impl Memory for Region {
    /// Leaves a sixteenth of the memory to the devices: sockets wait when memory is short, a
    /// device whose fill ring runs dry loses frames.
    fn allocate(&mut self, prefix: &[u8], bytes: &[u8]) -> Option<UmemFrame> {
        let count = bytes.len().div_ceil(self.room()).max(1);
        if self.free() < count + self.total() / 16 {
            return None;
        }
        let frame = self.reserve(bytes.len(), count)?;
        Self::write(self, &frame, 0, bytes);
        self.set_prefix(frame.head, prefix);
        Some(frame)
    }

    fn prefix<'a>(&'a self, frame: &'a UmemFrame) -> &'a [u8] {
        match self.prefixes.get(frame.head as usize) {
            Some(prefix) => &prefix.bytes[..usize::from(prefix.length)],
            None => &[],
        }
    }

    fn recycle(&mut self, frame: UmemFrame) {
        Self::recycle(self, frame);
    }

    fn write(&mut self, frame: &UmemFrame, at: usize, bytes: &[u8]) {
        Self::write(self, frame, at, bytes);
    }

    fn total(&self) -> usize {
        Self::total(self)
    }

    fn free(&self) -> usize {
        Self::free(self)
    }

    fn occupies(&self, frame: &UmemFrame) -> usize {
        self.chunks_of(frame)
    }
}

impl FrameStore for Region {
    type Frame = UmemFrame;

    #[inline]
    fn len(&self, frame: &UmemFrame) -> usize {
        frame.length as usize
    }

    #[inline]
    fn run<'a>(&'a self, frame: &'a UmemFrame, at: usize) -> &'a [u8] {
        // Nearly every frame is one chunk, and nearly every read starts in the first.
        match self.bytes(frame.head).get(at..) {
            Some(run) if !run.is_empty() => run,
            _ => self.run_in_chain(frame, at),
        }
    }
}

/// What a port does with the chunks; the rings themselves are in [`super::rings`].
impl Region {
    pub(super) fn registration(&self) -> &Registration {
        &self.registration
    }

    pub(super) fn attach(&mut self) -> Option<PortNumber> {
        self.chunks.attach()
    }

    /// Takes back what a closed port had; see [`Chunks::detach`].
    pub(super) fn detach(&mut self, port: PortNumber) -> usize {
        self.chunks.detach(port)
    }

    /// Takes free chunks for `port` to receive into, one for each slot of `into` and no more
    /// than the port's fair part; returns how many.
    #[inline]
    pub(super) fn lend(&mut self, port: PortNumber, into: &mut [FrameDesc]) -> usize {
        let limit = into.len().min(self.chunks.fair_part());
        for (count, slot) in into[..limit].iter_mut().enumerate() {
            let Some(chunk) = self.chunks.take(Owner::receive(port)) else {
                return count;
            };
            // Wherever in the chunk the address points: the kernel masks it to the chunk's start
            // (`xp_aligned_extract_addr`).
            *slot = self.descs[chunk as usize];
        }
        limit
    }

    /// Takes back chunks that the fill ring had no room for.
    pub(super) fn unlend(&mut self, port: PortNumber, descs: &[FrameDesc]) {
        for desc in descs {
            self.chunks.give_back(self.chunk_at(desc.addr()), Owner::receive(port));
        }
    }

    /// Takes in one descriptor of `port`'s receive ring.
    #[inline]
    pub(super) fn arrive(
        &mut self,
        port: PortNumber,
        assembler: &mut Assembler,
        desc: &FrameDesc,
    ) -> Arrival {
        let chunk = self.chunk_at(desc.addr());
        // The ring is input: a chunk that the kernel should not have must not corrupt the table.
        if !self.chunks.is_with(chunk, Owner::receive(port)) {
            return Arrival::Stranger;
        }
        self.descs[chunk as usize] = *desc;
        // A chunk holds at most 4096 bytes, so its length fits.
        let length = desc.lengths().data() as u32;
        match assembler.push(&mut self.chunks, port, chunk, length, desc.has_more_frames()) {
            Assembled::Frame { head, length, chunks } => {
                self.prefetch(head);
                Arrival::Frame(UmemFrame { head, length }, chunks)
            }
            Assembled::Partial => Arrival::Partial,
            Assembled::Discarded { chunks, first } => Arrival::Discarded(chunks, first),
        }
    }

    /// Ends a frame by appending the descriptors of its chunks to `staged`, to be sent on `port`.
    #[inline]
    pub(super) fn stage(
        &mut self,
        port: PortNumber,
        frame: UmemFrame,
        staged: &mut Vec<FrameDesc>,
    ) {
        let mut current = Some(frame.into_head());
        while let Some(chunk) = current {
            current = self.chunks.next(chunk);
            self.chunks.transfer(chunk, Owner::USER, Owner::transmit(port));
            let mut desc = self.descs[chunk as usize];
            desc.set_options(if current.is_some() { CONTINUED } else { 0 });
            staged.push(desc);
        }
    }

    /// Frees the chunk that a descriptor of `port`'s completion ring names. Each chunk of a chain
    /// completes by itself. False when `port` was not sending it.
    #[inline]
    pub(super) fn complete(&mut self, port: PortNumber, desc: &FrameDesc) -> bool {
        // The address is the one that was sent: of the data, not of the chunk.
        let chunk = self.chunk_at(desc.addr());
        let known = self.chunks.is_with(chunk, Owner::transmit(port));
        if known {
            self.chunks.give_back(chunk, Owner::transmit(port));
        }
        known
    }

    /// The chunk that an address lies in; a number that no chunk has for an address outside.
    #[inline]
    fn chunk_at(&self, address: usize) -> u32 {
        u32::try_from(address >> self.shift).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_eight_bytes() {
        assert_eq!(size_of::<UmemFrame>(), 8);
    }

    #[test]
    fn a_layout_that_cannot_be_is_refused_with_what_would_be_right() {
        let default = RegionConfig::default();
        let refusal = |config: RegionConfig| config.check().unwrap_err().to_string();
        assert!(default.check().is_ok());
        assert!(refusal(RegionConfig { frame_size: 1024, ..default }).contains("2048 or 4096"));
        let uneven = RegionConfig { huge_pages: true, frames: 1000, ..default };
        assert!(refusal(uneven).contains("2 MiB"));
    }
}
