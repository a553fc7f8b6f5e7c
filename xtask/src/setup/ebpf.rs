//! Finds a toolchain that can compile the XDP programs.
//!
//! They are compiled with `-Z build-std=core`, which takes a rustc that has the sources of its own
//! `core` at hand, and linked by bpf-linker, which reads that rustc's LLVM bitcode and therefore has
//! to be built against the same LLVM major version. Two compilers may qualify: rustup's nightly with
//! the component rust-src, and the system's rustc where a distribution packages its sources
//! (Debian 12: `rustc-web` with `rust-web-src`).

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::machine::{Machine, executable};
use crate::command;

/// The `core` sources, below a sysroot.
const CORE_SOURCES: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// The version of bpf-linker that setup installs, and the LLVM versions it has features for.
pub(crate) const BPF_LINKER: &str = "0.13.0";
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Where a compiler comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// rustup's toolchain `nightly` with the component `rust-src`.
    RustupNightly,
    /// `/usr/bin/rustc` with packaged sources.
    System,
}

/// A rustc that has its own `core` sources.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Compiler {
    pub(crate) origin: Origin,
    pub(crate) rustc: PathBuf,
    /// The cargo that belongs to it; the system's rustc works with the cargo that runs xtask.
    pub(crate) cargo: Option<PathBuf>,
    /// `1.96.0` or `1.97.0-nightly`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// A compiler and the linker that fits it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiler { origin, rustc, release, llvm, .. } = &self.compiler;
        let origin = match origin {
            Origin::RustupNightly => "rustup's nightly with rust-src",
            Origin::System => "the system's rustc with its packaged sources",
        };
        let (rustc, linker) = (rustc.display(), self.linker.display());
        write!(f, "{origin} ({rustc} {release}, LLVM {llvm}, {linker})")
    }
}

/// How far the machine is from a toolchain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Nothing is missing.
    Ready(Toolchain),
    /// The compiler has no linker; `llvm_dev` says whether one can be built for it at once.
    NoLinker { compiler: Compiler, llvm_dev: bool },
    /// No compiler has its `core` sources.
    NoCompiler,
}

/// Looks for a toolchain: the first compiler with a fitting linker, else the first compiler that a
/// linker can be built for, else the first compiler.
pub(crate) fn survey(machine: &Machine) -> State {
    let compilers: Vec<Compiler> =
        [rustup_nightly(machine), system(machine)].into_iter().flatten().collect();
    let ready = compilers.iter().find_map(|compiler| {
        let linker = linker_for(machine, compiler.llvm)?;
        Some(Toolchain { compiler: compiler.clone(), linker })
    });
    if let Some(toolchain) = ready {
        return State::Ready(toolchain);
    }
    let buildable = compilers
        .iter()
        .filter(|compiler| BPF_LINKER_LLVM.contains(&compiler.llvm))
        .max_by_key(|compiler| {
            // The system's compiler wins a draw: its LLVM comes from the same package source.
            (has_llvm_dev(machine, compiler.llvm), compiler.origin == Origin::System)
        });
    match buildable {
        Some(compiler) => State::NoLinker {
            compiler: compiler.clone(),
            llvm_dev: has_llvm_dev(machine, compiler.llvm),
        },
        None => State::NoCompiler,
    }
}

fn rustup_nightly(machine: &Machine) -> Option<Compiler> {
    let rustup = machine.program("rustup")?;
    // Asking must not download a toolchain.
    let rustc = command::output(
        Command::new(rustup)
            .args(["which", "--toolchain", "nightly", "rustc"])
            .env("RUSTUP_AUTO_INSTALL", "0"),
    )
    .ok()?;
    let rustc = PathBuf::from(rustc.trim());
    let cargo = rustc.with_file_name("cargo");
    compiler(Origin::RustupNightly, rustc, executable(&cargo).then_some(cargo))
}

fn system(machine: &Machine) -> Option<Compiler> {
    let rustc = machine.root.join("usr/bin/rustc");
    compiler(Origin::System, rustc, None)
        .filter(|compiler| at_least(&compiler.release, env!("CARGO_PKG_RUST_VERSION")))
}

fn compiler(origin: Origin, rustc: PathBuf, cargo: Option<PathBuf>) -> Option<Compiler> {
    let sysroot = rustc.parent()?.parent()?;
    if !executable(&rustc) || !sysroot.join(CORE_SOURCES).is_file() {
        return None;
    }
    let version = command::output(Command::new(&rustc).arg("-vV")).ok()?;
    let (release, llvm) = parse_version(&version)?;
    Some(Compiler { origin, rustc, cargo, release, llvm })
}

/// The release and the LLVM major version from `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?.trim().to_owned();
    let llvm = field("LLVM version: ")?.split('.').next()?.trim().parse().ok()?;
    Some((release, llvm))
}

