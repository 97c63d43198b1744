//! A second way for what is in use. Nodes of the present network never send their table to a new neighbour, so nobody
//! hears of a way that it did not ask for: routes in use are asked for over other neighbours too.
//!
//! The requests bear the last generation: whoever knows the answer gives it, and nobody passes the question on.

use std::collections::BTreeSet;

use super::Babel;
use super::route::Destination;
use super::timer::Timer;
use crate::addr::Subnet;
use crate::io::PeerId;
use crate::time::{Duration, Time};
use crate::wire::babel::{Generation, RouteRequest, Tlv};

/// When a selected destination is looked at, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(super) armed: super::timer::Armed,
    /// The pause before the next look is the first one doubled this many times.
    doublings: u8,
    used_at: Option<Time>,
    /// Used since `refresh_if_used` looked.
    unrefreshed: bool,
}

/// The destinations that were in use when last looked at. Bounded: one that finds no room is not asked for over new
/// links, only in its own time.
#[derive(Debug, Default)]
pub(super) struct InUse(BTreeSet<Subnet>);

impl Watch {
    /// The pause before the next look; each is twice as long as the one before.
    fn next_pause(&mut self, first: Duration, longest: Duration) -> Duration {
        let pause = first * (1 << self.doublings.min(16));
        if pause < longest {
            self.doublings += 1;
        }
        pause.min(longest)
    }
}

impl Babel {
    /// The next hop of `subnet` changed: look soon whether there is another way.
    pub(super) fn watch(&mut self, subnet: Subnet, now: Time) {
        if let Some(destination) = self.table.get_mut(subnet) {
            destination.watch.doublings = 0;
        }
        self.arm_watch(subnet, now);
    }

    fn arm_watch(&mut self, subnet: Subnet, now: Time) {
        let Some(destination) = self.table.get_mut(subnet) else {
            return;
        };
        let watch = &mut destination.watch;
        let pause = watch.next_pause(self.config.fallback_delay, self.config.fallback_pause);
        self.timers
            .set(&mut watch.armed, Some(now + pause), Timer::Watch(subnet));
    }

    pub(super) fn unwatch(&mut self, subnet: Subnet, watch: &mut Watch) {
        self.timers
            .set(&mut watch.armed, None, Timer::Watch(subnet));
        self.in_use.0.remove(&subnet);
    }

    /// Take the data plane's note that a packet used the route.
    fn look_at_use(&mut self, subnet: Subnet, now: Time) {
        let used = self
            .fib
            .route(subnet)
            .is_some_and(|entry| entry.take_used());
        if used && let Some(destination) = self.table.get_mut(subnet) {
            destination.watch.used_at = Some(now);
            destination.watch.unrefreshed = true;
        }
    }

    /// Whether a packet used the route since the last call.
    pub(super) fn take_used(&mut self, subnet: Subnet, now: Time) -> bool {
        self.look_at_use(subnet, now);
        self.table
            .get_mut(subnet)
            .is_some_and(|destination| std::mem::take(&mut destination.watch.unrefreshed))
    }

    pub(super) fn on_watch_timer(&mut self, subnet: Subnet, now: Time) {
        self.look_at_use(subnet, now);
        let Some(destination) = self.table.get_mut(subnet) else {
            return;
        };
        let watch = &mut destination.watch;
        watch.armed.fired();
        let in_use = destination.selected.is_some()
            && watch
                .used_at
                .is_some_and(|at| now.since(at) < self.config.in_use_for);
        if !in_use {
            self.in_use.0.remove(&subnet);
        } else if self.in_use.0.contains(&subnet) || self.in_use.0.len() < self.config.max_in_use {
            let fresh = self.in_use.0.insert(subnet);
            if fresh {
                watch.doublings = 0;
            }
        }
        if destination.selected.is_none() {
            return;
        }
        if in_use {
            self.seek_fallback(subnet, now);
        }
        self.arm_watch(subnet, now);
    }

    /// Ask other neighbours for `subnet` if the loss of its next hop would leave no route.
    fn seek_fallback(&mut self, subnet: Subnet, now: Time) {
        let Some(destination) = self.table.get(subnet) else {
            return;
        };
        if self.has_fallback(destination) {
            return;
        }
        let next_hop = destination.selected;
        let others: Vec<PeerId> = self
            .neighbours
            .iter()
            .filter(|&(&peer, neighbour)| Some(peer) != next_hop && !neighbour.is_suspect())
            .map(|(&peer, _)| peer)
            .collect();
        if others.is_empty() || !self.fallback_requests.take(now) {
            return;
        }
        // With many neighbours, others are asked each time.
        let start = usize::try_from(self.rng.next_u64() % others.len() as u64).unwrap_or(0);
        let asked = others.iter().cycle().skip(start).take(others.len());
        for &peer in asked.take(self.config.fallback_fanout) {
            self.ask_for_known(peer, subnet);
        }
    }

    fn has_fallback(&self, destination: &Destination) -> bool {
        destination.routes.iter().any(|route| {
            destination.selected != Some(route.peer)
                && self
                    .neighbours
                    .get(&route.peer)
                    .is_some_and(|neighbour| route.metric.plus(neighbour.cost()).is_finite())
                && destination.is_feasible(route)
        })
    }

    /// A new neighbour may be another way for what is in use. In slices.
    pub(super) fn ask_for_used(&mut self, peer: PeerId, now: Time) {
        let Some(start) = self
            .neighbours
            .get(&peer)
            .and_then(|neighbour| neighbour.asking.cursor)
        else {
            return;
        };
        let limit = self.config.dump_slice;
        let mut slice: Vec<Subnet> = self
            .in_use
            .0
            .range(start..)
            .take(limit + 1)
            .copied()
            .collect();
        let next = (slice.len() > limit).then(|| slice.pop()).flatten();
        for subnet in slice {
            self.ask_for_known(peer, subnet);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.asking.cursor = next;
            let at = next.map(|_| now + self.config.dump_pause);
            self.timers
                .set(&mut neighbour.asking.armed, at, Timer::Ask(peer));
        }
    }

    fn ask_for_known(&mut self, peer: PeerId, subnet: Subnet) {
        let request = RouteRequest {
            generation: Generation::LAST,
            prefix: Some(subnet.into()),
        };
        self.send(peer, &Tlv::RouteRequest(request));
    }
}
