//! Unicast routes of the main table.

use std::net::IpAddr;

use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::RouteMessage;

use super::require_index;
use crate::netlink::converse;
use crate::{Error, Namespace, Result};

/// Route `destination/prefix_len` through `interface`, by way of `gateway` if there is one. `0.0.0.0/0` and `::/0`
/// are default routes.
///
/// # Errors
/// [`Error::NoSuchInterface`], or [`Error::Exists`] when such a route is there already.
pub fn add_route(
    namespace: &Namespace,
    destination: IpAddr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
    interface: &str,
) -> Result<()> {
    let action = format!("route {destination}/{prefix_len} through {interface}");
    let route = message(
        namespace,
        &action,
        destination,
        prefix_len,
        gateway,
        interface,
    )?;
    converse(namespace, &action, async |handle| {
        handle.route().add(route).execute().await
    })
}

/// Remove a route, described as it was added.
///
/// # Errors
/// [`Error::NoSuchInterface`], or the kernel's answer when there is no such route.
pub fn remove_route(
    namespace: &Namespace,
    destination: IpAddr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
    interface: &str,
) -> Result<()> {
    let action = format!("remove the route {destination}/{prefix_len} through {interface}");
    let route = message(
        namespace,
        &action,
        destination,
        prefix_len,
        gateway,
        interface,
    )?;
    converse(namespace, &action, async |handle| {
        handle.route().del(route).execute().await
    })
}

fn message(
    namespace: &Namespace,
    action: &str,
    destination: IpAddr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
    interface: &str,
) -> Result<RouteMessage> {
    let index = require_index(namespace, interface, action)?;
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, prefix_len)
        .map_err(|error| invalid(action, &error))?
        .output_interface(index);
    if let Some(gateway) = gateway {
        route = route
            .gateway(gateway)
            .map_err(|error| invalid(action, &error))?;
    }
    Ok(route.build())
}

fn invalid(action: &str, reason: &impl std::fmt::Display) -> Error {
    Error::from_io(
        action,
        std::io::Error::new(std::io::ErrorKind::InvalidInput, reason.to_string()),
    )
}
