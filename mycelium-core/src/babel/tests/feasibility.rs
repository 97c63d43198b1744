//! RFC 8966 §3.5.1, §3.5.3 and §3.7.3: what may be stored, what may be used.

use super::*;

#[test]
fn a_first_announcement_is_feasible_and_told_to_all_but_its_sender() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    let sent = solo.update(P1, remote.update(7, 100));
    assert_eq!(
        updates(&sent, remote),
        [(P2, 7, 100 + LINK), (P3, 7, 100 + LINK)]
    );
    assert_eq!(solo.next_hop(remote), Some(P1));
    let entry = solo.node.fib().route(remote.subnet()).unwrap();
    assert_eq!(entry.public_key, remote.public_key);
}

#[test]
fn a_longer_route_than_ever_announced_is_stored_but_not_used() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 100 + LINK));
    let routes = solo.routes(remote);
    assert_eq!(routes.len(), 2);
    assert!(routes[0].feasible && !routes[1].feasible);
    let sent = solo.update(P1, remote.update(0, INFINITE));
    assert_eq!(solo.next_hop(remote), None);
    assert_eq!(updates(&sent, remote).len(), 3, "retracted to everybody");
    assert_eq!(
        seqno_requests(&sent, remote),
        [(P2, 1, 64)],
        "a newer seqno is asked for at once"
    );
}

#[test]
fn a_shorter_route_than_ever_announced_is_a_ready_fallback() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 100 + LINK - 1));
    assert_eq!(solo.next_hop(remote), Some(P1));
    let sent = solo.update(P1, remote.update(0, INFINITE));
    assert_eq!(solo.next_hop(remote), Some(P2));
    assert_eq!(
        updates(&sent, remote),
        [(P1, 0, 119)],
        "9 more is not worth an Update, but the old next hop never heard of ours"
    );
}

#[test]
fn a_newer_seqno_is_feasible_at_any_distance() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(65_535, 100));
    solo.update(P2, remote.update(0, 5_000));
    assert!(solo.routes(remote).iter().all(|route| route.feasible));
    solo.update(P1, remote.update(65_535, INFINITE));
    assert_eq!(solo.next_hop(remote), Some(P2));
}

#[test]
fn another_incarnation_of_a_node_has_its_own_feasibility() {
    let mut solo = Solo::new();
    let old = Remote::incarnation(1, 1);
    let new = Remote::incarnation(1, 2);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, old.update(40, 100));
    solo.update(P2, new.update(0, 300));
    assert!(solo.routes(new).iter().all(|route| route.feasible));
    let sent = solo.update(P1, old.update(40, INFINITE));
    assert_eq!(solo.next_hop(new), Some(P2));
    assert_eq!(
        updates(&sent, new),
        [(P2, 40, INFINITE), (P1, 0, 310), (P3, 0, 310)],
        "another router-id is told, and the new next hop forgets the old one"
    );
}

#[test]
fn an_infeasible_update_of_the_route_in_use_changes_nothing_but_asks_for_a_newer_seqno() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    let sent = solo.update(P1, remote.update(0, 900));
    assert_eq!(updates(&sent, remote), []);
    assert_eq!(seqno_requests(&sent, remote), [(P1, 1, 64)]);
    assert_eq!(solo.routes(remote)[0].metric, Some(100));
    assert_eq!(solo.next_hop(remote), Some(P1));
    let sent = solo.update(P1, remote.update(1, 900));
    assert_eq!(updates(&sent, remote), [(P2, 1, 910)]);
}

#[test]
fn a_route_in_use_whose_router_id_changes_to_an_infeasible_one_is_given_up() {
    let mut solo = Solo::new();
    let old = Remote::incarnation(1, 1);
    let new = Remote::incarnation(1, 2);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, new.update(0, 50));
    solo.update(P1, old.update(0, 50));
    let sent = solo.update(P1, new.update(0, 200));
    assert_eq!(solo.next_hop(new), None);
    assert_eq!(updates(&sent, new).len(), 3);
    assert_eq!(seqno_requests(&sent, new)[0], (P1, 1, 64));
}

#[test]
fn what_nobody_was_told_does_not_limit_a_leaf() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.update(P1, remote.update(0, 100));
    solo.update(P1, remote.update(0, 5_000));
    assert_eq!(solo.routes(remote)[0].metric, Some(5_000));
    assert_eq!(solo.next_hop(remote), Some(P1));
}

