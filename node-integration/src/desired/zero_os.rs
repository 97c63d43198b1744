//! JSON of Zero-OS: deployments, as far as they concern the overlay, and what is answered about them.
//!
//! A deployment comes from a tenant. Only what is named here is read of it, and no more than a key, a seed and names can
//! come out of it; all else, such as disks, gateways, public addresses and WireGuard, is neither looked at nor judged.

use std::net::Ipv6Addr;

use mycelium_core::addr::Subnet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Attachment, AttachmentSpec, DesiredError, GuestAddressing, Kind, MyceliumKey, Name, Network,
    NetworkSpec,
};
use crate::naming::{self, Mac, Profile};
use crate::secret::Seed;

/// What the gateway is good for.
const OVERLAY: &str = "400::/7";

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

/// What a twin wants on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its workloads, in its order.
    pub workloads: Vec<Workload>,
}

/// One thing that a twin wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// As its twin calls it.
    pub name: String,
    /// Such as `network-light`.
    pub kind: String,
    /// What of it is ours.
    pub wanted: Wanted,
}

/// What a workload wants of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A user network, which is called as Zero-OS calls its resources: the net id (rule R3).
    Network {
        /// The net id.
        name: Name,
        /// Its description.
        spec: Box<NetworkSpec>,
    },
    /// A tap for a virtual machine, called `TWIN-CONTRACT-NAME`.
    Tap {
        /// The net id of its network, which may be of another deployment of the twin.
        network: Name,
        /// What it is called.
        name: Name,
        /// Its description.
        spec: Box<AttachmentSpec>,
    },
    /// Nothing.
    Nothing,
}

#[derive(Deserialize)]
struct Document<'a> {
    twin_id: u32,
    contract_id: u64,
    #[serde(borrow)]
    workloads: Vec<Described<'a>>,
}

#[derive(Deserialize)]
struct Described<'a> {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    result: Option<Outcome>,
}

/// What a node said about the workload when the deployment was read back from it.
#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    state: serde_json::Value,
}

/// The data of `network` and `network-light`.
#[derive(Deserialize)]
struct NetworkData {
    #[serde(default)]
    mycelium: Option<MyceliumKey>,
}

/// The data of `zmachine` and `zmachine-light`.
#[derive(Deserialize)]
struct MachineData {
    network: MachineNetwork,
}

#[derive(Deserialize)]
struct MachineNetwork {
    #[serde(default)]
    mycelium: Option<MyceliumIp>,
}

/// `MyceliumIP`: the network of a virtual machine, and what its address ends in.
#[derive(Deserialize)]
struct MyceliumIp {
    #[serde(alias = "Network")]
    network: String,
    #[serde(alias = "seed", alias = "mycelium_ip_seed")]
    hex_seed: Seed,
}

impl Deployment {
    /// From JSON.
    ///
    /// # Errors
    /// [`DesiredError::Shape`], [`DesiredError::Workload`]; neither quotes a key.
    pub fn from_json(text: &str) -> Result<Self, DesiredError> {
        let document: Document<'_> = super::from_json(text)?;
        let mut workloads: Vec<Workload> = Vec::new();
        for described in &document.workloads {
            let of_workload = |error| DesiredError::Workload {
                name: described.name.clone(),
                error: Box::new(error),
            };
            if workloads
                .iter()
                .any(|earlier| earlier.name == described.name)
            {
                let text = "another workload of the deployment has this name".to_owned();
                return Err(of_workload(DesiredError::Shape(text)));
            }
            workloads.push(Workload {
                name: described.name.clone(),
                kind: described.kind.clone(),
                wanted: document.wanted(described).map_err(of_workload)?,
            });
        }
        Ok(Self { workloads })
    }
}

