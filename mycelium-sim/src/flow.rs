//! Traffic: pairs of nodes that want to reach each other, by probes that follow the published FIBs.
//!
//! A probe takes no time: it asks one question of the network as it is at this instant. It does to the nodes on its
//! way what a packet would: marks the route as used, or reports that a route is needed.

use std::time::Duration;

use mycelium_core::fib::Lookup;
use mycelium_core::io::{Input, PeerId};
use mycelium_core::time::Time;

use crate::world::{Violation, World};

/// A node that sends to a destination every so often.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The sender.
    pub from: usize,
    /// Index of the destination.
    pub to: usize,
    /// Time between two probes.
    pub every: Duration,
    /// Probes that got there.
    pub delivered: u64,
    /// Probes that did not.
    pub undelivered: u64,
    /// When the first got there.
    pub first_delivered: Option<Time>,
    /// When the last got there.
    pub last_delivered: Option<Time>,
    /// The longest time between two that got there.
    pub longest_gap: Duration,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It got there.
    Delivered {
        /// Links passed.
        hops: usize,
        /// The sum of their true costs.
        cost: u32,
    },
    /// The node has no route; it knows now that one is needed.
    Unknown(usize),
    /// The node's next hop is not there any more, or hears nothing.
    Lost(usize),
    /// The sender is down.
    Down,
    /// It would never have got anywhere. The nodes of the circle.
    Loop(Vec<usize>),
}

impl World {
    /// Let `from` send to destination `to` every so often, for ever. Returns its place among [`World::flows`].
    pub fn add_flow(&mut self, from: usize, to: usize, every: Duration) -> usize {
        let flow = self.flows.len();
        self.flows.push(Flow {
            from,
            to,
            every,
            delivered: 0,
            undelivered: 0,
            first_delivered: None,
            last_delivered: None,
            longest_gap: Duration::ZERO,
        });
        self.schedule_flow(self.now(), flow);
        flow
    }

    /// Every flow and how it fares.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// End all flows.
    pub fn stop_flows(&mut self) {
        self.flows.clear();
    }

    /// Forget gaps and counts up to now.
    pub fn reset_flows(&mut self) {
        for flow in &mut self.flows {
            flow.delivered = 0;
            flow.undelivered = 0;
            flow.longest_gap = Duration::ZERO;
        }
    }

    pub(crate) fn try_flow(&mut self, index: usize) -> Result<(), Violation> {
        let Some(flow) = self.flows.get(index) else {
            return Ok(());
        };
        let (from, to, every) = (flow.from, flow.to, flow.every);
        let outcome = self.probe(from, to)?;
        let now = self.now();
        let flow = &mut self.flows[index];
        if matches!(outcome, Outcome::Delivered { .. }) {
            if let Some(last) = flow.last_delivered {
                flow.longest_gap = flow.longest_gap.max(now.since(last));
            }
            flow.first_delivered.get_or_insert(now);
            flow.last_delivered = Some(now);
            flow.delivered += 1;
        } else {
            flow.undelivered += 1;
        }
        self.schedule_flow(now + every, index);
        Ok(())
    }

    /// Send one probe from a node to a destination.
    pub fn probe(&mut self, from: usize, to: usize) -> Result<Outcome, Violation> {
        let subnet = self.destinations[to].subnet;
        let mut at = from;
        let mut came_from: Option<PeerId> = None;
        let mut passed = vec![];
        let mut cost = 0;
        loop {
            let Some(core) = self.stations[at].core() else {
                return Ok(if passed.is_empty() {
                    Outcome::Down
                } else {
                    Outcome::Lost(at)
                });
            };
            let next_hop = match core.fib().lookup(subnet) {
                Lookup::Local(_) => {
                    return Ok(Outcome::Delivered {
                        hops: passed.len(),
                        cost,
                    });
                }
                Lookup::Remote(entry) => {
                    entry.mark_used();
                    entry.next_hop
                }
                Lookup::Unknown => {
                    self.tell(
                        at,
                        Input::RouteNeeded {
                            subnet,
                            from: came_from,
                        },
                    )?;
                    return Ok(Outcome::Unknown(at));
                }
            };
            if let Some(start) = passed.iter().position(|&node| node == at) {
                return Ok(Outcome::Loop(passed[start..].to_vec()));
            }
            passed.push(at);
            let Some((far, peer)) = self.other_end(at, next_hop) else {
                return Ok(Outcome::Lost(at));
            };
            let link = &self.links[self.link_of(at, next_hop)];
            if link.silent {
                return Ok(Outcome::Lost(at));
            }
            cost += link.spec.cost();
            came_from = Some(peer);
            at = far;
        }
    }

    /// The nodes on the way to destination `to`, as far as it leads; changes nothing.
    pub fn path(&self, from: usize, to: usize) -> Vec<usize> {
        let subnet = self.destinations[to].subnet;
        let mut path = vec![from];
        let mut at = from;
        while path.len() <= self.nodes() {
            let next = self.stations[at]
                .core()
                .and_then(|core| core.fib().route(subnet));
            let Some((far, _)) = next.and_then(|entry| self.other_end(at, entry.next_hop)) else {
                break;
            };
            path.push(far);
            at = far;
        }
        path
    }

    /// The link behind a connection that is known to exist.
    pub(crate) fn link_of(&self, node: usize, peer: PeerId) -> usize {
        self.peer(node, peer)
            .and_then(|&(connection, _)| self.connections[connection].as_ref())
            .map_or(0, |open| open.link)
    }
}
