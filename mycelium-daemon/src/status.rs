//! The state of the node as others see it: gathered from the engine, the peers and the identities, put into the shapes
//! of the API. Used by the API, by the dump on USR1 and by nothing that routes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mycelium_api::{
    ConnectionState, EndpointAddress, Health as ApiHealth, Identity, Info, Metric, PacketStatEntry,
    PacketStatistics, PeerCounts, PeerDetails, PeerStats, PeerType, Protocol, PublicKey,
    QueriedSubnet, Route, RouteCounts, Session, Status, Traffic, TunStatus, Warning,
};
use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity;
use mycelium_core::dataplane::DataPlaneStats;
use mycelium_core::io::{CloseReason, PeerId};
use mycelium_core::snapshot::{PeerSnapshot, RouteSnapshot, Snapshot};
use serde::{Serialize, Serializer as _};

use crate::api::answer::{Answer, Latest, Shelf};
use crate::clock;
use crate::engine::{EngineError, EngineHandle, EngineSnapshot};
use crate::health::Health;
use crate::host::{self, guard};
use crate::identities::{Identities, IdentityRecord};
use crate::link::vsock;
use crate::peering::endpoint::{Endpoint, Scheme, Target};
use crate::peering::handle::PeerHandle;
use crate::peering::view::{Connection, LinkView, Origin, PeerView, Peers};

pub(crate) mod sessions;

/// So long after the start, having no link to any configured peer is worth a warning.
const PATIENCE: Duration = Duration::from_secs(5);
/// A snapshot that old, although a fresh one was asked for, means that the router is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// Everything that can be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeView(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: EngineHandle,
    peers: PeerHandle,
    identities: Identities,
    health: Health,
    public_key: identity::PublicKey,
    tun_name: Option<String>,
    started: Instant,
    start_time: u64,
    shelf: Shelf,
    selected_json: Latest<Snapshot>,
    fallback_json: Latest<Snapshot>,
}

