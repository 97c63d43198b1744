//! Identity, wire formats, routing and data plane of the overlay.
//!
//! This crate decides; it never does. It has no socket, no clock, no thread and no source of randomness of its own:
//! time and seeds are arguments, so every run can be replayed.
//!
//! Two interfaces: the control plane ([`node::Node`], one `Input` in, `Output`s out, see [`io`]) and the data plane
//! ([`dataplane::DataPlane`], packets in, packets into caller-owned buffers out). They meet at the forwarding table
//! ([`fib`]) and nowhere else. Where to go next: docs/architecture.md.

#![warn(missing_docs)]

pub mod addr;
pub mod babel;
pub mod config;
pub mod crypto;
pub mod dataplane;
pub mod fib;
pub mod io;
pub mod native;
pub mod node;
pub mod rng;
pub mod router_id;
pub mod session;
pub mod snapshot;
pub mod time;
pub mod wire;
