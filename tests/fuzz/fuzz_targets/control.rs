//! `cargo fuzz run control`: see `colo_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::control::check(input));
