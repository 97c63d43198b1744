//! Hot path: see docs/architecture.md#hot-path. Packets in, packets into caller-owned buffers out.
//!
//! ```text
//!   host interface                                                        peer link
//!        │                                                                    │
//!        ▼ from_host                                                from_peer ▼
//!   outbound.rs ── no route ──► pending.rs ◄── no route, or ── forward.rs ◄───┤
//!   check, seal                    │            no key of      hop limit,     │ to one of ours
//!        │                         │ begin_batch the sender    copy           ▼
//!        │ ◄───────────────────────┘                              │      inbound.rs
//!        ▼                                                        ▼      open, check
//!   Ports::peer_slot                                  Ports::peer_slot        │
//!                                                                             ▼
//!   icmp.rs: errors, to local hosts and out of band to remote sources    Ports::host_slot
//! ```
//!
//! Runs to completion: a packet ends in a verdict of [`DataPlaneStats`] before the call returns, or is parked (bounded) until
//! a route arrives. No lock, clock, log or await; no allocation but for parking. The table of routes is looked at once a batch.
//!
//! Protocol v1 cannot detect replay: a captured packet opens again (wire spec §8, S3). Reflection is refused, because the
//! inner source of a reflected packet is its victim's own.

mod forward;
mod icmp;
mod identities;
mod inbound;
mod keys;
pub(crate) mod limiter;
mod outbound;
mod partial;
mod pending;
mod ports;
mod sealed;
mod stats;
mod traffic;
mod whole;

use std::collections::VecDeque;
use std::net::Ipv6Addr;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use zeroize::Zeroize as _;

use crate::addr::Subnet;
use crate::fib::{FibReader, Lookup};
use crate::io::{IdentityId, PeerId};
use crate::rng::Rng;
use crate::session::config::SessionConfig;
use crate::session::path::Route;
use crate::session::pins::Pin;
use crate::session::table::Sessions;
use crate::session::view::{SessionStats, SessionView};
use crate::time::{Duration, Time};
use crate::wire::icmpv6::IcmpError;

pub use limiter::RateLimit;
pub use pending::PendingLimits;
pub use ports::Ports;
pub use stats::DataPlaneStats;
pub use traffic::{AddressTable, AddressTraffic};
pub use whole::Segmentation;

use identities::Identities;
use keys::KeyCache;
use limiter::TokenBucket;
use pending::{Arrival, Parked, Pending};

/// How soon a request for a route is repeated that the control plane had no room for.
const REQUEST_RETRY: Duration = Duration::from_millis(10);

/// Answers to path probes of all remotes.
const PROBE_ANSWERS: RateLimit = RateLimit {
    per_second: 1000,
    burst: 200,
};
/// Sealed packets of ours, quoted in notices, that are opened.
const QUOTES: RateLimit = RateLimit {
    per_second: 100,
    burst: 100,
};

/// Limits of the data plane.
#[derive(Clone, Debug)]
pub struct DataPlaneConfig {
    /// Longest packet that hosts may send: the MTU of their interface. Longer ones are answered Packet Too Big.
    pub mtu: u16,
    /// Largest TCP segment size that may be agreed on with remote hosts under v1, unless they are the other end of a stream.
    /// 1030 makes IPv6 packets of 1090 bytes, the largest that upstream's QUIC links carry after they lost larger ones, as
    /// they do over IPv6 (wire spec §2.5).
    pub max_segment_size: u16,
    /// Keys kept at once; one takes about 0.7 kB. See `keys.rs` for the eviction policy.
    pub keys: usize,
    /// New key agreements (50 to 90 µs each) that packets of local hosts may cause.
    pub host_agreements: RateLimit,
    /// New key agreements that packets from peers may cause.
    pub peer_agreements: RateLimit,
    /// ICMPv6 errors to each local host.
    pub host_errors: RateLimit,
    /// Out-of-band notices to all remote sources.
    pub notices: RateLimit,
    /// Packets of hosts that wait for a route to their destination.
    pub pending_host: PendingLimits,
    /// Packets of others that wait for a route to their destination.
    pub pending_transit: PendingLimits,
    /// Packets of hosts that wait for a session.
    pub pending_session: PendingLimits,
    /// Sessions.
    pub session: SessionConfig,
    /// Packets to us that wait for a route to their source, which names the key.
    pub pending_inbound: PendingLimits,
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        // A little longer than the control plane's query, which normally ends the wait.
        let lifetime = Duration::from_secs(4);
        let pending_peer = PendingLimits {
            subnets: 1024,
            subnets_per_arrival: 256,
            bytes_per_arrival: 1 << 20,
            packets_per_subnet: 128,
            bytes_per_subnet: 128 << 10,
            bytes: 2 << 20,
            lifetime,
        };
        Self {
            mtu: 1400,
            max_segment_size: 1030,
            keys: 4096,
            host_agreements: RateLimit {
                per_second: 1000,
                burst: 256,
            },
            peer_agreements: RateLimit {
                per_second: 500,
                // In one go: 3 ms, for which packets of others wait.
                burst: 32,
            },
            host_errors: RateLimit {
                per_second: 200,
                burst: 100,
            },
            notices: RateLimit {
                per_second: 200,
                burst: 100,
            },
            pending_host: PendingLimits {
                packets_per_subnet: 512,
                bytes_per_subnet: 512 << 10,
                bytes_per_arrival: 4 << 20,
                bytes: 8 << 20,
                ..pending_peer
            },
            pending_transit: pending_peer,
            pending_session: PendingLimits {
                packets_per_subnet: 64,
                bytes_per_subnet: 128 << 10,
                bytes_per_arrival: 4 << 20,
                bytes: 4 << 20,
                ..pending_peer
            },
            session: SessionConfig::default(),
            pending_inbound: pending_peer,
        }
    }
}

