//! Where a taker of checkpoints is, as written on the command line.

use std::path::PathBuf;
use std::str::FromStr;

pub use crate::port::spec::Address;

/// The value of `--notify`: `chardev:unix:PATH[,server]` or `chardev:tcp:HOST:PORT[,server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifySpec {
    /// Where to connect to, or to listen on.
    pub address: Address,
    /// True to listen, as QEMU's `server=on`.
    pub server: bool,
}

/// The value of `--qmp`: `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpSpec {
    /// QEMU's QMP socket.
    pub path: PathBuf,
}

/// What is wrong with the text of an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a chardev.
    #[error("'{0}' is not chardev:unix:PATH[,server] or chardev:tcp:HOST:PORT[,server]")]
    NotifyShape(String),
    /// Not a unix socket.
    #[error("'{0}' is not unix:PATH, for example unix:/run/vm1/qmp.sock")]
    QmpShape(String),
    /// Nothing where the path should be.
    #[error("the address names no socket: write unix:PATH")]
    NoPath,
    /// Longer than the kernel allows, or with a zero byte in it.
    #[error("{0}: a socket path has at most 107 bytes")]
    BadPath(PathBuf),
    /// No `HOST:PORT`.
    #[error("'{0}' is not HOST:PORT; an IPv6 address stands in brackets, as in [::1]:9000")]
    BadHostPort(String),
    /// An option that does not exist.
    #[error("unknown option '{0}': there is only server")]
    UnknownOption(String),
}

impl Address {
    fn unix(path: &str) -> Result<Self, AddressError> {
        if path.is_empty() {
            return Err(AddressError::NoPath);
        }
        let path = PathBuf::from(path);
        nix::sys::socket::UnixAddr::new(&path).map_err(|_| AddressError::BadPath(path.clone()))?;
        Ok(Self::Unix(path))
    }

    fn tcp(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::BadHostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if bare.is_none() && host.contains(':') {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl FromStr for NotifySpec {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::NotifyShape(text.to_owned());
        let rest = text.strip_prefix("chardev:").ok_or_else(wrong)?;
        let (kind, rest) = rest.split_once(':').ok_or_else(wrong)?;
        let (place, option) = match rest.split_once(',') {
            Some((place, option)) => (place, Some(option)),
            None => (rest, None),
        };
        let server = match option {
            None => false,
            Some("server") => true,
            Some(other) => return Err(AddressError::UnknownOption(other.to_owned())),
        };
        let address = match kind {
            "unix" => Address::unix(place)?,
            "tcp" => Address::tcp(place)?,
            _ => return Err(wrong()),
        };
        Ok(Self { address, server })
    }
}

impl FromStr for QmpSpec {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let path =
            text.strip_prefix("unix:").ok_or_else(|| AddressError::QmpShape(text.to_owned()))?;
        match Address::unix(path)? {
            Address::Unix(path) => Ok(Self { path }),
            Address::Tcp { .. } => Err(AddressError::QmpShape(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn both_kinds_of_socket_either_role() {
        for (text, address, server) in [
            ("chardev:unix:/run/n", Address::Unix("/run/n".into()), false),
            ("chardev:unix:/run/n,server", Address::Unix("/run/n".into()), true),
            ("chardev:tcp:dom0:9000", tcp("dom0", 9000), false),
            ("chardev:tcp:[::1]:9000,server", tcp("::1", 9000), true),
            ("chardev:tcp::9000,server", tcp("", 9000), true),
        ] {
            assert_eq!(text.parse(), Ok(NotifySpec { address, server }), "{text}");
        }
        assert_eq!("unix:/run/q".parse(), Ok(QmpSpec { path: "/run/q".into() }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let notify = |text: &str| text.parse::<NotifySpec>().expect_err("malformed");
        let shape = |text: &str| AddressError::NotifyShape(text.into());
        for text in ["", "unix:/run/n", "chardev:", "chardev:pipe:/x", "xdp:tap0"] {
            assert_eq!(notify(text), shape(text));
        }
        assert_eq!(notify("chardev:unix:"), AddressError::NoPath);
        assert_eq!(notify("chardev:unix:/x,fast"), AddressError::UnknownOption("fast".into()));
        for place in ["host", "host:", "host:65536", "::1:9000"] {
            let text = format!("chardev:tcp:{place}");
            assert_eq!(notify(&text), AddressError::BadHostPort(place.into()));
        }
        let long = "x".repeat(108);
        let text = format!("unix:{long}");
        assert_eq!(text.parse::<QmpSpec>(), Err(AddressError::BadPath(long.into())));
        assert_eq!("/q".parse::<QmpSpec>(), Err(AddressError::QmpShape("/q".into())));
    }
}