#[test]
fn feasibility_distances_outlive_their_routes_by_half_an_hour() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    solo.update(P1, remote.update(0, INFINITE));
    solo.pass(Duration::from_secs(29 * 60), true);
    solo.update(P1, remote.update(0, 500));
    assert_eq!(solo.next_hop(remote), None);
    solo.update(P1, remote.update(0, INFINITE));
    solo.pass(Duration::from_secs(2 * 60), true);
    solo.update(P1, remote.update(0, 500));
    assert_eq!(solo.next_hop(remote), Some(P1));
}

#[test]
fn a_retraction_under_a_foreign_router_id_counts_but_only_for_its_sender() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    let stranger = Remote::new(2);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(0, 100));
    let retraction = Update {
        router_id: stranger.router_id,
        ..remote.update(3, INFINITE)
    };
    solo.update(P3, retraction);
    solo.update(P2, retraction);
    assert_eq!(
        solo.next_hop(remote),
        Some(P1),
        "strangers retract nothing but their own"
    );
    solo.update(P1, retraction);
    assert_eq!(solo.next_hop(remote), None);
    assert_eq!(solo.routes(remote)[0].router_id, remote.router_id);
}

#[test]
fn single_addresses_and_foreign_subnets_are_refused_and_counted() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    let host = Update {
        prefix: Prefix::new(remote.public_key.address(), 128).unwrap(),
        ..remote.update(0, 0)
    };
    let stolen = Update {
        router_id: Remote::new(2).router_id,
        ..remote.update(0, 0)
    };
    let fleeting = Update {
        interval: 0,
        ..remote.update(0, 0)
    };
    for bad in [host, stolen, fleeting] {
        assert_eq!(solo.update(P1, bad), []);
    }
    assert!(solo.node.fib().is_empty());
    let counters = solo.node.snapshot(solo.now).counters;
    assert_eq!(
        (
            counters.refused_prefix,
            counters.refused_owner,
            counters.refused_interval
        ),
        (1, 1, 1)
    );
}

#[test]
fn sources_of_a_destination_are_bounded_and_the_oldest_unused_one_goes() {
    let mut solo = Solo::new();
    solo.up(P1);
    solo.up(P2);
    for incarnation in 0..100 {
        let remote = Remote::incarnation(1, incarnation);
        solo.update(P1, remote.update(0, 100));
        assert_eq!(solo.routes(remote)[0].router_id, remote.router_id);
    }
    let first = Remote::incarnation(1, 0);
    solo.update(P1, first.update(0, 60_000));
    assert_eq!(
        solo.routes(first)[0].metric,
        Some(60_000),
        "its distance is forgotten"
    );
    let last = Remote::incarnation(1, 99);
    solo.update(P2, last.update(0, 50_000));
    assert!(
        solo.routes(last)
            .iter()
            .any(|route| route.next_hop == P2 && !route.feasible),
        "that of a recent one is not"
    );
}

#[test]
fn a_next_hop_by_a_new_router_id_is_told_to_forget_what_we_said_of_the_old_one() {
    let mut solo = Solo::new();
    let old = Remote::incarnation(1, 1);
    let new = Remote::incarnation(1, 2);
    solo.up(P1);
    solo.up(P2);
    let sent = solo.update(P1, old.update(5, 30));
    assert_eq!(updates(&sent, old), [(P2, 5, 40)]);
    let sent = solo.update(P2, new.update(0, 0));
    assert_eq!(updates(&sent, new), [(P2, 5, INFINITE), (P1, 0, 10)]);
    assert_eq!(solo.next_hop(new), Some(P2));
}

#[test]
fn a_new_next_hop_is_told_that_our_route_by_another_router_id_is_gone() {
    for leaf in [false, true] {
        let mut solo = Solo::new();
        let (old, new) = (Remote::incarnation(1, 1), Remote::incarnation(1, 2));
        solo.up(P1);
        solo.up(P2);
        if !leaf {
            solo.up(P3);
        }
        let sent = solo.update(P1, old.update(4, 100));
        assert!(updates(&sent, old).contains(&(P2, 4, 100 + LINK)));
        solo.update(P2, new.update(0, 200));
        let sent = solo.input(Input::PeerDown { peer: P1 });
        assert_eq!(solo.next_hop(new), Some(P2));
        let told: Vec<_> = updates(&sent, new);
        assert!(told.contains(&(P2, 4, INFINITE)), "leaf {leaf}: {told:?}");
        assert_eq!(told.contains(&(P3, 0, 200 + LINK)), !leaf);
        // Once is enough.
        let sent = solo.update(P2, new.update(1, 190));
        assert!(!updates(&sent, new).iter().any(|&(peer, ..)| peer == P2));
    }
}
