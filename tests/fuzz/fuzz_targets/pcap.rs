//! `cargo fuzz run pcap`: see `colo_fuzz::pcap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| colo_fuzz::pcap::check(input));
