//! Capture files: whatever the file, the reader ends, yields no byte that the file does not have,
//! takes no memory because a length says so, and reads the same from a pipe that gives little at a
//! time.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use compare_user::port::pcap::Capture;

use crate::memory;
use crate::pieces::Pieces;

/// What pcap-file's reader takes at once, whatever the file: its buffer, which never grows.
const BUFFER: usize = 8_000_000;

/// Input: [pieces](crate::pieces) of a file.
pub fn check(input: &[u8]) {
    let pieces = Pieces::read(input);
    let whole = Pieces::read(&[]).with(pieces.stream);
    let (found, usage) = memory::used(|| read(whole));
    // Packets are kept, beside pcapng's options, names and interfaces, each once and once more in
    // pcap-file's own form: a block of four bytes makes an entry of a few dozen.
    let most = BUFFER + 64 * pieces.stream.len() + 65_536;
    assert!(usage.peak <= most, "{usage:?} for {} bytes", pieces.stream.len());
    assert_eq!(read(pieces), found, "the same in pieces");
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    packets: Vec<(Duration, Vec<u8>)>,
    cut: u64,
    error: Option<String>,
}

fn read(pieces: Pieces<'_>) -> Found {
    let mut found = Found { packets: Vec::new(), cut: 0, error: None };
    let mut capture = match Capture::read(Path::new("input"), Box::new(Pipe::of(pieces))) {
        Ok(capture) => capture,
        Err(error) => return Found { error: Some(error.to_string()), ..found },
    };
    let mut bytes = 0;
    for packet in capture.by_ref() {
        match packet {
            Ok((time, packet)) => {
                bytes += packet.len();
                found.packets.push((time, packet));
            }
            Err(error) => found.error = Some(error.to_string()),
        }
    }
    assert!(capture.next().is_none(), "the end is the end");
    assert!(bytes <= pieces.stream.len(), "no byte that is not in the file");
    assert_eq!(capture.packets(), found.packets.len() as u64);
    assert!(capture.cut() <= capture.packets());
    found.cut = capture.cut();
    found
}

/// Gives its bytes in pieces.
struct Pipe {
    pieces: std::vec::IntoIter<Vec<u8>>,
    rest: Vec<u8>,
}

impl Pipe {
    fn of(pieces: Pieces<'_>) -> Self {
        let owned: Vec<Vec<u8>> = memory::uncounted(|| pieces.iter().map(<[u8]>::to_vec).collect());
        Self { pieces: owned.into_iter(), rest: Vec::new() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.pieces.next().unwrap_or_default();
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}
