//! Hellos, IHUs, round trips and silence (decisions: dead links noticed within two seconds, stalled ones not cut).

use super::*;

fn hellos(sent: &[(PeerId, Tlv)]) -> usize {
    sent.iter()
        .filter(|(_, tlv)| matches!(tlv, Tlv::Hello(_)))
        .count()
}

#[test]
fn a_new_link_starts_with_a_hello_and_our_subnet() {
    let mut solo = Solo::new();
    let us = solo.ourselves();
    let sent = solo.up(P1);
    assert!(
        matches!(sent[0], (P1, Tlv::Hello(hello)) if hello.seqno == 0 && hello.interval == 100)
    );
    assert_eq!(sent[1], (P1, Tlv::Update(us.update(0, 0))));
    assert_eq!(sent.len(), 2);
}

#[test]
fn every_hello_is_answered_at_once() {
    let mut solo = Solo::new();
    solo.up(P1);
    let sent = solo.tlv(P1, hello());
    let ihu = Ihu {
        rx_cost: LINK,
        interval: 6_000,
    };
    assert_eq!(sent, [(P1, Tlv::Ihu(ihu))]);
}

#[test]
fn hellos_go_out_every_second_when_answered() {
    let mut solo = Solo::new();
    solo.up(P1);
    let sent = solo.pass(Duration::from_millis(10_500), true);
    assert_eq!(hellos(&sent), 10);
    let seqnos: Vec<u16> = sent
        .iter()
        .filter_map(|(_, tlv)| match tlv {
            Tlv::Hello(hello) => Some(hello.seqno),
            _ => None,
        })
        .collect();
    assert_eq!(seqnos, (1..=10).collect::<Vec<u16>>());
}

#[test]
fn there_are_never_two_unanswered_hellos_while_the_sample_matters() {
    let mut solo = Solo::new();
    solo.up_in_silence(P1);
    for _ in 0..19 {
        let sent = solo.pass(Duration::from_millis(500), false);
        assert_eq!(hellos(&sent), 0);
        solo.input(Input::Heard { peer: P1 });
    }
    solo.pass(Duration::from_millis(400), false);
    solo.input(Input::Heard { peer: P1 });
    let sent = solo.pass(Duration::from_millis(200), false);
    assert_eq!(
        hellos(&sent),
        1,
        "after ten seconds it will not come any more"
    );
    let rtt = solo.node.snapshot(solo.now).peers[0].rtt;
    solo.now = solo.now + Duration::from_millis(300);
    solo.tlv(P1, ihu());
    assert_eq!(
        solo.node.snapshot(solo.now).peers[0].rtt,
        rtt,
        "and what comes now is no sample"
    );
}

#[test]
fn the_cost_starts_from_the_set_up_of_the_connection() {
    let mut solo = Solo::new();
    let link = LinkInfo {
        static_cost: 12,
        setup_rtt: Some(Duration::from_millis(30)),
    };
    solo.input(Input::PeerUp { peer: P1, link });
    assert_eq!(solo.node.snapshot(solo.now).peers[0].cost, 42);
}

#[test]
fn the_first_sample_replaces_a_guess() {
    let mut solo = Solo::new();
    let link = LinkInfo {
        static_cost: 10,
        setup_rtt: None,
    };
    solo.input(Input::PeerUp { peer: P1, link });
    assert_eq!(solo.node.snapshot(solo.now).peers[0].cost, 60);
    solo.now = Time::from_millis(80);
    solo.tlv(P1, ihu());
    let peer = solo.node.snapshot(solo.now).peers[0].clone();
    assert_eq!((peer.cost, peer.rtt), (90, Some(Duration::from_millis(80))));
}

#[test]
fn the_cost_follows_the_lowest_of_eight_round_trips() {
    let mut solo = Solo::new();
    let link = LinkInfo {
        static_cost: 10,
        setup_rtt: Some(Duration::from_millis(40)),
    };
    solo.input(Input::PeerUp { peer: P1, link });
    let mut costs = Vec::new();
    for second in 0..20 {
        let rtt = if second < 4 { 50 + second * 20 } else { 300 };
        solo.now = Time::from_millis(second * 1_000 + rtt);
        solo.tlv(P1, ihu());
        costs.push(solo.node.snapshot(solo.now).peers[0].cost);
        solo.now = Time::from_millis((second + 1) * 1_000);
        solo.node.handle_timeout(solo.now);
        solo.drain();
    }
    assert_eq!(costs[..7], [50; 7], "bursts do not count");
    assert_eq!(costs[19], 310, "a slow path does");
    solo.now = solo.now + Duration::from_millis(5);
    solo.tlv(P1, ihu());
    assert_eq!(
        solo.node.snapshot(solo.now).peers[0].cost,
        15,
        "a faster one at once"
    );
}

