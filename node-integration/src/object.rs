//! Kernel objects that networks and attachments are made of.

mod expand;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use expand::SEGMENT_MTU;
pub use expand::{GATEWAY_LINK_LOCAL, OVERLAY_MTU, attachment, namespace_of, network};

use crate::desired::Allow;
use crate::naming::Mac;

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// That of the process.
    Host,
    /// By its name below `/run/netns`.
    Named(String),
    /// By a path; somebody else's.
    Path(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Named(name) => write!(f, "namespace {name}"),
            Self::Path(path) => write!(f, "namespace {}", path.display()),
        }
    }
}

/// One thing in the kernel, or in the node. Whatever two entries of the same [`Key`] differ in can be changed in place,
/// except for the kind of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "kebab-case")]
pub enum Object {
    /// A named network namespace.
    Namespace {
        /// Below `/run/netns`.
        name: String,
        /// By which it is known to be ours, as with links.
        mark: String,
    },
    /// A network interface, still down; of a veth pair both ends.
    Link(Link),
    /// That an interface is up.
    Up {
        /// Where.
        place: Place,
        /// Which.
        link: String,
    },
    /// A value below `/proc/sys/net`.
    Setting {
        /// Where.
        place: Place,
        /// Path with slashes.
        key: String,
        /// Text.
        value: String,
    },
    /// An address of an interface.
    Address {
        /// Where.
        place: Place,
        /// Which interface.
        link: String,
        /// Which address.
        address: IpAddr,
        /// Of the directly connected prefix.
        prefix_len: u8,
    },
    /// A route of the main table.
    Route {
        /// Where.
        place: Place,
        /// Through which interface; `None`: such packets are refused.
        link: Option<String>,
        /// What for.
        destination: IpAddr,
        /// Length of the prefix.
        prefix_len: u8,
        /// Next hop; `None`: directly connected.
        gateway: Option<IpAddr>,
        /// Largest packet; `None`: the interface's.
        mtu: Option<u32>,
    },
    /// A permanent neighbour.
    Neighbour {
        /// Where.
        place: Place,
        /// At which interface.
        link: String,
        /// Whose address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
    },
    /// An address that neighbours are told to be here (RFC 4389).
    Proxy {
        /// Where.
        place: Place,
        /// At which interface.
        link: String,
        /// Which address.
        address: Ipv6Addr,
    },
    /// A permanent entry of a bridge's forwarding table.
    Station {
        /// Where.
        place: Place,
        /// The port.
        link: String,
        /// The MAC behind it.
        mac: Mac,
    },
    /// What a workload may send, at its port.
    PortFilter(PortFilter),
    /// What passes a network's routed hop.
    NetworkFilter(NetworkFilter),
    /// Who may reach a workload, at the routed hop.
    Ingress(Ingress),
    /// Masquerade of a network's IPv4 at the host.
    HostMasquerade {
        /// The host's end of the network's pair.
        link: String,
        /// What is masqueraded.
        source: Ipv4Addr,
    },
    /// An identity of the node.
    Identity {
        /// What the node calls it.
        name: String,
        /// 64 hexadecimal digits.
        public_key: String,
        /// Its interface.
        tun_name: String,
        /// Where that is: a path.
        netns: String,
    },
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Its MAC; `None`: any.
    pub mac: Option<Mac>,
    /// Its largest packet.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub port: Option<Port>,
    /// By which it is known to be ours: `mycelium NETWORK` or `mycelium NETWORK/NAME`.
    pub mark: String,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A switch.
    Bridge,
    /// One end of a cable.
    Veth(Box<Peer>),
    /// A persistent TUN.
    Tun,
    /// A persistent tap.
    Tap {
        /// Who may open it beside root.
        owner: Option<u32>,
    },
}

/// The other end of a cable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// Its MAC; `None`: any.
    pub mac: Option<Mac>,
    /// Its largest packet.
    pub mtu: u32,
}

/// A port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Which bridge, in the same place.
    pub bridge: String,
    /// Whether it is a workload's: isolated from the others of the kind, learning nothing.
    pub is_guest: bool,
    /// Whether it gets what is sent to all, as virtual machines must, which learn their addresses so.
    #[serde(default = "yes")]
    pub hears_all: bool,
}

/// Of notes that say nothing about it.
fn yes() -> bool {
    true
}

