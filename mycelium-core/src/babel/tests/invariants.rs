//! Whatever neighbours say, the tables agree with one another.

use proptest::prelude::*;

use super::*;
use crate::io::IdentityId;

#[derive(Clone, Debug)]
enum Step {
    Up(u32),
    Down(u32),
    Heard(u32),
    Update {
        peer: u32,
        node: u8,
        incarnation: u8,
        seqno: u16,
        metric: u16,
        interval: u16,
    },
    Request {
        peer: u32,
        node: u8,
        generation: u8,
    },
    SeqnoRequest {
        peer: u32,
        node: u8,
        seqno: u16,
        hops: u8,
    },
    Wildcard(u32),
    Ihu(u32),
    Needed(u8),
    Add(u8),
    Remove(u8),
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let peer = 0..4u32;
    let node = 0..6u8;
    let metric = prop_oneof![4 => 0..60u16, 1 => Just(INFINITE), 1 => Just(65_534u16)];
    let seqno = prop_oneof![6 => 0..4u16, 1 => any::<u16>()];
    let interval = prop_oneof![3 => Just(30_000u16), 1 => 0..500u16];
    prop_oneof![
        3 => peer.clone().prop_map(Step::Up),
        1 => peer.clone().prop_map(Step::Down),
        1 => peer.clone().prop_map(Step::Heard),
        12 => (peer.clone(), node.clone(), 0..3u8, seqno, metric, interval).prop_map(
            |(peer, node, incarnation, seqno, metric, interval)| Step::Update {
                peer, node, incarnation, seqno, metric, interval,
            }
        ),
        2 => (peer.clone(), node.clone(), any::<u8>()).prop_map(|(peer, node, generation)| Step::Request {
            peer, node, generation,
        }),
        2 => (peer.clone(), node.clone(), 0..9u16, 1..=255u8).prop_map(|(peer, node, seqno, hops)| {
            Step::SeqnoRequest { peer, node, seqno, hops }
        }),
        1 => peer.clone().prop_map(Step::Wildcard),
        2 => peer.prop_map(Step::Ihu),
        2 => node.clone().prop_map(Step::Needed),
        1 => node.clone().prop_map(Step::Add),
        1 => node.prop_map(Step::Remove),
        4 => prop_oneof![0..3_000u64, 0..2_000_000u64].prop_map(Step::Pass),
    ]
}

fn secret(node: u8) -> SecretKey {
    let mut secret = [node; 32];
    secret[1] = 0xee;
    SecretKey::from_bytes(secret)
}

impl Solo {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Up(peer) => drop(self.up(PeerId(peer))),
            Step::Down(peer) => drop(self.input(Input::PeerDown { peer: PeerId(peer) })),
            Step::Heard(peer) => drop(self.input(Input::Heard { peer: PeerId(peer) })),
            Step::Update {
                peer,
                node,
                incarnation,
                seqno,
                metric,
                interval,
            } => {
                let update = Update {
                    interval,
                    ..Remote::incarnation(node, incarnation).update(seqno, metric)
                };
                self.update(PeerId(peer), update);
            }
            Step::Request {
                peer,
                node,
                generation,
            } => {
                self.request(PeerId(peer), Remote::new(node).subnet(), generation);
            }
            Step::SeqnoRequest {
                peer,
                node,
                seqno,
                hops,
            } => {
                self.seqno_request(PeerId(peer), Remote::new(node), seqno, hops);
            }
            Step::Wildcard(peer) => {
                let wildcard = RouteRequest {
                    generation: Generation(0),
                    prefix: None,
                };
                self.tlv(PeerId(peer), Tlv::RouteRequest(wildcard));
            }
            Step::Ihu(peer) => drop(self.tlv(PeerId(peer), ihu())),
            Step::Needed(node) => {
                let subnet = Remote::new(node).subnet();
                self.input(Input::RouteNeeded { subnet, from: None });
            }
            Step::Add(node) => {
                let id = IdentityId(u32::from(node) + 1);
                let secret = secret(node);
                self.input(Input::AddIdentity { id, secret });
            }
            Step::Remove(node) => {
                let id = IdentityId(u32::from(node) + 1);
                self.input(Input::RemoveIdentity { id });
            }
            Step::Pass(millis) => drop(self.pass(Duration::from_millis(millis), millis % 2 == 0)),
        }
        self.node.babel().assert_consistent();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn tables_agree_with_one_another(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut solo = Solo::new();
        for step in &steps {
            solo.step(step);
        }
    }

    #[test]
    fn tables_agree_with_one_another_when_they_are_full(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut solo = Solo::with(NodeConfig {
            max_destinations: 3,
            max_routes: 5,
            max_routes_per_neighbour: 2,
            max_sources: 4,
            max_queries: 2,
            max_seqno_requests: 2,
            dump_slice: 1,
            ..NodeConfig::default()
        });
        for step in &steps {
            solo.step(step);
        }
        let babel = solo.node.babel();
        prop_assert!(babel.table.len() <= 3 && babel.table.routes() <= 5);
        prop_assert!(babel.table.sources() <= 4 + 3);
    }
}

impl crate::babel::Babel {
    fn assert_consistent(&self) {
        let mut routes = 0;
        let mut sources = 0;
        let mut selected = 0;
        for (subnet, destination) in self.table.iter() {
            assert!(self.origins.get(subnet).is_none(), "ours are not learned");
            routes += destination.routes.len();
            sources += destination.sources.len();
            for route in &destination.routes {
                let neighbour = self.neighbours.get(&route.peer);
                assert!(neighbour.is_some_and(|neighbour| neighbour.routes.contains(&subnet)));
                assert!(destination.sources.router_id(route.source).is_some());
            }
            let deadline = destination.next_deadline(self.config.source_lifetime, Time::ZERO);
            assert!(deadline.is_some(), "an entry without end");
            assert_ne!(
                destination.armed,
                crate::babel::Armed::default(),
                "nobody looks after it"
            );
            let entry = self.fib.route(subnet);
            assert_eq!(entry.map(|entry| entry.next_hop), destination.selected);
            if let Some(route) = destination.selected_route() {
                selected += 1;
                assert!(destination.is_feasible(route) && route.metric.is_finite());
                let router_id = destination.sources.router_id(route.source);
                assert_eq!(
                    entry.map(|entry| entry.public_key),
                    router_id.map(RouterId::public_key)
                );
            } else {
                assert_eq!(destination.selected, None);
            }
        }
        assert_eq!(self.fib.len(), selected);
        assert_eq!(self.table.routes(), routes);
        assert_eq!(self.table.sources(), sources);
        let indexed: usize = self
            .neighbours
            .values()
            .map(|neighbour| neighbour.routes.len())
            .sum();
        assert_eq!(indexed, routes);
        assert!(!self.has_output());
        for (subnet, _) in self.queries.iter() {
            let known = self
                .table
                .get(subnet)
                .is_some_and(|destination| destination.selected.is_some());
            assert!(!known, "found, but still looked for");
        }
    }
}
