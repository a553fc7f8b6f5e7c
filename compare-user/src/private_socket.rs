//! Unix sockets that only their owner may connect to.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::stat::{Mode, umask};

/// Listens on `path` with mode 0600. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// When another process listens there, `path` is something other than a socket, or the directory
/// does not allow it.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "it exists and is no socket"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(
                ErrorKind::AddrInUse,
                "another process listens there; choose another path",
            ));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    // From the first moment on: between bind and chmod somebody could connect.
    let mask = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(mask);
    let listener = bound?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        let first = listen(&path).expect("the path is free");
        assert_eq!(listen(&path).expect_err("in use").kind(), ErrorKind::AddrInUse);
        drop(first);
        listen(&path).expect("nobody listens any more");

        let file = directory.path().join("file");
        std::fs::write(&file, "precious").expect("the directory is ours");
        assert_eq!(listen(&file).expect_err("no socket").kind(), ErrorKind::AlreadyExists);
        assert!(file.exists());
    }
}
