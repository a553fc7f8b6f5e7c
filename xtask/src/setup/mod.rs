//! `cargo xtask setup`: finds what the machine lacks and installs it, or says how.
//!
//! Every other command calls [`ensure`] or [`ensure_for_tests`] first; both are quiet when nothing
//! is missing.

pub(crate) mod ebpf;
mod machine;
mod needs;

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use ebpf::{State, Toolchain};
use machine::Machine;
pub(crate) use machine::is_root;
use needs::{Need, Purpose};

use crate::{
    command::{self, CommandFailed},
    workspace,
};

/// Debian's compiler with its own sources.
const SYSTEM_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Why the machine is still not ready.
#[derive(Debug)]
pub(crate) enum SetupError {
    /// Something is missing and setup may not, or does not know how to, install it here. The
    /// commands have been printed.
    NotInstallable { missing: Vec<String> },
    /// An installation was tried and failed.
    Failed(CommandFailed),
    /// Every installation succeeded and something is missing all the same.
    StillMissing { missing: Vec<String> },
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstallable { missing } => {
                write!(
                    f,
                    "this machine lacks {}; the commands above install it",
                    missing.join(", ")
                )
            }
            Self::Failed(failed) => write!(f, "{failed}"),
            Self::StillMissing { missing } => {
                write!(f, "everything was installed, yet still missing: {}", missing.join(", "))
            }
        }
    }
}

impl std::error::Error for SetupError {}

/// What was found.
#[derive(Debug)]
struct Survey {
    unmet: Vec<&'static Need>,
    ebpf: State,
}

/// The next thing to do about it.
#[derive(Debug, Eq, PartialEq)]
enum Step {
    /// Install these packages.
    Apt(Vec<String>),
    /// Build a bpf-linker for this LLVM.
    Linker(u32),
}

impl Survey {
    fn of(machine: &Machine, purpose: Purpose) -> Self {
        Self { unmet: needs::unmet(machine, purpose), ebpf: ebpf::survey(machine) }
    }

    fn next(&self) -> Option<Step> {
        let mut packages: Vec<String> = Vec::new();
        for need in &self.unmet {
            if !packages.iter().any(|package| package == need.package) {
                packages.push(need.package.to_owned());
            }
        }
        match &self.ebpf {
            State::NoCompiler => packages.extend(SYSTEM_COMPILER.map(str::to_owned)),
            State::NoLinker { compiler, llvm_dev: false } => {
                packages.push(format!("llvm-{}-dev", compiler.llvm));
            }
            State::NoLinker { .. } | State::Ready(_) => {}
        }
        if !packages.is_empty() {
            return Some(Step::Apt(packages));
        }
        match &self.ebpf {
            State::NoLinker { compiler, .. } => Some(Step::Linker(compiler.llvm)),
            State::NoCompiler | State::Ready(_) => None,
        }
    }

    /// What is missing, in words.
    fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.unmet.iter().map(|need| need.what()).collect();
        match &self.ebpf {
            State::NoCompiler => {
                missing.push("a rustc with the sources of its own core".to_owned());
            }
            State::NoLinker { compiler, .. } => {
                missing.push(format!("a bpf-linker for LLVM {}", compiler.llvm));
            }
            State::Ready(_) => {}
        }
        missing
    }
}

/// Makes sure that nothing is missing for building, and returns the eBPF toolchain; quiet if all is
/// there.
///
/// # Errors
/// Something is missing and could not be installed.
pub(crate) fn ensure() -> Result<Toolchain, SetupError> {
    ensure_for(Purpose::Build)
}

/// As [`ensure`], for the fuzz targets too.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_for_fuzzing() -> Result<Toolchain, SetupError> {
    ensure_for(Purpose::Fuzz)
}

/// As [`ensure`], for fuzzing, tests and benchmarks too.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_for_tests() -> Result<Toolchain, SetupError> {
    ensure_for(Purpose::Test)
}

fn ensure_for(purpose: Purpose) -> Result<Toolchain, SetupError> {
    let machine = Machine::here();
    let survey = Survey::of(&machine, purpose);
    match (survey.next(), survey.ebpf) {
        (None, State::Ready(toolchain)) => Ok(toolchain),
        _ => install(&machine, purpose),
    }
}

/// `cargo xtask setup`: as [`ensure_for_tests`], but says so if nothing is missing.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn run() -> Result<(), SetupError> {
    let toolchain = ensure_for_tests()?;
    eprintln!("nothing is missing; eBPF: {toolchain}");
    Ok(())
}

/// Where what is fetched or built for every checkout is kept.
pub(crate) fn cache() -> PathBuf {
    Machine::here().tools
}

/// An executable of that name.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    Machine::here().program(name)
}

