//! Sessions (ours): how packets between identities of this node and remote ones are protected.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::PublicKey;

/// One element of `GET /admin/sessions`: one identity of the node and one remote identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Number of the node's identity.
    pub identity: u32,
    /// Overlay address of the remote identity.
    pub address: Ipv6Addr,
    /// Subnet of the remote identity, `x:x:x:x::/64`.
    pub subnet: String,
    /// Public key of the remote identity.
    pub public_key: PublicKey,
    /// How packets go at the moment.
    pub protocol: SessionProtocol,
    /// Cipher of a v2 session: `AES-256-GCM` or `ChaCha20-Poly1305`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Whether its keys also withstand somebody who records now and breaks X25519 later (ML-KEM-768).
    pub hybrid: bool,
    /// Whether v1, or another key of this subnet, is refused.
    pub pinned: bool,
    /// Whether this node made the latest keys.
    pub initiated: bool,
    /// Seconds since the latest keys were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// How often keys were made after the first time.
    pub rekeys: u64,
    /// Largest packet, in bytes on the wire, that the way there carries; absent: not limited by relays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_size: Option<u16>,
    /// Packets sent on sessions.
    pub tx_packets: u64,
    /// Packets received on sessions.
    pub rx_packets: u64,
    /// Packets dropped, by reason.
    pub drops: SessionDrops,
}

/// How packets to a remote identity go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionProtocol {
    /// As in the present network: one key for ever.
    V1,
    /// They wait for a session.
    Waiting,
    /// On a session: keys that are forgotten, packets that count once.
    V2,
    /// None have gone lately.
    Idle,
}

/// Why packets of a remote identity were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionDrops {
    /// Received before, or too late to tell.
    pub replay: u64,
    /// They did not open.
    pub authentication: u64,
    /// v1 from who is known to speak v2, or while v2 is required.
    pub v1: u64,
    /// They opened, and are nothing that any rule covers.
    pub malformed: u64,
}

impl SessionDrops {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.replay + self.authentication + self.v1 + self.malformed
    }
}

/// Sessions, counted; part of the node's status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionCounts {
    /// Remote identities with a session.
    pub v2: u64,
    /// Remote identities to which packets go as in the present network.
    pub v1: u64,
    /// Remote identities to which packets wait for a session.
    pub waiting: u64,
    /// Remote identities that are held to v2 and their key.
    pub pins: u64,
}
