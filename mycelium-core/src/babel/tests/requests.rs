//! Looking for routes and for newer seqnos (wire spec §5.14 and §5.15).

use super::*;

fn needed(remote: Remote) -> Input<'static> {
    Input::RouteNeeded {
        subnet: remote.subnet(),
        from: None,
    }
}

fn failed(solo: &Solo, remote: Remote) -> bool {
    let subnet = remote.subnet();
    solo.other.contains(&Output::QueryFailed { subnet })
}

#[test]
fn a_needed_route_is_asked_for_everywhere_and_again_after_two_round_trips() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    let sent = solo.input(needed(remote));
    assert_eq!(requests(&sent, remote), [(P1, 0), (P2, 0)]);
    assert_eq!(requests(&solo.input(needed(remote)), remote), []);
    let mut times = Vec::new();
    for step in 0..400 {
        if !requests(&solo.pass(Duration::from_millis(10), true), remote).is_empty() {
            times.push((step + 1) * 10);
        }
    }
    assert_eq!(times, [50, 150, 350, 750, 1_550]);
    assert!(failed(&solo, remote));
    assert_eq!(solo.node.snapshot(solo.now).counters.queries_failed, 1);
}

#[test]
fn a_query_fails_after_three_seconds_and_may_start_again() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.input(needed(remote));
    solo.pass(Duration::from_millis(2_990), true);
    assert!(!failed(&solo, remote));
    solo.pass(Duration::from_millis(20), true);
    assert!(failed(&solo, remote));
    assert_eq!(requests(&solo.input(needed(remote)), remote), [(P1, 0)]);
}

#[test]
fn a_found_route_ends_the_query() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.input(needed(remote));
    assert_eq!(solo.node.snapshot(solo.now).queried.len(), 1);
    solo.update(P1, remote.update(0, 100));
    assert_eq!(solo.node.snapshot(solo.now).queried.len(), 0);
    let sent = solo.pass(Duration::from_secs(20), true);
    assert_eq!(requests(&sent, remote), []);
    assert!(!failed(&solo, remote));
}

#[test]
fn a_new_neighbour_is_asked_for_everything_that_is_looked_for() {
    let mut solo = Solo::new();
    let (ours, theirs) = (Remote::new(1), Remote::new(2));
    solo.up(P1);
    solo.input(needed(ours));
    solo.request(P1, theirs.subnet(), 4);
    let sent = solo.up(P2);
    assert_eq!(requests(&sent, ours), [(P2, 0)]);
    assert_eq!(requests(&sent, theirs), [(P2, 5)]);
}

#[test]
fn a_query_before_the_first_neighbour_reaches_it() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.input(Input::Resolve {
        subnet: remote.subnet(),
    });
    assert_eq!(requests(&solo.up(P1), remote), [(P1, 0)]);
}

#[test]
fn nothing_is_asked_about_what_is_known_or_ours_or_elsewhere() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    let us = solo.ourselves();
    solo.up(P1);
    solo.update(P1, remote.update(0, 100));
    assert_eq!(solo.input(needed(remote)), []);
    assert_eq!(solo.input(needed(us)), []);
    let elsewhere = Subnet::from_octets([0x20, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(solo.input(Input::Resolve { subnet: elsewhere }), []);
    assert_eq!(
        solo.other.last(),
        Some(&Output::QueryFailed { subnet: elsewhere })
    );
}

#[test]
fn a_request_for_a_known_route_is_answered_to_the_asker() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(6, 100));
    let sent = solo.request(P2, remote.subnet(), 0);
    assert_eq!(sent, [(P2, Tlv::Update(remote.update(6, 110)))]);
}

#[test]
fn a_request_by_the_next_hop_itself_is_not_answered() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(6, 100));
    assert_eq!(solo.request(P1, remote.subnet(), 0), []);
}

#[test]
fn a_request_for_anything_inside_our_subnet_is_answered_with_the_subnet() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    for length in [64, 65, 128] {
        let request = Tlv::RouteRequest(RouteRequest {
            generation: Generation(255),
            prefix: Prefix::new(us.public_key.address(), length),
        });
        assert_eq!(
            solo.tlv(P1, request),
            [(P1, Tlv::Update(us.update(0, 0)))],
            "/{length}"
        );
    }
}

