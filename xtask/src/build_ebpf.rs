//! `cargo xtask build-ebpf`: compiles the XDP programs to the object that `colo-xdp` embeds.
//!
//! The object is `bpf/colo-xdp-ebpf` in the target directory; compare-user's build script takes it
//! from there. Cargo decides what is up to date.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command,
    setup::ebpf::{Origin, Toolchain},
    workspace,
};

/// Name of the binary target in compare-ebpf, and of the object.
const PROGRAM: &str = "colo-xdp-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// The profile in the workspace's Cargo.toml: always optimised, since the verifier rejects what
/// rustc makes of unoptimised code, and with debug information, which bpf-linker turns into BTF.
const PROFILE: &str = "bpf";

/// What the object keeps beside code, maps and BTF.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flavour {
    /// DWARF too, so that `llvm-objdump --source` and `perf` show source lines.
    Debug,
    /// Nothing: about a tenth of the size, inside `colo-xdp`.
    Release,
}

/// Where the object is put.
pub(crate) fn object_path() -> PathBuf {
    workspace::target_dir().join("bpf").join(PROGRAM)
}

/// Compiles the programs and puts the object in place.
///
/// # Errors
/// The build or the strip failed, or the object could not be written.
pub(crate) fn build(toolchain: &Toolchain, flavour: Flavour) -> Result<PathBuf> {
    eprintln!("eBPF toolchain: {toolchain}");
    // A target directory of its own: another rustc would invalidate the rest of the build.
    let target_dir = workspace::target_dir().join("ebpf");
    command::run(&mut cargo_build(toolchain, &target_dir))?;
    let linked = target_dir.join(TARGET).join(PROFILE).join(PROGRAM);
    let object = match flavour {
        Flavour::Debug => linked,
        Flavour::Release => stripped(&linked)?,
    };
    let place = object_path();
    put(&object, &place)
        .with_context(|| format!("cannot put {} at {}", object.display(), place.display()))?;
    Ok(place)
}

fn cargo_build(toolchain: &Toolchain, target_dir: &Path) -> Command {
    let compiler = &toolchain.compiler;
    let mut command = Command::new(compiler.cargo.clone().unwrap_or_else(workspace::cargo));
    // What the outer cargo or the caller set for the other compiler.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    if compiler.origin == Origin::System {
        // A stable compiler takes -Z options only like this. It applies to this build alone.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let linker = format!("linker={}", toolchain.linker.display());
    let flags = ["-C", &linker, "-C", "link-arg=--btf"].join("\u{1f}");
    command
        .current_dir(workspace::root())
        .env("RUSTC", &compiler.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args(["build", "--package", "compare-ebpf", "--bin", PROGRAM, "--features", "program"])
        .args(["-Z", "build-std=core", "--target", TARGET, "--profile", PROFILE, "--target-dir"])
        .arg(target_dir);
    command
}

/// Removes the DWARF sections; code, maps, relocations and BTF stay.
fn stripped(object: &Path) -> Result<PathBuf> {
    let stripped = object.with_extension("stripped");
    let mut strip = Command::new("llvm-strip");
    command::run(strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(object))?;
    Ok(stripped)
}

/// Copies the object only if it differs, so that its date says when it changed and `colo-xdp` is not
/// rebuilt for nothing. The new one appears in one piece.
fn put(object: &Path, place: &Path) -> io::Result<()> {
    let new = fs::read(object)?;
    if fs::read(place).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(directory) = place.parent() {
        fs::create_dir_all(directory)?;
    }
    let partial = place.with_extension("partial");
    fs::write(&partial, new)?;
    fs::rename(partial, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::ebpf::Compiler;

    fn toolchain(origin: Origin, cargo: Option<&str>) -> Toolchain {
        let compiler = Compiler {
            origin,
            rustc: "/some/rustc".into(),
            cargo: cargo.map(PathBuf::from),
            release: "1.96.0".into(),
            llvm: 22,
        };
        Toolchain { compiler, linker: "/some/bpf-linker".into() }
    }

    #[test]
    fn the_systems_rustc_is_named_for_this_build_only_and_driven_by_our_cargo() {
        let command = cargo_build(&toolchain(Origin::System, None), Path::new("/out"));
        let line = command::shell_line(&command);
        assert_eq!(command.get_program(), workspace::cargo());
        assert!(line.contains("RUSTC=/some/rustc RUSTC_BOOTSTRAP=1 "), "{line}");
        assert!(line.contains("linker=/some/bpf-linker"), "{line}");
        assert!(line.contains("link-arg=--btf"), "{line}");
        assert!(line.ends_with("--target-dir /out"), "{line}");
    }

    #[test]
    fn the_nightly_is_driven_by_its_own_cargo_without_bootstrap() {
        let nightly = toolchain(Origin::RustupNightly, Some("/nightly/cargo"));
        let line = command::shell_line(&cargo_build(&nightly, Path::new("/out")));
        assert!(line.contains(" /nightly/cargo build "), "{line}");
        assert!(!line.contains("RUSTC_BOOTSTRAP"), "{line}");
    }

    #[test]
    fn an_object_that_did_not_change_keeps_its_date() {
        let directory = std::env::temp_dir().join(format!("xtask-put-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("can be made");
        let (object, place) = (directory.join("object"), directory.join("bpf/place"));
        fs::write(&object, "one").expect("can be written");
        put(&object, &place).expect("is new");
        let date =
            |path: &Path| fs::metadata(path).and_then(|file| file.modified()).expect("is there");
        let first = date(&place);
        put(&object, &place).expect("is the same");
        assert_eq!(date(&place), first);
        fs::write(&object, "two").expect("can be written");
        put(&object, &place).expect("differs");
        assert_eq!(fs::read(&place).expect("is there"), b"two");
        fs::remove_dir_all(directory).expect("is ours");
    }
}
