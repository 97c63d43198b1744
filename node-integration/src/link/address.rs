//! Addresses of an interface.

use std::net::IpAddr;

use futures_util::StreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::require_index;
use crate::netlink::{converse, query};
use crate::{Namespace, Result};

/// Give an interface an address, usable at once: IPv6 addresses skip duplicate address detection.
///
/// # Errors
/// [`Error::NoSuchInterface`](crate::Error::NoSuchInterface), or [`Error::Exists`](crate::Error::Exists) when it has
/// the address already.
pub fn add_address(
    namespace: &Namespace,
    interface: &str,
    address: IpAddr,
    prefix_len: u8,
) -> Result<()> {
    let action = format!("give {interface} the address {address}/{prefix_len}");
    let index = require_index(namespace, interface, &action)?;
    converse(namespace, &action, async |handle| {
        let mut request = handle.address().add(index, address, prefix_len);
        if address.is_ipv6() {
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await
    })
}

/// Take an address from an interface.
///
/// # Errors
/// [`Error::NoSuchInterface`](crate::Error::NoSuchInterface), or the kernel's answer when it has no such address.
pub fn remove_address(
    namespace: &Namespace,
    interface: &str,
    address: IpAddr,
    prefix_len: u8,
) -> Result<()> {
    let action = format!("take the address {address}/{prefix_len} from {interface}");
    let index = require_index(namespace, interface, &action)?;
    converse(namespace, &action, async |handle| {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix_len;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address));
        handle.address().del(message).execute().await
    })
}

/// The addresses of an interface with their prefix lengths, link-local ones included, in the kernel's order.
///
/// # Errors
/// [`Error::NoSuchInterface`](crate::Error::NoSuchInterface).
pub fn addresses(namespace: &Namespace, interface: &str) -> Result<Vec<(IpAddr, u8)>> {
    let action = format!("list the addresses of {interface}");
    let index = require_index(namespace, interface, &action)?;
    query(namespace, &action, async |handle| {
        let mut found = Vec::new();
        let mut messages = std::pin::pin!(handle.address().get().execute());
        while let Some(message) = messages.next().await {
            let message = message?;
            if message.header.index != index {
                continue;
            }
            // Only IPv4 has "local" beside "address", and then "local" is ours.
            let local = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
            let address = local.or_else(|| {
                message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })
            });
            found.extend(address.map(|address| (address, message.header.prefix_len)));
        }
        Ok(found)
    })
}

fn family(address: IpAddr) -> rtnetlink::packet_route::AddressFamily {
    match address {
        IpAddr::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
    }
}