#[test]
fn a_request_for_something_that_is_no_subnet_is_refused() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    for length in [0, 7, 63, 65, 128] {
        let request = Tlv::RouteRequest(RouteRequest {
            generation: Generation(0),
            prefix: Prefix::new(remote.public_key.address(), length),
        });
        assert_eq!(solo.tlv(P1, request), []);
    }
    assert_eq!(solo.node.snapshot(solo.now).counters.refused_request, 5);
}

#[test]
fn an_unknown_subnet_is_asked_for_on_behalf_of_the_asker() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    let sent = solo.request(P1, remote.subnet(), 3);
    assert_eq!(requests(&sent, remote), [(P2, 4), (P3, 4)]);
    let sent = solo.update(P3, remote.update(0, 100));
    assert_eq!(updates(&sent, remote), [(P1, 0, 110), (P2, 0, 110)]);
}

#[test]
fn a_request_is_forwarded_once_unless_it_comes_from_nearer() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.request(P1, remote.subnet(), 3);
    assert_eq!(solo.request(P1, remote.subnet(), 3), []);
    assert_eq!(solo.request(P2, remote.subnet(), 3), []);
    assert_eq!(solo.request(P2, remote.subnet(), 9), []);
    let nearer = solo.request(P2, remote.subnet(), 1);
    assert_eq!(requests(&nearer, remote), [(P1, 2), (P3, 2)]);
    solo.pass(Duration::from_millis(15_100), true);
    let later = solo.request(P1, remote.subnet(), 3);
    assert_eq!(requests(&later, remote), [(P2, 4), (P3, 4)]);
}

#[test]
fn a_request_that_came_far_is_not_forwarded_and_generations_do_not_wrap() {
    let mut solo = Solo::new();
    solo.up(P1);
    solo.up(P2);
    let sent = solo.request(P1, Remote::new(1).subnet(), 14);
    assert_eq!(requests(&sent, Remote::new(1)), [(P2, 15)]);
    for generation in [15, 16, 254, 255] {
        let remote = Remote::new(generation);
        assert_eq!(solo.request(P1, remote.subnet(), generation), []);
    }
    assert_eq!(solo.node.snapshot(solo.now).queried.len(), 1);
}

#[test]
fn a_forwarded_query_that_we_need_ourselves_starts_from_the_beginning() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.request(P1, remote.subnet(), 7);
    let sent = solo.input(needed(remote));
    assert_eq!(requests(&sent, remote), [(P1, 0), (P2, 0)]);
}

#[test]
fn a_wildcard_request_gets_everything_in_slices() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    solo.up(P1);
    for number in 0..300 {
        solo.update(P1, Remote::numbered(number).update(0, 100));
    }
    solo.up(P2);
    let wildcard = Tlv::RouteRequest(RouteRequest {
        generation: Generation(0),
        prefix: None,
    });
    let sent = solo.tlv(P2, wildcard);
    assert_eq!(updates(&sent, us), [(P2, 0, 0)]);
    assert_eq!(sent.len(), 1 + 64);
    assert_eq!(solo.tlv(P2, wildcard), [], "one at a time");
    let rest = solo.pass(Duration::from_millis(100), true);
    let updates = rest
        .iter()
        .filter(|(peer, tlv)| *peer == P2 && matches!(tlv, Tlv::Update(_)));
    assert_eq!(updates.count(), 300 - 64);
    assert_eq!(solo.tlv(P2, wildcard), [], "and not too often");
    solo.pass(Duration::from_secs(10), true);
    assert_eq!(solo.tlv(P2, wildcard).len(), 1 + 64);
    assert_eq!(
        solo.tlv(P1, wildcard).len(),
        1,
        "nothing to the next hop itself"
    );
}

#[test]
fn a_seqno_request_that_our_route_meets_is_answered() {
    let mut solo = Solo::new();
    let (remote, before) = (Remote::incarnation(1, 2), Remote::incarnation(1, 1));
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(7, 100));
    for (of, seqno) in [(remote, 7), (remote, 6), (before, 900)] {
        let sent = solo.seqno_request(P2, of, seqno, 64);
        assert_eq!(sent, [(P2, Tlv::Update(remote.update(7, 110)))]);
    }
}

#[test]
fn a_seqno_request_travels_towards_the_origin_and_its_answer_comes_back() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(7, 100));
    let sent = solo.seqno_request(P2, remote, 8, 10);
    assert_eq!(sent, [(P1, seqno_request(remote, 8, 9))]);
    let sent = solo.update(P1, remote.update(8, 100));
    assert_eq!(
        sent,
        [(P2, Tlv::Update(remote.update(8, 110)))],
        "a newer seqno alone is only told to those who asked"
    );
}

