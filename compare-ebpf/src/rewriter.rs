//! The sequence rewriter: the secondary's numbers on its side, the primary's on the network's.
//!
//! The two guests choose initial sequence numbers of their own. The secondary's SYN or SYN-ACK
//! tells its number, and the first segment that answers it acknowledges the primary's: the
//! difference is the connection's offset (`rewrite` in the library). From then on, towards the
//! guest, acknowledgement numbers and the edges of SACK blocks (RFC 2018) grow by it; from the
//! guest, sequence numbers shrink by it. Timestamps (RFC 7323) are treated alike: without that a
//! client would discard what the secondary sends after failover, if its clock is behind the
//! primary's (section 5), and the secondary would refuse the answer to its own SYN, if its clock
//! is ahead.
//!
//! What nobody has answered is in `HANDSHAKES`, what has an offset in `CONNECTIONS`. Both forget
//! what was used least recently; a flood of SYNs turns over the first and never reaches the second.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use compare_ebpf::rewrite::{ACK, Difference, FIN, RST, SYN, fold};
use compare_ebpf::{Connection, ConnectionKey, FAMILY_IPV4, Handshake, RelayControl, RelayEvent};

use crate::bytes::{load, store};
use crate::headers::{Flow, Piece, TCP};
use crate::sum;

/// Connections with an offset. User space sets the size.
#[map]
static CONNECTIONS: LruHashMap<ConnectionKey, Connection> = LruHashMap::with_max_entries(1, 0);

/// Handshakes of the guest that nobody has answered. User space sets the size.
#[map]
static HANDSHAKES: LruHashMap<ConnectionKey, Handshake> = LruHashMap::with_max_entries(1, 0);

/// Counts by [`RelayEvent`].
#[map]
static RELAY_EVENTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(RelayEvent::ALL.len() as u32, 0);

/// The segment at hand. Taking it from a map lets the verifier forget which of the many ways through
/// the headers has led to it, and follow what comes after once instead of once for each.
#[map]
static SEGMENT: PerCpuArray<Segment> = PerCpuArray::with_max_entries(1, 0);

/// Its options, taken from a map for the same reason.
#[map]
static OPTIONS: PerCpuArray<Options> = PerCpuArray::with_max_entries(1, 0);

/// TCP header, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgement: u32,
    /// Length in words, in the upper half.
    length: u8,
    flags: u8,
    _window: u16,
    checksum: u16,
    _urgent: u16,
}

/// Offsets in the TCP header.
const SEQUENCE: u32 = 4;
const ACKNOWLEDGEMENT: u32 = 8;
const CHECKSUM: u32 = 16;
const SHORTEST: u32 = 20;

/// TCP options, RFC 9293 section 3.1, RFC 2018, RFC 7323.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMP: u8 = 8;

/// Options looked at in a segment, and SACK blocks in one of them: more do not fit a header.
const MOST_OPTIONS: u32 = 12;
const MOST_BLOCKS: u32 = 4;

/// A TCP segment in a frame.
struct Segment {
    flow: Flow,
    header: TcpHeader,
    /// Bytes of header and options.
    length: u32,
}

/// Where in the frame the options with numbers to change are; zero if they are not there.
struct Options {
    /// The two timestamps.
    timestamps: u32,
    /// The first edge of the first SACK block.
    edges: u32,
    /// SACK blocks.
    blocks: u32,
}

/// Changes to make to a segment; zero leaves a number as it is.
struct Shift {
    /// Added to the sequence number.
    sequence: u32,
    /// Added to the acknowledgement number and SACK edges.
    acknowledgement: u32,
    /// Added to the timestamp.
    timestamp: u32,
    /// Added to the echoed timestamp.
    echo: u32,
}

/// Rewrites a frame on its way to the guest.
#[inline(always)]
pub(crate) fn to_guest(frame: &XdpContext, control: &RelayControl) {
    let Some(segment) = Segment::of(frame) else { return };
    let flags = segment.header.flags;
    let flow = &segment.flow;
    let key = ConnectionKey {
        guest: flow.destination,
        remote: flow.source,
        guest_port: segment.header.destination_port,
        remote_port: segment.header.source_port,
        tags: flow.tags,
        family: flow.family,
        reserved: [0; 3],
    };
    let ended = if flags & RST != 0 {
        Connection::RESET
    } else if flags & FIN != 0 {
        Connection::REMOTE_FIN
    } else {
        0
    };
    let shift = known(&key, control, ended);
    // Without an acknowledgement there is nothing to learn from and nothing to change.
    if flags & ACK == 0 {
        return;
    }
    let handshake = if shift.is_some() { None } else { pending(segment, &key, control) };
    if shift.is_none() && handshake.is_none() {
        return;
    }
    let Some(options) = Options::of(frame, segment) else { return };
    let shift = match (shift, handshake) {
        (Some(shift), _) => shift,
        (None, Some(handshake)) => {
            let Some(shift) = learn(frame, (segment, options), &handshake, &key, ended) else {
                return;
            };
            shift
        }
        (None, None) => return,
    };
    let (acknowledgement, echo) = (shift.sequence, shift.timestamp);
    let shift = Shift { sequence: 0, acknowledgement, timestamp: 0, echo };
    segment.rewrite(frame, options, &shift);
}

