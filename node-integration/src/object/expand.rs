//! What a network and an attachment consist of, in the order in which it is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path};

use super::{Ingress, Link, LinkKind, NetworkFilter, Object, Peer, Place, Port, PortFilter};
use crate::desired::{Attachment, Kind, Masquerade, Network};
use crate::link::LOOPBACK;
use crate::named;
use crate::naming::Mac;

/// Of interfaces on a network's bridge. Guests that were not told less send packets of this length, and the gateway
/// answers that they are too big; a shorter MTU here would drop them without a word.
pub(crate) const SEGMENT_MTU: u32 = 1500;
/// What the overlay carries.
pub const OVERLAY_MTU: u32 = 1400;
/// All addresses of the overlay.
const OVERLAY: (Ipv6Addr, u8) = (Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0), 7);
/// The gateway's link-local address, the same in every network.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The objects of a network.
pub fn network(network: &Network) -> Vec<Object> {
    let names = &network.names;
    let place = Place::Named(names.namespace.clone());
    let mark = format!("mycelium {}", network.name);
    let setting = |place: &Place, key: String, value: &str| Object::Setting {
        place: place.clone(),
        key,
        value: value.to_owned(),
    };
    let address = |link: &str, address: IpAddr, prefix_len| Object::Address {
        place: place.clone(),
        link: link.to_owned(),
        address,
        prefix_len,
    };
    let up = |place: &Place, link: &str| Object::Up {
        place: place.clone(),
        link: link.to_owned(),
    };
    let mut objects = vec![
        Object::Namespace {
            name: names.namespace.clone(),
            mark: mark.clone(),
        },
        up(&place, LOOPBACK),
        setting(&place, "ipv6/conf/all/forwarding".into(), "1"),
        Object::NetworkFilter(NetworkFilter {
            place: place.clone(),
            tun: names.tun.clone(),
            gateway: names.gateway.clone(),
            wan: network.spec.masquerade.map(|_| WAN.to_owned()),
        }),
        Object::Link(Link {
            place: Place::Host,
            name: names.bridge.clone(),
            kind: LinkKind::Bridge,
            mac: Some(Mac::of_bytes(format!("bridge:{}", network.id).as_bytes())),
            mtu: SEGMENT_MTU,
            port: None,
            mark: mark.clone(),
        }),
        // Else the host would take what its own gateway announces.
        setting(
            &Place::Host,
            format!("ipv6/conf/{}/disable_ipv6", names.bridge),
            "1",
        ),
        up(&Place::Host, &names.bridge),
        Object::Link(Link {
            place: Place::Host,
            name: names.uplink.clone(),
            kind: LinkKind::Veth(Box::new(Peer {
                place: place.clone(),
                name: names.gateway.clone(),
                mac: Some(network.gateway_mac()),
                mtu: SEGMENT_MTU,
            })),
            mac: None,
            mtu: SEGMENT_MTU,
            port: Some(Port {
                bridge: names.bridge.clone(),
                is_guest: false,
                hears_all: true,
            }),
            mark: mark.clone(),
        }),
        setting(
            &place,
            format!("ipv6/conf/{}/proxy_ndp", names.gateway),
            "1",
        ),
        up(&place, &names.gateway),
        up(&Place::Host, &names.uplink),
        address(&names.gateway, GATEWAY_LINK_LOCAL.into(), 64),
        address(&names.gateway, network.gateway().into(), 128),
        // An address that no guest has is refused, not looked for: a scan of the /64 leaves no trace here.
        Object::Route {
            place: place.clone(),
            link: None,
            destination: network.subnet().network_address().into(),
            prefix_len: 64,
            gateway: None,
            mtu: None,
        },
        Object::Link(Link {
            place: place.clone(),
            name: names.tun.clone(),
            kind: LinkKind::Tun,
            mac: None,
            mtu: OVERLAY_MTU,
            port: None,
            mark: mark.clone(),
        }),
        up(&place, &names.tun),
        address(&names.tun, network.address().into(), OVERLAY.1),
    ];
    if let Some(masquerade) = network.spec.masquerade {
        objects.extend(to_the_internet(network, masquerade, &place, mark));
    }
    objects.push(Object::Identity {
        name: format!("net:{}", network.name),
        public_key: network.public_key.to_string(),
        tun_name: names.tun.clone(),
        netns: format!("{}/{}", named::DIRECTORY, names.namespace),
    });
    objects
}

