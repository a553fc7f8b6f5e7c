//! Captures written byte by byte or by pcap-file, and read back.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt as _;

use pcap_file::Endianness;
use pcap_file::pcap::RawPcapPacket;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::packet::PacketBlock;
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;

use super::*;

const FRAME: &[u8] = b"an Ethernet frame";

type Packets = Vec<(Duration, Vec<u8>)>;

fn open(bytes: Vec<u8>) -> Result<Capture, CaptureError> {
    Capture::read(Path::new("test.pcap"), Box::new(Cursor::new(bytes)))
}

fn read_all(bytes: Vec<u8>) -> Result<Packets, CaptureError> {
    open(bytes)?.collect()
}

/// What the user is told about a capture that cannot be read.
fn message(bytes: Vec<u8>) -> String {
    read_all(bytes).expect_err("must not be readable").to_string()
}

/// A pcap file with one packet per (fraction of a second, length on the wire).
fn pcap(header: PcapHeader, packets: &[(u32, u32)]) -> Vec<u8> {
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a vector takes it");
    for (ts_frac, orig_len) in packets {
        let incl_len = FRAME.len() as u32;
        let data = Cow::Borrowed(FRAME);
        let packet =
            RawPcapPacket { ts_sec: 100, ts_frac: *ts_frac, incl_len, orig_len: *orig_len, data };
        writer.write_raw_packet(&packet).expect("a vector takes it");
    }
    writer.into_writer()
}

fn interface(
    linktype: DataLink,
    options: Vec<InterfaceDescriptionOption<'static>>,
) -> Block<'static> {
    Block::InterfaceDescription(InterfaceDescriptionBlock { linktype, snaplen: 0, options })
}

/// A packet on an interface, captured `units` of its resolution after the epoch.
fn enhanced(interface_id: u32, units: u64) -> Block<'static> {
    Block::EnhancedPacket(EnhancedPacketBlock {
        interface_id,
        timestamp: Duration::from_nanos(units),
        original_len: FRAME.len() as u32,
        data: Cow::Borrowed(FRAME),
        options: Vec::new(),
    })
}

