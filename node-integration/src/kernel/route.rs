//! Links, addresses, routes and neighbours by rtnetlink, one blocking request each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::transport::{self, Transport, errno};
use crate::naming::Mac;
use crate::object::{Link, LinkKind, Object, Peer};

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) index: u32,
    pub(super) mark: Option<String>,
    pub(super) kind: Option<InfoKind>,
    pub(super) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(super) controller: Option<u32>,
    pub(super) is_isolated: bool,
    pub(super) hears_all: bool,
    pub(super) is_up: bool,
}

/// An interface by its name.
pub(crate) fn find(route: &mut Transport, name: &str) -> io::Result<Option<Found>> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match route.query(RouteNetlinkMessage::GetLink(message), 0) {
        Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(found(link)),
            _ => None,
        })),
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many ports a bridge has. Takes the kernel as long as it has ports.
pub(crate) fn ports(route: &mut Transport, bridge: u32) -> io::Result<usize> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::Controller(bridge),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    let mut ports = 0;
    route.list(RouteNetlinkMessage::GetLink(message), |answer| {
        // A kernel that does not choose answers with all.
        if let RouteNetlinkMessage::NewLink(link) = answer {
            ports += usize::from(found(link).controller == Some(bridge));
        }
    })?;
    Ok(ports)
}

fn found(link: LinkMessage) -> Found {
    let mut found = Found {
        index: link.header.index,
        mark: None,
        kind: None,
        mac: None,
        mtu: 0,
        controller: None,
        is_isolated: false,
        hears_all: false,
        is_up: link.header.flags.contains(LinkFlags::Up),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => found.mark = Some(alias),
            LinkAttribute::Mtu(mtu) => found.mtu = mtu,
            LinkAttribute::Controller(index) => found.controller = Some(index),
            LinkAttribute::Address(mac) => found.mac = mac.try_into().ok().map(Mac::new),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => found.kind = Some(kind),
                        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                            found.is_isolated = port.contains(&InfoBridgePort::Isolated(true));
                            found.hears_all = port.contains(&InfoBridgePort::MulticastFlood(true));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// The number of an interface that must be there.
pub(super) fn require_index(route: &mut Transport, name: &str) -> io::Result<u32> {
    find(route, name)?.map(|found| found.index).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no interface {name}"),
        )
    })
}

