//! Internet checksums (RFC 1071): verifying them, and completing those that a guest left to its
//! network card.
//!
//! A guest whose virtual card offloads checksums writes only the folded sum of the pseudo header
//! into the TCP or UDP checksum field, not inverted, for the card to add the rest
//! (`CHECKSUM_PARTIAL` in the kernel's include/linux/skbuff.h). AF_XDP sends a frame as it is, so
//! such a *partial checksum* has to be completed before the frame leaves.
//!
//! Recognising one costs no look at the payload: the field is compared with the sum of addresses,
//! protocol and length. One finished checksum in 65,535 equals that sum by chance. Completing it
//! is harmless: completion computes what a right checksum would be, which for a finished and right
//! one is what the field already holds ([`completed`] then reports that there is nothing to
//! write). Only a finished and *wrong* one, one in 65,535 of the frames that were damaged inside
//! the guest, would leave looking whole.
//!
//! Not recognised: partial checksums of packets inside a tunnel.
//!
//! Every function takes the [`Headers`] that [`Headers::parse`] found for the same frame.

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv6Header, ip_number};

use super::headers::{Class, Headers};
use super::parse::{checksum_offset, final_destination};
use super::store::FrameStore;

/// What stands in the upper-layer checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumState {
    /// No checksum that could be judged: a protocol without one, UDP's zero for "not computed",
    /// a fragment, a frame that is not compared.
    Absent,
    /// The folded sum of the pseudo header: left by a guest that offloads checksums.
    Partial,
    /// Anything else: computed by the guest, right or wrong; see [`valid`].
    Complete,
}

/// The state of the TCP, UDP, ICMP or ICMPv6 checksum.
///
/// Cheap enough for every frame: reads the addresses, the length and the field.
#[inline]
#[must_use]
pub fn state<S: FrameStore>(store: &S, frame: &S::Frame, headers: &Headers) -> ChecksumState {
    match Field::find(store.run(frame, 0), headers) {
        None => ChecksumState::Absent,
        Some(field) if field.is_partial() => ChecksumState::Partial,
        Some(_) => ChecksumState::Complete,
    }
}

/// What completes a partial checksum: the offset in the frame, and the value to write there in
/// network byte order.
///
/// None when the checksum is not partial, or is already right. Reads the payload only when the
/// field looks partial.
#[must_use]
pub fn completed<S: FrameStore>(
    store: &S,
    frame: &S::Frame,
    headers: &Headers,
) -> Option<(usize, u16)> {
    let field = Field::find(store.run(frame, 0), headers).filter(Field::is_partial)?;
    // The sum goes around the field, which is at an even distance from the start.
    let before = sum(store, frame, field.start, field.at);
    let after = sum(store, frame, field.at + 2, field.end);
    let value = match !fold(u64::from(field.pseudo) + before + after) {
        0 if field.is_udp => 0xffff, // RFC 768: zero would say "not computed".
        value => value,
    };
    (!field.holds_with(before + after)).then_some((field.at, value))
}

/// Whether the TCP, UDP, ICMP or ICMPv6 checksum is right; None when there is none to judge.
/// Reads the whole payload.
#[must_use]
pub fn valid<S: FrameStore>(store: &S, frame: &S::Frame, headers: &Headers) -> Option<bool> {
    let field = Field::find(store.run(frame, 0), headers)?;
    let before = sum(store, frame, field.start, field.at);
    let after = sum(store, frame, field.at + 2, field.end);
    Some(field.holds_with(before + after))
}

/// Whether the IPv4 header checksum is right; None for a frame that is not IPv4.
#[must_use]
pub fn ipv4_header_valid<S: FrameStore>(
    store: &S,
    frame: &S::Frame,
    headers: &Headers,
) -> Option<bool> {
    let network = usize::from(headers.network);
    let first = store.run(frame, 0).get(network).filter(|_| headers.key.family == 4)?;
    let header = 4 * usize::from(first & 0x0f);
    Some(fold(sum(store, frame, network, network + header)) == 0xffff)
}

/// The checksum of a TCP segment if it had these flags, as their offset and value, and no payload.
pub(super) fn of_bare_segment(run: &[u8], headers: &Headers, flags: (usize, u8)) -> Option<u16> {
    let [start, end] = [headers.transport, headers.content].map(usize::from);
    let at = start + usize::from(checksum_offset(headers.key.protocol, headers.key.family)?);
    let flags_word = u16::from_be_bytes([*run.get(flags.0 - 1)?, flags.1]);
    let rest = [start..flags.0 - 1, flags.0 + 1..at, at + 2..end];
    let mut total = u64::from(pseudo_header_sum(run, headers, end - start)) + u64::from(flags_word);
    for piece in rest {
        total += u64::from(words(run.get(piece)?));
    }
    Some(!fold(total))
}

