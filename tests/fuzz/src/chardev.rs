//! Chardev ports: a stream goes in at one port and out at another, through frame memory that is
//! nearly always short and peers that give and take little at a time. What comes out is what a
//! second reader finds in the stream, byte for byte; every chunk of memory is free afterwards.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use compare_user::frame::FrameStore as _;
use compare_user::port::arena::{Arena, ArenaFrame};
use compare_user::port::chardev::framing::LONGEST_HEADER;
use compare_user::port::chardev::{ChardevPort, Direction, Vnet};
use compare_user::port::spec::{Address, ChardevSpec};
use compare_user::port::{Memory as _, Port as _};

use crate::pieces::Pieces;
use crate::stream;

const CHUNK: usize = 2048;

/// Chunks that the longest frame takes: with fewer it would wait for ever.
const FEWEST: u32 = (stream::LONGEST / CHUNK) as u32 + 1;

/// Input: bit 0 of the first byte whether there are vnet headers, bits 1 to 3 how much memory beyond
/// the least, the rest how many frames one call may receive; then [pieces](crate::pieces).
pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let vnet = kind & 1 == 1;
    let pieces = Pieces::read(rest);
    let expected = stream::read(pieces.stream, vnet, LONGEST_HEADER);

    let mode = if vnet { Vnet::Carried } else { Vnet::Off };
    let mut passage = Passage {
        arena: Arena::new(FEWEST + 4 * u32::from(kind >> 1 & 7), CHUNK),
        limit: 1 + usize::from(kind >> 4),
        held: Vec::new(),
        leaving: VecDeque::new(),
        entrance: End::open(Direction::Receive, mode),
        exit: End::open(Direction::Send, mode),
    };
    let out = passage.carry(&pieces);

    assert!(passage.held.is_empty() && passage.leaving.is_empty());
    assert_eq!(out, stream::written(&expected.messages, vnet), "what went in came out");
    let statistics = passage.entrance.port.statistics();
    let faults: u64 = ["faults_empty", "faults_too_long", "faults_header"]
        .iter()
        .map(|name| statistics[name].as_u64().expect("a count"))
        .sum();
    assert_eq!(faults, u64::from(expected.fault), "{statistics}");
    assert_eq!(statistics["frames"], expected.messages.len());
    assert_eq!(passage.arena.free(), passage.arena.total(), "all memory is free again");
}

/// A port with its peer.
struct End {
    port: ChardevPort<Arena>,
    peer: UnixStream,
}

impl End {
    fn open(direction: Direction, vnet: Vnet) -> Self {
        let path = socket_path();
        // Of an earlier process with this number, that did not get to the end.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("the temporary directory can be written");
        let spec = ChardevSpec { address: Address::Unix(path.clone()), server: false };
        let mut port = ChardevPort::open(&spec, direction, vnet).expect("a client just begins");
        port.service(&mut Arena::new(0, CHUNK)).expect("never fails");
        let (peer, _) = listener.accept().expect("the port has connected");
        std::fs::remove_file(&path).expect("bound above");
        peer.set_nonblocking(true).expect("a socket can be");
        assert!(port.is_up());
        Self { port, peer }
    }
}

fn socket_path() -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    std::env::temp_dir().join(format!("colo-fuzz-{}-{number}", std::process::id()))
}

struct Passage {
    arena: Arena,
    limit: usize,
    held: Vec<ArenaFrame>,
    leaving: VecDeque<ArenaFrame>,
    entrance: End,
    exit: End,
}

impl Passage {
    /// Carries the whole stream over; returns what came out.
    fn carry(&mut self, pieces: &Pieces<'_>) -> Vec<u8> {
        let mut sizes = pieces.sizes();
        let mut rest = pieces.stream;
        let mut out = Vec::new();
        let mut buffer = vec![0; 65_536];
        let mut idle = 0;
        // Two turns with nothing to do: in one a port sees that its peer is gone.
        while idle < 2 {
            let size = sizes.next().unwrap_or(usize::MAX);
            let before = (rest.len(), out.len(), self.held.len(), self.leaving.len());
            rest = self.give(rest, size);
            self.turn();
            self.audit();
            let wanted = size.min(buffer.len());
            match self.exit.peer.read(&mut buffer[..wanted]) {
                Ok(0) => panic!("nothing ends the output"),
                Ok(count) => out.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            let after = (rest.len(), out.len(), self.held.len(), self.leaving.len());
            idle = if before == after { idle + 1 } else { 0 };
        }
        out
    }

    /// The peer sends up to `size` bytes, and ends the stream after the last.
    fn give<'a>(&mut self, rest: &'a [u8], size: usize) -> &'a [u8] {
        if rest.is_empty() {
            return rest;
        }
        match self.entrance.peer.write(&rest[..size.min(rest.len())]) {
            Ok(count) => {
                let rest = &rest[count..];
                if rest.is_empty() {
                    // The port may have hung up already.
                    let _ = self.entrance.peer.shutdown(Shutdown::Write);
                }
                rest
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => rest,
            // The port has hung up on a fault.
            Err(_) => &[],
        }
    }

    /// What a lane does, but for the comparator.
    fn turn(&mut self) {
        self.entrance.port.receive(&mut self.arena, &mut self.held, self.limit).expect("no error");
        assert!(self.held.len() <= self.limit, "no more than was asked for");
        self.leaving.extend(self.held.drain(..));
        self.exit.port.transmit(&mut self.arena, &mut self.leaving).expect("no error");
    }

    /// Every chunk is free or in a frame that is here.
    fn audit(&self) {
        let within: usize = self.leaving.iter().map(|frame| self.arena.occupies(frame)).sum();
        assert_eq!(self.arena.free() + within, self.arena.total(), "every chunk is somewhere");
        for frame in &self.leaving {
            assert!(self.arena.len(frame) <= stream::LONGEST);
            assert!(self.arena.prefix(frame).len() <= LONGEST_HEADER);
        }
    }
}
