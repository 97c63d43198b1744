//! What is wanted: user networks and attachments, as files and callers describe them in JSON.
//!
//! The shapes take what Zero-OS writes: `hex_key` and `hex_seed`, hexadecimal or base64, `Network` or `network`, peer lists
//! that are empty or `null`. Unknown fields are refused, so that a misspelt one is not silently without effect.

mod allow;
mod name;
mod zero_os;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::PublicKey;
use serde::{Deserialize, Deserializer, Serialize};

pub use allow::{Allow, AllowError, Traffic};
pub use name::{Name, NameError};
pub use zero_os::{
    Deployment, MachineResult, MachineRoute, MachineTap, Wanted, WireguardPeer, Workload,
};

use crate::addressing;
use crate::naming::{self, AttachmentNames, Mac, NetworkNames, Profile};
use crate::secret::{NetworkKey, Seed};

/// Characters that a network's id may have, so that its interface names fit the kernel.
pub const MAX_ID: usize = naming::HASH_LEN;
/// Attachments of a network: a bridge has 1023 ports, and one leads to the gateway.
pub const MAX_ATTACHMENTS: usize = 1000;
/// Further addresses of an attachment.
pub const MAX_ADDRESSES: usize = 16;
/// Allow rules of an attachment.
pub const MAX_RULES: usize = 64;
/// Name servers that guests are told.
pub const MAX_NAME_SERVERS: usize = 3;

/// Why a description is not accepted: one sentence that names what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// No valid JSON of this shape.
    #[error("{0}")]
    Shape(String),
    /// A network without a key.
    #[error("the network has no key: set mycelium.hex_key to 64 hexadecimal digits or base64")]
    NoKey,
    /// Peers of a network: the node has them.
    #[error(
        "the network names {0} mycelium peers: leave the list empty, the node's own peers serve every network"
    )]
    Peers(usize),
    /// Longer than interface names allow, or other characters.
    #[error("{0:?} is no network id: 1 to {MAX_ID} letters and digits")]
    Id(String),
    /// Zero-OS derives the id from the twin.
    #[error("the profile {0:?} needs an id, or the twin that it is derived from")]
    NoId(Profile),
    /// Not one of ours.
    #[error("{0} is outside the network's subnet {1}")]
    ForeignAddress(Ipv6Addr, Subnet),
    /// The gateway's, or the node's own.
    #[error("{0} is the address of the network itself")]
    OwnAddress(Ipv6Addr),
    /// More than a limit.
    #[error("{found} {what}: {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A field that this kind of attachment needs, or must not have.
    #[error("{0}")]
    Field(&'static str),
    /// An interface name that the kernel does not take.
    #[error("{0:?} is no interface name: 1 to 15 bytes without slash, colon or white space")]
    Interface(String),
    /// What is wrong with a workload of a deployment.
    #[error("workload {name:?}: {error}")]
    Workload {
        /// As its twin calls it.
        name: String,
        /// What.
        error: Box<Self>,
    },
}

/// The key of a network, as Zero-OS writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MyceliumKey {
    /// X25519 secret.
    #[serde(alias = "key")]
    pub hex_key: NetworkKey,
    /// Must be empty.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peers: Vec<String>,
}

/// How guests of a network learn their addresses, beside what is written into their own configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestAddressing {
    /// Router advertisements: they make one from the prefix and their MAC.
    #[default]
    Automatic,
    /// DHCPv6: they are given the one of their seed.
    Dhcp,
    /// Nothing is announced.
    Static,
}

