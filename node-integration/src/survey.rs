//! The interfaces of a host that mean something to a node: those with addresses, and those that it asks for.
//!
//! A list of all interfaces would cost what all of them do: with a thousand workloads behind bridges that is 40 ms, in
//! which nobody else changes an interface either. Addresses are few on such a host, so they are listed, and only their
//! interfaces looked at.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::kernel::route;
use crate::kernel::transport::Transport;

/// A conversation with the kernel about the namespace of the thread that opened it.
pub struct Survey {
    transport: Transport,
}

impl std::fmt::Debug for Survey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survey").finish_non_exhaustive()
    }
}

/// An interface as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surveyed {
    /// Its name.
    pub name: String,
    /// Whether somebody has set it up.
    pub is_up: bool,
    /// Whether it has a carrier.
    pub is_running: bool,
    /// Whether what is sent to it comes back.
    pub is_loopback: bool,
    /// Whether there is one other end only.
    pub is_point_to_point: bool,
    /// Whether it carries multicast.
    pub is_multicast: bool,
}

impl Survey {
    /// Open one.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open() -> io::Result<Self> {
        let transport = Transport::open(NETLINK_ROUTE)?;
        Ok(Self { transport })
    }

    /// All addresses of both families, by the index of their interface.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses(&mut self) -> io::Result<BTreeMap<u32, Vec<IpAddr>>> {
        let mut addresses = BTreeMap::<u32, Vec<IpAddr>>::new();
        for (index, address, _) in route::addresses(&mut self.transport)? {
            addresses.entry(index).or_default().push(address);
        }
        Ok(addresses)
    }

    /// One interface; `None`: it is gone.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn interface(&mut self, index: u32) -> io::Result<Option<Surveyed>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self
            .transport
            .query(RouteNetlinkMessage::GetLink(message), 0)
        {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(surveyed(link)),
                _ => None,
            })),
            Err(error) if crate::kernel::is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn surveyed(link: LinkMessage) -> Surveyed {
    let flags = link.header.flags;
    let name = link
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
    Surveyed {
        name: name.unwrap_or_default(),
        is_up: flags.contains(LinkFlags::Up),
        is_running: flags.contains(LinkFlags::Running),
        is_loopback: flags.contains(LinkFlags::Loopback),
        is_point_to_point: flags.contains(LinkFlags::Pointopoint),
        is_multicast: flags.contains(LinkFlags::Multicast),
    }
}
