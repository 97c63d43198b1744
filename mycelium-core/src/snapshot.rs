//! A read-only view of the control plane, for the API, logs and assertions.

use std::net::Ipv6Addr;

use crate::addr::Subnet;
use crate::crypto::identity::PublicKey;
use crate::io::{IdentityId, PeerId};
use crate::router_id::RouterId;
use crate::time::Duration;

/// Everything a user may want to know of the control plane, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What we originate, by id.
    pub identities: Vec<IdentitySnapshot>,
    /// Our neighbours, by id.
    pub peers: Vec<PeerSnapshot>,
    /// The routes in use, by subnet.
    pub selected: Vec<RouteSnapshot>,
    /// The other routes, infeasible and retracted ones included, by subnet.
    pub fallback: Vec<RouteSnapshot>,
    /// What we look for, for ourselves or for neighbours.
    pub queried: Vec<QuerySnapshot>,
    /// How often things happened since the start.
    pub counters: Counters,
}

/// One of our identities.
#[derive(Clone, Debug)]
pub struct IdentitySnapshot {
    /// Its id.
    pub id: IdentityId,
    /// Its key.
    pub public_key: PublicKey,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// Its subnet.
    pub subnet: Subnet,
    /// The sequence number of its announcements.
    pub seqno: u16,
}

/// One neighbour.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// The link.
    pub peer: PeerId,
    /// The first key that it announced as its own.
    pub public_key: Option<PublicKey>,
    /// Cost of the link as selection uses it; 65535 while it is suspect.
    pub cost: u16,
    /// The lowest of the latest eight round trips, once known.
    pub rtt: Option<Duration>,
    /// Since the last sign of life.
    pub last_heard: Duration,
    /// Routes learned from it.
    pub routes: usize,
    /// Whether it owes us an answer for so long that its routes are not used.
    pub suspect: bool,
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteSnapshot {
    /// The destination.
    pub subnet: Subnet,
    /// The neighbour that announced it.
    pub next_hop: PeerId,
    /// As announced, the cost of the link to the next hop not included; `None` is infinite.
    pub metric: Option<u16>,
    /// The originator's sequence number.
    pub seqno: u16,
    /// The originator.
    pub public_key: PublicKey,
    /// The originator, this incarnation of it.
    pub router_id: RouterId,
    /// Whether it may be selected at all (RFC 8966 §3.5.1).
    pub feasible: bool,
    /// When it ends unless it is announced again.
    pub expires_in: Duration,
}

/// One subnet that we look for.
#[derive(Clone, Debug)]
pub struct QuerySnapshot {
    /// The subnet.
    pub subnet: Subnet,
    /// When we give up.
    pub expires_in: Duration,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Control packets received.
    pub packets_received: u64,
    /// Control packets sent.
    pub packets_sent: u64,
    /// Bytes of control packets received, packet headers included.
    pub bytes_received: u64,
    /// Bytes of control packets sent, packet headers included.
    pub bytes_sent: u64,
    /// Control packets that were malformed; each closed its link.
    pub malformed: u64,
    /// TLVs, or whole packets, that were well formed but unknown.
    pub skipped: u64,
    /// Hellos received.
    pub hellos_received: u64,
    /// IHUs received.
    pub ihus_received: u64,
    /// Updates received.
    pub updates_received: u64,
    /// Updates sent.
    pub updates_sent: u64,
    /// Route requests received.
    pub route_requests_received: u64,
    /// Route requests sent.
    pub route_requests_sent: u64,
    /// Seqno requests received.
    pub seqno_requests_received: u64,
    /// Seqno requests sent.
    pub seqno_requests_sent: u64,
    /// Updates for prefixes that are no /64 of the overlay.
    pub refused_prefix: u64,
    /// Updates whose key does not own the prefix.
    pub refused_owner: u64,
    /// Updates that would expire at once.
    pub refused_interval: u64,
    /// Routes refused because a table or the neighbour's share of it was full.
    pub refused_full: u64,
    /// Requests and look-ups refused because their budget was spent or the table was full.
    pub refused_budget: u64,
    /// Requests for prefixes that are no /64 of the overlay.
    pub refused_request: u64,
    /// Route requests not forwarded: a duplicate, or too far from home.
    pub requests_not_forwarded: u64,
    /// Updates that failed the feasibility condition.
    pub infeasible: u64,
    /// Selected routes that appeared or changed.
    pub routes_selected: u64,
    /// Selected routes that were lost without replacement.
    pub routes_lost: u64,
    /// Routes that expired.
    pub routes_expired: u64,
    /// Look-ups that found nothing in time.
    pub queries_failed: u64,
    /// Increases of our own sequence numbers.
    pub seqno_increases: u64,
    /// Neighbours that became suspect.
    pub suspected: u64,
    /// Links closed because nothing was heard.
    pub closed_silent: u64,
    /// Links closed because the neighbour exceeded a bound.
    pub closed_flooding: u64,
    /// Links closed because they lead to ourselves.
    pub closed_ourselves: u64,
    /// Events dropped because nobody fetched them.
    pub events_dropped: u64,
}
