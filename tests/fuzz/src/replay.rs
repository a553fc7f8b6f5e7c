//! The corpus without a fuzzer: every file of `corpus/TARGET` goes through its target.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{TARGETS, seeds};

/// Larger inputs would make the corpus a burden; none of the targets needs them.
const LARGEST: usize = 4096;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The files of a target's corpus by name.
fn files(target: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(corpus(target)).expect("every target has a corpus");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("the corpus can be read");
        let name = entry.file_name().into_string().expect("names are plain");
        (name, std::fs::read(entry.path()).expect("the corpus can be read"))
    };
    entries.map(file).collect()
}

/// Runs all inputs of a target, and says which one it was that failed.
fn replay(target: &str) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let files = files(target);
    assert!(files.len() >= 10, "{target} has a corpus of {}", files.len());
    for (name, bytes) in files {
        assert!(bytes.len() <= LARGEST, "{target}/{name} has {} bytes", bytes.len());
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "corpus/{target}/{name}: see above");
    }
}

#[test]
fn headers() {
    replay("headers");
}

#[test]
fn framing() {
    replay("framing");
}

#[test]
fn chardev() {
    replay("chardev");
}

#[test]
fn notify() {
    replay("notify");
}

#[test]
fn control() {
    replay("control");
}

#[test]
fn qmp() {
    replay("qmp");
}

#[test]
fn pcap() {
    replay("pcap");
}

#[test]
fn comparator() {
    replay("comparator");
}

#[test]
fn the_seeds_are_in_the_corpus() {
    for seed in seeds::all() {
        let file = corpus(seed.target).join(seed.name);
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(
            bytes == seed.bytes,
            "{} is not what the code says: cargo run --package colo-fuzz --example seeds",
            file.display()
        );
    }
}

#[test]
fn no_two_seeds_have_one_name() {
    let mut names: Vec<_> = seeds::all().iter().map(|seed| (seed.target, seed.name)).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}
