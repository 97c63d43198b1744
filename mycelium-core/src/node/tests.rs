//! Nodes talking to each other over perfect links, in virtual time.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::addr::Subnet;
use crate::fib::Lookup;
use crate::io::{Event, LinkInfo, PeerId};
use crate::time::Duration;

/// A handful of nodes and the links between them; a packet takes `LATENCY`.
struct Net {
    nodes: Vec<Node>,
    subnets: Vec<Subnet>,
    links: BTreeMap<(usize, PeerId), (usize, PeerId)>,
    costs: BTreeMap<(usize, PeerId), u32>,
    wire: VecDeque<(Time, usize, PeerId, Vec<u8>)>,
    seen: Vec<(Time, usize, Output)>,
    now: Time,
    next_peer: u32,
    /// Nodes that are there but say and hear nothing.
    dead: Vec<usize>,
    /// Nodes that started anew at least once.
    restarted: Vec<usize>,
    /// What links keep for them: links are reliable, or closed.
    held: Vec<(usize, PeerId, Vec<u8>)>,
    packets: usize,
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
            subnets: (0..count).map(subnet).collect(),
            links: BTreeMap::new(),
            costs: BTreeMap::new(),
            wire: VecDeque::new(),
            seen: Vec::new(),
            now: Time::ZERO,
            next_peer: 0,
            dead: Vec::new(),
            restarted: Vec::new(),
            held: Vec::new(),
            packets: 0,
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
        for end in [(a, ends.0), (b, ends.1)] {
            // What the round trip adds.
            self.costs.insert(end, u32::from(static_cost) + 2);
        }
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

    fn disconnect_all(&mut self, node: usize) {
        let peers: Vec<PeerId> = self
            .links
            .range((node, PeerId(0))..(node + 1, PeerId(0)))
            .map(|(&(_, peer), _)| peer)
            .collect();
        for peer in peers {
            self.disconnect(node, peer);
        }
    }

    fn carry(&mut self, node: usize, peer: PeerId, packet: Vec<u8>) {
        let Some(&(other, there)) = self.links.get(&(node, peer)) else {
            return;
        };
        if self.dead.contains(&other) || self.dead.contains(&node) {
            self.held.push((node, peer, packet));
        } else {
            self.wire
                .push_back((self.now + LATENCY, other, there, packet));
        }
    }

    fn revive(&mut self, node: usize) {
        self.dead.retain(|&dead| dead != node);
        for (node, peer, packet) in std::mem::take(&mut self.held) {
            self.carry(node, peer, packet);
        }
    }

    /// The process ends and starts anew, with the same key and no memory.
    fn restart(&mut self, node: usize) {
        self.disconnect_all(node);
        self.restarted.push(node);
        let mut seed = [0xbb; 32];
        seed[..8].copy_from_slice(&self.now.as_micros().to_be_bytes());
        self.nodes[node] = Node::new(NodeConfig::default(), secret(node), seed, self.now);
        self.drain(node);
    }

    fn need(&mut self, node: usize, target: usize) {
        let subnet = self.subnets[target];
        self.input(node, Input::RouteNeeded { subnet, from: None });
    }

