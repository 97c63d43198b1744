//! Babel over native links: networks of real nodes converge on bad networks and around failures.

use mycelium_core::addr::Subnet;
use mycelium_core::fib::Lookup;
use mycelium_core::io::{Input, LinkInfo, Output, PeerId};
use mycelium_core::native::{CloseCode, Event, LinkId};
use mycelium_core::node::{Node, NodeConfig};
use mycelium_core::time::{Duration, Time};

use crate::lab::{Lab, secret};

const SECOND: Duration = Duration::from_secs(1);

struct Network {
    lab: Lab,
    nodes: Vec<Node>,
    /// Events of each station that its node was told.
    told: Vec<usize>,
    /// Who dials whom, for ever.
    wires: Vec<(usize, usize)>,
    starts: u8,
}

impl Network {
    fn new(seed: u8, nodes: u8, wires: &[(usize, usize)]) -> Self {
        let lab = Lab::new(seed, nodes);
        let mut network = Self {
            told: vec![0; usize::from(nodes)],
            nodes: Vec::new(),
            wires: wires.to_vec(),
            starts: 0,
            lab,
        };
        for n in 0..nodes {
            let node = network.node(n);
            network.nodes.push(node);
        }
        network
    }

    fn node(&mut self, n: u8) -> Node {
        self.starts += 1;
        let mut seed = [n; 32];
        seed[1] = self.starts;
        Node::new(NodeConfig::default(), secret(n), seed, self.lab.now)
    }

    fn restart(&mut self, n: u8) {
        let at = usize::from(n);
        self.lab.restart(at);
        self.nodes[at] = self.node(n);
        self.told[at] = self.lab.stations[at].events.len();
    }

    /// Let a node hear what its links told, and do what it wants.
    fn settle(&mut self, at: usize) {
        let now = self.lab.now;
        loop {
            while let Some(event) = self.lab.stations[at].events.get(self.told[at]).cloned() {
                self.told[at] += 1;
                self.tell(at, event);
            }
            let Some(output) = self.nodes[at].poll_output() else {
                break;
            };
            let endpoint = &mut self.lab.stations[at].endpoint;
            match output {
                Output::Send { peer, packet } => {
                    let _ = endpoint.send_control(LinkId(peer.0), &packet, now);
                }
                Output::Close { peer, .. } => {
                    endpoint.close(LinkId(peer.0), CloseCode::Unwanted, now);
                }
                Output::QueryFailed { .. } | Output::Event(_) => {}
            }
            self.lab.drain(at);
        }
    }

    fn tell(&mut self, at: usize, event: Event) {
        let now = self.lab.now;
        let node = &mut self.nodes[at];
        match event {
            Event::Up { link, rtt, .. } => {
                let link_info = LinkInfo {
                    static_cost: 7,
                    setup_rtt: rtt,
                };
                let peer = PeerId(link.0);
                node.handle(
                    Input::PeerUp {
                        peer,
                        link: link_info,
                    },
                    now,
                );
            }
            Event::Down { link, .. } => {
                let peer = PeerId(link.0);
                node.handle(Input::PeerDown { peer }, now);
            }
            Event::Control { link, packet } => {
                let peer = PeerId(link.0);
                let packet = &packet;
                node.handle(Input::Control { peer, packet }, now);
            }
            Event::Observed { .. }
            | Event::PathChanged { .. }
            | Event::Stray { .. }
            | Event::Rtt { .. } => {}
        }
    }

    fn run(&mut self, duration: Duration) {
        let until = self.lab.now + duration;
        let mut redial = self.lab.now;
        loop {
            if self.lab.now >= redial {
                for (from, to) in self.wires.clone() {
                    if self.lab.link(from, to).is_none() && !self.lab.stations[from].dead {
                        self.lab.dial(from, to);
                    }
                }
                redial = self.lab.now + SECOND;
            }
            let alive = (0..self.nodes.len()).filter(|&at| !self.lab.stations[at].dead);
            let timers = alive.filter_map(|at| self.nodes[at].poll_timeout());
            let next = timers.min().unwrap_or(Time::FAR_FUTURE);
            self.lab.step(next.min(until).min(redial).max(self.lab.now));
            for at in 0..self.nodes.len() {
                if self.lab.stations[at].dead {
                    continue;
                }
                let due = self.nodes[at].poll_timeout();
                if due.is_some_and(|due| due <= self.lab.now) {
                    self.nodes[at].handle_timeout(self.lab.now);
                }
                self.settle(at);
            }
            if self.lab.now >= until {
                return;
            }
        }
    }

