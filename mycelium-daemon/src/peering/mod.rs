//! Which nodes we have links to: configured, found on the local network, or come to us.
//!
//! ```text
//! flags, file, API ──────────► ┌─────────┐ ──► dialer ──► link::{tcp, quic, native}
//! discovery (beacons) ───────► │ manager │
//! listener (inbound) ────────► │         │ ──► engine (attach, close)
//! netmon (interfaces, resume)► └─────────┘ ◄── a link ended
//! ```
//!
//! All of it runs on the main thread; none of it sees a packet. Where a link's packets go is the engine's business.

mod backoff;
mod chatter;
pub mod dialer;
pub mod discovery;
pub mod endpoint;
pub mod handle;
pub mod listener;
pub mod manager;
pub mod netmon;
pub mod view;
