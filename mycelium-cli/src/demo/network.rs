//! The underlay: three namespaces in a row, joined by virtual cables.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use node_integration::{Namespace, link, sysctl};

use super::Error;

/// A's underlay address.
pub(super) const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
/// R's towards A.
pub(super) const RELAY_TOWARDS_A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2));
/// R's towards B.
pub(super) const RELAY_TOWARDS_B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
/// B's.
pub(super) const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));

const PREFIX_LEN: u8 = 24;

/// How long the kernel may take to notice that a cable is plugged in; on an idle machine it takes a millisecond.
const SETTLING: Duration = Duration::from_secs(3);

/// Where the nodes run. A and B have no underlay route to each other.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) a: Namespace,
    pub(super) relay: Namespace,
    pub(super) b: Namespace,
}

impl Network {
    pub(super) fn create() -> Result<Self, Error> {
        let network = Self {
            a: host()?,
            relay: host()?,
            b: host()?,
        };
        cable(
            (&network.a, "relay", A),
            (&network.relay, "a", RELAY_TOWARDS_A),
        )?;
        cable(
            (&network.b, "relay", B),
            (&network.relay, "b", RELAY_TOWARDS_B),
        )?;
        Ok(network)
    }
}

/// A namespace with a loopback interface, for the API, and with IPv6, for the overlay.
fn host() -> Result<Namespace, Error> {
    let namespace = Namespace::create().map_err(Error::system("create a network namespace"))?;
    link::up(&namespace, link::LOOPBACK)?;
    // New namespaces may inherit that the machine does without IPv6.
    if sysctl::get(&namespace, "ipv6/conf/default/disable_ipv6")? != "0" {
        sysctl::disable_ipv6(&namespace, false)?;
    }
    Ok(namespace)
}

/// A namespace, the name of an interface in it, and its address.
type End<'a> = (&'a Namespace, &'a str, IpAddr);

fn cable(one: End<'_>, other: End<'_>) -> Result<(), Error> {
    link::veth(one.0, one.1, other.0, other.1)?;
    for (namespace, name, address) in [one, other] {
        link::add_address(namespace, name, address, PREFIX_LEN)?;
        link::up(namespace, name)?;
    }
    for (namespace, name, _) in [one, other] {
        link::wait_until_usable(namespace, name, SETTLING)?;
    }
    Ok(())
}