#[test]
fn an_ihu_that_answers_nothing_is_no_sample() {
    let mut solo = Solo::new();
    solo.up(P1);
    solo.now = Time::from_millis(900);
    solo.tlv(P1, ihu());
    assert_eq!(
        solo.node.snapshot(solo.now).peers[0].rtt,
        Some(Duration::ZERO)
    );
}

#[test]
fn a_link_that_becomes_slow_loses_its_routes_to_a_faster_one() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 0));
    solo.update(P2, remote.update(0, 5));
    assert_eq!(solo.next_hop(remote), Some(P1));
    for second in 0..30 {
        solo.tlv(P2, ihu());
        solo.now = Time::from_millis(second * 1_000 + 300);
        solo.tlv(P1, ihu());
        solo.pass(Duration::from_millis(700), false);
    }
    assert_eq!(solo.next_hop(remote), Some(P2));
}

#[test]
fn silence_makes_a_neighbour_suspect_and_its_routes_unused_within_two_seconds() {
    let mut solo = Solo::new();
    let (with, without) = (Remote::new(1), Remote::new(2));
    solo.up(P1);
    solo.up(P2);
    solo.pass(Duration::from_secs(10), true);
    solo.update(P1, with.update(0, 0));
    solo.update(P2, with.update(0, 5));
    solo.update(P1, without.update(0, 0));
    // P2 goes on answering, P1 is dead.
    let end = solo.now + Duration::from_millis(1_700);
    let mut sent = Vec::new();
    while solo.now < end {
        for (peer, tlv) in solo.pass(Duration::from_millis(10), false) {
            if peer == P2 && matches!(tlv, Tlv::Hello(_)) {
                solo.tlv(P2, ihu());
            }
            sent.push((peer, tlv));
        }
    }
    assert_eq!(solo.next_hop(with), Some(P2));
    assert_eq!(solo.next_hop(without), None);
    assert_eq!(updates(&sent, without).len(), 2);
    assert!(solo.node.snapshot(solo.now).peers[0].suspect);
    assert_eq!(solo.closed(), []);
}

#[test]
fn a_suspect_neighbour_recovers_with_the_first_thing_heard() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up_in_silence(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 0));
    solo.pass(Duration::from_millis(1_700), false);
    assert_eq!(solo.next_hop(remote), None);
    let sent = solo.input(Input::Heard { peer: P1 });
    assert_eq!(solo.next_hop(remote), Some(P1));
    assert_eq!(updates(&sent, remote), [(P2, 0, LINK)]);
}

#[test]
fn a_recovered_neighbours_better_route_is_asked_to_prove_itself() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up_in_silence(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 50));
    solo.pass(Duration::from_millis(1_700), false);
    // While the short way is silent, a newer seqno comes over the long one, and is announced.
    solo.update(P2, remote.update(1, 300));
    assert_eq!(solo.next_hop(remote), Some(P2));
    let sent = solo.input(Input::Heard { peer: P1 });
    assert_eq!(seqno_requests(&sent, remote), [(P1, 1, 64)]);
    solo.update(P1, remote.update(1, 50));
    assert_eq!(solo.next_hop(remote), Some(P1));
}

#[test]
fn a_neighbour_that_stays_silent_is_closed() {
    let mut solo = Solo::new();
    solo.up_in_silence(P1);
    solo.pass(Duration::from_secs(4), false);
    assert_eq!(solo.closed(), []);
    solo.pass(Duration::from_secs(1), false);
    assert_eq!(solo.closed(), [(P1, CloseReason::Silent)]);
    assert!(solo.node.snapshot(solo.now).peers.is_empty());
}

#[test]
fn data_keeps_a_neighbour_alive_that_does_not_answer() {
    let mut solo = Solo::new();
    solo.up_in_silence(P1);
    for _ in 0..240 {
        solo.pass(Duration::from_millis(500), false);
        solo.input(Input::Heard { peer: P1 });
        assert!(!solo.node.snapshot(solo.now).peers[0].suspect);
    }
    assert_eq!(solo.closed(), []);
}

