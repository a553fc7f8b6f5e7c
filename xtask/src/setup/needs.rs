//! What the build and the tests take from the machine, and how each is recognised.
//!
//! A need is probed by what it provides to the build, a program, a header or a pkg-config name,
//! never by a package database alone: what somebody compiled into `/usr/local` serves as well.

use std::process::Command;

use super::machine::Machine;
use crate::command;

/// One thing that the machine must have.
#[derive(Debug)]
pub(crate) struct Need {
    /// How it is recognised.
    pub(crate) probe: Probe,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// Who needs it.
    pub(crate) why: &'static str,
}

/// How a need is recognised.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// An executable on PATH or in one of the directories for administrators.
    Program(&'static str),
    /// A file under an include directory.
    Header(&'static str),
    /// A name that pkg-config knows.
    PkgConfig(&'static str),
    /// A libclang shared library of at least this major version.
    Libclang(u32),
}

const fn need(probe: Probe, package: &'static str, why: &'static str) -> Need {
    Need { probe, package, why }
}

/// What the machine is to be made ready for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Building, and running what was built.
    Build,
    /// That, and the fuzz targets.
    Fuzz,
    /// All of it, and every test and benchmark.
    Test,
}

/// What building takes: everything but the eBPF toolchain, which [`super::ebpf`] looks after.
///
/// The list is complete for a Debian 12 `minbase` system with rustup's stable toolchain. Much of it
/// is what libxdp's `configure` (xdp-tools, in the crate libxdp-sys) asks for.
pub(crate) const NEEDS: &[Need] = &[
    need(Probe::Program("cc"), "gcc", "links every Rust program"),
    need(Probe::Program("gcc"), "gcc", "compiles libbpf and libxdp"),
    need(Probe::Program("ld"), "binutils", "libxdp embeds its programs with it"),
    need(Probe::Program("objcopy"), "binutils", "libxdp embeds its programs with it"),
    need(Probe::Program("readelf"), "binutils", "libxdp's configure asks for it"),
    need(Probe::Header("stdio.h"), "libc6-dev", "compiles libbpf and libxdp"),
    need(Probe::Header("linux/if_xdp.h"), "linux-libc-dev", "AF_XDP's kernel interface"),
    need(Probe::Program("make"), "make", "builds libbpf and libxdp"),
    need(Probe::Program("m4"), "m4", "libxdp generates its dispatcher with it"),
    need(Probe::Program("pkg-config"), "pkg-config", "finds the libraries below"),
    need(Probe::Program("clang"), "clang", "compiles libxdp's own programs; bindgen's headers"),
    need(Probe::Program("llc"), "llvm", "compiles libxdp's own programs"),
    need(Probe::Program("llvm-strip"), "llvm", "strips the XDP object for release"),
    need(Probe::Libclang(14), "libclang-dev", "bindgen reads libxdp's headers with it"),
    need(Probe::PkgConfig("libelf"), "libelf-dev", "libbpf reads objects with it"),
    need(Probe::PkgConfig("zlib"), "zlib1g-dev", "libelf decompresses sections with it"),
    need(Probe::PkgConfig("libpcap"), "libpcap-dev", "libxdp's configure asks for it"),
    need(Probe::Program("ip"), "iproute2", "demo and tests make network namespaces with it"),
    need(Probe::Program("ethtool"), "ethtool", "demo and tests set offloads with it"),
    need(Probe::Program("nsenter"), "util-linux", "demo and tests enter namespaces with it"),
];

/// What only tests and benchmarks take.
///
/// QEMU is large, and nobody who builds or runs colo-xdp needs it: the interop tests drive its
/// colo-compare and its filters, without a guest, and `cargo xtask vm` another kernel.
pub(crate) const TEST_NEEDS: &[Need] = &[
    need(Probe::Program("qemu-system-x86_64"), "qemu-system-x86", "the comparator to compare with"),
    need(Probe::Program("busybox"), "busybox-static", "the system of the virtual machine"),
    need(Probe::Program("cpio"), "cpio", "packs the file system of the virtual machine"),
    need(Probe::Program("setpriv"), "util-linux", "ends QEMU with the test that started it"),
    need(Probe::Program("setcap"), "libcap2-bin", "tests run as an ordinary user with it"),
];

/// What only the fuzz targets take.
pub(crate) const FUZZ_NEEDS: &[Need] =
    &[need(Probe::Program("c++"), "g++", "compiles libFuzzer for the fuzz targets")];

impl Need {
    /// What is missing, in words.
    pub(crate) fn what(&self) -> String {
        match self.probe {
            Probe::Program(name) => format!("program {name}"),
            Probe::Header(path) => format!("header {path}"),
            Probe::PkgConfig(name) => format!("library {name} (pkg-config)"),
            Probe::Libclang(major) => format!("libclang {major} or newer"),
        }
    }

    /// Whether the machine has it.
    pub(crate) fn is_met(&self, machine: &Machine) -> bool {
        match self.probe {
            Probe::Program(name) => machine.program(name).is_some(),
            Probe::Header(path) => has_header(machine, path),
            Probe::PkgConfig(name) => pkg_config_knows(machine, name),
            Probe::Libclang(major) => has_libclang(machine, major),
        }
    }
}

/// The needs that the machine does not meet.
pub(crate) fn unmet(machine: &Machine, purpose: Purpose) -> Vec<&'static Need> {
    let (fuzzing, tests): (&[Need], &[Need]) = match purpose {
        Purpose::Build => (&[], &[]),
        Purpose::Fuzz => (FUZZ_NEEDS, &[]),
        Purpose::Test => (FUZZ_NEEDS, TEST_NEEDS),
    };
    NEEDS.iter().chain(fuzzing).chain(tests).filter(|need| !need.is_met(machine)).collect()
}

