//! Pages, downloads and uploads over as much of HTTP/1.1 as that takes.
//!
//! | request | answer |
//! |---|---|
//! | `GET /page/NUMBER` | [`page`] |
//! | `GET /bytes/SEED/LENGTH` | so many bytes of the stream of that seed |
//! | `GET /bytes/SEED/LENGTH/RATE` | the same, at most RATE bytes a second |
//! | `PUT /upload` with a body | the body's digest |
//!
//! There is no `Date` in the answers: a clock that ticks between the two guests is a divergence.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::lock;
use crate::Result;
use crate::digest::{CHUNK, Digester};
use crate::payload::{self, Seed, Source};

/// Lengths of pages: from less than a segment to a few of them.
const PAGE_LENGTHS: std::ops::Range<usize> = 100..16_000;
/// Keeps the seeds of pages apart from others.
const PAGE_SEED: u64 = 0x7061_6765 << 32;

/// The content of page `number` on every guest.
#[must_use]
pub fn page(number: u64) -> Vec<u8> {
    let seed = PAGE_SEED ^ number;
    let length = PAGE_LENGTHS.start + Seed::new(seed).below(PAGE_LENGTHS.len());
    payload::bytes(seed, length)
}

/// All that a server says to who asks for page `number` and for nothing else, head and content.
#[must_use]
pub fn page_answer(number: u64) -> Vec<u8> {
    let body = page(number);
    [head("200 OK", body.len() as u64, true), body].concat()
}

/// The pages of one guest; a test can make one of them differ.
#[derive(Debug, Default)]
pub struct Pages {
    changed: Mutex<Option<(u64, usize)>>,
}

/// A request, without its body.
struct Request {
    method: String,
    path: String,
    length: u64,
    close: bool,
}

impl Pages {
    /// From now on the byte at `at` of page `number` differs on this guest.
    ///
    /// # Panics
    /// When the page is not that long.
    pub fn change(&self, number: u64, at: usize) {
        assert!(at < page(number).len(), "page {number} has {} bytes", page(number).len());
        *lock(&self.changed) = Some((number, at));
    }

    /// From now on every page is the same as on the other guest.
    pub fn restore(&self) {
        *lock(&self.changed) = None;
    }

    fn page(&self, number: u64) -> Vec<u8> {
        match *lock(&self.changed) {
            Some((changed, at)) if changed == number => {
                payload::with_flipped_byte(&page(number), at)
            }
            _ => page(number),
        }
    }

    pub(super) fn serve(&self, stream: &TcpStream) -> Result {
        let mut input = BufReader::with_capacity(CHUNK, stream);
        while let Some(request) = Request::read(&mut input)? {
            self.answer(stream, &mut input, &request)
                .with_context(|| format!("{} {}", request.method, request.path))?;
            if request.close {
                break;
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        mut stream: &TcpStream,
        input: &mut impl BufRead,
        request: &Request,
    ) -> Result {
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["page", number]) => {
                let body = self.page(number.parse()?);
                let answer = [head("200 OK", body.len() as u64, request.close), body].concat();
                stream.write_all(&answer)?;
            }
            ("GET", ["bytes", seed, length]) => {
                send_bytes(stream, request, seed.parse()?, length.parse()?, None)?;
            }
            ("GET", ["bytes", seed, length, rate]) => {
                send_bytes(stream, request, seed.parse()?, length.parse()?, Some(rate.parse()?))?;
            }
            ("PUT", ["upload"]) => {
                let digest = digest_of(&mut input.take(request.length), request.length)?;
                let answer = [head("200 OK", digest.len() as u64, request.close), digest].concat();
                stream.write_all(&answer)?;
            }
            _ => stream.write_all(&head("404 Not Found", 0, request.close))?,
        }
        Ok(())
    }
}

impl Request {
    /// The next one; none at the end of the stream.
    fn read(input: &mut impl BufRead) -> Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            bail!("no request: {line:?}");
        };
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut request = Self { method, path, length: 0, close: false };
        loop {
            line.clear();
            input.read_line(&mut line)?;
            let field = line.trim_end();
            if field.is_empty() {
                return Ok(Some(request));
            }
            match field.split_once(": ") {
                Some(("Content-Length", length)) => request.length = length.parse()?,
                Some(("Connection", "close")) => request.close = true,
                _ => {}
            }
        }
    }
}

fn head(status: &str, length: u64, close: bool) -> Vec<u8> {
    let connection = if close { "close" } else { "keep-alive" };
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n")
        .into_bytes()
}

fn send_bytes(
    mut stream: &TcpStream,
    request: &Request,
    seed: u64,
    length: u64,
    rate: Option<u64>,
) -> Result {
    stream.write_all(&head("200 OK", length, request.close))?;
    let (mut source, started, mut sent) = (Source::new(seed), Instant::now(), 0);
    // At a rate, ten pieces a second or more.
    let piece = rate.map_or(CHUNK as u64, |rate| (rate / 10).clamp(1, CHUNK as u64));
    let mut chunk = vec![0; piece as usize];
    while sent < length {
        let part = piece.min(length - sent) as usize;
        source.fill(&mut chunk[..part]);
        stream.write_all(&chunk[..part])?;
        sent += part as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    Ok(())
}

fn digest_of(body: &mut impl Read, length: u64) -> Result<Vec<u8>> {
    let (mut digester, mut chunk, mut came) = (Digester::default(), vec![0; CHUNK], 0);
    loop {
        match body.read(&mut chunk)? {
            0 if came == length => return Ok(digester.finish().to_string().into_bytes()),
            0 => bail!("the body ends after {came} of {length} bytes"),
            part => {
                digester.update(&chunk[..part]);
                came += part as u64;
            }
        }
    }
}