/// Compares the numbers of two releases; a suffix such as `-nightly` does not count.
fn at_least(release: &str, minimum: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        let plain = version.split('-').next().unwrap_or_default();
        plain.split('.').map(|number| number.parse().unwrap_or(0)).collect()
    };
    numbers(release) >= numbers(minimum)
}

/// The directory that a bpf-linker for this LLVM is installed in by setup. It lies outside the
/// checkout, since building it takes most of a minute, and beside `~/.cargo/bin`, so that a
/// bpf-linker for another LLVM that somebody uses there is left alone.
fn linker_root(machine: &Machine, llvm: u32) -> PathBuf {
    machine.tools.join(format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}"))
}

fn linker_for(machine: &Machine, llvm: u32) -> Option<PathBuf> {
    machine
        .programs("bpf-linker")
        .chain(Some(linker_root(machine, llvm).join("bin/bpf-linker")))
        .filter(|path| executable(path))
        // A linker that was built with LLVM inside does not say which: it is taken at its word.
        .filter(|path| linked_llvm(path).is_none_or(|major| major == llvm))
        // Running it proves that its libLLVM is still there.
        .find(|path| command::output(Command::new(path).arg("--version")).is_ok())
}

/// The major version of the libLLVM that an executable is linked against, from the name of the
/// shared library: `libLLVM.so.22.1`, `libLLVM-21.so.1`.
fn linked_llvm(program: &Path) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM";
    let bytes = fs::read(program).ok()?;
    let mut rest = bytes.as_slice();
    while let Some(at) = rest.iter().position(|&byte| byte == NAME[0]) {
        rest = &rest[at..];
        let version = rest
            .strip_prefix(NAME)
            .and_then(|rest| rest.strip_prefix(b".so.").or(rest.strip_prefix(b"-")));
        let digits: String = version
            .into_iter()
            .flatten()
            .map(|&byte| char::from(byte))
            .take_while(char::is_ascii_digit)
            .collect();
        if let Ok(major) = digits.parse() {
            return Some(major);
        }
        rest = &rest[1..];
    }
    None
}

/// Where Debian's `llvm-N-dev` puts LLVM.
fn llvm_prefix(machine: &Machine, llvm: u32) -> PathBuf {
    machine.root.join(format!("usr/lib/llvm-{llvm}"))
}

fn has_llvm_dev(machine: &Machine, llvm: u32) -> bool {
    let prefix = llvm_prefix(machine, llvm);
    executable(&prefix.join("bin/llvm-config"))
        && prefix.join("include/llvm-c/Core.h").is_file()
        && prefix.join("lib/libLLVM.so").exists()
}

/// The command that builds a bpf-linker for this LLVM with the cargo given.
pub(crate) fn install_linker(machine: &Machine, llvm: u32, cargo: impl Into<OsString>) -> Command {
    let prefix = llvm_prefix(machine, llvm);
    let mut command = Command::new(cargo.into());
    command
        // bpf-linker's own build script reads the first, llvm-sys (221 for LLVM 22.1) the second.
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        // Flags meant for other builds; the build goes to a directory that cargo removes.
        .env_remove("RUSTC")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", &format!("bpf-linker@{BPF_LINKER}"), "--locked"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(linker_root(machine, llvm));
    command
}

#[cfg(test)]
mod tests {
    use super::{super::machine::fake::Fake, *};

    /// Puts a rustc with this release and LLVM, with or without its sources, below a prefix.
    fn put_rustc(fake: &Fake, prefix: &str, release: &str, llvm: &str, sources: bool) {
        let script = format!("printf 'rustc x\\nrelease: {release}\\nLLVM version: {llvm}\\n'");
        fake.program(&format!("{prefix}/bin/rustc"), &script);
        if sources {
            fake.file(&format!("{prefix}/{CORE_SOURCES}"), "");
        }
    }

    fn put_nightly(fake: &Fake, release: &str, llvm: &str, sources: bool) {
        let rustc = fake.machine.root.join("rustup/nightly/bin/rustc");
        fake.program("usr/bin/rustup", &format!("echo {}", rustc.display()));
        put_rustc(fake, "rustup/nightly", release, llvm, sources);
    }

    fn put_linker(fake: &Fake, path: &str, library: &str) {
        fake.program(path, &format!("# {library}\nexit 0"));
    }

    fn put_llvm_dev(fake: &Fake, llvm: u32) {
        fake.program(&format!("usr/lib/llvm-{llvm}/bin/llvm-config"), "");
        fake.file(&format!("usr/lib/llvm-{llvm}/include/llvm-c/Core.h"), "");
        fake.file(&format!("usr/lib/llvm-{llvm}/lib/libLLVM.so"), "");
    }

