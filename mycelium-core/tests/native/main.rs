//! The native link in virtual time: endpoints and a bad network.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod exchange;
mod hostile;
mod lab;
mod life;
mod path;
mod recovery;
mod routing;
