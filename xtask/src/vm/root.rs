//! The machine's file system: an archive that the kernel unpacks into memory.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::command;
use crate::setup::program;

/// What the tests need of the kernel and Debian builds as modules, in an order in which they load.
const MODULES: &[&str] = &["veth", "tun", "llc", "stp", "bridge", "sch_ingress", "cls_bpf"];
/// The system, and what the tests start beside it.
const PROGRAMS: &[&str] = &["busybox", "ip", "ethtool"];

/// A directory that becomes the root of the machine.
#[derive(Debug)]
pub(super) struct Root {
    directory: PathBuf,
}

impl Root {
    /// Fills a new directory: what the tests need, and an `/init` that runs them.
    pub(super) fn make(
        directory: &Path,
        kernel: &Kernel,
        test: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let root = Self { directory: directory.to_owned() };
        for name in ["bin", "dev", "modules", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(directory.join(name))?;
        }
        symlink("busybox", directory.join("bin/sh"))?;
        for name in PROGRAMS {
            let found = program(name).with_context(|| format!("no {name}"))?;
            fs::copy(&found, directory.join("bin").join(name))?;
            root.libraries(&found)?;
        }
        // Where they are on this machine: the tests have the paths of what they start in them.
        let profile = test.parent().and_then(Path::parent).context("target/PROFILE/deps")?;
        for binary in [test, &profile.join("colo-xdp"), &profile.join("examples/steer_hold")] {
            root.binary(binary)?;
        }
        for (index, module) in MODULES.iter().enumerate() {
            let file = find(&kernel.modules, &format!("{module}.ko"))
                .with_context(|| format!("{}: no {module}.ko", kernel.modules.display()))?;
            fs::copy(file, directory.join(format!("modules/{index}-{module}.ko")))?;
        }
        root.script("init", include_str!("init.sh"))?;
        let mut run = Command::new(test);
        run.args(arguments);
        root.script("test-command", &format!("#!/bin/sh\n{}\n", command::shell_line(&run)))?;
        Ok(root)
    }

    /// Makes the archive, in the format that the kernel reads.
    pub(super) fn archive(&self, path: &Path) -> Result<()> {
        let mut find = Command::new("find")
            .current_dir(&self.directory)
            .args([".", "-print0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("find")?;
        let names = find.stdout.take().context("the output of find")?;
        let made = Command::new("cpio")
            .current_dir(&self.directory)
            .args(["--create", "--null", "--format=newc", "--owner=0:0", "--quiet"])
            .stdin(names)
            .stdout(File::create(path)?)
            .status()
            .context("cpio");
        let found = find.wait()?;
        match made? {
            status if status.success() && found.success() => Ok(()),
            status => bail!("cpio: {status}, find: {found}"),
        }
    }

    /// A program of the build, without the nine tenths of it that a debugger reads.
    fn binary(&self, path: &Path) -> Result<()> {
        let copy = self.place(path)?;
        command::output(Command::new("strip").arg("-o").arg(&copy).arg(path))?;
        self.libraries(path)
    }

    /// The shared libraries of a program.
    fn libraries(&self, program: &Path) -> Result<()> {
        // It fails for a program that needs none.
        let listed = command::output(Command::new("ldd").arg(program)).unwrap_or_default();
        for library in libraries(&listed) {
            let copy = self.place(library)?;
            fs::copy(library, &copy).with_context(|| library.display().to_string())?;
        }
        Ok(())
    }

    /// Where a file of this machine goes.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.directory.join(path.strip_prefix("/").unwrap_or(path));
        fs::create_dir_all(place.parent().unwrap_or(&self.directory))?;
        Ok(place)
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// The files that ldd lists: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries(listed: &str) -> impl Iterator<Item = &Path> {
    let words = listed.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(Path::new)
}

/// A file of that name somewhere in a directory.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let (directories, files): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.path()).partition(|path| path.is_dir());
    let file = files.into_iter().find(|path| path.file_name().is_some_and(|it| it == name));
    file.or_else(|| directories.iter().find_map(|directory| find(directory, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_lists_with_a_path() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
             \tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x00007f58)\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f59)\n";
        let found: Vec<_> = libraries(listed).collect();
        let expected = ["/lib/x86_64-linux-gnu/libelf.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(Path::new));
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn a_module_is_found_wherever_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let drivers = directory.path().join("kernel/drivers/net");
        fs::create_dir_all(&drivers).expect("made");
        fs::write(drivers.join("veth.ko"), "").expect("written");
        assert_eq!(find(directory.path(), "veth.ko"), Some(drivers.join("veth.ko")));
        assert_eq!(find(directory.path(), "tun.ko"), None);
    }
}