    fn input(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle(input, self.now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Send { peer, packet } => {
                    self.packets += 1;
                    self.carry(node, peer, packet);
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

    /// The nodes that a packet passes, or `None` if it gets lost. Loops are failures.
    fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let path = self.follow(from, to);
        path.unwrap_or_else(|path| panic!("forwarding loop: {path:?}"))
    }

    fn follow(&self, from: usize, to: usize) -> Result<Option<Vec<usize>>, Vec<usize>> {
        let mut path = vec![from];
        while path.len() <= self.nodes.len() {
            let here = path[path.len() - 1];
            match self.nodes[here].fib().lookup(self.subnets[to]) {
                Lookup::Local(_) => return Ok(Some(path)),
                Lookup::Remote(entry) => match self.links.get(&(here, entry.next_hop)) {
                    Some(&(next, _)) => path.push(next),
                    None => return Ok(None),
                },
                Lookup::Unknown => return Ok(None),
            }
        }
        Err(path)
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
    net.need(0, 2);
    net.run(Duration::from_millis(500));
    assert_eq!(net.path(0, 2), None);
    net.connect(1, 2);
    net.run(LATENCY * 2);
    assert_eq!(net.path(0, 2), Some(vec![0, 1, 2]));
    assert_eq!(
        net.path(2, 0),
        Some(vec![2, 1, 0]),
        "and the way back is known"
    );
}

#[test]
fn whichever_link_comes_first_the_ends_of_a_chain_reach_each_other() {
    for order in [[(0, 1), (1, 2)], [(1, 2), (0, 1)]] {
        let mut net = Net::new(3);
        net.need(0, 2);
        for (a, b) in order {
            net.run(Duration::from_millis(100));
            net.connect(a, b);
        }
        net.run(LATENCY * 3);
        assert_eq!(net.path(0, 2), Some(vec![0, 1, 2]), "{order:?}");
        assert_eq!(net.path(2, 0), Some(vec![2, 1, 0]), "{order:?}");
    }
}

#[test]
fn a_line_of_sixty_whose_links_come_up_in_any_order_is_connected_end_to_end() {
    for stride in [1, 7, 23] {
        let mut net = Net::new(60);
        for step in 0..59 {
            let link = step * stride % 59;
            net.connect(link, link + 1);
            net.run(LATENCY / 2);
        }
        net.run(Duration::from_millis(100));
        for node in 1..60 {
            assert_eq!(net.path(node, 0).map(|path| path.len()), Some(node + 1));
        }
    }
}

/// 0 – {1, 2} – 3, the way over 1 being the shorter one.
fn diamond() -> (Net, PeerId) {
    let mut net = Net::new(4);
    let (first, _) = net.connect_at_cost(0, 1, 10);
    net.connect_at_cost(1, 3, 10);
    net.connect_at_cost(0, 2, 15);
    net.connect_at_cost(2, 3, 15);
    net.run(Duration::from_secs(10));
    assert_eq!(net.path(0, 3), Some(vec![0, 1, 3]));
    (net, first)
}

#[test]
fn a_closed_link_is_replaced_in_the_same_turn() {
    let (mut net, first) = diamond();
    net.disconnect(0, first);
    assert_eq!(net.path(0, 3), Some(vec![0, 2, 3]));
}

#[test]
fn a_relay_that_dies_silently_is_routed_around_within_two_seconds() {
    for offset in [0, 250, 500, 750, 999] {
        let (mut net, _) = diamond();
        net.run(Duration::from_millis(offset));
        net.dead.push(1);
        net.run(Duration::from_secs(2));
        assert_eq!(net.path(0, 3), Some(vec![0, 2, 3]));
        assert_eq!(net.path(3, 0), Some(vec![3, 2, 0]));
    }
}

#[test]
fn a_death_two_hops_away_is_routed_around_as_well() {
    let mut net = Net::new(6);
    for (a, b) in [(0, 1), (1, 2), (2, 5), (0, 3), (3, 4), (4, 5)] {
        net.connect(a, b);
    }
    net.run(Duration::from_secs(5));
    let path = net.path(0, 5).unwrap();
    let dead = path[2];
    net.dead.push(dead);
    net.run(Duration::from_secs(2));
    let detour = net.path(0, 5).unwrap();
    assert!(!detour.contains(&dead), "{detour:?}");
}

#[test]
fn a_restarted_node_is_reached_at_once_although_its_seqno_starts_over() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(1, 2);
    net.run(Duration::from_secs(1));
    for _ in 0..40 {
        net.restart(2);
        net.run(Duration::from_secs(1));
        assert_eq!(net.path(0, 2), None);
        net.connect(1, 2);
        net.run(LATENCY * 3);
        assert_eq!(net.path(0, 2), Some(vec![0, 1, 2]));
        assert_eq!(net.path(2, 0), Some(vec![2, 1, 0]));
    }
}

#[test]
fn only_a_longer_way_is_left_and_a_newer_seqno_opens_it() {
    // The long way from 0 to 1 never was feasible.
    let mut net = Net::new(5);
    let (direct, _) = net.connect(0, 1);
    for (a, b) in [(0, 2), (2, 3), (3, 4), (4, 1)] {
        net.connect(a, b);
    }
    net.run(Duration::from_secs(5));
    assert_eq!(net.path(0, 1), Some(vec![0, 1]));
    net.disconnect(0, direct);
    net.run(Duration::from_millis(300));
    assert_eq!(net.path(0, 1), Some(vec![0, 2, 3, 4, 1]));
    assert_eq!(net.path(2, 1), Some(vec![2, 3, 4, 1]));
}

#[test]
fn two_halves_that_meet_find_each_other_by_asking() {
    let mut net = Net::new(20);
    for node in 0..9 {
        net.connect(node, node + 1);
        net.connect(node + 10, node + 11);
    }
    net.run(Duration::from_secs(5));
    net.connect(9, 10);
    net.run(Duration::from_millis(100));
    net.need(0, 19);
    net.run(Duration::from_millis(100));
    assert_eq!(net.path(0, 19).map(|path| path.len()), Some(20));
}

#[test]
fn a_connection_to_ourselves_is_closed_on_both_ends() {
    let mut net = Net::new(1);
    net.connect(0, 0);
    net.run(Duration::from_secs(1));
    assert!(net.links.is_empty());
    assert!(net.nodes[0].snapshot(net.now).peers.is_empty());
}

#[test]
fn two_nodes_with_the_same_key_notice() {
    let mut net = Net::new(2);
    net.nodes[1] = Node::new(NodeConfig::default(), secret(0), [0xaa; 32], Time::ZERO);
    net.connect(0, 1);
    net.run(Duration::from_secs(1));
    let reports = net
        .seen
        .iter()
        .filter(|(_, _, output)| matches!(output, Output::Event(Event::DuplicateIdentity { .. })));
    assert_eq!(reports.count(), 2);
}

#[test]
fn a_route_in_use_survives_for_hours_at_any_distance_and_unused_ones_go() {
    let mut net = Net::new(5);
    for node in 0..4 {
        net.connect(node, node + 1);
    }
    net.run(Duration::from_secs(1));
    for _ in 0..180 {
        net.run(Duration::from_secs(60));
        for node in 0..4 {
            // What packets from 0 to 4 and their answers do on the way.
            for (node, target) in [(node, 4), (node + 1, 0)] {
                if let Some(entry) = net.nodes[node].fib().route(net.subnets[target]) {
                    entry.mark_used();
                }
            }
        }
        assert_eq!(net.path(0, 4), Some(vec![0, 1, 2, 3, 4]));
        assert_eq!(net.path(4, 0), Some(vec![4, 3, 2, 1, 0]));
    }
    assert_eq!(net.path(0, 3), None);
}

#[test]
fn an_idle_network_is_quiet() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(1, 2);
    net.run(Duration::from_secs(5));
    let before = net.packets;
    net.run(Duration::from_secs(100));
    // Four link ends, each with a Hello and an IHU a second.
    assert!(
        (795..=805).contains(&(net.packets - before)),
        "{}",
        net.packets - before
    );
}

#[test]
fn a_shutdown_leaves_no_route_behind() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(1, 2);
    net.run(Duration::from_secs(1));
    net.input(2, Input::Shutdown);
    net.run(LATENCY * 3);
    assert_eq!(net.path(0, 2), None);
    assert_eq!(net.path(1, 2), None);
}

