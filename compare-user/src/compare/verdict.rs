//! What the comparator says: releases, discards, divergences and checkpoint requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::checksum::{self, ChecksumState};
use crate::frame::{FlowKey, FrameStore, Headers};

/// Which replica a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The replica whose output leaves.
    Primary,
    /// The replica whose output is only compared.
    Secondary,
}

impl Side {
    /// The other replica.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

/// State of the L4 checksum of a frame that is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// As it should be on the wire, or none of our business.
    AsFound,
    /// The field may hold only the pseudo-header sum, left by a guest that offloads checksums;
    /// whoever sends the frame completes it first.
    Partial,
}

impl Checksum {
    #[inline]
    pub(super) fn of<S: FrameStore>(store: &S, frame: &S::Frame, headers: &Headers) -> Self {
        match checksum::state(store, frame, headers) {
            ChecksumState::Partial => Self::Partial,
            ChecksumState::Absent | ChecksumState::Complete => Self::AsFound,
        }
    }
}

/// What has to be written into a frame before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amendment {
    /// The L4 checksum.
    pub checksum: Checksum,
    /// The timestamp (RFC 7323) that the segment gets in place of its own, which is an earlier one: the
    /// client has seen, or may be about to see, a later one in this connection. Only where the slower
    /// replica's acknowledgements leave.
    pub timestamp: Option<u32>,
    /// The payload is taken out of it: what the secondary says again of that which has left has nothing any
    /// more that it could be compared with. Only where the slower replica's acknowledgements leave.
    pub without_payload: bool,
    /// Bytes of payload that are cut off at its beginning, because they have left in another segment. Only
    /// where the slower replica's acknowledgements leave.
    pub without_first: u32,
}

impl From<Checksum> for Amendment {
    fn from(checksum: Checksum) -> Self {
        Self { checksum, timestamp: None, without_payload: false, without_first: 0 }
    }
}

/// Why a frame leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// The secondary produced the same output.
    Matched,
    /// Not subject to comparison: not IP, ARP, neighbour discovery, group membership.
    Passed,
    /// A frame that contradicts itself; handled like one that is not IP.
    Malformed,
    /// A TCP segment without payload that need not wait (any longer).
    NoPayload,
    /// The secondary's acknowledgement, which says less than the primary's; or what it repeats: of that
    /// which has left without the payload, so that the client acknowledges it once more, and of that which
    /// the primary has waiting with it, because the client lacks it; or the beginning of what the primary
    /// has waiting, of which it has not said the rest.
    Slower,
    /// TCP bytes that have left before.
    Retransmission,
    /// A new incarnation of the connection began while the old one's segments were held.
    Superseded,
    /// Held when a checkpoint, failover or shutdown flushed it.
    Flushed,
    /// Passed uncompared after failover.
    Standalone,
}

/// Why a frame goes back to free memory unsent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discard {
    /// A secondary frame that did its work: it matched, or it is not compared.
    Compared,
    /// A secondary frame that is not compared (not IP, malformed, standalone).
    NotCompared,
    /// A secondary segment of bytes already compared.
    Retransmission,
    /// A secondary copy of a datagram that a flush had released.
    LateCopy,
    /// A primary's acknowledgement that waited when a later one came, or a segment that says again
    /// what a waiting one says.
    Superseded,
    /// A segment held in a connection that the other end has reset: nobody waits for it. Should the
    /// reset have been refused, TCP sends it again.
    Reset,
    /// A waiting secondary frame when a flush, failover or new incarnation dropped it.
    Flushed,
    /// The flow's queue was full.
    QueueFull,
    /// The share of frame memory that may be held was used up.
    MemoryFull,
    /// No flow could be tracked: every tracked one holds frames.
    FlowsFull,
    /// The lost side's frames after failover.
    Standalone,
}

impl Discard {
    /// True when output of the guest was lost, not merely consumed.
    #[must_use]
    pub fn is_loss(self) -> bool {
        matches!(self, Self::QueueFull | Self::MemoryFull | Self::FlowsFull)
    }
}

/// Why two outputs are not the same, or cannot be shown to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A byte differs.
    Payload,
    /// Datagrams of different length.
    Length,
    /// One side ended its TCP stream where the other continues.
    StreamEnd,
    /// A frame found no partner within the compare timeout.
    Timeout,
    /// The flow's queue was full and a frame was dropped.
    QueueFull,
    /// The share of frame memory that may be held was used up and a frame was dropped.
    Memory,
    /// Every tracked flow holds frames and a frame of a new flow was dropped.
    FlowTable,
}

/// One side's view of a divergence.
pub struct Exhibit<'a, S: FrameStore> {
    /// The frame.
    pub frame: &'a S::Frame,
    /// Offset in the frame of the first byte that differs, or of the first compared byte.
    pub at: usize,
}

/// Proof, or a timeout, that the two outputs are not the same.
pub struct Divergence<'a, S: FrameStore> {
    /// The flow.
    pub flow: &'a FlowKey,
    /// What was found.
    pub reason: Reason,
    /// The side whose frame was found wanting (timeouts and full queues).
    pub side: Side,
    /// TCP: bytes since the start of the stream (or since the first segment seen). Datagrams:
    /// bytes into the payload of UDP, and of IP for every other protocol.
    pub offset: u32,
    /// How long the older of the frames had waited.
    pub waited: Duration,
    /// The primary frame, when there is one.
    pub primary: Option<Exhibit<'a, S>>,
    /// The secondary frame, when there is one.
    pub secondary: Option<Exhibit<'a, S>>,
}

/// Receives what the comparator decides, in the order in which it decides.
///
/// Frames are moved out: whoever implements this owns them from then on.
pub trait Sink<S: FrameStore> {
    /// `frame` leaves on the output port, amended first.
    fn release(&mut self, frame: S::Frame, why: Release, amendment: Amendment);

    /// `frame` of `side` goes back to free memory.
    fn discard(&mut self, frame: S::Frame, side: Side, why: Discard);

    /// A divergence was found. Called once per flow until the next checkpoint.
    fn diverged(&mut self, store: &S, divergence: &Divergence<'_, S>);

    /// A checkpoint is wanted: for the first divergence since the last checkpoint, and again each
    /// request interval while it is outstanding.
    fn checkpoint_wanted(&mut self);
}
