//! Routes: what neighbours announced (RFC 8966 §3.2.6, wire spec §5.7 and §5.11).

use std::collections::{BTreeMap, BTreeSet};

use super::fallback::Watch;
use super::metric::Metric;
use super::select::{Candidate, select};
use super::seqno::Seqno;
use super::source::{SourceIndex, Sources};
use super::timer::Armed;
use crate::addr::Subnet;
use crate::io::PeerId;
use crate::router_id::RouterId;
use crate::time::{Duration, Time};

/// One neighbour's announcement of one destination.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) peer: PeerId,
    pub(crate) source: SourceIndex,
    pub(crate) seqno: Seqno,
    /// As received: the cost of the link is not in it.
    pub(crate) metric: Metric,
    pub(crate) refreshed_at: Time,
    pub(crate) expires: Time,
}

/// What we last told all neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) source: SourceIndex,
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
}

/// A subnet that somebody announced, or whose feasibility distances we still remember.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    pub(crate) routes: Vec<Route>,
    pub(crate) sources: Sources,
    pub(crate) selected: Option<PeerId>,
    pub(crate) announced: Option<Announced>,
    pub(crate) armed: Armed,
    pub(crate) watch: Watch,
    routeless_since: Option<Time>,
}

/// All destinations. Counts its routes, so that its size can be bounded.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    destinations: BTreeMap<Subnet, Destination>,
    routes: usize,
    sources: usize,
    /// Destinations that are kept for their feasibility distances only: the first to go when space is short.
    routeless: BTreeSet<(Time, Subnet)>,
}

impl Route {
    /// When to look whether the route is in use and needs a refresh: at 4/8, 5/8, 6/8 and 7/8 of the hold time.
    fn next_use_check(&self, now: Time) -> Option<Time> {
        let eighth = self.expires.since(self.refreshed_at) / 8;
        (4..8u32)
            .map(|step| self.refreshed_at + eighth * step)
            .find(|&at| at > now)
    }

    /// Whether half the hold time is over.
    pub(crate) fn is_ageing(&self, now: Time) -> bool {
        self.metric.is_finite()
            && now.since(self.refreshed_at) >= self.expires.since(self.refreshed_at) / 2
    }
}

impl Destination {
    pub(crate) fn route(&self, peer: PeerId) -> Option<&Route> {
        self.routes.iter().find(|route| route.peer == peer)
    }

    pub(crate) fn route_mut(&mut self, peer: PeerId) -> Option<&mut Route> {
        self.routes.iter_mut().find(|route| route.peer == peer)
    }

    pub(crate) fn selected_route(&self) -> Option<&Route> {
        self.route(self.selected?)
    }

    pub(crate) fn is_feasible(&self, route: &Route) -> bool {
        self.sources
            .is_feasible(route.source, route.seqno, route.metric)
    }

    /// The best next hop, given the cost of the link to each neighbour.
    pub(crate) fn best(&self, cost: impl Fn(PeerId) -> Metric, hysteresis: u16) -> Option<PeerId> {
        let candidates = self.routes.iter().map(|route| Candidate {
            peer: route.peer,
            total: route.metric.plus(cost(route.peer)),
            feasible: self.is_feasible(route),
        });
        select(candidates, self.selected, hysteresis)
    }

    /// Whether to take `proven`, a link on which a node has proved its key, instead of `chosen`, another link to the same
    /// node: unless it is longer by more than half. Which of them is a little shorter at the moment changes with every
    /// burst of traffic, and what goes over the proven one is harder to tamper with.
    pub(crate) fn prefers(
        &self,
        proven: PeerId,
        chosen: PeerId,
        cost: impl Fn(PeerId) -> Metric,
        hysteresis: u16,
    ) -> bool {
        let total = |peer| {
            let route = self.route(peer).filter(|route| self.is_feasible(route))?;
            Some(route.metric.plus(cost(peer))).filter(|total| total.is_finite())
        };
        match (total(proven), total(chosen)) {
            (Some(proven), Some(chosen)) => {
                proven <= chosen.plus(Metric::new((chosen.raw() / 2).saturating_add(hysteresis)))
            }
            _ => false,
        }
    }

    fn uses(&self, source: SourceIndex) -> bool {
        self.routes.iter().any(|route| route.source == source)
            || self
                .announced
                .is_some_and(|announced| announced.source == source)
    }

    fn source(&mut self, router_id: &RouterId, room: bool, now: Time) -> Option<SourceIndex> {
        if let Some(index) = self.sources.find(router_id) {
            return Some(index);
        }
        if (room || self.sources.is_empty())
            && let Some(index) = self.sources.insert(*router_id, now)
        {
            return Some(index);
        }
        let victim = self.sources.oldest_unused(|index| self.uses(index))?;
        self.remove_source(victim);
        self.sources.insert(*router_id, now)
    }

    fn remove_source(&mut self, index: SourceIndex) {
        self.sources.remove(index);
        for route in &mut self.routes {
            route.source = route.source.after_removal(index);
        }
        if let Some(announced) = &mut self.announced {
            announced.source = announced.source.after_removal(index);
        }
    }

