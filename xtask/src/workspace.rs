//! Where the checkout and its build output are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the checkout that `cargo xtask` was called in.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the fallback is for a binary started by hand.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` in the checkout.
pub(crate) fn target_dir() -> PathBuf {
    target_dir_from(env::var_os("CARGO_TARGET_DIR").map(PathBuf::from), &root())
}

fn target_dir_from(chosen: Option<PathBuf>, root: &Path) -> PathBuf {
    // A relative CARGO_TARGET_DIR is relative to the directory cargo was called in; every build
    // that xtask starts is started in the root, so both agree.
    chosen
        .filter(|dir| !dir.as_os_str().is_empty())
        .map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The cargo that runs this, so that the same toolchain builds everything that is not eBPF.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_follows_cargo_target_dir() {
        let root = Path::new("/checkout");
        assert_eq!(target_dir_from(None, root), Path::new("/checkout/target"));
        assert_eq!(target_dir_from(Some("".into()), root), Path::new("/checkout/target"));
        assert_eq!(target_dir_from(Some("/big/disk".into()), root), Path::new("/big/disk"));
        assert_eq!(target_dir_from(Some("out".into()), root), Path::new("/checkout/out"));
    }
}