#[test]
fn a_seqno_request_is_forwarded_once_and_all_who_asked_get_the_answer() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(7, 100));
    solo.seqno_request(P2, remote, 8, 10);
    assert_eq!(solo.seqno_request(P2, remote, 8, 10), []);
    assert_eq!(solo.seqno_request(P3, remote, 8, 10), []);
    solo.pass(Duration::from_millis(500), true);
    assert_eq!(
        solo.seqno_request(P3, remote, 8, 10).len(),
        1,
        "a repetition is passed on"
    );
    let sent = solo.update(P1, remote.update(8, 100));
    assert_eq!(updates(&sent, remote), [(P2, 8, 110), (P3, 8, 110)]);
}

#[test]
fn a_seqno_request_at_the_end_of_its_way_goes_no_further() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(7, 100));
    assert_eq!(solo.seqno_request(P2, remote, 8, 1), []);
    assert_eq!(
        solo.seqno_request(P1, remote, 8, 64),
        [],
        "and never back to the asker"
    );
    assert_eq!(solo.seqno_request(P2, Remote::new(9), 8, 64), []);
}

#[test]
fn our_own_seqno_request_is_repeated_with_growing_pauses_until_answered() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 500));
    solo.input(Input::PeerDown { peer: P1 });
    let sent = solo.pass(Duration::from_millis(700), true);
    assert_eq!(seqno_requests(&sent, remote), [(P2, 1, 64); 3]);
    let sent = solo.update(P2, remote.update(1, 500));
    assert_eq!(solo.next_hop(remote), Some(P2));
    assert_eq!(updates(&sent, remote), [(P3, 1, 510)]);
    let sent = solo.pass(Duration::from_secs(60), true);
    assert_eq!(seqno_requests(&sent, remote), []);
}

#[test]
fn an_unanswered_seqno_request_is_given_up_and_asks_for_more_before() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 500));
    let first = solo.input(Input::PeerDown { peer: P1 });
    assert_eq!(seqno_requests(&first, remote).len(), 1);
    let sent = solo.pass(Duration::from_secs(60), true);
    let seqnos: Vec<u16> = seqno_requests(&sent, remote)
        .iter()
        .map(|&(_, seqno, _)| seqno)
        .collect();
    assert_eq!(seqnos, [1, 1, 1, 2, 2, 2, 2]);
}

#[test]
fn an_infeasible_offer_when_nothing_is_selected_is_turned_into_a_request() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    solo.update(P1, remote.update(0, INFINITE));
    let sent = solo.update(P2, remote.update(0, 400));
    assert_eq!(seqno_requests(&sent, remote), [(P2, 1, 64)]);
    assert_eq!(solo.next_hop(remote), None);
    solo.update(P2, remote.update(1, 400));
    assert_eq!(solo.next_hop(remote), Some(P2));
}

#[test]
fn a_much_better_route_that_may_not_be_used_is_asked_for_as_well() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P1, remote.update(0, 10));
    solo.update(P1, remote.update(0, INFINITE));
    solo.update(P2, remote.update(1, 300));
    let sent = solo.update(P3, remote.update(0, 285));
    assert_eq!(
        seqno_requests(&sent, remote),
        [(P3, 1, 64)],
        "the seqno that we have would do: it is shorter than what we announced"
    );
    assert_eq!(solo.next_hop(remote), Some(P2));
    solo.update(P3, remote.update(1, 285));
    assert_eq!(solo.next_hop(remote), Some(P3));
}

#[test]
fn a_slightly_better_route_that_may_not_be_used_is_left_alone() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P2, remote.update(1, 300));
    let sent = solo.update(P3, remote.update(0, 295));
    assert_eq!(seqno_requests(&sent, remote), []);
}

#[test]
fn a_seqno_request_does_not_go_back_over_another_link_to_the_asker() {
    let mut solo = Solo::new();
    let (remote, neighbour) = (Remote::new(1), Remote::new(2));
    for peer in [P1, P2] {
        solo.up(peer);
        solo.update(peer, neighbour.update(0, 0));
    }
    solo.update(P1, remote.update(7, 100));
    assert_eq!(solo.seqno_request(P2, remote, 8, 64), []);
}
