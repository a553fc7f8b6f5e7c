//! How ports are written on the command line: `KIND:WHERE[,option...]`.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
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

/// A socket chardev: `chardev:unix:PATH[,server]` or `chardev:tcp:HOST:PORT[,server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevSpec {
    /// Where the peer is, or is waited for.
    pub address: Address,
    /// Whether to listen there instead of connecting.
    pub server: bool,
}

/// Address of a stream socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A path in the file system.
    Unix(PathBuf),
    /// A host, by name or number, and a port.
    Tcp {
        /// Empty for this host: a server without one takes no peer from elsewhere.
        host: String,
        /// From 1.
        port: u16,
    },
}

/// Any port that `run` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortSpec {
    /// AF_XDP on a device.
    Xdp(XdpSpec),
    /// A socket.
    Chardev(ChardevSpec),
}

/// What is wrong with the text of a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No `KIND:` in front.
    #[error("'{0}' names no kind of port: write xdp:DEVICE or chardev:unix:PATH")]
    NoKind(String),
    /// A kind that `run` does not take.
    #[error(
        "'{0}' is not a kind of port: there are xdp:DEVICE, chardev:unix:PATH and \
         chardev:tcp:HOST:PORT"
    )]
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
    /// Nothing that is an address after `chardev:`.
    #[error("chardev:{0}: expected chardev:unix:PATH[,server] or chardev:tcp:HOST:PORT[,server]")]
    BadAddress(String),
    /// The path of a unix socket is longer than the kernel takes.
    #[error("chardev:unix:{0}: a socket's path has at most {LONGEST_PATH} bytes")]
    LongPath(String),
    /// An option that sockets do not have.
    #[error("unknown port option '{0}': a chardev has only 'server'")]
    UnknownChardevOption(String),
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
        let rest = text.strip_prefix("xdp:").ok_or_else(|| unknown_kind(text))?;
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

/// Bytes of a socket's path: `sun_path` of unix(7) without the NUL.
const LONGEST_PATH: usize = 107;

impl FromStr for ChardevSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let rest = text.strip_prefix("chardev:").ok_or_else(|| unknown_kind(text))?;
        let bad = || SpecError::BadAddress(rest.to_owned());
        let mut parts = rest.split(',');
        let address = match parts.next().and_then(|address| address.split_once(':')) {
            Some(("unix", path)) if path.len() > LONGEST_PATH => {
                return Err(SpecError::LongPath(path.to_owned()));
            }
            Some(("unix", path)) if !path.is_empty() => Address::Unix(path.into()),
            Some(("tcp", place)) => {
                let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
                let port: u16 = port.parse().map_err(|_| bad())?;
                if port == 0 {
                    return Err(bad());
                }
                let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
                Address::Tcp { host: host.to_owned(), port }
            }
            _ => return Err(bad()),
        };
        let mut spec = Self { address, server: false };
        for option in parts {
            match option {
                "server" => spec.server = true,
                _ => return Err(SpecError::UnknownChardevOption(option.to_owned())),
            }
        }
        Ok(spec)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

impl fmt::Display for ChardevSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = if self.server { ",server" } else { "" };
        write!(f, "chardev:{}{server}", self.address)
    }
}

fn unknown_kind(text: &str) -> SpecError {
    match text.split_once(':') {
        Some((kind, _)) => SpecError::UnknownKind(kind.to_owned()),
        None => SpecError::NoKind(text.to_owned()),
    }
}

impl FromStr for PortSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.split_once(':') {
            Some(("chardev", _)) => text.parse().map(Self::Chardev),
            _ => text.parse().map(Self::Xdp),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp(spec) => spec.fmt(f),
            Self::Chardev(spec) => spec.fmt(f),
        }
    }
}

impl PortSpec {
    /// The AF_XDP port, if it is one.
    #[must_use]
    pub fn xdp(&self) -> Option<&XdpSpec> {
        match self {
            Self::Xdp(spec) => Some(spec),
            Self::Chardev(_) => None,
        }
    }

    /// The socket, if it is one.
    #[must_use]
    pub fn chardev(&self) -> Option<&ChardevSpec> {
        match self {
            Self::Xdp(_) => None,
            Self::Chardev(spec) => Some(spec),
        }
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

    #[test]
    fn sockets_of_both_kinds_and_both_roles() {
        for (text, address, server) in [
            ("chardev:unix:/run/a.sock", Address::Unix("/run/a.sock".into()), false),
            ("chardev:unix:a,server", Address::Unix("a".into()), true),
            ("chardev:tcp:host:9003", Address::Tcp { host: "host".into(), port: 9003 }, false),
            ("chardev:tcp::9003,server", Address::Tcp { host: String::new(), port: 9003 }, true),
            ("chardev:tcp:[::1]:9003", Address::Tcp { host: "::1".into(), port: 9003 }, false),
        ] {
            let spec: PortSpec = text.parse().expect("well formed");
            assert_eq!(spec, PortSpec::Chardev(ChardevSpec { address, server }));
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_with_a_socket_is_named() {
        let error = |text: &str| text.parse::<PortSpec>().expect_err("malformed");
        for rest in ["", "unix:", "unix", "tcp:host", "tcp:host:0", "tcp:host:70000", "udp:h:1"] {
            assert_eq!(error(&format!("chardev:{rest}")), SpecError::BadAddress(rest.into()));
        }
        let option = SpecError::UnknownChardevOption("wait=off".into());
        assert_eq!(error("chardev:unix:a,server,wait=off"), option);
        let long = "x".repeat(108);
        assert_eq!(error(&format!("chardev:unix:{long}")), SpecError::LongPath(long));
    }
}
