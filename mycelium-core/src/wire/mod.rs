//! Wire formats: bytes to values and back. No state, no policy; nothing here panics on any input.
//!
//! Byte order and field offsets exist in this module and nowhere else. From the outside in: [`frame`] delimits packets on a
//! stream, [`data`] is the routed header of a data packet, [`user_data`] the first bytes of its plaintext, and [`ipv6`],
//! [`icmpv6`], [`tcp_mss`] and [`checksum`] look at, or write, what hosts exchange. [`beacon`] is the LAN discovery datagram.

pub mod babel;
pub mod beacon;
pub mod checksum;
pub mod data;
pub mod frame;
pub mod icmpv6;
pub mod ipv6;
pub mod tcp_mss;
pub mod user_data;
