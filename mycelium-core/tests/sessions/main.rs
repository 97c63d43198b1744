//! Session v2 between data planes, through their public interface: one virtual clock and a wire that tests bend.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claims;
mod model;
mod world;
