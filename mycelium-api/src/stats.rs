//! Traffic by overlay address.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Answer of `GET /admin/stats/packets`; lists are in no particular order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketStatistics {
    /// By the address that packets come from.
    pub by_source: Vec<PacketStatEntry>,
    /// By the address that packets go to.
    pub by_destination: Vec<PacketStatEntry>,
}

/// Counters of one address since the node started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketStatEntry {
    /// The address.
    pub ip: IpAddr,
    /// Packets.
    pub packet_count: u64,
    /// Bytes.
    pub byte_count: u64,
}
