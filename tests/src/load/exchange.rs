//! Single exchanges with a guest's services, each verified.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::dial::{self, PATIENCE, connect};
use crate::Result;
use crate::digest::{CHUNK, Digest, Digester};
use crate::payload::{Seed, Source};
use crate::service::{self, page, port};

/// How far a transfer has come: a count that others may look at meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until it is `bytes` or more.
    ///
    /// # Errors
    /// When it is not within `within`.
    pub fn reach(&self, bytes: u64, within: Duration) -> Result {
        let deadline = Instant::now() + within;
        while self.bytes() < bytes {
            ensure!(Instant::now() < deadline, "{} of {bytes} bytes came", self.bytes());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// What was transferred and verified.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Bytes of content.
    pub bytes: u64,
    /// For one transfer, from the first byte of the request to the end.
    pub took: Duration,
}

impl Transfer {
    /// Bits of content a second.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64()
    }
}

/// Sends a request on an open connection and reads the head of the answer; returns the length of
/// its body.
fn request(
    stream: &mut BufReader<TcpStream>,
    method: &str,
    path: &str,
    length: u64,
    close: bool,
) -> Result<u64> {
    ask(stream.get_mut(), method, path, length, close)?;
    answer(stream)
}

fn ask(stream: &mut TcpStream, method: &str, path: &str, length: u64, close: bool) -> Result {
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: guest\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    Ok(())
}

fn answer(stream: &mut BufReader<TcpStream>) -> Result<u64> {
    let mut line = String::new();
    stream.read_line(&mut line).context("no answer")?;
    ensure!(line.starts_with("HTTP/1.1 200 "), "the answer is {line:?}");
    let mut length = None;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let field = line.trim_end();
        if field.is_empty() {
            return length.context("the answer has no length");
        }
        if let Some(value) = field.strip_prefix("Content-Length: ") {
            length = Some(value.parse()?);
        }
    }
}

/// Expects that the server closes the connection and says nothing more.
fn expect_end(stream: &mut impl Read) -> Result {
    let more = stream.read(&mut [0; 1]).context("no end of the connection")?;
    ensure!(more == 0, "there is more behind the end");
    Ok(())
}

/// Opens a connection, gets page `number`, verifies it and sees the server close. Returns how
/// long it took to open the connection.
///
/// # Errors
/// When any of that fails.
pub fn fetch(from: Option<u16>, server: SocketAddr, number: u64) -> Result<Duration> {
    let started = Instant::now();
    let stream = connect(from, server)?;
    let set_up = started.elapsed();
    let mut stream = BufReader::new(stream);
    get_page(&mut stream, number, true)?;
    expect_end(&mut stream)?;
    Ok(set_up)
}

pub(super) fn get_page(stream: &mut BufReader<TcpStream>, number: u64, close: bool) -> Result {
    let body = get_body(stream, number, close)?;
    ensure!(
        Digest::of(&body) == Digest::of(&page(number)),
        "page {number} is not what it should be"
    );
    Ok(())
}

fn get_body(stream: &mut BufReader<TcpStream>, number: u64, close: bool) -> Result<Vec<u8>> {
    let length = request(stream, "GET", &format!("/page/{number}"), 0, close)?;
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    ensure!(body.len() as u64 == length, "{} of {length} bytes came", body.len());
    Ok(body)
}

/// Gets page `number`, whatever its content, over a connection of its own.
///
/// # Errors
/// When none comes whole.
pub fn get(server: SocketAddr, number: u64) -> Result<Vec<u8>> {
    let mut stream = BufReader::new(connect(None, server)?);
    let body = get_body(&mut stream, number, true)?;
    expect_end(&mut stream)?;
    Ok(body)
}

/// A download that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    /// What the content follows from.
    pub seed: u64,
    /// Its length in bytes.
    pub length: u64,
    /// At most so many bytes a second.
    pub rate: Option<u64>,
}

impl Download {
    /// As fast as it goes.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Self {
        Self { seed, length, rate: None }
    }

    /// At most `rate` bytes a second.
    #[must_use]
    pub fn paced(self, rate: u64) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Makes it and verifies its content.
    ///
    /// # Errors
    /// When it does not come, or something else does.
    pub fn run(self, server: SocketAddr, progress: &Progress) -> Result<Transfer> {
        let Self { seed, length, rate } = self;
        let rate = rate.map(|rate| format!("/{rate}")).unwrap_or_default();
        let mut stream = BufReader::with_capacity(CHUNK, connect(None, server)?);
        let started = Instant::now();
        let path = format!("/bytes/{seed}/{length}{rate}");
        let mut digester = Digester::default();
        download_on(&mut stream, &path, length, true, progress, |part| {
            digester.update(part);
            Ok(())
        })?;
        expect_end(&mut stream)?;
        let took = started.elapsed();
        ensure!(digester.finish() == Digest::of_stream(seed, length), "the content is another");
        Ok(Transfer { bytes: length, took })
    }
}

