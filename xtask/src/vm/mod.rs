//! `cargo xtask vm`: tests of the kernel side in a virtual machine with Debian's kernel.
//!
//! The machine has that kernel, an initial file system made here, and nothing else: the test
//! binary with its libraries, busybox, `ip`. Its serial console is the runner's output. It is
//! emulated: that works wherever QEMU does, and the tests take longer than its start.

mod kernel;
mod root;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
pub(crate) use kernel::Kernel;
use root::Root;

use crate::test::Tally;
use crate::{build_ebpf, command, setup, workspace};

/// The package whose kernel is taken: in Debian 12, Linux 6.1.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Where the tests find their programs; the other tests are as of the newest kernel.
const PROGRAMS: &str = "programs::";
/// What the machine says last, before the exit status of the tests.
const VERDICT: &str = "exit status of the tests: ";
/// Seconds after which a machine that does not power off by itself is ended.
const PATIENCE: &str = "1800";

const HELP: &str = "\
By default the programs run under BPF_PROG_TEST_RUN on Linux 6.1, as `cargo xtask test` has it.
With --all, every test of compare-user/tests/kernel runs but those of what that kernel lacks
and of short intervals.

Examples:
  cargo xtask vm
  cargo xtask vm --all
  cargo xtask vm --package linux-image-6.1.0-47-cloud-amd64-unsigned
  cargo xtask vm --kernel /tmp/unpacked mirroring::";

/// What to run, on what.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Debian package of the kernel, fetched with apt-get
    #[arg(long, default_value = PACKAGE)]
    package: String,
    /// Directory with an unpacked kernel package instead: boot/vmlinuz-* and lib/modules
    #[arg(long, value_name = "DIR", conflicts_with = "package")]
    kernel: Option<PathBuf>,
    /// Run every test of the kernel side
    #[arg(long)]
    all: bool,
    /// Run only tests whose name contains one of these
    filters: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { package: PACKAGE.into(), kernel: None, all: false, filters: Vec::new() }
    }
}

/// Tests that cannot pass there.
const LEFT_OUT: &[&str] = &[
    // Since Linux 6.3 drivers say what XDP they can.
    "attaching::a_veth_accepts_redirected_frames_while_its_peer_passes_them",
    "relaying::frames_of_several_buffers_pass_where_the_device_takes_them",
    // Since Linux 6.6 a veth takes redirected frames of several buffers.
    "steering::jumbo_frames_are_counted_whole_and_leave_whole",
    // Intervals of a tenth of a second, which an emulated machine does not keep.
    "announcing::",
    // Six thousand frames one behind the other, faster than an emulated machine forwards them.
    "relaying::connections_beyond_the_limit_are_evicted_and_counted_and_the_busy_one_stays",
];

/// As a command of its own: builds what the tests need.
///
/// # Errors
/// The machine lacks something, the kernel cannot be had, or a test fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let toolchain = setup::ensure_for_tests()?;
    build_ebpf::build(&toolchain, build_ebpf::Flavour::Release)?;
    let mut tally = Tally::default();
    run_tests(&kernel(options)?, options, &mut tally)?;
    println!("{tally}");
    Ok(())
}

/// The kernel that was asked for.
///
/// # Errors
/// apt has no such package, or it cannot be fetched.
pub(crate) fn kernel(options: &Options) -> Result<Kernel> {
    match &options.kernel {
        Some(directory) => Kernel::unpacked(directory),
        None => Kernel::of_package(&options.package),
    }
}

/// Runs the tests in the machine and adds up their results.
///
/// # Errors
/// The machine does not start, or a test fails.
pub(crate) fn run_tests(kernel: &Kernel, options: &Options, tally: &mut Tally) -> Result<()> {
    let test = test_binary()?;
    let mut arguments: Vec<&str> = vec!["--test-threads=2", "--show-output"];
    if options.all {
        arguments.extend(LEFT_OUT.iter().flat_map(|test| ["--skip", test]));
    } else if options.filters.is_empty() {
        arguments.push(PROGRAMS);
    }
    arguments.extend(options.filters.iter().map(String::as_str));
    let image = tempfile::tempdir().context("a directory for the machine's file system")?;
    let archive = image.path().join("initrd");
    Root::make(&image.path().join("root"), kernel, &test, &arguments)?.archive(&archive)?;

    let mut verdict = None;
    let mut console = |line: &str| {
        let line = line.trim_end_matches('\r');
        if let Some(status) = line.strip_prefix(VERDICT) {
            verdict = Some(status.to_owned());
        } else if tally.line(line) {
            println!("{line}");
        }
    };
    command::run_lines(&mut machine(kernel, &archive), &mut console)?;
    match verdict.as_deref() {
        Some("0") => Ok(()),
        Some(status) => bail!("tests in the virtual machine failed: exit status {status}"),
        None => bail!("the virtual machine ended before the tests did"),
    }
}

/// QEMU with that kernel, without any device but a serial console.
fn machine(kernel: &Kernel, archive: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE, "qemu-system-x86_64"]);
    // Two threads of one machine; `max` has all that the emulation can.
    command.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2"]);
    command.args(["-m", "1024", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "stdio", "-kernel"]).arg(&kernel.image);
    command.arg("-initrd").arg(archive);
    // A panic ends it, as `-no-reboot` has it. On a busy host an emulated timer may be late, which the
    // kernel would take for a broken one (`check_timer` in arch/x86/kernel/apic/io_apic.c).
    command.args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"]);
    command
}

/// Builds the tests, and what they start, and finds them.
fn test_binary() -> Result<PathBuf> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(workspace::cargo());
        command.current_dir(workspace::root()).args(arguments);
        command
    };
    command::run(&mut cargo(&["build", "--package", "compare-user", "--examples"]))?;
    let mut found = None;
    let mut build = cargo(&["test", "--package", "compare-user", "--test", "kernel", "--no-run"]);
    command::run_lines(build.arg("--message-format=json-render-diagnostics"), |line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        if message["target"]["name"] == "kernel"
            && let Some(path) = message["executable"].as_str()
        {
            found = Some(PathBuf::from(path));
        }
    })?;
    found.context("cargo built no test named kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_are_left_out_exist() {
        let directory = workspace::root().join("compare-user/tests/kernel");
        for test in LEFT_OUT {
            let (module, test) = test.split_once("::").expect("module::test");
            let source = std::fs::read_to_string(directory.join(format!("{module}.rs")));
            let source = source.expect("a file for the module");
            assert!(source.contains(&format!("fn {test}")), "{module}::{test}");
        }
    }
}
