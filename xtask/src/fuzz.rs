//! `cargo xtask fuzz`: builds the fuzz targets, runs them side by side, and says how to replay what
//! they find.
//!
//! `tests/fuzz` is laid out for cargo-fuzz, and `cargo fuzz run` works there. It is not called from
//! here: what it adds to a build are the flags below, and it would have to be installed first and
//! would compile every dependency with them.
//!
//! The flags are nightly's. rustup's stable toolchain brings all that they take, the sanitizer's
//! runtime among it, and accepts them with `RUSTC_BOOTSTRAP=1`; so nothing needs to be installed but
//! a C++ compiler for libFuzzer.

mod progress;

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build_ebpf, command, setup, workspace};
use progress::Progress;

/// The crate with the targets, and where it is in the checkout.
const PACKAGE: &str = "colo-fuzz";
const DIRECTORY: &str = "tests/fuzz";

/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "fuzz";

/// Crates that the fuzzer looks into: ours, and those that read input for us. All others are only
/// compiled, which saves a quarter of the build.
const WATCHED: [&str; 6] =
    ["colo-fuzz", "compare-user", "compare-ebpf", "etherparse", "pcap-file", "serde_json"];

/// What makes a crate tell the fuzzer which way it went, and which numbers it compared
/// (SanitizerCoverage, as cargo-fuzz uses it), and what stops it at memory that is not its own
/// (AddressSanitizer).
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=16",
];

/// Longest input, bytes: what the replay of the corpus takes.
const LONGEST_INPUT: u32 = 4096;

/// Seconds after which one input that has not come to its end is a failure.
const TIMEOUT: u32 = 25;

/// Between two looks at the targets that are running.
const LOOK: Duration = Duration::from_millis(500);

const HELP: &str = "\
Targets run side by side, one on each core, each for the given time. They begin with the inputs of
tests/fuzz/corpus/TARGET and keep what they find interesting in target/fuzz/corpus/TARGET, from
which the next run goes on.

Examples:
  cargo xtask fuzz
  cargo xtask fuzz --seconds 3600
  cargo xtask fuzz --target comparator --seconds 600";

/// What to run.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only this target; may be given several times
    #[arg(long = "target", value_name = "NAME")]
    targets: Vec<String>,
}

impl Options {
    /// All targets for so long each.
    pub(crate) fn all_for(seconds: u32) -> Self {
        Self { seconds, targets: Vec::new() }
    }
}

/// Builds the targets and runs them.
///
/// # Errors
/// The machine lacks something, the build failed, or a target found something.
pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets(&workspace::root())?;
    let chosen = chosen(&known, &options.targets)?;
    let toolchain = setup::ensure_for_fuzzing()?;
    // compare-user embeds the object.
    build_ebpf::build(&toolchain, build_ebpf::Flavour::Release)?;
    build()?;
    fuzz(&chosen, options.seconds)
}

/// The names of all targets: the files of `fuzz_targets`.
fn targets(root: &Path) -> Result<Vec<String>> {
    let directory = root.join(DIRECTORY).join("fuzz_targets");
    let entries =
        fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| name(entry.path())).collect();
    names.sort_unstable();
    Ok(names)
}

fn chosen(known: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        bail!("there is no fuzz target {unknown}, only {}", known.join(", "));
    }
    Ok(if wanted.is_empty() { known.to_vec() } else { wanted.to_vec() })
}

/// Everything that fuzzing makes, apart from other builds: other flags would undo them.
fn place() -> PathBuf {
    workspace::target_dir().join("fuzz")
}

fn build() -> Result<()> {
    Ok(command::run(&mut cargo_build(&place()))?)
}

fn cargo_build(target_dir: &Path) -> Command {
    let flags: Vec<String> = FLAGS.iter().map(|flag| format!("{flag:?}")).collect();
    let flags = flags.join(",");
    let mut command = Command::new(workspace::cargo());
    command
        .current_dir(workspace::root())
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["build", "--package", PACKAGE, "--bins", "--features", "libfuzzer"])
        .args(["--profile", PROFILE, "-Z", "profile-rustflags", "--target-dir"])
        .arg(target_dir);
    for package in WATCHED {
        let profile = format!("profile.{PROFILE}.package.{package}");
        command.args(["--config", &format!("{profile}.rustflags=[{flags}]")]);
        command.args(["--config", &format!("{profile}.opt-level=2")]);
    }
    command
}

