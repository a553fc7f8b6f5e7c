//! `cargo xtask mutate`: wrong changes to the comparator, of which the simulator must catch each.
//!
//! A simulation that finds nothing is worth what its oracle sees. Each mutation is one small change of the
//! kind that people make, applied alone to a copy of the sources; the simulator runs until one of its
//! rules is broken. One that survives is a hole in the oracle, or code that makes no difference.

mod list;

use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{command, workspace};
use list::{MUTATIONS, Mutation};

/// What to change, and how long to look.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask mutate\n  cargo xtask mutate 'no sequence wrap'")]
pub(crate) struct Options {
    /// Seeds after which a mutation counts as a survivor
    #[arg(long, default_value_t = 5000)]
    seeds: u64,
    /// Only mutations whose name contains one of these
    names: Vec<String>,
}

/// What the simulator is made of: the comparator, what it reads frames with, and the simulator.
const SOURCES: [&str; 8] = [
    "Cargo.toml",
    "Cargo.lock",
    "compare-ebpf/Cargo.toml",
    "compare-ebpf/src",
    "compare-user/src/compare",
    "compare-user/src/frame",
    "tests/simulate/Cargo.toml",
    "tests/simulate/src",
];

/// The comparator alone needs no kernel and no sockets: built without the rest of its crate, a mutation
/// takes seconds.
const MANIFEST: &str = r#"
[package]
name = "compare-user"
version.workspace = true
edition.workspace = true

[dependencies]
compare-ebpf.workspace = true
etherparse.workspace = true
rapidhash.workspace = true
serde.workspace = true
"#;

/// Applies one mutation after another and runs the simulator on each.
///
/// # Errors
/// A text to change is not there exactly once, a mutation does not compile, or one survives.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted: Vec<_> = MUTATIONS
        .iter()
        .filter(|it| {
            options.names.is_empty() || options.names.iter().any(|name| it.name.contains(name))
        })
        .collect();
    if wanted.is_empty() {
        bail!("no mutation has a name that contains {}", options.names.join(" or "));
    }
    for mutation in &wanted {
        mutation.of(&read(&workspace::root().join(mutation.file))?)?;
    }
    let copy = tempfile::tempdir().context("a directory for the copy")?;
    copy_sources(copy.path())?;
    let mut survivors = Vec::new();
    println!(
        "| mutation | file | seeds until caught | by the rule | took |\n|---|---|---|---|---|"
    );
    for mutation in wanted {
        let started = Instant::now();
        let path = copy.path().join(mutation.file);
        let original = read(&path)?;
        fs::write(&path, mutation.of(&original)?)?;
        let caught = build(copy.path()).and_then(|()| simulate(options.seeds));
        fs::write(&path, original)?;
        let caught = caught.with_context(|| mutation.name)?;
        let took = command::seconds(started.elapsed());
        let (seeds, rule) = match &caught {
            Some((seeds, rule)) => (seeds.to_string(), rule.as_str()),
            None => ("**survived**".to_owned(), ""),
        };
        println!("| {} | `{}` | {seeds} | {rule} | {took} |", mutation.name, mutation.short_file());
        if caught.is_none() {
            survivors.push(mutation.name);
        }
    }
    if !survivors.is_empty() {
        bail!("survived {} seeds: {}", options.seeds, survivors.join(", "));
    }
    Ok(())
}

impl Mutation {
    /// The changed source.
    fn of(&self, source: &str) -> Result<String> {
        match source.matches(self.from).count() {
            1 => Ok(source.replacen(self.from, self.to, 1)),
            count => bail!("{}: the text is there {count} times in {}", self.name, self.file),
        }
    }

    fn short_file(&self) -> &str {
        self.file.trim_start_matches("compare-user/src/")
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Makes a workspace of the comparator and the simulator.
fn copy_sources(to: &Path) -> Result<()> {
    for source in SOURCES {
        copy_all(&workspace::root().join(source), &to.join(source))
            .with_context(|| format!("copying {source}"))?;
    }
    let manifest = to.join("Cargo.toml");
    fs::write(&manifest, with_fewer_members(&read(&manifest)?)?)?;
    fs::write(to.join("compare-user/Cargo.toml"), MANIFEST)?;
    fs::write(to.join("compare-user/src/lib.rs"), "pub mod compare;\npub mod frame;\n")?;
    Ok(())
}

/// The workspace's manifest with those members only that the copy has.
fn with_fewer_members(manifest: &str) -> Result<String> {
    let whole = manifest.lines().find(|line| line.starts_with("members = ["));
    let whole = whole.context("Cargo.toml does not list its members in one line")?;
    Ok(manifest.replace(whole, r#"members = ["compare-ebpf", "compare-user", "tests/simulate"]"#))
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Builds the simulator of the copy, with a target directory that all mutations share.
fn build(root: &Path) -> Result<()> {
    let target = workspace::target_dir();
    let mut build = Command::new(workspace::cargo());
    build
        .current_dir(root)
        .args(["build", "--profile", "mutant", "--package", "colo-simulate", "--target-dir"])
        .arg(target.join("mutate"))
        // A mutation may leave something unused.
        .env("RUSTFLAGS", "--cap-lints=allow");
    Ok(command::run_logged(&mut build, &target.join("mutate/build.log"))?)
}

/// Runs the simulator until a rule is broken: after how many seeds, and which rule. None if all are kept.
fn simulate(seeds: u64) -> Result<Option<(u64, String)>> {
    let binary = workspace::target_dir().join("mutate/mutant/colo-simulate");
    let output = Command::new(&binary)
        .args(["--json", "--no-shrink", "--quiet", "--failures", "1", "--seeds"])
        .arg(seeds.to_string())
        .output()
        .with_context(|| binary.display().to_string())?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let failed = report["failed"].as_array().cloned().unwrap_or_default();
    let rule = failed.first().and_then(|failure| failure["rule"].as_str());
    Ok(rule.map(|rule| (report["seeds"].as_u64().unwrap_or_default(), rule.to_owned())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutation_changes_a_text_that_is_there_once() {
        for mutation in MUTATIONS {
            let source = read(&workspace::root().join(mutation.file)).expect("the file is there");
            let changed = mutation.of(&source).expect("the text is there once");
            assert_ne!(changed, source, "{}", mutation.name);
        }
    }

    #[test]
    fn the_copy_has_the_simulator_and_what_it_takes() {
        let copy = tempfile::tempdir().expect("a directory");
        copy_sources(copy.path()).expect("all sources are there");
        let mut metadata = Command::new(workspace::cargo());
        let metadata =
            metadata.current_dir(copy.path()).args(["metadata", "--no-deps", "--offline"]);
        let output = metadata.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn names_are_used_once() {
        let names: BTreeSet<_> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
        assert_eq!(names.len(), MUTATIONS.len());
    }
}
