//! Topology and comparator together.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::Result;
use crate::capture::{Capture, PATIENCE, SILENCE};
use crate::comparator::{Comparator, Launch, Outcome};
use crate::control::Status;
use crate::topology::{Plan, Topology};

/// How many frames may be under way at once: a veth queues 256 (`VETH_RING_SIZE` in
/// drivers/net/veth.c) and drops what comes on top when its softirq is late.
pub const WINDOW: usize = 64;

/// A comparator between two guests and a client.
#[derive(Debug)]
pub struct Stage {
    // In this order: the comparator ends before its devices go.
    /// The running binary.
    pub comparator: Comparator,
    /// Guests, devices, client.
    pub topology: Topology,
}

impl Stage {
    /// Builds `plan` and starts the comparator with these arguments beside its ports.
    ///
    /// # Errors
    /// As [`Topology::new`] and [`Launch::start`].
    pub fn new(plan: Plan, arguments: &[&str]) -> Result<Self> {
        Self::with_port_option(plan, None, arguments)
    }

    /// As [`Stage::new`], with an option on every port, as `mode=generic`.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn with_port_option(plan: Plan, option: Option<&str>, arguments: &[&str]) -> Result<Self> {
        let topology = Topology::new(plan)?;
        let mut launch = Launch::on(&topology).arguments(arguments);
        if let Some(option) = option {
            launch = launch.port_option(option);
        }
        let comparator = launch.start(topology.host())?;
        Ok(Self { comparator, topology })
    }

    /// The default plan.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn plain(arguments: &[&str]) -> Result<Self> {
        Self::new(Plan::default(), arguments)
    }

    /// Sends as the primary guest.
    ///
    /// # Errors
    /// As [`crate::topology::Guest::send`].
    pub fn primary<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result {
        self.topology.primary.send_all(frames)
    }

    /// Sends as the secondary guest.
    ///
    /// # Errors
    /// As [`crate::topology::Guest::send`].
    pub fn secondary<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result {
        self.topology.secondary.send_all(frames)
    }

    /// What reaches the client.
    pub fn client(&mut self) -> &mut Capture {
        self.topology.client.capture()
    }

    /// Sends the same frames from both guests, a window at a time, and expects each at the client.
    ///
    /// # Errors
    /// When one is not released, or something else is.
    pub fn exchange<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result {
        for window in frames.chunks(WINDOW) {
            self.primary(window)?;
            self.secondary(window)?;
            self.client().expect(window)?;
        }
        Ok(())
    }

    /// Expects that `frames`, sent by the primary, are held: the comparator has them and nothing
    /// reaches the client.
    ///
    /// # Errors
    /// When something reaches the client, or fewer are held.
    pub fn expect_held(&mut self, frames: u64) -> Result<Status> {
        let status = self.await_count("held", frames)?;
        self.client().expect_nothing(SILENCE)?;
        Ok(status)
    }

    /// Waits until counter `name` is `count`.
    ///
    /// # Errors
    /// When it does not get there in time.
    pub fn await_count(&self, name: &str, count: u64) -> Result<Status> {
        self.comparator.control().await_status(&format!("{name} = {count}"), PATIENCE, |status| {
            status.count(name) == count
        })
    }

    /// Tells the comparator that the guests are equal, and returns its `checkpoint-done` event.
    ///
    /// # Errors
    /// When the command fails or nothing follows from it.
    pub fn checkpoint(&mut self) -> Result<Value> {
        self.comparator.control().call(&["checkpoint"])?;
        self.comparator.event("checkpoint-done")
    }

    /// Stops the comparator and checks what must hold after every test: nothing more leaves,
    /// every frame is accounted for, none is lost, none is still held.
    ///
    /// # Errors
    /// When one of these does not hold.
    pub fn finish(mut self) -> Result<Outcome> {
        let status = self.comparator.status()?;
        ensure!(status.count("held") == 0, "frames are still held: {}", status.0);
        let outcome = self.comparator.stop()?;
        self.topology.client.capture().expect_nothing(Duration::ZERO)?;
        Ok(outcome)
    }
}