impl NodeView {
    /// A view of a node that starts now.
    pub fn new(
        engine: EngineHandle,
        peers: PeerHandle,
        identities: Identities,
        health: Health,
        public_key: identity::PublicKey,
        tun_name: Option<String>,
    ) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(Arc::new(Inner {
            engine,
            peers,
            identities,
            health,
            public_key,
            tun_name,
            started: Instant::now(),
            start_time: since_1970.map_or(0, |since| since.as_secs()),
            shelf: Shelf::default(),
            selected_json: Latest::default(),
            fallback_json: Latest::default(),
        }))
    }

    /// The peers.
    pub fn peer_handle(&self) -> &PeerHandle {
        &self.0.peers
    }

    /// The identities.
    pub fn identities(&self) -> &Identities {
        &self.0.identities
    }

    /// What the engine says of itself.
    pub(crate) async fn engine_snapshot(&self) -> Arc<EngineSnapshot> {
        self.0.engine.snapshot_with_sessions().await
    }

    /// Whether the router answers.
    pub(crate) async fn is_alive(&self) -> bool {
        is_current(&*self.0.engine.snapshot().await)
    }

    /// Who the node is.
    pub fn info(&self) -> Info {
        let key = self.0.public_key;
        Info {
            node_subnet: key.subnet().to_string(),
            node_ip: key.address(),
            node_pubkey: PublicKey(key.0),
            node_start_time: self.0.start_time,
        }
    }

    /// Every peer.
    pub async fn peers(&self) -> Vec<PeerStats> {
        let (peers, snapshot) = tokio::join!(self.0.peers.list(), self.0.engine.snapshot());
        let routed: HashMap<PeerId, &PeerSnapshot> = snapshot
            .control
            .peers
            .iter()
            .map(|peer| (peer.peer, peer))
            .collect();
        peers
            .peers
            .iter()
            .map(|peer| {
                let link = peer.link.as_ref();
                peer_stats(peer, link.and_then(|link| routed.get(&link.peer).copied()))
            })
            .collect()
    }

    /// The routes in use.
    pub async fn selected_routes(&self) -> Vec<Route> {
        let (peers, snapshot) = tokio::join!(self.0.peers.list(), self.0.engine.snapshot());
        routes(&snapshot.control.selected, &peers).collect()
    }

    /// The routes held ready.
    pub async fn fallback_routes(&self) -> Vec<Route> {
        let (peers, snapshot) = tokio::join!(self.0.peers.list(), self.0.engine.snapshot());
        routes(&snapshot.control.fallback, &peers).collect()
    }

    /// Where long answers are.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// The routes in use, as JSON: made once for all who ask while the router's snapshot is the same.
    pub(crate) async fn selected_routes_json(&self) -> Arc<Answer> {
        let (peers, snapshot) = tokio::join!(self.0.peers.list(), self.0.engine.snapshot());
        let control = &snapshot.control;
        let make = || list_json(routes(&control.selected, &peers));
        self.0.selected_json.of(control, &self.0.shelf, make)
    }

    /// The routes held ready, likewise.
    pub(crate) async fn fallback_routes_json(&self) -> Arc<Answer> {
        let (peers, snapshot) = tokio::join!(self.0.peers.list(), self.0.engine.snapshot());
        let control = &snapshot.control;
        let make = || list_json(routes(&control.fallback, &peers));
        self.0.fallback_json.of(control, &self.0.shelf, make)
    }

    /// What is being asked for.
    pub async fn queried(&self) -> Vec<QueriedSubnet> {
        let snapshot = self.0.engine.snapshot().await;
        let queried = snapshot.control.queried.iter();
        queried
            .map(|query| QueriedSubnet::new(query.subnet.to_string(), query.expires_in.as_secs()))
            .collect()
    }

    /// Traffic by address.
    pub async fn packet_statistics(&self) -> PacketStatistics {
        let snapshot = self.0.engine.snapshot().await;
        let entries = |traffic: &[mycelium_core::dataplane::AddressTraffic]| {
            traffic
                .iter()
                .map(|entry| PacketStatEntry {
                    ip: entry.address.into(),
                    packet_count: entry.packets,
                    byte_count: entry.bytes,
                })
                .collect()
        };
        PacketStatistics {
            by_source: entries(&snapshot.worker.by_source),
            by_destination: entries(&snapshot.worker.by_destination),
        }
    }

    /// The key behind `ip`, if a route is known or it is ours.
    pub async fn public_key_of(&self, ip: IpAddr) -> Option<PublicKey> {
        let IpAddr::V6(ip) = ip else {
            return None;
        };
        let subnet = Subnet::containing(ip);
        let snapshot = self.0.engine.snapshot().await;
        let own = snapshot.control.identities.iter();
        let own = own
            .filter(|identity| identity.subnet == subnet)
            .map(|identity| identity.public_key);
        let others = snapshot.control.selected.iter();
        let others = others
            .filter(|route| route.subnet == subnet)
            .map(|route| route.public_key);
        own.chain(others).next().map(|key| PublicKey(key.0))
    }

    /// Every identity.
    pub async fn identity_list(&self) -> Vec<Identity> {
        self.0
            .identities
            .list()
            .await
            .iter()
            .map(api_identity)
            .collect()
    }

    /// Sessions with remote identities.
    pub async fn sessions(&self) -> Vec<Session> {
        let snapshot = self.0.engine.snapshot_with_sessions().await;
        let views = snapshot.worker.sessions.iter();
        views.map(sessions::api_session).collect()
    }

    /// Do not hold the identity with this address to session v2 any more; false if it is not.
    ///
    /// # Errors
    /// When the node is stopping.
    pub(crate) async fn forget_session(&self, address: Ipv6Addr) -> Result<bool, EngineError> {
        let subnet = Subnet::containing(address);
        self.0.engine.forget_session(subnet).await
    }

    /// The node at a glance.
    pub async fn status(&self) -> Status {
        let (peers, snapshot, identities) = tokio::join!(
            self.0.peers.list(),
            self.0.engine.snapshot_with_sessions(),
            self.identity_list()
        );
        let key = self.0.public_key;
        let count = |connection| {
            let matching = peers
                .peers
                .iter()
                .filter(|peer| peer.connection == connection);
            matching.count() as u64
        };
        let best_rtt = snapshot
            .control
            .peers
            .iter()
            .filter_map(|peer| peer.rtt)
            .min();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: self.0.start_time,
            uptime: self.0.started.elapsed().as_secs(),
            public_key: PublicKey(key.0),
            address: key.address(),
            subnet: key.subnet().to_string(),
            health: ApiHealth::from_warnings(self.warnings(&peers, &snapshot)),
            peers: PeerCounts {
                total: peers.peers.len() as u64,
                alive: count(Connection::Alive),
                connecting: count(Connection::Connecting),
                dead: count(Connection::Dead),
                best_rtt_ms: best_rtt.map(milliseconds),
            },
            routes: RouteCounts {
                selected: snapshot.control.selected.len() as u64,
                fallback: snapshot.control.fallback.len() as u64,
                queried: snapshot.control.queried.len() as u64,
            },
            sessions: Some(sessions::count(&snapshot.worker)),
            traffic: traffic(&peers, &snapshot.worker.dataplane),
            listeners: self.0.health.listeners(),
            tun: self
                .0
                .tun_name
                .clone()
                .filter(|name| !self.0.health.is_raised(guard::GONE, name))
                .map(|name| TunStatus {
                    name,
                    mtu: host::MTU.into(),
                }),
            identities,
        }
    }

    /// What was raised, and what can be seen from the state.
    fn warnings(&self, peers: &Peers, snapshot: &EngineSnapshot) -> Vec<Warning> {
        let mut warnings = self.0.health.warnings();
        let ours = peers
            .peers
            .iter()
            .filter(|peer| matches!(peer.origin, Origin::Configured | Origin::Added));
        let ourselves = CloseReason::Ourselves.to_string();
        for peer in ours
            .clone()
            .filter(|peer| peer.last_error.as_ref() == Some(&ourselves))
        {
            warnings.push(Warning {
                code: "peer-is-ourselves".to_owned(),
                text: format!("peer {} is this very node", peer.endpoint),
                hint: Some("remove it from the peers".to_owned()),
            });
        }
        let none_alive = peers
            .peers
            .iter()
            .all(|peer| peer.connection != Connection::Alive);
        if ours.clone().next().is_some() && none_alive && self.0.started.elapsed() > PATIENCE {
            let reason = ours.filter_map(|peer| peer.last_error.as_deref()).next();
            warnings.push(Warning {
                code: "no-peer-alive".to_owned(),
                text: format!(
                    "no peer can be reached: {}",
                    reason.unwrap_or("no answer yet")
                ),
                hint: Some("check this host's network and the peers' addresses".to_owned()),
            });
        }
        let by_link = |id| {
            let links = peers
                .peers
                .iter()
                .filter(|peer| peer.link.as_ref().is_some_and(|link| link.peer == id));
            links.map(|peer| &peer.endpoint).next()
        };
        for (link, subnet) in snapshot.duplicates.iter() {
            // The link has ended since.
            let Some(endpoint) = by_link(*link) else {
                continue;
            };
            warnings.push(Warning {
                code: "duplicate-identity".to_owned(),
                text: format!(
                    "peer {endpoint} has our key of {subnet}: packets for it go to either"
                ),
                hint: Some("give one of the nodes a key of its own".to_owned()),
            });
        }
        warnings.extend(sessions::v1_warning(&snapshot.worker));
        if !is_current(snapshot) {
            warnings.push(Warning {
                code: "engine-stuck".to_owned(),
                text: "the router does not answer".to_owned(),
                hint: Some("restart the node and report this with its log".to_owned()),
            });
        }
        warnings
    }
}

