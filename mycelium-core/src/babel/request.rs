//! Looking for routes: queries of our own and those of others on their way through (RFC 8966 §3.8.1, wire spec §5.14).
//!
//! A [`Query`] is both the request that waits for an answer and the memory that keeps a request from being forwarded
//! twice. The answer is no message of its own: it is the Update that makes the route appear, and that goes to
//! everybody.

use std::collections::BTreeMap;

use super::Babel;
use super::timer::{Armed, Timer};
use crate::addr::Subnet;
use crate::io::{Output, PeerId};
use crate::time::{Duration, Time};
use crate::wire::babel::{Generation, RouteRequest, Tlv};

/// A subnet that is looked for.
#[derive(Debug)]
struct Query {
    /// The lowest generation that we sent.
    generation: Generation,
    /// Until when a request for it is a duplicate.
    remembered_until: Time,
    /// Present while our own packets, or an operator, wait for the route.
    wanted: Option<Wanted>,
    armed: Armed,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    give_up: Time,
    repeat_at: Time,
    pause: Duration,
}

/// Everything that is looked for, by subnet.
#[derive(Debug, Default)]
pub(super) struct Queries(BTreeMap<Subnet, Query>);

impl Queries {
    /// Subnets and when they stop being looked for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Subnet, Time)> {
        self.0.iter().map(|(&subnet, query)| {
            let until = query
                .wanted
                .map_or(query.remembered_until, |wanted| wanted.give_up);
            (subnet, until)
        })
    }
}

impl Query {
    fn next_deadline(&self) -> Time {
        match self.wanted {
            Some(wanted) => wanted.repeat_at.min(wanted.give_up),
            None => self.remembered_until,
        }
    }
}

impl Babel {
    /// Packets wait for a route to `subnet`; `from` brought them, `None` is our own host.
    pub(crate) fn on_route_needed(&mut self, subnet: Subnet, from: Option<PeerId>, now: Time) {
        let budget = match from {
            None => Some(&mut self.host_queries),
            Some(peer) => self
                .neighbours
                .get_mut(&peer)
                .map(|neighbour| &mut neighbour.budgets.queries),
        };
        if !budget.is_some_and(|budget| budget.take(now)) {
            self.counters.refused_budget += 1;
            return;
        }
        self.look_for(subnet, now);
    }

    /// Ask everybody for `subnet`, repeatedly, until it is found or the time is over.
    pub(crate) fn look_for(&mut self, subnet: Subnet, now: Time) {
        let known = self
            .table
            .get(subnet)
            .is_some_and(|destination| destination.selected.is_some());
        if self.stopping || known || self.origins.get(subnet).is_some() {
            return;
        }
        if !subnet.is_overlay() {
            self.output.push_back(Output::QueryFailed { subnet });
            return;
        }
        let pause = self.patience(None);
        let wanted = Wanted {
            give_up: now + self.config.query_timeout,
            repeat_at: now + pause,
            pause: pause * 2,
        };
        if let Some(query) = self.queries.0.get_mut(&subnet) {
            if query.wanted.is_some() {
                return;
            }
            query.wanted = Some(wanted);
        } else if !self.remember_query(subnet, Generation::ORIGINAL, Some(wanted), now) {
            self.output.push_back(Output::QueryFailed { subnet });
            return;
        }
        self.send_query(subnet, Generation::ORIGINAL, None, now);
        self.want_infeasible(subnet, None, now);
    }

    fn remember_query(
        &mut self,
        subnet: Subnet,
        generation: Generation,
        wanted: Option<Wanted>,
        now: Time,
    ) -> bool {
        if self.queries.0.len() >= self.config.max_queries {
            self.counters.refused_budget += 1;
            return false;
        }
        let query = Query {
            generation,
            remembered_until: now + self.config.query_memory,
            wanted,
            armed: Armed::default(),
        };
        self.queries.0.insert(subnet, query);
        true
    }