/// Rewrites a frame on its way from the guest.
#[inline(always)]
pub(crate) fn from_guest(frame: &XdpContext, control: &RelayControl) {
    let Some(segment) = Segment::of(frame) else { return };
    let flags = segment.header.flags;
    let flow = &segment.flow;
    let key = ConnectionKey {
        guest: flow.source,
        remote: flow.destination,
        guest_port: segment.header.source_port,
        remote_port: segment.header.destination_port,
        tags: flow.tags,
        family: flow.family,
        reserved: [0; 3],
    };
    if flags & SYN != 0 {
        return begin(frame, segment, &key, control);
    }
    let ended = if flags & RST != 0 {
        Connection::RESET
    } else if flags & FIN != 0 {
        Connection::GUEST_FIN
    } else {
        0
    };
    if let Some(shift) = known(&key, control, ended) {
        let (sequence, timestamp) =
            (0_u32.wrapping_sub(shift.sequence), 0_u32.wrapping_sub(shift.timestamp));
        let Some(options) = Options::of(frame, segment) else { return };
        let shift = Shift { sequence, acknowledgement: 0, timestamp, echo: 0 };
        segment.rewrite(frame, options, &shift);
    }
}

/// The offsets of a connection, if it is known, and a note that it was seen and how it ends.
#[inline(always)]
fn known(key: &ConnectionKey, control: &RelayControl, ended: u32) -> Option<Shift> {
    let connection = CONNECTIONS.get_ptr_mut(key)?;
    // SAFETY: aligned words of a map value. An entry that is evicted meanwhile stays readable
    // until the program ends; a note written by two processors at once loses one of them.
    unsafe {
        if (*connection).epoch != control.epoch {
            return None;
        }
        let now = seconds();
        if (*connection).seen != now {
            (*connection).seen = now;
        }
        if ended != 0 {
            (*connection).ended |= ended;
        }
        Some(Shift {
            sequence: (*connection).sequence,
            acknowledgement: 0,
            timestamp: (*connection).timestamp,
            echo: 0,
        })
    }
}

/// The handshake that a segment answers.
#[inline(always)]
fn pending(segment: &Segment, key: &ConnectionKey, control: &RelayControl) -> Option<Handshake> {
    // SAFETY: copied out at once; an entry is written whole by the processor that has the guest's
    // frame, before its answer can exist.
    let handshake = unsafe { HANDSHAKES.get(key).copied()? };
    if handshake.epoch != control.epoch {
        return None;
    }
    if !handshake.is_answered_by(u32::from_be(segment.header.sequence)) {
        count(RelayEvent::Implausible);
        return None;
    }
    Some(handshake)
}

/// Learns a connection's offsets from the segment that answers its handshake.
#[inline(always)]
fn learn(
    frame: &XdpContext,
    (segment, options): (&Segment, &Options),
    handshake: &Handshake,
    key: &ConnectionKey,
    ended: u32,
) -> Option<Shift> {
    let echo = options.timestamps(frame).map(|both| u32::from_be(both[1]));
    let mut connection = handshake.answered(u32::from_be(segment.header.acknowledgement), echo);
    connection.seen = seconds();
    connection.ended = ended;
    let is_new = CONNECTIONS.get_ptr(key).is_none();
    if CONNECTIONS.insert(key, connection, 0).is_err() {
        return None;
    }
    let _ = HANDSHAKES.remove(key);
    count(RelayEvent::Learned);
    if is_new {
        count(RelayEvent::Entered);
    }
    Some(Shift {
        sequence: connection.sequence,
        acknowledgement: 0,
        timestamp: connection.timestamp,
        echo: 0,
    })
}

