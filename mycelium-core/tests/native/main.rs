//! The native link in virtual time: two endpoints and a bad network.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod exchange;
mod lab;