    fn subnet(n: u8) -> Subnet {
        secret(n).public_key().subnet()
    }

    /// Who the next hop is from one node to another.
    fn next_hop(&self, from: usize, to: u8) -> Option<usize> {
        let destination = Self::subnet(to);
        let Lookup::Remote(entry) = self.nodes[from].fib().lookup(destination) else {
            return None;
        };
        let key = self.lab.stations[from].up.get(&LinkId(entry.next_hop.0))?;
        let mut stations = self.lab.stations.iter();
        stations.position(|station| station.key == *key)
    }

    /// Ask for every route, as packets would.
    fn resolve_all(&mut self) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if from != to {
                    let to = u8::try_from(to).unwrap();
                    let subnet = Self::subnet(to);
                    self.nodes[from].handle(Input::Resolve { subnet }, self.lab.now);
                    self.settle(from);
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        (0..self.nodes.len()).all(|from| {
            (0..self.nodes.len())
                .all(|to| from == to || self.next_hop(from, u8::try_from(to).unwrap()).is_some())
        })
    }
}

#[test]
fn a_chain_converges_at_thirty_percent_loss() {
    let mut network = Network::new(1, 4, &[(0, 1), (1, 2), (2, 3)]);
    network.lab.loss_permille = 300;
    network.lab.jitter = Duration::from_millis(5);
    network.run(10 * SECOND);
    network.resolve_all();
    network.run(5 * SECOND);
    assert!(network.is_complete());
    assert_eq!(network.next_hop(0, 3), Some(1));
    network.run(60 * SECOND);
    assert!(network.is_complete(), "and it stays so");
}

#[test]
fn a_killed_relay_is_routed_around_within_30_ms() {
    // 1 and 2 are relays between 0 and 3.
    let mut network = Network::new(2, 4, &[(0, 1), (0, 2), (3, 1), (3, 2)]);
    network.lab.latency = Duration::from_micros(200);
    network.lab.icmp = true;
    network.run(5 * SECOND);
    network.resolve_all();
    network.run(5 * SECOND);
    let relay = network.next_hop(0, 3).unwrap();
    network.lab.stations[relay].dead = true;
    let start = network.lab.now;
    while network.next_hop(0, 3).is_none_or(|hop| hop == relay) {
        network.lab.send_data(0, relay, 1, 100);
        network.run(Duration::from_millis(1));
        assert!(network.lab.now.since(start) <= Duration::from_millis(30));
    }
}

#[test]
fn a_relay_that_falls_silent_is_routed_around_within_a_second() {
    let mut network = Network::new(3, 4, &[(0, 1), (0, 2), (3, 1), (3, 2)]);
    network.run(5 * SECOND);
    network.resolve_all();
    network.run(5 * SECOND);
    let relay = network.next_hop(0, 3).unwrap();
    network.lab.stations[relay].dead = true;
    let start = network.lab.now;
    while network.next_hop(0, 3).is_none_or(|hop| hop == relay) {
        network.lab.send_data(0, relay, 1, 100);
        network.run(Duration::from_millis(10));
        assert!(network.lab.now.since(start) <= SECOND);
    }
}

#[test]
fn a_node_that_restarts_is_found_again() {
    let mut network = Network::new(4, 3, &[(0, 1), (1, 2)]);
    network.run(5 * SECOND);
    network.resolve_all();
    network.run(5 * SECOND);
    assert!(network.is_complete());
    for victim in [1, 2, 0, 1] {
        network.restart(victim);
        network.run(10 * SECOND);
        network.resolve_all();
        network.run(5 * SECOND);
        assert!(network.is_complete(), "{victim}");
    }
}
