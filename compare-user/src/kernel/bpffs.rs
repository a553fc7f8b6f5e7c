//! The BPF file system: a link that is pinned there outlives the process.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use super::device::Device;
use super::error::KernelError;
use super::probe::{Capabilities, Capability};

/// Where the kernel offers the BPF file system.
pub(super) const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Where pins go unless told otherwise.
pub const DEFAULT_PIN_DIRECTORY: &str = "/sys/fs/bpf/colo-xdp";

/// Whether a BPF file system is mounted in its usual place.
pub(super) fn is_mounted() -> bool {
    is_bpffs(Path::new(MOUNT_POINT))
}

/// The pin of a program, or of what belongs to it, on a device: the device's name and its network
/// namespace, since names repeat between namespaces.
///
/// bpffs reserves names with a dot (`bpf_lookup` in kernel/bpf/inode.c), device names cannot hold
/// a colon.
pub(super) fn pin_path(directory: &Path, what: &str, device: &Device) -> PathBuf {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |file| file.ino());
    directory.join(format!("{what}-{}-{namespace}", device.name.replace('.', ":")))
}

/// Makes the directory for pins, and mounts the file system below it where there is none.
pub(super) fn prepare(directory: &Path) -> Result<(), KernelError> {
    let pin_error =
        |operation, cause| KernelError::Pin { path: directory.into(), operation, cause };
    if directory.starts_with(MOUNT_POINT) && !is_mounted() {
        mount_once().map_err(|cause| pin_error("mounting the BPF file system", cause))?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| pin_error("making the directory", cause))?;
    if is_bpffs(directory) {
        return check_owners(directory);
    }
    Err(pin_error("pinning", io::Error::other("this is not a BPF file system")))
}

/// Nobody but root and this user may have a say about a directory for pins. A bpffs that was mounted
/// without a mode lets everybody make directories in it.
fn check_owners(directory: &Path) -> Result<(), KernelError> {
    let own = geteuid().as_raw();
    for path in directory.ancestors().take_while(|path| is_bpffs(path)) {
        let found = fs::symlink_metadata(path).map_err(|cause| KernelError::Pin {
            path: path.into(),
            operation: "looking at the directory",
            cause,
        })?;
        let shown = path.display();
        // As in /tmp: what is in there is safe from everybody but its owner.
        let shared = found.mode() & libc::S_ISVTX != 0 && path != directory;
        let (exposure, remedy) = if !found.is_dir() {
            ("is no directory".to_owned(), format!("`rm {shown}`"))
        } else if found.uid() != 0 && found.uid() != own {
            (format!("belongs to user {}", found.uid()), format!("`chown {own} {shown}`"))
        } else if found.mode() & libc::S_IWOTH != 0 && !shared {
            ("may be changed by everybody".to_owned(), format!("`chmod o-w {shown}`"))
        } else {
            continue;
        };
        return Err(KernelError::Exposed { path: path.into(), exposure, remedy });
    }
    Ok(())
}

/// Mounts under a lock: two processes that find the directory empty would mount one over the
/// other, and the lower one's pins would be out of reach.
fn mount_once() -> io::Result<()> {
    if !Capabilities::of_this_process().has(Capability::SysAdmin) {
        // Not asked for: once the process is confined, the question would be the end of it.
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let directory = fs::File::open(MOUNT_POINT)?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if is_mounted() {
        return Ok(());
    }
    if fs::read_dir(MOUNT_POINT)?.next().is_some() {
        return Err(io::Error::other("the directory is not empty"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), flags, Some("mode=0700"))?;
    tracing::info!(path = MOUNT_POINT, "mounted the BPF file system");
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// A link found in a pin.
pub(super) struct PinnedLink {
    path: PathBuf,
    link: libbpf_rs::Link,
    /// The program that it keeps attached.
    pub(super) program_id: u32,
    /// The device that it is attached to; none once that device is gone.
    pub(super) device_index: Option<u32>,
}

impl PinnedLink {
    /// Opens a pin, if there is one.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, KernelError> {
        let pin_error = |cause| KernelError::Pin { path: path.into(), operation: "opening", cause };
        if !path.try_exists().map_err(pin_error)? {
            return Ok(None);
        }
        let link =
            libbpf_rs::Link::open(path).map_err(|error| pin_error(io::Error::other(error)))?;
        // bpf_link_show_fdinfo of the kernel: "name:\tvalue" lines; ifindex is 0 once the device
        // is gone.
        let fdinfo = format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd());
        let fdinfo = fs::read_to_string(fdinfo).map_err(pin_error)?;
        let field = |name: &str| {
            let lines = fdinfo.lines().filter_map(|line| line.split_once(':'));
            let mut values =
                lines.filter(|(field, _)| *field == name).map(|(_, value)| value.trim());
            values.next_back().and_then(|value| value.parse::<u32>().ok()).unwrap_or(0)
        };
        Ok(Some(Self {
            path: path.into(),
            program_id: field("prog_id"),
            device_index: Some(field("ifindex")).filter(|index| *index != 0),
            link,
        }))
    }

    /// Where the pin is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches the program at once, whoever else holds the link, and removes the pin.
    pub(super) fn detach(self) -> Result<(), KernelError> {
        let detached = self.link.detach();
        remove(&self.path)?;
        match detached {
            Err(error) if self.device_index.is_some() => {
                Err(KernelError::failed(self.path.display().to_string(), "detaching", error))
            }
            _ => Ok(()),
        }
    }
}

/// Removes a pin; one that is gone already is fine.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Pin { path: path.into(), operation: "removing", cause: error })
        }
        _ => Ok(()),
    }
}
