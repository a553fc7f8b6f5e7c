//! Both guests: one AF_XDP socket each, in one region.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use compare_user::port::xsk::{Region, RegionConfig, UmemFrame, XskOptions, XskPort, ZeroCopy};
use compare_user::port::{Port as _, PortError};

use crate::sink::Sink;

/// How long frames may be under way without any of them arriving before they count as lost.
pub(crate) const STALL: Duration = Duration::from_millis(500);

/// What the guests say next.
pub(crate) trait Script {
    /// The next pair.
    fn next(&mut self) -> Pair<'_>;
}

/// A frame of each guest.
pub(crate) struct Pair<'a> {
    /// The primary's and the secondary's.
    pub(crate) frames: [&'a [u8]; 2],
    /// What the sink reads from it: a number of its own, or 0.
    pub(crate) number: u64,
}

/// Two guests that follow a script.
pub(crate) struct Guests<S> {
    region: Region,
    ports: [XskPort; 2],
    queues: [VecDeque<UmemFrame>; 2],
    /// What they say.
    pub(crate) script: S,
    sent: u64,
    /// Sum of the numbers that the frames carry, as [`Sink::sum`] adds them up.
    sum: u64,
}

impl<S: Script> Guests<S> {
    /// Opens a socket on each of two devices.
    pub(crate) fn open(devices: [&String; 2], script: S) -> anyhow::Result<Self> {
        let config = RegionConfig::default();
        let mut region = Region::new(config)?;
        let mut open = |device: &str| {
            let options = XskOptions {
                zero_copy: ZeroCopy::Off,
                receive_frames: 0,
                ..XskOptions::new(device, 0)
            };
            XskPort::open(&mut region, options)
        };
        let ports = [open(devices[0])?, open(devices[1])?];
        let queue = || VecDeque::with_capacity(config.frames as usize);
        Ok(Self { region, ports, queues: [queue(), queue()], script, sent: 0, sum: 0 })
    }

    /// Pairs sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends `count` pairs, or fewer when memory is short, and takes back what has left.
    pub(crate) fn send(&mut self, count: usize) -> Result<(), PortError> {
        let Self { region, ports, queues, .. } = self;
        for _ in 0..count.min(region.free() / 2) {
            let pair = self.script.next();
            for (queue, bytes) in queues.iter_mut().zip(pair.frames) {
                queue.extend(region.allocate(bytes));
            }
            self.sent += 1;
            self.sum = self.sum.wrapping_add(pair.number);
        }
        for (port, queue) in ports.iter_mut().zip(queues) {
            port.transmit(region, queue)?;
            port.service(region)?;
        }
        Ok(())
    }

    /// Waits for what is under way.
    pub(crate) fn drain(&mut self, sink: &Sink) -> Result<(), PortError> {
        let deadline = Instant::now() + STALL;
        while sink.frames() < self.sent && Instant::now() < deadline {
            self.send(0)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Closes the sockets; returns how many pairs were sent and the sum of their numbers.
    pub(crate) fn close(self) -> (u64, u64) {
        let mut region = self.region;
        for frame in self.queues.into_iter().flatten() {
            region.recycle(frame);
        }
        for port in self.ports {
            port.close(&mut region);
        }
        (self.sent, self.sum)
    }
}