/// What happens to a random network.
#[derive(Clone, Debug)]
enum Step {
    Connect(usize, usize, u16),
    Disconnect(usize),
    Restart(usize),
    Need(usize, usize),
    Die(usize),
    Revive(usize),
    Wait(u64),
}

fn any_step(nodes: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..nodes, 0..nodes, 1..60u16).prop_map(|(a, b, cost)| Step::Connect(a, b, cost)),
        2 => any::<usize>().prop_map(Step::Disconnect),
        1 => (0..nodes).prop_map(Step::Restart),
        2 => (0..nodes, 0..nodes).prop_map(|(a, b)| Step::Need(a, b)),
        1 => (0..nodes).prop_map(Step::Die),
        1 => (0..nodes).prop_map(Step::Revive),
        4 => (0..3_000u64).prop_map(Step::Wait),
    ]
}

impl Net {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Connect(a, b, cost) if a != b => {
                self.connect_at_cost(a, b, cost);
            }
            Step::Connect(..) => {}
            Step::Disconnect(number) => {
                let link = self
                    .links
                    .keys()
                    .nth(number % self.links.len().max(1))
                    .copied();
                if let Some((node, peer)) = link {
                    self.disconnect(node, peer);
                }
            }
            Step::Restart(node) => self.restart(node),
            Step::Need(a, b) => self.need(a, b),
            Step::Die(node) => self.dead.push(node),
            Step::Revive(node) => self.revive(node),
            Step::Wait(millis) => {
                // In small steps, so that loops cannot hide between two looks.
                for _ in 0..millis / 10 {
                    self.run(Duration::from_millis(10));
                    self.check_loops();
                }
            }
        }
        self.check_loops();
    }

    /// There is never a loop, with one exception that Babel shares: when a node starts anew, routes by its old and its
    /// new router-id may cross on their way, and packets go round until the next Update arrives.
    fn check_loops(&mut self) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if self.follow(from, to).is_err() && self.restarted.contains(&to) {
                    self.run(LATENCY * 10);
                }
                self.path(from, to);
            }
        }
    }

    /// Cost and number of hops of the path in use.
    fn used_cost(&self, from: usize, to: usize) -> (u32, u32) {
        let mut here = from;
        let mut cost = 0;
        let mut hops = 0;
        while here != to {
            let entry = self.nodes[here].fib().route(self.subnets[to]).unwrap();
            cost += self.costs[&(here, entry.next_hop)];
            hops += 1;
            here = self.links[&(here, entry.next_hop)].0;
        }
        (cost, hops)
    }

    /// Cost of the shortest path (Bellman and Ford).
    fn best_cost(&self, from: usize, to: usize) -> u32 {
        let mut distance = vec![u32::MAX / 2; self.nodes.len()];
        distance[to] = 0;
        for _ in 0..self.nodes.len() {
            for (end, &(b, _)) in &self.links {
                distance[end.0] = distance[end.0].min(distance[b] + self.costs[end]);
            }
        }
        distance[from]
    }

    /// Nodes that a chain of links connects to `from`.
    fn component(&self, from: usize) -> Vec<usize> {
        let mut found = vec![from];
        let mut next = 0;
        while let Some(&node) = found.get(next) {
            next += 1;
            for (&(a, _), &(b, _)) in &self.links {
                if a == node && !found.contains(&b) {
                    found.push(b);
                }
            }
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_is_never_a_loop_and_in_the_end_everybody_is_found(
        steps in proptest::collection::vec(any_step(7), 1..40)
    ) {
        let mut net = Net::new(7);
        for step in &steps {
            net.step(step);
        }
        for node in 0..7 {
            net.revive(node);
        }
        net.run(Duration::from_secs(20));
        for from in 0..7 {
            for to in net.component(from) {
                if net.path(from, to).is_none() {
                    net.need(from, to);
                    net.run(Duration::from_secs(15));
                }
                prop_assert!(net.path(from, to).is_some(), "{from} does not find {to}");
            }
        }
        for from in 0..7 {
            for to in net.component(from) {
                let (used, hops) = net.used_cost(from, to);
                let best = net.best_cost(from, to);
                prop_assert!(used <= best + 20 * hops, "{from} to {to}: {used} over {hops} hops, best {best}");
            }
        }
        net.check_loops();
    }

    #[test]
    fn the_same_inputs_at_the_same_times_give_the_same_outputs(
        steps in proptest::collection::vec(any_step(4), 1..20)
    ) {
        let run = || {
            let mut net = Net::new(4);
            for step in &steps {
                net.step(step);
            }
            (net.packets, net.seen, net.wire)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn output_is_announced_by_the_timeout_and_time_never_needs_to_run_backwards(
        packets in proptest::collection::vec((0..3u32, proptest::collection::vec(any::<u8>(), 0..90)), 1..50),
        times in proptest::collection::vec(0..5_000u64, 50)
    ) {
        let mut node = Node::new(NodeConfig::default(), secret(0), [1; 32], Time::ZERO);
        let link = LinkInfo { static_cost: 10, setup_rtt: None };
        let mut latest = Time::ZERO;
        for ((peer, bytes), at) in packets.iter().zip(times) {
            let now = Time::from_millis(at);
            latest = latest.max(now);
            let peer = PeerId(*peer);
            node.handle(Input::PeerUp { peer, link }, now);
            let mut packet = vec![1, 1, 0, 0, 42, 3, 0, u8::try_from(bytes.len()).unwrap()];
            packet.extend_from_slice(bytes);
            node.handle(Input::Control { peer, packet: &packet }, now);
            loop {
                let timeout = node.poll_timeout();
                if node.poll_output().is_none() {
                    break;
                }
                prop_assert_eq!(timeout, Some(latest));
            }
            node.handle_timeout(now);
        }
    }
}