    fn send_query(
        &mut self,
        subnet: Subnet,
        generation: Generation,
        except: Option<PeerId>,
        now: Time,
    ) {
        if let Some(query) = self.queries.0.get_mut(&subnet) {
            query.generation = query.generation.min(generation);
            query.remembered_until = now + self.config.query_memory;
            let at = query.next_deadline();
            self.timers
                .set(&mut query.armed, Some(at), Timer::Query(subnet));
        }
        let request = RouteRequest {
            generation,
            prefix: Some(subnet.into()),
        };
        self.send_to_all(&Tlv::RouteRequest(request), except);
    }

    /// A new neighbour may know what we look for.
    pub(super) fn send_queries_to(&mut self, peer: PeerId) {
        let requests: Vec<RouteRequest> = self
            .queries
            .0
            .iter()
            .map(|(&subnet, query)| RouteRequest {
                generation: query.generation,
                prefix: Some(subnet.into()),
            })
            .collect();
        for request in requests {
            self.send(peer, &Tlv::RouteRequest(request));
        }
    }

    /// A route appeared: nobody has to look for it any more.
    pub(super) fn queries_satisfied(&mut self, subnet: Subnet) {
        if let Some(mut query) = self.queries.0.remove(&subnet) {
            self.timers
                .set(&mut query.armed, None, Timer::Query(subnet));
            self.news.awaited(subnet);
        }
    }

    pub(super) fn on_query_timer(&mut self, subnet: Subnet, now: Time) {
        let Some(query) = self.queries.0.get_mut(&subnet) else {
            return;
        };
        query.armed.fired();
        if let Some(wanted) = &mut query.wanted {
            if wanted.give_up <= now {
                query.wanted = None;
                self.counters.queries_failed += 1;
                self.output.push_back(Output::QueryFailed { subnet });
            } else if wanted.repeat_at <= now {
                wanted.repeat_at = now + wanted.pause;
                wanted.pause *= 2;
                return self.send_query(subnet, Generation::ORIGINAL, None, now);
            }
        } else if query.remembered_until <= now {
            self.queries.0.remove(&subnet);
            return;
        }
        if let Some(query) = self.queries.0.get_mut(&subnet) {
            let at = query.next_deadline();
            self.timers
                .set(&mut query.armed, Some(at), Timer::Query(subnet));
        }
    }

    pub(super) fn on_route_request(&mut self, peer: PeerId, request: RouteRequest, now: Time) {
        self.counters.route_requests_received += 1;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        if !neighbour.budgets.route_requests.take(now) {
            self.counters.refused_budget += 1;
            return;
        }
        let Some(prefix) = request.prefix else {
            if !self.start_dump(peer, now) {
                self.counters.refused_budget += 1;
            }
            return;
        };
        let ours = prefix
            .enclosing_subnet()
            .filter(|&subnet| self.origins.get(subnet).is_some());
        if let Some(subnet) = ours {
            return self.send_origin(peer, subnet);
        }
        match prefix.as_subnet().filter(|subnet| subnet.is_overlay()) {
            Some(subnet) => self.on_request_for(peer, subnet, request.generation, now),
            None => self.counters.refused_request += 1,
        }
    }

    fn on_request_for(&mut self, peer: PeerId, subnet: Subnet, generation: Generation, now: Time) {
        let selected = self
            .table
            .get(subnet)
            .and_then(|destination| destination.selected);
        if selected.is_some() {
            return self.send_selected(peer, subnet, now);
        }
        let Some(forwarded) = generation.forwarded() else {
            self.counters.requests_not_forwarded += 1;
            return;
        };
        match self.queries.0.get(&subnet) {
            Some(query) if query.generation <= forwarded => {
                self.counters.requests_not_forwarded += 1;
                return;
            }
            Some(_) => {}
            None => {
                if !self.remember_query(subnet, forwarded, None, now) {
                    return;
                }
            }
        }
        self.send_query(subnet, forwarded, Some(peer), now);
        self.want_infeasible(subnet, None, now);
    }
}
