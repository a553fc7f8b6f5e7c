//! `cargo xtask test`: formatting, lints and every test, with one line at the end that adds up.

mod tally;

use std::{env, fs, path::Path, process::Command, time::Instant};

use anyhow::{Result, bail};
use clap::Args;
pub(crate) use tally::Tally;

use crate::{
    build_ebpf::{self, Flavour},
    command, fuzz, release,
    setup::{self, SetupError},
    simulate, soak, vm, workspace,
};

/// Seconds for each fuzz target: with eight of them on two cores, a minute and a half in all.
const FUZZING: u32 = 20;

/// Seeds that are simulated: as many as must meet everything that the simulator knows to ask for.
const SEEDS: u32 = 2000;

const HELP: &str = "\
Without --lint, --unit or --netns all three run.

Tests in network namespaces need root, interop tests need QEMU. A test that cannot run counts as skipped; with CI=true in
the environment a skipped or ignored test is a failure.

Examples:
  cargo xtask test
  cargo xtask test --unit
  cargo xtask test --netns fail_closed
  sudo -E env PATH=\"$PATH\" cargo xtask test --netns";

/// What to run.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Formatting and clippy
    #[arg(long)]
    lint: bool,
    /// Unit, property and documentation tests, and a short run of the fuzz targets
    #[arg(long)]
    unit: bool,
    /// Tests that drive the real binary in network namespaces
    #[arg(long)]
    netns: bool,
    /// Run only tests whose name contains one of these
    filters: Vec<String>,
}

impl Options {
    /// Whether a group was asked for: by name, or none was named. A filter names tests, so that
    /// the lints are left out.
    fn lint(&self) -> bool {
        self.lint || (!self.unit && !self.netns && self.filters.is_empty())
    }

    fn unit(&self) -> bool {
        self.unit || (!self.lint && !self.netns)
    }

    fn netns(&self) -> bool {
        self.netns || (!self.lint && !self.unit)
    }
}

/// Runs the steps. A failed step does not stop those after it, unless they need what it makes.
///
/// # Errors
/// Something is missing on the machine, or a step failed, or under `CI=true` something was skipped.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let strict = env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let (toolchain, complete) = match setup::ensure_for_tests() {
        // What only some tests need is no reason to run none: they say that they are skipped.
        Err(SetupError::NotInstallable { .. }) if !strict => (setup::ensure()?, false),
        outcome => (outcome?, true),
    };
    let mut steps = Steps::default();

    if options.lint() {
        steps.step("formatting", |_| Ok(command::run(&mut cargo(["fmt", "--all", "--check"]))?));
    }
    // Everything that compiles compare-user embeds the object.
    let object =
        steps.step("eBPF programs", |_| build_ebpf::build(&toolchain, Flavour::Release).map(drop));
    if options.lint() && object {
        steps.step("clippy", |_| clippy());
    }
    if options.unit() && object {
        steps.step("unit and property tests", |tally| {
            let mut test = cargo([
                "test",
                "--workspace",
                "--lib",
                "--bins",
                "--no-fail-fast",
                "--",
                "--show-output",
            ]);
            counted(test.args(&options.filters), tally)
        });
        steps.step("documentation tests", |tally| {
            let mut test =
                cargo(["test", "--workspace", "--doc", "--no-fail-fast", "--", "--show-output"]);
            counted(test.args(&options.filters), tally)
        });
    }
    // A filter names tests, and these have none.
    if options.unit() && options.filters.is_empty() && object {
        steps.step("simulation", |_| simulate::run_seeds(SEEDS));
        steps.step("fuzzing", |tally| {
            let result = fuzz::run(&fuzz::Options::all_for(FUZZING));
            match result.as_ref().map_err(anyhow::Error::downcast_ref) {
                Err(Some(SetupError::NotInstallable { missing })) => {
                    tally.skip(format!("fuzzing: {}", missing.join(", ")));
                    Ok(())
                }
                _ => result,
            }
        });
    }
    if options.netns() && object {
        netns(&mut steps, &options.filters);
        if options.filters.is_empty() {
            steps.step("XDP programs on Debian's kernel, in a virtual machine", |tally| {
                let options = vm::Options::default();
                match vm::kernel(&options) {
                    Ok(kernel) if complete => vm::run_tests(&kernel, &options, tally),
                    Err(error) if strict => Err(error),
                    lacking => {
                        let why = lacking
                            .err()
                            .map_or("QEMU, busybox or cpio".into(), |error| format!("{error:#}"));
                        tally.leave_out(format!("the virtual machine: this machine lacks {why}"));
                        Ok(())
                    }
                }
            });
        }
    }
    if !options.filters.is_empty() && steps.failed.is_empty() && steps.tally.ran() == 0 {
        bail!("no test has a name that contains {}", options.filters.join(" or "));
    }
    steps.conclude(started, strict)
}

fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(workspace::cargo());
    command.current_dir(workspace::root()).args(arguments);
    command
}

