#![no_main]

#[path = "../manifests.rs"]
mod manifests;

libfuzzer_sys::fuzz_target!(|data: &[u8]| manifests::manifests(data));
