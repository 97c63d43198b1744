//! Paths of the API, for server and client alike; braces mark parameters as axum writes them.

/// Where every path below starts.
pub const BASE: &str = "/api/v1";
/// About the node.
pub const ADMIN: &str = "/admin";
/// Peers: list and add.
pub const PEERS: &str = "/admin/peers";
/// One peer, by its percent-encoded endpoint: remove.
pub const PEER: &str = "/admin/peers/{endpoint}";
/// Routes in use.
pub const ROUTES_SELECTED: &str = "/admin/routes/selected";
/// Routes held ready.
pub const ROUTES_FALLBACK: &str = "/admin/routes/fallback";
/// Subnets that are being asked for.
pub const ROUTES_QUERIED: &str = "/admin/routes/queried";
/// Packets and bytes by address.
pub const PACKET_STATS: &str = "/admin/stats/packets";
/// The key behind an overlay address.
pub const PUBLIC_KEY: &str = "/pubkey/{ip}";
/// The node at a glance (ours).
pub const STATUS: &str = "/admin/status";
/// Identities of the node: list and add (ours).
pub const IDENTITIES: &str = "/admin/identities";
/// One identity, by number: remove (ours).
pub const IDENTITY: &str = "/admin/identities/{id}";
/// Sessions with remote identities: list (ours).
pub const SESSIONS: &str = "/admin/sessions";
/// The pin of one remote identity, by any of its addresses: remove (ours).
pub const SESSION: &str = "/admin/sessions/{ip}";