impl Document<'_> {
    fn wanted(&self, described: &Described<'_>) -> Result<Wanted, DesiredError> {
        let is_deleted = described
            .result
            .as_ref()
            .is_some_and(|outcome| outcome.state == "deleted");
        let (profile, data) = match (described.kind.as_str(), described.data) {
            _ if is_deleted => return Ok(Wanted::Nothing),
            ("network", Some(data)) => (Some(Profile::Full), data),
            ("network-light", Some(data)) => (Some(Profile::Light), data),
            ("zmachine" | "zmachine-light", Some(data)) => (None, data),
            _ => return Ok(Wanted::Nothing),
        };
        match profile {
            Some(profile) => {
                let data: NetworkData = super::from_json(data.get())?;
                Ok(data.mycelium.map_or(Wanted::Nothing, |key| {
                    self.network(&described.name, profile, key)
                }))
            }
            None => {
                let data: MachineData = super::from_json(data.get())?;
                data.network
                    .mycelium
                    .map_or(Ok(Wanted::Nothing), |address| {
                        self.tap(&described.name, address)
                    })
            }
        }
    }

    fn network(&self, name: &str, profile: Profile, key: MyceliumKey) -> Wanted {
        let id = self.net_id(name);
        Wanted::Network {
            spec: Box::new(NetworkSpec {
                profile,
                id: Some(id.to_string()),
                twin: Some(self.twin_id),
                mycelium: Some(key),
                // Machines are told the address of their seed, also those that no cloud-init configures.
                addressing: GuestAddressing::Dhcp,
                ..NetworkSpec::default()
            }),
            name: id,
        }
    }

    fn tap(&self, name: &str, address: MyceliumIp) -> Result<Wanted, DesiredError> {
        let workload = format!("{}-{}-{name}", self.twin_id, self.contract_id);
        let name = workload
            .parse()
            .map_err(|error: super::NameError| DesiredError::Shape(error.to_string()))?;
        Ok(Wanted::Tap {
            network: self.net_id(&address.network),
            name,
            spec: Box::new(AttachmentSpec {
                seed: Some(address.hex_seed),
                workload: Some(workload),
                network: Some(address.network),
                ..AttachmentSpec::of_kind(Kind::Tap)
            }),
        })
    }

    fn net_id(&self, name: &str) -> Name {
        let id = naming::net_id(self.twin_id, name);
        id.parse().expect("letters and digits are a name")
    }
}

/// What Zero-OS answers about a virtual machine. What we do not make is empty, as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineResult {
    id: String,
    ip: String,
    planetary_ip: String,
    mycelium_ip: Ipv6Addr,
    console_url: String,
}

impl MachineResult {
    /// About the machine of this attachment.
    pub fn of(attachment: &Attachment) -> Self {
        Self {
            id: attachment.name.to_string(),
            ip: String::new(),
            planetary_ip: String::new(),
            mycelium_ip: attachment.address,
            console_url: String::new(),
        }
    }
}

/// What a virtual machine monitor is told about its tap: by `netlightd` and by `networkd`, each in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MachineTap {
    /// `TapDevice`.
    #[serde(rename_all = "PascalCase")]
    Light {
        /// The tap.
        name: String,
        /// The machine's.
        mac: Mac,
        /// Its address, with the length of the prefix.
        #[serde(rename = "IP")]
        ip: String,
        /// What it sends where.
        routes: Vec<MachineRoute>,
    },
    /// `PlanetaryTap`.
    #[serde(rename_all = "PascalCase")]
    Full {
        /// The tap.
        name: String,
        /// The machine's MAC.
        #[serde(rename = "HW")]
        mac: Mac,
        /// Its address, with the length of the prefix.
        #[serde(rename = "IP")]
        ip: String,
        /// Where it sends to, with the length of the prefix.
        gateway: String,
    },
}

/// A route of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MachineRoute {
    net: String,
    gateway: Ipv6Addr,
}

impl MachineTap {
    /// The tap of this attachment, in the words of its network's profile.
    pub fn of(network: &Network, attachment: &Attachment) -> Self {
        let name = attachment.names.port.clone();
        let mac = attachment.names.mac;
        let inside = |address: Ipv6Addr| format!("{address}/{}", Subnet::PREFIX_LEN);
        let ip = inside(attachment.address);
        let gateway = network.gateway();
        match network.spec.profile {
            Profile::Full => Self::Full {
                name,
                mac,
                ip,
                gateway: inside(gateway),
            },
            Profile::Light | Profile::Native => Self::Light {
                name,
                mac,
                ip,
                routes: vec![MachineRoute {
                    net: OVERLAY.to_owned(),
                    gateway,
                }],
            },
        }
    }
}

#[cfg(test)]
mod tests;
