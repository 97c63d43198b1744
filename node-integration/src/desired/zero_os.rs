//! JSON of Zero-OS workloads that name a network: what `zmachine` and `zmachine-light` say about theirs.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{AttachmentSpec, DesiredError, Kind};
use crate::secret::Seed;

/// A peer of a network's WireGuard interface. Read, not acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardPeer {
    /// Its part of the network.
    pub subnet: String,
    /// Its key, base64.
    pub wireguard_public_key: String,
    /// What it may send from.
    #[serde(default, deserialize_with = "super::null_is_empty")]
    pub allowed_ips: Vec<String>,
    /// Where it is.
    #[serde(default)]
    pub endpoint: String,
}

/// `MyceliumIP`: the network of a virtual machine and what its address ends in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MyceliumAddress {
    /// The network as its user called it.
    #[serde(alias = "network", rename = "Network")]
    pub network: String,
    /// Six bytes.
    #[serde(alias = "seed", alias = "mycelium_ip_seed")]
    pub hex_seed: Seed,
}

/// An interface in a private IPv4 network. Read, not acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateInterface {
    /// The network as its user called it.
    pub network: String,
    /// The address.
    pub ip: Ipv4Addr,
}

/// The `network` of a `zmachine` or `zmachine-light`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadNetwork {
    /// A public address, by the name of its workload; empty: none.
    #[serde(default)]
    pub public_ip: String,
    /// Yggdrasil.
    #[serde(default)]
    pub planetary: bool,
    /// Mycelium.
    #[serde(default)]
    pub mycelium: Option<MyceliumAddress>,
    /// Private interfaces.
    #[serde(default, deserialize_with = "super::null_is_empty")]
    pub interfaces: Vec<PrivateInterface>,
}

impl WorkloadNetwork {
    /// From JSON.
    ///
    /// # Errors
    /// [`DesiredError::Shape`].
    pub fn from_json(text: &str) -> Result<Self, DesiredError> {
        super::from_json(text)
    }

    /// The attachment that the virtual machine `workload` (`TWIN-CONTRACT-NAME`) wants; `None`: none.
    pub fn attachment(&self, workload: &str) -> Option<AttachmentSpec> {
        let mycelium = self.mycelium.as_ref()?;
        Some(AttachmentSpec {
            seed: Some(mycelium.hex_seed),
            workload: Some(workload.to_owned()),
            network: Some(mycelium.network.clone()),
            ..AttachmentSpec::of_kind(Kind::Tap)
        })
    }
}
