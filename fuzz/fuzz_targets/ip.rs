//! See `checks/ip.rs`.
#![no_main]

#[path = "../checks/ip.rs"]
mod ip;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ip::check(bytes));
