//! Updates in and out: acquiring routes, choosing among them, telling others (RFC 8966 §3.5.3, §3.6 and §3.7; wire
//! spec §5.10 to §5.13 and §5.16).

use std::sync::Arc;

use super::Babel;
use super::filter::{self, Refusal};
use super::metric::Metric;
use super::neighbour::Neighbour;
use super::route::{Announced, Route};
use super::seqno::Seqno;
use super::seqno_request::Need;
use crate::addr::Subnet;
use crate::config::{centiseconds, hold_time};
use crate::fib::FibEntry;
use crate::io::{CloseReason, Event, PeerId};
use crate::time::Time;
use crate::wire::babel::{Generation, RouteRequest, Tlv, Update};

/// Why a destination's routes are looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A route changed, or a neighbour went or came back.
    Route,
    /// Only the cost of a link changed. Announced more reluctantly: every router on the way would announce it again.
    Cost,
}

/// What an accepted Update did to the table.
enum Outcome {
    /// Look at the destination again.
    Stored { feasible: bool },
    /// The selected route would have become infeasible: kept as it was, and a newer seqno is asked for.
    Kept { needed: Seqno },
    /// No room.
    Refused,
}

impl Babel {
    pub(super) fn on_update(&mut self, peer: PeerId, update: &Update, now: Time) {
        self.counters.updates_received += 1;
        let subnet = match filter::admit(update) {
            Ok(subnet) => subnet,
            Err(refusal) => {
                *match refusal {
                    Refusal::Prefix => &mut self.counters.refused_prefix,
                    Refusal::Owner => &mut self.counters.refused_owner,
                    Refusal::Interval => &mut self.counters.refused_interval,
                } += 1;
                return;
            }
        };
        let metric = Metric::new(update.metric);
        if self.origins.get(subnet).is_some() {
            self.on_update_of_ours(peer, subnet, update, now);
        } else if metric.is_infinite() {
            self.on_retraction(peer, subnet, now);
        } else {
            self.on_announcement(peer, subnet, update, now);
        }
    }

    /// Our own subnets are never learned. Hearing our announcement come back, or that of our previous incarnation, is
    /// normal; hearing somebody originate it (metric 0) is not. Whoever retracts it has no route to us although we are
    /// its neighbour, and is told again as if it had asked: a node of the present network that replaces an old link
    /// with the one of our restart may forget with the old one what we said on the new.
    fn on_update_of_ours(&mut self, peer: PeerId, subnet: Subnet, update: &Update, now: Time) {
        let (Some(origin), Some(neighbour)) =
            (self.origins.get(subnet), self.neighbours.get_mut(&peer))
        else {
            return;
        };
        if Metric::new(update.metric).is_infinite() {
            if neighbour.budgets.route_requests.take(now) {
                self.send_origin(peer, subnet);
            } else {
                self.counters.refused_budget += 1;
            }
            return;
        }
        if update.metric != Metric::ZERO.raw() || update.router_id.public_key() != origin.public_key
        {
            return;
        }
        if update.router_id == origin.router_id {
            self.counters.closed_ourselves += 1;
            self.close(peer, CloseReason::Ourselves, now);
        } else if !neighbour.duplicate_reported {
            neighbour.duplicate_reported = true;
            self.event(Event::DuplicateIdentity { subnet, peer });
        }
    }

    /// Anybody may retract, under any router-id; it only concerns what this neighbour itself had announced.
    fn on_retraction(&mut self, peer: PeerId, subnet: Subnet, now: Time) {
        let Some(route) = self
            .table
            .get_mut(subnet)
            .and_then(|destination| destination.route_mut(peer))
        else {
            return;
        };
        if route.metric.is_infinite() {
            return;
        }
        route.metric = Metric::INFINITE;
        route.refreshed_at = now;
        route.expires = now + self.config.retraction_hold;
        self.reselect(subnet, Cause::Route, now);
        self.rearm(subnet, now);
    }

    fn on_announcement(&mut self, peer: PeerId, subnet: Subnet, update: &Update, now: Time) {
        if !self.pay_for_change(peer, subnet, update, now) {
            return;
        }
        self.identify(peer, update);
        let seqno = Seqno::new(update.seqno);
        match self.store(peer, subnet, update, now) {
            Outcome::Refused => self.counters.refused_full += 1,
            Outcome::Kept { needed } => {
                self.counters.infeasible += 1;
                self.want_newer_seqno(subnet, update.router_id, needed, peer, Need::Better, now);
                self.rearm(subnet, now);
            }
            Outcome::Stored { feasible } => {
                let waiting = self.seqno_arrived(subnet, &update.router_id, seqno);
                self.reselect(subnet, Cause::Route, now);
                if !feasible {
                    self.counters.infeasible += 1;
                }
                // What came over one way may not be what another way needs.
                let news = waiting.is_none().then_some(peer);
                self.want_infeasible(subnet, news, now);
                let waiting = waiting.unwrap_or_default();
                self.answer_waiting(subnet, seqno, &waiting, now);
                self.rearm(subnet, now);
            }
        }
    }

