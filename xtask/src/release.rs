//! The release builds of `colo-xdp` and of the load generators.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::build_ebpf::{self, Flavour};
use crate::{command, setup, workspace};

/// Names a `colo-xdp` that is to be used instead of a build of this checkout, as in the tests.
pub(crate) const BINARY: &str = "COLO_XDP_BINARY";

/// The binary, and the XDP object that it embeds: built now, unless [`BINARY`] names another.
///
/// # Errors
/// The machine lacks something, a build failed or put the binary where nobody looks for it, or the
/// other one does not exist.
pub(crate) fn build() -> Result<PathBuf> {
    if let Some(binary) = env::var_os(BINARY).map(PathBuf::from) {
        eprintln!("using {}, which {BINARY} names", binary.display());
        return match binary.is_file() {
            true => Ok(binary),
            false => bail!("{BINARY}: there is no {}", binary.display()),
        };
    }
    build_ebpf::build(&setup::ensure()?, Flavour::Release)?;
    target("compare-user", ["--bin", "colo-xdp"], "release/colo-xdp")
}

/// Builds what loads the binary in `cargo xtask bench xdp`: an example of compare-user, because
/// it uses that crate's AF_XDP ports and xtask itself must build where libxdp does not.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_pair_sender() -> Result<PathBuf> {
    target("compare-user", ["--example", "pair_sender"], "release/examples/pair_sender")
}

/// Builds what loads the binary, and QEMU, in `cargo xtask bench chardev`: an example of the tests
/// crate, because xtask itself is not built for release.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_chardev_load() -> Result<PathBuf> {
    target("colo-tests", ["--example", "chardev_load"], "release/examples/chardev_load")
}

/// Builds what plays client and guests in `cargo xtask bench proxy`: an example of the tests crate
/// for the same reason.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_proxy_load() -> Result<PathBuf> {
    target("colo-tests", ["--example", "proxy_load"], "release/examples/proxy_load")
}

/// Builds the simulator, which is a program of its own because it contains the comparator.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_simulator() -> Result<PathBuf> {
    build_ebpf::build(&setup::ensure()?, Flavour::Release)?;
    target("colo-simulate", ["--bin", "colo-simulate"], "release/colo-simulate")
}

fn target(package: &str, target: [&str; 2], path: &str) -> Result<PathBuf> {
    let mut build = Command::new(workspace::cargo());
    build
        .current_dir(workspace::root())
        .args(["build", "--release", "--package", package])
        .args(target);
    command::run(&mut build)?;
    let binary = workspace::target_dir().join(path);
    if !binary.is_file() {
        bail!("cargo succeeded, yet there is no {}", binary.display());
    }
    Ok(binary)
}
