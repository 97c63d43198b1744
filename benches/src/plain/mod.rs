//! A plaintext TUN↔UDP forwarder with segmentation offload both ways: what remains of an overlay when routing,
//! encryption and everything else is taken away, and so the limit that an overlay on this machine can be held against.
//!
//! A packet travels as the payload of one UDP datagram. A TCP super-packet is read from the TUN right into the
//! datagrams it becomes, leaves with one `sendmsg` (`UDP_SEGMENT`), arrives with one `recvmsg` (`UDP_GRO`) and goes
//! into the other TUN with one `writev`. No byte of payload is touched in between, checksums included: the end that
//! writes declares them as still to be made, as for a packet of the machine itself.
//!
//! For use in the namespaces of the macro suite only: it believes everything that it is sent.

mod forwarder;
mod headers;
mod inbound;
mod outbound;
mod socket;

pub use forwarder::{forward, relay};

/// What the overlay carries in one packet, and the MTU of the TUN.
pub const MTU: usize = 1400;
/// IPv6 and TCP with the timestamp option: what stands in front of a full segment.
const HEADERS: usize = 72;
/// Payload of a full segment.
const SEGMENT: usize = MTU - HEADERS;
/// Full segments that fit one UDP datagram with `UDP_SEGMENT` (65 507 bytes).
const SLOTS: usize = 46;
/// Room for a packet in pieces that no slot fits.
const LARGEST: usize = 65_536;
/// What the TUN's `gso_max_size` must be, so that a super-packet fills the slots and no more.
pub const GSO_MAX_SIZE: usize = 61_200;