/// Create a bridge or a cable, whose other end is born in the namespace `peer`, or in this one; `bridge`: it is born a port
/// of this interface.
pub(super) fn create(
    route: &mut Transport,
    link: &Link,
    peer: Option<RawFd>,
    bridge: Option<u32>,
) -> io::Result<()> {
    let mut message = LinkMessage::default();
    let mut attributes = named(&link.name);
    attributes.push(LinkAttribute::Mtu(link.mtu));
    attributes.extend(bridge.map(LinkAttribute::Controller));
    attributes.extend(
        link.mac
            .map(|mac| LinkAttribute::Address(mac.octets().to_vec())),
    );
    let info = match &link.kind {
        LinkKind::Bridge => vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                // Every guest gets what is sent to all routers or all nodes, whether or not it has joined in time.
                InfoBridge::MulticastSnooping(false),
            ])),
        ],
        LinkKind::Veth(other) => {
            attributes.extend(single_queue());
            let mut end = LinkMessage::default();
            end.attributes = named(&other.name);
            end.attributes.push(LinkAttribute::Mtu(other.mtu));
            end.attributes.extend(single_queue());
            end.attributes.extend(
                other
                    .mac
                    .map(|mac| LinkAttribute::Address(mac.octets().to_vec())),
            );
            end.attributes.extend(peer.map(LinkAttribute::NetNsFd));
            vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end))),
            ]
        }
        LinkKind::Tun | LinkKind::Tap { .. } => {
            return Err(io::Error::other("TUNs and taps are not made by rtnetlink"));
        }
    };
    attributes.push(LinkAttribute::LinkInfo(info));
    message.attributes = attributes;
    route.request(
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

fn named(name: &str) -> Vec<LinkAttribute> {
    vec![LinkAttribute::IfName(name.to_owned())]
}

/// Cables have a queue for each processor and use the first. To give the others up would take two grace periods.
fn single_queue() -> [LinkAttribute; 2] {
    [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
}

/// Make everything of a link as described that can be changed while it is there.
pub(super) fn configure(route: &mut Transport, link: &Link) -> io::Result<()> {
    let found = find(route, &link.name)?.ok_or(io::ErrorKind::NotFound)?;
    let controller = match &link.port {
        Some(port) => Some(require_index(route, &port.bridge)?),
        None => None,
    };
    let mut message = LinkMessage::default();
    message.header.index = found.index;
    let mut attributes = Vec::new();
    if found.mtu != link.mtu {
        attributes.push(LinkAttribute::Mtu(link.mtu));
    }
    if let Some(mac) = link.mac
        && found.mac != Some(mac)
    {
        attributes.push(LinkAttribute::Address(mac.octets().to_vec()));
    }
    if controller.is_some() && found.controller != controller {
        attributes.extend(controller.map(LinkAttribute::Controller));
    }
    if !attributes.is_empty() {
        message.attributes = attributes;
        route.request(RouteNetlinkMessage::SetLink(message), 0)?;
    }
    describe(route, link)
}

/// Mark a link, and make it the port that it should be: one that reaches the gateway's port and no other, that the bridge
/// learns nothing from and floods nothing to but, where somebody listens, what goes to everybody.
pub(super) fn describe(route: &mut Transport, link: &Link) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = named(&link.name);
    let mark = LinkAttribute::IfAlias(link.mark.clone());
    message.attributes.extend([mark, no_link_local()]);
    if let Some(port) = link.port.as_ref().filter(|port| port.is_guest) {
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::Isolated(true),
                InfoBridgePort::Learning(false),
                InfoBridgePort::UnicastFlood(false),
                InfoBridgePort::MulticastFlood(port.hears_all),
                InfoBridgePort::BroadcastFlood(port.hears_all),
                InfoBridgePort::Guard(true),
            ])),
        ]));
    }
    route.request(RouteNetlinkMessage::NewLink(message), 0)
}

/// What a new link at the other end of a cable still lacks.
pub(super) fn describe_peer(route: &mut Transport, peer: &Peer) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = named(&peer.name);
    message.attributes.push(no_link_local());
    route.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Make everything of the other end of a cable as described that can be changed while it is there.
pub(super) fn configure_peer(route: &mut Transport, peer: &Peer) -> io::Result<()> {
    let found = find(route, &peer.name)?.ok_or(io::ErrorKind::NotFound)?;
    let mut message = LinkMessage::default();
    message.header.index = found.index;
    message.attributes = vec![no_link_local()];
    if found.mtu != peer.mtu {
        message.attributes.push(LinkAttribute::Mtu(peer.mtu));
    }
    if let Some(mac) = peer.mac
        && found.mac != Some(mac)
    {
        message
            .attributes
            .push(LinkAttribute::Address(mac.octets().to_vec()));
    }
    route.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// That the kernel makes up no address: ports have none, and workloads the one that their MAC gives, from us.
fn no_link_local() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])])
}

pub(super) fn set_alias(route: &mut Transport, index: u32, alias: &str) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
    route.request(RouteNetlinkMessage::SetLink(message), 0)
}

pub(super) fn set_up(route: &mut Transport, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    route.request(RouteNetlinkMessage::SetLink(message), 0)
}

pub(super) fn delete(route: &mut Transport, index: u32) -> io::Result<()> {
    route.request(deletion_message(index), 0)
}

/// The bytes that ask for it.
pub(super) fn deletion(index: u32) -> Vec<u8> {
    transport::bytes(deletion_message(index), NLM_F_REQUEST | NLM_F_ACK, 0)
}

fn deletion_message(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::DelLink(message)
}

/// Put an interface into a group.
pub(super) fn set_group(route: &mut Transport, index: u32, group: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Group(group)];
    route.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Delete all interfaces of a group.
pub(super) fn delete_group(route: &mut Transport, group: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(group)];
    route.request(RouteNetlinkMessage::DelLink(message), 0)
}