/// The guest's SYN or SYN-ACK: it leaves as it is, since a SYN is never compared by number.
#[inline(always)]
fn begin(frame: &XdpContext, segment: &Segment, key: &ConnectionKey, control: &RelayControl) {
    let initial = u32::from_be(segment.header.sequence);
    // SAFETY: as in `known`.
    let before = unsafe { CONNECTIONS.get(key).map(|it| (it.epoch, it.initial)) };
    if let Some((epoch, known)) = before {
        if epoch == control.epoch && known == initial {
            // A repetition: it has been answered already.
            return;
        }
        // Only a guest that has done with a connection begins another on its ports.
        if CONNECTIONS.remove(key).is_ok() {
            count(RelayEvent::Replaced);
        }
    }
    if control.failed_over != 0 {
        // The client will answer the secondary itself: there is no offset to learn, unless it has
        // the primary's SYN-ACK already, which this one repeats.
        // SAFETY: as in `learn`.
        let before = unsafe { HANDSHAKES.get(key).map(|it| it.initial) };
        if before.is_some_and(|known| known != initial) {
            let _ = HANDSHAKES.remove(key);
        }
        return;
    }
    let mut handshake = Handshake {
        epoch: control.epoch,
        initial,
        acknowledged: u32::from_be(segment.header.acknowledgement),
        timestamp: 0,
        flags: if segment.header.flags & ACK != 0 { Handshake::PASSIVE } else { 0 },
    };
    if let Some(options) = Options::of(frame, segment)
        && let Some([timestamp, _]) = options.timestamps(frame)
    {
        handshake.timestamp = u32::from_be(timestamp);
        handshake.flags |= Handshake::TIMESTAMP;
    }
    // A full map of handshakes forgets the oldest; that fails only for want of memory.
    let _ = HANDSHAKES.insert(key, handshake, 0);
}

impl Segment {
    /// The TCP segment in a frame, `None` if there is none or only the later part of one. It is valid
    /// until the program ends, or calls this again.
    #[inline(always)]
    fn of(frame: &XdpContext) -> Option<&'static Self> {
        let segment = Self::read(frame)?;
        let slot = SEGMENT.get_ptr_mut(0)?;
        // SAFETY: a per-CPU slot, and this CPU runs one XDP program at a time.
        unsafe { slot.write(segment) };
        // Looked up again: the compiler must not know either what is in it.
        SEGMENT.get(0)
    }

    #[inline(always)]
    fn read(frame: &XdpContext) -> Option<Self> {
        let flow = Flow::of(frame)?;
        if flow.protocol != TCP || flow.piece == Piece::Later {
            return None;
        }
        let segment = load::<TcpHeader>(frame, flow.transport).and_then(|header| {
            let length = u32::from(header.length >> 4) * 4;
            let fits = length >= SHORTEST && flow.transport + length <= flow.end;
            fits.then_some(Self { flow, header, length })
        });
        if segment.is_none() {
            count(RelayEvent::Unparsed);
        }
        segment
    }

    /// Changes the numbers, and the checksum with them.
    #[inline(always)]
    fn rewrite(&self, frame: &XdpContext, options: &Options, shift: &Shift) {
        let numbers = shift.sequence | shift.acknowledgement;
        if numbers | shift.timestamp | shift.echo == 0 {
            return;
        }
        // Before anything changes.
        let is_partial = self.is_partial(frame);
        let mut difference = Difference::default();
        let transport = self.flow.transport;
        if shift.sequence != 0 {
            let number = self.header.sequence;
            change(frame, transport, SEQUENCE, number, shift.sequence, &mut difference);
        }
        if shift.acknowledgement != 0 {
            let (at, number) = (ACKNOWLEDGEMENT, self.header.acknowledgement);
            change(frame, transport, at, number, shift.acknowledgement, &mut difference);
        }
        self.rewrite_options(frame, options, shift, &mut difference);
        count(RelayEvent::Rewritten);
        if is_partial {
            // The device that completes it sums what it finds.
            count(RelayEvent::Partial);
            return;
        }
        let checksum = difference.applied(self.header.checksum);
        let _ = store(frame, transport + CHECKSUM, &checksum);
    }

    #[inline(always)]
    fn rewrite_options(
        &self,
        frame: &XdpContext,
        options: &Options,
        shift: &Shift,
        difference: &mut Difference,
    ) {
        let transport = self.flow.transport;
        if shift.timestamp | shift.echo != 0
            && let Some([value, echo]) = options.timestamps(frame)
        {
            let at = options.timestamps - transport;
            if shift.timestamp != 0 {
                change(frame, transport, at, value, shift.timestamp, difference);
            }
            // Zero is no echo, but what a segment without acknowledgement carries.
            if shift.echo != 0 && echo != 0 {
                change(frame, transport, at + 4, echo, shift.echo, difference);
            }
        }
        if shift.acknowledgement == 0 || options.edges == 0 {
            return;
        }
        let mut at = options.edges - transport;
        for block in 0..MOST_BLOCKS {
            if block >= options.blocks {
                break;
            }
            let Some([left, right]) = load::<[u32; 2]>(frame, transport + at) else { break };
            change(frame, transport, at, left, shift.acknowledgement, difference);
            change(frame, transport, at + 4, right, shift.acknowledgement, difference);
            at += 8;
        }
    }

    /// Whether the checksum is left to a device: it then is the sum of the pseudo-header. One
    /// complete checksum in 65,536 is so too, and only the sum of all tells which.
    #[inline(always)]
    fn is_partial(&self, frame: &XdpContext) -> bool {
        let flow = &self.flow;
        let length = (flow.end - flow.transport) as u16;
        let mut sum = fold(u32::from(length.to_be()) + u32::from(u16::from(TCP).to_be()));
        let words = if flow.family == FAMILY_IPV4 { 1 } else { 4 };
        for word in 0..4 {
            if word < words {
                let (source, destination) = (flow.source[word], flow.destination[word]);
                sum += (source & 0xffff) + (source >> 16);
                sum += (destination & 0xffff) + (destination >> 16);
            }
        }
        let pseudo = fold(sum);
        if pseudo as u16 != self.header.checksum || flow.piece != Piece::Whole {
            return false;
        }
        let all = sum::of(frame, flow.transport, flow.end);
        all.is_none_or(|all| fold(all + pseudo) != 0xffff)
    }
}