/// Fetches apt's package lists, as root.
pub(crate) fn update_package_lists() {
    let machine = Machine::here();
    if let Some(apt) = machine.program("apt-get").filter(|_| machine.is_root) {
        let _lock = one_at_a_time();
        apt_update(&apt);
    }
}

fn install(machine: &Machine, purpose: Purpose) -> Result<Toolchain, SetupError> {
    let apt = machine.program("apt-get").filter(|_| machine.is_root);
    // Two apt runs at once fail, or remove each other's downloads where a clean-up hook is
    // configured (Debian's container images); the second waits and finds the work done.
    let _lock = if apt.is_some() { one_at_a_time() } else { None };
    let mut updated = false;
    let mut last = None;
    loop {
        let survey = Survey::of(machine, purpose);
        let missing = survey.missing();
        let step = match (survey.next(), &survey.ebpf) {
            (Some(step), _) => step,
            (None, State::Ready(toolchain)) => return Ok(toolchain.clone()),
            (None, _) => return Err(SetupError::StillMissing { missing }),
        };
        // A step that has succeeded and is still called for would be called for forever.
        if last.as_ref() == Some(&step) {
            return Err(SetupError::StillMissing { missing });
        }
        report(&survey);
        match (&step, &apt) {
            (Step::Apt(packages), Some(apt)) => {
                if !updated {
                    apt_update(apt);
                    updated = true;
                }
                if !available(machine, packages) {
                    print_commands(machine, &survey);
                    return Err(SetupError::NotInstallable { missing });
                }
                apt_install(apt, packages).map_err(SetupError::Failed)?;
            }
            (Step::Linker(llvm), _) => {
                // Goes to the caller's cache directory: no privilege needed.
                let mut command = ebpf::install_linker(machine, *llvm, workspace::cargo());
                command::run_logged(&mut command, &log("bpf-linker"))
                    .map_err(SetupError::Failed)?;
            }
            (Step::Apt(_), None) => {
                print_commands(machine, &survey);
                return Err(SetupError::NotInstallable { missing });
            }
        }
        last = Some(step);
    }
}

/// Says what is missing and what it is for.
fn report(survey: &Survey) {
    for need in &survey.unmet {
        eprintln!("missing: {:43} {}", need.what(), need.why);
    }
    for what in survey.missing().iter().skip(survey.unmet.len()) {
        eprintln!("missing: {what:43} compiles and links the XDP programs");
    }
}

fn log(name: &str) -> PathBuf {
    workspace::target_dir().join("setup").join(format!("{name}.log"))
}

/// Waits for other setups on this machine; a lock that cannot be had is no reason to fail.
fn one_at_a_time() -> Option<File> {
    let directory = ["/run/lock", "/tmp"].into_iter().find(|path| Path::new(path).is_dir())?;
    let path = Path::new(directory).join("colo-xdp-setup.lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another setup on this machine");
        file.lock().ok()?;
    }
    Some(file)
}

