//! What must be true, from the true topology alone: the oracle knows nothing of how the core works.
//!
//! - at all times: no forwarding loop over connections that are whole, tables within the configured limits
//! - once things are quiet: whoever is connected is reached, at nearly the best cost; whoever is not is reported

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use mycelium_core::fib::Lookup;
use mycelium_core::router_id::RouterId;
use mycelium_core::time::Time;

use crate::flow::Outcome;
use crate::world::{Violation, World};

/// The core switches to another route only if it is better by more than this (wire spec §5.12).
pub const HYSTERESIS: u32 = 10;

/// The core announces a metric again only if it changed by more than this (wire spec §5.10).
pub const SIGNIFICANT: u32 = 10;
/// A circle of two origins may last as long as the news takes to go around it twice, and this.
const CIRCLE_GRACE: Duration = Duration::from_millis(20);

/// What the true topology offers between a node and a destination's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Best {
    /// The sum of link costs on the cheapest path.
    pub cost: u32,
    /// Links on that path (the fewest, among equally cheap ones).
    pub hops: u32,
}

/// How much longer than the best the paths are that were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stretch {
    taken: u64,
    best: u64,
    /// The largest ratio of one path.
    pub worst: f64,
}

impl Stretch {
    fn note(&mut self, taken: u32, best: u32) {
        self.taken += u64::from(taken);
        self.best += u64::from(best);
        self.worst = self.worst.max(f64::from(taken) / f64::from(best.max(1)));
    }

    /// The ratio of all paths together.
    pub fn mean(self) -> f64 {
        self.taken as f64 / self.best.max(1) as f64
    }
}

/// How well a settled network must reach a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// At whatever cost.
    Reached,
    /// At nearly the best cost, link costs having been the same all the time.
    Cheaply,
    /// At roughly the best cost: link costs have changed.
    Roughly,
}

impl Best {
    /// The highest cost at which the routing protocol may settle on a path of `taken` hops.
    ///
    /// Every node may hold on to a route that is worse by the hysteresis, and it tells of a changed metric only if that
    /// is significant: both for each hop of the best path; the latter also for each hop of the path taken, which then
    /// was cheaper once. After costs of links have changed, announced metrics may be off by a quarter in addition, and
    /// measured costs by an eighth, too low on the path taken and too high on the best one: a factor below two.
    pub fn tolerated(self, taken: usize, demand: Demand) -> u32 {
        let taken = u32::try_from(taken).unwrap_or(u32::MAX / 64);
        let slack = self.hops * (HYSTERESIS + SIGNIFICANT) + taken * SIGNIFICANT;
        match demand {
            Demand::Reached => u32::MAX,
            Demand::Cheaply => self.cost + slack,
            Demand::Roughly => self.cost * 2 + slack,
        }
    }
}

/// Cheapest paths from every node to `to` over whatever works at this instant.
pub fn best_paths(world: &World, to: usize) -> Vec<Option<Best>> {
    let mut best: Vec<Option<Best>> = vec![None; world.nodes()];
    if !world.station(to).forwards() {
        return best;
    }
    let mut heap = BinaryHeap::from([Reverse((Best { cost: 0, hops: 0 }, to))]);
    while let Some(Reverse((reached, node))) = heap.pop() {
        if best[node].is_some() {
            continue;
        }
        best[node] = Some(reached);
        for &(link, end) in &world.station(node).links {
            let link = &world.links()[link];
            let far = link.ends[1 - end];
            if link.carrier && !link.silent && world.station(far).forwards() && best[far].is_none()
            {
                let next = Best {
                    cost: reached.cost + link.spec.cost(),
                    hops: reached.hops + 1,
                };
                heap.push(Reverse((next, far)));
            }
        }
    }
    best
}

impl World {
    /// A node published a table: no destination may now be forwarded in a circle through it.
    ///
    /// Following next hops from the changed node finds every loop that the change closed, because a loop that does not
    /// contain the node was there before.
    pub(crate) fn follow_changes(&mut self, node: usize) -> Result<(), Violation> {
        for index in 0..self.destinations.len() {
            let subnet = self.destinations[index].subnet;
            let Some(core) = self.stations[node].core() else {
                return Ok(());
            };
            let next = match core.fib().lookup(subnet) {
                Lookup::Remote(entry) => Some(entry.next_hop),
                Lookup::Local(_) | Lookup::Unknown => None,
            };
            if std::mem::replace(&mut self.hops[node][index], next) == next || next.is_none() {
                continue;
            }
            if let Some(circle) = self.circle_through(node, index) {
                self.on_circle(&circle, index)?;
            }
        }
        Ok(())
    }

