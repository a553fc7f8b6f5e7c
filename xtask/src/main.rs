//! `cargo xtask`: set-up, builds, demo, tests and benchmarks.
fn main() {}
