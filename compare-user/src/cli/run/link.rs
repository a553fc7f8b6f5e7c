//! Whether the secondary's frames can come: its device and carrier, or the peer of its socket.

use crate::kernel::LinkState;
use crate::lane::Presence;
use crate::port::spec::PortSpec;

/// A change that is worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkChange {
    /// Frames can come no longer.
    Lost {
        /// Device or socket.
        device: String,
        /// What was found.
        cause: String,
    },
    /// They can again.
    Restored {
        /// Device or socket.
        device: String,
    },
}

/// Looks at the port that the secondary's frames come from.
pub(super) struct LinkWatch {
    place: Place,
    secondary: Secondary,
}

enum Place {
    Device(String),
    Socket(String),
}

impl LinkWatch {
    pub(super) fn new(secondary: &PortSpec) -> Self {
        let place = match secondary {
            PortSpec::Xdp(spec) => Place::Device(spec.device.clone()),
            PortSpec::Chardev(spec) => Place::Socket(spec.to_string()),
        };
        Self { place, secondary: Secondary::Awaited }
    }

    /// What has changed since the last look.
    pub(super) fn look(&mut self, presence: &Presence) -> Option<LinkChange> {
        let (device, seen) = match &self.place {
            Place::Device(device) => match LinkState::of(device) {
                Ok(state) => (device, fault(state)),
                Err(error) => {
                    tracing::debug!(%error, "the link's state is unknown");
                    return None;
                }
            },
            Place::Socket(socket) => {
                if presence.came() {
                    // Even if it has left again before the first look.
                    self.secondary.arrive();
                }
                (socket, (!presence.is_there()).then_some("its peer is gone"))
            }
        };
        let device = device.clone();
        self.secondary.observe(seen).map(|change| match change {
            Observed::Lost(cause) => LinkChange::Lost { device, cause: cause.into() },
            Observed::Restored => LinkChange::Restored { device },
        })
    }
}

fn fault(state: LinkState) -> Option<&'static str> {
    match state {
        LinkState::Up => None,
        LinkState::Down => Some("the device is down"),
        LinkState::NoCarrier => Some("the device has no carrier"),
        LinkState::Gone => Some("the device is gone"),
    }
}

/// Whether there is a secondary. One that never came cannot be lost: a comparator may be started
/// before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secondary {
    Awaited,
    There,
    Lost,
}

#[derive(Debug, PartialEq, Eq)]
enum Observed {
    Lost(&'static str),
    Restored,
}

impl Secondary {
    /// It has been there.
    fn arrive(&mut self) {
        if *self == Self::Awaited {
            *self = Self::There;
        }
    }

    fn observe(&mut self, fault: Option<&'static str>) -> Option<Observed> {
        match (*self, fault) {
            (Self::Awaited, None) => {
                self.arrive();
                None
            }
            (Self::There, Some(fault)) => {
                *self = Self::Lost;
                Some(Observed::Lost(fault))
            }
            (Self::Lost, None) => {
                *self = Self::There;
                Some(Observed::Restored)
            }
            (Self::There, None) | (Self::Awaited | Self::Lost, Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_and_so_is_the_return() {
        let mut secondary = Secondary::Awaited;
        let seen = [
            (Some("down"), None),
            (None, None),
            (None, None),
            (Some("gone"), Some(Observed::Lost("gone"))),
            (Some("down"), None),
            (None, Some(Observed::Restored)),
            (None, None),
            (Some("down"), Some(Observed::Lost("down"))),
        ];
        for (fault, told) in seen {
            assert_eq!(secondary.observe(fault), told, "{fault:?}");
        }
    }

    #[test]
    fn one_that_came_and_left_between_two_looks_is_lost() {
        let mut secondary = Secondary::Awaited;
        assert_eq!(secondary.observe(Some("gone")), None);
        secondary.arrive();
        assert_eq!(secondary.observe(Some("gone")), Some(Observed::Lost("gone")));
        secondary.arrive();
        assert_eq!(secondary.observe(Some("gone")), None);
    }
}
