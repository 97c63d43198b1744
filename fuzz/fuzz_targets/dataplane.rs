//! See `checks/dataplane.rs`.
#![no_main]

#[path = "../checks/dataplane.rs"]
mod dataplane;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::check(bytes));