/// The namespace's interface towards the host.
const WAN: &str = "wan";

fn to_the_internet(
    network: &Network,
    masquerade: Masquerade,
    place: &Place,
    mark: String,
) -> Vec<Object> {
    let (host, inner) = masquerade.addresses();
    let link = format!("w-{}", network.id);
    let address = |place: &Place, link: &str, address: Ipv4Addr, prefix_len| Object::Address {
        place: place.clone(),
        link: link.to_owned(),
        address: address.into(),
        prefix_len,
    };
    let up = |place: &Place, link: &str| Object::Up {
        place: place.clone(),
        link: link.to_owned(),
    };
    let setting = |place: &Place, key: &str, value: &str| Object::Setting {
        place: place.clone(),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    vec![
        Object::Link(Link {
            place: Place::Host,
            name: link.clone(),
            kind: LinkKind::Veth(Box::new(Peer {
                place: place.clone(),
                name: WAN.to_owned(),
                mac: None,
                mtu: SEGMENT_MTU,
            })),
            mac: None,
            mtu: SEGMENT_MTU,
            port: None,
            mark,
        }),
        up(place, WAN),
        up(&Place::Host, &link),
        address(&Place::Host, &link, host, 31),
        address(place, WAN, inner, 31),
        Object::Route {
            place: place.clone(),
            link: Some(WAN.to_owned()),
            destination: Ipv4Addr::UNSPECIFIED.into(),
            prefix_len: 0,
            gateway: Some(host.into()),
            mtu: None,
        },
        address(place, &network.names.gateway, Masquerade::GATEWAY, 32),
        setting(place, "ipv4/ip_forward", "1"),
        // Answers come in at interfaces that are not ours, so the host as a whole must forward.
        setting(&Place::Host, "ipv4/ip_forward", "1"),
        Object::HostMasquerade {
            link,
            source: inner,
        },
    ]
}

/// The objects of an attachment. The network's come first.
pub fn attachment(network: &Network, attachment: &Attachment) -> Vec<Object> {
    let names = &attachment.names;
    let spec = &attachment.spec;
    let routed = Place::Named(network.names.namespace.clone());
    let gateway = network.names.gateway.clone();
    let mark = format!("mycelium {}/{}", network.name, attachment.name);
    let inside = inside(network, attachment);
    let mut objects = Vec::new();
    if let (Kind::Netns, Some(Place::Named(name))) = (spec.kind, &inside) {
        objects.push(Object::Namespace {
            name: name.clone(),
            mark: mark.clone(),
        });
        objects.push(Object::Up {
            place: Place::Named(name.clone()),
            link: LOOPBACK.to_owned(),
        });
    }
    objects.push(Object::Link(Link {
        place: Place::Host,
        name: names.port.clone(),
        kind: match &inside {
            None => LinkKind::Tap { owner: spec.owner },
            Some(place) => LinkKind::Veth(Box::new(Peer {
                place: place.clone(),
                name: attachment.interface.clone(),
                mac: Some(names.mac),
                mtu: OVERLAY_MTU,
            })),
        },
        mac: None,
        mtu: SEGMENT_MTU,
        port: Some(Port {
            bridge: network.names.bridge.clone(),
            is_guest: true,
            hears_all: inside.is_none(),
        }),
        mark,
    }));
    let mut sources = attachment.addresses.clone();
    sources.push(attachment.link_local());
    objects.push(Object::PortFilter(PortFilter {
        place: Place::Host,
        link: names.port.clone(),
        mac: names.mac,
        sources: sources.clone(),
        ipv4: attachment.ipv4(),
        packets_per_second: spec.packets_per_second,
        asks_for_router: inside.is_none(),
    }));
    objects.push(Object::Station {
        place: Place::Host,
        link: names.port.clone(),
        mac: names.mac,
    });
    let ipv4 = attachment.ipv4().map(IpAddr::from);
    for address in sources.into_iter().map(IpAddr::from).chain(ipv4) {
        objects.push(Object::Neighbour {
            place: routed.clone(),
            link: gateway.clone(),
            address,
            mac: names.mac,
        });
    }
    let routes = attachment.addresses.iter().copied().map(IpAddr::from);
    for destination in routes.chain(ipv4) {
        objects.push(Object::Route {
            place: routed.clone(),
            link: Some(gateway.clone()),
            destination,
            prefix_len: if destination.is_ipv6() { 128 } else { 32 },
            gateway: None,
            mtu: Some(OVERLAY_MTU),
        });
    }
    for address in &attachment.addresses {
        objects.push(Object::Proxy {
            place: routed.clone(),
            link: gateway.clone(),
            address: *address,
        });
    }
    objects.push(Object::Ingress(Ingress {
        place: routed,
        port: names.port.clone(),
        addresses: attachment.addresses.clone(),
        ipv4: attachment.ipv4(),
        allow: spec.allow.clone(),
    }));
    objects.push(Object::Up {
        place: Place::Host,
        link: names.port.clone(),
    });
    if let Some(place) = inside {
        objects.extend(inner(network, attachment, &place));
    }
    objects
}

/// The namespace of a workload's interface: a name below `/run/netns`, or a path; `None`: the host's own, or a virtual
/// machine's business.
pub fn namespace_of(network: &Network, attachment: &Attachment) -> Option<String> {
    match inside(network, attachment)? {
        Place::Host => None,
        Place::Named(name) => Some(name),
        Place::Path(path) => Some(path.to_string_lossy().into_owned()),
    }
}

/// The namespace with the workload's interface; `None`: none, it is a virtual machine's.
fn inside(network: &Network, attachment: &Attachment) -> Option<Place> {
    let name = attachment.spec.netns.as_deref();
    match attachment.spec.kind {
        Kind::Tap => None,
        Kind::Host => Some(Place::Host),
        Kind::Netns => Some(Place::Named(name.map_or_else(
            || format!("{}-{}", network.name, attachment.name),
            |name| name.to_string_lossy().into_owned(),
        ))),
        Kind::Veth => name.map(place_of),
    }
}

/// A name below `/run/netns`, or a path.
fn place_of(netns: &Path) -> Place {
    let below = netns.strip_prefix(named::DIRECTORY).unwrap_or(netns);
    let mut parts = below.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => Place::Named(name.to_string_lossy().into_owned()),
        _ => Place::Path(netns.to_owned()),
    }
}

