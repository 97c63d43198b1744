//! RFC 8966 §3.6 and §3.7.2: which route is used, and when neighbours hear of it.

use super::*;

#[test]
fn the_shortest_route_counting_the_link_to_the_neighbour_is_used() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up_at_cost(P1, 200);
    solo.up_at_cost(P2, 10);
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 150));
    assert_eq!(solo.next_hop(remote), Some(P2));
}

#[test]
fn a_slightly_better_route_does_not_replace_the_one_in_use() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 90));
    assert_eq!(solo.next_hop(remote), Some(P1));
    solo.update(P2, remote.update(0, 89));
    assert_eq!(solo.next_hop(remote), Some(P2));
}

#[test]
fn parallel_links_to_an_origin_do_not_flap() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up_at_cost(P1, 20);
    solo.up_at_cost(P2, 10);
    solo.update(P1, remote.update(0, 0));
    solo.update(P2, remote.update(0, 0));
    assert_eq!(solo.next_hop(remote), Some(P1));
}

#[test]
fn only_changes_by_more_than_ten_are_told() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    assert_eq!(updates(&solo.update(P1, remote.update(0, 90)), remote), []);
    assert_eq!(updates(&solo.update(P1, remote.update(1, 90)), remote), []);
    let sent = solo.update(P1, remote.update(1, 89));
    assert_eq!(updates(&sent, remote), [(P2, 1, 99)]);
}

#[test]
fn small_changes_are_told_once_they_add_up() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    let told: Vec<u16> = (1..=40)
        .flat_map(|step| updates(&solo.update(P1, remote.update(0, 100 - step)), remote))
        .map(|(_, _, metric)| metric)
        .collect();
    assert_eq!(told, [99, 88, 77]);
}

#[test]
fn a_lost_route_is_retracted_to_everybody_once() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(4, 100));
    let sent = solo.update(P1, remote.update(4, INFINITE));
    assert_eq!(
        updates(&sent, remote),
        [(P1, 4, INFINITE), (P2, 4, INFINITE)]
    );
    assert_eq!(
        updates(&solo.update(P1, remote.update(4, INFINITE)), remote),
        []
    );
    assert!(matches!(solo.events()[..], [.., Event::RouteLost { .. }]));
}

#[test]
fn a_lost_link_switches_to_the_fallback_at_once_and_retracts_the_rest() {
    let mut solo = Solo::new();
    let (with, without) = (Remote::new(1), Remote::new(2));
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, with.update(0, 20));
    solo.update(P2, with.update(0, 25));
    solo.update(P1, without.update(0, 20));
    let sent = solo.input(Input::PeerDown { peer: P1 });
    assert_eq!(solo.next_hop(with), Some(P2));
    assert_eq!(solo.next_hop(without), None);
    assert_eq!(updates(&sent, with), []);
    assert_eq!(
        updates(&sent, without),
        [(P2, 0, INFINITE), (P3, 0, INFINITE)]
    );
    assert_eq!(solo.node.snapshot(solo.now).peers.len(), 2);
}

#[test]
fn a_retracted_route_is_forgotten_after_six_seconds() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.update(P1, remote.update(0, 100));
    solo.update(P1, remote.update(0, INFINITE));
    solo.pass(Duration::from_millis(5_900), true);
    assert_eq!(solo.routes(remote)[0].metric, None);
    solo.pass(Duration::from_millis(200), true);
    assert_eq!(solo.routes(remote).len(), 0);
}

#[test]
fn a_route_that_is_not_repeated_is_retracted_after_three_and_a_half_intervals() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    let brief = Update {
        interval: 1_000,
        ..remote.update(0, 100)
    };
    solo.update(P1, brief);
    let sent = solo.pass(Duration::from_millis(34_900), true);
    assert_eq!(updates(&sent, remote), []);
    let sent = solo.pass(Duration::from_millis(200), true);
    assert_eq!(
        updates(&sent, remote),
        [(P1, 0, INFINITE), (P2, 0, INFINITE)]
    );
    assert_eq!(solo.next_hop(remote), None);
}

#[test]
fn a_repeated_route_lives_on() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    for _ in 0..10 {
        solo.update(P1, remote.update(0, 0));
        solo.pass(Duration::from_secs(1_000), true);
    }
    assert_eq!(solo.next_hop(remote), Some(P1));
    solo.pass(Duration::from_secs(60), true);
    assert_eq!(solo.next_hop(remote), None);
}

#[test]
fn an_expired_fallback_goes_quietly() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    let brief = Update {
        interval: 1_000,
        ..remote.update(0, 105)
    };
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, brief);
    let sent = solo.pass(Duration::from_secs(40), true);
    assert_eq!(updates(&sent, remote), []);
    assert_eq!(solo.routes(remote).len(), 1);
}

