//! `cargo fuzz run notify`: see `colo_fuzz::notify`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::notify::check(input));
