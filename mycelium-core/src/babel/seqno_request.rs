//! Seqno requests: how a starved router gets a route that it may use (RFC 8966 §3.2.7, §3.8.1.2 and §3.8.2, wire spec
//! §5.15).
//!
//! Requests of our own are repeated until answered; those of others are passed on once, and those who asked are
//! remembered, so that the answer finds its way back.

use std::collections::BTreeMap;
use std::num::NonZeroU8;

use super::Babel;
use super::seqno::Seqno;
use super::timer::Timer;
use crate::addr::Subnet;
use crate::io::PeerId;
use crate::router_id::RouterId;
use crate::time::{Duration, Time};
use crate::wire::babel::{SeqnoRequest, Tlv};

/// How far our requests travel.
const HOP_COUNT: NonZeroU8 = NonZeroU8::new(64).expect("64 is not zero");
/// How many neighbours that want the same are remembered.
const MAX_WAITING: usize = 16;
/// From this try on we ask for one more: the present network ignores what it has passed on already for 60 s.
const INSISTENT_TRY: u8 = 5;

/// What a newer seqno is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Without it there is no route at all.
    Any,
    /// It opens a better route. When nobody answers, the matter rests for a while.
    Better,
}

/// A seqno that is asked for.
#[derive(Debug)]
struct Pending {
    seqno: Seqno,
    /// Neighbours that asked us for it.
    waiting: Vec<PeerId>,
    /// To whom we passed it on.
    target: Option<PeerId>,
    sent_at: Time,
    forgotten_at: Time,
    /// Present while we need it ourselves.
    ours: Option<Repetition>,
}

#[derive(Clone, Copy, Debug)]
struct Repetition {
    /// Whose route needs it.
    peer: PeerId,
    tries: u8,
    at: Time,
    pause: Duration,
}

/// Open seqno requests, by destination and origin.
#[derive(Debug, Default)]
pub(super) struct SeqnoRequests(BTreeMap<(Subnet, RouterId), Pending>);

impl Pending {
    fn next_deadline(&self) -> Time {
        self.ours.map_or(self.forgotten_at, |repetition| {
            repetition.at.min(self.forgotten_at)
        })
    }
}

impl Babel {
    /// We know a route to `subnet`, by `router_id` and over `peer`, that only this seqno makes feasible: ask for it.
    pub(super) fn want_newer_seqno(
        &mut self,
        subnet: Subnet,
        router_id: RouterId,
        seqno: Seqno,
        peer: PeerId,
        need: Need,
        now: Time,
    ) {
        let already = self
            .seqno_requests
            .0
            .get(&(subnet, router_id))
            .filter(|pending| pending.seqno.is_at_least(seqno))
            .and_then(|pending| pending.ours)
            .is_some_and(|ours| need == Need::Better || ours.tries < self.config.seqno_tries);
        if already {
            return;
        }
        if !self.own_seqno_requests.take(now) {
            self.counters.refused_budget += 1;
            return;
        }
        let pause = self.patience(Some(peer));
        let ours = Some(Repetition {
            peer,
            tries: 1,
            at: now + pause,
            pause: pause * 2,
        });
        let Some(pending) = self.pending(subnet, router_id, seqno, now) else {
            return;
        };
        pending.ours = ours;
        pending.target = None;
        self.send_seqno_request(subnet, router_id, seqno, peer);
        self.arm_seqno(subnet, router_id);
    }

    /// The entry for a request, created if there is room. A newer number replaces an older one.
    fn pending(
        &mut self,
        subnet: Subnet,
        router_id: RouterId,
        seqno: Seqno,
        now: Time,
    ) -> Option<&mut Pending> {
        let key = (subnet, router_id);
        let full = self.seqno_requests.0.len() >= self.config.max_seqno_requests;
        if full && !self.seqno_requests.0.contains_key(&key) {
            self.counters.refused_budget += 1;
            return None;
        }
        let pending = self.seqno_requests.0.entry(key).or_insert_with(|| Pending {
            seqno,
            waiting: Vec::new(),
            target: None,
            sent_at: now,
            forgotten_at: now,
            ours: None,
        });
        if seqno.is_newer_than(pending.seqno) {
            pending.seqno = seqno;
        }
        pending.sent_at = now;
        pending.forgotten_at = now + self.config.seqno_memory;
        Some(pending)
    }