/// The workload's side, where it is ours to configure: an address without neighbours, and the gateway for all else.
fn inner(network: &Network, attachment: &Attachment, place: &Place) -> Vec<Object> {
    let link = &attachment.interface;
    let address = |address: IpAddr, prefix_len| Object::Address {
        place: place.clone(),
        link: link.clone(),
        address,
        prefix_len,
    };
    let route = |destination: IpAddr, prefix_len, gateway| Object::Route {
        place: place.clone(),
        link: Some(link.clone()),
        destination,
        prefix_len,
        gateway,
        mtu: None,
    };
    let mut objects = vec![
        Object::Up {
            place: place.clone(),
            link: link.clone(),
        },
        address(attachment.link_local().into(), 64),
        Object::Neighbour {
            place: place.clone(),
            link: link.clone(),
            address: GATEWAY_LINK_LOCAL.into(),
            mac: network.gateway_mac(),
        },
    ];
    for own in &attachment.addresses {
        objects.push(address((*own).into(), 128));
    }
    let gateway = Some(GATEWAY_LINK_LOCAL.into());
    // The host's own 400::/7 stays where it is.
    let (destination, prefix_len) = match attachment.spec.kind {
        Kind::Host => (network.subnet().network_address(), 64),
        _ => OVERLAY,
    };
    objects.push(route(destination.into(), prefix_len, gateway));
    if network.spec.default_route && attachment.spec.kind != Kind::Host {
        objects.push(route(Ipv6Addr::UNSPECIFIED.into(), 0, gateway));
    }
    if let Some(ipv4) = attachment.ipv4() {
        objects.push(address(ipv4.into(), 32));
        objects.push(Object::Neighbour {
            place: place.clone(),
            link: link.clone(),
            address: Masquerade::GATEWAY.into(),
            mac: network.gateway_mac(),
        });
        objects.push(route(Masquerade::GATEWAY.into(), 32, None));
        objects.push(route(
            Ipv4Addr::UNSPECIFIED.into(),
            0,
            Some(Masquerade::GATEWAY.into()),
        ));
    }
    objects
}
