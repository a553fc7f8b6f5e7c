//! How ports are written on the command line: `KIND:WHERE[,option...]`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::kernel::Mode;
use crate::port::xsk::ZeroCopy;

/// An AF_XDP port: `xdp:DEV[,queues=A-B][,mode=auto|native|generic][,zerocopy=auto|on|off]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdpSpec {
    /// Interface name.
    pub device: String,
    /// Receive queues to open.
    pub queues: RangeInclusive<u32>,
    /// How the XDP program is attached.
    pub mode: Mode,
    /// Whether to ask for zero-copy.
    pub zero_copy: ZeroCopy,
}

/// What is wrong with the text of a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No `KIND:` in front.
    #[error("'{0}' names no kind of port: write xdp:DEVICE, for example xdp:tap0")]
    NoKind(String),
    /// A kind that `run` does not take.
    #[error("'{0}' is not a kind of port that this version takes: write xdp:DEVICE")]
    UnknownKind(String),
    /// Nothing after `xdp:`.
    #[error("the port names no device: write xdp:DEVICE, for example xdp:tap0")]
    NoDevice,
    /// An option that does not exist.
    #[error(
        "unknown port option '{0}': there are queues=A-B, mode=auto|native|generic and \
             zerocopy=auto|on|off"
    )]
    UnknownOption(String),
    /// An option with a value that it cannot have.
    #[error("port option {option}={value}: expected {expected}")]
    BadValue {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl FromStr for XdpSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (kind, rest) =
            text.split_once(':').ok_or_else(|| SpecError::NoKind(text.to_owned()))?;
        if kind != "xdp" {
            return Err(SpecError::UnknownKind(kind.to_owned()));
        }
        let mut parts = rest.split(',');
        let device = parts.next().unwrap_or_default();
        if device.is_empty() {
            return Err(SpecError::NoDevice);
        }
        let mut spec = Self {
            device: device.to_owned(),
            queues: 0..=0,
            mode: Mode::Auto,
            zero_copy: ZeroCopy::Auto,
        };
        for option in parts {
            spec.set(option)?;
        }
        Ok(spec)
    }
}

impl XdpSpec {
    /// Queues that one port may open.
    const MOST_QUEUES: u32 = 8;

    fn set(&mut self, option: &str) -> Result<(), SpecError> {
        let unknown = || SpecError::UnknownOption(option.to_owned());
        let (name, value) = option.split_once('=').ok_or_else(unknown)?;
        match name {
            "queues" => self.queues = Self::queues(value)?,
            "mode" => {
                self.mode = match value {
                    "auto" => Mode::Auto,
                    "native" => Mode::Native,
                    "generic" => Mode::Generic,
                    _ => return Err(bad("mode", value, "auto, native or generic")),
                };
            }
            "zerocopy" => {
                self.zero_copy = match value {
                    "auto" => ZeroCopy::Auto,
                    "on" => ZeroCopy::On,
                    "off" => ZeroCopy::Off,
                    _ => return Err(bad("zerocopy", value, "auto, on or off")),
                };
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn queues(value: &str) -> Result<RangeInclusive<u32>, SpecError> {
        let wrong = || bad("queues", value, "a queue or a range of at most 8, such as 0-3");
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        let first: u32 = first.parse().map_err(|_| wrong())?;
        let last: u32 = last.parse().map_err(|_| wrong())?;
        if last < first || last - first >= Self::MOST_QUEUES {
            return Err(wrong());
        }
        Ok(first..=last)
    }
}

fn bad(option: &'static str, value: &str, expected: &'static str) -> SpecError {
    SpecError::BadValue { option, value: value.to_owned(), expected }
}

impl fmt::Display for XdpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xdp:{}", self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_every_option() {
        let spec: XdpSpec =
            "xdp:tap0,queues=1-3,mode=generic,zerocopy=off".parse().expect("well formed");
        assert_eq!(spec.device, "tap0");
        assert_eq!(spec.queues, 1..=3);
        assert_eq!(spec.mode, Mode::Generic);
        assert_eq!(spec.zero_copy, ZeroCopy::Off);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<XdpSpec>().expect_err("malformed");
        assert_eq!(error("tap0"), SpecError::NoKind("tap0".into()));
        assert_eq!(error("tcp:x"), SpecError::UnknownKind("tcp".into()));
        assert_eq!(error("xdp:"), SpecError::NoDevice);
        assert_eq!(error("xdp:a,fast"), SpecError::UnknownOption("fast".into()));
        for text in ["xdp:a,queues=3-1", "xdp:a,queues=0-8", "xdp:a,queues=x", "xdp:a,mode=best"] {
            assert!(matches!(error(text), SpecError::BadValue { .. }), "{text}");
        }
    }
}