/// Downloads `length` bytes from `path` on an open connection and hands each part to `take`.
pub(super) fn download_on(
    stream: &mut BufReader<TcpStream>,
    path: &str,
    length: u64,
    close: bool,
    progress: &Progress,
    mut take: impl FnMut(&[u8]) -> Result,
) -> Result {
    let offered = request(stream, "GET", path, 0, close)?;
    ensure!(offered == length, "{offered} bytes are offered, not {length}");
    let mut came = 0;
    while came < length {
        let part = stream.fill_buf().with_context(|| format!("after {came} bytes"))?;
        ensure!(!part.is_empty(), "the connection ends after {came} of {length} bytes");
        let most = usize::try_from(length - came).unwrap_or(usize::MAX);
        let part = &part[..part.len().min(most)];
        take(part)?;
        let part = part.len();
        stream.consume(part);
        progress.add(part);
        came += part as u64;
    }
    Ok(())
}

/// An upload that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// What the content follows from.
    pub seed: u64,
    /// Its length in bytes.
    pub length: u64,
    /// At most so many bytes a second.
    pub rate: Option<u64>,
}

impl Upload {
    /// As fast as it goes.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Self {
        Self { seed, length, rate: None }
    }

    /// At most `rate` bytes a second.
    #[must_use]
    pub fn paced(self, rate: u64) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Makes it; the server says what digest the content had.
    ///
    /// # Errors
    /// When it is not taken, or arrived as something else.
    pub fn run(self, server: SocketAddr, progress: &Progress) -> Result<Transfer> {
        let mut stream = BufReader::new(connect(None, server)?);
        let started = Instant::now();
        let digest = self.send_on(&mut stream, true, progress)?;
        let said = expect_digest(&mut stream)?;
        expect_end(&mut stream)?;
        let took = started.elapsed();
        ensure!(said == digest, "{said} arrived, not {digest}");
        Ok(Transfer { bytes: self.length, took })
    }

    /// Makes it on an open connection, which stays open.
    pub(super) fn run_on(self, stream: &mut BufReader<TcpStream>, progress: &Progress) -> Result {
        let digest = self.send_on(stream, false, progress)?;
        let said = expect_digest(stream)?;
        ensure!(said == digest, "{said} arrived, not {digest}");
        Ok(())
    }

    /// Sends request and content; returns the content's digest.
    fn send_on(
        self,
        stream: &mut BufReader<TcpStream>,
        close: bool,
        progress: &Progress,
    ) -> Result<String> {
        let Self { seed, length, rate } = self;
        ask(stream.get_mut(), "PUT", "/upload", length, close)?;
        let (mut source, mut digester) = (Source::new(seed), Digester::default());
        let (mut chunk, mut sent, started) = (vec![0; CHUNK], 0, Instant::now());
        while sent < length {
            let part = (CHUNK as u64).min(length - sent) as usize;
            source.fill(&mut chunk[..part]);
            digester.update(&chunk[..part]);
            stream
                .get_mut()
                .write_all(&chunk[..part])
                .with_context(|| format!("after {sent} bytes"))?;
            progress.add(part);
            sent += part as u64;
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
        }
        Ok(digester.finish().to_string())
    }
}

/// Reads the answer to an upload: the digest of what arrived.
fn expect_digest(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut said = String::new();
    let length = answer(stream)?;
    stream.take(length).read_to_string(&mut said)?;
    Ok(said)
}

/// Starts a download and resets the connection after `after` bytes of it.
///
/// # Errors
/// When fewer come.
pub fn abort(server: SocketAddr, download: Download, after: u64) -> Result {
    let mut stream = BufReader::new(connect(None, server)?);
    let path = format!("/bytes/{}/{}", download.seed, download.length);
    request(&mut stream, "GET", &path, 0, true)?;
    let mut came = 0;
    while came < after {
        let part = stream.fill_buf()?.len();
        ensure!(part > 0, "the connection ends after {came} bytes");
        stream.consume(part);
        came += part as u64;
    }
    dial::reset(stream.into_inner())
}

/// Hears the server speak first, has `lines` lines answered and quits.
///
/// # Errors
/// When the server says anything else.
pub fn banner(server: IpAddr, lines: usize) -> Result {
    use service::banner::{FAREWELL, GREETING, QUIT, answer};
    let mut stream = BufReader::new(connect(None, (server, port::BANNER).into())?);
    expect_line(&mut stream, GREETING)?;
    for number in 0..lines {
        let line = format!("line {number}");
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        expect_line(&mut stream, &answer(&line))?;
    }
    stream.get_mut().write_all(format!("{QUIT}\r\n").as_bytes())?;
    expect_line(&mut stream, FAREWELL)?;
    expect_end(&mut stream)
}

