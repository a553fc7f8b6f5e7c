//! Capture files: pcap and pcapng, in either byte order, with any timestamp resolution.
//!
//! Only Ethernet captures can be compared. The reader needs nothing but a stream, so a capture
//! may also come from a named pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};

/// First four bytes of a pcapng file: its section header block, the same in both byte orders.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Timestamps of a pcapng interface that does not say otherwise are in microseconds.
const DEFAULT_RESOLUTION: u8 = 6;

/// Why a capture file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be opened or created.
    #[error("cannot open {}: {cause}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// It is something else, or empty.
    #[error(
        "{} is not a pcap or pcapng capture ({reason}); if it is compressed, decompress it first",
        path.display()
    )]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// What is wrong with its beginning.
        reason: String,
    },
    /// Its frames are not Ethernet.
    #[error(
        "{} holds {name} frames (link type {number}), only Ethernet can be compared; capture on an \
         Ethernet device, not on `any`",
        path.display()
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The link type's name.
        name: String,
        /// The link type's number in the registry of tcpdump.org.
        number: u32,
    },
    /// It ends in the middle of a packet, as when the capturing program was killed.
    #[error(
        "{} ends inside packet {packet}; capture again, or copy the packets before it with editcap",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The packet that is cut, counted from 1.
        packet: u64,
    },
    /// Its structure makes no sense from some packet on.
    #[error("{} is damaged at packet {packet} ({reason}); capture again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The packet that could not be read, counted from 1.
        packet: u64,
        /// What is wrong.
        reason: String,
    },
    /// The kernel failed to read or write it.
    #[error("packet {packet} of {}: {cause}; check the disk and the file's permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The packet that could not be read or written, counted from 1.
        packet: u64,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// The packets of a capture file, in the order of the file, each with the time since the Unix
/// epoch at which it was captured.
///
/// Packets that the capture's snap length cut are yielded as they are, and counted: their IP
/// length reaches beyond the frame, so they parse as malformed. A packet without a timestamp
/// (pcapng's simple packet) carries that of the packet before it.
///
/// The first error ends the iteration.
pub struct Capture {
    path: PathBuf,
    source: Option<Source>,
    packets: u64,
    cut: u64,
    last: Duration,
}

/// The readers of both formats.
enum Source {
    Pcap(PcapReader<Box<dyn Read>>),
    PcapNg(PcapNgReader<Box<dyn Read>>),
}

/// One packet as the file has it.
struct Record {
    /// None in pcapng's simple packets.
    timestamp: Option<Duration>,
    original_length: u32,
    bytes: Vec<u8>,
}

impl Capture {
    /// Opens the capture file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is not a capture, or (for pcap, which has one link type for the
    /// whole file) does not hold Ethernet frames.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path)
            .map_err(|cause| CaptureError::Open { path: path.to_owned(), cause })?;
        Self::read(path, Box::new(file))
    }

    /// Reads a capture from anything that yields its bytes; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Capture::open`], but for opening.
    pub fn read(path: &Path, mut stream: Box<dyn Read>) -> Result<Self, CaptureError> {
        let not_a_capture = |cause: PcapError| CaptureError::NotACapture {
            path: path.to_owned(),
            reason: match cause {
                // pcap-file's own text for it says only that reading failed.
                PcapError::IoError(cause) => cause.to_string(),
                cause => cause.to_string(),
            },
        };
        let mut magic = [0; 4];
        stream.read_exact(&mut magic).map_err(PcapError::IoError).map_err(not_a_capture)?;
        let stream: Box<dyn Read> = Box::new(Cursor::new(magic).chain(stream));
        let source = if magic == PCAPNG_MAGIC {
            Source::PcapNg(PcapNgReader::new(stream).map_err(not_a_capture)?)
        } else {
            let reader = PcapReader::new(stream).map_err(not_a_capture)?;
            check_ethernet(path, reader.header().datalink)?;
            Source::Pcap(reader)
        };
        let last = Duration::ZERO;
        Ok(Self { path: path.to_owned(), source: Some(source), packets: 0, cut: 0, last })
    }

    /// Packets yielded so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How many of them the capture's snap length cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    fn error(&self, cause: PcapError) -> CaptureError {
        let (path, packet) = (self.path.clone(), self.packets + 1);
        match cause {
            PcapError::IoError(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                CaptureError::Truncated { path, packet }
            }
            PcapError::IoError(cause) => CaptureError::Io { path, packet, cause },
            cause => CaptureError::Damaged { path, packet, reason: cause.to_string() },
        }
    }
}

impl Iterator for Capture {
    type Item = Result<(Duration, Vec<u8>), CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut source = self.source.take()?;
        let record = match &mut source {
            Source::Pcap(reader) => next_pcap(reader).map_err(|cause| self.error(cause)),
            Source::PcapNg(reader) => self.next_pcapng(reader),
        };
        let record = match record {
            Ok(record) => record?,
            Err(error) => return Some(Err(error)),
        };
        self.source = Some(source);
        self.packets += 1;
        self.cut += u64::from(record.bytes.len() < record.original_length as usize);
        self.last = record.timestamp.unwrap_or(self.last);
        Some(Ok((self.last, record.bytes)))
    }
}

