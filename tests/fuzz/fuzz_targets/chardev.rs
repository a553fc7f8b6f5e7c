//! `cargo fuzz run chardev`: see `colo_fuzz::chardev`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::chardev::check(input));
