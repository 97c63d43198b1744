//! The node at a glance (ours): what `mycelium status` shows.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::{Identity, PublicKey, SessionCounts};

/// Answer of `GET /admin/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the node.
    pub version: String,
    /// When the node started, in seconds since 1970.
    pub start_time: u64,
    /// Seconds since then, by a clock that nobody sets.
    pub uptime: u64,
    /// Public key of the node's own identity.
    pub public_key: PublicKey,
    /// Overlay address of the node's own identity.
    pub address: Ipv6Addr,
    /// Subnet of the node's own identity, `x:x:x:x::/64`.
    pub subnet: String,
    /// Whether something needs attention.
    pub health: Health,
    /// Peers, counted.
    pub peers: PeerCounts,
    /// Routes, counted.
    pub routes: RouteCounts,
    /// Sessions, counted; absent from nodes that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionCounts>,
    /// Traffic since the start.
    pub traffic: Traffic,
    /// Ports that are open for peers, the API and others.
    pub listeners: Vec<Listener>,
    /// The interface of the node's own identity; `None` with `--no-tun`.
    pub tun: Option<TunStatus>,
    /// All identities, the node's own first.
    pub identities: Vec<Identity>,
}

/// Whether something needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok` exactly if there are no warnings.
    pub state: HealthState,
    /// What is wrong, most important first.
    pub warnings: Vec<Warning>,
}

impl Health {
    /// The health that these warnings mean.
    pub const fn from_warnings(warnings: Vec<Warning>) -> Self {
        let state = if warnings.is_empty() {
            HealthState::Ok
        } else {
            HealthState::Degraded
        };
        Self { state, warnings }
    }
}

/// One word of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthState {
    /// Nothing to do.
    Ok,
    /// The node runs, and something that was asked of it does not work.
    Degraded,
}

/// One thing that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// Stable name for scripts, in kebab case: `tcp-port-busy`, `no-peer-alive`.
    pub code: String,
    /// What is wrong, one sentence with the values in it.
    pub text: String,
    /// What to do about it, where we know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Peers, counted by their state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerCounts {
    /// All known.
    pub total: u64,
    /// With a link.
    pub alive: u64,
    /// A link is being set up.
    pub connecting: u64,
    /// Without a link.
    pub dead: u64,
    /// Smallest round trip among the living, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_rtt_ms: Option<f64>,
}

/// Routes, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteCounts {
    /// In use.
    pub selected: u64,
    /// Held ready.
    pub fallback: u64,
    /// Subnets that are being asked for.
    pub queried: u64,
}

/// Traffic since the start. "Host" is the side of the TUN interfaces, "peers" that of the links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Bytes sent to peers, control and data.
    pub tx_bytes: u64,
    /// Bytes received from peers, control and data.
    pub rx_bytes: u64,
    /// Packets taken from the host and sent.
    pub from_host_packets: u64,
    /// Packets delivered to the host.
    pub to_host_packets: u64,
    /// Packets passed from one peer to another.
    pub forwarded_packets: u64,
    /// Packets dropped, for whatever reason.
    pub dropped_packets: u64,
    /// Bytes a second sent to peers, averaged over the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate: Option<u64>,
    /// Bytes a second received from peers, averaged over the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate: Option<u64>,
}

/// A port that the node holds open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// What is served there.
    pub service: ListenerService,
    /// Where: `ip:port`, for vsock `cid:port`.
    pub address: String,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerService {
    /// Peers over TCP.
    Tcp,
    /// Peers over TLS with a pre-shared key.
    Tls,
    /// Peers over QUIC.
    Quic,
    /// Peers over vsock.
    Vsock,
    /// Beacons on the local network.
    Discovery,
    /// The HTTP API.
    Api,
    /// JSON-RPC.
    JsonRpc,
    /// Prometheus metrics.
    Metrics,
}

/// The interface towards the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunStatus {
    /// Name of the interface.
    pub name: String,
    /// Largest packet that it takes, in bytes.
    pub mtu: u32,
}
