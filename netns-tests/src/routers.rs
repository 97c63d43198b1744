//! Routers and address translators below the overlay: paths that become narrower, and ends that move.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use node_integration::{link, sysctl};

use crate::daemon::PORT;
use crate::impair;
use crate::lab::{Host, Lab, Port, Wire};
use crate::topology::Underlay;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(5);
const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Two hosts with two routers between them.
#[derive(Debug)]
pub struct Routed {
    /// One host.
    pub a: Arc<Host>,
    /// The other host.
    pub b: Arc<Host>,
    /// Where the first host is, for the second.
    pub at_a: Port,
    middle: Wire,
}

impl Routed {
    /// Lay them out, with routes.
    pub fn lay_out(lab: &Lab) -> anyhow::Result<Self> {
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let (near, far) = (lab.host("near")?, lab.host("far")?);
        let left = lab.wire(&a, &near)?;
        let middle = lab.wire(&near, &far)?;
        let right = lab.wire(&far, &b)?;
        for router in [&near, &far] {
            sysctl::forwarding(router.namespace(), true)?;
        }
        default_route(&left.left, &left.right)?;
        default_route(&middle.left, &middle.right)?;
        default_route(&middle.right, &middle.left)?;
        default_route(&right.right, &right.left)?;
        Ok(Self {
            a,
            b,
            at_a: left.left,
            middle,
        })
    }

    /// Let the routers send each other packets of at most `mtu` bytes. They say so to senders of longer ones.
    pub fn narrow(&self, mtu: u32) -> anyhow::Result<()> {
        for port in [&self.middle.left, &self.middle.right] {
            link::set_mtu(port.host().namespace(), port.interface(), mtu)?;
        }
        Ok(())
    }

    /// Keep from both hosts what routers say of packets that are too long.
    pub fn mute_routers(&self) -> anyhow::Result<()> {
        for host in [&self.a, &self.b] {
            impair::firewall(
                host,
                "table inet mute { chain arriving { type filter hook prerouting priority raw; \
                 icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }",
            )?;
        }
        Ok(())
    }
}

/// Let the host of `from` send by way of `gateway` what is for no network of its own.
fn default_route(from: &Port, gateway: &Port) -> anyhow::Result<()> {
    let (host, interface) = (from.host().namespace(), from.interface());
    link::add_route(host, ANY_V4, 0, Some(gateway.v4().into()), interface)?;
    link::add_route(host, ANY_V6, 0, Some(gateway.v6().into()), interface)?;
    Ok(())
}

/// A host with a choice of two networks, each behind a translator of its own, on the way to another host.
#[derive(Debug)]
pub struct TwoNetworks {
    /// The host that can change networks.
    pub a: Arc<Host>,
    /// The other host.
    pub b: Arc<Host>,
    /// Where the other host is.
    pub at_b: Port,
    first: Wire,
    second: Wire,
}

impl TwoNetworks {
    /// Lay them out; the first network is in use.
    pub fn lay_out(lab: &Lab) -> anyhow::Result<Self> {
        let (a, r, b) = (lab.host("a")?, lab.host("r")?, lab.host("b")?);
        let first = lab.wire(&a, &r)?;
        let second = lab.wire(&a, &r)?;
        let out = lab.wire(&r, &b)?;
        sysctl::forwarding(r.namespace(), true)?;
        default_route(&first.left, &first.right)?;
        let (ours, theirs) = (&out.left, &out.right);
        let (other_v4, other_v6) = further_addresses(ours, 0)?;
        let rules = format!(
            "table inet translator {{ chain leaving {{ type nat hook postrouting priority srcnat; \
             ip saddr {first_v4} meta l4proto {{ tcp, udp }} th dport {PORT} snat ip to {v4}:20000-20999; \
             ip6 saddr {first_v6} meta l4proto {{ tcp, udp }} th dport {PORT} snat ip6 to [{v6}]:20000-20999; \
             ip saddr {second_v4} meta l4proto {{ tcp, udp }} th dport {PORT} snat ip to {other_v4}:30000-30999; \
             ip6 saddr {second_v6} meta l4proto {{ tcp, udp }} th dport {PORT} snat ip6 to [{other_v6}]:30000-30999; }}; }}",
            first_v4 = first.left.v4(),
            first_v6 = first.left.v6(),
            second_v4 = second.left.v4(),
            second_v6 = second.left.v6(),
            v4 = ours.v4(),
            v6 = ours.v6(),
        );
        impair::firewall(&r, &rules)?;
        for wire in [&first, &second, &out] {
            for port in [&wire.left, &wire.right] {
                port.wait_for_link_local(PATIENCE)?;
            }
        }
        Ok(Self {
            at_b: theirs.clone(),
            a,
            b,
            first,
            second,
        })
    }

    /// Leave the first network for the second: its address goes, and with it all routes through it.
    pub fn change(&self) -> anyhow::Result<()> {
        // The more specific routes first: a gap between two routes would lose what no link can save.
        let (network, gateway) = (&self.second.left, &self.second.right);
        let (host, interface) = (self.a.namespace(), network.interface());
        let ways = [
            (self.at_b.v4().into(), 32, gateway.v4().into()),
            (self.at_b.v6().into(), 128, gateway.v6().into()),
        ];
        for (destination, length, gateway) in ways {
            link::add_route(host, destination, length, Some(gateway), interface)?;
        }
        let left = &self.first.left;
        link::remove_address(host, left.interface(), left.v4().into(), 24)?;
        link::remove_address(host, left.interface(), left.v6().into(), 64)?;
        Ok(())
    }
}