fn pcapng(endianness: Endianness, blocks: &[Block<'_>]) -> Vec<u8> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).expect("a vector");
    for block in blocks {
        writer.write_block(block).expect("a vector takes it");
    }
    writer.into_inner()
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_resolutions() {
    for endianness in [Endianness::Big, Endianness::Little] {
        for (ts_resolution, nanoseconds) in
            [(TsResolution::MicroSecond, 7_000), (TsResolution::NanoSecond, 7)]
        {
            let header = PcapHeader { endianness, ts_resolution, ..PcapHeader::default() };
            let packets = read_all(pcap(header, &[(7, 17)])).expect("readable");
            assert_eq!(packets, [(Duration::new(100, nanoseconds), FRAME.to_vec())]);
        }
    }
}

#[test]
fn pcapng_is_read_in_both_byte_orders() {
    for endianness in [Endianness::Big, Endianness::Little] {
        let blocks = [interface(DataLink::ETHERNET, Vec::new()), enhanced(0, 1_500_000)];
        let packets = read_all(pcapng(endianness, &blocks)).expect("readable");
        assert_eq!(packets, [(Duration::from_millis(1500), FRAME.to_vec())]);
    }
}

#[test]
fn pcapng_interfaces_have_their_own_clocks() {
    let resolution = |value| vec![InterfaceDescriptionOption::IfTsResol(value)];
    let offset = |seconds: i64| vec![InterfaceDescriptionOption::IfTsOffset(seconds as u64)];
    let blocks = [
        interface(DataLink::ETHERNET, resolution(9)),
        interface(DataLink::ETHERNET, resolution(0x80 | 10)),
        interface(DataLink::ETHERNET, offset(60)),
        interface(DataLink::ETHERNET, offset(-1)),
        interface(DataLink::ETHERNET, resolution(127)),
        enhanced(0, 1_500_000_000),
        enhanced(1, 1536),
        enhanced(2, 1_500_000),
        enhanced(3, 1_500_000),
        enhanced(4, 1_500_000),
    ];
    let packets = read_all(pcapng(Endianness::Little, &blocks)).expect("readable");
    let milliseconds: Vec<_> = packets.iter().map(|(time, _)| time.as_millis()).collect();
    assert_eq!(milliseconds, [1500, 1500, 61_500, 500, 0]);
}

#[test]
fn pcapng_sections_may_follow_each_other_in_either_byte_order() {
    let section = |endianness| {
        Block::SectionHeader(SectionHeaderBlock { endianness, ..SectionHeaderBlock::default() })
    };
    let blocks = [
        interface(DataLink::ETHERNET, Vec::new()),
        enhanced(0, 1),
        section(Endianness::Big),
        interface(DataLink::ETHERNET, vec![InterfaceDescriptionOption::IfTsResol(3)]),
        enhanced(0, 1),
    ];
    let packets = read_all(pcapng(Endianness::Little, &blocks)).expect("readable");
    let microseconds: Vec<_> = packets.iter().map(|(time, _)| time.as_micros()).collect();
    assert_eq!(microseconds, [1, 1000]);
}

#[test]
fn a_simple_packet_loses_its_padding_and_borrows_the_time_before() {
    let original_len = FRAME.len() as u32;
    let simple = SimplePacketBlock { original_len, data: Cow::Borrowed(FRAME) };
    let blocks = [
        interface(DataLink::ETHERNET, Vec::new()),
        enhanced(0, 2_000_000),
        Block::SimplePacket(simple),
    ];
    let packets = read_all(pcapng(Endianness::Little, &blocks)).expect("readable");
    assert_eq!(packets[1], (Duration::from_secs(2), FRAME.to_vec()));
}

#[test]
fn packets_cut_by_the_snap_length_are_yielded_and_counted() {
    let header = PcapHeader { snaplen: FRAME.len() as u32, ..PcapHeader::default() };
    let mut capture = open(pcap(header, &[(0, 17), (1, 1514), (2, 9000)])).expect("a capture");
    assert_eq!(capture.by_ref().filter(Result::is_ok).count(), 3);
    assert_eq!((capture.packets(), capture.cut()), (3, 2));
}

#[test]
fn a_capture_without_packets_is_empty() {
    assert_eq!(read_all(pcap(PcapHeader::default(), &[])).expect("readable"), []);
    assert_eq!(read_all(pcapng(Endianness::Little, &[])).expect("readable"), []);
}

#[test]
fn other_link_types_are_named() {
    let header = PcapHeader { datalink: DataLink::LINUX_SLL, ..PcapHeader::default() };
    let blocks = [interface(DataLink::LINUX_SLL, Vec::new()), enhanced(0, 0)];
    for capture in [pcap(header, &[]), pcapng(Endianness::Little, &blocks)] {
        assert_eq!(
            message(capture),
            "test.pcap holds LINUX_SLL frames (link type 113), only Ethernet can be compared; \
             capture on an Ethernet device, not on `any`"
        );
    }
}

#[test]
fn an_interface_without_packets_may_have_any_link_type() {
    let blocks = [
        interface(DataLink::LINUX_SLL, Vec::new()),
        interface(DataLink::ETHERNET, Vec::new()),
        enhanced(1, 0),
    ];
    assert_eq!(read_all(pcapng(Endianness::Little, &blocks)).expect("readable").len(), 1);
}

#[test]
fn a_link_type_that_mentions_the_frame_check_sequence_is_ethernet() {
    let mut capture =
        pcap(PcapHeader { endianness: Endianness::Big, ..PcapHeader::default() }, &[(0, 17)]);
    capture[20] = 0x44; // 4 bytes of it, present
    assert_eq!(read_all(capture).expect("readable").len(), 1);
}

#[test]
fn a_capture_that_ends_inside_a_packet_names_it_after_the_whole_ones() {
    let whole = pcap(PcapHeader::default(), &[(0, 17), (1, 17)]);
    let blocks = [interface(DataLink::ETHERNET, Vec::new()), enhanced(0, 0), enhanced(0, 1)];
    let whole_ng = pcapng(Endianness::Little, &blocks);
    for (whole, cut) in [(&whole, 1), (&whole, 20), (&whole_ng, 1), (&whole_ng, 50)] {
        let mut capture = open(whole[..whole.len() - cut].to_vec()).expect("a capture");
        assert!(matches!(capture.next(), Some(Ok(_))));
        let error = capture.next().expect("an error").expect_err("cut");
        assert_eq!(
            error.to_string(),
            "test.pcap ends inside packet 2; capture again, or copy the packets before it with \
             editcap"
        );
        assert!(capture.next().is_none());
    }
}

#[test]
fn other_files_are_not_captures() {
    for bytes in [&b""[..], b"\xd4\xc3", b"\x1f\x8b\x08\x00 compressed capture file", &[0; 64]] {
        let message = message(bytes.to_vec());
        assert!(message.starts_with("test.pcap is not a pcap or pcapng capture ("), "{message}");
        assert!(message.ends_with("if it is compressed, decompress it first"), "{message}");
    }
}

#[test]
fn a_packet_on_an_interface_that_was_never_described_is_damage() {
    let mut capture = pcapng(Endianness::Little, &[interface(DataLink::ETHERNET, Vec::new())]);
    let packet = pcapng(Endianness::Little, &[]).len();
    let with_packet =
        pcapng(Endianness::Little, &[interface(DataLink::ETHERNET, Vec::new()), enhanced(0, 0)]);
    let packet_alone = &with_packet[capture.len()..];
    capture.truncate(packet);
    capture.extend(packet_alone);
    let message = message(capture);
    assert!(message.starts_with("test.pcap is damaged at packet 1 ("), "{message}");
}

#[test]
fn obsolete_packet_blocks_say_what_to_do() {
    let obsolete = Block::Packet(PacketBlock {
        interface_id: 0,
        drop_count: 0,
        timestamp: 0,
        captured_len: FRAME.len() as u32,
        original_len: FRAME.len() as u32,
        data: Cow::Borrowed(FRAME),
        options: Vec::new(),
    });
    let blocks = [interface(DataLink::ETHERNET, Vec::new()), obsolete];
    assert!(message(pcapng(Endianness::Little, &blocks)).contains("convert with editcap"));
}

#[test]
fn what_is_written_is_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("out.pcap");
    let frames = [(Duration::new(5, 1), &FRAME[..3]), (Duration::new(6, 999_999_999), FRAME)];
    write_capture(&path, frames).expect("writable");
    let packets: Packets =
        Capture::open(&path).expect("readable").collect::<Result<_, _>>().expect("readable");
    let expected = frames.map(|(time, frame)| (time, frame.to_vec()));
    assert_eq!(packets, expected);
}

#[test]
fn a_capture_is_its_owners_and_takes_no_name_that_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, victim) = (directory.path().join("out.pcap"), directory.path().join("victim"));
    let write = |path| write_capture(path, [(Duration::ZERO, FRAME)]);
    write(&path).expect("the name is free");
    let mode = std::fs::metadata(&path).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    write(&path).expect_err("it is there already");
    std::fs::remove_file(&path).expect("ours");
    // Whether or not the link leads anywhere.
    for _ in 0..2 {
        std::os::unix::fs::symlink(&victim, &path).expect("the name is free");
        write(&path).expect_err("a link is not followed");
        assert!(std::fs::read(&victim).is_ok_and(|text| text == b"precious") || !victim.exists());
        std::fs::remove_file(&path).expect("ours");
        std::fs::write(&victim, "precious").expect("ours");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Capture::open(Path::new("/nonexistent/a.pcap")).err().expect("cannot be opened");
    assert_eq!(
        error.to_string(),
        "cannot open /nonexistent/a.pcap: No such file or directory (os error 2)"
    );
}
