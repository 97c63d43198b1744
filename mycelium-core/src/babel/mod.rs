//! Routing: the Babel dialect of the present network (wire spec §5), loosely RFC 8966.
//!
//! | RFC 8966 | here |
//! |---|---|
//! | §3.2.4 neighbour table, §3.4 Hello and IHU | `neighbour.rs` |
//! | §3.2.5 source table, §3.5.1 feasibility | `source.rs` |
//! | §3.2.6 route table | `route.rs` |
//! | §3.2.7 pending seqno requests, §3.8.2 | `seqno_request.rs` |
//! | §3.5.3 route acquisition, §3.7 Updates | `update.rs` |
//! | §3.6 selection | [`select`] |
//! | §3.7.4 origins | `origin.rs` |
//! | §3.8.1 route requests (on demand, with generations: not in the RFC) | `request.rs` |
//! | §3.8.1.1 full tables | `dump.rs` |
//! | second ways for what is in use (not in the RFC) | `fallback.rs` |
//! | appendix C filters | [`filter`] |
//!
//! One `Babel` owns the tables. Nothing here reads a clock or walks a table on a tick.

pub(crate) mod budget;
mod dump;
mod fallback;
pub mod filter;
pub mod metric;
mod neighbour;
mod news;
mod origin;
mod request;
mod route;
pub mod select;
pub mod seqno;
mod seqno_request;
mod source;
mod timer;
mod update;

use std::collections::{BTreeMap, VecDeque};

pub use budget::Allowance;

use self::budget::Budget;
use self::fallback::InUse;
use self::metric::Metric;
use self::neighbour::{Due, Neighbour};
use self::news::{Item as NewsItem, News};
use self::origin::{Origin, Origins};
use self::request::Queries;
use self::route::{Destination, Route, RouteTable};
use self::seqno_request::SeqnoRequests;
use self::timer::{Armed, Timer, Timers};
use crate::addr::Subnet;
use crate::config::{NodeConfig, centiseconds};
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::fib::{self, Fib};
use crate::io::{CloseReason, Event, IdentityId, LinkInfo, Output, PeerId};
use crate::rng::Rng;
use crate::router_id::RouterId;
use crate::snapshot::{
    Counters, IdentitySnapshot, PeerSnapshot, QuerySnapshot, RouteSnapshot, Snapshot,
};
use crate::time::{Duration, Time};
use crate::wire::babel::{Hello, Ihu, Item, Tlv, walk};

/// The router: all tables, and what they want to say.
///
/// Output is bounded by construction. What must be told to all neighbours is only noted, as a set of subnets
/// (`news`); `poll_output` turns one of them at a time into packets, when everything before has been fetched. What an
/// input queues directly is bounded by the number of neighbours, of identities and of queries.
#[derive(Debug)]
pub(crate) struct Babel {
    config: NodeConfig,
    rng: Rng,
    neighbours: BTreeMap<PeerId, Neighbour>,
    /// The latest link on which a node has proved that key.
    proven: BTreeMap<PublicKey, PeerId>,
    origins: Origins,
    table: RouteTable,
    queries: Queries,
    seqno_requests: SeqnoRequests,
    host_queries: Budget,
    own_seqno_requests: Budget,
    fallback_requests: Budget,
    in_use: InUse,
    timers: Timers,
    announce_armed: Armed,
    news: News,
    announcements: Budget,
    /// `announcements` is spent: what is paced waits for this timer.
    waiting_for_pace: bool,
    output: VecDeque<Output>,
    queued_events: usize,
    fib: Fib,
    fib_changed: bool,
    counters: Counters,
    stopping: bool,
}

impl Babel {
    pub(crate) fn new(config: NodeConfig, seed: [u8; 32], now: Time) -> Self {
        let mut rng = Rng::from_seed(seed);
        let mut timers = Timers::default();
        let mut announce_armed = Armed::default();
        timers.set(
            &mut announce_armed,
            Some(now + config.update_interval),
            Timer::Announce,
        );
        Self {
            announcements: Budget::new(config.announcements, now),
            host_queries: Budget::new(config.host_queries, now),
            own_seqno_requests: Budget::new(config.own_seqno_requests, now),
            fallback_requests: Budget::new(config.fallback_requests, now),
            in_use: InUse::default(),
            fib: Fib::new(rng.next_u64()),
            config,
            rng,
            neighbours: BTreeMap::new(),
            proven: BTreeMap::new(),
            origins: Origins::default(),
            table: RouteTable::default(),
            queries: Queries::default(),
            seqno_requests: SeqnoRequests::default(),
            timers,
            announce_armed,
            news: News::default(),
            waiting_for_pace: false,
            output: VecDeque::new(),
            queued_events: 0,
            fib_changed: true,
            counters: Counters::default(),
            stopping: false,
        }
    }