fn address_message(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

/// Add an address; one that is there already stays.
pub(super) fn add_address(
    route: &mut Transport,
    index: u32,
    address: IpAddr,
    prefix_len: u8,
) -> io::Result<()> {
    let mut message = address_message(index, address, prefix_len);
    if address.is_ipv6() {
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    } else {
        message.header.flags = AddressHeaderFlags::empty();
    }
    route.request(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

pub(super) fn remove_address(
    route: &mut Transport,
    index: u32,
    address: IpAddr,
    prefix_len: u8,
) -> io::Result<()> {
    let message = address_message(index, address, prefix_len);
    route.request(RouteNetlinkMessage::DelAddress(message), 0)
}

/// All addresses: interface, address, prefix length.
pub(crate) fn addresses(route: &mut Transport) -> io::Result<Vec<(u32, IpAddr, u8)>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = route.query(question, rtnetlink::packet_core::NLM_F_DUMP)?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            let local = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            };
            let plain = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            };
            let attributes = &message.attributes;
            let address = attributes
                .iter()
                .find_map(local)
                .or_else(|| attributes.iter().find_map(plain))?;
            Some((message.header.index, address, message.header.prefix_len))
        })
        .collect())
}

/// A route as it is compared: destination, length, interface, gateway, MTU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KnownRoute {
    pub(super) destination: IpAddr,
    pub(super) prefix_len: u8,
    /// `None`: such packets are refused.
    pub(super) link: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
}

/// All routes of the main table.
pub(super) fn routes(route: &mut Transport) -> io::Result<Vec<KnownRoute>> {
    let question = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    let answers = route.query(question, rtnetlink::packet_core::NLM_F_DUMP)?;
    Ok(answers.into_iter().filter_map(known_route).collect())
}