fn apt_get(apt: &Path) -> Command {
    let mut command = Command::new(apt);
    // Waits for other users of the package database (unattended upgrades) instead of failing.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Fetches the package lists. A list that cannot be fetched is reported, no more: the one that is
/// needed may be there, and the installation will tell.
fn apt_update(apt: &Path) {
    if let Err(failed) = command::run_logged(apt_get(apt).arg("update"), &log("apt-update")) {
        eprintln!("warning: {failed}");
    }
}

fn apt_install(apt: &Path, packages: &[String]) -> Result<(), CommandFailed> {
    let mut command = apt_get(apt);
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    command::run_logged(&mut command, &log("apt-install"))
}

/// Whether apt knows all of these, so that what it has is not half installed.
fn available(machine: &Machine, packages: &[String]) -> bool {
    let Some(cache) = machine.program("apt-cache") else { return true };
    let unknown: Vec<&str> = packages
        .iter()
        .map(String::as_str)
        .filter(|package| {
            let asked =
                command::output(Command::new(&cache).args(["show", "--no-all-versions", package]));
            asked.map_or(true, |text| text.trim().is_empty())
        })
        .collect();
    if !unknown.is_empty() {
        eprintln!("apt has no package {}", unknown.join(", "));
    }
    unknown.is_empty()
}

fn print_commands(machine: &Machine, survey: &Survey) {
    let reason = if machine.is_root { "cannot install that here" } else { "needs root for that" };
    eprintln!("\nSetup {reason}. By hand:\n");
    for line in commands(machine, survey) {
        eprintln!("  {line}");
    }
    eprintln!();
}

/// What somebody may type, on Debian and its kin or with rustup, to get what is missing.
fn commands(machine: &Machine, survey: &Survey) -> Vec<String> {
    let install = "apt-get install --yes --no-install-recommends";
    let mut lines = vec!["# as root, on Debian 12:".to_owned(), "apt-get update".to_owned()];
    if let Some(Step::Apt(packages)) = survey.next() {
        lines.push(format!("{install} {}", packages.join(" ")));
    } else {
        lines.clear();
    }
    let linker = |llvm: u32| command::shell_line(&ebpf::install_linker(machine, llvm, "cargo"));
    match &survey.ebpf {
        State::Ready(_) => {}
        State::NoLinker { compiler, .. } => {
            lines.push("# as yourself:".to_owned());
            lines.push(linker(compiler.llvm));
        }
        State::NoCompiler => {
            lines.push(format!(
                "{install} llvm-$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \\([0-9]*\\).*/\\1/p')-dev"
            ));
            lines.push(
                "# or, for the eBPF toolchain, rustup in place of rustc-web and rust-web-src:"
                    .to_owned(),
            );
            lines.push(
                "rustup toolchain install nightly --profile minimal --component rust-src"
                    .to_owned(),
            );
            lines.push(
                "# then, as yourself, for what depends on the LLVM version of that compiler:"
                    .to_owned(),
            );
            lines.push("cargo xtask setup".to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{machine::fake::Fake, *};

    fn compiler(llvm: u32) -> ebpf::Compiler {
        ebpf::Compiler {
            origin: ebpf::Origin::System,
            rustc: "/usr/bin/rustc".into(),
            cargo: None,
            release: "1.96.0".into(),
            llvm,
        }
    }

    fn apt(step: Option<Step>) -> Vec<String> {
        match step {
            Some(Step::Apt(packages)) => packages,
            other => panic!("not apt: {other:?}"),
        }
    }

    #[test]
    fn a_bare_machine_gets_every_package_once_and_a_compiler_with_its_sources() {
        let fake = Fake::new();
        let packages = apt(Survey::of(&fake.machine, Purpose::Test).next());
        for package in [
            "clang",
            "llvm",
            "m4",
            "libclang-dev",
            "libelf-dev",
            "libpcap-dev",
            "rustc-web",
            "qemu-system-x86",
        ] {
            assert_eq!(packages.iter().filter(|name| *name == package).count(), 1, "{package}");
        }
    }

    #[test]
    fn llvm_is_installed_in_the_compilers_version_before_the_linker_is_built() {
        let survey = |llvm_dev| Survey {
            unmet: Vec::new(),
            ebpf: State::NoLinker { compiler: compiler(23), llvm_dev },
        };
        assert_eq!(apt(survey(false).next()), ["llvm-23-dev"]);
        assert_eq!(survey(true).next(), Some(Step::Linker(23)));
    }

    #[test]
    fn nothing_is_done_when_nothing_is_missing() {
        let toolchain = Toolchain { compiler: compiler(22), linker: "/usr/bin/bpf-linker".into() };
        let survey = Survey { unmet: Vec::new(), ebpf: State::Ready(toolchain) };
        assert_eq!(survey.next(), None);
        assert!(survey.missing().is_empty());
    }

    #[test]
    fn without_root_nothing_runs_and_the_commands_are_exact() {
        let fake = Fake::new();
        fake.program("usr/bin/apt-get", "exit 99");
        let error = install(&fake.machine, Purpose::Test).expect_err("nothing is there");
        assert!(matches!(error, SetupError::NotInstallable { .. }), "{error}");
        let lines = commands(&fake.machine, &Survey::of(&fake.machine, Purpose::Test)).join("\n");
        assert!(
            lines.contains("\napt-get install --yes --no-install-recommends gcc binutils"),
            "{lines}"
        );
        assert!(lines.contains("rustup toolchain install nightly"), "{lines}");
    }

    #[test]
    fn a_package_that_apt_does_not_know_is_noticed_before_anything_is_installed() {
        let fake = Fake::new();
        fake.program("usr/bin/apt-cache", r#"[ "$3" = m4 ] && echo "Package: m4""#);
        assert!(available(&fake.machine, &["m4".into()]));
        assert!(!available(&fake.machine, &["m4".into(), "rustc-web".into()]));
    }

    #[test]
    fn xtask_itself_builds_before_anything_is_installed() {
        // Crates that link a C library (Cargo's `links`), and with them bindgen, would need the
        // very packages that setup installs.
        let text = command::output(
            Command::new(workspace::cargo())
                .args(["tree", "--package", "xtask", "--edges", "normal,build", "--prefix", "none"])
                .current_dir(workspace::root()),
        )
        .expect("cargo tree works on this workspace");
        for name in ["libbpf-sys", "libxdp-sys", "bindgen", "pkg-config", "compare-user"] {
            assert!(!text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
        }
    }
}
