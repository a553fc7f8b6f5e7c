//! Both guests: one AF_XDP socket each, in one region.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use compare_user::port::xsk::{Region, RegionConfig, UmemFrame, XskOptions, XskPort, ZeroCopy};
use compare_user::port::{Port as _, PortError};

use crate::frames::Frames;
use crate::sink::Sink;

/// How long frames may be under way without any of them arriving before they count as lost.
pub(crate) const STALL: Duration = Duration::from_millis(500);

/// Two guests that say the same.
pub(crate) struct Guests {
    region: Region,
    ports: [XskPort; 2],
    queues: [VecDeque<UmemFrame>; 2],
    frames: Frames,
    sent: u64,
    /// Sum of the numbers that the frames carry, as [`Sink::sum`] adds them up.
    sum: u64,
}

impl Guests {
    /// Opens a socket on each of two devices.
    pub(crate) fn open(devices: [&String; 2], frames: Frames) -> anyhow::Result<Self> {
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
        Ok(Self { region, ports, queues: [queue(), queue()], frames, sent: 0, sum: 0 })
    }

    /// Pairs sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends `count` pairs, or fewer when memory is short, and takes back what has left.
    pub(crate) fn send(&mut self, count: usize) -> Result<(), PortError> {
        let Self { region, ports, queues, .. } = self;
        for _ in 0..count.min(region.free() / 2) {
            let (bytes, number) = self.frames.next();
            for queue in &mut *queues {
                queue.extend(region.allocate(bytes));
            }
            self.sent += 1;
            self.sum = self.sum.wrapping_add(number);
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