    fn expire_sources(&mut self, lifetime: Duration, now: Time) {
        while let Some(index) = self.sources.oldest_unused(|index| self.uses(index)) {
            let due = self.sources.next_expiry(lifetime, |index| self.uses(index));
            if due.is_none_or(|due| due > now) {
                return;
            }
            self.remove_source(index);
        }
    }

    /// When something here is due next, after `now`.
    pub(crate) fn next_deadline(&self, source_lifetime: Duration, now: Time) -> Option<Time> {
        let expiry = self.routes.iter().map(|route| route.expires).min();
        let use_check = self
            .selected_route()
            .filter(|route| route.metric.is_finite())
            .and_then(|route| route.next_use_check(now));
        let source = self
            .sources
            .next_expiry(source_lifetime, |index| self.uses(index));
        [expiry, use_check, source].into_iter().flatten().min()
    }

    fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.sources.is_empty() && self.announced.is_none()
    }
}

impl RouteTable {
    pub(crate) fn get(&self, subnet: Subnet) -> Option<&Destination> {
        self.destinations.get(&subnet)
    }

    pub(crate) fn get_mut(&mut self, subnet: Subnet) -> Option<&mut Destination> {
        self.destinations.get_mut(&subnet)
    }

    fn get_or_create(&mut self, subnet: Subnet) -> &mut Destination {
        self.destinations.entry(subnet).or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Subnet, &Destination)> {
        self.destinations
            .iter()
            .map(|(&subnet, destination)| (subnet, destination))
    }

    pub(crate) fn from(&self, start: Subnet) -> impl Iterator<Item = (Subnet, &Destination)> {
        self.destinations
            .range(start..)
            .map(|(&subnet, destination)| (subnet, destination))
    }

    /// Number of destinations.
    pub(crate) fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Number of routes of all destinations.
    pub(crate) fn routes(&self) -> usize {
        self.routes
    }

    /// Number of sources of all destinations.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        self.sources
    }

    /// The index of `router_id` among the sources of `subnet`, added if need be. When the table has `max` sources, or
    /// the destination its own limit, the source there that nobody uses and that was announced longest ago is
    /// forgotten; if all are used, the result is `None`.
    pub(crate) fn source(
        &mut self,
        subnet: Subnet,
        router_id: &RouterId,
        max: usize,
        now: Time,
    ) -> Option<SourceIndex> {
        let room = self.sources < max;
        let destination = self.get_or_create(subnet);
        let before = destination.sources.len();
        let index = destination.source(router_id, room, now);
        let after = destination.sources.len();
        self.sources = self.sources + after - before;
        index
    }

    /// Forget the feasibility distances of `subnet` whose time is over.
    pub(crate) fn expire_sources(&mut self, subnet: Subnet, lifetime: Duration, now: Time) {
        if let Some(destination) = self.destinations.get_mut(&subnet) {
            let before = destination.sources.len();
            destination.expire_sources(lifetime, now);
            self.sources -= before - destination.sources.len();
        }
    }

    pub(crate) fn insert_route(&mut self, subnet: Subnet, route: Route) {
        let destination = self.destinations.entry(subnet).or_default();
        if let Some(since) = destination.routeless_since.take() {
            self.routeless.remove(&(since, subnet));
        }
        destination.routes.reserve_exact(1);
        destination.routes.push(route);
        self.routes += 1;
    }

    /// Remove one neighbour's route; `true` if there was one.
    pub(crate) fn remove_route(&mut self, subnet: Subnet, peer: PeerId, now: Time) -> bool {
        let Some(destination) = self.destinations.get_mut(&subnet) else {
            return false;
        };
        let Some(position) = destination
            .routes
            .iter()
            .position(|route| route.peer == peer)
        else {
            return false;
        };
        destination.routes.remove(position);
        self.routes -= 1;
        self.note_routeless(subnet, now);
        true
    }

    /// If the destination has no route: it is among the first to go when space is short.
    pub(crate) fn note_routeless(&mut self, subnet: Subnet, now: Time) {
        if let Some(destination) = self.destinations.get_mut(&subnet)
            && destination.routes.is_empty()
            && destination.routeless_since.is_none()
        {
            destination.routeless_since = Some(now);
            self.routeless.insert((now, subnet));
        }
    }

    /// The destination that has had no route for longest.
    pub(crate) fn oldest_routeless(&self) -> Option<Subnet> {
        self.routeless.first().map(|&(_, subnet)| subnet)
    }

    /// Whether nothing is left of the destination.
    pub(crate) fn is_vacant(&self, subnet: Subnet) -> bool {
        self.get(subnet).is_some_and(Destination::is_empty)
    }

    pub(crate) fn remove(&mut self, subnet: Subnet) -> Option<Destination> {
        let destination = self.destinations.remove(&subnet)?;
        self.routes -= destination.routes.len();
        self.sources -= destination.sources.len();
        if let Some(since) = destination.routeless_since {
            self.routeless.remove(&(since, subnet));
        }
        Some(destination)
    }
}
