//! TCP segments, one by one or a stream cut into many.

use etherparse::TcpHeader;

use crate::packet::{Packet, protocol};

/// Largest payload that fits a frame of 1,514 bytes over either family, timestamps included.
pub const LARGEST_PAYLOAD: usize = 1514 - 14 - 40 - 32;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Start of a connection.
pub const SYN: u8 = 0x02;
/// The connection is reset.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// A TCP segment: everything above IP. A template, as [`Packet`].
#[derive(Debug, Clone)]
pub struct Segment {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Segment {
    /// An empty segment with only ACK set.
    #[must_use]
    pub fn new(source_port: u16, destination_port: u16) -> Self {
        Self {
            source_port,
            destination_port,
            sequence: 0,
            acknowledgement: 0,
            flags: ACK,
            window: 0x7210,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// With this sequence number.
    #[must_use]
    pub fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    /// With this acknowledgement number.
    #[must_use]
    pub fn acknowledgement(mut self, acknowledgement: u32) -> Self {
        self.acknowledgement = acknowledgement;
        self
    }

    /// With exactly these flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// With this window.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// With these options: at most 40 bytes, a multiple of four.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With the timestamps option (RFC 7323), which no two replicas agree on.
    #[must_use]
    pub fn timestamps(self, value: u32, echo: u32) -> Self {
        let mut options = vec![1, 1, 8, 10];
        options.extend_from_slice(&value.to_be_bytes());
        options.extend_from_slice(&echo.to_be_bytes());
        self.options(&options)
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The frame that carries the segment.
    #[must_use]
    pub fn frame(&self, packet: &Packet) -> Vec<u8> {
        packet.carrying(protocol::TCP, &self.bytes(packet))
    }

    /// TCP header and payload, without IP.
    ///
    /// # Panics
    /// When the options are not as [`Segment::options`] says.
    #[must_use]
    pub fn bytes(&self, packet: &Packet) -> Vec<u8> {
        let mut header =
            TcpHeader::new(self.source_port, self.destination_port, self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgement;
        header.set_options_raw(&self.options).expect("options as their method documents");
        let mut bytes = header.to_bytes().to_vec();
        bytes[13] = self.flags;
        bytes.extend_from_slice(&self.payload);
        let sum = packet.checksum(protocol::TCP, &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The frames of `stream`, cut into payloads of `lengths` bytes, from this segment's sequence
    /// number on; the numbers wrap.
    ///
    /// # Panics
    /// When the lengths do not add up to the stream.
    #[must_use]
    pub fn stream(&self, packet: &Packet, stream: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
        assert_eq!(lengths.iter().sum::<usize>(), stream.len(), "the cuts cover the stream");
        let mut rest = stream;
        let mut sequence = self.sequence;
        let mut frames = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (payload, after) = rest.split_at(*length);
            rest = after;
            frames.push(self.clone().sequence(sequence).payload(payload).frame(packet));
            sequence = sequence.wrapping_add(*length as u32);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn a_cut_stream_joins_to_itself_across_the_sequence_wrap() {
        let stream = crate::payload::bytes(1, 3000);
        let start = u32::MAX - 1000;
        for packet in Packet::families() {
            let frames = Segment::new(80, 4000)
                .flags(PSH | ACK)
                .sequence(start)
                .timestamps(1, 2)
                .stream(&packet, &stream, &[1000, 500, 1500]);
            let mut joined = Vec::new();
            for frame in &frames {
                let sliced = SlicedPacket::from_ethernet(frame).expect("well formed");
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
                assert_eq!(tcp.sequence_number(), start.wrapping_add(joined.len() as u32));
                assert!(tcp.psh() && tcp.ack());
                assert_eq!(packet.checksum(protocol::TCP, tcp.slice()), 0);
                joined.extend_from_slice(tcp.payload());
            }
            assert_eq!(joined, stream);
        }
    }
}