/// A user network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Whose names its interfaces have.
    #[serde(default)]
    pub profile: Profile,
    /// What its interface names are made of; `None`: its name if that fits, or what Zero-OS derives from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The owner, in Zero-OS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<u32>,
    /// Its key.
    #[serde(default)]
    pub mycelium: Option<MyceliumKey>,
    /// How guests learn their addresses.
    #[serde(default)]
    pub addressing: GuestAddressing,
    /// Whether guests are told to send everything to the gateway, not only the overlay's packets.
    #[serde(default)]
    pub default_route: bool,
    /// Name servers that guests are told.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub name_servers: Vec<IpAddr>,
    /// IPv4 for guests, behind the host's address; `None`: they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
    /// Private IPv4 subnet in Zero-OS. Read, not acted on; so are the four below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// IPv4 range of the whole network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
    /// WireGuard, which Zero-OS runs beside mycelium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_private_key: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_listen_port: Option<u16>,
    /// Its peers.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peers: Vec<WireguardPeer>,
}

/// IPv4 by masquerade: guests have addresses of `10.64.0.0/22`, and the network one of `100.127.0.0/16` towards the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masquerade {
    /// Which pair of `100.127.0.0/16` the network has: no two of a host the same.
    pub pair: u16,
}

impl Masquerade {
    /// Pairs that there are.
    pub const PAIRS: u16 = 1 << 15;
    /// The gateway of guests.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
    /// What guests have addresses of.
    pub const GUESTS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 64, 0, 0), 22);

    /// The host's and the network's address.
    pub fn addresses(self) -> (Ipv4Addr, Ipv4Addr) {
        let first = Ipv4Addr::new(100, 127, 0, 0).to_bits() + 2 * u32::from(self.pair);
        (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(first + 1))
    }

    /// The guest's address number `number`, from 0 to [`MAX_ATTACHMENTS`] − 1.
    pub fn guest(number: u16) -> Ipv4Addr {
        Ipv4Addr::from_bits(Self::GATEWAY.to_bits() + 1 + u32::from(number))
    }
}

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A tap in the host's namespace, for a virtual machine.
    Tap,
    /// An interface in a network namespace that somebody else made.
    Veth,
    /// An interface in a network namespace made for it.
    Netns,
    /// An interface of the host itself.
    Host,
}

impl Kind {
    /// Whether the inner interface is ours to configure.
    pub fn is_configured_by_us(self) -> bool {
        self != Self::Tap
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Veth => "veth",
            Self::Netns => "netns",
            Self::Host => "host",
        })
    }
}

/// A workload's connection to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentSpec {
    /// What is attached.
    pub kind: Kind,
    /// What its address ends in; `None`: derived from its name.
    #[serde(default, alias = "hex_seed", skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// Its MAC; `None`: derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// What names are derived from: `TWIN-CONTRACT-NAME` in Zero-OS; `None`: `NETWORK/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The network as its user called it, where names are derived from that.
    #[serde(default, alias = "Network", skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The namespace: of `veth` a path, or a name below `/run/netns`; of `netns` the name to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// The interface inside; `None`: `eth0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Who may reach it; nobody, except with answers and ICMPv6 errors.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub allow: Vec<Allow>,
    /// Further addresses of the network's /64 that it may use.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<Ipv6Addr>,
    /// Its IPv4 address with masquerade, as a number; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<u16>,
    /// Packets that it may send in a second; `None`: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u32>,
    /// The user that may open the tap; `None`: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
}

impl AttachmentSpec {
    /// One of `kind` with nothing but defaults.
    pub fn of_kind(kind: Kind) -> Self {
        Self {
            kind,
            seed: None,
            mac: None,
            workload: None,
            network: None,
            netns: None,
            interface: None,
            allow: Vec::new(),
            addresses: Vec::new(),
            ipv4: None,
            packets_per_second: None,
            owner: None,
        }
    }

    /// From JSON.
    ///
    /// # Errors
    /// [`DesiredError::Shape`].
    pub fn from_json(text: &str) -> Result<Self, DesiredError> {
        from_json(text)
    }
}

impl NetworkSpec {
    /// One with this key and nothing but defaults.
    pub fn with_key(key: NetworkKey) -> Self {
        Self {
            mycelium: Some(MyceliumKey {
                hex_key: key,
                peers: Vec::new(),
            }),
            ..Self::default()
        }
    }

