//! Lines and answers, for as long as the client likes.
//!
//! | line | answer |
//! |---|---|
//! | `CALL PORT REMOTE SEED LENGTH` | the guest opens a connection of its own, from PORT to the client's port REMOTE, sends LENGTH bytes of SEED, closes its half, reads to the end; then `CALLED` and the digest of what it read |
//! | `RESET` | none: the server resets the connection |
//! | `BYE` | `BYE`, and the server closes |
//! | anything else | `HEARD`, how many lines that makes, and the line |
//!
//! The socket can be exchanged under an idle conversation: what a checkpoint of the whole guest
//! would do to it (see [`crate::repair`]).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::lock;
use crate::Result;
use crate::digest::{CHUNK, Digester};
use crate::load;
use crate::payload::Source;

/// Between two looks at the socket: it is left alone meanwhile, so that it can be exchanged.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// One conversation.
#[derive(Debug)]
pub struct Conversation {
    client: SocketAddr,
    /// None once the server has closed it.
    stream: Mutex<Option<TcpStream>>,
}

/// What follows from a line.
enum Turn {
    Answer(String),
    Reset,
    Bye,
}

impl Conversation {
    pub(super) fn new(stream: TcpStream, client: SocketAddr) -> Self {
        Self { client, stream: Mutex::new(Some(stream)) }
    }

    /// Exchanges the socket for another, while nothing is read from it or written to it.
    ///
    /// # Errors
    /// When `exchange` fails, or the conversation is over.
    pub fn exchange(&self, exchange: impl FnOnce(TcpStream) -> Result<TcpStream>) -> Result {
        let mut stream = lock(&self.stream);
        *stream = Some(exchange(stream.take().context("the conversation is over")?)?);
        Ok(())
    }

    /// Looks at the socket, while nothing is read from it or written to it.
    ///
    /// # Errors
    /// When `look` fails, or the conversation is over.
    pub fn look<T>(&self, look: impl FnOnce(&TcpStream) -> Result<T>) -> Result<T> {
        look(lock(&self.stream).as_ref().context("the conversation is over")?)
    }

    /// Holds it until either side ends it, or `end`.
    pub(super) fn hold(&self, end: &AtomicBool) -> Result {
        let (mut input, mut lines) = (Vec::new(), 0);
        while !end.load(Ordering::Relaxed) {
            if !self.read_more(&mut input)? {
                break;
            }
            while let Some(length) = input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = input.drain(..=length).collect();
                lines += 1;
                match self.turn(String::from_utf8_lossy(&line).trim_end(), lines)? {
                    Turn::Answer(answer) => self.write(&answer)?,
                    Turn::Reset => {
                        let stream = lock(&self.stream).take();
                        return stream.map_or(Ok(()), load::reset);
                    }
                    Turn::Bye => {
                        self.write("BYE\n")?;
                        drop(lock(&self.stream).take());
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what is there, waiting a little for it; false at the end of the stream.
    fn read_more(&self, input: &mut Vec<u8>) -> Result<bool> {
        let mut chunk = [0; 4096];
        let came = {
            let stream = lock(&self.stream);
            let mut stream = stream.as_ref().context("the conversation is over")?;
            stream.set_nonblocking(true)?;
            let came = stream.read(&mut chunk);
            stream.set_nonblocking(false)?;
            came
        };
        match came {
            Ok(0) => Ok(false),
            Ok(length) => {
                input.extend(&chunk[..length]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(LOOK_AGAIN);
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, answer: &str) -> io::Result<()> {
        match lock(&self.stream).as_mut() {
            Some(stream) => stream.write_all(answer.as_bytes()),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn turn(&self, line: &str, lines: u64) -> Result<Turn> {
        let words: Vec<&str> = line.split(' ').collect();
        Ok(match words.as_slice() {
            ["RESET"] => Turn::Reset,
            ["BYE"] => Turn::Bye,
            ["CALL", port, remote, seed, length] => {
                let there = SocketAddr::new(self.client.ip(), remote.parse()?);
                let digest = call(port.parse()?, there, seed.parse()?, length.parse()?)
                    .with_context(|| format!("call to {there}"))?;
                Turn::Answer(format!("CALLED {digest}\n"))
            }
            _ => Turn::Answer(format!("HEARD {lines} {line}\n")),
        })
    }
}

/// The guest's own connection; returns the digest of what it was told.
fn call(port: u16, there: SocketAddr, seed: u64, length: u64) -> Result<String> {
    let mut stream = load::connect(Some(port), there)?;
    let (mut source, mut chunk) = (Source::new(seed), vec![0; CHUNK]);
    let mut left = length;
    while left > 0 {
        let part = left.min(CHUNK as u64) as usize;
        source.fill(&mut chunk[..part]);
        stream.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let (mut digester, mut any) = (Digester::default(), false);
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            came => digester.update(&chunk[..came]),
        }
        any = true;
    }
    ensure!(any, "nothing was said");
    Ok(digester.finish().to_string())
}
