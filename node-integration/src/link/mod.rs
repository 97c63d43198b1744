//! Interfaces of a namespace, their addresses and routes. Names are kernel interface names: 1 to 15 bytes.

mod address;
mod route;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, State};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

pub use address::{add_address, addresses, remove_address, wait_until_local};
pub use route::{add_route, remove_route};

use crate::netlink::{converse, query};
use crate::{Error, Namespace, Result};

/// The loopback interface, which every namespace has, down at first.
pub const LOOPBACK: &str = "lo";

/// Join two namespaces by a pair of virtual Ethernet interfaces, both down and without addresses.
///
/// # Errors
/// [`Error::Exists`] when either name is taken in its namespace.
pub fn veth(
    namespace: &Namespace,
    name: &str,
    peer_namespace: &Namespace,
    peer_name: &str,
) -> Result<()> {
    check_name(name)?;
    check_name(peer_name)?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(peer_name)
        .setns_by_fd(peer_namespace.raw_fd())
        .build();
    let pair = LinkVeth::new(name, peer_name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    converse(
        namespace,
        &format!("create the interface pair {name} and {peer_name}"),
        async |handle| handle.link().add(pair).execute().await,
    )
}

/// Create a bridge (a learning switch), up and without ports.
///
/// # Errors
/// [`Error::Exists`] when the name is taken.
pub fn bridge(namespace: &Namespace, name: &str) -> Result<()> {
    check_name(name)?;
    converse(
        namespace,
        &format!("create the bridge {name}"),
        async |handle| {
            handle
                .link()
                .add(LinkBridge::new(name).build())
                .execute()
                .await
        },
    )
}

/// Make `port` a port of `bridge`.
///
/// # Errors
/// [`Error::NoSuchInterface`] when either is missing.
pub fn attach(namespace: &Namespace, bridge: &str, port: &str) -> Result<()> {
    let controller = require_index(namespace, bridge, "attach a port")?;
    change(
        namespace,
        port,
        &format!("attach {port} to {bridge}"),
        |link| link.controller(controller),
    )
}

/// Take `port` from the bridge it belongs to.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing.
pub fn detach(namespace: &Namespace, port: &str) -> Result<()> {
    change(
        namespace,
        port,
        &format!("detach {port}"),
        LinkMessageBuilder::nocontroller,
    )
}

/// Set an interface up.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing.
pub fn up(namespace: &Namespace, name: &str) -> Result<()> {
    change(
        namespace,
        name,
        &format!("set {name} up"),
        LinkMessageBuilder::up,
    )
}

/// Wait until an interface that is up carries packets.
///
/// Of a veth pair the end that is set up first gets its queue only when the kernel's "linkwatch" has noticed that the
/// other end is up too; until then it swallows what is sent, and a lost TCP SYN costs a second.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing, [`Error::Refused`] with `TimedOut` after `limit`: its other end is
/// down.
pub fn wait_until_usable(namespace: &Namespace, name: &str, limit: Duration) -> Result<()> {
    let action = format!("wait until {name} carries packets");
    let deadline = Instant::now() + limit;
    loop {
        let index = require_index(namespace, name, &action)?;
        let state = query(namespace, &action, async |handle| {
            let mut links = std::pin::pin!(handle.link().get().match_index(index).execute());
            let link = links.next().await.transpose()?;
            Ok(link.and_then(|link| {
                link.attributes
                    .into_iter()
                    .find_map(|attribute| match attribute {
                        LinkAttribute::OperState(state) => Some(state),
                        _ => None,
                    })
            }))
        })?;
        match state {
            // Loopback and TUN interfaces know no other state.
            Some(State::Up | State::Unknown) => return Ok(()),
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            _ => return Err(Error::from_io(action, ErrorKind::TimedOut.into())),
        }
    }
}

/// Set an interface down; its peer, if it has one, loses its carrier.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing.
pub fn down(namespace: &Namespace, name: &str) -> Result<()> {
    change(
        namespace,
        name,
        &format!("set {name} down"),
        LinkMessageBuilder::down,
    )
}

/// Set the largest packet, in bytes without link header.
///
/// # Errors
/// [`Error::NoSuchInterface`] when the interface is missing.
pub fn set_mtu(namespace: &Namespace, name: &str, mtu: u32) -> Result<()> {
    change(
        namespace,
        name,
        &format!("set the MTU of {name} to {mtu}"),
        |link| link.mtu(mtu),
    )
}

/// Rename an interface, which must be down.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing, [`Error::Exists`] when the new name is taken.
pub fn rename(namespace: &Namespace, name: &str, new_name: &str) -> Result<()> {
    check_name(new_name)?;
    change(
        namespace,
        name,
        &format!("rename {name} to {new_name}"),
        |link| link.name(new_name),
    )
}

/// Move an interface into another namespace, where it starts down and without addresses.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing, [`Error::Exists`] when its name is taken there.
pub fn move_to(namespace: &Namespace, name: &str, target: &Namespace) -> Result<()> {
    change(
        namespace,
        name,
        &format!("move {name} to another namespace"),
        |link| link.setns_by_fd(target.raw_fd()),
    )
}

/// Delete an interface; of a veth pair both ends go.
///
/// # Errors
/// [`Error::NoSuchInterface`] when it is missing.
pub fn delete(namespace: &Namespace, name: &str) -> Result<()> {
    let action = format!("delete {name}");
    let index = require_index(namespace, name, &action)?;
    converse(namespace, &action, async |handle| {
        handle.link().del(index).execute().await
    })
}

/// The interface's number in its namespace; `None` if there is none of this name.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn index(namespace: &Namespace, name: &str) -> Result<Option<u32>> {
    check_name(name)?;
    query(namespace, &format!("look up {name}"), async |handle| {
        index_of(&handle, name).await
    })
}