    /// Its key and id, if nothing is wrong with it.
    pub(crate) fn checked(&self, name: &Name) -> Result<(NetworkKey, String), DesiredError> {
        let key = self.mycelium.as_ref().ok_or(DesiredError::NoKey)?;
        if !key.peers.is_empty() {
            return Err(DesiredError::Peers(key.peers.len()));
        }
        limit("name servers", self.name_servers.len(), MAX_NAME_SERVERS)?;
        if let Some(masquerade) = self.masquerade
            && masquerade.pair >= Masquerade::PAIRS
        {
            return Err(DesiredError::Field("the masquerade pair is above 32767"));
        }
        let id = match (&self.id, self.profile, self.twin) {
            (Some(id), ..) => id.clone(),
            (None, Profile::Native, _) if is_id(name.as_str()) => name.as_str().to_owned(),
            (None, Profile::Native, _) => naming::device_hash(name.as_str().as_bytes()),
            (None, _, Some(twin)) => naming::net_id(twin, name.as_str()),
            (None, profile, None) => return Err(DesiredError::NoId(profile)),
        };
        if !is_id(&id) {
            return Err(DesiredError::Id(id));
        }
        Ok((key.hex_key.clone(), id))
    }

    /// From JSON: ours, or a `network` or `network-light` workload of Zero-OS.
    ///
    /// # Errors
    /// [`DesiredError::Shape`], which never quotes a key.
    pub fn from_json(text: &str) -> Result<Self, DesiredError> {
        from_json(text)
    }
}

/// A network that has been checked, with everything that follows from its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What it is called.
    pub name: Name,
    /// As described.
    pub spec: NetworkSpec,
    /// What its interface names are made of.
    pub id: String,
    /// Its interface names.
    pub names: NetworkNames,
    /// Its key.
    pub key: NetworkKey,
    /// What its key gives.
    pub public_key: PublicKey,
}

impl Network {
    /// Check a description.
    ///
    /// # Errors
    /// [`DesiredError`]: the first thing that is wrong.
    pub fn new(name: Name, spec: NetworkSpec) -> Result<Self, DesiredError> {
        let (key, id) = spec.checked(&name)?;
        let public_key = key.secret().public_key();
        Ok(Self {
            names: spec.profile.network(&id),
            key,
            public_key,
            name,
            spec,
            id,
        })
    }

    /// Its address, which the interface towards the overlay has.
    pub fn address(&self) -> Ipv6Addr {
        self.public_key.address()
    }

    /// Its /64.
    pub fn subnet(&self) -> Subnet {
        Subnet::containing(self.address())
    }

    /// Where its guests send packets to.
    pub fn gateway(&self) -> Ipv6Addr {
        addressing::gateway(self.subnet())
    }

    /// The MAC of the gateway.
    pub fn gateway_mac(&self) -> Mac {
        Mac::of_bytes(format!("gateway:{}", self.id).as_bytes())
    }
}

/// An attachment that has been checked, with everything that follows from its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What it is called.
    pub name: Name,
    /// As described.
    pub spec: AttachmentSpec,
    /// Its interface and MAC.
    pub names: AttachmentNames,
    /// The address of its seed (rule R2).
    pub address: Ipv6Addr,
    /// All addresses that it may use, the one of its seed first; link-local ones not among them.
    pub addresses: Vec<Ipv6Addr>,
    /// The interface inside, where we make it.
    pub interface: String,
}

