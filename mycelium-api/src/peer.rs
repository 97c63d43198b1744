//! Peers: nodes that we have, had or want a link to.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::{Endpoint, PublicKey};

/// Request of `POST /admin/peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPeer {
    /// The endpoint as an operator writes it, `tcp://1.2.3.4:9651`. Text, so that the server can say what is wrong.
    pub endpoint: String,
}

/// How a peer became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerType {
    /// Configured, or added by hand.
    Static,
    /// Heard on the local network.
    LinkLocalDiscovery,
    /// It connected to us.
    Inbound,
}

/// Whether there is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConnectionState {
    /// There is one.
    Alive,
    /// One is being set up.
    Connecting,
    /// There is none, and the next attempt is not due.
    Dead,
}

/// One element of `GET /admin/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStats {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How it became known.
    #[serde(rename = "type")]
    pub peer_type: PeerType,
    /// Whether there is a link.
    pub connection_state: ConnectionState,
    /// Bytes sent to it, over all its links so far.
    pub tx_bytes: u64,
    /// Bytes received from it, over all its links so far.
    pub rx_bytes: u64,
    /// Seconds since it became known.
    pub discovered: u64,
    /// Seconds since a link to it was last set up; `None`: never.
    pub last_connected: Option<u64>,
    /// What only this node tells.
    #[serde(flatten)]
    pub details: PeerDetails,
}

/// Fields of a peer that upstream does not have; absent where unknown, as they are when upstream answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerDetails {
    /// The key that it announces as its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// The overlay address of that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv6Addr>,
    /// Round trip of the link, the lowest of the last eight, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Cost of the link in the router's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u16>,
    /// Subnets that it announces to us at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<u64>,
    /// Milliseconds since anything was heard from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_ms: Option<u64>,
    /// Bytes a second sent to it, averaged over the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate: Option<u64>,
    /// Bytes a second received from it, averaged over the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate: Option<u64>,
    /// Data packets that did not fit the link's queue and were dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped_packets: Option<u64>,
    /// Our side of the link, `ip:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// Why there is no link: what the last attempt or the end of the last link reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