    /// The circle in which packets for a destination would go that pass `node`, if they would.
    fn circle_through(&self, node: usize, index: usize) -> Option<Vec<usize>> {
        let mut path = vec![node];
        let mut at = node;
        while path.len() <= self.stations.len() {
            at = self.other_end(at, self.hops[at][index]?)?.0;
            if at == node {
                return Some(path);
            }
            path.push(at);
        }
        None
    }

    /// Among routes of one origin a circle must never be. Two incarnations of a destination are two origins, for which
    /// RFC 8966 §2.7 promises only that a circle ends in a time proportional to its diameter.
    fn on_circle(&mut self, circle: &[usize], index: usize) -> Result<(), Violation> {
        let subnet = self.destinations[index].subnet;
        let origins: BTreeSet<RouterId> = circle
            .iter()
            .filter_map(|&node| {
                let snapshot = self.stations[node].core()?.node.snapshot(self.now);
                let route = snapshot
                    .selected
                    .iter()
                    .find(|route| route.subnet == subnet)?;
                Some(route.router_id)
            })
            .collect();
        let of = self.trace.of(subnet);
        if origins.len() < 2 {
            return Err(self.violation(format!("packets for {of} go in a circle: {circle:?}")));
        }
        self.tally.brief_circles += 1;
        if self.trace.wanted() {
            self.trace.line(
                self.now,
                format_args!("circle of two origins for {of}: {circle:?}"),
            );
        }
        let around: Duration = circle
            .iter()
            .map(|&node| self.latency_of_hop(node, index))
            .sum();
        self.schedule_recheck(self.now + around * 2 + CIRCLE_GRACE, circle[0], index);
        Ok(())
    }

    /// A circle of two origins must be gone by now.
    pub(crate) fn recheck(&mut self, node: usize, index: usize) -> Result<(), Violation> {
        match self.circle_through(node, index) {
            Some(circle) if !circle.iter().any(|&node| self.hop_is_weak(node, index)) => {
                let of = self.trace.of(self.destinations[index].subnet);
                Err(self.violation(format!("packets for {of} still go in a circle: {circle:?}")))
            }
            _ => Ok(()),
        }
    }

    fn latency_of_hop(&self, node: usize, index: usize) -> Duration {
        let link = self.hops[node][index].map(|peer| self.link_of(node, peer));
        link.map_or(Duration::ZERO, |link| self.links[link].spec.latency)
    }

    /// Whether news may be lost or late on the link to the next hop.
    fn hop_is_weak(&self, node: usize, index: usize) -> bool {
        let link = self.hops[node][index].map(|peer| &self.links[self.link_of(node, peer)]);
        link.is_none_or(|link| link.silent || link.spec.loss > 0)
    }

