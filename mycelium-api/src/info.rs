//! Who the node is.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::PublicKey;

/// Answer of `GET /admin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// The node's own subnet, `x:x:x:x::/64`.
    pub node_subnet: String,
    /// The node's own overlay address.
    pub node_ip: Ipv6Addr,
    /// The node's public key.
    pub node_pubkey: PublicKey,
    /// When the node started, in seconds since 1970.
    pub node_start_time: u64,
}

/// Answer of `GET /pubkey/{ip}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicKeyReply {
    /// The key whose subnet holds the address.
    pub public_key: PublicKey,
}
