//! The native datagram link (docs/protocol.md §15): a sans-IO state machine for all links over one UDP socket.
//!
//! [`NativeEndpoint`] takes datagrams and deadlines and gives datagrams and [`Event`]s. It has no socket, clock or randomness
//! of its own: `now`, the wall clock and a seed are arguments. What never happens here: routing (Babel packets pass through
//! as bytes), payload encryption (bodies pass through; only their headers are sealed), waiting.
//!
//! The driver, after each batch of inputs: drain [`NativeEndpoint::poll_transmit`] (control goes before the data of the
//! batch), drain [`NativeEndpoint::poll_event`], arm one timer for [`NativeEndpoint::poll_timeout`].
//!
//! ```text
//!             04, 07: strangers                       05, 06, 08, 09, 0A: sealed
//!   datagram ───────────────────► endpoint/strangers.rs   endpoint.rs ◄─────────── datagram
//!                                 accept, dial, initiate,      │  index of a session
//!                                 who: budgets, cookies        ▼
//!                                          │ keys          link.rs ── data: datagram.rs, halves.rs, in place
//!                                          └──────────────►    │
//!        epoch.rs keys · lane.rs control · echo, rtt, liveness.rs · pmtu.rs sizes · path.rs addresses
//! ```
//!
//! A link is a pair of *incarnations*, random numbers that each end picks when it makes the link and tells under each new set
//! of keys. As long as both stay the same, keys come and go and the lane of control packets goes on; another incarnation of a
//! known peer is one that has started anew, and becomes a new link.

mod accept;
mod config;
mod datagram;
mod dial;
mod echo;
mod endpoint;
mod epoch;
mod event;
mod frame;
mod halves;
mod initiate;
mod io;
mod lane;
mod link;
mod link_id;
mod liveness;
mod path;
mod pmtu;
mod rtt;
mod stats;
mod timers;
#[cfg(test)]
mod vectors;
mod who;

pub use config::NativeConfig;
pub use endpoint::NativeEndpoint;
pub use event::{DownReason, Event, Rtt};
pub use io::{
    BodyKind, CloseCode, ControlError, DATA_HEADROOM, DataClass, LinkSnapshot, Received, SealError,
    Sealed, is_native, is_sparse,
};
pub use link::MAX_EVENTS;
pub use link_id::LinkId;
pub use stats::NativeStats;
