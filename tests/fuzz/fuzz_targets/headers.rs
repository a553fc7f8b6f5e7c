//! `cargo fuzz run headers`: see `colo_fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::headers::check(input));
