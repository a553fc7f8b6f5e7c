//! What the two guests say: the same, each in its own way, and then not the same.

use colo_tests::Packet;
use colo_tests::payload::Seed;
use colo_tests::segment::{ACK, LARGEST_PAYLOAD, PSH, Segment};

/// Port of the guests' web server.
const HTTP: u16 = 80;
/// Port of the guests' name server.
const DNS: u16 = 53;
/// The client's port.
pub(super) const CLIENT: u16 = 40_000;
/// The client's port of the conversation that goes wrong.
pub(super) const UNLUCKY_CLIENT: u16 = 40_007;
/// Bytes of TCP per family and round: nine full segments.
const STREAM: usize = 12_000;

/// One burst of the same output from both guests.
pub(super) struct Round {
    /// The primary's frames, in order.
    pub(super) primary: Vec<Vec<u8>>,
    /// The secondary's: TCP cut into other segments, everything in another order.
    pub(super) secondary: Vec<Vec<u8>>,
    /// How many of the primary's frames are TCP, UDP and ICMP.
    pub(super) kinds: [u64; 3],
}

/// The guests, with how far their conversations have got.
pub(super) struct Conversations {
    seed: Seed,
    sequence: u32,
    serial: u16,
}

impl Conversations {
    pub(super) fn new() -> Self {
        Self { seed: Seed::new(1), sequence: 1, serial: 0 }
    }

    /// The next burst, over both families.
    pub(super) fn round(&mut self) -> Round {
        let mut round = Round { primary: Vec::new(), secondary: Vec::new(), kinds: [0; 3] };
        let stream = self.page();
        for packet in Packet::families() {
            // Two operating systems, two clocks: what never agrees is different here too.
            let segment = Segment::new(HTTP, CLIENT).flags(PSH | ACK).sequence(self.sequence);
            let ours = segment.clone().timestamps(1_000 + u32::from(self.serial), 7).stream(
                &packet,
                &stream,
                &cuts_of(stream.len(), LARGEST_PAYLOAD),
            );
            let theirs = segment.timestamps(9_000 + u32::from(self.serial), 3).window(512).stream(
                &packet.clone().hops(63).identification(self.serial),
                &stream,
                &self.seed.cuts(stream.len(), LARGEST_PAYLOAD),
            );
            let mut datagrams = Vec::new();
            for number in 0..6_u16 {
                let answer = format!("host-{}-{number}.example. A 192.0.2.9", self.serial);
                datagrams.push(packet.udp(DNS, CLIENT + number, answer.as_bytes()));
            }
            round.kinds[0] += ours.len() as u64;
            round.kinds[1] += datagrams.len() as u64;
            for number in 0..2 {
                datagrams.push(packet.echo(number, self.serial, b"are you there?"));
                round.kinds[2] += 1;
            }
            round.primary.extend(ours.into_iter().chain(datagrams.iter().cloned()));
            round.secondary.extend(theirs.into_iter().chain(datagrams));
        }
        self.seed.shuffle(&mut round.secondary);
        self.sequence = self.sequence.wrapping_add(stream.len() as u32);
        self.serial = self.serial.wrapping_add(1);
        round
    }

    fn page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(STREAM + 40);
        let mut line = 0;
        while page.len() < STREAM {
            page.extend_from_slice(format!("page {} line {line}\r\n", self.serial).as_bytes());
            line += 1;
        }
        page.truncate(STREAM);
        page
    }
}

/// Segments of `largest` bytes and the rest.
fn cuts_of(total: usize, largest: usize) -> Vec<usize> {
    let mut lengths = vec![largest; total / largest];
    lengths.extend(Some(total % largest).filter(|rest| *rest > 0));
    lengths
}

/// An answer on which the guests do not agree.
pub(super) struct Disagreement {
    /// The primary's stream.
    pub(super) primary: Vec<u8>,
    /// The secondary's stream.
    pub(super) secondary: Vec<u8>,
    /// Offset of the one byte that differs.
    pub(super) at: usize,
    /// The primary's frames: the first is equal to what the secondary says, the others are not
    /// or come after.
    pub(super) primary_frames: Vec<Vec<u8>>,
    /// The secondary's frames.
    pub(super) secondary_frames: Vec<Vec<u8>>,
}

/// The answer on which the guests do not agree: a web page with an account's balance.
pub(super) fn disagreement() -> Disagreement {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n";
    let page = |balance: &str| format!("{head}Your balance: {balance} EUR\r\nGood-bye.\r\n");
    let (primary, secondary) = (page("1000").into_bytes(), page("9000").into_bytes());
    let at = head.len() + "Your balance: ".len();
    let packet = Packet::v4();
    let segment = Segment::new(HTTP, UNLUCKY_CLIENT).flags(PSH | ACK).sequence(5_000);
    let tail = primary.len() - head.len() - 24;
    let primary_frames = segment.stream(&packet, &primary, &[head.len(), 24, tail]);
    let whole = [secondary.len()];
    let secondary_frames = segment.timestamps(9, 9).stream(&packet, &secondary, &whole);
    Disagreement { primary, secondary, at, primary_frames, secondary_frames }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_fits_the_devices_queues_and_no_frame_appears_twice() {
        let mut conversations = Conversations::new();
        let mut all = std::collections::HashSet::new();
        for _ in 0..20 {
            let round = conversations.round();
            assert_eq!(round.kinds.iter().sum::<u64>(), round.primary.len() as u64);
            assert!(round.primary.len() <= colo_tests::stage::WINDOW);
            // A veth queues 256.
            assert!(round.secondary.len() <= 128);
            assert!(round.primary.iter().all(|frame| frame.len() <= 1514));
            assert!(round.primary.into_iter().all(|frame| all.insert(frame)));
        }
    }

    #[test]
    fn the_guests_disagree_in_one_byte() {
        let Disagreement { primary, secondary, at, primary_frames, .. } = disagreement();
        let different: Vec<_> =
            (0..primary.len()).filter(|i| primary[*i] != secondary[*i]).collect();
        assert_eq!(different, [at]);
        assert_eq!(primary_frames.len(), 3);
    }
}
