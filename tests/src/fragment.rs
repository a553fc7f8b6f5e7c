//! IP fragments.

use crate::packet::Packet;

impl Packet {
    /// The frames of `payload` (a whole IP payload of protocol `protocol`), cut into fragments of
    /// at most `size` bytes.
    ///
    /// # Panics
    /// When `size` is not a multiple of eight, or the payload exceeds what offsets can express.
    #[must_use]
    pub fn fragments(&self, protocol: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        assert_eq!(size % 8, 0, "fragment offsets count eight bytes");
        let pieces = payload.chunks(size).count();
        payload
            .chunks(size)
            .enumerate()
            .map(|(index, piece)| {
                let offset = u16::try_from(index * size).expect("offset fits IP");
                self.assemble(protocol, piece, Some((offset, index + 1 < pieces)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::packet::{Packet, protocol};
    use etherparse::SlicedPacket;

    #[test]
    fn every_piece_is_a_fragment_and_together_they_are_the_datagram() {
        for packet in Packet::families() {
            let packet = packet.identification(77);
            let datagram = packet.udp_datagram(5, 6, &crate::payload::bytes(1, 3000));
            let mut joined = Vec::new();
            for frame in packet.fragments(protocol::UDP, &datagram, 1024) {
                let sliced = SlicedPacket::from_ethernet(&frame).expect("well formed");
                assert!(sliced.is_ip_payload_fragmented());
                joined.extend_from_slice(sliced.ip_payload().expect("an IP frame").payload);
            }
            assert_eq!(joined, datagram);
        }
    }
}
