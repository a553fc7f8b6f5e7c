//! What must not outlive this process: namespaces, child processes, directories.
//!
//! Values remove what they own when dropped, panics included. This register covers the ways out
//! that run no destructor: SIGINT and SIGTERM (a watching thread removes everything and exits),
//! and SIGKILL (the next run sweeps what bears a dead process id).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Where `ip netns` keeps its names.
pub(crate) const NETNS_DIRECTORY: &str = "/run/netns";
/// Where programs and links are pinned.
const BPF_DIRECTORY: &str = "/sys/fs/bpf";
/// Start of every namespace name of the harness; the process id follows.
pub(crate) const NAMESPACE_PREFIX: &str = "colo-";
/// How long a child may take to flush and leave after SIGTERM before it is killed.
const CHILD_GRACE: Duration = Duration::from_millis(1500);

/// One thing to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A child process.
    Process(u32),
    /// A named network namespace, with every device in it.
    Namespace(String),
    /// A directory tree.
    Directory(PathBuf),
}

static REGISTER: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());
static WATCH: Once = Once::new();

/// Enters `item` in the register, until [`forget`].
pub(crate) fn remember(item: Leftover) {
    WATCH.call_once(|| {
        sweep();
        watch_signals();
    });
    register().push(item);
}

/// Takes `item`, which its owner has removed, out of the register.
pub(crate) fn forget(item: &Leftover) {
    register().retain(|other| other != item);
}

fn register() -> std::sync::MutexGuard<'static, Vec<Leftover>> {
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch_signals() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let items = register().clone();
            remove_all(&items);
            std::process::exit(128 + signal);
        }
    });
}

/// Removes `items`: processes first, because they use the rest.
fn remove_all(items: &[Leftover]) {
    let processes = || {
        items.iter().filter_map(|item| match item {
            Leftover::Process(id) => Some(*id),
            _ => None,
        })
    };
    for id in processes() {
        send_signal(id, Signal::SIGTERM);
    }
    let deadline = Instant::now() + CHILD_GRACE;
    for id in processes() {
        while is_running(id) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        send_signal(id, Signal::SIGKILL);
    }
    for item in items {
        match item {
            Leftover::Process(_) => {}
            Leftover::Namespace(name) => delete_namespace(name),
            Leftover::Directory(path) => {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
    unpin(|name| owner_of_device(name) == Some(std::process::id()));
}

/// Removes namespaces, the processes in them and the pins of harness processes that are dead.
///
/// Runs by itself before the first namespace is made. Namespaces of living processes, and any
/// that the harness did not name, are left alone.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(NETNS_DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner_of_namespace(&name).is_some_and(|owner| !is_running(owner)) {
            for id in processes_inside(&entry.path()) {
                send_signal(id, Signal::SIGKILL);
            }
            delete_namespace(&name);
        }
    }
    unpin(|name| owner_of_device(name).is_some_and(|owner| !is_running(owner)));
}

/// The process id in a namespace name of the harness.
fn owner_of_namespace(name: &str) -> Option<u32> {
    name.strip_prefix(NAMESPACE_PREFIX)?.split('-').next()?.parse().ok()
}

/// The process id in a device name of the harness (`topology::Names`), if `name` contains one.
fn owner_of_device(name: &str) -> Option<u32> {
    let start = name.find("cx")? + 2;
    let digits = name[start..].split(|c: char| !c.is_ascii_digit()).next()?;
    name[start + digits.len()..].starts_with('n').then_some(())?;
    digits.parse().ok()
}

/// Removes the pins of harness devices that `gone` names: a comparator that was killed leaves
/// them behind on purpose, and now their devices are gone.
pub(crate) fn unpin(gone: impl Fn(&str) -> bool) {
    unpin_below(Path::new(BPF_DIRECTORY), &gone);
}

fn unpin_below(directory: &Path, gone: &dyn Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if gone(&entry.file_name().to_string_lossy()) {
            // One level is enough: a pin, or the directory of one device's pins.
            for pin in fs::read_dir(&path).into_iter().flatten().flatten() {
                let _ = fs::remove_file(pin.path());
            }
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        } else if path.is_dir() {
            unpin_below(&path, gone);
        }
    }
}

fn processes_inside(namespace: &Path) -> Vec<u32> {
    let Ok(wanted) = fs::metadata(namespace) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| {
            fs::metadata(format!("/proc/{id}/ns/net"))
                .is_ok_and(|it| it.ino() == wanted.ino() && it.dev() == wanted.dev())
        })
        .collect()
}

/// Deletes a namespace by name; one that is gone already is no error.
pub(crate) fn delete_namespace(name: &str) {
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

fn send_signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        let _ = kill(Pid::from_raw(id), signal);
    }
}

/// Whether process `id` exists and is not a zombie.
fn is_running(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| {
        // The state follows the command name, which may itself contain parentheses.
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use super::*;
    use crate::namespace::Namespace;
    use crate::needs_root;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner_of_namespace("colo-123-4-client"), Some(123));
        assert_eq!(owner_of_namespace("colo-web"), None);
        assert_eq!(owner_of_namespace("other-123-4"), None);
        assert_eq!(owner_of_device("pcx123n4"), Some(123));
        assert_eq!(owner_of_device("link-gpcx123n4"), Some(123));
        assert_eq!(owner_of_device("eth0"), None);
        assert_eq!(owner_of_device("cx12"), None);
    }

    /// Runs itself a second time as a child that makes a namespace and then waits for its end.
    #[test]
    fn an_interrupted_run_removes_its_namespace_and_a_killed_one_is_swept() -> crate::Result {
        needs_root!();
        const CHILD: &str = "COLO_TESTS_HOLD_NAMESPACE";
        if std::env::var_os(CHILD).is_some() {
            let namespace = Namespace::new("held")?;
            println!("\nholding {}", namespace.path().display());
            thread::sleep(Duration::from_secs(30));
            return Ok(());
        }
        for (signal, left_behind) in [(Signal::SIGINT, false), (Signal::SIGKILL, true)] {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["--exact", "--nocapture", "--test-threads=1"])
                .arg("leftovers::tests::an_interrupted_run_removes_its_namespace_and_a_killed_one_is_swept")
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()?;
            let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
            let path = lines
                .map_while(Result::ok)
                .find_map(|line| Some(PathBuf::from(line.strip_prefix("holding ")?)))
                .expect("the child says what it holds");
            assert!(path.exists());
            send_signal(child.id(), signal);
            child.wait()?;
            assert_eq!(path.exists(), left_behind, "after {signal}");
            sweep();
            assert!(!path.exists(), "after the sweep");
        }
        Ok(())
    }

    #[test]
    fn this_process_is_running_and_an_impossible_one_is_not() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
    }
}
