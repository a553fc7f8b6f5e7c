//! The other end of a `chardev:` port: what a network filter of QEMU does with its socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::Result;
use crate::capture::PATIENCE;
use crate::namespace::Namespace;

/// Between two attempts to connect.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// An empty header as virtio-net has it.
pub const NO_HEADER: [u8; 12] = [0; 12];

/// Where a port and its filter meet.
#[derive(Debug, Clone)]
pub enum Place {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port of the loopback address, in the namespace named in each call.
    Tcp(u16),
}

impl Place {
    /// As the comparator is told.
    #[must_use]
    pub fn port(&self) -> String {
        match self {
            Self::Unix(path) => format!("chardev:unix:{}", path.display()),
            Self::Tcp(port) => format!("chardev:tcp:127.0.0.1:{port}"),
        }
    }

    fn connect(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Self::Tcp(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).map(Stream::Tcp),
        }
    }

    fn listen(&self) -> std::io::Result<Listener> {
        match self {
            Self::Unix(path) => UnixListener::bind(path).map(Listener::Unix),
            Self::Tcp(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map(Listener::Tcp),
        }
    }
}

/// Runs where the sockets are: in a namespace, or here.
fn inside<T: Send>(
    namespace: Option<&Namespace>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    match namespace {
        Some(namespace) => namespace.run(work),
        None => work(),
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A frame as it stood in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed {
    /// The vnet header; empty without vnet headers.
    pub header: Vec<u8>,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
}

/// A filter that listens, for a comparator that connects.
#[derive(Debug)]
pub struct Waiting {
    listener: Listener,
    vnet: bool,
}

impl Waiting {
    /// Listens. A unix socket that was there before is replaced.
    ///
    /// # Errors
    /// When the place is taken.
    pub fn at(place: &Place, namespace: Option<&Namespace>, vnet: bool) -> Result<Self> {
        if let Place::Unix(path) = place {
            let _ = std::fs::remove_file(path);
        }
        let listener = inside(namespace, || place.listen().context("listening"))?;
        Ok(Self { listener, vnet })
    }

    /// Takes the connection of the comparator.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn accept(&self) -> Result<Filter> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let accepted = match &self.listener {
                Listener::Unix(listener) => {
                    listener.set_nonblocking(true)?;
                    listener.accept().map(|(stream, _)| Stream::Unix(stream))
                }
                Listener::Tcp(listener) => {
                    listener.set_nonblocking(true)?;
                    listener.accept().map(|(stream, _)| Stream::Tcp(stream))
                }
            };
            match accepted {
                Ok(stream) => return Filter::over(stream, self.vnet),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            ensure!(Instant::now() < deadline, "the comparator did not connect");
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// A filter with its connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Filter {
    stream: Stream,
    vnet: bool,
    /// Bytes received and not yet taken.
    arrived: Vec<u8>,
}

impl Filter {
    /// Connects to a comparator that listens.
    ///
    /// # Errors
    /// When nobody listens in time.
    pub fn connect(place: &Place, namespace: Option<&Namespace>, vnet: bool) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match inside(namespace, || Ok(place.connect()))? {
                Ok(stream) => return Self::over(stream, vnet),
                Err(error) => {
                    ensure!(Instant::now() < deadline, "{}: {error}", place.port());
                    thread::sleep(LOOK_AGAIN);
                }
            }
        }
    }

    fn over(stream: Stream, vnet: bool) -> Result<Self> {
        match &stream {
            Stream::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_write_timeout(Some(PATIENCE))?;
            }
            Stream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))?;
            }
        }
        Ok(Self { stream, vnet, arrived: Vec::new() })
    }

    /// Frames as bytes of the stream, with this vnet header before each.
    fn framed<F: AsRef<[u8]>>(&self, header: &[u8], frames: &[F]) -> Vec<u8> {
        let mut stream = Vec::new();
        let header = if self.vnet { header } else { &[] };
        for frame in frames.iter().map(AsRef::as_ref) {
            let length = (header.len() + frame.len()) as u32;
            stream.extend_from_slice(&length.to_be_bytes());
            if self.vnet {
                stream.extend_from_slice(&(header.len() as u32).to_be_bytes());
            }
            stream.extend_from_slice(header);
            stream.extend_from_slice(frame);
        }
        stream
    }

    /// Sends frames, in one go, with an empty header where headers are on.
    ///
    /// # Errors
    /// When the comparator does not take them in time.
    pub fn send<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        self.send_with(&NO_HEADER, frames)
    }

    /// As [`Filter::send`], with this vnet header.
    ///
    /// # Errors
    /// As [`Filter::send`].
    pub fn send_with<F: AsRef<[u8]>>(&mut self, header: &[u8], frames: &[F]) -> Result {
        let stream = self.framed(header, frames);
        self.send_bytes(&stream)
    }

    /// Sends the first half of a frame and no more.
    ///
    /// # Errors
    /// As [`Filter::send`].
    pub fn send_half(&mut self, frame: &[u8]) -> Result {
        let stream = self.framed(&NO_HEADER, &[frame]);
        self.send_bytes(&stream[..stream.len() / 2])
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As [`Filter::send`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result {
        match &mut self.stream {
            Stream::Unix(stream) => stream.write_all(bytes)?,
            Stream::Tcp(stream) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// What arrives within `within`: some bytes, none, or `None` for the end of the connection.
    fn receive(&mut self, within: Duration) -> Result<Option<usize>> {
        let within = Some(within.max(Duration::from_millis(1)));
        let mut buffer = vec![0; 1 << 16];
        let received = match &mut self.stream {
            Stream::Unix(stream) => {
                stream.set_read_timeout(within)?;
                stream.read(&mut buffer)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(within)?;
                stream.read(&mut buffer)
            }
        };
        match received {
            Ok(0) => Ok(None),
            Ok(count) => {
                self.arrived.extend_from_slice(&buffer[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next frame, if one arrives whole within `within`.
    ///
    /// # Errors
    /// When the connection ends before it.
    pub fn next(&mut self, within: Duration) -> Result<Option<Framed>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(framed) = self.take() {
                return Ok(Some(framed));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(self.receive(left)?.is_some(), "the comparator closed the connection");
            if left.is_zero() && self.take_length().is_none() {
                return Ok(None);
            }
        }
    }

    /// The length of the first frame, if it is there whole.
    fn take_length(&self) -> Option<usize> {
        let words = if self.vnet { 8 } else { 4 };
        let length = u32::from_be_bytes(self.arrived.get(..4)?.try_into().ok()?) as usize;
        (self.arrived.len() >= words + length).then_some(words + length)
    }

    fn take(&mut self) -> Option<Framed> {
        let end = self.take_length()?;
        let bytes: Vec<u8> = self.arrived.drain(..end).collect();
        let (words, header) = if self.vnet {
            (8, u32::from_be_bytes(bytes[4..8].try_into().ok()?) as usize)
        } else {
            (4, 0)
        };
        let (header, frame) = bytes[words..].split_at(header);
        Some(Framed { header: header.to_vec(), frame: frame.to_vec() })
    }

    /// Expects exactly `frames` next, in this order, byte for byte, with an empty header where
    /// headers are on.
    ///
    /// # Errors
    /// When one does not come or another comes instead.
    pub fn expect<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        self.expect_with(&NO_HEADER, frames)
    }

    /// As [`Filter::expect`], with this vnet header.
    ///
    /// # Errors
    /// As [`Filter::expect`].
    pub fn expect_with<F: AsRef<[u8]>>(&mut self, header: &[u8], frames: &[F]) -> Result {
        let header = if self.vnet { header } else { &[] };
        let count = frames.len();
        for (index, wanted) in frames.iter().map(AsRef::as_ref).enumerate() {
            match self.next(PATIENCE)? {
                Some(got) if got.frame == wanted && got.header == header => {}
                Some(got) => {
                    bail!("frame {index} of {count} should be {wanted:02x?}, but is {got:02x?}");
                }
                None => bail!("frame {index} of {count} did not come"),
            }
        }
        Ok(())
    }

    /// Expects exactly these frames next, in whatever order.
    ///
    /// # Errors
    /// When one does not come or another comes instead.
    pub fn expect_in_any_order<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        let mut wanted: Vec<&[u8]> = frames.iter().map(AsRef::as_ref).collect();
        wanted.sort_unstable();
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            match self.next(PATIENCE)? {
                Some(framed) => got.push(framed.frame),
                None => bail!("only {} of {} frames came", got.len(), wanted.len()),
            }
        }
        got.sort_unstable();
        ensure!(got == wanted, "other frames came");
        Ok(())
    }

    /// Expects that nothing comes for as long as `during`.
    ///
    /// # Errors
    /// When something does.
    pub fn expect_nothing(&mut self, during: Duration) -> Result {
        match self.next(during)? {
            None => Ok(()),
            Some(framed) => bail!("nothing may come, but this did: {framed:02x?}"),
        }
    }

    /// Expects that the comparator closes the connection, with nothing sent before.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn expect_closed(&mut self) -> Result {
        let deadline = Instant::now() + PATIENCE;
        while self.receive(Duration::from_millis(10))?.is_some() {
            ensure!(Instant::now() < deadline, "the connection is still open");
        }
        ensure!(self.arrived.is_empty(), "bytes came before the end: {:02x?}", self.arrived);
        Ok(())
    }
}