    fn ready(state: State) -> Toolchain {
        match state {
            State::Ready(toolchain) => toolchain,
            other => panic!("not ready: {other:?}"),
        }
    }

    #[test]
    fn a_nightly_without_its_sources_is_no_compiler() {
        let fake = Fake::new();
        put_nightly(&fake, "1.97.0-nightly", "22.1.4", false);
        put_linker(&fake, "usr/bin/bpf-linker", "libLLVM.so.22.1");
        assert_eq!(survey(&fake.machine), State::NoCompiler);
    }

    #[test]
    fn a_nightly_with_its_sources_and_a_linker_of_its_llvm_is_ready() {
        let fake = Fake::new();
        put_nightly(&fake, "1.97.0-nightly", "22.1.4", true);
        put_linker(&fake, "usr/bin/bpf-linker", "libLLVM.so.22.1");
        let toolchain = ready(survey(&fake.machine));
        assert_eq!(toolchain.compiler.origin, Origin::RustupNightly);
        assert_eq!(toolchain.compiler.llvm, 22);
    }

    #[test]
    fn the_systems_compiler_serves_when_the_nightly_has_no_sources() {
        let fake = Fake::new();
        put_nightly(&fake, "1.97.0-nightly", "22.1.4", false);
        put_rustc(&fake, "usr", "1.96.0", "22.1.8", true);
        put_linker(&fake, "usr/bin/bpf-linker", "libLLVM.so.22.1");
        assert_eq!(ready(survey(&fake.machine)).compiler.origin, Origin::System);
    }

    #[test]
    fn the_compiler_whose_linker_is_there_wins() {
        let fake = Fake::new();
        put_nightly(&fake, "1.99.0-nightly", "23.1.0", true);
        put_rustc(&fake, "usr", "1.96.0", "22.1.8", true);
        put_linker(&fake, "usr/bin/bpf-linker", "libLLVM.so.22.1");
        assert_eq!(ready(survey(&fake.machine)).compiler.origin, Origin::System);
    }

    #[test]
    fn a_system_compiler_too_old_for_the_workspace_is_none() {
        let fake = Fake::new();
        put_rustc(&fake, "usr", "1.63.0", "14.0.6", true);
        assert_eq!(survey(&fake.machine), State::NoCompiler);
    }

    #[test]
    fn a_linker_of_another_llvm_is_passed_over_for_the_one_that_setup_built() {
        let fake = Fake::new();
        put_rustc(&fake, "usr", "1.96.0", "22.1.8", true);
        put_linker(&fake, "usr/bin/bpf-linker", "libLLVM.so.21.1");
        assert!(matches!(survey(&fake.machine), State::NoLinker { llvm_dev: false, .. }));
        let ours = format!("cache/bpf-linker-{BPF_LINKER}-llvm-22/bin/bpf-linker");
        put_linker(&fake, &ours, "libLLVM.so.22.1");
        assert_eq!(ready(survey(&fake.machine)).linker, fake.machine.root.join(ours));
    }

    #[test]
    fn a_linker_that_does_not_run_is_none() {
        let fake = Fake::new();
        put_rustc(&fake, "usr", "1.96.0", "22.1.8", true);
        put_llvm_dev(&fake, 22);
        fake.program("usr/bin/bpf-linker", "exit 127 # libLLVM.so.22.1: cannot open");
        assert!(matches!(survey(&fake.machine), State::NoLinker { llvm_dev: true, .. }));
    }

    #[test]
    fn a_linker_is_built_against_the_llvm_of_the_compiler() {
        let fake = Fake::new();
        let line = command::shell_line(&install_linker(&fake.machine, 23, "cargo"));
        let root = fake.machine.root.display();
        assert!(line.contains(&format!("LLVM_PREFIX={root}/usr/lib/llvm-23")), "{line}");
        assert!(line.contains(&format!("LLVM_SYS_231_PREFIX={root}/usr/lib/llvm-23")), "{line}");
        assert!(line.contains("--no-default-features --features llvm-23"), "{line}");
    }

    #[test]
    fn the_linked_llvm_is_read_from_the_librarys_name() {
        let fake = Fake::new();
        for (bytes, major) in [
            ("\0libLLVM.so.22.1\0", Some(22)),
            ("libLLVM error liblibLLVM-21.so.1", Some(21)),
            ("libLLVM.so", None),
            ("", None),
        ] {
            fake.file("linker", bytes);
            assert_eq!(linked_llvm(&fake.machine.root.join("linker")), major, "{bytes:?}");
        }
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(at_least("1.97.0-nightly", "1.95"));
        assert!(at_least("1.95.0", "1.95"));
        assert!(at_least("1.100.0", "1.95"));
        assert!(!at_least("1.85.1", "1.95"));
    }
}