/// The raw form, because the cooked one refuses packets that the snap length cut.
fn next_pcap(reader: &mut PcapReader<Box<dyn Read>>) -> Result<Option<Record>, PcapError> {
    let unit = match reader.header().ts_resolution {
        TsResolution::MicroSecond => Duration::from_micros(1),
        TsResolution::NanoSecond => Duration::from_nanos(1),
    };
    let Some(packet) = reader.next_raw_packet().transpose()? else { return Ok(None) };
    Ok(Some(Record {
        timestamp: Some(Duration::from_secs(packet.ts_sec.into()) + unit * packet.ts_frac),
        original_length: packet.orig_len,
        bytes: packet.data.into_owned(),
    }))
}

impl Capture {
    /// The next packet block; blocks of any other kind are stepped over.
    fn next_pcapng(
        &self,
        reader: &mut PcapNgReader<Box<dyn Read>>,
    ) -> Result<Option<Record>, CaptureError> {
        while let Some(block) = reader.next_block() {
            let (interface, units, original_length, bytes) = match block {
                // pcap-file takes the raw count of units for nanoseconds.
                Ok(Block::EnhancedPacket(packet)) => (
                    packet.interface_id,
                    Some(packet.timestamp.as_nanos()),
                    packet.original_len,
                    packet.data.into_owned(),
                ),
                Ok(Block::SimplePacket(packet)) => {
                    (0, None, packet.original_len, packet.data.into_owned())
                }
                Ok(Block::Packet(_)) => {
                    let reason = "obsolete packet block, convert with editcap";
                    return Err(self.error(PcapError::InvalidField(reason)));
                }
                Ok(_) => continue,
                Err(cause) => return Err(self.error(cause)),
            };
            let interface = reader
                .interfaces()
                .get(interface as usize)
                .ok_or_else(|| self.error(PcapError::InvalidInterfaceId(interface)))?;
            check_ethernet(&self.path, interface.linktype)?;
            let mut record = Record { timestamp: None, original_length, bytes };
            match units {
                Some(units) => record.timestamp = Some(timestamp(interface, units)),
                None => drop_padding(&mut record, interface.snaplen),
            }
            return Ok(Some(record));
        }
        Ok(None)
    }
}

/// A simple packet does not say how much of it was captured, and is padded to four bytes.
fn drop_padding(record: &mut Record, snap_length: u32) {
    let limit = if snap_length == 0 { u32::MAX } else { snap_length };
    record.bytes.truncate(record.original_length.min(limit) as usize);
}

/// A timestamp of `units` in the resolution and with the offset of `interface`.
fn timestamp(interface: &InterfaceDescriptionBlock<'_>, units: u128) -> Duration {
    let mut resolution = DEFAULT_RESOLUTION;
    let mut offset = 0;
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(value) => resolution = *value,
            InterfaceDescriptionOption::IfTsOffset(seconds) => offset = *seconds,
            _ => {}
        }
    }
    // The top bit chooses the base (pcapng, if_tsresol). Finer than u128 can count is zero time.
    let (base, exponent): (u128, _) =
        if resolution & 0x80 == 0 { (10, resolution) } else { (2, resolution & 0x7f) };
    let per_second = base.checked_pow(exponent.into()).unwrap_or(u128::MAX);
    let seconds = u64::try_from(units / per_second).unwrap_or(u64::MAX);
    // The remainder is below 2^64, as the units are.
    let nanoseconds = (units % per_second) * 1_000_000_000 / per_second;
    // The offset is signed (pcapng, if_tsoffset); pcap-file reads it as unsigned.
    let seconds = seconds.saturating_add_signed(offset.cast_signed());
    Duration::new(seconds, nanoseconds as u32)
}

fn check_ethernet(path: &Path, link_type: DataLink) -> Result<(), CaptureError> {
    // In pcap the upper half may say that frames end with their check sequence; it is padding.
    let number = u32::from(link_type) & 0xffff;
    let link_type = DataLink::from(number);
    if link_type == DataLink::ETHERNET {
        return Ok(());
    }
    Err(CaptureError::LinkType { path: path.to_owned(), name: format!("{link_type:?}"), number })
}

/// Writes `frames` to a new pcap file with nanosecond timestamps, in the byte order of this
/// machine. Only its owner may read it.
///
/// # Errors
/// When there is something of that name, the file cannot be created or written, a frame is longer than 65,535 bytes, or a
/// timestamp is beyond the year 2106.
pub fn write_capture<'a>(
    path: &Path,
    frames: impl IntoIterator<Item = (Duration, &'a [u8])>,
) -> Result<(), CaptureError> {
    let failed = |packet: u64, cause: PcapError| {
        let cause = match cause {
            PcapError::IoError(cause) => cause,
            cause => io::Error::new(io::ErrorKind::InvalidInput, cause.to_string()),
        };
        CaptureError::Io { path: path.to_owned(), packet, cause }
    };
    // What a guest has sent is nobody else's business; and a name that somebody has put there
    // before, as a file or as a link to one, is not written to.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|cause| CaptureError::Open { path: path.to_owned(), cause })?;
    let header = PcapHeader {
        ts_resolution: TsResolution::NanoSecond,
        endianness: pcap_file::Endianness::native(),
        ..PcapHeader::default()
    };
    let mut writer =
        PcapWriter::with_header(BufWriter::new(file), header).map_err(|cause| failed(1, cause))?;
    let mut packets = 0;
    for (timestamp, frame) in frames {
        packets += 1;
        let packet = PcapPacket::new(timestamp, frame.len() as u32, frame);
        writer.write_packet(&packet).map_err(|cause| failed(packets, cause))?;
    }
    writer.into_writer().flush().map_err(|cause| failed(packets, PcapError::IoError(cause)))
}

#[cfg(test)]
mod tests;
