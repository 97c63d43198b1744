//! Adds an address that is usable at once. The ioctl for it cannot say "no duplicate address detection". And even with
//! nobody to ask, the kernel accepts packets for the address only once a work queue has inserted a route for it: normally
//! after some ten microseconds, after many milliseconds while other namespaces are torn down.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use mycelium_core::time::Duration;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::SockRef;

/// `RTNLGRP_IPV6_ROUTE`: news of routes.
const IPV6_ROUTES: u32 = 11;
/// We go on without the route after this long; it will come.
const ROUTE_LIMIT: Duration = Duration::from_millis(200);

/// Give interface `index` of this thread's network namespace `address`/`prefix_len`.
pub(super) fn add(index: u32, address: Ipv6Addr, prefix_len: u8) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.add_membership(IPV6_ROUTES)?;
    SockRef::from(&socket).set_read_timeout(Some(ROUTE_LIMIT))?;
    socket.send_to(
        &request(index, address, prefix_len),
        &SocketAddr::new(0, 0),
        0,
    )?;
    let (mut is_added, mut is_routed) = (false, false);
    while !(is_added && is_routed) {
        let message = match socket.recv_from_full() {
            Ok((message, _)) => message,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!(%address, "no route for the address yet");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&message)
            .map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return match error.to_io() {
                    // A persistent interface has kept it.
                    error if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    error => Err(error),
                };
            }
            NetlinkPayload::Error(_) => is_added = true,
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                is_routed |= is_local_route(&route, address);
            }
            _ => {}
        }
    }
    Ok(())
}

fn request(index: u32, address: Ipv6Addr, prefix_len: u8) -> Vec<u8> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = prefix_len;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V6(address)),
        AddressAttribute::Address(IpAddr::V6(address)),
    ];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewAddress(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}

fn is_local_route(route: &RouteMessage, address: Ipv6Addr) -> bool {
    let destination = RouteAttribute::Destination(RouteAddress::Inet6(address));
    route.header.kind == RouteType::Local && route.attributes.contains(&destination)
}
