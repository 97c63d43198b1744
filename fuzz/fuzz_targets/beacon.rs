//! See `checks/beacon.rs`.
#![no_main]

#[path = "../checks/beacon.rs"]
mod beacon;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| beacon::check(bytes));