fn is_current(snapshot: &EngineSnapshot) -> bool {
    clock::now().since(snapshot.taken) < STUCK
}

/// As the API shows it.
pub(crate) fn api_identity(record: &IdentityRecord) -> Identity {
    Identity {
        id: record.id.0,
        name: record.name.clone(),
        public_key: PublicKey(record.public_key.0),
        address: record.public_key.address(),
        subnet: record.public_key.subnet().to_string(),
        tun_name: record.place.tun_name.clone(),
        netns: record
            .place
            .netns
            .as_ref()
            .map(|path| path.display().to_string()),
    }
}

fn peer_stats(peer: &PeerView, routed: Option<&PeerSnapshot>) -> PeerStats {
    let link = peer.link.as_ref();
    PeerStats {
        endpoint: api_endpoint(&peer.endpoint, peer.address),
        peer_type: match peer.origin {
            Origin::Configured | Origin::Added => PeerType::Static,
            Origin::Discovered => PeerType::LinkLocalDiscovery,
            Origin::Inbound | Origin::Moved => PeerType::Inbound,
        },
        connection_state: match peer.connection {
            Connection::Alive => ConnectionState::Alive,
            Connection::Connecting => ConnectionState::Connecting,
            Connection::Dead => ConnectionState::Dead,
        },
        tx_bytes: peer.tx_bytes,
        rx_bytes: peer.rx_bytes,
        discovered: peer.known_for.as_secs(),
        last_connected: peer.last_connected.map(|ago| ago.as_secs()),
        details: PeerDetails {
            public_key: routed
                .and_then(|peer| peer.public_key)
                .map(|key| PublicKey(key.0)),
            address: routed
                .and_then(|peer| peer.public_key)
                .map(|key| key.address()),
            rtt_ms: routed.and_then(|peer| peer.rtt).map(milliseconds),
            cost: routed.map(|peer| peer.cost),
            routes: routed.map(|peer| peer.routes as u64),
            last_heard_ms: routed
                .map(|peer| peer.last_heard.as_millis().try_into().unwrap_or(u64::MAX)),
            tx_rate: link.map(|link| link.tx_rate),
            rx_rate: link.map(|link| link.rx_rate),
            dropped_packets: link.map(|link| link.dropped),
            local_address: link
                .and_then(|link| link.local)
                .map(|local| local.to_string()),
            last_error: peer.last_error.clone(),
        },
    }
}

