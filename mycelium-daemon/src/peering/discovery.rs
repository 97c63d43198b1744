//! Finds nodes on the local network: beacons to ff02::cafe (wire spec §3).
//!
//! A beacon is 50 bytes: `mycelium`, the TCP port, the router-id. Anyone on the local network can forge one, so what
//! it can cause is bounded: rates here, the number of peers in the manager, and a dial to a link-local address.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use mycelium_core::router_id::RouterId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::handle::{PeerHandle, Request};
use super::netmon::{Interface, Interfaces};
use crate::config::Discovery;

const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xcafe);
const MAGIC: &[u8; 8] = b"mycelium";
const BEACON_LEN: usize = 50;
const INTERVAL: Duration = Duration::from_secs(60);
/// An interface that has just come up cannot send while its address is being checked for duplicates.
const RETRY: Duration = Duration::from_millis(250);
const MAX_RETRIES: u32 = 20;
/// Of two nodes that hear each other, the one with the larger key gives the other this long to connect.
const COURTESY: Duration = Duration::from_secs(1);
/// Beacons looked at per second, from all interfaces together.
const MAX_PER_SECOND: u32 = 64;
/// Senders remembered, so that only news is answered.
const MAX_HEARD: usize = 256;
/// Beacons whose dial waits for [`COURTESY`].
const MAX_DELAYED: usize = 64;