    pub(crate) fn fib(&self) -> &Fib {
        &self.fib
    }

    /// The table, if it changed since the last call.
    pub(crate) fn take_fib(&mut self) -> Option<Fib> {
        std::mem::take(&mut self.fib_changed).then(|| self.fib.clone())
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
            || self.news.has_origins()
            || (!self.waiting_for_pace && self.news.has_paced())
    }

    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Until when no packets of this neighbour should be handed in, if it changes our tables too fast.
    pub(crate) fn paused_until(&self, peer: PeerId) -> Option<Time> {
        self.neighbours.get(&peer)?.budgets.updates.paid_at()
    }

    pub(crate) fn poll_output(&mut self, now: Time) -> Option<Output> {
        loop {
            if let Some(output) = self.output.pop_front() {
                if matches!(output, Output::Event(_)) {
                    self.queued_events -= 1;
                }
                return Some(output);
            }
            if let Some(subnet) = self.news.pop_origin() {
                self.announce(subnet, now);
                continue;
            }
            if self.waiting_for_pace {
                return None;
            }
            match self.news.pop_paced()? {
                NewsItem::All(subnet) => self.announce(subnet, now),
                NewsItem::One(peer, subnet) => self.send_selected(peer, subnet, now),
            }
            if !self.announcements.take(now) || !self.announcements.is_ready(now) {
                self.waiting_for_pace = true;
                self.timers
                    .schedule(now + self.config.announcement_pause, Timer::Pace);
            }
        }
    }

    fn on_pace_timer(&mut self, now: Time) {
        if self.announcements.is_ready(now) {
            self.waiting_for_pace = false;
        } else {
            self.timers
                .schedule(now + self.config.announcement_pause, Timer::Pace);
        }
    }

    pub(crate) fn add_identity(&mut self, id: IdentityId, secret: SecretKey, now: Time) {
        let public_key = secret.public_key();
        let subnet = public_key.subnet();
        if self.stopping || self.origins.get(subnet).is_some() {
            return;
        }
        let router_id = RouterId::new(public_key, self.config.zone, self.rng.array());
        self.forget_destination(subnet);
        self.queries_satisfied(subnet);
        let origin = Origin::new(id, public_key, router_id, self.config.seqno_increases, now);
        self.origins.insert(subnet, origin);
        self.fib.insert_origin(fib::Origin { id, subnet, secret });
        self.fib_changed = true;
        self.news.origin(subnet);
    }

    pub(crate) fn remove_identity(&mut self, id: IdentityId, now: Time) {
        if id == IdentityId::NODE {
            return;
        }
        if let Some(subnet) = self.origins.subnet_of(id) {
            if let Some(origin) = self.retract_origin(subnet) {
                self.remember_origin(subnet, &origin, now);
            }
            self.fib.remove_origin(subnet);
            self.fib_changed = true;
        }
    }

    pub(crate) fn shutdown(&mut self) {
        self.stopping = true;
        let subnets: Vec<Subnet> = self.origins.iter().map(|(subnet, _)| subnet).collect();
        for subnet in subnets {
            self.retract_origin(subnet);
        }
    }

    fn retract_origin(&mut self, subnet: Subnet) -> Option<Origin> {
        let origin = self.origins.remove(subnet)?;
        self.news.remove(subnet);
        let interval = centiseconds(self.config.update_interval);
        let retraction = Tlv::Update(origin.update(subnet, Metric::INFINITE, interval));
        self.send_to_all(&retraction, None);
        Some(origin)
    }

    /// What we originated may come back from those who have not heard of its end: its distance was 0, so none of that
    /// is feasible.
    fn remember_origin(&mut self, subnet: Subnet, origin: &Origin, now: Time) {
        if !self.make_room() {
            return;
        }
        let max_sources = self.config.max_sources;
        let source = self
            .table
            .source(subnet, &origin.router_id, max_sources, now);
        if let (Some(source), Some(destination)) = (source, self.table.get_mut(subnet)) {
            destination
                .sources
                .announced(source, origin.seqno, Metric::ZERO, now);
            self.table.note_routeless(subnet, now);
        }
        self.rearm(subnet, now);
    }

