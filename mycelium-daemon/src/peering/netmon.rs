//! What happens to the host's own network: interfaces, addresses, default routes, and suspend.
//!
//! Netlink only says that something changed; what is read again from the system and compared, so that lost or odd
//! messages do no harm. Interfaces of overlays, this one included, are not looked at.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use node_integration::survey::Survey;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteHeader;
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::endpoint::is_inside_overlay;
use super::handle::{PeerHandle, Request};

/// One change of cable or Wi-Fi is a burst of messages; this much later all of them are in.
const SETTLE: Duration = Duration::from_millis(50);
/// Looking again costs a list of all addresses: not more often than this, whatever a busy router's tables do.
const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// How soon a resume is noticed.
const SUSPEND_CHECK: Duration = Duration::from_secs(1);
/// Clocks that differ by less were not stopped.
const SUSPEND_SLACK: Duration = Duration::from_millis(500);

/// What changed, for those who hold links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Addresses that the host no longer has.
    pub vanished: Vec<IpAddr>,
    /// New interface, address or default route: links may leave elsewhere now.
    pub paths: bool,
    /// How long the machine was suspended.
    pub suspended: Duration,
}

/// An interface that is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Whether it has a carrier. The kernel may be up to a second late with that, in either direction.
    pub is_running: bool,
    /// Whether it carries multicast to other hosts: neither loopback nor point-to-point.
    pub is_lan: bool,
    /// Its addresses outside the overlay.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// Whether it has an address of fe80::/64.
    pub fn has_link_local(&self) -> bool {
        self.addresses.iter().any(
            |ip| matches!(ip, IpAddr::V6(v6) if v6.octets()[..8] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0]),
        )
    }
}

/// Interfaces that are up and have an address outside the overlay, by name.
pub type Interfaces = BTreeMap<String, Interface>;

/// Read the interfaces. Loopback addresses come and go with no network, and do not count.
///
/// # Errors
/// What the system says.
pub fn interfaces() -> io::Result<Interfaces> {
    let mut survey = Survey::open()?;
    let mut interfaces = Interfaces::new();
    for (index, mut addresses) in survey.addresses()? {
        addresses.retain(|ip| !is_inside_overlay(*ip));
        if addresses.iter().all(IpAddr::is_loopback) {
            continue;
        }
        // One that vanishes meanwhile is none.
        let Some(found) = survey.interface(index)?.filter(|found| found.is_up) else {
            continue;
        };
        addresses.sort_unstable();
        let interface = Interface {
            index,
            is_running: found.is_running,
            is_lan: found.is_multicast && !found.is_loopback && !found.is_point_to_point,
            addresses,
        };
        interfaces.insert(found.name, interface);
    }
    Ok(interfaces)
}

/// What became of `before`.
fn compare(before: &Interfaces, after: &Interfaces) -> Change {
    let addresses =
        |interfaces: &Interfaces, usable: &dyn Fn(&str, &Interface) -> bool| -> Vec<IpAddr> {
            let mut all: Vec<_> = interfaces
                .iter()
                .filter(|(name, interface)| usable(name, interface))
                .flat_map(|(_, interface)| interface.addresses.iter().copied())
                .collect();
            all.sort_unstable();
            all
        };
    // An interface that lost its carrier is as good as gone; one that never had it may be about to get it.
    let was_running = |name: &str| {
        before
            .get(name)
            .is_some_and(|interface| interface.is_running)
    };
    let old = addresses(before, &|_, _| true);
    let new = addresses(after, &|name, interface| {
        interface.is_running || !was_running(name)
    });
    let appeared = new.iter().any(|ip| old.binary_search(ip).is_err());
    let came_up = after.iter().any(|(name, interface)| {
        before.get(name).is_none_or(|old| {
            old.index != interface.index || (interface.is_running && !old.is_running)
        })
    });
    Change {
        vanished: old
            .into_iter()
            .filter(|ip| new.binary_search(ip).is_err())
            .collect(),
        paths: appeared || came_up,
        suspended: Duration::ZERO,
    }
}

/// The address that a packet to `remote` would leave with now. Sends nothing.
///
/// # Errors
/// If there is no way to it.
pub(crate) fn source_towards(remote: SocketAddr, firewall_mark: Option<u32>) -> io::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(remote),
        socket2::Type::DGRAM,
        None,
    )?;
    if let Some(mark) = firewall_mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&remote.into())?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|local| local.ip())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Watch the host's network for ever: tell `peers` of changes, keep `current` up to date, and notify `news` of anything