/// The route of the main table for a single address: one question, however many routes there are.
pub(super) fn host_route(route: &mut Transport, address: IpAddr) -> io::Result<Option<KnownRoute>> {
    let length = host_length(address);
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = length;
    message.header.flags = RouteFlags::FibMatch;
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    match route.query(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(answers) => Ok(answers
            .into_iter()
            .filter_map(known_route)
            .find(|known| (known.destination, known.prefix_len) == (address, length))),
        Err(error)
            if super::is_absence(&error)
                || matches!(
                    errno(&error),
                    Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)
                ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether what arrives for this address is taken.
pub(super) fn is_local(route: &mut Transport, address: IpAddr) -> io::Result<bool> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = host_length(address);
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    match route.query(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(answers) => Ok(answers.iter().any(|answer| {
            matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
        })),
        Err(error) if errno(&error) == Some(Errno::ENETUNREACH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The length of a prefix that is one address.
pub(super) fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn known_route(answer: RouteNetlinkMessage) -> Option<KnownRoute> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    let is_refusal = header.kind == RouteType::Unreachable;
    if header.table != RouteHeader::RT_TABLE_MAIN
        || !(is_refusal || header.kind == RouteType::Unicast)
    {
        return None;
    }
    let mut known = KnownRoute {
        destination: match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        },
        prefix_len: header.destination_prefix_length,
        link: None,
        gateway: None,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => known.destination = ip(address)?,
            RouteAttribute::Gateway(address) => known.gateway = ip(address),
            RouteAttribute::Oif(index) if !is_refusal => known.link = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                known.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(known)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Add a route, in place of one with the same destination.
pub(super) fn add_route(
    route: &mut Transport,
    object: &Object,
    index: Option<u32>,
) -> io::Result<()> {
    let message = route_message(object, index)?;
    route.request(
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

pub(super) fn remove_route(
    route: &mut Transport,
    object: &Object,
    index: Option<u32>,
) -> io::Result<()> {
    let message = route_message(object, index)?;
    route.request(RouteNetlinkMessage::DelRoute(message), 0)
}

/// `index`: of its interface, if it has one.
fn route_message(object: &Object, index: Option<u32>) -> io::Result<RouteMessage> {
    let Object::Route {
        destination,
        prefix_len,
        gateway,
        mtu,
        ..
    } = object
    else {
        return Err(io::Error::other("no route"));
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family(*destination);
    message.header.destination_prefix_length = *prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = match gateway {
        None if destination.is_ipv4() && index.is_some() => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    message.header.kind = match index {
        Some(_) => RouteType::Unicast,
        None => RouteType::Unreachable,
    };
    if !destination.is_unspecified() {
        let destination = RouteAttribute::Destination((*destination).into());
        message.attributes.push(destination);
    }
    message.attributes.extend(index.map(RouteAttribute::Oif));
    if let Some(gateway) = gateway {
        let gateway = RouteAttribute::Gateway((*gateway).into());
        message.attributes.push(gateway);
    }
    if let Some(mtu) = mtu {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(*mtu)]);
        message.attributes.push(metrics);
    }
    Ok(message)
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}

pub(super) fn add_neighbour(
    route: &mut Transport,
    index: u32,
    address: IpAddr,
    mac: Mac,
) -> io::Result<()> {
    let mut message = neighbour(index, address);
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    route.request(
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

pub(super) fn remove_neighbour(
    route: &mut Transport,
    index: u32,
    address: IpAddr,
) -> io::Result<()> {
    let message = neighbour(index, address);
    route.request(RouteNetlinkMessage::DelNeighbour(message), 0)
}

/// The MAC and state of one neighbour; `None`: it is unknown.
pub(super) fn neighbour_mac(
    route: &mut Transport,
    index: u32,
    address: IpAddr,
) -> io::Result<Option<(Option<Mac>, bool)>> {
    let question = RouteNetlinkMessage::GetNeighbour(neighbour(index, address));
    one_neighbour(route, question).map(|found| {
        found.map(|message| {
            let is_permanent = message.header.state == NeighbourState::Permanent;
            (mac_of(&message), is_permanent)
        })
    })
}

pub(super) fn add_proxy(route: &mut Transport, index: u32, address: Ipv6Addr) -> io::Result<()> {
    let mut message = neighbour(index, address.into());
    message.header.flags = NeighbourFlags::Proxy;
    route.request(
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

pub(super) fn remove_proxy(route: &mut Transport, index: u32, address: Ipv6Addr) -> io::Result<()> {
    let mut message = neighbour(index, address.into());
    message.header.flags = NeighbourFlags::Proxy;
    route.request(RouteNetlinkMessage::DelNeighbour(message), 0)
}

pub(super) fn has_proxy(route: &mut Transport, index: u32, address: Ipv6Addr) -> io::Result<bool> {
    let mut message = neighbour(index, address.into());
    message.header.flags = NeighbourFlags::Proxy;
    let question = RouteNetlinkMessage::GetNeighbour(message);
    one_neighbour(route, question).map(|found| found.is_some())
}

fn station(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())];
    message
}

pub(super) fn add_station(route: &mut Transport, index: u32, mac: Mac) -> io::Result<()> {
    let mut message = station(index, mac);
    // "static" of bridge(8): it does not age, and it is no address of the bridge itself.
    message.header.state = NeighbourState::Noarp;
    route.request(
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

pub(super) fn remove_station(route: &mut Transport, index: u32, mac: Mac) -> io::Result<()> {
    route.request(RouteNetlinkMessage::DelNeighbour(station(index, mac)), 0)
}

/// Whether the bridge has this MAC behind this port, for good.
pub(super) fn has_station(route: &mut Transport, index: u32, mac: Mac) -> io::Result<bool> {
    let question = RouteNetlinkMessage::GetNeighbour(station(index, mac));
    one_neighbour(route, question).map(|found| {
        found.is_some_and(|message| {
            message.header.ifindex == index && message.header.state == NeighbourState::Noarp
        })
    })
}

fn one_neighbour(
    route: &mut Transport,
    question: RouteNetlinkMessage,
) -> io::Result<Option<NeighbourMessage>> {
    match route.query(question, 0) {
        Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => Some(message),
            _ => None,
        })),
        Err(error) if super::is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => mac.clone().try_into().ok().map(Mac::new),
            _ => None,
        })
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
