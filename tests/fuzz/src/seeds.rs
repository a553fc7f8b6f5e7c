//! The named seeds, one for every case that the code under test tells apart: written here so that
//! they can be read, and as files in `corpus`, where a fuzzer looks for them. Beside them in `corpus`
//! stand inputs that a fuzzer has found, named after the bug.

mod captures;
mod frames;
mod operations;
mod streams;
mod texts;

/// One input of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The target's name.
    pub target: &'static str,
    /// What it is a case of.
    pub name: &'static str,
    /// The input.
    pub bytes: Vec<u8>,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Seed> {
    let of = |target, seeds: Vec<(&'static str, Vec<u8>)>| {
        seeds.into_iter().map(move |(name, bytes)| Seed { target, name, bytes })
    };
    let mut seeds = Vec::new();
    seeds.extend(of("headers", frames::seeds()));
    seeds.extend(of("framing", streams::framing()));
    seeds.extend(of("chardev", streams::framing()));
    seeds.extend(of("notify", streams::notify()));
    seeds.extend(of("control", texts::control()));
    seeds.extend(of("qmp", texts::qmp()));
    seeds.extend(of("pcap", captures::seeds()));
    seeds.extend(of("comparator", operations::seeds()));
    seeds
}