/// Which end of a [`Translator`] seems to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that dials.
    Dialling,
    /// The one that is dialled.
    Dialled,
}

/// Passes datagrams on between a node that dials it and another one, from a socket towards each. Either socket can be
/// exchanged for one with another address and port: what still comes to the old one is lost, and nobody is told.
#[derive(Debug)]
pub struct Translator {
    shared: Arc<Shared>,
    ports: [Port; 2],
    is_v4: bool,
    moves: AtomicU16,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Towards the node that dials, whose address is learnt; towards the other.
    sides: [Mutex<Side>; 2],
}

#[derive(Debug)]
struct Side {
    socket: Arc<UdpSocket>,
    remote: Option<SocketAddr>,
    /// Kept open, so that nobody says that they are closed.
    old: Vec<Arc<UdpSocket>>,
}

impl Translator {
    /// Listen at `inner` for the node that dials, and speak for it at `outer`, of the same host, with the one at `target`.
    pub fn start(
        inner: &Port,
        outer: &Port,
        target: &Port,
        underlay: Underlay,
    ) -> anyhow::Result<Self> {
        let address = |port: &Port| match underlay.is_ipv4() {
            true => IpAddr::V4(port.v4()),
            false => IpAddr::V6(port.v6()),
        };
        let side = |port: &Port, number: u16, remote: Option<SocketAddr>| -> anyhow::Result<_> {
            Ok(Mutex::new(Side {
                socket: Arc::new(bind(port, SocketAddr::new(address(port), number))?),
                remote,
                old: Vec::new(),
            }))
        };
        let target = SocketAddr::new(address(target), PORT);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            sides: [side(inner, PORT, None)?, side(outer, 0, Some(target))?],
        });
        for from in [0, 1] {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("translator".into())
                .spawn(move || shared.pass(from))?;
        }
        Ok(Self {
            shared,
            ports: [inner.clone(), outer.clone()],
            is_v4: underlay.is_ipv4(),
            moves: AtomicU16::new(0),
        })
    }

    /// From now on the other end meets `end` at another address and port.
    pub fn move_end(&self, end: End) -> anyhow::Result<()> {
        let at = match end {
            End::Dialling => 1,
            End::Dialled => 0,
        };
        let port = &self.ports[at];
        let (v4, v6) = further_addresses(port, self.moves.fetch_add(1, Ordering::Relaxed))?;
        let address = if self.is_v4 { v4.into() } else { v6.into() };
        let new = Arc::new(bind(port, SocketAddr::new(address, 0))?);
        let mut side = lock(&self.shared.sides[at]);
        let old = std::mem::replace(&mut side.socket, Arc::clone(&new));
        // Whoever waits for datagrams at the old one shall look at the new one.
        new.send_to(&[], old.local_addr()?)?;
        side.old.push(old);
        Ok(())
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Carry what comes to one side.
    fn pass(&self, from: usize) {
        let (from, to) = (&self.sides[from], &self.sides[1 - from]);
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let socket = Arc::clone(&lock(from).socket);
            let Ok((length, source)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let mut side = lock(from);
            if !Arc::ptr_eq(&side.socket, &socket) {
                continue;
            }
            side.remote.get_or_insert(source);
            drop(side);
            let side = lock(to);
            if let Some(remote) = side.remote {
                // What the system does not take is lost, as on any network.
                let _ = side
                    .socket
                    .send_to(buffer.get(..length).unwrap_or_default(), remote);
            }
        }
    }
}

fn bind(port: &Port, local: SocketAddr) -> anyhow::Result<UdpSocket> {
    let host = port.host();
    let socket = host
        .inside(|| UdpSocket::bind(local))?
        .with_context(|| format!("bind {local} at {}", host.name()))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

fn lock(side: &Mutex<Side>) -> MutexGuard<'_, Side> {
    side.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `number`-th further address of either family for a port, in its networks.
fn further_addresses(port: &Port, number: u16) -> anyhow::Result<(Ipv4Addr, Ipv6Addr)> {
    let last = 100_u8.saturating_add(u8::try_from(number)?);
    let [first, second, third, _] = port.v4().octets();
    let v4 = Ipv4Addr::new(first, second, third, last);
    let v6 = Ipv6Addr::from_bits((port.v6().to_bits() & !0xffff) | u128::from(last));
    let host = port.host().namespace();
    link::add_address(host, port.interface(), v4.into(), 24)?;
    link::add_address(host, port.interface(), v6.into(), 64)?;
    // Neighbours ask for it by multicast, once a second; the kernel listens a little later than it has the address.
    let group = format!("ff0200000000000000000001ff{:06x}", v6.to_bits() & 0xff_ffff);
    wait::until("an address that neighbours can ask for", PATIENCE, || {
        let groups = port
            .host()
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/igmp6"))??;
        let joined = |line: &str| line.contains(port.interface()) && line.contains(&group);
        Ok(groups.lines().any(joined).then_some(()))
    })?;
    Ok((v4, v6))
}