/// One target at work.
struct Run {
    name: String,
    log: PathBuf,
    child: Child,
    started: Instant,
}

impl Run {
    fn start(name: &str, seconds: u32) -> Result<Self> {
        let place = place();
        let (corpus, artifacts) = (place.join("corpus").join(name), artifacts(name));
        let log = place.join("logs").join(format!("{name}.log"));
        for directory in [&corpus, &artifacts, &place.join("logs")] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(binary(name));
        command
            .current_dir(workspace::root())
            // The first directory is the one that is written to.
            .arg(&corpus)
            .arg(workspace::root().join(DIRECTORY).join("corpus").join(name))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={LONGEST_INPUT}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .args(["-rss_limit_mb=2048", "-print_final_stats=1"]);
        command::announce(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start the target {name}"))?;
        Ok(Self { name: name.to_owned(), log, child, started: Instant::now() })
    }

    fn progress(&self) -> Progress {
        Progress::read(&fs::read(&self.log).unwrap_or_default())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Still running only if something else went wrong; ended, both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(name: &str) -> PathBuf {
    place().join(PROFILE).join(name)
}

fn artifacts(name: &str) -> PathBuf {
    place().join("artifacts").join(name)
}

/// Runs the targets, as many at a time as there are cores.
fn fuzz(targets: &[String], seconds: u32) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut waiting: VecDeque<&String> = targets.iter().collect();
    let mut running: Vec<Run> = Vec::new();
    let mut failed = Vec::new();
    let mut said = Instant::now();
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < cores
            && let Some(name) = waiting.pop_front()
        {
            running.push(Run::start(name, seconds)?);
        }
        thread::sleep(LOOK);
        let mut index = 0;
        while let Some(run) = running.get_mut(index) {
            let Some(status) = run.child.try_wait()? else {
                index += 1;
                continue;
            };
            let run = running.swap_remove(index);
            let took = command::seconds(run.started.elapsed());
            if status.success() {
                println!("{}: ok, {} in {took}", run.name, run.progress());
            } else {
                println!("{}: FAILED after {took}", run.name);
                eprintln!("{}", finding(&run));
                failed.push(run.name.clone());
            }
        }
        if said.elapsed() >= command::HEARTBEAT {
            for run in &running {
                eprintln!("  {}: {}", run.name, run.progress());
            }
            said = Instant::now();
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("found something: {}", failed.join(", ")) }
}

/// What a target has found, and what to do with it.
fn finding(run: &Run) -> String {
    let text = fs::read(&run.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> =
        progress::complaint(&text).map(|line| format!("  {line}")).collect();
    match progress::artifact(&text) {
        Some(file) => {
            let corpus = format!("{DIRECTORY}/corpus/{}", run.name);
            lines.push(format!("input:  {file}"));
            lines.push(format!("replay: {} {file}", binary(&run.name).display()));
            lines.push(format!(
                "keep:   cp {file} {corpus}/NAME-OF-THE-BUG && cargo test --package {PACKAGE}"
            ));
        }
        None => lines.push("it left no input".to_owned()),
    }
    lines.push(format!("log:    {}", run.log.display()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_file_a_binary_and_a_corpus() {
        let root = workspace::root();
        let names = targets(&root).expect("the targets are there");
        let manifest =
            fs::read_to_string(root.join(DIRECTORY).join("Cargo.toml")).expect("is there");
        for name in &names {
            assert!(
                manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\""))
            );
            assert!(root.join(DIRECTORY).join("corpus").join(name).is_dir(), "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), names.len());
    }

    #[test]
    fn a_target_that_is_not_there_is_refused_with_those_that_are() {
        let known = ["framing".to_owned(), "qmp".to_owned()];
        assert_eq!(chosen(&known, &[]).expect("all"), known);
        assert_eq!(chosen(&known, &known[1..]).expect("one"), known[1..]);
        let error = chosen(&known, &["qpm".into()]).expect_err("unknown").to_string();
        assert!(error.contains("qpm") && error.contains("framing, qmp"), "{error}");
    }

    #[test]
    fn only_what_is_watched_is_instrumented() {
        let line = command::shell_line(&cargo_build(Path::new("/out")));
        for package in WATCHED {
            assert!(
                line.contains(&format!("profile.fuzz.package.{package}.rustflags=[")),
                "{line}"
            );
        }
        assert!(!line.contains("RUSTFLAGS="), "{line}");
        assert!(line.contains(r#""-Zsanitizer=address""#), "{line}");
    }
}
