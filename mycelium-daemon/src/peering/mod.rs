//! Which nodes we have links to: configured, found on the local network, or come to us.

pub mod endpoint;