    pub(crate) fn peer_up(&mut self, peer: PeerId, link: LinkInfo, now: Time) {
        if self.neighbours.contains_key(&peer) {
            return;
        }
        self.neighbours
            .insert(peer, Neighbour::new(link, &self.config, now));
        // The Hello first: nothing of ours delays its answer, which becomes the first sample of the round trip.
        self.on_neighbour_timer(peer, now, now);
        let interval = centiseconds(self.config.update_interval);
        let updates: Vec<Tlv> = self
            .origins
            .iter()
            .map(|(subnet, origin)| Tlv::Update(origin.update(subnet, Metric::ZERO, interval)))
            .collect();
        for update in updates {
            self.send(peer, &update);
        }
        self.send_queries_to(peer);
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.asking.cursor = Some(Subnet::from_octets([0; 8]));
        }
        self.ask_for_used(peer, now);
        self.greet(peer, now);
    }

    /// The node behind a link has proved who it is.
    pub(crate) fn peer_authenticated(&mut self, peer: PeerId, public_key: PublicKey) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.public_key = Some(public_key);
            self.proven.insert(public_key, peer);
            self.event(Event::PeerIdentified { peer, public_key });
        }
    }

    /// Forget a neighbour and all that it told us. Unknown ones are ignored.
    pub(crate) fn peer_down(&mut self, peer: PeerId, now: Time) {
        let Some(mut neighbour) = self.neighbours.remove(&peer) else {
            return;
        };
        if let Some(public_key) = neighbour.public_key
            && self.proven.get(&public_key) == Some(&peer)
        {
            self.proven.remove(&public_key);
        }
        self.timers
            .set(&mut neighbour.armed, None, Timer::Neighbour(peer));
        self.timers
            .set(&mut neighbour.dump.armed, None, Timer::Dump(peer));
        self.timers
            .set(&mut neighbour.asking.armed, None, Timer::Ask(peer));
        self.news.forget_peer(peer);
        for subnet in neighbour.routes {
            self.table.remove_route(subnet, peer, now);
            self.reselect(subnet, update::Cause::Route, now);
            self.rearm(subnet, now);
        }
    }

    pub(crate) fn on_heard(&mut self, peer: PeerId, now: Time) {
        let recovered = self
            .neighbours
            .get_mut(&peer)
            .is_some_and(|neighbour| neighbour.on_heard(now));
        if recovered {
            self.arm_neighbour(peer);
            self.on_cost_changed(peer, update::Cause::Route, now);
        }
    }

    /// A sign that `peer` may be gone.
    pub(crate) fn on_doubt(&mut self, peer: PeerId, now: Time) {
        let config = &self.config;
        let hello = self
            .neighbours
            .get_mut(&peer)
            .and_then(|neighbour| neighbour.on_doubt(config, now));
        if let Some(seqno) = hello {
            self.send_hello(peer, seqno);
            self.arm_neighbour(peer);
        }
    }

    /// A control packet. Unknown peers are ignored: their link is being closed.
    pub(crate) fn on_packet(&mut self, peer: PeerId, packet: &[u8], now: Time) {
        if !self.neighbours.contains_key(&peer) {
            return;
        }
        self.counters.packets_received += 1;
        self.counters.bytes_received += packet.len() as u64;
        if self.stopping {
            return;
        }
        self.on_heard(peer, now);
        let Ok(walk) = walk(packet) else {
            return self.on_malformed(peer, now);
        };
        for item in walk {
            match item {
                Ok(Item::Tlv(tlv)) => self.on_tlv(peer, &tlv, now),
                Ok(Item::Skipped(_)) => self.counters.skipped += 1,
                Err(_) => self.on_malformed(peer, now),
            }
            if !self.neighbours.contains_key(&peer) {
                return;
            }
        }
    }

    fn on_tlv(&mut self, peer: PeerId, tlv: &Tlv, now: Time) {
        match tlv {
            Tlv::Hello(_) => self.on_hello(peer, now),
            Tlv::Ihu(_) => self.on_ihu(peer, now),
            Tlv::Update(update) => self.on_update(peer, update, now),
            Tlv::RouteRequest(request) => self.on_route_request(peer, *request, now),
            Tlv::SeqnoRequest(request) => self.on_seqno_request(peer, request, now),
        }
    }

    fn on_malformed(&mut self, peer: PeerId, now: Time) {
        self.counters.malformed += 1;
        self.close(peer, CloseReason::Malformed, now);
    }

    /// Answered at once: the delay is our cost in the eyes of the neighbour, and our life sign.
    fn on_hello(&mut self, peer: PeerId, now: Time) {
        self.counters.hellos_received += 1;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        if !neighbour.budgets.hellos.take(now) {
            self.counters.refused_budget += 1;
            return;
        }
        let ihu = Ihu {
            rx_cost: neighbour.cost().raw(),
            interval: centiseconds(self.config.ihu_interval),
        };
        self.send(peer, &Tlv::Ihu(ihu));
    }

    fn on_ihu(&mut self, peer: PeerId, now: Time) {
        self.counters.ihus_received += 1;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        let changed = neighbour.on_ihu(&self.config, now);
        self.arm_neighbour(peer);
        if changed {
            self.on_cost_changed(peer, update::Cause::Cost, now);
        }
    }

    /// Choose anew wherever this neighbour's routes take part.
    fn on_cost_changed(&mut self, peer: PeerId, cause: update::Cause, now: Time) {
        let Some(neighbour) = self.neighbours.get(&peer) else {
            return;
        };
        let subnets: Vec<Subnet> = neighbour.routes.iter().copied().collect();
        for subnet in subnets {
            self.reselect(subnet, cause, now);
            self.want_infeasible(subnet, None, now);
            self.rearm(subnet, now);
        }
    }

    fn on_neighbour_timer(&mut self, peer: PeerId, due_at: Time, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        match neighbour.on_timer(&self.config, now.since(due_at), now) {
            Due::Nothing => {}
            Due::Hello(seqno) => self.send_hello(peer, seqno),
            Due::Suspect => {
                self.counters.suspected += 1;
                self.on_cost_changed(peer, update::Cause::Route, now);
            }
            Due::Close => {
                self.counters.closed_silent += 1;
                self.close(peer, CloseReason::Silent, now);
                return;
            }
        }
        self.arm_neighbour(peer);
    }

    fn send_hello(&mut self, peer: PeerId, seqno: u16) {
        let interval = centiseconds(self.config.hello_interval);
        self.send(peer, &Tlv::Hello(Hello { seqno, interval }));
    }

    fn arm_neighbour(&mut self, peer: PeerId) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            let at = neighbour.next_deadline(&self.config);
            self.timers
                .set(&mut neighbour.armed, Some(at), Timer::Neighbour(peer));
        }
    }

    /// Everything that is due at `now`.
    pub(crate) fn on_timeout(&mut self, now: Time) {
        while let Some((due_at, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::Neighbour(peer) => {
                    if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                        neighbour.armed.fired();
                    }
                    self.on_neighbour_timer(peer, due_at, now);
                }
                Timer::Dump(peer) => {
                    if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                        neighbour.dump.armed.fired();
                    }
                    self.on_dump_timer(peer, now);
                }
                Timer::Destination(subnet) => {
                    if let Some(destination) = self.table.get_mut(subnet) {
                        destination.armed.fired();
                    }
                    self.on_destination_timer(subnet, now);
                }
                Timer::Ask(peer) => {
                    if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                        neighbour.asking.armed.fired();
                    }
                    self.ask_for_used(peer, now);
                }
                Timer::Watch(subnet) => self.on_watch_timer(subnet, now),
                Timer::Query(subnet) => self.on_query_timer(subnet, now),
                Timer::Pace => self.on_pace_timer(now),
                Timer::Seqno(subnet) => self.on_seqno_timer(subnet, now),
                Timer::Announce => {
                    self.announce_armed.fired();
                    for (subnet, _) in self.origins.iter() {
                        self.news.origin(subnet);
                    }
                    let next = now + self.config.update_interval;
                    self.timers
                        .set(&mut self.announce_armed, Some(next), Timer::Announce);
                }
            }
        }
    }

    /// Routes and sources that expire, and a route in use to refresh.
    fn on_destination_timer(&mut self, subnet: Subnet, now: Time) {
        self.expire_routes(subnet, now);
        self.refresh_if_used(subnet, now);
        self.table
            .expire_sources(subnet, self.config.source_lifetime, now);
        self.rearm(subnet, now);
    }

    /// Set a destination's timer, or drop the destination if nothing is left of it.
    fn rearm(&mut self, subnet: Subnet, now: Time) {
        if self.table.is_vacant(subnet) && !self.news.contains(subnet) {
            self.forget_destination(subnet);
            return;
        }
        let Some(destination) = self.table.get_mut(subnet) else {
            return;
        };
        if let Some(at) = destination.next_deadline(self.config.source_lifetime, now) {
            self.timers
                .no_later_than(&mut destination.armed, at, Timer::Destination(subnet));
        }
    }

    /// Remove a destination, its routes and its feasibility distances.
    fn forget_destination(&mut self, subnet: Subnet) {
        let Some(Destination {
            mut armed,
            mut watch,
            routes,
            ..
        }) = self.table.remove(subnet)
        else {
            return;
        };
        self.timers
            .set(&mut armed, None, Timer::Destination(subnet));
        self.unwatch(subnet, &mut watch);
        self.news.remove(subnet);
        for route in routes {
            if let Some(neighbour) = self.neighbours.get_mut(&route.peer) {
                neighbour.routes.remove(&subnet);
            }
        }
        if self.fib.route(subnet).is_some() {
            self.fib.remove(subnet);
            self.fib_changed = true;
        }
    }

    fn close(&mut self, peer: PeerId, reason: CloseReason, now: Time) {
        self.output.push_back(Output::Close { peer, reason });
        self.peer_down(peer, now);
    }

    fn send(&mut self, peer: PeerId, tlv: &Tlv) {
        let packet = tlv.to_packet();
        self.queue(peer, tlv, packet);
    }

    fn send_to_all(&mut self, tlv: &Tlv, except: Option<PeerId>) {
        let packet = tlv.to_packet();
        let peers: Vec<PeerId> = self
            .neighbours
            .keys()
            .copied()
            .filter(|&peer| Some(peer) != except)
            .collect();
        for peer in peers {
            self.queue(peer, tlv, packet.clone());
        }
    }

    fn queue(&mut self, peer: PeerId, tlv: &Tlv, packet: Vec<u8>) {
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += packet.len() as u64;
        match tlv {
            Tlv::Hello(_) | Tlv::Ihu(_) => {}
            Tlv::Update(_) => self.counters.updates_sent += 1,
            Tlv::RouteRequest(_) => self.counters.route_requests_sent += 1,
            Tlv::SeqnoRequest(_) => self.counters.seqno_requests_sent += 1,
        }
        self.output.push_back(Output::Send { peer, packet });
    }

    fn event(&mut self, event: Event) {
        if self.queued_events >= self.config.max_queued_events {
            self.counters.events_dropped += 1;
            return;
        }
        self.queued_events += 1;
        self.output.push_back(Output::Event(event));
    }

    /// Two round trips to `peer`, or to the farthest neighbour: when an unanswered request is repeated first.
    fn patience(&self, peer: Option<PeerId>) -> Duration {
        let rtt = match peer {
            Some(peer) => self.neighbours.get(&peer).and_then(Neighbour::rtt),
            None => self.neighbours.values().filter_map(Neighbour::rtt).max(),
        };
        (rtt.unwrap_or_default() * 2)
            .max(self.config.retry_floor)
            .min(Duration::from_secs(1))
    }

    pub(crate) fn snapshot(&self, now: Time) -> Snapshot {
        let identities = self
            .origins
            .iter()
            .map(|(subnet, origin)| IdentitySnapshot {
                id: origin.id,
                public_key: origin.public_key,
                address: origin.public_key.address(),
                subnet,
                seqno: origin.seqno.raw(),
            });
        let peers = self
            .neighbours
            .iter()
            .map(|(&peer, neighbour)| PeerSnapshot {
                peer,
                public_key: neighbour.public_key,
                cost: neighbour.cost().raw(),
                rtt: neighbour.rtt(),
                last_heard: now.since(neighbour.last_heard()),
                routes: neighbour.routes.len(),
                suspect: neighbour.is_suspect(),
            });
        let mut snapshot = Snapshot {
            identities: identities.collect(),
            peers: peers.collect(),
            counters: self.counters,
            ..Snapshot::default()
        };
        snapshot.identities.sort_by_key(|identity| identity.id);
        for (subnet, destination) in self.table.iter() {
            for route in &destination.routes {
                let Some(view) = route_snapshot(subnet, destination, route, now) else {
                    continue;
                };
                if destination.selected == Some(route.peer) {
                    snapshot.selected.push(view);
                } else {
                    snapshot.fallback.push(view);
                }
            }
        }
        let queried = self.queries.iter().map(|(subnet, expires)| QuerySnapshot {
            subnet,
            expires_in: expires.since(now),
        });
        snapshot.queried = queried.collect();
        snapshot
    }
}

fn route_snapshot(
    subnet: Subnet,
    destination: &Destination,
    route: &Route,
    now: Time,
) -> Option<RouteSnapshot> {
    let router_id = *destination.sources.router_id(route.source)?;
    Some(RouteSnapshot {
        subnet,
        next_hop: route.peer,
        metric: route.metric.finite(),
        seqno: route.seqno.raw(),
        public_key: router_id.public_key(),
        router_id,
        feasible: destination.is_feasible(route),
        expires_in: route.expires.since(now),
    })
}

#[cfg(test)]
mod tests;