fn expect_line(stream: &mut impl BufRead, expected: &str) -> Result {
    let mut line = String::new();
    stream.read_line(&mut line).with_context(|| format!("instead of {expected:?}"))?;
    ensure!(line == expected, "{line:?} instead of {expected:?}");
    Ok(())
}

/// Sends `length` bytes, closes its half, and only then is answered with their digest.
///
/// # Errors
/// When the answer is another.
pub fn half_close(server: IpAddr, seed: u64, length: u64) -> Result {
    let mut stream = BufReader::new(connect(None, (server, port::HALF_CLOSE).into())?);
    let (mut source, mut chunk, mut left) = (Source::new(seed), vec![0; CHUNK], length);
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        source.fill(&mut chunk[..part]);
        stream.get_mut().write_all(&chunk[..part])?;
        left -= part as u64;
    }
    stream.get_mut().shutdown(Shutdown::Write)?;
    expect_line(&mut stream, &format!("{}\n", Digest::of_stream(seed, length)))?;
    expect_end(&mut stream)
}

/// A conversation, from the client's side.
#[derive(Debug)]
pub struct Talk {
    stream: BufReader<TcpStream>,
    lines: u64,
}

impl Talk {
    /// Opens one.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn open(server: IpAddr) -> Result<Self> {
        let stream = connect(None, (server, port::CONVERSATION).into())?;
        Ok(Self { stream: BufReader::new(stream), lines: 0 })
    }

    /// The client's own address.
    ///
    /// # Errors
    /// When the socket has none any more.
    pub fn client(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// Says something and expects the answer to it.
    ///
    /// # Errors
    /// When another comes, or none.
    pub fn say(&mut self, text: &str) -> Result {
        self.lines += 1;
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes())?;
        expect_line(&mut self.stream, &format!("HEARD {} {text}\n", self.lines))
    }

    /// Has the guest open a connection of its own, from its port `port` to `called`, and expects
    /// that both sides had the right content.
    ///
    /// # Errors
    /// When the guest does not call, or either content is another.
    pub fn call(&mut self, port: u16, called: Called, seed: u64, length: u64) -> Result {
        self.lines += 1;
        let remote = called.listener.local_addr()?.port();
        let line = format!("CALL {port} {remote} {seed} {length}\n");
        self.stream.get_mut().write_all(line.as_bytes())?;
        called.answer(port, seed, length)?;
        let told = Digest::of_stream(called.seed, called.length);
        expect_line(&mut self.stream, &format!("CALLED {told}\n"))
    }

    /// Has the server reset the connection.
    ///
    /// # Errors
    /// When it ends in another way, or not at all.
    pub fn be_reset(mut self) -> Result {
        self.stream.get_mut().write_all(b"RESET\n")?;
        match self.stream.read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            other => bail!("no reset but {other:?}"),
        }
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn reset(self) -> Result {
        dial::reset(self.stream.into_inner())
    }

    /// Takes leave and sees the server close.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(mut self) -> Result {
        self.stream.get_mut().write_all(b"BYE\n")?;
        expect_line(&mut self.stream, "BYE\n")?;
        expect_end(&mut self.stream)
    }
}

/// A service of the client's, for guests that call.
#[derive(Debug)]
pub struct Called {
    listener: TcpListener,
    seed: u64,
    length: u64,
}

impl Called {
    /// Listens on `address`; the caller will be told `length` bytes of `seed`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(address: SocketAddr, seed: u64, length: u64) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        // On Linux this bounds accept too (socket(7)).
        let seconds = TimeVal::seconds(i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX));
        setsockopt(&listener, sockopt::ReceiveTimeout, &seconds)?;
        Ok(Self { listener, seed, length })
    }

    /// Expects one call from port `port` that says `length` bytes of `seed`, and answers it.
    fn answer(&self, port: u16, seed: u64, length: u64) -> Result {
        let (mut stream, guest) = self.listener.accept().context("nobody calls")?;
        ensure!(guest.port() == port, "{guest} calls, not port {port}");
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (mut digester, mut chunk) = (Digester::default(), vec![0; CHUNK]);
        loop {
            match stream.read(&mut chunk)? {
                0 => break,
                came => digester.update(&chunk[..came]),
            }
        }
        ensure!(digester.finish() == Digest::of_stream(seed, length), "the guest said other bytes");
        let (mut source, mut left) = (Source::new(self.seed), self.length);
        while left > 0 {
            let part = left.min(CHUNK as u64) as usize;
            source.fill(&mut chunk[..part]);
            stream.write_all(&chunk[..part])?;
            left -= part as u64;
        }
        Ok(())
    }
}

/// A page number that is different for every `index` of a test with this `seed`.
pub(super) fn page_number(seed: u64, index: u64) -> u64 {
    (Seed::new(seed).below(1 << 20) as u64) << 20 | index
}