impl Options {
    /// Looks through the options of a segment. What is found is valid until the next call.
    #[inline(always)]
    fn of(frame: &XdpContext, segment: &Segment) -> Option<&'static Self> {
        let found = Self::find(frame, segment);
        let slot = OPTIONS.get_ptr_mut(0)?;
        // SAFETY: a per-CPU slot, and this CPU runs one XDP program at a time.
        unsafe { slot.write(found) };
        OPTIONS.get(0)
    }

    /// It only notes places: the verifier follows every way through the loop, and there must be few
    /// that differ.
    #[inline(always)]
    fn find(frame: &XdpContext, segment: &Segment) -> Self {
        let mut found = Self { timestamps: 0, edges: 0, blocks: 0 };
        let mut at = segment.flow.transport + SHORTEST;
        let end = segment.flow.transport + segment.length;
        for _ in 0..MOST_OPTIONS {
            // In less nothing of interest fits.
            if at + 4 > end {
                return found;
            }
            let Some([first, second, third, fourth]) = load::<[u8; 4]>(frame, at) else {
                return found;
            };
            // Two no-operations are in front of nearly every option, to align it.
            let (kind, length, skipped) = if first != NO_OPERATION {
                (first, second, 0)
            } else if second != NO_OPERATION {
                (second, third, 1)
            } else {
                (third, fourth, 2)
            };
            at += skipped;
            if kind == NO_OPERATION {
                at += 1;
                continue;
            }
            let length = u32::from(length);
            if kind == END || length < 2 || at + length > end {
                return found;
            }
            if kind == TIMESTAMP && length == 10 {
                found.timestamps = at + 2;
            }
            if kind == SACK {
                found.edges = at + 2;
                found.blocks = (length - 2) / 8;
            }
            at += length;
        }
        if at + 4 <= end {
            count(RelayEvent::ManyOptions);
        }
        found
    }

    /// Both timestamps, as they stand in the frame.
    #[inline(always)]
    fn timestamps(&self, frame: &XdpContext) -> Option<[u32; 2]> {
        if self.timestamps == 0 { None } else { load(frame, self.timestamps) }
    }
}

/// Adds `by` to a number at `at` in the TCP header.
#[inline(always)]
fn change(
    frame: &XdpContext,
    transport: u32,
    at: u32,
    old: u32,
    by: u32,
    difference: &mut Difference,
) {
    let new = u32::from_be(old).wrapping_add(by).to_be();
    if store(frame, transport + at, &new).is_some() {
        difference.replace(old, new, at & 1 != 0);
    }
}

/// The monotonic clock, in seconds.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: no arguments. The value of the last timer tick is good enough, and cheap.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

#[inline(always)]
fn count(event: RelayEvent) {
    if let Some(counter) = RELAY_EVENTS.get_ptr_mut(event as u32) {
        // SAFETY: a per-CPU slot, and this CPU runs one XDP program at a time.
        unsafe { *counter += 1 };
    }
}
