//! Floods of changes go on at a pace that the links of others can take.

use super::*;
use crate::babel::Allowance;

fn told(sent: &[(PeerId, Tlv)], to: PeerId) -> usize {
    sent.iter()
        .filter(|(peer, tlv)| *peer == to && matches!(tlv, Tlv::Update(_)))
        .count()
}

/// Several announcements before anybody polls.
fn flood(solo: &mut Solo, peer: PeerId, numbers: std::ops::Range<u32>, metric: u16) {
    for number in numbers {
        let update = Remote::numbered(number).update(0, metric);
        let packet = Tlv::Update(update).to_packet();
        let packet = &packet;
        solo.node.handle(Input::Control { peer, packet }, solo.now);
    }
}

#[test]
fn thousands_of_routes_are_passed_on_in_the_same_turn_and_more_at_a_pace() {
    let mut solo = Solo::new();
    solo.up(P1);
    solo.up(P2);
    flood(&mut solo, P1, 0..10_000, 5);
    assert_eq!(told(&solo.drain(), P2), 4_096);
    assert!(solo.node.poll_timeout() > Some(solo.now), "nothing may go");
    let second = solo.pass(Duration::from_secs(1), true);
    assert_eq!(told(&second, P2), 4_000);
    let rest = solo.pass(Duration::from_secs(1), true);
    assert_eq!(told(&rest, P2), 10_000 - 8_096);
    assert_eq!(solo.closed(), []);
}

#[test]
fn floods_over_three_links_do_not_fill_the_lane_of_a_fourth() {
    let mut solo = Solo::new();
    let friend = PeerId(4);
    for peer in [P1, P2, P3, friend] {
        solo.up(peer);
    }
    let mut bytes = 0;
    let mut worst = 0;
    for round in 0..64 {
        for (peer, first) in [(P1, 0), (P2, 65_536), (P3, 131_072)] {
            let from = first + round * 1_024;
            flood(&mut solo, peer, from..from + 1_024, 5);
        }
        let sent = solo.pass(Duration::from_millis(3), true);
        bytes += told(&sent, friend) * 72;
        worst = worst.max(told(&sent, friend));
    }
    assert!(worst <= 4_200, "{worst} at once");
    assert!(bytes < 400_000, "{bytes} bytes in 0.2 s");
    let closed = [P1, P2, P3].map(|peer| (peer, CloseReason::Flooding));
    let mut seen = solo.closed();
    seen.sort_by_key(|&(peer, _)| peer);
    assert_eq!(seen, closed);
    // What nobody was told of needs no retraction.
    let rest = solo.pass(Duration::from_secs(60), true);
    assert!(told(&rest, friend) <= bytes / 72 + 1);
    assert!(solo.node.fib().is_empty());
}

#[test]
fn during_a_flood_answers_and_our_own_subnets_do_not_wait() {
    let mut solo = Solo::new();
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    flood(&mut solo, P1, 0..16_000, 5);
    solo.drain();
    let wanted = Remote::new(1);
    solo.request(P2, wanted.subnet(), 0);
    solo.update(P3, wanted.update(0, 7));
    let sent = solo.pass(Duration::from_millis(5), true);
    assert!(updates(&sent, wanted).contains(&(P2, 0, 7 + LINK)));
    let secret = SecretKey::from_bytes([0x55; 32]);
    let id = crate::io::IdentityId(1);
    let sent = solo.input(Input::AddIdentity { id, secret });
    assert_eq!(told(&sent, P2), 1);
}

#[test]
fn during_a_flood_what_is_lost_goes_before_what_is_new() {
    let mut solo = Solo::new();
    let remote = Remote::new(1);
    for peer in [P1, P2, P3] {
        solo.up(peer);
    }
    solo.update(P3, remote.update(0, 7));
    flood(&mut solo, P1, 0..16_000, 5);
    solo.drain();
    solo.update(P3, remote.update(0, INFINITE));
    let sent = solo.pass(Duration::from_millis(5), true);
    assert!(updates(&sent, remote).contains(&(P2, 0, INFINITE)));
}

#[test]
fn low_prefixes_that_change_all_the_time_do_not_starve_high_ones() {
    let config = NodeConfig {
        announcements: Allowance {
            per_second: 1_000,
            burst: 10,
        },
        ..NodeConfig::default()
    };
    let mut solo = Solo::with(config);
    solo.up(P1);
    solo.up(P2);
    flood(&mut solo, P1, 0..100, 500);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..40 {
        for (_, tlv) in solo.pass(Duration::from_millis(5), true) {
            if let Tlv::Update(update) = tlv {
                seen.insert(update.router_id.public_key().subnet());
            }
        }
        flood(&mut solo, P1, 0..50, 400 - round * 5);
        flood(&mut solo, P1, 50..60, 400 - round * 5);
    }
    assert_eq!(seen.len(), 100);
}
