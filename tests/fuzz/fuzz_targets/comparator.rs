//! `cargo fuzz run comparator`: see `colo_fuzz::comparator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::comparator::check(input));
