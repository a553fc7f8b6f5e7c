//! A port whose device is a queue in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use compare_user::frame::FrameStore as _;
use compare_user::lane::Opener;
use compare_user::port::arena::{Arena, ArenaFrame};
use compare_user::port::{InFlight, Memory as _, Port, PortError};
use nix::poll::PollFd;

/// What a port and the world both see.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Frames that wait to be received.
    pub(crate) waiting: VecDeque<Vec<u8>>,
    /// As many may wait.
    pub(crate) room: usize,
    /// Frames that came while there was no room.
    pub(crate) dropped: u64,
    /// The device is there.
    pub(crate) alive: bool,
    /// A port is open on it.
    pub(crate) open: bool,
    /// Frames that the lane has taken.
    pub(crate) received: u64,
    /// Frames that may be under way at once.
    pub(crate) takes: usize,
    /// Frames that are through after each turn.
    pub(crate) completes: usize,
    /// What has left since the world last looked.
    pub(crate) sent: Vec<Vec<u8>>,
}

/// A wire with two ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Wire>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().expect("one thread")
    }

    /// Opens the port, again and again, while the device is there.
    pub(crate) fn opener(&self, name: &'static str, waits: bool) -> Opener<MemoryPort> {
        let wire = self.clone();
        Box::new(move |_| {
            if !wire.lock().alive {
                return Err("still away".to_owned());
            }
            Ok(MemoryPort::new(name, wire.clone(), waits))
        })
    }
}

/// One end of a wire.
pub(crate) struct MemoryPort {
    name: &'static str,
    wire: Shared,
    /// The peer waits, as that of a socket does.
    waits: bool,
    under_way: VecDeque<ArenaFrame>,
    /// Units of memory under way.
    occupied: usize,
    /// Frames dropped at the device before this port was opened.
    dropped_before: u64,
}

impl MemoryPort {
    pub(crate) fn new(name: &'static str, wire: Shared, waits: bool) -> Self {
        let dropped_before = {
            let mut wire = wire.lock();
            wire.open = true;
            wire.dropped
        };
        Self { name, wire, waits, under_way: VecDeque::new(), occupied: 0, dropped_before }
    }

    fn check(&self) -> Result<(), PortError> {
        if self.wire.lock().alive {
            return Ok(());
        }
        let cause = std::io::Error::from_raw_os_error(libc::ENODEV);
        Err(PortError::DeviceGone { device: self.name.to_owned(), cause })
    }
}

impl Port for MemoryPort {
    type Store = Arena;

    fn receive(
        &mut self,
        store: &mut Arena,
        into: &mut Vec<ArenaFrame>,
        limit: usize,
    ) -> Result<(), PortError> {
        let mut wire = self.wire.lock();
        for _ in 0..limit {
            let Some(bytes) = wire.waiting.front() else { break };
            let Some(frame) = store.allocate(&[], bytes) else { break };
            wire.waiting.pop_front();
            wire.received += 1;
            into.push(frame);
        }
        drop(wire);
        // Frames that were received before the device went are valid.
        self.check()
    }

    fn transmit(
        &mut self,
        store: &mut Arena,
        from: &mut VecDeque<ArenaFrame>,
    ) -> Result<(), PortError> {
        self.check()?;
        let mut wire = self.wire.lock();
        while self.under_way.len() < wire.takes
            && let Some(frame) = from.pop_front()
        {
            let mut bytes = Vec::new();
            while bytes.len() < store.len(&frame) {
                bytes.extend_from_slice(store.run(&frame, bytes.len()));
            }
            wire.sent.push(bytes);
            self.occupied += store.occupies(&frame);
            self.under_way.push_back(frame);
        }
        Ok(())
    }

    fn service(&mut self, store: &mut Arena) -> Result<(), PortError> {
        self.check()?;
        let through = self.wire.lock().completes.min(self.under_way.len());
        for frame in self.under_way.drain(..through) {
            self.occupied -= store.occupies(&frame);
            store.recycle(frame);
        }
        Ok(())
    }

    fn name(&self) -> &str {
        self.name
    }

    fn is_alive(&self) -> bool {
        self.wire.lock().alive
    }

    fn has_back_pressure(&self) -> bool {
        self.waits
    }

    fn close(self, store: &mut Arena) {
        self.wire.lock().open = false;
        for frame in self.under_way {
            store.recycle(frame);
        }
    }

    fn kernel_dropped(&self) -> u64 {
        self.wire.lock().dropped - self.dropped_before
    }

    fn statistics(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn wait(&self) -> Option<PollFd<'_>> {
        None
    }

    fn in_flight(&self) -> InFlight {
        InFlight { receive: 0, transmit: self.occupied }
    }
}