/// What a workload may send: only with these addresses, and no router advertisements, redirects or DHCP answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFilter {
    /// Where.
    pub place: Place,
    /// The port.
    pub link: String,
    /// Its MAC.
    pub mac: Mac,
    /// Its IPv6 addresses.
    pub sources: Vec<Ipv6Addr>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Packets in a second; `None`: any number.
    pub packets_per_second: Option<u32>,
    /// Whether it may ask for a router. Who is configured by us need not, and would make an address of the answer that it
    /// may not use.
    #[serde(default = "yes")]
    pub asks_for_router: bool,
}

/// The routed hop of a network: nothing comes in that nobody asked for, except where an [`Ingress`] lets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFilter {
    /// The network's namespace.
    pub place: Place,
    /// Towards the overlay.
    pub tun: String,
    /// Towards the guests.
    pub gateway: String,
    /// Towards the host, with masquerade.
    pub wan: Option<String>,
}

/// Who may reach a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// The network's namespace.
    pub place: Place,
    /// The workload's port: names the rules.
    pub port: String,
    /// Its addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Who may do what.
    pub allow: Vec<Allow>,
}

/// What an object is identified by: no two of the kernel's have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A namespace.
    Namespace(Place),
    /// An interface.
    Link(Place, String),
    /// That it is up.
    Up(Place, String),
    /// A setting.
    Setting(Place, String),
    /// An address.
    Address(Place, String, IpAddr),
    /// A route.
    Route(Place, IpAddr, u8),
    /// A neighbour.
    Neighbour(Place, String, IpAddr),
    /// A proxied address.
    Proxy(Place, String, Ipv6Addr),
    /// A station of a bridge.
    Station(Place, String, Mac),
    /// A filter at a port.
    PortFilter(Place, String),
    /// The filter of a network.
    NetworkFilter(Place),
    /// The rules of a workload.
    Ingress(Place, String),
    /// The host's masquerade for one network.
    HostMasquerade(String),
    /// An identity of the node.
    Identity(String),
}

impl Object {
    /// What it is identified by.
    pub fn key(&self) -> Key {
        match self.clone() {
            Self::Namespace { name, .. } => Key::Namespace(Place::Named(name)),
            Self::Link(link) => Key::Link(link.place, link.name),
            Self::Up { place, link } => Key::Up(place, link),
            Self::Setting { place, key, .. } => Key::Setting(place, key),
            Self::Address {
                place,
                link,
                address,
                ..
            } => Key::Address(place, link, address),
            Self::Route {
                place,
                destination,
                prefix_len,
                ..
            } => Key::Route(place, destination, prefix_len),
            Self::Neighbour {
                place,
                link,
                address,
                ..
            } => Key::Neighbour(place, link, address),
            Self::Proxy {
                place,
                link,
                address,
            } => Key::Proxy(place, link, address),
            Self::Station { place, link, mac } => Key::Station(place, link, mac),
            Self::PortFilter(filter) => Key::PortFilter(filter.place, filter.link),
            Self::NetworkFilter(filter) => Key::NetworkFilter(filter.place),
            Self::Ingress(ingress) => Key::Ingress(ingress.place, ingress.port),
            Self::HostMasquerade { link, .. } => Key::HostMasquerade(link),
            Self::Identity { public_key, .. } => Key::Identity(public_key),
        }
    }

    /// Without which it cannot be: when one of them goes, it goes too.
    pub fn containers(&self) -> Vec<Key> {
        let in_place = |place: &Place| Key::Namespace(place.clone());
        let at_link = |place: &Place, link: &String| {
            vec![in_place(place), Key::Link(place.clone(), link.clone())]
        };
        match self {
            Self::Namespace { .. } | Self::HostMasquerade { .. } => Vec::new(),
            // The node has the interface open: of another one it must be told.
            Self::Identity {
                tun_name, netns, ..
            } => {
                let name = Path::new(netns).file_name().unwrap_or_default();
                let place = Place::Named(name.to_string_lossy().into_owned());
                vec![Key::Link(place, tun_name.clone())]
            }
            Self::Link(link) => {
                let mut containers = vec![in_place(&link.place)];
                if let LinkKind::Veth(peer) = &link.kind {
                    containers.push(in_place(&peer.place));
                }
                containers
            }
            Self::Setting { place, key, .. } => {
                let mut containers = vec![in_place(place)];
                // ipv6/conf/LINK/…
                if let Some(link) = key.split('/').nth(2) {
                    containers.push(Key::Link(place.clone(), link.to_owned()));
                }
                containers
            }
            Self::Route {
                place, link: None, ..
            } => vec![in_place(place)],
            Self::Up { place, link }
            | Self::Address { place, link, .. }
            | Self::Route {
                place,
                link: Some(link),
                ..
            }
            | Self::Neighbour { place, link, .. }
            | Self::Proxy { place, link, .. }
            | Self::Station { place, link, .. } => at_link(place, link),
            Self::PortFilter(filter) => at_link(&filter.place, &filter.link),
            Self::NetworkFilter(filter) => vec![in_place(&filter.place)],
            Self::Ingress(ingress) => vec![
                in_place(&ingress.place),
                Key::NetworkFilter(ingress.place.clone()),
            ],
        }
    }

