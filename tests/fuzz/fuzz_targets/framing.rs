//! `cargo fuzz run framing`: see `colo_fuzz::framing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::framing::check(input));
