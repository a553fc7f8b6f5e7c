//! What is measured: pairs of frames through the comparator, or through the floor.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use compare_user::compare::{
    Amendment, Comparator, Config, Discard, Divergence, Release, Side, Sink, Timestamp,
};
use compare_user::frame::{FrameStore, Headers};
use etherparse::PacketBuilder;

use crate::pool::{Frame, Pool};

/// Frames that a lane takes from one ring before it looks at the other.
const BATCH: usize = 64;

/// Start of the IP header, and of the transport header, in a frame without tags or options.
const IP: usize = 14;
const TRANSPORT: usize = IP + 20;

const UDP_PAYLOAD: usize = 64;
const TCP_PAYLOAD: usize = 1448;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 64 bytes of payload.
    Udp,
    /// 1448 bytes of payload.
    Tcp,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp 64",
            Self::Tcp => "tcp 1448",
        })
    }
}

/// A kind of traffic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) flows: usize,
    /// The secondary's frames are reversed in windows of this many.
    pub(crate) window: usize,
    /// Pairs that are prepared, then measured, together.
    pub(crate) block: usize,
}

impl Load {
    fn template(&self) -> Vec<u8> {
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10; 4], [10; 4], 64);
        let mut frame = Vec::new();
        let written = match self.kind {
            Kind::Udp => step.udp(53, 0).write(&mut frame, &[7; UDP_PAYLOAD]),
            Kind::Tcp => step.tcp(80, 0, 0, 1000).ack(1).write(&mut frame, &[7; TCP_PAYLOAD]),
        };
        written.expect("the payload fits");
        frame
    }

    /// Makes `frame` the one that both replicas send as number `pair`. Flows take turns in an
    /// order without locality: 7919 is prime to every number of flows used.
    fn prepare(&self, pool: &mut Pool, frame: &Frame, pair: usize) {
        let flow = (pair * 7919 % self.flows) as u32;
        let round = pair / self.flows;
        pool.write(frame, IP + 16, &(0x0b00_0000 | flow >> 16).to_be_bytes());
        pool.write(frame, TRANSPORT + 2, &(flow as u16).to_be_bytes());
        match self.kind {
            Kind::Udp => pool.write(frame, TRANSPORT + 8, &pair.to_be_bytes()),
            Kind::Tcp => {
                let sequence = (round * TCP_PAYLOAD) as u32;
                pool.write(frame, TRANSPORT + 4, &sequence.to_be_bytes());
            }
        }
    }
}

/// Something whose time per pair is measured.
pub(crate) trait Measured {
    /// Runs one block and returns the time that it took.
    fn block(&mut self) -> Duration;

    /// Pairs per block.
    fn pairs_per_block(&self) -> usize;

    /// The time that `pairs` pairs take: whole blocks, scaled.
    fn pairs(&mut self, pairs: u64) -> Duration {
        let per_block = self.pairs_per_block() as u64;
        let blocks = pairs.div_ceil(per_block);
        let time: Duration = (0..blocks).map(|_| self.block()).sum();
        time.mul_f64(pairs as f64 / (blocks * per_block) as f64)
    }
}

/// The frames of both sides and where they are.
struct Stage {
    load: Load,
    pool: Pool,
    free: Vec<Frame>,
    primary: Vec<Frame>,
    secondary: Vec<Frame>,
    next: usize,
}

impl Stage {
    fn new(load: Load) -> Self {
        let (pool, free) = Pool::new(&load.template(), 2 * load.block);
        let (primary, secondary) = (Vec::with_capacity(load.block), Vec::with_capacity(load.block));
        Self { load, pool, free, primary, secondary, next: 0 }
    }

    fn prepare(&mut self) {
        for side in [&mut self.primary, &mut self.secondary] {
            for pair in self.next..self.next + self.load.block {
                let frame = self.free.pop().expect("every frame comes back");
                self.load.prepare(&mut self.pool, &frame, pair);
                side.push(frame);
            }
        }
        self.secondary.chunks_mut(self.load.window).for_each(<[Frame]>::reverse);
        self.next += self.load.block;
    }
}