fn api_endpoint(endpoint: &Endpoint, resolved: Option<SocketAddr>) -> mycelium_api::Endpoint {
    let proto = match endpoint.scheme {
        Scheme::Tcp => Protocol::Tcp,
        Scheme::Quic => Protocol::Quic,
        Scheme::Udp => Protocol::Udp,
        Scheme::Vsock => Protocol::Vsock,
    };
    match &endpoint.target {
        Target::Address(address) => mycelium_api::Endpoint::socket(proto, *address),
        Target::Vsock { cid, port } => mycelium_api::Endpoint {
            proto,
            addr: EndpointAddress::Vsock {
                cid: *cid,
                port: *port,
            },
            host: None,
        },
        Target::Monitor { path, port } => mycelium_api::Endpoint {
            proto,
            addr: EndpointAddress::Vsock {
                cid: vsock::ANY,
                port: *port,
            },
            host: Some(path.clone()),
        },
        Target::Name { host, port } => {
            let unknown = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
            mycelium_api::Endpoint {
                host: Some(host.clone()),
                ..mycelium_api::Endpoint::socket(proto, resolved.unwrap_or(unknown))
            }
        }
    }
}

/// One after the other: all at once, as structs, they take several times the space of their text.
fn list_json(elements: impl Iterator<Item = impl Serialize>) -> Vec<u8> {
    let mut text = Vec::new();
    serde_json::Serializer::new(&mut text)
        .collect_seq(elements)
        .expect("routes are structs of texts and numbers, which always serialise into memory");
    text
}

fn routes<'a>(routes: &'a [RouteSnapshot], peers: &'a Peers) -> impl Iterator<Item = Route> + 'a {
    let links: HashMap<PeerId, &LinkView> = peers
        .peers
        .iter()
        .filter_map(|peer| peer.link.as_ref())
        .map(|link| (link.peer, link))
        .collect();
    routes.iter().map(move |route| Route {
        subnet: route.subnet.to_string(),
        next_hop: match links.get(&route.next_hop) {
            Some(link) => next_hop(link),
            // The link ended between the two snapshots.
            None => format!("link {}", route.next_hop.0),
        },
        metric: Metric::from(route.metric),
        seqno: route.seqno,
        public_key: Some(PublicKey(route.public_key.0)),
        expires_in: Some(route.expires_in.as_secs()),
    })
}

/// In upstream's words.
fn next_hop(link: &LinkView) -> String {
    match (link.scheme, link.local) {
        (Scheme::Tcp, Some(local)) => format!("TCP {local} <-> {}", link.remote),
        (Scheme::Tcp, None) => format!("TCP -> {}", link.remote),
        (Scheme::Quic, _) => format!("QUIC -> {}", link.remote),
        (Scheme::Udp, _) => format!("UDP -> {}", link.remote),
        (Scheme::Vsock, _) => {
            let (cid, port) = vsock::of_stand_in(link.remote);
            format!("vsock -> {cid}:{port}")
        }
    }
}

fn traffic(peers: &Peers, stats: &DataPlaneStats) -> Traffic {
    let sum = |count: fn(&PeerView) -> u64| -> u64 { peers.peers.iter().map(count).sum() };
    let rate = |rate: fn(&LinkView) -> u64| -> u64 {
        peers
            .peers
            .iter()
            .filter_map(|peer| peer.link.as_ref())
            .map(rate)
            .sum()
    };
    let dropped = stats.named().filter(|(name, _)| name.starts_with("drop_"));
    Traffic {
        tx_bytes: peers.past_bytes.0 + sum(|peer| peer.tx_bytes),
        rx_bytes: peers.past_bytes.1 + sum(|peer| peer.rx_bytes),
        from_host_packets: stats.host_packets,
        to_host_packets: stats.delivered_remote + stats.delivered_local + stats.notices_delivered,
        forwarded_packets: stats.forwarded,
        dropped_packets: dropped.map(|(_, count)| count).sum(),
        tx_rate: Some(rate(|link| link.tx_rate)),
        rx_rate: Some(rate(|link| link.rx_rate)),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // Microseconds are what is measured; more digits would be noise.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
