//! How a guest learns its address: router advertisements ([`advert`]) and DHCPv6 ([`dhcp`]), the task that speaks both
//! on an interface ([`responder`]), and a disk for cloud-init ([`cidata`]).
//!
//! The protocols are state machines without sockets, clock or randomness of their own: messages in, messages out, the
//! time as an argument. A guest is hostile until shown otherwise: what it sends is checked before it is believed,
//! answers are rate-limited, and nothing that it sends makes state grow.

pub mod advert;
pub mod cidata;
pub mod dhcp;
pub mod responder;

pub use crate::naming::Mac;