/// Names of all interfaces of the namespace, in the kernel's order.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn names(namespace: &Namespace) -> Result<Vec<String>> {
    query(namespace, "list interfaces", async |handle| {
        let mut names = Vec::new();
        let mut links = std::pin::pin!(handle.link().get().execute());
        while let Some(link) = links.next().await {
            names.extend(
                link?
                    .attributes
                    .into_iter()
                    .find_map(|attribute| match attribute {
                        LinkAttribute::IfName(name) => Some(name),
                        _ => None,
                    }),
            );
        }
        Ok(names)
    })
}

/// Change attributes of an existing interface.
fn change(
    namespace: &Namespace,
    name: &str,
    action: &str,
    set: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) -> Result<()> {
    let index = require_index(namespace, name, action)?;
    let message = set(LinkUnspec::new_with_index(index)).build();
    converse(namespace, action, async |handle| {
        handle.link().change(message).execute().await
    })
}

fn require_index(namespace: &Namespace, name: &str, action: &str) -> Result<u32> {
    index(namespace, name)?.ok_or_else(|| Error::NoSuchInterface {
        action: action.to_owned(),
        interface: name.to_owned(),
    })
}

async fn index_of(
    handle: &Handle,
    name: &str,
) -> std::result::Result<Option<u32>, rtnetlink::Error> {
    let mut links = std::pin::pin!(handle.link().get().match_name(name).execute());
    match links.next().await {
        Some(Ok(link)) => Ok(Some(link.header.index)),
        Some(Err(rtnetlink::Error::NetlinkError(message)))
            if message.to_io().raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) =>
        {
            Ok(None)
        }
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}

/// The kernel's rule for interface names (`dev_valid_name`).
fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() || name.len() > 15 {
        "an interface name has 1 to 15 bytes"
    } else if matches!(name, "." | "..") {
        "an interface name is no directory"
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0') {
        "an interface name has no slash, colon or white space"
    } else {
        return Ok(());
    };
    Err(Error::BadName {
        name: name.to_owned(),
        reason,
    })
}
