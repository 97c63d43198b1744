//! The peers as others see them: copies, taken when asked for.

use std::net::SocketAddr;
use std::time::Duration;

use mycelium_core::io::PeerId;

use super::endpoint::{Endpoint, Scheme};

/// How a peer became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// From flags or file; a reload may remove it.
    Configured,
    /// Added through the API.
    Added,
    /// Heard on the local network.
    Discovered,
    /// It connected to us.
    Inbound,
    /// A peer on a stream said that it can be reached over UDP; as long as that link lasts.
    Moved,
}

/// Whether there is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// There is one.
    Alive,
    /// An attempt runs.
    Connecting,
    /// Neither.
    Dead,
}

/// A peer as others see it.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How it became known.
    pub origin: Origin,
    /// Whether there is a link.
    pub connection: Connection,
    /// The link.
    pub link: Option<LinkView>,
    /// The address last used, of a peer given by name.
    pub address: Option<SocketAddr>,
    /// Bytes sent over all links so far.
    pub tx_bytes: u64,
    /// Bytes received over all links so far.
    pub rx_bytes: u64,
    /// How long it is known.
    pub known_for: Duration,
    /// How long ago a link last came up; `None`: never.
    pub last_connected: Option<Duration>,
    /// Why there is no link.
    pub last_error: Option<String>,
}

/// A link as others see it.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// Its id in the router.
    pub peer: PeerId,
    /// Transport.
    pub scheme: Scheme,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// Their end.
    pub remote: SocketAddr,
    /// Bytes a second sent, lately.
    pub tx_rate: u64,
    /// Bytes a second received, lately.
    pub rx_rate: u64,
    /// Data packets that its queue refused or dropped.
    pub dropped: u64,
}

/// Counts of what happened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts begun.
    pub attempts_started: u64,
    /// Attempts ended, well or not.
    pub attempts_finished: u64,
    /// Peers added: configured or by hand.
    pub added_static: u64,
    /// Peers added: connected to us.
    pub added_inbound: u64,
    /// Peers added: discovered.
    pub added_discovered: u64,
    /// Inbound links refused because of a limit.
    pub refused_inbound: u64,
    /// Beacons ignored because the table was full.
    pub refused_discovered: u64,
}

/// The whole table at one moment.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// Every peer; those we dial first.
    pub peers: Vec<PeerView>,
    /// What happened so far.
    pub counters: Counters,
    /// Bytes sent and received over links of peers that are no longer in the table.
    pub past_bytes: (u64, u64),
}