fn has_header(machine: &Machine, path: &str) -> bool {
    ["usr/include", "usr/local/include"]
        .iter()
        .any(|directory| machine.root.join(directory).join(path).is_file())
}

fn pkg_config_knows(machine: &Machine, name: &str) -> bool {
    machine.program("pkg-config").is_some_and(|program| {
        command::output(Command::new(program).args(["--exists", name])).is_ok()
    })
}

/// Looks where bindgen's clang-sys looks: `LIBCLANG_PATH`, LLVM's own directories, the library
/// directories.
fn has_libclang(machine: &Machine, at_least: u32) -> bool {
    let llvm = machine.entries("usr/lib").into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
    });
    let plain = ["usr/lib", "usr/lib64", "usr/local/lib"].map(|path| machine.root.join(path));
    let multiarch = machine.entries("usr/lib").into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-"))
    });
    machine
        .libclang_path
        .iter()
        .cloned()
        .chain(llvm.map(|path| path.join("lib")))
        .chain(plain)
        .chain(multiarch)
        .flat_map(|directory| machine.entries(directory))
        .filter(|path| path.exists())
        .filter_map(|path| libclang_major(&path.file_name()?.to_string_lossy()))
        .any(|major| major >= at_least)
}

/// The major version in a libclang file name: `libclang-14.so.1`, `libclang.so.14`,
/// `libclang-14.so.14.0.6`. A bare `libclang.so` is a link to a file whose name says it.
fn libclang_major(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("libclang")?;
    let version = match rest.strip_prefix('-') {
        Some(dashed) if dashed.contains(".so") => dashed,
        Some(_) => return None,
        None => rest.strip_prefix(".so.")?,
    };
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{super::machine::fake::Fake, *};

    #[test]
    fn an_empty_machine_lacks_everything() {
        let fake = Fake::new();
        assert_eq!(unmet(&fake.machine, Purpose::Build).len(), NEEDS.len());
        let fuzzing = NEEDS.len() + FUZZ_NEEDS.len();
        assert_eq!(unmet(&fake.machine, Purpose::Fuzz).len(), fuzzing);
        assert_eq!(unmet(&fake.machine, Purpose::Test).len(), fuzzing + TEST_NEEDS.len());
    }

    #[test]
    fn qemu_is_asked_for_by_tests_only() {
        let fake = Fake::new();
        let asks = |purpose| {
            unmet(&fake.machine, purpose).iter().any(|need| need.package == "qemu-system-x86")
        };
        assert!(asks(Purpose::Test) && !asks(Purpose::Build));
    }

    #[test]
    fn a_program_counts_only_if_it_can_be_executed() {
        let fake = Fake::new();
        fake.file("usr/bin/m4", "not executable");
        let m4 = need(Probe::Program("m4"), "m4", "");
        assert!(!m4.is_met(&fake.machine));
        fake.program("usr/bin/m4", "");
        assert!(m4.is_met(&fake.machine));
    }

    #[test]
    fn a_program_for_administrators_is_found_without_their_path() {
        let fake = Fake::new();
        fake.program("usr/sbin/ethtool", "");
        assert!(need(Probe::Program("ethtool"), "", "").is_met(&fake.machine));
    }

    #[test]
    fn pkg_config_decides_about_libraries() {
        let fake = Fake::new();
        fake.program("usr/bin/pkg-config", r#"[ "$2" = zlib ]"#);
        assert!(need(Probe::PkgConfig("zlib"), "", "").is_met(&fake.machine));
        assert!(!need(Probe::PkgConfig("libelf"), "", "").is_met(&fake.machine));
    }

    #[test]
    fn a_header_is_found_where_the_distribution_or_the_administrator_put_it() {
        for directory in ["usr/include", "usr/local/include"] {
            let fake = Fake::new();
            let header = need(Probe::Header("linux/if_xdp.h"), "", "");
            assert!(!header.is_met(&fake.machine));
            fake.file(&format!("{directory}/linux/if_xdp.h"), "");
            assert!(header.is_met(&fake.machine));
        }
    }

    #[test]
    fn libclang_is_found_by_version_wherever_a_distribution_puts_it() {
        for path in [
            "usr/lib/llvm-14/lib/libclang-14.so.1",
            "usr/lib/x86_64-linux-gnu/libclang-19.so.1",
            "usr/lib64/libclang.so.21.1.8",
        ] {
            let fake = Fake::new();
            fake.file(path, "");
            assert!(has_libclang(&fake.machine, 14), "{path}");
        }
    }

    #[test]
    fn an_old_libclang_or_libclang_cpp_does_not_serve() {
        let fake = Fake::new();
        fake.file("usr/lib/llvm-11/lib/libclang-11.so.1", "");
        fake.file("usr/lib/llvm-14/lib/libclang-cpp.so.14", "");
        assert!(!has_libclang(&fake.machine, 14));
    }

    #[test]
    fn libclang_path_is_honoured() {
        let mut fake = Fake::new();
        fake.file("opt/clang/libclang.so.18", "");
        assert!(!has_libclang(&fake.machine, 14));
        fake.machine.libclang_path = Some(fake.machine.root.join("opt/clang"));
        assert!(has_libclang(&fake.machine, 14));
    }
}
