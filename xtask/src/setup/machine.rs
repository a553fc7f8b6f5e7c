//! The machine as the probes see it: where its files and programs are.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Where to look. Tests look into a directory of their own instead.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The root of the file system.
    pub(crate) root: PathBuf,
    /// Where programs are looked for, in order.
    pub(crate) path: Vec<PathBuf>,
    /// Where tools that xtask builds for itself are kept, across checkouts.
    pub(crate) tools: PathBuf,
    /// `LIBCLANG_PATH`, which bindgen honours.
    pub(crate) libclang_path: Option<PathBuf>,
    /// Whether packages may be installed.
    pub(crate) is_root: bool,
}

impl Machine {
    /// The machine that this runs on.
    pub(crate) fn here() -> Self {
        let root = PathBuf::from("/");
        let mut path: Vec<PathBuf> =
            env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        path.extend(administrators(&root));
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .unwrap_or_else(crate::workspace::target_dir);
        Self {
            root,
            path,
            tools: cache.join("colo-xdp"),
            libclang_path: env::var_os("LIBCLANG_PATH").map(PathBuf::from),
            is_root: is_root(),
        }
    }

    /// The first executable of that name on PATH.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        self.programs(name).next()
    }

    /// All executables of that name on PATH, in its order.
    pub(crate) fn programs(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.path.iter().map(move |directory| directory.join(name)).filter(|path| executable(path))
    }

    /// The entries of a directory, relative to the root or absolute; none if it is not there.
    pub(crate) fn entries(&self, directory: impl AsRef<Path>) -> Vec<PathBuf> {
        fs::read_dir(self.root.join(directory))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default()
    }
}

/// Directories with `ip` and `ethtool` that an ordinary user's PATH does not have.
fn administrators(root: &Path) -> [PathBuf; 3] {
    ["usr/local/sbin", "usr/sbin", "sbin"].map(|path| root.join(path))
}

/// Whether the path is a file that somebody may execute.
pub(crate) fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root's: `/proc/self` belongs to the effective user.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A machine in a directory of its own, for tests.
#[cfg(test)]
pub(crate) mod fake {
    use std::{
        process::Command,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// Removes its directory when dropped.
    pub(crate) struct Fake {
        pub(crate) machine: Machine,
    }

    impl Fake {
        /// A machine with nothing on it.
        pub(crate) fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let root =
                env::temp_dir().join(format!("xtask-machine-{}-{count}", std::process::id()));
            fs::create_dir_all(&root).expect("the temporary directory can be written");
            let mut path = vec![root.join("usr/bin")];
            path.extend(administrators(&root));
            let tools = root.join("cache");
            Self { machine: Machine { root, path, tools, libclang_path: None, is_root: false } }
        }

        /// Puts a file there.
        pub(crate) fn file(&self, path: &str, text: &str) {
            let path = self.machine.root.join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("can be made");
            fs::write(path, text).expect("can be written");
        }

        /// Puts a shell script there as a program.
        pub(crate) fn program(&self, path: &str, script: &str) {
            let path = self.machine.root.join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("can be made");
            // A process of its own writes it: if this one did, a child that another test forks
            // meanwhile would hold the file open for writing, and running it would be ETXTBSY.
            let status = Command::new("/bin/sh")
                .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" >"$2" && chmod 755 "$2""#, "sh"])
                .arg(script)
                .arg(path)
                .status()
                .expect("a shell is there");
            assert!(status.success());
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.machine.root);
        }
    }
}