    /// Ask `peer`, and every other neighbour whose route by that origin waits for a newer seqno.
    fn send_seqno_request(
        &mut self,
        subnet: Subnet,
        router_id: RouterId,
        seqno: Seqno,
        peer: PeerId,
    ) {
        let targets: Vec<PeerId> = self.table.get(subnet).map_or_else(Vec::new, |destination| {
            let source = destination.sources.find(&router_id);
            destination
                .routes
                .iter()
                .filter(|route| route.metric.is_finite() && Some(route.source) == source)
                .filter(|route| route.peer == peer || !destination.is_feasible(route))
                .map(|route| route.peer)
                .collect()
        });
        let request = SeqnoRequest {
            seqno: seqno.raw(),
            hop_count: HOP_COUNT,
            router_id,
            prefix: subnet.into(),
        };
        for peer in targets {
            self.send(peer, &Tlv::SeqnoRequest(request));
        }
    }

    fn arm_seqno(&mut self, subnet: Subnet, router_id: RouterId) {
        if let Some(pending) = self.seqno_requests.0.get(&(subnet, router_id)) {
            let at = pending.next_deadline();
            self.timers.schedule(at, Timer::Seqno(subnet));
        }
    }

    /// Repeat or forget the requests for `subnet` that are due.
    pub(super) fn on_seqno_timer(&mut self, subnet: Subnet, now: Time) {
        let first = RouterId::from_bytes([0; RouterId::LEN]);
        let last = RouterId::from_bytes([u8::MAX; RouterId::LEN]);
        let due: Vec<RouterId> = self
            .seqno_requests
            .0
            .range((subnet, first)..=(subnet, last))
            .filter(|(_, pending)| pending.next_deadline() <= now)
            .map(|(&(_, router_id), _)| router_id)
            .collect();
        for router_id in due {
            self.repeat_seqno_request(subnet, router_id, now);
            self.arm_seqno(subnet, router_id);
        }
    }

    fn repeat_seqno_request(&mut self, subnet: Subnet, router_id: RouterId, now: Time) {
        let key = (subnet, router_id);
        let Some(pending) = self.seqno_requests.0.get_mut(&key) else {
            return;
        };
        if pending.forgotten_at <= now {
            self.seqno_requests.0.remove(&key);
            return;
        }
        let Some(repetition) = &mut pending.ours else {
            return;
        };
        if repetition.tries >= self.config.seqno_tries {
            repetition.at = pending.forgotten_at;
            return;
        }
        repetition.tries += 1;
        repetition.at = now + repetition.pause;
        repetition.pause *= 2;
        pending.sent_at = now;
        pending.forgotten_at = now + self.config.seqno_memory;
        let insistent = repetition.tries >= INSISTENT_TRY;
        let seqno = if insistent {
            pending.seqno.next()
        } else {
            pending.seqno
        };
        let peer = repetition.peer;
        self.send_seqno_request(subnet, router_id, seqno, peer);
    }

    /// An announcement with this seqno came. If it, or something older, was asked for: the neighbours that wait.
    pub(super) fn seqno_arrived(
        &mut self,
        subnet: Subnet,
        router_id: &RouterId,
        seqno: Seqno,
    ) -> Option<Vec<PeerId>> {
        let key = (subnet, *router_id);
        let pending = self.seqno_requests.0.get(&key)?;
        if !seqno.is_at_least(pending.seqno) {
            return None;
        }
        self.seqno_requests
            .0
            .remove(&key)
            .map(|pending| pending.waiting)
    }

    /// Pass the route on to those that waited for it, if it became ours.
    pub(super) fn answer_waiting(
        &mut self,
        subnet: Subnet,
        seqno: Seqno,
        waiting: &[PeerId],
        now: Time,
    ) {
        let chosen = self
            .table
            .get(subnet)
            .and_then(|destination| destination.selected_route())
            .is_some_and(|route| route.seqno.is_at_least(seqno));
        if !chosen {
            return;
        }
        if self.news.contains(subnet) {
            if !waiting.is_empty() {
                self.news.awaited(subnet);
            }
            return;
        }
        for &peer in waiting {
            self.send_selected(peer, subnet, now);
        }
    }