    /// Whether the one that is there becomes this one without being removed first.
    pub fn can_replace(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Link(new), Self::Link(old)) => match (&new.kind, &old.kind) {
                (LinkKind::Veth(new), LinkKind::Veth(old)) => {
                    (&new.place, &new.name) == (&old.place, &old.name)
                }
                (LinkKind::Tap { .. }, LinkKind::Tap { .. })
                | (LinkKind::Bridge, LinkKind::Bridge)
                | (LinkKind::Tun, LinkKind::Tun) => true,
                _ => false,
            },
            (
                Self::Address {
                    prefix_len: new, ..
                },
                Self::Address {
                    prefix_len: old, ..
                },
            ) => new == old,
            (Self::Identity { .. }, Self::Identity { .. }) => self == other,
            _ => true,
        }
    }

    /// Whether what is found without a note may be changed: it bears our mark, or nobody else has a reason to make it.
    /// A neighbour with another MAC is another workload with the same address; and in a namespace that is not ours,
    /// addresses and routes are not either.
    pub fn is_unmistakable(&self) -> bool {
        match self {
            Self::Neighbour { .. } => false,
            Self::Route { place, .. } | Self::Address { place, .. } => {
                matches!(place, Place::Named(_))
            }
            _ => true,
        }
    }

    /// Whether making it where it is already makes it no other than it should be, and nobody else could have it.
    pub fn is_made_blindly(&self) -> bool {
        match self {
            Self::Namespace { .. } | Self::Link(_) | Self::Neighbour { .. } => false,
            Self::Route { place, .. } | Self::Address { place, .. } => {
                matches!(place, Place::Named(_))
            }
            _ => true,
        }
    }

    /// Whether it is removed also when a container of it goes. Newer kernels keep the rules of an interface for one of
    /// the same name (since 6.16), the host's end of a cable goes some time after the namespace of the other, and the node
    /// keeps identities.
    pub fn must_be_removed(&self) -> bool {
        match self {
            Self::PortFilter(_) | Self::Identity { .. } => true,
            Self::Link(link) => matches!(link.kind, LinkKind::Veth(_)),
            _ => false,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { name, .. } => write!(f, "namespace {name}"),
            Self::Link(link) => {
                let kind = match &link.kind {
                    LinkKind::Bridge => "bridge",
                    LinkKind::Veth(_) => "veth",
                    LinkKind::Tun => "tun",
                    LinkKind::Tap { .. } => "tap",
                };
                write!(f, "{kind} {} of {}", link.name, link.place)
            }
            Self::Up { place, link } => write!(f, "{link} of {place} up"),
            Self::Setting { place, key, value } => write!(f, "net/{key}={value} of {place}"),
            Self::Address {
                place,
                link,
                address,
                prefix_len,
            } => write!(f, "address {address}/{prefix_len} at {link} of {place}"),
            Self::Route {
                place,
                link,
                destination,
                prefix_len,
                ..
            } => match link {
                Some(link) => {
                    write!(
                        f,
                        "route {destination}/{prefix_len} through {link} of {place}"
                    )
                }
                None => write!(f, "unreachable {destination}/{prefix_len} of {place}"),
            },
            Self::Neighbour {
                place,
                link,
                address,
                mac,
            } => write!(f, "neighbour {address} is {mac} at {link} of {place}"),
            Self::Proxy {
                place,
                link,
                address,
            } => write!(f, "proxy for {address} at {link} of {place}"),
            Self::Station { place, link, mac } => {
                write!(f, "station {mac} behind {link} of {place}")
            }
            Self::PortFilter(filter) => write!(f, "filter at {} of {}", filter.link, filter.place),
            Self::NetworkFilter(filter) => write!(f, "filter of {}", filter.place),
            Self::Ingress(ingress) => write!(f, "rules for {} in {}", ingress.port, ingress.place),
            Self::HostMasquerade { link, .. } => write!(f, "masquerade behind {link}"),
            Self::Identity { name, .. } => write!(f, "identity {name}"),
        }
    }
}
