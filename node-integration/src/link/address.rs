//! Addresses of an interface.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::require_index;
use crate::netlink::{converse, query};
use crate::{Error, Namespace, Result};

/// Give an interface an address without duplicate address detection; see [`wait_until_local`].
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

/// Wait until packets to an IPv6 address of this namespace are taken for it.
///
/// The kernel makes an address usable as a source at once, also without duplicate address detection, but adds its entry
/// to the local table by a worker: until that has run, what arrives for it is dropped.
///
/// # Errors
/// [`Error::Refused`] with `TimedOut` after `limit`: nobody has the address.
pub fn wait_until_local(namespace: &Namespace, address: Ipv6Addr, limit: Duration) -> Result<()> {
    let action = format!("wait until {address} is reachable");
    let deadline = Instant::now() + limit;
    loop {
        let table = namespace
            .run(|| std::fs::read_to_string("/proc/thread-self/net/ipv6_route"))
            .and_then(|read| read)
            .map_err(|error| Error::from_io(action.as_str(), error))?;
        if table.lines().any(|line| is_local_entry(line, address)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::from_io(action, ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a line of `/proc/net/ipv6_route` is the local table's entry of `address`: destination, prefix length, source,
/// its length, gateway, metric, two counts, flags, interface.
fn is_local_entry(line: &str, address: Ipv6Addr) -> bool {
    /// `RTF_LOCAL` of linux/ipv6_route.h.
    const LOCAL: u32 = 0x8000_0000;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, "80", _, _, _, _, _, _, flags, _] = fields.as_slice() else {
        return false;
    };
    u128::from_str_radix(destination, 16) == Ok(address.to_bits())
        && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LOCAL != 0)
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