    pub(super) fn on_seqno_request(&mut self, peer: PeerId, request: &SeqnoRequest, now: Time) {
        self.counters.seqno_requests_received += 1;
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        if !neighbour.budgets.seqno_requests.take(now) {
            self.counters.refused_budget += 1;
            return;
        }
        let Some(subnet) = request
            .prefix
            .as_subnet()
            .filter(|subnet| subnet.is_overlay())
        else {
            self.counters.refused_request += 1;
            return;
        };
        if self.origins.get(subnet).is_some() {
            return self.on_seqno_request_for_us(peer, subnet, request, now);
        }
        let wanted = Seqno::new(request.seqno);
        let answer = self.table.get(subnet).is_some_and(|destination| {
            destination.selected_route().is_some_and(|route| {
                destination.sources.router_id(route.source) != Some(&request.router_id)
                    || route.seqno.is_at_least(wanted)
            })
        });
        if answer {
            return self.send_selected(peer, subnet, now);
        }
        self.forward_seqno_request(peer, subnet, request, now);
    }

    /// Go to the seqno that is asked for, and tell everybody; whoever asks for less just hears what we have.
    fn on_seqno_request_for_us(
        &mut self,
        peer: PeerId,
        subnet: Subnet,
        request: &SeqnoRequest,
        now: Time,
    ) {
        let Some(origin) = self.origins.get_mut(subnet) else {
            return;
        };
        let wanted = Seqno::new(request.seqno);
        if request.router_id != origin.router_id || !wanted.is_newer_than(origin.seqno) {
            return self.send_origin(peer, subnet);
        }
        if origin.increase_to(wanted, now) {
            self.counters.seqno_increases += 1;
            self.news.origin(subnet);
        } else {
            self.counters.refused_budget += 1;
        }
    }

    fn forward_seqno_request(
        &mut self,
        peer: PeerId,
        subnet: Subnet,
        request: &SeqnoRequest,
        now: Time,
    ) {
        let hop_count = NonZeroU8::new(request.hop_count.get() - 1);
        let (Some(hop_count), Some(target)) = (hop_count, self.towards(peer, subnet)) else {
            self.counters.requests_not_forwarded += 1;
            return;
        };
        let wanted = Seqno::new(request.seqno);
        let duplicate = self
            .seqno_requests
            .0
            .get_mut(&(subnet, request.router_id))
            .filter(|pending| pending.seqno.is_at_least(wanted));
        if let Some(pending) = duplicate {
            if !pending.waiting.contains(&peer) && pending.waiting.len() < MAX_WAITING {
                pending.waiting.push(peer);
            }
            let same_way = pending.ours.is_some() || pending.target == Some(target);
            if same_way && now.since(pending.sent_at) < self.config.seqno_duplicate {
                self.counters.requests_not_forwarded += 1;
                return;
            }
        }
        let Some(pending) = self.pending(subnet, request.router_id, wanted, now) else {
            return;
        };
        pending.target = Some(target);
        if !pending.waiting.contains(&peer) && pending.waiting.len() < MAX_WAITING {
            pending.waiting.push(peer);
        }
        self.send(
            target,
            &Tlv::SeqnoRequest(SeqnoRequest {
                hop_count,
                ..*request
            }),
        );
        self.arm_seqno(subnet, request.router_id);
    }

    /// Which neighbour, other than `asker`, to pass a request on to: the next hop, because what comes back over it
    /// becomes our own route and hence an answer; else feasible routes first, then the shortest.
    fn towards(&self, asker: PeerId, subnet: Subnet) -> Option<PeerId> {
        let destination = self.table.get(subnet)?;
        // Two links may lead to one node.
        let same_node = |peer| {
            let key = |peer| {
                self.neighbours
                    .get(&peer)
                    .and_then(|neighbour| neighbour.public_key)
            };
            peer == asker || key(asker).is_some_and(|asker| key(peer) == Some(asker))
        };
        destination
            .routes
            .iter()
            .filter(|route| !same_node(route.peer))
            .filter_map(|route| {
                let cost = self.neighbours.get(&route.peer)?.cost();
                let total = route.metric.plus(cost).finite()?;
                let selected = destination.selected == Some(route.peer);
                Some((
                    !selected,
                    !destination.is_feasible(route),
                    total,
                    route.peer,
                ))
            })
            .min()
            .map(|(_, _, _, peer)| peer)
    }

    pub(super) fn send_origin(&mut self, peer: PeerId, subnet: Subnet) {
        let interval = crate::config::centiseconds(self.config.update_interval);
        if let Some(origin) = self.origins.get(subnet) {
            let update = origin.update(subnet, super::Metric::ZERO, interval);
            self.send(peer, &Tlv::Update(update));
        }
    }
}
