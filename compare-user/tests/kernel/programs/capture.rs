//! The fixtures as files: a pcapng capture for each list, a comment on each frame that names it.
//!
//! Wireshark opens them. What writes them is the code in this directory; a test fails when a file
//! is not what the code makes, and `COLO_XDP_WRITE_FIXTURES=1` in the environment writes it anew.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};

/// A frame with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) frame: Vec<u8>,
}

/// The frames in the file of a list.
pub(super) fn stored(list: &str) -> Vec<Named> {
    read(&embedded(list))
}

/// Inside the test binary: it runs in a virtual machine, too, without this directory.
fn embedded(list: &str) -> Vec<u8> {
    match list {
        "classes" => include_bytes!("fixtures/classes.pcapng").to_vec(),
        "rewriting" => include_bytes!("fixtures/rewriting.pcapng").to_vec(),
        "arriving" => include_bytes!("fixtures/arriving.pcapng").to_vec(),
        "leaving" => include_bytes!("fixtures/leaving.pcapng").to_vec(),
        other => panic!("no fixtures of this name: {other}"),
    }
}

/// Asserts that the file of a list is what was made of it, byte for byte.
pub(super) fn assert_stored(list: &str, made: &[Named]) {
    let bytes = written(made);
    if std::env::var_os("COLO_XDP_WRITE_FIXTURES").is_some() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/programs/fixtures");
        fs::write(PathBuf::from(directory).join(format!("{list}.pcapng")), bytes).unwrap();
        panic!("{list}.pcapng is written: test again without COLO_XDP_WRITE_FIXTURES");
    }
    for (made, stored) in made.iter().zip(stored(list)) {
        assert_eq!(*made, stored, "{list}");
    }
    assert!(embedded(list) == bytes, "{list}.pcapng is not what the code makes");
}

fn written(frames: &[Named]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    let interface =
        InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options: Vec::new() };
    writer.write_block(&Block::InterfaceDescription(interface)).unwrap();
    for Named { name, frame } in frames {
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::ZERO,
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: vec![EnhancedPacketOption::Comment(Cow::Borrowed(name))],
        };
        writer.write_block(&Block::EnhancedPacket(packet)).unwrap();
    }
    writer.into_inner()
}

fn read(bytes: &[u8]) -> Vec<Named> {
    let mut reader = PcapNgReader::new(bytes).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block.unwrap() else { continue };
        let Some(EnhancedPacketOption::Comment(name)) = packet.options.first() else {
            panic!("a frame without a name");
        };
        frames.push(Named { name: name.to_string(), frame: packet.data.to_vec() });
    }
    frames
}
