//! Puts the XDP object beside the generated sources, for `kernel::object` to embed.

use std::path::{Path, PathBuf};

/// Where the object lies below the target directory.
const BELOW_TARGET: &str = "bpf/colo-xdp-ebpf";

fn main() {
    println!("cargo::rerun-if-env-changed=COLO_XDP_EBPF_OBJECT");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = match std::env::var_os("COLO_XDP_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        // OUT_DIR lies some levels below the target directory, more of them when cross-compiling.
        None => {
            let found = out.ancestors().map(|above| above.join(BELOW_TARGET));
            found.into_iter().find(|path| path.is_file()).unwrap_or_default()
        }
    };
    if let Err(error) = embed(&object, &out.join("colo-xdp-ebpf")) {
        println!("cargo::error=XDP object missing: run `cargo xtask build-ebpf` ({error})");
    }
}

fn embed(object: &Path, copy: &Path) -> std::io::Result<()> {
    println!("cargo::rerun-if-changed={}", object.display());
    std::fs::copy(object, copy).map(drop)
}
