//! The four rings of one socket at work on a region. As thin as can be: what is decided about
//! chunks is decided in [`super::chunks`] and [`super::chain`], which need no kernel.
//!
//! # When memory is safe to use again
//! A chunk lent for receiving is the kernel's until its descriptor comes out of the RX ring, a
//! chunk being sent until its address comes out of the completion ring, and nothing shortens
//! either while the socket is open: a frame given to a full or unwilling device waits. Copy-mode
//! transmission copies into an skb, but the completion comes from the skb's destructor, so even
//! then the chunk returns only after the last reader of the skb is done.

#![allow(unsafe_code, reason = "the rings are shared with the kernel")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use super::chain::{Assembler, MAX_CHUNKS};
use super::chunks::PortNumber;
use super::region::{Arrival, Region, UmemFrame};
use super::registration::{FrameDesc, Rings};
use super::statistics::{KernelStatistics, PortStatistics};
use crate::port::InFlight;

/// Descriptors moved at a time: enough to make the ring's barriers cheap, few enough for the
/// scratch array (40 bytes each) to stay in the first-level cache.
pub(super) const BATCH: usize = 64;

/// What the socket is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Chunks lent for receiving at most.
    pub(super) receive: usize,
    /// Chunks in flight for sending at most: as many as the completion ring can report, so that
    /// the kernel never has to stop sending because that is full.
    pub(super) transmit: usize,
    /// Whether frames of several chunks can be sent.
    pub(super) multi_buffer: bool,
    /// Whether a driver takes chunks off the fill ring itself, and may have to be woken for it.
    pub(super) zero_copy: bool,
}

/// One socket's rings, what is in flight on them, and what they have counted.
#[derive(Debug)]
pub(super) struct RingSet {
    rings: Rings,
    port: PortNumber,
    limits: Limits,
    in_flight: InFlight,
    /// The TX ring may hold descriptors that the kernel has not looked at.
    wakeup_owed: bool,
    assembler: Assembler,
    /// Descriptors on their way out of the RX or completion ring, or into the fill ring.
    scratch: Box<[FrameDesc]>,
    /// Descriptors on their way into the TX ring.
    staged: Vec<FrameDesc>,
    counts: PortStatistics,
}

impl RingSet {
    pub(super) fn new(rings: Rings, port: PortNumber, limits: Limits) -> Self {
        Self {
            rings,
            port,
            limits,
            in_flight: InFlight::default(),
            wakeup_owed: false,
            assembler: Assembler::default(),
            scratch: vec![FrameDesc::default(); BATCH].into(),
            staged: Vec::with_capacity(BATCH),
            counts: PortStatistics::default(),
        }
    }

    /// Appends at most `limit` received frames to `into`.
    pub(super) fn receive(&mut self, region: &mut Region, into: &mut Vec<UmemFrame>, limit: usize) {
        let mut wanted = limit;
        while wanted > 0 {
            let slots = &mut self.scratch[..wanted.min(BATCH)];
            // SAFETY: the socket is attached to this region's UMEM, so every descriptor that
            // comes out describes a chunk of it; `arrive` checks that besides.
            let count = unsafe { self.rings.rx.consume(slots) };
            let ring_is_empty = count < slots.len();
            for desc in &self.scratch[..count] {
                match region.arrive(self.port, &mut self.assembler, desc) {
                    Arrival::Frame(frame, chunks) => {
                        into.push(frame);
                        wanted -= 1;
                        self.in_flight.receive -= chunks;
                        self.counts.received += 1;
                    }
                    Arrival::Partial => {}
                    Arrival::Discarded(chunks, first) => {
                        self.in_flight.receive -= chunks;
                        self.counts.chains_dropped += u64::from(first);
                    }
                    Arrival::Stranger => self.counts.strangers += 1,
                }
            }
            if ring_is_empty {
                break;
            }
        }
    }