#[test]
fn a_slow_answer_over_a_long_link_is_waited_for() {
    let mut solo = Solo::new();
    let link = LinkInfo {
        static_cost: 10,
        setup_rtt: Some(Duration::from_millis(600)),
    };
    solo.input(Input::PeerUp { peer: P1, link });
    solo.pass(Duration::from_millis(2_300), false);
    assert!(!solo.node.snapshot(solo.now).peers[0].suspect);
    solo.pass(Duration::from_millis(200), false);
    assert!(solo.node.snapshot(solo.now).peers[0].suspect);
}

#[test]
fn a_neighbour_that_was_slow_lately_is_given_more_time() {
    let mut solo = Solo::new();
    solo.up(P1);
    solo.pass(Duration::from_millis(1_000), false);
    solo.now = solo.now + Duration::from_millis(500);
    solo.tlv(P1, ihu());
    let sent = solo.pass(Duration::from_millis(1_400), false);
    assert_eq!(hellos(&sent), 1);
    assert!(!solo.node.snapshot(solo.now).peers[0].suspect);
    solo.pass(Duration::from_millis(200), false);
    assert!(solo.node.snapshot(solo.now).peers[0].suspect);
}

#[test]
fn when_we_were_stalled_ourselves_nobody_is_blamed() {
    let mut solo = Solo::new();
    solo.up_in_silence(P1);
    solo.pass(Duration::from_millis(500), false);
    // Not scheduled for an hour, say suspended. The timer comes first, the neighbour's words a little later.
    solo.now = solo.now + Duration::from_secs(3_600);
    solo.node.handle_timeout(solo.now);
    solo.drain();
    assert!(!solo.node.snapshot(solo.now).peers[0].suspect);
    solo.pass(Duration::from_millis(100), false);
    solo.tlv(P1, ihu());
    solo.pass(Duration::from_secs(10), true);
    assert_eq!(solo.closed(), []);
    assert_eq!(solo.node.snapshot(solo.now).counters.suspected, 0);
}

#[test]
fn packets_that_are_none_close_their_link_and_no_other() {
    let bad: [&[u8]; 6] = [
        &[],
        &[1, 1, 0, 0],
        &[1, 0, 0, 0, 42, 3, 0, 2, 0, 0],
        &[1, 1, 0, 0, 42, 3, 0, 0],
        &[1, 1, 0, 0, 42, 3, 0, 1, 8],
        &[1, 1, 0, 0, 42, 3, 0, 5, 8, 3, 2, 0, 64],
    ];
    for packet in bad {
        let mut solo = Solo::new();
        solo.up(P1);
        solo.up(P2);
        solo.input(Input::Control { peer: P1, packet });
        assert_eq!(
            solo.closed(),
            [(P1, CloseReason::Malformed)],
            "{packet:02x?}"
        );
        assert_eq!(solo.node.snapshot(solo.now).peers.len(), 1);
        assert_eq!(solo.input(Input::Control { peer: P1, packet }), []);
    }
}

#[test]
fn what_is_merely_unknown_is_counted_and_tolerated() {
    let unknown: [&[u8]; 4] = [
        &[1, 1, 0, 0, 42, 3, 0, 4, 99, 2, 1, 2],
        &[1, 1, 0, 0, 7, 3, 0, 2, 0, 0],
        &[1, 1, 0, 0, 42, 9, 0, 2, 0, 0],
        &[1, 1, 0, 0, 42, 3, 0, 9, 9, 7, 0, 1, 32, 10, 0, 0, 1],
    ];
    let mut solo = Solo::new();
    solo.up(P1);
    for packet in unknown {
        assert_eq!(solo.input(Input::Control { peer: P1, packet }), []);
    }
    assert_eq!(solo.closed(), []);
    assert_eq!(solo.node.snapshot(solo.now).counters.skipped, 4);
}

#[test]
fn inputs_for_unknown_links_are_ignored() {
    let mut solo = Solo::new();
    let packet = hello().to_packet();
    assert_eq!(
        solo.input(Input::Control {
            peer: P1,
            packet: &packet
        }),
        []
    );
    assert_eq!(solo.input(Input::Heard { peer: P1 }), []);
    assert_eq!(solo.input(Input::PeerDown { peer: P1 }), []);
    assert_eq!(solo.other, []);
}

fn doubtful(setup_rtt: Duration) -> Solo {
    let mut solo = Solo::new();
    let link = LinkInfo {
        static_cost: LINK,
        setup_rtt: Some(setup_rtt),
    };
    solo.input(Input::PeerUp { peer: P1, link });
    solo.now = solo.now + setup_rtt;
    solo.tlv(P1, ihu());
    solo
}

