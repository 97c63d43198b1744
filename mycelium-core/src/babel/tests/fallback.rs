//! A second way for what is in use, though no neighbour ever offers one unasked.

use super::*;

/// Let time pass while packets flow to `remote`; the requests for it, with their seconds.
fn used_for(solo: &mut Solo, remote: Remote, seconds: u64) -> Vec<(u64, PeerId, u8)> {
    let mut asked = Vec::new();
    for second in 1..=seconds {
        solo.node.fib().route(remote.subnet()).unwrap().mark_used();
        let sent = solo.pass(Duration::from_secs(1), true);
        let requests = requests(&sent, remote).into_iter();
        asked.extend(requests.map(|(peer, generation)| (second, peer, generation)));
    }
    asked
}

#[test]
fn another_way_to_what_is_in_use_is_asked_for_with_growing_pauses() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    let asked = used_for(&mut solo, remote, 100);
    let seconds = [1, 2, 4, 8, 16, 32, 64, 96];
    // The first look finds it in use, which starts the pauses anew.
    let expected: Vec<_> = seconds.map(|second| (second, P2, 15)).to_vec();
    assert_eq!(asked, expected);
}

#[test]
fn who_has_another_way_asks_nobody() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.up(P3);
    solo.update(P1, remote.update(0, 100));
    solo.update(P2, remote.update(0, 105));
    assert_eq!(used_for(&mut solo, remote, 100), []);
    // ... until it fails: then the one that took its place needs a second one.
    solo.input(Input::PeerDown { peer: P1 });
    let asked = used_for(&mut solo, remote, 3);
    assert_eq!(asked, [(1, P3, 15), (3, P3, 15)]);
    solo.update(P3, remote.update(0, 100));
    assert_eq!(used_for(&mut solo, remote, 100), []);
}

#[test]
fn nothing_is_asked_for_what_nobody_uses() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    solo.up(P1);
    solo.up(P2);
    solo.update(P1, remote.update(0, 100));
    let sent = solo.pass(Duration::from_secs(500), true);
    assert_eq!(requests(&sent, remote), []);
    let asked = used_for(&mut solo, remote, 33);
    assert!(!asked.is_empty(), "noticed at the next look");
}

#[test]
fn a_new_neighbour_is_asked_for_what_is_in_use() {
    let mut solo = Solo::new();
    let (used, unused) = (Remote::new(1), Remote::new(2));
    solo.up(P1);
    solo.update(P1, used.update(0, 100));
    solo.update(P1, unused.update(0, 100));
    used_for(&mut solo, used, 3);
    let sent = solo.up(P2);
    assert_eq!(requests(&sent, used), [(P2, 15)]);
    assert_eq!(requests(&sent, unused), []);
    solo.update(P2, used.update(0, 105));
    solo.input(Input::PeerDown { peer: P1 });
    assert_eq!(solo.next_hop(used), Some(P2));
    // What was used long ago is not asked for.
    solo.pass(Duration::from_secs(200), true);
    assert_eq!(requests(&solo.up(P3), used), []);
}

#[test]
fn a_new_neighbour_is_asked_in_slices_and_for_no_more_than_a_bound() {
    let mut solo = Solo::new();
    solo.up(P1);
    for number in 0..400 {
        let remote = Remote::numbered(number);
        solo.update(P1, remote.update(0, 100));
        solo.node.fib().route(remote.subnet()).unwrap().mark_used();
    }
    solo.pass(Duration::from_secs(2), true);
    let asked = |sent: &[(PeerId, Tlv)]| {
        let requests = sent.iter();
        requests
            .filter(|(peer, tlv)| *peer == P2 && matches!(tlv, Tlv::RouteRequest(_)))
            .count()
    };
    assert_eq!(asked(&solo.up(P2)), 64);
    assert_eq!(asked(&solo.pass(Duration::from_millis(5), true)), 64);
    assert_eq!(asked(&solo.pass(Duration::from_millis(100), true)), 128);
}

#[test]
fn destinations_without_another_way_cost_a_bounded_number_of_requests() {
    let mut solo = Solo::new();
    for peer in 0..100 {
        solo.up(PeerId(peer));
    }
    for number in 0..1_000 {
        let remote = Remote::numbered(number);
        solo.update(P1, remote.update(0, 100));
        solo.node.fib().route(remote.subnet()).unwrap().mark_used();
    }
    let sent = solo.pass(Duration::from_secs(1), true);
    let requests = sent.iter();
    let requests = requests.filter(|(_, tlv)| matches!(tlv, Tlv::RouteRequest(_)));
    assert_eq!(requests.count(), 256 * 16);
}
