//! A network namespace that removes itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

use crate::Result;
use crate::leftovers::{self, Leftover, NAMESPACE_PREFIX, NETNS_DIRECTORY};
use crate::process::run_to_end;

/// How long `ip` or `ethtool` may take: milliseconds, unless the machine is very busy.
const COMMAND: Duration = Duration::from_secs(30);

/// A named network namespace; dropping it removes it and every device in it.
///
/// IPv6 is off in it, so that no router solicitation or duplicate address detection mixes with
/// the frames of a test, and bridges do not look into the frames that they forward.
///
/// It is entered with `setns` on a thread made for the purpose, never with `ip netns exec`: that
/// one remounts `/sys` and hides the BPF file system.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    /// Makes a namespace; `role` is the last part of its name.
    ///
    /// # Errors
    /// Without root, or when `ip` is missing.
    pub fn new(role: &str) -> Result<Self> {
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAMESPACE_PREFIX}{}-{serial}-{role}", std::process::id());
        leftovers::remember(Leftover::Namespace(name.clone()));
        let made = succeed(Command::new("ip").args(["netns", "add", &name]), None)
            .and_then(|_| Ok(File::open(Path::new(NETNS_DIRECTORY).join(&name))?));
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                leftovers::forget(&Leftover::Namespace(name.clone()));
                return Err(error.context(format!("cannot make network namespace {name}")));
            }
        };
        let namespace = Self { name, file };
        namespace.quieten()?;
        Ok(namespace)
    }

    /// The name under which `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIRECTORY).join(&self.name)
    }

    /// Runs `work` inside, on a thread of its own. Sockets and child processes that it makes stay
    /// in the namespace; `/proc/self` and `/sys/class/net` do not follow.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` fails.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter network namespace {}", self.name))?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `work` inside, on a thread that outlives this call. Threads that it starts are
    /// inside too.
    ///
    /// # Errors
    /// When no thread can be made. That the namespace cannot be entered is the thread's result.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.file.try_clone()?;
        let name = self.name.clone();
        Ok(thread::Builder::new().spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter network namespace {name}"))?;
            work()
        })?)
    }

    /// Runs a command inside to its end.
    ///
    /// # Errors
    /// When it cannot start or exits with a failure; its stderr is in the message.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.run(|| succeed(Command::new(program).args(arguments), None))
    }

    /// Runs lines of `ip` commands inside, in one process.
    ///
    /// # Errors
    /// When one of them fails; the ones after it are not run.
    pub fn ip(&self, lines: &str) -> Result {
        self.run(|| succeed(Command::new("ip").args(["-batch", "-"]), Some(lines)))
            .with_context(|| format!("in network namespace {}: {}", self.name, lines.trim()))?;
        Ok(())
    }

    /// Sets parameters below `/proc/sys/net`, as `("ipv4/ip_forward", "1")`. One that this kernel
    /// does not have is left out.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn set(&self, parameters: &[(&str, &str)]) -> Result {
        self.run(|| {
            for (name, value) in parameters {
                let path = Path::new("/proc/sys/net").join(name);
                if path.exists() {
                    std::fs::write(&path, value)
                        .with_context(|| format!("cannot write {value} to {}", path.display()))?;
                }
            }
            Ok(())
        })
    }

    /// A counter of this namespace's TCP, as `nstat` calls it without the prefix: `RetransSegs`,
    /// `TCPSackRecovery`.
    ///
    /// # Errors
    /// When this kernel has no such counter.
    pub fn tcp_counter(&self, name: &str) -> Result<u64> {
        let texts = self.run(|| {
            Ok(["snmp", "netstat"]
                .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))))
        })?;
        for text in texts {
            let text = text?;
            // Two lines each: the names, and the values in the same order.
            let mut lines = text.lines().filter(|line| line.starts_with("Tcp"));
            while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
                let mut pairs = names.split(' ').zip(values.split(' '));
                if let Some((_, value)) = pairs.find(|(other, _)| *other == name) {
                    return Ok(value.parse()?);
                }
            }
        }
        bail!("no TCP counter {name} in network namespace {}", self.name)
    }

    /// Gives `device` IPv6, with the addresses that it is given and no others.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn enable_ipv6(&self, device: &str) -> Result {
        // Before it is on: no link-local address, so no solicitations either.
        self.ip(&format!("link set {device} addrgenmode none"))?;
        let parameter = |name: &str| format!("ipv6/conf/{device}/{name}");
        self.set(&[
            (&parameter("accept_ra"), "0"),
            (&parameter("keep_addr_on_down"), "1"),
            (&parameter("disable_ipv6"), "0"),
        ])
    }

    fn quieten(&self) -> Result {
        self.set(&[
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
            // Otherwise a bridge trims padding and drops what is malformed.
            ("bridge/bridge-nf-call-iptables", "0"),
            ("bridge/bridge-nf-call-ip6tables", "0"),
        ])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        leftovers::delete_namespace(&self.name);
        leftovers::forget(&Leftover::Namespace(self.name.clone()));
    }
}

/// Runs `command` to its successful end in the caller's namespace, feeding it `input`.
fn succeed(command: &mut Command, input: Option<&str>) -> Result<Output> {
    let output = run_to_end(command, input, COMMAND)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, message.trim());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;

    #[test]
    fn devices_made_inside_are_not_visible_outside_and_go_with_it() -> Result {
        needs_root!();
        let outside = std::fs::read_to_string("/proc/net/dev")?;
        let namespace = Namespace::new("unit")?;
        namespace.ip("link add inside0 type veth peer name inside1")?;
        let listing =
            namespace.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        assert!(listing.contains("inside0"), "{listing}");
        assert!(!outside.contains("inside0"));
        let path = namespace.path();
        drop(namespace);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn tcp_is_counted_by_namespace() -> Result {
        needs_root!();
        let namespace = Namespace::new("counting")?;
        for name in ["RetransSegs", "TCPSackRecovery"] {
            assert_eq!(namespace.tcp_counter(name)?, 0, "{name}");
        }
        namespace.tcp_counter("NoSuchCounter").expect_err("there is no such counter");
        Ok(())
    }

    #[test]
    fn a_panic_removes_the_namespace() -> Result {
        needs_root!();
        let path = std::sync::Mutex::new(PathBuf::new());
        let panicked = std::panic::catch_unwind(|| {
            let namespace = Namespace::new("panic").expect("root can make namespaces");
            path.lock().expect("not poisoned yet").clone_from(&namespace.path());
            assert!(namespace.path().as_os_str().is_empty(), "the panic that this test wants");
        });
        assert!(panicked.is_err());
        let path = path.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(!path.as_os_str().is_empty() && !path.exists());
        Ok(())
    }

    #[test]
    fn a_failing_command_says_what_failed() -> Result {
        needs_root!();
        let namespace = Namespace::new("failing")?;
        let error = namespace.ip("link set nosuch up").expect_err("there is no such device");
        let message = format!("{error:#}");
        assert!(message.contains("nosuch") && message.contains(namespace.name()), "{message}");
        Ok(())
    }
}