/// about any interface, those of overlays included.
///
/// # Errors
/// If netlink cannot be used; suspend is then not noticed either.
pub async fn watch(
    peers: PeerHandle,
    current: watch::Sender<Arc<Interfaces>>,
    news: Arc<Notify>,
) -> io::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    // Messages from before this are covered by this look.
    current.send_replace(Arc::new(interfaces()?));
    let mut clocks = Clocks::now();
    let mut check = interval(SUSPEND_CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due: Option<Instant> = None;
    let mut last_look = Instant::now() - MIN_INTERVAL;
    let mut default_route = false;
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some((message, _)) = message else {
                    connection.abort();
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "netlink closed"));
                };
                let relevance = relevance(&message);
                default_route |= relevance == Relevance::DefaultRoute;
                if relevance != Relevance::None && due.is_none() {
                    due = Some((Instant::now() + SETTLE).max(last_look + MIN_INTERVAL));
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                last_look = Instant::now();
                news.notify_one();
                let mut change = look(&current);
                change.paths |= std::mem::take(&mut default_route);
                if change != Change::default() {
                    peers.send(Request::Network(change)).await;
                }
            }
            _ = check.tick() => {
                let suspended = clocks.suspended_since();
                if suspended > SUSPEND_SLACK {
                    let change = look(&current);
                    peers.send(Request::Network(Change { paths: true, suspended, ..change })).await;
                }
            }
        }
    }
}

fn look(current: &watch::Sender<Arc<Interfaces>>) -> Change {
    match interfaces() {
        Ok(after) => {
            let change = compare(&current.borrow(), &after);
            current.send_if_modified(|before| {
                let modified = **before != after;
                if modified {
                    *before = Arc::new(after);
                }
                modified
            });
            change
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read the interfaces");
            Change::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relevance {
    None,
    Interface,
    DefaultRoute,
}

fn relevance(message: &NetlinkMessage<RouteNetlinkMessage>) -> Relevance {
    let NetlinkPayload::InnerMessage(message) = &message.payload else {
        // Overrun: messages were lost, so look.
        return match message.payload {
            NetlinkPayload::Overrun(_) => Relevance::DefaultRoute,
            _ => Relevance::None,
        };
    };
    match message {
        RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => Relevance::Interface,
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
            if route.header.destination_prefix_length == 0
                && route.header.table == RouteHeader::RT_TABLE_MAIN =>
        {
            Relevance::DefaultRoute
        }
        _ => Relevance::None,
    }
}

/// Boot-time clock against monotonic clock: only the first counts while the machine is suspended.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    boot: Duration,
    monotonic: Duration,
}

impl Clocks {
    fn now() -> Self {
        let read = |id| {
            let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
            // Neither part is negative for these clocks.
            Duration::from_secs(tv_sec.unsigned_abs())
                + Duration::from_nanos(tv_nsec.unsigned_abs())
        };
        Self {
            boot: read(ClockId::Boottime),
            monotonic: read(ClockId::Monotonic),
        }
    }

    /// How long the machine was suspended since the last call.
    fn suspended_since(&mut self) -> Duration {
        let before = std::mem::replace(self, Self::now());
        let boot = self.boot.saturating_sub(before.boot);
        boot.saturating_sub(self.monotonic.saturating_sub(before.monotonic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, index: u32, addresses: &[&str]) -> Interfaces {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let interface = Interface {
            index,
            is_running: true,
            is_lan: true,
            addresses,
        };
        Interfaces::from([(name.to_owned(), interface)])
    }

    #[test]
    fn changes_are_seen_and_silence_is_not() {
        let before = with("eth0", 2, &["192.0.2.1"]);
        assert_eq!(compare(&before, &before.clone()), Change::default());
        let renumbered = compare(&before, &with("eth0", 2, &["192.0.2.2"]));
        assert_eq!(
            renumbered.vanished,
            ["192.0.2.1".parse::<IpAddr>().unwrap()]
        );
        assert!(renumbered.paths);
        let gone = compare(&before, &Interfaces::new());
        assert!(gone.vanished.len() == 1 && !gone.paths);
        assert!(compare(&before, &with("eth0", 3, &["192.0.2.1"])).paths);
    }

    #[test]
    fn a_carrier_that_goes_takes_its_addresses_along_and_one_that_comes_is_a_path() {
        let running = with("eth0", 2, &["192.0.2.1"]);
        let mut idle = running.clone();
        idle.values_mut()
            .for_each(|interface| interface.is_running = false);
        assert_eq!(compare(&running, &idle).vanished.len(), 1);
        assert_eq!(compare(&idle, &idle.clone()), Change::default());
        let up = compare(&idle, &running);
        assert!(up.paths && up.vanished.is_empty());
        assert!(compare(&Interfaces::new(), &idle).paths);
    }

    #[test]
    fn a_machine_that_runs_was_not_suspended() {
        assert!(Clocks::now().suspended_since() < SUSPEND_SLACK);
    }

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        let source = source_towards(([127, 0, 0, 1], 9).into(), None).unwrap();
        assert_eq!(source, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn interfaces_of_this_host_are_read() {
        let interfaces = interfaces().unwrap();
        assert!(interfaces.values().all(|interface| interface.index != 0));
        assert!(!interfaces.contains_key("lo"));
    }
}
