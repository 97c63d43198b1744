//! Nodes talking to each other over perfect links, in virtual time.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::addr::Subnet;
use crate::fib::Lookup;
use crate::io::{LinkInfo, PeerId};
use crate::time::Duration;

/// A handful of nodes and the links between them; a packet takes `LATENCY`.
struct Net {
    nodes: Vec<Node>,
    links: BTreeMap<(usize, PeerId), (usize, PeerId)>,
    wire: VecDeque<(Time, usize, PeerId, Vec<u8>)>,
    seen: Vec<(Time, usize, Output)>,
    now: Time,
    next_peer: u32,
    /// Directed links that lose everything.
    silent: Vec<(usize, PeerId)>,
}

const LATENCY: Duration = Duration::from_millis(1);

fn secret(index: usize) -> SecretKey {
    let mut bytes = [0x5a; 32];
    // Not the first byte: its low bits are clamped away.
    bytes[1] = u8::try_from(index).unwrap();
    SecretKey::from_bytes(bytes)
}

fn subnet(index: usize) -> Subnet {
    secret(index).public_key().subnet()
}

impl Net {
    fn new(count: usize) -> Self {
        let node = |index| {
            let mut seed = [0; 32];
            seed[0] = u8::try_from(index).unwrap();
            Node::new(NodeConfig::default(), secret(index), seed, Time::ZERO)
        };
        Self {
            nodes: (0..count).map(node).collect(),
            links: BTreeMap::new(),
            wire: VecDeque::new(),
            seen: Vec::new(),
            now: Time::ZERO,
            next_peer: 0,
            silent: Vec::new(),
        }
    }

    fn connect(&mut self, a: usize, b: usize) -> (PeerId, PeerId) {
        self.connect_at_cost(a, b, 10)
    }

    fn connect_at_cost(&mut self, a: usize, b: usize, static_cost: u16) -> (PeerId, PeerId) {
        let ends = (PeerId(self.next_peer), PeerId(self.next_peer + 1));
        self.next_peer += 2;
        self.links.insert((a, ends.0), (b, ends.1));
        self.links.insert((b, ends.1), (a, ends.0));
        let link = LinkInfo {
            static_cost,
            setup_rtt: Some(LATENCY * 2),
        };
        self.input(a, Input::PeerUp { peer: ends.0, link });
        self.input(b, Input::PeerUp { peer: ends.1, link });
        ends
    }

    fn disconnect(&mut self, a: usize, peer: PeerId) {
        let (b, other) = self.links.remove(&(a, peer)).unwrap();
        self.links.remove(&(b, other));
        self.input(a, Input::PeerDown { peer });
        self.input(b, Input::PeerDown { peer: other });
    }

    fn input(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle(input, self.now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Send { peer, packet } => {
                    if let Some(&(other, there)) = self.links.get(&(node, peer))
                        && !self.silent.contains(&(node, peer))
                    {
                        self.wire
                            .push_back((self.now + LATENCY, other, there, packet));
                    }
                }
                Output::Close { peer, reason } => {
                    self.seen
                        .push((self.now, node, Output::Close { peer, reason }));
                    if let Some((other, there)) = self.links.remove(&(node, peer)) {
                        self.links.remove(&(other, there));
                        self.input(other, Input::PeerDown { peer: there });
                    }
                }
                other => self.seen.push((self.now, node, other)),
            }
        }
        assert_ne!(
            self.nodes[node].poll_timeout(),
            Some(self.now),
            "output is drained"
        );
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let wire = self.wire.front().map(|(at, ..)| *at);
            let timer = self.nodes.iter().filter_map(Node::poll_timeout).min();
            let Some(next) = wire.into_iter().chain(timer).min().filter(|&at| at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while self.wire.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, node, peer, packet) = self.wire.pop_front().unwrap();
                self.input(
                    node,
                    Input::Control {
                        peer,
                        packet: &packet,
                    },
                );
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node]
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    self.nodes[node].handle_timeout(self.now);
                    self.drain(node);
                }
            }
        }
    }

    /// The nodes that a packet passes, or `None` if it gets lost.
    fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let mut path = vec![from];
        while path.len() <= self.nodes.len() {
            let here = *path.last()?;
            match self.nodes[here].fib().lookup(subnet(to)) {
                Lookup::Local(_) => return Some(path),
                Lookup::Remote(entry) => path.push(self.links.get(&(here, entry.next_hop))?.0),
                Lookup::Unknown => return None,
            }
        }
        panic!("forwarding loop: {path:?}");
    }
}

#[test]
fn two_nodes_learn_each_other_in_one_latency() {
    let mut net = Net::new(2);
    net.connect(0, 1);
    net.run(LATENCY);
    assert_eq!(net.path(0, 1), Some(vec![0, 1]));
    assert_eq!(net.path(1, 0), Some(vec![1, 0]));
}

#[test]
fn a_query_that_comes_before_its_target_is_answered_the_moment_the_relay_learns_it() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.input(
        0,
        Input::RouteNeeded {
            subnet: subnet(2),
            from: None,
        },
    );
    net.run(Duration::from_millis(500));
    assert_eq!(net.path(0, 2), None);
    net.connect(1, 2);
    net.run(LATENCY * 2);
    assert_eq!(net.path(0, 2), Some(vec![0, 1, 2]));
}