#[test]
fn an_interval_shorter_than_sensible_is_stretched() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    let brief = Update {
        interval: 1,
        ..remote.update(0, 100)
    };
    solo.update(P1, brief);
    solo.pass(Duration::from_millis(4_900), true);
    assert_eq!(solo.next_hop(remote), Some(P1));
    solo.pass(Duration::from_millis(200), true);
    assert_eq!(solo.next_hop(remote), None);
}

#[test]
fn a_route_in_use_is_asked_for_again_at_half_time_at_any_distance() {
    let mut solo = Solo::new();
    let (used, unused) = (Remote::new(1), Remote::new(2));
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, used.update(0, 500));
    solo.update(P2, used.update(0, 505));
    solo.update(P1, unused.update(0, 500));
    for _ in 0..20 {
        solo.node.fib().route(used.subnet()).unwrap().mark_used();
        let sent = solo.pass(Duration::from_secs(530), true);
        assert_eq!(requests(&sent, used), [(P1, 0), (P2, 0)]);
        assert_eq!(requests(&sent, unused), []);
        solo.update(P1, used.update(0, 500));
        solo.update(P2, used.update(0, 505));
    }
    assert_eq!(solo.next_hop(used), Some(P1));
    assert_eq!(solo.next_hop(unused), None);
}

#[test]
fn an_unanswered_refresh_is_repeated_while_the_route_is_used() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.update(P1, remote.update(0, 500));
    let mut asked = 0;
    for _ in 0..1_049 {
        solo.node.fib().route(remote.subnet()).unwrap().mark_used();
        asked += requests(&solo.pass(Duration::from_secs(1), true), remote).len();
    }
    assert_eq!(asked, 4);
}

#[test]
fn a_neighbour_is_identified_by_what_it_originates_itself() {
    let mut solo = Solo::new();
    let (neighbour, beyond) = (Remote::new(1), Remote::new(2));
    solo.up(P1);
    solo.update(P1, beyond.update(0, 30));
    solo.update(P1, neighbour.update(0, 0));
    let identified = Event::PeerIdentified {
        peer: P1,
        public_key: neighbour.public_key,
    };
    assert!(solo.events().contains(&&identified));
    let peers = solo.node.snapshot(solo.now).peers;
    assert_eq!(peers[0].public_key, Some(neighbour.public_key));
    assert_eq!(peers[0].routes, 2);
}

#[test]
fn the_forwarding_table_is_published_once_after_each_change() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.node.fib_if_changed();
    solo.up(P1);
    assert!(solo.node.fib_if_changed().is_none());
    solo.update(P1, remote.update(0, 100));
    assert_eq!(solo.node.fib_if_changed().map(|fib| fib.len()), Some(1));
    assert!(solo.node.fib_if_changed().is_none());
    solo.update(P1, remote.update(0, 120));
    assert!(
        solo.node.fib_if_changed().is_none(),
        "the next hop is the same"
    );
    solo.update(P1, remote.update(0, INFINITE));
    assert_eq!(solo.node.fib_if_changed().map(|fib| fib.len()), Some(0));
}

#[test]
fn a_new_neighbour_is_told_a_small_table() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.update(P1, remote.update(0, 100));
    let sent = solo.up(P2);
    assert_eq!(updates(&sent, remote), [(P2, 0, 110)]);
    let sent = solo.input(Input::PeerDown { peer: P1 });
    assert_eq!(updates(&sent, remote), [(P2, 0, INFINITE)]);
}

#[test]
fn a_new_neighbour_is_not_told_a_large_table() {
    let mut solo = Solo::new();
    solo.up(P1);
    for number in 0..257 {
        solo.update(P1, Remote::numbered(number).update(0, 100));
    }
    let sent = solo.up(P2);
    assert_eq!(sent.len(), 2, "our Hello and our own subnet");
}

#[test]
fn a_link_that_proved_its_key_is_preferred_to_another_to_the_same_node() {
    let mut solo = Solo::new();
    let (node, far) = (Remote::new(1), Remote::new(2));
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    for peer in [P1, P2] {
        solo.update(peer, node.update(0, 0));
        solo.update(peer, far.update(0, 20));
    }
    solo.update(P3, far.update(0, 29));
    assert_eq!(solo.next_hop(far), Some(P1));
    solo.input(Input::PeerAuthenticated {
        peer: P2,
        public_key: node.public_key,
    });
    // From the next look at each destination on.
    solo.update(P2, node.update(1, 0));
    solo.update(P2, far.update(0, 21));
    assert_eq!(
        (solo.next_hop(node), solo.next_hop(far)),
        (Some(P2), Some(P2))
    );
    // Neither a better sample of the other link nor a better neighbour within the hysteresis changes that.
    solo.update(P1, far.update(0, 5));
    assert_eq!(solo.next_hop(far), Some(P2));
    // What is longer by far is not used, proved or not.
    solo.update(P2, far.update(1, 60));
    assert_eq!(solo.next_hop(far), Some(P1));
}