/// Send and hear beacons for ever, and tell `peers` who is there.
///
/// Beacons are sent while `tcp_port` has a port for them to name.
///
/// Returns only when the rest of the node is gone.
pub async fn run(
    socket: UdpSocket,
    config: Discovery,
    router_id: RouterId,
    mut tcp_port: watch::Receiver<Option<u16>>,
    mut interfaces: watch::Receiver<Arc<Interfaces>>,
    peers: PeerHandle,
) {
    let mut node = Beacons {
        socket,
        config,
        router_id,
        joined: BTreeMap::new(),
        heard: BTreeMap::new(),
        delayed: Vec::new(),
        retries: 0,
        budget: Budget::default(),
    };
    let mut timer = interval(INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut buffer = [0; BEACON_LEN];
    let mut retry: Option<Instant> = None;
    loop {
        let port = *tcp_port.borrow_and_update();
        let send_to: Vec<u32>;
        tokio::select! {
            _ = timer.tick() => {
                node.join(&interfaces.borrow_and_update());
                send_to = node.indexes();
                node.retries = 0;
            }
            Ok(()) = interfaces.changed() => {
                let current = Arc::clone(&interfaces.borrow_and_update());
                send_to = node.join(&current);
                node.retries = 0;
            }
            Ok(()) = tcp_port.changed() => {
                send_to = node.indexes();
                node.retries = 0;
            }
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                send_to = node.indexes();
            }
            () = sleep_until(node.next_delayed().unwrap_or_else(Instant::now)), if node.next_delayed().is_some() => {
                for address in node.take_delayed() {
                    peers.send(Request::Discovered(address)).await;
                }
                continue;
            }
            received = node.socket.recv_from(&mut buffer) => {
                match received {
                    Ok((len, SocketAddr::V6(from))) => {
                        let Some(heard) = node.on_beacon(buffer.get(..len).unwrap_or_default(), from) else {
                            continue;
                        };
                        if let Some(address) = heard.dial_now {
                            peers.send(Request::Discovered(address)).await;
                        }
                        // So that a node that has just started need not wait a minute to hear of us.
                        send_to = heard.answer.then_some(from.scope_id()).into_iter().collect();
                    }
                    Ok(_) => continue,
                    Err(error) => {
                        // ICMP errors of earlier beacons surface here.
                        tracing::debug!(%error, "no beacon received");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
        }
        let mut complete = true;
        if let Some(port) = port {
            for index in send_to {
                complete &= node.send(port, index).await;
            }
        }
        retry = (!complete && node.retries < MAX_RETRIES).then(|| {
            node.retries += 1;
            Instant::now() + RETRY
        });
    }
}

/// The socket for [`run`].
///
/// # Errors
/// `AddrInUse` when the port is busy, and whatever else the system says.
pub fn open(port: u16, firewall_mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_loop_v6(false)?;
    if let Some(mark) = firewall_mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}

/// What to do about a beacon.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    dial_now: Option<SocketAddr>,
    answer: bool,
}

struct Beacons {
    socket: UdpSocket,
    config: Discovery,
    router_id: RouterId,
    /// Interfaces of the group: name, index, and whether there was a carrier when a beacon was last sent there.
    joined: BTreeMap<String, (u32, bool)>,
    heard: BTreeMap<SocketAddrV6, (RouterId, Instant)>,
    delayed: Vec<(Instant, SocketAddr)>,
    retries: u32,
    budget: Budget,
}

impl Beacons {
    /// Join the group on what is new; the indexes of that, and of what has a carrier anew.
    fn join(&mut self, interfaces: &Interfaces) -> Vec<u32> {
        let wanted = |name: &str, interface: &Interface| {
            let allowed = &self.config.interfaces;
            interface.is_lan
                && interface.has_link_local()
                && (allowed.is_empty() || allowed.iter().any(|allowed| allowed == name))
        };
        let wanted: BTreeMap<String, (u32, bool)> = interfaces
            .iter()
            .filter(|(name, interface)| wanted(name, interface))
            .map(|(name, interface)| (name.clone(), (interface.index, interface.is_running)))
            .collect();
        self.joined.retain(|name, (index, _)| {
            let keep = wanted.get(name).is_some_and(|(wanted, _)| wanted == index);
            if !keep {
                // It is usually gone, and the membership with it.
                let _ = self.socket.leave_multicast_v6(&GROUP, *index);
            }
            keep
        });
        let mut new = Vec::new();
        for (name, (index, is_running)) in wanted {
            if let Some((_, was_running)) = self.joined.get_mut(&name) {
                if is_running && !*was_running {
                    new.push(index);
                }
                *was_running = is_running;
                continue;
            }
            match self.socket.join_multicast_v6(&GROUP, index) {
                Ok(()) => {
                    tracing::debug!(interface = name, "looking for peers");
                    self.joined.insert(name, (index, is_running));
                    new.push(index);
                }
                Err(error) => tracing::debug!(interface = name, %error, "cannot look for peers"),
            }
        }
        new
    }

    fn indexes(&self) -> Vec<u32> {
        self.joined.values().map(|(index, _)| *index).collect()
    }

    /// Whether it went out.
    async fn send(&self, port: u16, index: u32) -> bool {
        let to = SocketAddrV6::new(GROUP, self.config.port, 0, index);
        let sent = self
            .socket
            .send_to(&beacon(port, &self.router_id), to)
            .await;
        if let Err(error) = &sent {
            tracing::debug!(index, %error, "beacon not sent");
        }
        sent.is_ok()
    }

    fn on_beacon(&mut self, datagram: &[u8], from: SocketAddrV6) -> Option<Heard> {
        let now = Instant::now();
        if !self.budget.take(now)
            || !self
                .joined
                .values()
                .any(|(index, _)| *index == from.scope_id())
        {
            return None;
        }
        let (port, router_id) = read(datagram, *from.ip())?;
        // Ourselves, or a copy of our key, which is no peer either.
        if router_id.public_key() == self.router_id.public_key() {
            return None;
        }
        let source = SocketAddrV6::new(*from.ip(), port, 0, from.scope_id());
        let known = self
            .heard
            .get(&source)
            .is_some_and(|(id, _)| *id == router_id);
        if !known && self.heard.len() >= MAX_HEARD && !self.heard.contains_key(&source) {
            let oldest = self
                .heard
                .iter()
                .min_by_key(|(_, (_, at))| *at)
                .map(|(source, _)| *source);
            oldest.and_then(|oldest| self.heard.remove(&oldest));
        }
        self.heard.insert(source, (router_id, now));
        let address = SocketAddr::V6(source);
        let theirs_first = self.router_id.public_key() > router_id.public_key();
        if theirs_first {
            let waits = self.delayed.iter().any(|(_, waiting)| *waiting == address);
            if !waits && self.delayed.len() < MAX_DELAYED {
                self.delayed.push((now + COURTESY, address));
            }
        }
        Some(Heard {
            dial_now: (!theirs_first).then_some(address),
            answer: !known,
        })
    }

    fn next_delayed(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    fn take_delayed(&mut self) -> Vec<SocketAddr> {
        let now = Instant::now();
        let due = self.delayed.iter().take_while(|(at, _)| *at <= now).count();
        self.delayed
            .drain(..due)
            .map(|(_, address)| address)
            .collect()
    }
}

fn beacon(port: u16, router_id: &RouterId) -> [u8; BEACON_LEN] {
    let mut beacon = [0; BEACON_LEN];
    beacon[..8].copy_from_slice(MAGIC);
    beacon[8..10].copy_from_slice(&port.to_be_bytes());
    beacon[10..].copy_from_slice(router_id.as_bytes());
    beacon
}

/// Port and router-id of a beacon that came from `from`. Bytes after the fiftieth were cut off by the socket.
fn read(datagram: &[u8], from: Ipv6Addr) -> Option<(u16, RouterId)> {
    let link_local = from.octets().starts_with(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
    let (magic, rest) = datagram.split_first_chunk::<8>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let router_id = <[u8; RouterId::LEN]>::try_from(rest).ok()?;
    let port = u16::from_be_bytes(*port);
    (link_local && magic == MAGIC && port != 0).then(|| (port, RouterId::from_bytes(router_id)))
}

/// So many a second; what comes beyond is not looked at.
#[derive(Debug, Default)]
struct Budget {
    since: Option<Instant>,
    used: u32,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now - since >= Duration::from_secs(1))
        {
            *self = Self {
                since: Some(now),
                used: 0,
            };
        }
        self.used += 1;
        self.used <= MAX_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use mycelium_core::crypto::identity::PublicKey;

    use super::*;

    const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

    fn router_id(key: u8) -> RouterId {
        RouterId::new(PublicKey([key; 32]), [0; 2], [key; 6])
    }

    #[test]
    fn a_beacon_has_the_layout_of_the_present_network() {
        let bytes = beacon(9651, &router_id(1));
        assert_eq!(&bytes[..10], b"mycelium\x25\xb3");
        assert_eq!(read(&bytes, FROM), Some((9651, router_id(1))));
    }

    #[test]
    fn what_is_no_beacon_is_ignored() {
        let good = beacon(9651, &router_id(1));
        assert_eq!(read(&good[..49], FROM), None);
        assert_eq!(read(&[], FROM), None);
        assert_eq!(read(&beacon(0, &router_id(1)), FROM), None);
        assert_eq!(read(&good, "2001:db8::1".parse().unwrap()), None);
        assert_eq!(read(&good, "fe80:0:0:1::1".parse().unwrap()), None);
        let mut other = good;
        other[0] = b'M';
        assert_eq!(read(&other, FROM), None);
    }

    fn node(key: u8) -> Beacons {
        Beacons {
            socket: open(0, None).unwrap(),
            config: Discovery {
                port: 9650,
                interfaces: Vec::new(),
            },
            router_id: router_id(key),
            joined: BTreeMap::from([("eth0".to_owned(), (2, true))]),
            heard: BTreeMap::new(),
            delayed: Vec::new(),
            retries: 0,
            budget: Budget::default(),
        }
    }

    #[tokio::test]
    async fn the_smaller_key_dials_and_news_are_answered_once() {
        let from = SocketAddrV6::new(FROM, 9650, 0, 2);
        let mut smaller = node(1);
        let heard = smaller
            .on_beacon(&beacon(9651, &router_id(2)), from)
            .unwrap();
        assert_eq!(
            heard.dial_now,
            Some(SocketAddrV6::new(FROM, 9651, 0, 2).into())
        );
        assert!(heard.answer);
        assert!(
            !smaller
                .on_beacon(&beacon(9651, &router_id(2)), from)
                .unwrap()
                .answer
        );
        // A restart has another router-id.
        let restarted = RouterId::new(PublicKey([2; 32]), [0; 2], [9; 6]);
        assert!(
            smaller
                .on_beacon(&beacon(9651, &restarted), from)
                .unwrap()
                .answer
        );
        let mut larger = node(3);
        let heard = larger
            .on_beacon(&beacon(9651, &router_id(2)), from)
            .unwrap();
        assert_eq!(heard.dial_now, None);
        assert!(larger.next_delayed().is_some());
    }

    #[tokio::test]
    async fn a_flood_of_beacons_is_bounded() {
        let mut node = node(1);
        let mut dialled = 0;
        for host in 0..100_000_u32 {
            let [a, b, c, d] = host.to_be_bytes().map(u16::from);
            let from = Ipv6Addr::new(0xfe80, 0, 0, 0, a, b, c, d);
            let heard = node.on_beacon(
                &beacon(9651, &router_id(2)),
                SocketAddrV6::new(from, 9650, 0, 2),
            );
            dialled += u32::from(heard.is_some());
        }
        assert!(dialled <= 10 * MAX_PER_SECOND, "{dialled} beacons taken");
        assert!(node.heard.len() <= MAX_HEARD && node.delayed.len() <= MAX_DELAYED);
    }

    #[tokio::test]
    async fn own_beacons_and_foreign_interfaces_are_ignored() {
        let mut node = node(1);
        let from = SocketAddrV6::new(FROM, 9650, 0, 2);
        assert_eq!(node.on_beacon(&beacon(9651, &router_id(1)), from), None);
        let elsewhere = SocketAddrV6::new(FROM, 9650, 0, 3);
        assert_eq!(
            node.on_beacon(&beacon(9651, &router_id(2)), elsewhere),
            None
        );
    }
}
