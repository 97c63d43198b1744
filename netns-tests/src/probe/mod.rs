//! What a user of the overlay sees: pings, transfers, datagrams, routes and errors.

pub mod icmp;
mod journal;
pub mod numbered;
pub mod ping;
pub mod tcp;
pub mod trace;
pub mod udp;