    /// Puts frames from the front of `from` on the TX ring, each whole or not at all, until there
    /// is no room; then wakes the kernel once.
    pub(super) fn transmit(
        &mut self,
        region: &mut Region,
        from: &mut VecDeque<UmemFrame>,
    ) -> io::Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let mut room = self.room();
        if room < from.len() {
            self.complete(region);
            room = self.room();
        }
        while let Some(frame) = from.front() {
            let chunks = region.chunks_of(frame);
            let sendable = chunks == 1 || (self.limits.multi_buffer && chunks <= MAX_CHUNKS);
            if sendable && chunks > room {
                self.counts.back_pressure += 1;
                break;
            }
            let Some(frame) = from.pop_front() else { break };
            if !sendable {
                self.counts.unsendable += 1;
                region.recycle(frame);
                continue;
            }
            region.stage(self.port, frame, &mut self.staged);
            self.counts.transmitted += 1;
            room -= chunks;
            if self.staged.len() > BATCH - MAX_CHUNKS {
                self.submit();
            }
        }
        self.submit();
        self.wake()
    }

    /// Takes back what was sent, lends what may be lent, and wakes the kernel where it left
    /// something unsent.
    pub(super) fn service(&mut self, region: &mut Region) -> io::Result<()> {
        if self.in_flight.transmit > 0 {
            self.complete(region);
        }
        self.fill(region)?;
        if self.wakeup_owed { self.wake() } else { Ok(()) }
    }

    /// Chunks that can be put on the TX ring now.
    fn room(&mut self) -> usize {
        let in_flight = self.limits.transmit.saturating_sub(self.in_flight.transmit);
        // Asking for that much makes libxdp look at the kernel's position only when what it
        // remembers of it does not suffice.
        let wanted = u32::try_from(in_flight).unwrap_or(u32::MAX);
        in_flight.min(self.rings.tx.nb_free(wanted) as usize)
    }

    fn submit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        // SAFETY: `Region::stage` ended the frames, so their chunks are in this port's hands and
        // in nobody else's, and the socket is attached to their region's UMEM.
        let count = unsafe { self.rings.tx.produce(&self.staged) };
        assert_eq!(count, self.staged.len(), "`room` has seen this much free on the TX ring");
        self.in_flight.transmit += count;
        self.wakeup_owed = true;
        self.staged.clear();
    }

    /// Drains the completion ring.
    fn complete(&mut self, region: &mut Region) {
        loop {
            // SAFETY: as in `receive`; `Region::complete` checks each address.
            let count = unsafe { self.rings.completion.consume(&mut self.scratch) };
            for desc in &self.scratch[..count] {
                if region.complete(self.port, desc) {
                    self.in_flight.transmit -= 1;
                    self.counts.completed += 1;
                } else {
                    self.counts.strangers += 1;
                }
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// Tops the fill ring up to the port's share, once a whole batch is missing: a fill ring is
    /// far longer than a batch, so it does not run dry meanwhile. Of a small share a batch is half, so that
    /// two make it full: else the ring would be filled only when empty, and a frame that takes more chunks
    /// than are left would wait for that, and so for ever if nothing smaller came.
    fn fill(&mut self, region: &mut Region) -> io::Result<()> {
        let batch = BATCH.min((self.limits.receive / 2).max(1));
        while batch > 0 && self.in_flight.receive + batch <= self.limits.receive {
            let count = region.lend(self.port, &mut self.scratch[..batch]);
            if count < batch {
                self.counts.fill_short += 1;
            }
            let descs = &self.scratch[..count];
            // SAFETY: the chunks came off the free list of the region whose UMEM the socket is
            // attached to; they are this port's until they come out of the RX ring.
            let taken = unsafe { self.rings.fill.produce(descs) };
            region.unlend(self.port, &descs[taken..]);
            self.in_flight.receive += taken;
            if taken < batch {
                break;
            }
        }
        // In copy mode the kernel never asks.
        if self.limits.zero_copy && self.rings.fill.needs_wakeup() { self.check() } else { Ok(()) }
    }

    /// Makes the kernel send what is on the TX ring.
    ///
    /// In copy mode nothing is sent except in such a call: whoever forgets that it owes one, stalls.
    /// `Ok` leaves `wakeup_owed` set when more is to be sent.
    fn wake(&mut self) -> io::Result<()> {
        if !self.rings.tx.needs_wakeup() {
            // A zero-copy driver that is at work anyway; it may stop before the ring is empty.
            self.wakeup_owed = self.in_flight.transmit > 0;
            return Ok(());
        }
        self.counts.wakeups += 1;
        let Err(cause) = self.rings.send() else {
            self.wakeup_owed = false;
            return Ok(());
        };
        match cause.raw_os_error() {
            // Budget used up, the device's queue full, or too many bytes in flight.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {
                self.counts.wakeups_again += 1;
                Ok(())
            }
            // Set down, not removed: what is on the ring leaves when it is up again.
            Some(libc::ENETDOWN) => {
                self.counts.device_down += 1;
                self.check()
            }
            _ => Err(cause),
        }
    }

    /// Asks the kernel whether the socket still has its device. Also starts reception in a
    /// zero-copy driver that waits for it.
    ///
    /// An idle socket is not told when its device goes: poll reports nothing on it
    /// (`xsk_poll` returns early once unbound), so it has to be asked. `recvfrom` fails with
    /// ENXIO then, as often as it is called.
    pub(super) fn check(&self) -> io::Result<()> {
        let Err(cause) = self.rings.probe() else { return Ok(()) };
        match cause.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => Err(cause),
            _ => Ok(()),
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.rings.descriptor()
    }

    pub(super) fn kernel_statistics(&self) -> io::Result<KernelStatistics> {
        self.rings.statistics()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        self.rings.tx.needs_wakeup()
    }

    pub(super) fn in_flight(&self) -> InFlight {
        self.in_flight
    }

    pub(super) fn counts(&self) -> PortStatistics {
        self.counts
    }

    pub(super) fn counts_mut(&mut self) -> &mut PortStatistics {
        &mut self.counts
    }

    pub(super) fn port(&self) -> PortNumber {
        self.port
    }

    /// Closes the socket and returns all that the kernel had of the region's chunks.
    ///
    /// Sound because the kernel has let go of them when the descriptor is closed: `xsk_release`
    /// unbinds the socket and waits for receivers (`synchronize_net`), and a TX ring that nobody
    /// wakes is never read again. What has been handed to the device in copy mode lies copied in
    /// skbs, except for devices that take skbs without a linear part (virtio_net), whose skbs refer
    /// to the pages: for those the caller waits for completions first, and a reuse after that
    /// wait can at worst alter a frame still queued in a device that had stopped sending.
    pub(super) fn close(mut self, region: &mut Region) -> usize {
        self.counts.chains_dropped += u64::from(self.assembler.is_waiting());
        let port = self.port;
        drop(self);
        region.detach(port)
    }
}

#[cfg(test)]
mod tests;
