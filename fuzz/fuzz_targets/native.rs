//! See `checks/native.rs`.
#![no_main]

#[path = "../checks/native.rs"]
mod native;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| native::check(bytes));
