//! See `checks/babel.rs`.
#![no_main]

#[path = "../checks/babel.rs"]
mod babel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| babel::check(bytes));