fn suspect(solo: &Solo) -> bool {
    solo.node.snapshot(solo.now).peers[0].suspect
}

#[test]
fn a_doubted_neighbour_is_asked_at_once_and_suspect_after_ten_milliseconds() {
    let mut solo = doubtful(Duration::ZERO);
    solo.up(P2);
    let remote = Remote::new(1);
    solo.update(P1, remote.update(0, 0));
    solo.update(P2, remote.update(0, 5));
    assert_eq!(solo.next_hop(remote), Some(P1));
    solo.pass(Duration::from_millis(300), true);
    assert_eq!(hellos(&solo.input(Input::Doubt { peer: P1 })), 1);
    solo.pass(Duration::from_millis(9), false);
    assert!(!suspect(&solo));
    solo.pass(Duration::from_millis(1), false);
    assert!(suspect(&solo));
    assert_eq!(solo.next_hop(remote), Some(P2));
    solo.tlv(P1, ihu());
    assert!(!suspect(&solo));
}

#[test]
fn a_doubt_about_a_far_neighbour_waits_four_round_trips() {
    let mut solo = doubtful(Duration::from_millis(50));
    solo.input(Input::Doubt { peer: P1 });
    solo.pass(Duration::from_millis(199), false);
    assert!(!suspect(&solo));
    solo.pass(Duration::from_millis(1), false);
    assert!(suspect(&solo));
}

#[test]
fn anything_heard_ends_a_doubt() {
    for heard in [true, false] {
        let mut solo = doubtful(Duration::ZERO);
        solo.input(Input::Doubt { peer: P1 });
        solo.pass(Duration::from_millis(5), false);
        if heard {
            solo.input(Input::Heard { peer: P1 });
        } else {
            solo.tlv(P1, hello());
        }
        solo.pass(Duration::from_millis(1_000), false);
        assert!(!suspect(&solo));
    }
}

#[test]
fn doubts_that_come_too_often_cost_one_hello_in_a_hundred_milliseconds() {
    let mut solo = doubtful(Duration::ZERO);
    let mut sent = 0;
    for _ in 0..1_000 {
        sent += hellos(&solo.input(Input::Doubt { peer: P1 }));
        solo.tlv(P1, ihu());
        solo.now = solo.now + Duration::from_millis(1);
    }
    assert_eq!(sent, 10);
    assert!(!suspect(&solo));
    assert_eq!(solo.input(Input::Doubt { peer: P3 }), []);
}

#[test]
fn the_silence_after_a_doubt_closes_the_link_like_any_other() {
    let mut solo = doubtful(Duration::ZERO);
    for _ in 0..60 {
        solo.input(Input::Doubt { peer: P1 });
        solo.pass(Duration::from_millis(50), false);
    }
    assert_eq!(solo.closed(), []);
    solo.pass(Duration::from_millis(50), false);
    assert_eq!(solo.closed(), [(P1, CloseReason::Silent)]);
}

#[test]
fn hellos_sent_in_doubt_do_not_spoil_the_round_trip() {
    let rtt = Duration::from_millis(300);
    let mut solo = doubtful(rtt);
    // Answers to everything, always 300 ms later; a doubt while a Hello is under way.
    let mut answers = std::collections::VecDeque::new();
    for step in 0..1_000 {
        solo.now = solo.now + Duration::from_millis(10);
        while answers.front().is_some_and(|&at| at <= solo.now) {
            answers.pop_front();
            solo.tlv(P1, ihu());
        }
        solo.node.handle_timeout(solo.now);
        let mut sent = solo.drain();
        if step % 110 == 80 {
            sent.extend(solo.input(Input::Doubt { peer: P1 }));
        }
        answers.extend((0..hellos(&sent)).map(|_| solo.now + rtt));
        let peer = &solo.node.snapshot(solo.now).peers[0];
        assert_eq!((peer.rtt, peer.suspect), (Some(rtt), false), "{step}");
    }
}

#[test]
fn a_neighbour_that_answers_only_one_of_two_hellos_stays() {
    let mut solo = doubtful(Duration::ZERO);
    solo.pass(Duration::from_millis(1_000), false);
    for _ in 0..20 {
        solo.input(Input::Doubt { peer: P1 });
        solo.tlv(P1, ihu());
        solo.pass(Duration::from_millis(1_050), false);
        assert!(!suspect(&solo));
    }
}
