//! The data plane through its public interface: one virtual clock, ports that remember, and a second implementation of the
//! AEAD to write and read what a peer would.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod errors;
mod exchange;
mod golden;
mod hostile;
mod lab;
mod parking;