impl Attachment {
    /// Check a description.
    ///
    /// # Errors
    /// [`DesiredError`]: the first thing that is wrong.
    pub fn new(network: &Network, name: Name, spec: AttachmentSpec) -> Result<Self, DesiredError> {
        let default_workload = format!("{}/{name}", network.name);
        let seed = spec
            .seed
            .unwrap_or_else(|| Seed::of_name(&default_workload));
        let workload = spec.workload.as_deref().unwrap_or(&default_workload);
        let network_name = spec
            .network
            .as_deref()
            .unwrap_or_else(|| network.name.as_str());
        let mut names = network.spec.profile.attachment(workload, network_name);
        names.mac = spec.mac.unwrap_or(names.mac);
        limit("addresses", spec.addresses.len(), MAX_ADDRESSES)?;
        limit("allow rules", spec.allow.len(), MAX_RULES)?;
        match (spec.kind, &spec.netns) {
            (Kind::Veth, None) => {
                return Err(DesiredError::Field(
                    "an attachment of kind veth needs netns: the namespace to put the interface in",
                ));
            }
            (Kind::Tap | Kind::Host, Some(_)) => {
                return Err(DesiredError::Field(
                    "netns is for attachments of kind veth and netns",
                ));
            }
            (Kind::Netns, Some(path)) if path.components().count() != 1 || path.is_absolute() => {
                return Err(DesiredError::Field(
                    "the netns of an attachment of kind netns is a name: it is made below /run/netns",
                ));
            }
            _ => {}
        }
        if spec.owner.is_some() && spec.kind != Kind::Tap {
            return Err(DesiredError::Field("owner is for attachments of kind tap"));
        }
        if spec.packets_per_second == Some(0) {
            return Err(DesiredError::Field(
                "packets_per_second is at least 1; leave it out for any number",
            ));
        }
        if let Some(number) = spec.ipv4 {
            if network.spec.masquerade.is_none() {
                return Err(DesiredError::Field("ipv4 needs a network with masquerade"));
            }
            limit("IPv4 addresses", usize::from(number) + 1, MAX_ATTACHMENTS)?;
        }
        let interface = match (&spec.interface, spec.kind) {
            (Some(_), Kind::Tap) => {
                return Err(DesiredError::Field(
                    "interface is for attachments of kind veth, netns and host: a guest names its own",
                ));
            }
            (Some(interface), _) => interface.clone(),
            (None, Kind::Host) => format!("h{}", &names.port[1..]),
            (None, _) => "eth0".to_owned(),
        };
        if !is_interface(&interface) {
            return Err(DesiredError::Interface(interface));
        }
        let subnet = network.subnet();
        let address = addressing::of_seed(subnet, seed);
        let mut addresses = vec![address];
        if spec.kind == Kind::Tap {
            addresses.push(addressing::of_mac(subnet, names.mac));
        }
        for further in &spec.addresses {
            if Subnet::containing(*further) != subnet {
                return Err(DesiredError::ForeignAddress(*further, subnet));
            }
            if [network.address(), network.gateway()].contains(further) {
                return Err(DesiredError::OwnAddress(*further));
            }
            if !addresses.contains(further) {
                addresses.push(*further);
            }
        }
        Ok(Self {
            name,
            spec,
            names,
            address,
            addresses,
            interface,
        })
    }

    /// Its link-local address.
    pub fn link_local(&self) -> Ipv6Addr {
        addressing::link_local(self.names.mac)
    }

    /// Its IPv4 address, with masquerade.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.spec.ipv4.map(Masquerade::guest)
    }
}

/// As text of this shape. What looks like a key is left out of the message.
fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, DesiredError> {
    serde_json::from_str(text).map_err(|error| DesiredError::Shape(scrub(&error.to_string())))
}

/// Without words that are long enough to be a key, and without what a terminal would obey.
fn scrub(message: &str) -> String {
    const SHORTEST_KEY: usize = 40;
    let is_key = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let printable = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    let message: String = message.chars().map(printable).collect();
    message
        .split_inclusive(|c| !is_key(c))
        .map(|word| {
            let kept = word.trim_end_matches(|c| !is_key(c));
            if kept.len() >= SHORTEST_KEY {
                word.replace(kept, "…")
            } else {
                word.to_owned()
            }
        })
        .collect()
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), DesiredError> {
    if found > limit {
        return Err(DesiredError::TooMany { what, found, limit });
    }
    Ok(())
}

fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_ID
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && !text.starts_with('-')
}

fn is_interface(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && !matches!(name, "." | ".." | "lo")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0')
}

/// Go writes an empty list as `null`.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