/// What a guest that offloads checksums would leave in a TCP segment if it had this length, header
/// included.
pub(super) fn partial_of_segment(run: &[u8], headers: &Headers, length: usize) -> u16 {
    pseudo_header_sum(run, headers, length)
}

/// A checksum field and what it covers, as offsets in the frame.
struct Field {
    at: usize,
    stored: u16,
    start: usize,
    end: usize,
    /// Folded sum of the pseudo header; zero for ICMP, which has none.
    pseudo: u16,
    is_udp: bool,
    is_offloadable: bool,
}

impl Field {
    /// The field of the frame whose first run is `run`: [`Headers::parse`] accepts an upper-layer
    /// header only when it lies there.
    #[inline]
    fn find(run: &[u8], headers: &Headers) -> Option<Self> {
        let key = &headers.key;
        let is_compared = matches!(headers.class, Class::Tcp(_) | Class::Datagram);
        if !is_compared || key.fragment != 0 {
            return None;
        }
        let start = usize::from(headers.transport);
        let at = start + usize::from(checksum_offset(key.protocol, key.family)?);
        let stored = word(run, at)?;
        let protocol = IpNumber(key.protocol);
        let is_udp = protocol == ip_number::UDP;
        let end =
            if is_udp { start + usize::from(word(run, start + 4)?) } else { headers.end as usize };
        if is_udp && stored == 0 {
            return None;
        }
        let pseudo = match protocol {
            ip_number::ICMP => 0,
            _ => pseudo_header_sum(run, headers, end - start),
        };
        let is_offloadable = is_udp || protocol == ip_number::TCP;
        Some(Self { at, stored, start, end, pseudo, is_udp, is_offloadable })
    }

    /// ICMP and ICMPv6 are computed by the guest's stack, never left to the card.
    #[inline]
    fn is_partial(&self) -> bool {
        self.is_offloadable && self.stored == self.pseudo
    }

    /// Whether the stored checksum is right if the rest of what it covers sums up to `rest`.
    fn holds_with(&self, rest: u64) -> bool {
        fold(u64::from(self.pseudo) + rest + u64::from(self.stored)) == 0xffff
    }
}

/// Folded sum of the pseudo header (RFC 793 section 3.1, RFC 8200 section 8.1).
#[inline]
fn pseudo_header_sum(run: &[u8], headers: &Headers, length: usize) -> u16 {
    let key = &headers.key;
    let extended = usize::from(headers.transport - headers.network) > Ipv6Header::LEN;
    let destination =
        if key.family == 6 && extended { final_destination(run, headers) } else { key.destination };
    fold(
        address_sum(key.source)
            + address_sum(destination)
            + u64::from(key.protocol)
            + length as u64,
    )
}

/// An IPv4 address leaves the last twelve bytes zero, which add nothing.
#[inline]
fn address_sum(address: [u8; 16]) -> u64 {
    let [mut low, mut high] = [[0; 8]; 2];
    high.copy_from_slice(&address[..8]);
    low.copy_from_slice(&address[8..]);
    [u64::from_be_bytes(high), u64::from_be_bytes(low)]
        .into_iter()
        .map(|words| (words >> 32) + (words & 0xffff_ffff))
        .sum()
}

/// Sum of the frame's bytes `from..to` as big-endian words, folded per run.
fn sum<S: FrameStore>(store: &S, frame: &S::Frame, from: usize, to: usize) -> u64 {
    let mut total = 0;
    let mut at = from;
    while at < to {
        let run = store.run(frame, at);
        let piece = &run[..run.len().min(to - at)];
        if piece.is_empty() {
            break;
        }
        let words = words(piece);
        // A piece that starts on an odd byte has its words swapped (RFC 1071 section 2 (B)).
        let is_odd = !(at - from).is_multiple_of(2);
        total += u64::from(if is_odd { words.swap_bytes() } else { words });
        at += piece.len();
    }
    total
}

/// Folded sum of big-endian words; a last odd byte is the high half of one.
fn words(piece: &[u8]) -> u16 {
    !Sum16BitWords::new().add_slice(piece).ones_complement().to_be()
}

/// Adds the carries of a one's complement sum back in until 16 bits remain.
#[inline]
fn fold(sum: u64) -> u16 {
    // 64 bits fold to 33, 33 to 18, 18 to 17, 17 to 16: no need to look after each.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The big-endian word at `at`.
#[inline]
fn word(run: &[u8], at: usize) -> Option<u16> {
    let bytes = run.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests;
