//! Who may touch what is pinned.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use compare_user::kernel::{DEFAULT_PIN_DIRECTORY, KernelError, Mode, Steer};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::network::{device, in_namespace, pinned};

const MOUNT_POINT: &str = "/sys/fs/bpf";
const NOBODY: u32 = 65_534;

/// A BPF file system that only the calling thread sees, with these mount options.
fn own_bpffs(options: Option<&str>) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), options).unwrap();
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Expects that nothing is attached, for this reason and with this advice.
fn refused(reason: &str, advice: &str) {
    let error = Steer::attach(&pinned("lo", Mode::Generic)).err().expect("refused");
    assert!(matches!(error, KernelError::Exposed { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(reason) && text.contains(advice), "{text}");
    assert_eq!(device("lo").attached().unwrap(), None);
}

#[test]
fn what_is_pinned_is_this_users_alone() {
    in_namespace(|| {
        // As `mount -t bpf bpf /sys/fs/bpf` leaves it.
        own_bpffs(None);
        assert_eq!(mode(MOUNT_POINT), 0o1777, "everybody may make directories in it");
        let steer = Steer::attach(&pinned("lo", Mode::Generic)).unwrap();
        assert_eq!(mode(DEFAULT_PIN_DIRECTORY), 0o700);
        let pins: Vec<_> = fs::read_dir(DEFAULT_PIN_DIRECTORY).unwrap().flatten().collect();
        assert_eq!(pins.len(), 1);
        for pin in pins {
            assert_eq!(mode(pin.path()), 0o600, "{}", pin.path().display());
        }
        steer.detach().unwrap();
    });
}

#[test]
fn a_directory_that_somebody_else_has_a_say_about_is_refused() {
    in_namespace(|| {
        own_bpffs(None);
        let directory = Path::new(DEFAULT_PIN_DIRECTORY);
        fs::create_dir(directory).unwrap();
        set_mode(directory, 0o777);
        refused("may be changed by everybody", "chmod o-w /sys/fs/bpf/colo-xdp");
        set_mode(directory, 0o1777);
        refused("may be changed by everybody", "chmod o-w /sys/fs/bpf/colo-xdp");
        set_mode(directory, 0o700);
        chown(directory, Some(NOBODY), None).unwrap();
        refused("belongs to user 65534", "chown 0 /sys/fs/bpf/colo-xdp");

        fs::remove_dir(directory).unwrap();
        let elsewhere = Path::new(MOUNT_POINT).join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, directory).unwrap();
        refused("is no directory", "rm /sys/fs/bpf/colo-xdp");
        fs::remove_file(directory).unwrap();

        set_mode(Path::new(MOUNT_POINT), 0o777);
        refused("/sys/fs/bpf may be changed by everybody", "chmod o-w /sys/fs/bpf");
        set_mode(Path::new(MOUNT_POINT), 0o755);
        Steer::attach(&pinned("lo", Mode::Generic)).unwrap().detach().unwrap();
    });
}
