//! The kernel that the machine runs: a Debian package, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, setup};

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// `vmlinuz`.
    pub(crate) image: PathBuf,
    /// `lib/modules/VERSION`.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// What is unpacked in a directory.
    ///
    /// # Errors
    /// There is not one image and its modules.
    pub(crate) fn unpacked(directory: &Path) -> Result<Self> {
        let image = only(&directory.join("boot"), "vmlinuz")?;
        let modules = only(&directory.join("lib/modules"), "")?;
        Ok(Self { image, modules })
    }

    /// The kernel that a Debian package is, or depends on: fetched once, and kept in the cache
    /// directory for every checkout.
    ///
    /// # Errors
    /// apt does not know the package, or it cannot be fetched.
    pub(crate) fn of_package(package: &str) -> Result<Self> {
        let package = resolve(package)?;
        let kept = setup::cache().join("kernels").join(&package);
        if let Ok(kernel) = Self::unpacked(&kept) {
            return Ok(kernel);
        }
        fs::create_dir_all(kept.parent().unwrap_or(&kept)).context("the cache directory")?;
        // Unpacked beside its place and renamed: what is there is whole.
        let fresh = tempfile::tempdir_in(kept.parent().unwrap_or(&kept))?;
        let mut fetch = Command::new("apt-get");
        command::run(fetch.current_dir(fresh.path()).args(["download", &package]))?;
        let archive = only(fresh.path(), &package)?;
        let mut unpack = Command::new("dpkg-deb");
        let whole = fresh.path().join("unpacked");
        command::run(unpack.arg("--extract").arg(&archive).arg(&whole))?;
        if fs::rename(&whole, &kept).is_err() && !kept.is_dir() {
            bail!("cannot keep the kernel in {}", kept.display());
        }
        Self::unpacked(&kept)
    }
}

/// The package with the kernel itself: `linux-image-cloud-amd64` only depends on it.
fn resolve(package: &str) -> Result<String> {
    let ask = || {
        command::output(Command::new("apt-cache").args(["depends", "--important", package]))
            .unwrap_or_default()
    };
    let mut answer = ask();
    if answer.is_empty() {
        // A machine that has just been made has no package lists yet.
        setup::update_package_lists();
        answer = ask();
    }
    if answer.is_empty() {
        bail!("apt has no package {package}; name an unpacked kernel with --kernel DIR");
    }
    let dependencies = answer.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let kernel = { dependencies }.find(|name| name.starts_with("linux-image-"));
    Ok(kernel.unwrap_or(package).to_owned())
}

/// The one entry of a directory whose name begins so.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let paths = entries.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let found: Vec<_> = paths.filter(is_it).collect();
    match &found[..] {
        [one] => Ok(one.clone()),
        _ => bail!("{}: {} files {prefix}*, not one", directory.display(), found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_package_has_one_image_and_its_modules() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        assert!(Kernel::unpacked(directory.path()).is_err());
        fs::create_dir_all(path("boot")).expect("made");
        fs::create_dir_all(path("lib/modules/6.1.0-1")).expect("made");
        fs::write(path("boot/config-6.1.0-1"), "").expect("written");
        fs::write(path("boot/vmlinuz-6.1.0-1"), "").expect("written");
        let kernel = Kernel::unpacked(directory.path()).expect("complete");
        assert_eq!(kernel.image, path("boot/vmlinuz-6.1.0-1"));
        assert_eq!(kernel.modules, path("lib/modules/6.1.0-1"));
        fs::write(path("boot/vmlinuz-6.1.0-2"), "").expect("written");
        assert!(Kernel::unpacked(directory.path()).is_err(), "which of the two");
    }
}
