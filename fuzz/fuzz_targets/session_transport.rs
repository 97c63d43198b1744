//! See `checks/session_transport.rs`.
#![no_main]

#[path = "../checks/session_transport.rs"]
mod session_transport;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| session_transport::check(bytes));
