//! colo-xdp as an ordinary user has it (docs/deploy.md): a copy with file capabilities that only
//! its group may run, and a directory of the user's own in the BPF file system.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::Result;
use crate::leftovers::{self, Leftover};

/// Debian's nobody, and its group.
pub const USER: u32 = 65_534;

/// What docs/deploy.md gives the program.
pub const CAPABILITIES: &str = "cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock,cap_sys_admin";

/// How the user comes by the capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// With the file.
    File,
    /// Ambient, as a service manager gives them.
    Ambient,
}

/// The user, the program and a mount namespace in which the BPF file system is this user's: other
/// tests, which run as root, have theirs to themselves.
#[derive(Debug)]
pub struct OrdinaryUser {
    directory: TempDir,
    grant: Grant,
    /// Keeps the mount namespace; ends when its standard input does.
    keeper: Child,
}

impl OrdinaryUser {
    /// Copies `binary` for the user and mounts the file system.
    ///
    /// # Errors
    /// Without root, or where the directory for temporary files is mounted `nosuid`.
    pub fn new(binary: &Path, grant: Grant) -> Result<Self> {
        let directory = TempDir::with_prefix("colo-")?;
        leftovers::remember(Leftover::Directory(directory.path().to_owned()));
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let program = directory.path().join("colo-xdp");
        std::fs::copy(binary, &program).with_context(|| format!("copying {}", binary.display()))?;
        chown(&program, Some(0), Some(USER))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o750))?;
        if grant == Grant::File {
            let capabilities = format!("{CAPABILITIES}+ep");
            let set = Command::new("setcap").arg(capabilities).arg(&program).output()?;
            ensure!(set.status.success(), "setcap: {}", String::from_utf8_lossy(&set.stderr));
        }
        let script = format!(
            "mount -t bpf -o mode=0711 bpf /sys/fs/bpf && mkdir -m 0700 /sys/fs/bpf/colo-xdp && \
             chown {USER}:{USER} /sys/fs/bpf/colo-xdp && echo ready && exec cat"
        );
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        leftovers::remember(Leftover::Process(keeper.id()));
        let mut line = String::new();
        let stdout = keeper.stdout.take().context("stdout is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let user = Self { directory, grant, keeper };
        ensure!(line == "ready\n", "no BPF file system for user {USER}; see the message above");
        Ok(user)
    }

    /// The program, as this user runs it. In the network namespace of the thread that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()))
            .args(["--", "setpriv", "--reuid", &USER.to_string(), "--regid", &USER.to_string()])
            .arg("--clear-groups");
        if self.grant == Grant::Ambient {
            let each = CAPABILITIES.replace("cap_", "+");
            command.args(["--inh-caps", &each, "--ambient-caps", &each]);
        }
        command.arg("--").arg(self.program());
        command
    }

    /// The copy with the capabilities.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.directory.path().join("colo-xdp")
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        leftovers::forget(&Leftover::Process(self.keeper.id()));
        leftovers::forget(&Leftover::Directory(self.directory.path().to_owned()));
    }
}
