//! Routes to the overlay, or to large parts of it.

use std::fmt;
use std::net::Ipv6Addr;

use crate::{Error, Namespace, Result};

/// A route to addresses of 400::/7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OverlayRoute {
    destination: Ipv6Addr,
    prefix_len: u8,
    pub(super) interface: String,
}

/// The /64 of a network and everything in it are ours to route.
const SUBNET: u8 = 64;
const OVERLAY: u8 = 7;

impl OverlayRoute {
    /// Whether it is to a part only.
    pub(super) fn is_part(&self) -> bool {
        self.prefix_len > OVERLAY
    }

    /// As `ip route` takes it.
    pub(super) fn destination(&self) -> String {
        format!(
            "{}/{} dev {}",
            self.destination, self.prefix_len, self.interface
        )
    }
}

impl fmt::Display for OverlayRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a route to {}/{} through {}",
            self.destination, self.prefix_len, self.interface
        )
    }
}

/// Those of a namespace that are to more than a /64, except ones that lead nowhere.
pub(super) fn read(namespace: &Namespace) -> Result<Vec<OverlayRoute>> {
    let table = namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/ipv6_route"))
        .and_then(|read| read);
    match table {
        Ok(table) => Ok(table.lines().filter_map(parse).collect()),
        // A kernel without IPv6 has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::from_io("read the routes", error)),
    }
}

/// Interfaces to which all of the overlay is routed, each once.
pub(super) fn whole(routes: &[OverlayRoute]) -> Vec<String> {
    let mut interfaces = Vec::new();
    for route in routes.iter().filter(|route| !route.is_part()) {
        if !interfaces.contains(&route.interface) {
            interfaces.push(route.interface.clone());
        }
    }
    interfaces
}

/// A line of `/proc/net/ipv6_route`: destination, prefix length, source, its length, gateway, metric, two counts, flags,
/// interface.
fn parse(line: &str) -> Option<OverlayRoute> {
    /// `RTF_REJECT` of linux/route.h.
    const REJECT: u32 = 0x0200;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, prefix_len, _, _, _, _, _, _, flags, interface] = fields.as_slice() else {
        return None;
    };
    let destination = Ipv6Addr::from_bits(u128::from_str_radix(destination, 16).ok()?);
    let prefix_len = u8::from_str_radix(prefix_len, 16).ok()?;
    let is_reject = u32::from_str_radix(flags, 16).ok()? & REJECT != 0;
    let is_overlay = destination.octets()[0] & 0xfe == 0x04;
    (is_overlay && (OVERLAY..SUBNET).contains(&prefix_len) && !is_reject).then(|| OverlayRoute {
        destination,
        prefix_len,
        interface: (*interface).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_to_the_overlay_are_found_among_others() {
        let table = "\
04000000000000000000000000000000 07 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001 mycelium
04000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001     tun9
0430936400000000000000000000000 40 short
043093640000000000000000000000ff 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001 gateway
04000000000000000000000000000000 07 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
02000000000000000000000000000000 07 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001     ygg0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001     eth0
";
        let routes: Vec<_> = table.lines().filter_map(parse).collect();
        assert_eq!(routes.len(), 2, "{routes:?}");
        assert_eq!(whole(&routes), ["mycelium"]);
        assert!(routes[1].is_part());
        assert_eq!(routes[1].to_string(), "a route to 400::/8 through tun9");
        assert_eq!(routes[1].destination(), "400::/8 dev tun9");
    }
}