    /// Charge the neighbour if this Update will change the table; `false` if it is closed, because it was fed on although
    /// it should wait ([`Self::paused_until`]).
    fn pay_for_change(&mut self, peer: PeerId, subnet: Subnet, update: &Update, now: Time) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return false;
        };
        let repetition = self.table.get(subnet).is_some_and(|destination| {
            destination.route(peer).is_some_and(|route| {
                route.metric.raw() == update.metric
                    && route.seqno.raw() == update.seqno
                    && destination.sources.router_id(route.source) == Some(&update.router_id)
            })
        });
        if repetition || neighbour.budgets.updates.charge(now) {
            return true;
        }
        self.counters.closed_flooding += 1;
        self.close(peer, CloseReason::Flooding, now);
        false
    }

    /// What a neighbour announces with metric 0 is its own.
    fn identify(&mut self, peer: PeerId, update: &Update) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        if update.metric == Metric::ZERO.raw() && neighbour.public_key.is_none() {
            let public_key = update.router_id.public_key();
            neighbour.public_key = Some(public_key);
            self.event(Event::PeerIdentified { peer, public_key });
        }
    }

    fn store(&mut self, peer: PeerId, subnet: Subnet, update: &Update, now: Time) -> Outcome {
        let seqno = Seqno::new(update.seqno);
        let metric = Metric::new(update.metric);
        let known = self.table.get(subnet);
        let has_route = known.is_some_and(|destination| destination.route(peer).is_some());
        if !has_route {
            let share = self.neighbours.get(&peer).is_some_and(|neighbour| {
                neighbour.routes.len() < self.config.max_routes_per_neighbour
            });
            if !share || self.table.routes() >= self.config.max_routes {
                return Outcome::Refused;
            }
            if known.is_none() && !self.make_room() {
                return Outcome::Refused;
            }
        }
        let expires = now + hold_time(update.interval).max(self.config.min_hold);
        let max_sources = self.config.max_sources;
        let Some(source) = self
            .table
            .source(subnet, &update.router_id, max_sources, now)
        else {
            return Outcome::Refused;
        };
        let Some(destination) = self.table.get_mut(subnet) else {
            return Outcome::Refused;
        };
        let feasible = destination.sources.is_feasible(source, seqno, metric);
        let needed = destination
            .sources
            .seqno_for(source, metric)
            .unwrap_or(seqno);
        let selected = destination.selected == Some(peer);
        let fresh = Route {
            peer,
            source,
            seqno,
            metric,
            refreshed_at: now,
            expires,
        };
        if let Some(route) = destination.route_mut(peer) {
            if selected && !feasible && route.source == source {
                return Outcome::Kept { needed };
            }
            *route = fresh;
        } else {
            self.table.insert_route(subnet, fresh);
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.routes.insert(subnet);
            }
        }
        Outcome::Stored { feasible }
    }

    /// Make room for one more destination: those without routes go first, `false` if there are none.
    pub(super) fn make_room(&mut self) -> bool {
        if self.table.len() < self.config.max_destinations {
            return true;
        }
        match self.table.oldest_routeless() {
            Some(subnet) if !self.news.contains(subnet) => {
                self.forget_destination(subnet);
                true
            }
            _ => false,
        }
    }

    /// Choose the best route, bring the forwarding table in step and note what neighbours must be told.
    pub(super) fn reselect(&mut self, subnet: Subnet, cause: Cause, now: Time) {
        let neighbours = &self.neighbours;
        let cost = |peer| {
            neighbours
                .get(&peer)
                .map_or(Metric::INFINITE, Neighbour::cost)
        };
        let Some(destination) = self.table.get_mut(subnet) else {
            return;
        };
        let before = destination.selected;
        let hysteresis = self.config.hysteresis;
        let after = destination.best(cost, hysteresis).map(|chosen| {
            let node = neighbours.get(&chosen).and_then(|n| n.public_key);
            let proven = node.and_then(|node| self.proven.get(&node).copied());
            proven
                .filter(|&proven| destination.prefers(proven, chosen, cost, hysteresis))
                .unwrap_or(chosen)
        });
        destination.selected = after;
        let Some(route) = destination.selected_route() else {
            if destination.announced.is_some() {
                self.news.lost(subnet);
            } else {
                // Gone before anybody was told.
                self.news.remove(subnet);
            }
            if before.is_some() {
                self.on_route_lost(subnet, now);
            }
            return;
        };
        let peer = route.peer;
        let metric = route.metric.plus(cost(peer));
        let tell = match destination.announced {
            None => true,
            Some(announced) => {
                let change = metric.distance(announced.metric).raw();
                let reluctance = match cause {
                    Cause::Route => 0,
                    Cause::Cost => announced.metric.raw() / 4,
                };
                announced.source != route.source
                    || change > self.config.significant_change.max(reluctance)
            }
        };
        let router_id = destination.sources.router_id(route.source).copied();
        let direct = route.metric == Metric::ZERO;
        if tell {
            self.news.changed(subnet);
        }
        let Some(router_id) = router_id else {
            return;
        };
        let mut fresh = FibEntry::new(peer, router_id.public_key());
        fresh.speaks_v2 = router_id.speaks_v2();
        fresh.direct = direct;
        let entry = self.fib.route(subnet);
        if entry.is_none_or(|entry| !entry.leads_the_same_way(&fresh)) {
            if entry.is_some_and(|entry| entry.take_used()) {
                fresh.mark_used();
            }
            self.fib.insert(subnet, Arc::new(fresh));
            self.fib_changed = true;
        }
        if let Some(old) = before.filter(|&old| old != peer && !tell) {
            self.news.aside(old, subnet);
        }
        if before != after {
            self.counters.routes_selected += 1;
            self.event(Event::RouteSelected {
                subnet,
                peer,
                metric: metric.raw(),
            });
        }
        if before.is_none() {
            self.queries_satisfied(subnet);
        }
        if before != after {
            self.watch(subnet, now);
            self.want_infeasible(subnet, None, now);
        }
    }

    fn on_route_lost(&mut self, subnet: Subnet, now: Time) {
        self.fib.remove(subnet);
        self.fib_changed = true;
        self.counters.routes_lost += 1;
        self.event(Event::RouteLost { subnet });
        self.want_infeasible(subnet, None, now);
    }

    /// If the shortest route may not be used, because it might lead through ourselves, and nothing about as good may,
    /// ask for the seqno that proves its worth (RFC 8966 §3.8.2.1 and §3.8.2.2). `news` is the neighbour whose Update
    /// made us look: nothing is asked if its route is not the one.
    pub(super) fn want_infeasible(&mut self, subnet: Subnet, news: Option<PeerId>, now: Time) {
        let Some(destination) = self.table.get(subnet) else {
            return;
        };
        let total = |route: &Route| {
            let cost = self.neighbours.get(&route.peer)?.cost();
            route.metric.plus(cost).finite()
        };
        let routes = destination.routes.iter();
        let Some((length, peer, route)) = routes
            .filter_map(|route| Some((total(route)?, route.peer, route)))
            .min_by_key(|&(length, peer, _)| (length, peer))
        else {
            return;
        };
        let selected = destination.selected_route().and_then(total);
        let good_enough = selected
            .is_some_and(|selected| selected <= length.saturating_add(self.config.hysteresis));
        if good_enough || destination.is_feasible(route) || news.is_some_and(|news| news != peer) {
            return;
        }
        let need = match selected {
            Some(_) => Need::Better,
            None => Need::Any,
        };
        let router_id = destination.sources.router_id(route.source).copied();
        let needed = destination.sources.seqno_for(route.source, route.metric);
        if let (Some(router_id), Some(needed)) = (router_id, needed) {
            self.want_newer_seqno(subnet, router_id, needed, peer, need, now);
        }
    }

    /// Tell all neighbours what has become of `subnet`. The next hop is left out: it cannot use a route through
    /// itself (split horizon, RFC 8966 §3.7.4).
    pub(super) fn announce(&mut self, subnet: Subnet, now: Time) {
        let interval = centiseconds(self.config.update_interval);
        if let Some(origin) = self.origins.get(subnet) {
            let update = Tlv::Update(origin.update(subnet, Metric::ZERO, interval));
            self.send_to_all(&update, None);
            return;
        }
        if let Some((update, next_hop)) = self.selected_update(subnet) {
            let ghost = self.ghost(subnet, &update);
            // What nobody hears must not shrink the feasibility distance: a leaf accepts any detour.
            let heard = self.neighbours.keys().any(|&peer| peer != next_hop);
            if heard {
                self.note_announced(subnet, &update, now);
            } else if ghost.is_some()
                && let Some(destination) = self.table.get_mut(subnet)
            {
                destination.announced = None;
            }
            if let Some(ghost) = ghost {
                self.send(next_hop, &Tlv::Update(ghost));
            }
            if heard {
                self.send_to_all(&Tlv::Update(update), Some(next_hop));
            }
        } else if let Some(retraction) = self.retraction(subnet) {
            self.send_to_all(&Tlv::Update(retraction), None);
        }
        self.rearm(subnet, now);
    }

    /// The retraction of what the next hop may still hold of us by another router-id. Feasibility does not compare
    /// router-ids: if the next hop lost its route, it would take ours, and packets would go back and forth.
    fn ghost(&self, subnet: Subnet, update: &Update) -> Option<Update> {
        let destination = self.table.get(subnet)?;
        let announced = destination.announced?;
        let router_id = *destination.sources.router_id(announced.source)?;
        (router_id != update.router_id).then(|| Update {
            seqno: announced.seqno.raw(),
            metric: Metric::INFINITE.raw(),
            router_id,
            ..*update
        })
    }

    /// Tell one neighbour of the selected route, unless it is the next hop.
    pub(super) fn send_selected(&mut self, peer: PeerId, subnet: Subnet, now: Time) {
        if !self.neighbours.contains_key(&peer) {
            return;
        }
        let Some((update, next_hop)) = self.selected_update(subnet) else {
            return;
        };
        if next_hop == peer {
            return;
        }
        self.note_sent(subnet, &update, now);
        self.send(peer, &Tlv::Update(update));
    }

    /// The Update for the selected route: its metric plus the cost of the link to its next hop.
    fn selected_update(&self, subnet: Subnet) -> Option<(Update, PeerId)> {
        let destination = self.table.get(subnet)?;
        let route = destination.selected_route()?;
        let cost = self.neighbours.get(&route.peer)?.cost();
        let update = Update {
            interval: centiseconds(self.config.update_interval),
            seqno: route.seqno.raw(),
            metric: route.metric.plus(cost).raw(),
            prefix: subnet.into(),
            router_id: *destination.sources.router_id(route.source)?,
        };
        Some((update, route.peer))
    }

    /// The retraction of what we announced last; nothing if we announced nothing.
    fn retraction(&mut self, subnet: Subnet) -> Option<Update> {
        let destination = self.table.get_mut(subnet)?;
        let announced = destination.announced.take()?;
        Some(Update {
            interval: centiseconds(self.config.update_interval),
            seqno: announced.seqno.raw(),
            metric: Metric::INFINITE.raw(),
            prefix: subnet.into(),
            router_id: *destination.sources.router_id(announced.source)?,
        })
    }

    /// Feasibility distances follow what we send (RFC 8966 §3.7.3).
    fn note_sent(&mut self, subnet: Subnet, update: &Update, now: Time) -> Option<Announced> {
        let destination = self.table.get_mut(subnet)?;
        let announced = Announced {
            source: destination.sources.find(&update.router_id)?,
            seqno: Seqno::new(update.seqno),
            metric: Metric::new(update.metric),
        };
        destination
            .sources
            .announced(announced.source, announced.seqno, announced.metric, now);
        // Even if only one neighbour was told, it must hear when the route is gone.
        destination.announced.get_or_insert(announced);
        Some(announced)
    }

    fn note_announced(&mut self, subnet: Subnet, update: &Update, now: Time) {
        let announced = self.note_sent(subnet, update, now);
        if let Some(destination) = self.table.get_mut(subnet) {
            destination.announced = announced;
        }
    }

    /// Routes whose time is over: retracted ones and fallbacks go, the one in use is retracted first.
    pub(super) fn expire_routes(&mut self, subnet: Subnet, now: Time) {
        let Some(destination) = self.table.get_mut(subnet) else {
            return;
        };
        let selected = destination.selected;
        let mut expired = Vec::new();
        for route in &mut destination.routes {
            if route.expires > now {
                continue;
            }
            if selected == Some(route.peer) && route.metric.is_finite() {
                route.metric = Metric::INFINITE;
                route.refreshed_at = now;
                route.expires = now + self.config.retraction_hold;
                self.counters.routes_expired += 1;
            } else {
                expired.push((route.peer, route.metric));
            }
        }
        for (peer, metric) in expired {
            self.counters.routes_expired += u64::from(metric.is_finite());
            self.table.remove_route(subnet, peer, now);
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.routes.remove(&subnet);
            }
        }
        self.reselect(subnet, Cause::Route, now);
    }

    /// A route in use is asked for again before it expires, at any distance from its origin: nobody announces learned
    /// routes periodically. All neighbours that have one are asked, so that the fallback stays fresh too.
    pub(super) fn refresh_if_used(&mut self, subnet: Subnet, now: Time) {
        let Some(destination) = self.table.get(subnet) else {
            return;
        };
        let ageing = destination
            .selected_route()
            .is_some_and(|route| route.is_ageing(now));
        if !ageing || !self.take_used(subnet, now) {
            return;
        }
        let Some(destination) = self.table.get(subnet) else {
            return;
        };
        let peers: Vec<PeerId> = destination
            .routes
            .iter()
            .filter(|route| route.metric.is_finite())
            .map(|route| route.peer)
            .collect();
        let request = RouteRequest {
            generation: Generation::ORIGINAL,
            prefix: Some(subnet.into()),
        };
        for peer in peers {
            self.send(peer, &Tlv::RouteRequest(request));
        }
    }
}
