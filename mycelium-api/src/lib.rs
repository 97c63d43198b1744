//! What the node's HTTP API says and hears: the JSON types, their paths, and a small blocking client.
//!
//! The shapes under `/admin`, `/pubkey` are those of mycelium 0.7.10, so programs written for it work
//! unchanged; fields and paths that only this node has are marked "ours" and are optional for every reader.
//! The client speaks over TCP or
//! a Unix socket ([`Address`]). Nothing here opens a port or knows a table of the router: the server lives in the daemon.
//!
//! | method and path (below [`path::BASE`]) | request | answer |
//! |---|---|---|
//! | `GET /admin` | | [`Info`] |
//! | `GET /admin/peers` | | `[`[`PeerStats`]`]` |
//! | `POST /admin/peers` | [`AddPeer`] | 204; 400 unreadable, 409 known already |
//! | `DELETE /admin/peers/{endpoint}` | | 204; 400 unreadable, 404 unknown |
//! | `GET /admin/routes/selected`, `/admin/routes/fallback` | | `[`[`Route`]`]` |
//! | `GET /admin/routes/queried` | | `[`[`QueriedSubnet`]`]` |
//! | `GET /admin/stats/packets` | | [`PacketStatistics`] |
//! | `GET /pubkey/{ip}` | | [`PublicKeyReply`]; 404 no route known |
//! | `GET /admin/status` (ours) | | [`Status`] |
//! | `GET /admin/identities` (ours) | | `[`[`Identity`]`]` |
//! | `POST /admin/identities` (ours) | [`AddIdentity`] | 201 [`Identity`]; 400, 409 |
//! | `DELETE /admin/identities/{id}` (ours) | | 204; 404 unknown, 409 the node's own |
//! | `GET /admin/sessions` (ours) | | `[`[`Session`]`]` |
//! | `DELETE /admin/sessions/{ip}` (ours) | | 204; 400 no overlay address, 404 not pinned |
//!
//! Errors have a plain text body: one sentence for a person.

mod address;
#[cfg(feature = "client")]
pub mod client;
mod endpoint;
mod identity;
mod info;
mod key;
pub mod path;
mod peer;
mod route;
mod session;
mod stats;
mod status;

pub use address::{Address, DEFAULT_SOCKET, NETWORK_HEADER, network_namespace};
pub use endpoint::{Endpoint, EndpointAddress, Protocol};
pub use identity::{AddIdentity, Identity, SecretKey};
pub use info::{Info, PublicKeyReply};
pub use key::{ParseKeyError, PublicKey};
pub use peer::{AddPeer, ConnectionState, PeerDetails, PeerStats, PeerType};
pub use route::{Metric, QueriedSubnet, Route};
pub use session::{Session, SessionCounts, SessionDrops, SessionProtocol};
pub use stats::{PacketStatEntry, PacketStatistics};
pub use status::{
    Health, HealthState, Listener, ListenerService, PeerCounts, RouteCounts, Status, Traffic,
    TunStatus, Warning,
};

#[cfg(test)]
mod tests;