/// The data plane of one worker.
#[derive(Debug)]
pub struct DataPlane {
    config: DataPlaneConfig,
    fib: FibReader,
    identities: Identities,
    keys: KeyCache,
    rng: ChaCha12Rng,
    now: Time,
    notices: TokenBucket,
    pending_host: Pending,
    pending_transit: Pending,
    pending_inbound: Pending,
    pending_session: Pending,
    sessions: Sessions,
    /// Id of the next packet that goes in two halves.
    next_half: u32,
    /// Answers to path probes.
    answers: TokenBucket,
    /// Quotes of sealed packets of ours that are opened.
    quotes: TokenBucket,
    stats: DataPlaneStats,
    by_source: AddressTable,
    by_destination: AddressTable,
}

impl DataPlane {
    /// A data plane that follows `fib`.
    ///
    /// `seed` must be fresh from the operating system at every start: nonces come from it, and v1 uses one key for ever.
    pub fn new(config: DataPlaneConfig, fib: FibReader, mut seed: [u8; 32]) -> Self {
        // What goes on from here does not lead back to the seed that ephemeral keys of sessions come from.
        let mut once = Rng::from_seed(seed);
        seed.zeroize();
        let session_seed = once.secret();
        let mut rng = ChaCha12Rng::from_seed(*once.secret());
        let identities = Identities::new(config.host_errors, fib.fib());
        let mut sessions = Sessions::new(config.session.clone(), &session_seed);
        sessions.set_identities(identities.secrets());
        Self {
            identities,
            sessions,
            next_half: rng.next_u32(),
            answers: TokenBucket::new(PROBE_ANSWERS),
            quotes: TokenBucket::new(QUOTES),
            pending_session: Pending::new(config.pending_session, rng.next_u64()),
            keys: KeyCache::new(
                config.keys,
                config.host_agreements,
                config.peer_agreements,
                rng.next_u64(),
            ),
            now: Time::ZERO,
            notices: TokenBucket::new(config.notices),
            pending_host: Pending::new(config.pending_host, rng.next_u64()),
            pending_transit: Pending::new(config.pending_transit, rng.next_u64()),
            pending_inbound: Pending::new(config.pending_inbound, rng.next_u64()),
            stats: DataPlaneStats::default(),
            by_source: AddressTable::new(rng.next_u64()),
            by_destination: AddressTable::new(rng.next_u64()),
            config,
            fib,
            rng,
        }
    }

    /// Start a batch at `now`: take the newest table, let parked packets go whose route arrived, fail those that waited too
    /// long, and repeat requests that the control plane had no room for. Call it before every batch and at [`poll_timeout`].
    ///
    /// [`poll_timeout`]: Self::poll_timeout
    pub fn begin_batch(&mut self, now: Time, ports: &mut impl Ports) {
        self.now = self.now.max(now);
        self.refresh(ports);
        self.expire(ports);
        self.repeat_requests(ports);
        self.sessions.handle_timeout(self.now);
        self.run_sessions(ports);
    }

    /// Handle one IPv6 packet of a host: already segmented, with complete checksums. It is changed in place.
    pub fn from_host(&mut self, identity: IdentityId, packet: &mut [u8], ports: &mut impl Ports) {
        self.stats.host_packets += 1;
        self.stats.host_bytes += packet.len() as u64;
        self.outbound(identity, packet, ports);
        self.run_sessions(ports);
    }

