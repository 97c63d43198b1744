//! Every table and every kind of work has a bound (wire spec §8.4).

use super::*;

#[test]
fn self_made_identities_fill_only_their_neighbours_share() {
    let config = NodeConfig {
        max_routes_per_neighbour: 50,
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    let honest = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    for number in 0..200 {
        solo.update(P1, Remote::numbered(number).update(0, 0));
    }
    solo.update(P2, honest.update(0, 0));
    let snapshot = solo.node.snapshot(solo.now);
    assert_eq!(snapshot.peers[0].routes, 50);
    assert_eq!(snapshot.counters.refused_full, 150);
    assert_eq!(solo.next_hop(honest), Some(P2));
    assert_eq!(
        solo.next_hop(Remote::numbered(0)),
        Some(P1),
        "what was there first stays"
    );
}

#[test]
fn identities_that_come_and_go_do_not_lock_out_others() {
    let config = NodeConfig {
        max_destinations: 50,
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    let honest = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    for number in 0..200 {
        let remote = Remote::numbered(number);
        solo.update(P1, remote.update(0, 0));
        solo.update(P1, remote.update(0, INFINITE));
        solo.pass(Duration::from_secs(7), true);
    }
    solo.update(P2, honest.update(0, 0));
    assert_eq!(solo.next_hop(honest), Some(P2));
    assert_eq!(solo.node.snapshot(solo.now).counters.refused_full, 0);
}

#[test]
fn the_whole_table_is_bounded() {
    let config = NodeConfig {
        max_routes: 30,
        max_destinations: 20,
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    for peer in [P1, P2] {
        solo.up(peer);
        for number in 0..40 {
            solo.update(peer, Remote::numbered(number).update(0, 0));
        }
    }
    let snapshot = solo.node.snapshot(solo.now);
    assert_eq!(snapshot.selected.len(), 20);
    assert_eq!(snapshot.fallback.len(), 10);
    assert_eq!(solo.node.fib().len(), 20);
}

#[test]
fn a_neighbour_that_changes_its_mind_without_end_is_to_wait_and_closed_if_it_need_not() {
    let config = NodeConfig {
        updates: crate::babel::Allowance {
            per_second: 10,
            burst: 100,
        },
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    let remote = Remote::new(1);
    solo.up(P1);
    for _ in 0..1_000 {
        solo.update(P1, remote.update(0, 5));
    }
    assert_eq!(solo.closed(), [], "repetitions are free");
    for seqno in 1..=99 {
        solo.update(P1, remote.update(seqno, 5));
    }
    assert_eq!(solo.node.paused_until(P1, solo.now), None);
    for seqno in 100..=101 {
        solo.update(P1, remote.update(seqno, 5));
    }
    let until = solo.node.paused_until(P1, solo.now).unwrap();
    assert_eq!(until.since(solo.now), Duration::from_millis(200));
    assert_eq!(solo.closed(), []);
    assert_eq!(solo.next_hop(remote), Some(P1), "nothing is lost");
    for seqno in 102..=201 {
        solo.update(P1, remote.update(seqno, 5));
    }
    assert_eq!(solo.closed(), [(P1, CloseReason::Flooding)]);
    assert!(solo.node.fib().is_empty());
}

#[test]
fn a_neighbour_that_waits_as_told_is_never_closed() {
    let config = NodeConfig {
        updates: crate::babel::Allowance {
            per_second: 1_000,
            burst: 10,
        },
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    let remote = Remote::new(1);
    solo.up(P1);
    let started = solo.now;
    for seqno in 1..=5_000 {
        solo.update(P1, remote.update(seqno, 5));
        if let Some(until) = solo.node.paused_until(P1, solo.now) {
            solo.pass(until.since(solo.now), true);
        }
    }
    let took = solo.now.since(started);
    assert!(took >= Duration::from_millis(4_980), "{took:?}");
    assert!(took <= Duration::from_millis(5_100), "{took:?}");
    assert_eq!(solo.closed(), []);
    assert_eq!(solo.next_hop(remote), Some(P1));
}

#[test]
fn packets_of_one_neighbour_cause_a_bounded_number_of_queries() {
    let mut solo = Solo::new();
    solo.up(P1);
    solo.up(P2);
    let mut asked = 0;
    for number in 0..5_000 {
        let sent = solo.input(Input::RouteNeeded {
            subnet: Remote::numbered(number).subnet(),
            from: Some(P1),
        });
        asked += sent.len();
    }
    assert_eq!(asked, 2 * 256);
    let own = solo.input(Input::RouteNeeded {
        subnet: Remote::new(1).subnet(),
        from: None,
    });
    assert_eq!(own.len(), 2, "the host's own budget is untouched");
    let other = solo.input(Input::RouteNeeded {
        subnet: Remote::new(2).subnet(),
        from: Some(P2),
    });
    assert_eq!(other.len(), 2, "and so is another neighbour's");
}

#[test]
fn requests_for_random_subnets_are_forwarded_up_to_a_bound() {
    let config = NodeConfig {
        max_queries: 300,
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    solo.up(P1);
    solo.up(P2);
    let forwarded: usize = (0..20_000)
        .map(|number| solo.request(P1, Remote::numbered(number).subnet(), 0).len())
        .sum();
    assert_eq!(forwarded, 300);
    let snapshot = solo.node.snapshot(solo.now);
    assert_eq!(snapshot.queried.len(), 300);
    assert_eq!(snapshot.counters.refused_budget, 20_000 - 300);
    solo.pass(Duration::from_secs(16), true);
    assert_eq!(solo.node.snapshot(solo.now).queried.len(), 0);
}

#[test]
fn seqno_requests_for_others_are_forwarded_up_to_a_bound() {
    let config = NodeConfig {
        max_seqno_requests: 100,
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    solo.up(P1);
    solo.up(P2);
    let remote = Remote::new(1);
    solo.update(P1, remote.update(0, 100));
    let forwarded: usize = (0..=255)
        .map(|incarnation| {
            let forged = Remote::incarnation(1, incarnation);
            solo.seqno_request(P2, forged, 1, 64)
                .iter()
                .filter(|(_, tlv)| matches!(tlv, Tlv::SeqnoRequest(_)))
                .count()
        })
        .sum();
    assert_eq!(
        forwarded, 1,
        "only the incarnation that we know is asked for"
    );
    for seqno in 0..5_000 {
        solo.seqno_request(P2, remote, seqno * 7 + 1, 64);
    }
    assert!(solo.node.snapshot(solo.now).counters.refused_budget > 2_000);
}

#[test]
fn hellos_beyond_reason_are_not_answered() {
    let mut solo = Solo::new();
    solo.up(P1);
    let answers: usize = (0..1_000).map(|_| solo.tlv(P1, hello()).len()).sum();
    assert_eq!(answers, 100);
}

#[test]
fn events_that_nobody_fetches_are_bounded() {
    let config = NodeConfig {
        max_queued_events: 10,
        ..NodeConfig::default()
    };
    let mut node = Node::new(config, SecretKey::from_bytes([3; 32]), [9; 32], Time::ZERO);
    let link = LinkInfo {
        static_cost: 10,
        setup_rtt: None,
    };
    node.handle(Input::PeerUp { peer: P1, link }, Time::ZERO);
    for number in 0..100 {
        let packet = Tlv::Update(Remote::numbered(number).update(0, 5)).to_packet();
        let input = Input::Control {
            peer: P1,
            packet: &packet,
        };
        node.handle(input, Time::ZERO);
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
    let events = outputs
        .iter()
        .filter(|output| matches!(output, Output::Event(_)));
    assert_eq!(events.count(), 10);
    assert_eq!(node.snapshot(Time::ZERO).counters.events_dropped, 90);
}

#[test]
fn a_thousand_changes_between_two_polls_are_one_update() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    for metric in 0..1_000 {
        let packet = Tlv::Update(remote.update(0, 5_000 - metric)).to_packet();
        let input = Input::Control {
            peer: P1,
            packet: &packet,
        };
        solo.node.handle(input, solo.now);
    }
    let sent = solo.drain();
    assert_eq!(updates(&sent, remote), [(P2, 0, 4_001 + LINK)]);
}
