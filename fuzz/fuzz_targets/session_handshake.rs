//! See `checks/session_handshake.rs`.
#![no_main]

#[path = "../checks/session_handshake.rs"]
mod session_handshake;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| session_handshake::check(bytes));