    /// Handle one complete data packet of a peer, packet header included. It is changed in place. Bytes behind its end are
    /// ignored, as upstream does in datagrams.
    pub fn from_peer(&mut self, peer: PeerId, frame: &mut [u8], ports: &mut impl Ports) {
        self.stats.peer_packets += 1;
        self.stats.peer_bytes += frame.len() as u64;
        self.route(peer, frame, ports);
        self.run_sessions(ports);
    }

    /// The control plane found no route to `subnet` in time: fail what waits for it.
    pub fn query_failed(&mut self, subnet: Subnet, ports: &mut impl Ports) {
        // A route may have been published after the verdict was sent.
        self.refresh(ports);
        self.fail_host(subnet, ports);
        self.fail_transit(subnet, ports);
        self.fail_inbound(subnet);
        self.run_sessions(ports);
    }

    /// When parked packets must be failed, or a request be repeated: call [`begin_batch`](Self::begin_batch) then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let tables = [
            &self.pending_host,
            &self.pending_transit,
            &self.pending_inbound,
        ];
        if tables.iter().any(|table| table.has_unasked()) {
            return Some(self.now + REQUEST_RETRY);
        }
        let parked = tables.into_iter().filter_map(Pending::deadline);
        parked
            .chain(self.pending_session.deadline())
            .chain(self.sessions.poll_timeout())
            .min()
    }

    /// Counters per verdict.
    pub fn stats(&self) -> &DataPlaneStats {
        &self.stats
    }

    /// Packets and bytes by source address.
    pub fn by_source(&self) -> &AddressTable {
        &self.by_source
    }

    /// Packets and bytes by destination address.
    pub fn by_destination(&self) -> &AddressTable {
        &self.by_destination
    }

    /// Keys held, and key agreements computed since the start.
    pub fn key_counts(&self) -> (usize, u64) {
        (self.keys.len(), self.keys.agreements())
    }

    /// What is known of remote identities, those on v1 included.
    pub fn sessions(&self) -> Vec<SessionView> {
        self.sessions.views(self.now)
    }

    /// Counters of sessions.
    pub fn session_stats(&self) -> SessionStats {
        self.sessions.stats()
    }

    /// Who is known to speak v2, and under which key.
    pub fn pins(&self) -> Vec<Pin> {
        self.sessions.pins()
    }

    /// Changes whenever [`pins`](Self::pins) do.
    pub fn pin_generation(&self) -> u64 {
        self.sessions.pin_generation()
    }

    /// Take over pins of before a restart. Call it before the first batch.
    pub fn load_pins(&mut self, pins: &[Pin]) {
        self.sessions.load_pins(pins);
    }

    /// Forget pin and sessions of `subnet`, whose owner went back to v1 or has another key. False if nothing was pinned.
    pub fn forget_session(&mut self, subnet: Subnet) -> bool {
        self.sessions.forget(subnet)
    }

    /// Packets that wait for a route, or a session, now.
    pub fn parked(&self) -> usize {
        self.pending_host.packets()
            + self.pending_transit.packets()
            + self.pending_inbound.packets()
            + self.pending_session.packets()
    }

    /// Bytes that waiting packets take, bookkeeping included.
    pub fn parked_bytes(&self) -> usize {
        self.pending_host.bytes()
            + self.pending_transit.bytes()
            + self.pending_inbound.bytes()
            + self.pending_session.bytes()
    }

    #[inline]
    fn count_traffic(&mut self, source: Ipv6Addr, destination: Ipv6Addr, bytes: usize) {
        self.count_packets(source, destination, 1, bytes);
    }

    #[inline]
    fn count_packets(
        &mut self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        packets: usize,
        bytes: usize,
    ) {
        self.by_source.count(source, packets, bytes);
        self.by_destination.count(destination, packets, bytes);
    }

    /// Largest TCP segment that goes as v1 by `route`, options included.
    #[inline]
    fn v1_segment_limit(&self, route: Route, ports: &impl Ports) -> u16 {
        match route.direct && ports.carries_whole(route.next_hop) {
            true => u16::MAX,
            false => self.config.max_segment_size,
        }
    }

    fn refresh(&mut self, ports: &mut impl Ports) {
        if self.fib.refresh() {
            if self.identities.update(self.fib.fib()) {
                let identities = &self.identities;
                self.keys.retain_identities(|id| identities.contains(id));
            }
            if self.sessions.identities_differ(self.identities.ids()) {
                self.sessions.set_identities(self.identities.secrets());
            }
            let fib = self.fib.fib();
            self.sessions
                .on_routes(|subnet| matches!(fib.lookup(subnet), Lookup::Remote(_)));
            self.release(ports);
        }
    }

    /// Let everything go that the new table has a route for, in the order of arrival.
    fn release(&mut self, ports: &mut impl Ports) {
        let fib = self.fib.fib();
        let reachable = |subnet| !matches!(fib.lookup(subnet), Lookup::Unknown);
        let host = self.pending_host.matching(reachable);
        let transit = self.pending_transit.matching(reachable);
        let inbound = self.pending_inbound.matching(reachable);
        for subnet in host {
            let packets = self.pending_host.remove(subnet);
            self.release_queue(packets, ports);
        }
        for subnet in transit {
            let packets = self.pending_transit.remove(subnet);
            self.release_queue(packets, ports);
        }
        for subnet in inbound {
            let packets = self.pending_inbound.remove(subnet);
            self.release_queue(packets, ports);
        }
    }

    fn expire(&mut self, ports: &mut impl Ports) {
        while let Some(subnet) = self.pending_host.expired(self.now) {
            self.fail_host(subnet, ports);
        }
        while let Some(subnet) = self.pending_transit.expired(self.now) {
            self.fail_transit(subnet, ports);
        }
        while let Some(subnet) = self.pending_inbound.expired(self.now) {
            self.fail_inbound(subnet);
        }
        while let Some(subnet) = self.pending_session.expired(self.now) {
            self.fail_session(subnet, ports);
        }
    }

    /// Keep a packet until there is a route to `subnet`, and ask for one unless that was done.
    #[cold]
    fn park(
        &mut self,
        table: Waiting,
        subnet: Subnet,
        arrival: Arrival,
        packet: &[u8],
        ports: &mut impl Ports,
    ) {
        let pending = match table {
            Waiting::Host => &mut self.pending_host,
            Waiting::Transit => &mut self.pending_transit,
            Waiting::Inbound => &mut self.pending_inbound,
        };
        let outcome = pending.park(subnet, arrival, ports.is_sparse(), packet, self.now);
        self.stats.drop_parked_full += outcome.dropped_full;
        self.stats.drop_parked_subnet_full += outcome.dropped_subnet_full;
        self.stats.parked += u64::from(outcome.parked);
        self.stats.drop_parked_share += u64::from(outcome.refused_share);
        if outcome.must_ask {
            if ports.route_needed(subnet, arrival.peer()) {
                pending.mark_asked(subnet);
                self.stats.routes_requested += 1;
            } else {
                self.stats.routes_request_refused += 1;
            }
        }
    }

    fn repeat_requests(&mut self, ports: &mut impl Ports) {
        for pending in [
            &mut self.pending_host,
            &mut self.pending_transit,
            &mut self.pending_inbound,
        ] {
            for (subnet, from) in pending.unasked() {
                if !ports.route_needed(subnet, from) {
                    self.stats.routes_request_refused += 1;
                    return;
                }
                pending.mark_asked(subnet);
                self.stats.routes_requested += 1;
            }
        }
    }

    fn release_queue(&mut self, packets: VecDeque<Parked>, ports: &mut impl Ports) {
        let before = ports.is_sparse();
        for mut parked in packets {
            self.stats.released += 1;
            ports.set_sparse(parked.goes_first(self.now));
            match parked.arrival {
                Arrival::Host(identity) => self.outbound(identity, &mut parked.packet, ports),
                Arrival::Peer(peer) => self.route(peer, &mut parked.packet, ports),
            }
        }
        ports.set_sparse(before);
    }

    fn fail_host(&mut self, subnet: Subnet, ports: &mut impl Ports) {
        for parked in self.pending_host.remove(subnet) {
            self.stats.drop_no_route += 1;
            if let Arrival::Host(identity) = parked.arrival {
                self.host_error(identity, IcmpError::NoRoute, &parked.packet, ports);
            }
        }
    }

    fn fail_transit(&mut self, subnet: Subnet, ports: &mut impl Ports) {
        for parked in self.pending_transit.remove(subnet) {
            self.stats.drop_no_route += 1;
            self.notify_source(IcmpError::NoRoute, &parked.packet, ports);
        }
    }

    fn fail_inbound(&mut self, subnet: Subnet) {
        self.stats.drop_unknown_source += self.pending_inbound.remove(subnet).len() as u64;
    }
}

/// What a packet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// A host's packet: a route to its destination.
    Host,
    /// Somebody else's packet: a route to its destination.
    Transit,
    /// A packet to us: a route to its source.
    Inbound,
}
