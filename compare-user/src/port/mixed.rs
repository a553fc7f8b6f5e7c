//! Devices and sockets in one lane: all frames lie in the region that the devices address.

use std::collections::VecDeque;

use nix::poll::PollFd;

use super::chardev::ChardevPort;
use super::xsk::{Region, UmemFrame, XskPort};
use super::{InFlight, Port, PortError};

/// A port of either kind.
#[derive(Debug)]
pub enum MixedPort {
    /// One queue of a device.
    Xsk(Box<XskPort>),
    /// A socket.
    Chardev(Box<ChardevPort<Region>>),
}

/// Does the same with whichever it is.
macro_rules! either {
    ($port:expr, $inner:ident => $what:expr) => {
        match $port {
            MixedPort::Xsk($inner) => $what,
            MixedPort::Chardev($inner) => $what,
        }
    };
}

impl Port for MixedPort {
    type Store = Region;

    #[inline]
    fn receive(
        &mut self,
        store: &mut Region,
        into: &mut Vec<UmemFrame>,
        limit: usize,
    ) -> Result<(), PortError> {
        either!(self, port => port.receive(store, into, limit))
    }

    #[inline]
    fn transmit(
        &mut self,
        store: &mut Region,
        from: &mut VecDeque<UmemFrame>,
    ) -> Result<(), PortError> {
        either!(self, port => port.transmit(store, from))
    }

    #[inline]
    fn service(&mut self, store: &mut Region) -> Result<(), PortError> {
        either!(self, port => port.service(store))
    }

    fn name(&self) -> &str {
        either!(self, port => port.name())
    }

    fn is_alive(&self) -> bool {
        either!(self, port => port.is_alive())
    }

    fn is_up(&self) -> bool {
        either!(self, port => port.is_up())
    }

    fn was_up(&self) -> bool {
        either!(self, port => port.was_up())
    }

    fn has_back_pressure(&self) -> bool {
        either!(self, port => port.has_back_pressure())
    }

    fn close(self, store: &mut Region) {
        either!(self, port => Port::close(*port, store));
    }

    fn kernel_dropped(&self) -> u64 {
        either!(self, port => port.kernel_dropped())
    }

    fn statistics(&self) -> serde_json::Value {
        either!(self, port => Port::statistics(&**port))
    }

    fn wait(&self) -> Option<PollFd<'_>> {
        either!(self, port => port.wait())
    }

    fn in_flight(&self) -> InFlight {
        either!(self, port => port.in_flight())
    }
}
