//! The release binary of `colo-xdp`.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{command, workspace};

/// Builds the binary, which embeds the XDP object that must have been built before.
///
/// # Errors
/// The build failed, or put the binary where nobody looks for it.
pub(crate) fn build() -> Result<PathBuf> {
    let mut build = Command::new(workspace::cargo());
    build.current_dir(workspace::root()).args([
        "build",
        "--release",
        "--package",
        "compare-user",
        "--bin",
        "colo-xdp",
    ]);
    command::run(&mut build)?;
    let binary = workspace::target_dir().join("release/colo-xdp");
    if !binary.is_file() {
        bail!("cargo succeeded, yet there is no {}", binary.display());
    }
    Ok(binary)
}
