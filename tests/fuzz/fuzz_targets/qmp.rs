//! `cargo fuzz run qmp`: see `colo_fuzz::qmp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::qmp::check(input));
