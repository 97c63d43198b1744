//! The native datagram link (docs/protocol.md §15): a sans-IO state machine for all links over one UDP socket.
//!
//! [`NativeEndpoint`] takes datagrams and deadlines and gives datagrams and [`Event`]s. It has no socket, clock or randomness
//! of its own: `now`, the wall clock and a seed are arguments. What never happens here: routing (Babel packets pass through
//! as bytes), payload encryption (bodies pass through; only their headers are sealed), waiting.
//!
//! The driver, after each batch of inputs: drain [`NativeEndpoint::poll_transmit`] (control goes before the data of the
//! batch), drain [`NativeEndpoint::poll_event`], arm one timer for [`NativeEndpoint::poll_timeout`].

mod config;
mod endpoint;
mod event;
mod link_id;

pub use config::NativeConfig;
pub use endpoint::{
    BodyKind, CloseCode, ControlError, DATA_HEADROOM, LinkSnapshot, NativeEndpoint, Received,
    SealError, Sealed, is_native,
};
pub use event::{DownReason, Event, Rtt};
pub use link_id::LinkId;