fn clippy() -> Result<()> {
    command::run(&mut cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "--deny",
        "warnings",
    ]))?;
    // The XDP programs for this machine instead of for BPF: clippy comes with the ordinary
    // toolchain, and the code is the same. Without std a panic can only abort.
    command::run(
        cargo(["clippy", "--package", "compare-ebpf", "--features", "program", "--lib", "--bins"])
            .args(["--", "--deny", "warnings"])
            .env("CARGO_PROFILE_DEV_PANIC", "abort"),
    )?;
    Ok(())
}

/// The end-to-end tests: every integration test in the workspace, against the release binary.
fn netns(steps: &mut Steps, filters: &[String]) {
    let mut binary = None;
    steps.step("release binary", |_| {
        binary = Some(release::build()?);
        Ok(())
    });
    let Some(binary) = binary else { return };
    if !setup::is_root() {
        eprintln!("not root: tests that need it will be skipped");
    }
    for (package, directory) in
        [("compare-user", "compare-user/tests"), ("colo-tests", "tests/tests")]
    {
        if !has_tests(&workspace::root().join(directory)) {
            continue;
        }
        steps.step(&format!("end-to-end tests of {package}"), |tally| {
            // Tests start examples as processes of their own; `--test` alone does not build them.
            command::run(&mut cargo(["build", "--package", package, "--examples"]))?;
            let mut test = cargo([
                "test",
                "--package",
                package,
                "--test",
                "*",
                "--no-fail-fast",
                "--",
                "--show-output",
            ]);
            // One at a time: each moves frames in real time, with a comparator that has a core
            // to itself.
            test.arg("--test-threads=1").args(filters).env(release::BINARY, &binary);
            counted(&mut test, tally)
        });
    }
    if filters.is_empty() && setup::is_root() {
        steps.step("a short soak", |_| {
            soak::run(&soak::Options::short(), || {
                Ok([binary.clone(), release::build_pair_sender()?])
            })
        });
    }
}

fn has_tests(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").is_file()
        })
    })
}

/// Runs a test command, shows its output and adds up its results.
fn counted(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let result = command::run_lines(command, |line| {
        if tally.line(line) {
            println!("{line}");
        }
    });
    Ok(result?)
}

/// What has been run so far.
#[derive(Default)]
struct Steps {
    tally: Tally,
    failed: Vec<String>,
}

impl Steps {
    /// Runs one step under a heading; says how long it took and whether it succeeded.
    fn step(&mut self, name: &str, work: impl FnOnce(&mut Tally) -> Result<()>) -> bool {
        eprintln!("\n== {name}");
        let started = Instant::now();
        let result = work(&mut self.tally);
        let took = command::seconds(started.elapsed());
        match &result {
            Ok(()) => eprintln!("== {name}: ok, {took}"),
            Err(error) => {
                eprintln!("error: {error:#}");
                eprintln!("== {name}: FAILED, {took}");
                self.failed.push(name.to_owned());
            }
        }
        result.is_ok()
    }

    fn conclude(self, started: Instant, strict: bool) -> Result<()> {
        eprintln!();
        for skip in self.tally.skips() {
            eprintln!("skipped: {skip}");
        }
        println!("{} ({})", self.tally, command::seconds(started.elapsed()));
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join(", "));
        }
        if self.tally.failed > 0 {
            bail!("{} tests failed", self.tally.failed);
        }
        if strict && self.tally.skipped() > 0 {
            bail!("{} tests were skipped, and CI=true allows none", self.tally.skipped());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(lint: bool, unit: bool, netns: bool, filters: &[&str]) -> Options {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        Options { lint, unit, netns, filters }
    }

    fn groups(options: &Options) -> (bool, bool, bool) {
        (options.lint(), options.unit(), options.netns())
    }

    #[test]
    fn everything_runs_unless_groups_are_named() {
        assert_eq!(groups(&options(false, false, false, &[])), (true, true, true));
        assert_eq!(groups(&options(false, true, false, &[])), (false, true, false));
        assert_eq!(groups(&options(true, false, true, &[])), (true, false, true));
    }

    #[test]
    fn a_filter_is_about_tests_and_leaves_the_lints_out() {
        assert_eq!(groups(&options(false, false, false, &["held"])), (false, true, true));
    }

    fn concluded(transcript: &str, strict: bool) -> Result<()> {
        let mut steps = Steps::default();
        transcript.lines().for_each(|line| {
            steps.tally.line(line);
        });
        steps.conclude(Instant::now(), strict)
    }

    #[test]
    fn a_skip_fails_only_under_ci() {
        let result = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let skip = "successes:\n---- holds stdout ----\nSKIPPED holds: not root\n";
        assert!(concluded(&format!("{skip}{result}"), false).is_ok());
        assert!(concluded(&format!("{skip}{result}"), true).is_err());
        assert!(concluded(result, true).is_ok());
    }

    #[test]
    fn an_ignored_test_fails_under_ci() {
        let ignored = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        assert!(concluded(ignored, false).is_ok());
        assert!(concluded(ignored, true).is_err());
    }

    #[test]
    fn a_failed_step_is_named_and_the_next_one_still_runs() {
        let mut steps = Steps::default();
        assert!(!steps.step("formatting", |_| bail!("not formatted")));
        assert!(steps.step("clippy", |_| Ok(())));
        let error = steps.conclude(Instant::now(), false).expect_err("a step failed");
        assert_eq!(error.to_string(), "failed: formatting");
    }
}