/// The least work: parse, hash, compare. The frames come as they come to the comparator, all of
/// the primary's in a block and then the secondary's, so that the caches have the same to do.
pub(crate) struct Floor {
    stage: Stage,
    /// What is to be compared of the primary's frames.
    contents: Vec<(usize, usize)>,
}

impl Floor {
    pub(crate) fn new(load: Load) -> Self {
        let contents = Vec::with_capacity(load.block);
        Self { stage: Stage::new(Load { window: 1, ..load }), contents }
    }

    fn content(pool: &Pool, frame: &Frame) -> (usize, usize) {
        let headers = Headers::parse(pool, frame);
        black_box(headers.key.hash(1));
        (headers.content.into(), headers.end as usize)
    }
}

impl Measured for Floor {
    fn block(&mut self) -> Duration {
        let Self { stage, contents } = self;
        stage.prepare();
        let started = Instant::now();
        contents.clear();
        contents.extend(stage.primary.iter().map(|frame| Self::content(&stage.pool, frame)));
        let pairs = stage.primary.drain(..).zip(stage.secondary.drain(..));
        for ((ours, theirs), (start, end)) in pairs.zip(contents.iter()) {
            let (their_start, their_end) = Self::content(&stage.pool, &theirs);
            let our_bytes = &stage.pool.run(&ours, *start)[..end - start];
            let their_bytes = &stage.pool.run(&theirs, their_start)[..their_end - their_start];
            // The checksums among them are equal too.
            assert!(black_box(our_bytes == their_bytes), "equal replicas");
            stage.free.push(ours);
            stage.free.push(theirs);
        }
        started.elapsed()
    }

    fn pairs_per_block(&self) -> usize {
        self.stage.load.block
    }
}

/// Frames come back to the pool.
struct Recycle<'a> {
    free: &'a mut Vec<Frame>,
}

impl Sink<Pool> for Recycle<'_> {
    #[inline]
    fn release(&mut self, frame: Frame, why: Release, amendment: Amendment) {
        black_box((why, amendment));
        self.free.push(frame);
    }

    #[inline]
    fn discard(&mut self, frame: Frame, side: Side, why: Discard) {
        assert!(side == Side::Secondary && !why.is_loss(), "nothing is lost: {why:?}");
        self.free.push(frame);
    }

    fn diverged(&mut self, _: &Pool, divergence: &Divergence<'_, Pool>) {
        panic!("equal replicas: {} {:?}", divergence.flow, divergence.reason);
    }

    fn checkpoint_wanted(&mut self) {}
}

/// Both replicas through the comparator.
pub(crate) struct Replicas {
    stage: Stage,
    comparator: Comparator<Frame>,
    batch: Vec<Frame>,
    now: Timestamp,
}

impl Replicas {
    /// A comparator that knows all flows already.
    pub(crate) fn new(load: Load) -> Self {
        let config =
            Config { flow_limit: load.flows.max(1024) as u32, seed: 1, ..Config::default() };
        let mut replicas = Self {
            stage: Stage::new(load),
            comparator: Comparator::new(config),
            batch: Vec::with_capacity(BATCH),
            now: Timestamp::ORIGIN,
        };
        for _ in 0..load.flows.div_ceil(load.block) + 1 {
            replicas.block();
        }
        replicas
    }
}

impl Measured for Replicas {
    fn block(&mut self) -> Duration {
        let Self { stage, comparator, batch, now } = self;
        stage.prepare();
        *now = *now + Duration::from_micros(100);
        let started = Instant::now();
        let sink = &mut Recycle { free: &mut stage.free };
        for (side, frames) in
            [(Side::Primary, &mut stage.primary), (Side::Secondary, &mut stage.secondary)]
        {
            while !frames.is_empty() {
                let taken = frames.len().min(BATCH);
                batch.extend(frames.drain(..taken));
                comparator.offer_batch(side, batch, *now, &stage.pool, sink);
            }
        }
        comparator.tick(*now, &stage.pool, sink);
        started.elapsed()
    }

    fn pairs_per_block(&self) -> usize {
        self.stage.load.block
    }
}