    /// Every destination from every node: no circle anywhere. For runs that do not watch each change.
    pub fn check_loops(&self) -> Result<(), Violation> {
        let mut hops = vec![None; self.nodes()];
        for destination in self.destinations() {
            for (node, hop) in hops.iter_mut().enumerate() {
                *hop = self.station(node).core().and_then(|core| {
                    let entry = core.fib().route(destination.subnet)?;
                    Some(self.other_end(node, entry.next_hop)?.0)
                });
            }
            // 0: not seen; otherwise the walk that saw it first.
            let mut seen = vec![0; self.nodes()];
            for start in 0..self.nodes() {
                let walk = start + 1;
                let mut at = start;
                while at != destination.owner && seen[at] == 0 {
                    seen[at] = walk;
                    let Some(next) = hops[at] else { break };
                    at = next;
                    if seen[at] == walk {
                        let of = self.trace.of(destination.subnet);
                        return Err(
                            self.violation(format!("packets for {of} go in a circle at {at}"))
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// `from` must reach destination `to` at a tolerable cost, or, if nothing connects them, know that it cannot.
    pub fn check_settled(
        &mut self,
        from: usize,
        to: usize,
        demand: Demand,
    ) -> Result<(), Violation> {
        let destination = self.destinations()[to];
        let active = self.station(destination.owner).identities[destination.identity].active;
        let best = if active {
            best_paths(self, destination.owner)[from]
        } else {
            None
        };
        self.check_pair(from, to, best, demand)
    }

    /// As [`World::check_settled`], for every pair that has a flow.
    pub fn check_flows(&mut self, demand: Demand) -> Result<(), Violation> {
        let pairs: Vec<_> = self.flows.iter().map(|flow| (flow.from, flow.to)).collect();
        self.check_pairs(&pairs, demand)
    }

    /// Every sender whose destination nothing connects was told so after `since`.
    pub fn check_reported(&self, since: Time) -> Result<(), Violation> {
        for flow in &self.flows {
            let destination = self.destinations[flow.to];
            let connected = best_paths(self, destination.owner)[flow.from].is_some();
            let reported = self.failed.get(&(flow.from, destination.subnet));
            if !connected
                && self.station(flow.from).forwards()
                && reported.is_none_or(|&at| at < since)
            {
                let of = self.trace.of(destination.subnet);
                return Err(self.violation(format!(
                    "{} was not told that {of} cannot be reached",
                    flow.from
                )));
            }
        }
        Ok(())
    }

    /// As [`World::check_settled`], for every destination from every node.
    pub fn check_destinations(&mut self, demand: Demand) -> Result<(), Violation> {
        let destinations = self.destinations().len();
        let pairs: Vec<_> = (0..self.nodes())
            .flat_map(|from| (0..destinations).map(move |to| (from, to)))
            .collect();
        self.check_pairs(&pairs, demand)
    }

    /// All are looked at, because each look is also a look-up; the first violation is reported.
    fn check_pairs(&mut self, pairs: &[(usize, usize)], demand: Demand) -> Result<(), Violation> {
        self.stretch = Stretch::default();
        let mut first = Ok(());
        for &(from, to) in pairs {
            first = first.and(self.check_settled(from, to, demand));
        }
        first
    }

    /// As [`World::check_settled`], for every pair of the nodes' own identities.
    pub fn check_all_settled(&mut self, demand: Demand) -> Result<(), Violation> {
        self.stretch = Stretch::default();
        let mut first = Ok(());
        for to in 0..self.nodes() {
            let best = best_paths(self, to);
            for (from, best) in best.into_iter().enumerate() {
                if from != to {
                    first = first.and(self.check_pair(from, to, best, demand));
                }
            }
        }
        first
    }

    fn check_pair(
        &mut self,
        from: usize,
        to: usize,
        best: Option<Best>,
        demand: Demand,
    ) -> Result<(), Violation> {
        if !self.station(from).forwards() {
            return Ok(());
        }
        let outcome = self.probe(from, to)?;
        let subnet = self.destinations()[to].subnet;
        let of = self.trace.of(subnet);
        match (outcome, best) {
            (Outcome::Delivered { cost, hops }, Some(best)) => {
                self.stretch.note(cost, best.cost);
                let tolerated = best.tolerated(hops, demand);
                if cost > tolerated {
                    return Err(self.violation(format!(
                        "{from} reaches {of} at cost {cost} over {hops} hops; {} over {} hops is possible, \
                         {tolerated} tolerated",
                        best.cost, best.hops,
                    )));
                }
                Ok(())
            }
            (outcome, Some(best)) => Err(self.violation(format!(
                "{from} does not reach {of}, which is {} hops away: {outcome:?}",
                best.hops
            ))),
            (Outcome::Unknown(at), None) if at == from => Ok(()),
            (outcome, None) => Err(self.violation(format!(
                "{from} believes in a route to {of}, which nothing connects: {outcome:?}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Choices;
    use crate::fault::Fault;
    use crate::link::LinkSpec;
    use crate::topology::Topology;
    use crate::world::WorldConfig;

    /// 0 to 3 by way of 1 costs 2 × 14, by way of 2 it costs 2 × 20.
    fn diamond() -> World {
        let topology = Topology::diamond(LinkSpec::tcp(2), LinkSpec::tcp(5));
        let mut world = World::new(&topology, WorldConfig::default(), Choices::from_seed(1));
        world.start_all().unwrap();
        world
    }

    #[test]
    fn the_best_path_is_found_and_avoids_what_is_broken() {
        let mut world = diamond();
        assert_eq!(best_paths(&world, 3)[0], Some(Best { cost: 28, hops: 2 }));
        world.apply(Fault::Silence(1)).unwrap();
        assert_eq!(best_paths(&world, 3)[0], Some(Best { cost: 40, hops: 2 }));
        world.apply(Fault::Kill(2)).unwrap();
        assert_eq!(best_paths(&world, 3)[0], None);
        assert_eq!(best_paths(&world, 3)[1], None);
    }

    #[test]
    fn a_node_that_does_not_know_the_way_is_reported() {
        let mut world = diamond();
        let too_early = world.check_settled(0, 3, Demand::Reached).unwrap_err();
        assert!(too_early.what.contains("does not reach"), "{too_early}");
        world.run_for(Duration::from_secs(1)).unwrap();
        world.check_all_settled(Demand::Cheaply).unwrap();
    }

    #[test]
    fn a_circle_of_one_origin_is_a_violation() {
        let mut world = diamond();
        world.run_for(Duration::from_secs(1)).unwrap();
        world.check_all_settled(Demand::Cheaply).unwrap();
        assert!(world.on_circle(&[0, 1], 3).is_err());
    }
}
