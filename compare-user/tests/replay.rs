//! `colo-xdp replay`, the real binary on real capture files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use compare_user::port::pcap::write_capture;
use etherparse::PacketBuilder;
use serde_json::Value;

const SYN: u8 = 1;
const FIN: u8 = 2;

/// One side's connection to a client, with its own numbers and times.
struct Guest {
    frames: Vec<(Duration, Vec<u8>)>,
    /// Initial sequence number.
    initial: u32,
    identification: u16,
    clock: Duration,
}

impl Guest {
    fn new(initial: u32, identification: u16, began: Duration) -> Self {
        Self { frames: Vec::new(), initial, identification, clock: began }
    }

    fn push(&mut self, frame: Vec<u8>) {
        self.clock += Duration::from_micros(u64::from(self.identification % 700) + 1);
        self.identification = self.identification.wrapping_add(17);
        self.frames.push((self.clock, frame));
    }

    /// Sends `payload` at this offset of the stream.
    fn segment(&mut self, offset: u32, flags: u8, payload: &[u8]) {
        let syn = flags & SYN != 0;
        let sequence = self.initial.wrapping_add(offset).wrapping_add(u32::from(!syn));
        let mut ip = etherparse::Ipv4Header::new(
            0,
            64,
            etherparse::IpNumber::TCP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .expect("a length that fits");
        ip.identification = self.identification;
        let mut tcp = etherparse::TcpHeader::new(80, 4242, sequence, 8192);
        tcp.ack = true;
        tcp.acknowledgment_number = 99;
        tcp.syn = syn;
        tcp.fin = flags & FIN != 0;
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            .tcp_header(tcp);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("writing to memory");
        self.push(frame);
    }

    fn datagram(&mut self, payload: &[u8]) {
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64).udp(53, 5353);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("writing to memory");
        self.push(frame);
    }

    /// Sends `stream` in segments of `step` bytes, with a SYN before and a FIN behind.
    fn connection(&mut self, stream: &[u8], step: usize) {
        self.segment(0, SYN, &[]);
        for (index, part) in stream.chunks(step).enumerate() {
            self.segment((index * step) as u32, 0, part);
        }
        self.segment(stream.len() as u32, FIN, &[]);
    }

    fn save(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        let frames = self.frames.iter().map(|(time, bytes)| (*time, bytes.as_slice()));
        write_capture(&path, frames).expect("a directory of our own");
        path
    }
}

fn stream() -> Vec<u8> {
    (0..20_000u32).map(|index| (index * 7 % 251) as u8).collect()
}

fn replay(primary: &Guest, secondary: &Guest, json: bool) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (ours, theirs) =
        (primary.save(directory.path(), "p.pcap"), secondary.save(directory.path(), "s.pcap"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_colo-xdp"));
    command.arg("replay").arg(ours).arg(theirs);
    if json {
        command.arg("--json");
    }
    command.output().expect("the binary was built for this test")
}

fn verdict(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn segmentation_times_identification_and_retransmissions_are_no_difference() {
    let mut primary = Guest::new(1000, 1, Duration::from_secs(5));
    primary.connection(&stream(), 1448);
    primary.datagram(b"one");
    primary.datagram(b"two");
    let mut secondary = Guest::new(1000, 30_000, Duration::from_secs(90));
    secondary.segment(0, SYN, &[]);
    for (index, part) in stream().chunks(700).enumerate() {
        secondary.segment((index * 700) as u32, 0, part);
        if index % 5 == 0 {
            secondary.segment((index * 700) as u32, 0, part);
        }
    }
    secondary.datagram(b"two");
    secondary.datagram(b"one");
    secondary.segment(20_000, FIN, &[]);
    let output = replay(&primary, &secondary, true);
    let verdict = verdict(&output);
    assert_eq!(verdict["equal"], true, "{verdict:#}");
    assert_eq!(verdict["flows"].as_array().map(Vec::len), Some(2));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn one_different_tcp_byte_is_named_with_flow_offset_and_both_values() {
    let mut primary = Guest::new(u32::MAX - 5000, 1, Duration::ZERO);
    primary.connection(&stream(), 1448);
    let mut other = stream();
    other[12_345] ^= 0xff;
    let mut secondary = Guest::new(u32::MAX - 5000, 9, Duration::ZERO);
    secondary.connection(&other, 500);
    let output = replay(&primary, &secondary, true);
    assert_eq!(output.status.code(), Some(1));
    let verdict = verdict(&output);
    let divergence = &verdict["flows"][0]["divergence"];
    assert_eq!(divergence["reason"], "payload");
    assert_eq!(divergence["offset"], 12_345);
    assert_eq!(divergence["primary"]["byte"], stream()[12_345]);
    assert_eq!(divergence["secondary"]["byte"], other[12_345]);

    let text = String::from_utf8(replay(&primary, &secondary, false).stdout).expect("UTF-8");
    let bytes = format!("primary 0x{:02x}, secondary 0x{:02x}", stream()[12_345], other[12_345]);
    for part in ["10.0.0.1:80", "byte 12345 differs", &bytes] {
        assert!(text.contains(part), "no '{part}' in\n{text}");
    }
}

#[test]
fn initial_sequence_numbers_of_two_unsynchronised_guests_are_aligned() {
    let mut primary = Guest::new(1_000_000, 1, Duration::ZERO);
    primary.connection(&stream(), 1448);
    let mut secondary = Guest::new(3_999_000_000, 9, Duration::ZERO);
    secondary.connection(&stream(), 1448);
    let verdict = verdict(&replay(&primary, &secondary, true));
    assert_eq!(verdict["equal"], true, "{verdict:#}");
    assert_eq!(verdict["flows"][0]["aligned"], true);
}

#[test]
fn output_that_one_capture_lacks_is_a_difference() {
    let mut primary = Guest::new(7, 1, Duration::ZERO);
    primary.connection(&stream(), 1448);
    let mut secondary = Guest::new(7, 1, Duration::ZERO);
    secondary.connection(&stream()[..10_000], 1448);
    let output = replay(&primary, &secondary, true);
    assert_eq!(output.status.code(), Some(1));
    let verdict = verdict(&output);
    assert_eq!(verdict["flows"][0]["divergence"]["offset"], 10_000, "{verdict:#}");
}

#[test]
fn different_datagrams_are_told_with_their_bytes() {
    let mut primary = Guest::new(7, 1, Duration::ZERO);
    let mut secondary = Guest::new(7, 1, Duration::ZERO);
    primary.datagram(b"answer: 42");
    secondary.datagram(b"answer: 43");
    let verdict = verdict(&replay(&primary, &secondary, true));
    let divergence = &verdict["flows"][0]["divergence"];
    assert_eq!(divergence["reason"], "payload");
    assert_eq!(divergence["primary"]["byte"], b'2');
    assert_eq!(divergence["secondary"]["byte"], b'3');
}

#[test]
fn a_file_that_is_no_capture_is_refused_in_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_colo-xdp"))
        .args(["replay", "/dev/null", "/dev/null"])
        .output()
        .expect("the binary was built for this test");
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
}
