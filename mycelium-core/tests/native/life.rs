//! How links end, and what they cost while nothing happens.

use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::native::{CloseCode, DownReason, LinkId, NativeConfig, NativeEndpoint};
use mycelium_core::session::mac::NetworkKey;
use mycelium_core::time::Duration;

use crate::lab::{Lab, address, control_packet, secret};

const SECOND: Duration = Duration::from_secs(1);

fn reason(lab: &Lab, at: usize) -> Option<DownReason> {
    lab.stations[at].downs.last().map(|(_, reason)| *reason)
}

#[test]
fn a_link_in_use_whose_other_end_falls_silent_is_dead_within_about_a_second() {
    let mut lab = Lab::pair(1);
    lab.stations[1].dead = true;
    let start = lab.now;
    while lab.link(0, 1).is_some() {
        lab.send_data(0, 1, 0, 100);
        lab.run(Duration::from_millis(10));
        assert!(lab.now.since(start) < Duration::from_millis(1100));
    }
    assert_eq!(reason(&lab, 0), Some(DownReason::Silent));
}

#[test]
fn an_idle_link_whose_other_end_falls_silent_is_dead_within_fifteen_seconds() {
    let mut lab = Lab::pair(2);
    lab.run(20 * SECOND);
    lab.stations[1].dead = true;
    let took = lab.run_until(60 * SECOND, |lab| lab.link(0, 1).is_none());
    assert!(took.unwrap() < 15 * SECOND, "{took:?}");
}

#[test]
fn a_killed_process_is_noticed_within_25_ms() {
    let mut lab = Lab::pair_at(4, Duration::from_micros(100));
    for number in 0..300 {
        lab.send_data(0, 1, number, 100);
        lab.run(Duration::from_millis(2));
    }
    lab.stations[1].dead = true;
    lab.icmp = true;
    let start = lab.now;
    while lab.link(0, 1).is_some() {
        lab.send_data(0, 1, 0, 100);
        lab.run(Duration::from_millis(1));
    }
    let took = lab.now.since(start);
    assert!(took <= Duration::from_millis(25), "{took:?}");
    assert_eq!(reason(&lab, 0), Some(DownReason::Unreachable));
}

#[test]
fn forged_errors_end_no_link_even_where_packets_get_lost() {
    let mut lab = Lab::pair(3);
    lab.loss_permille = 50;
    for number in 0..60_000 {
        let now = lab.now;
        lab.stations[0].endpoint.on_unreachable(address(1), now);
        lab.drain(0);
        lab.send_data(0, 1, number, 100);
        lab.run(Duration::from_millis(2));
    }
    assert_eq!(lab.stations[0].downs, []);
}

#[test]
fn links_survive_thirty_percent_loss_for_minutes() {
    let mut lab = Lab::pair(5);
    lab.loss_permille = 300;
    for number in 0..30_000 {
        // One way only: nothing but our probes makes the other end speak.
        lab.send_data(0, 1, number, 100);
        lab.run(Duration::from_millis(4));
    }
    lab.run(120 * SECOND);
    assert_eq!(lab.stations[0].downs, []);
    assert_eq!(lab.stations[1].downs, []);
}

#[test]
fn a_close_is_told() {
    let mut lab = Lab::pair(6);
    let link = lab.link(0, 1).unwrap();
    let now = lab.now;
    lab.stations[0]
        .endpoint
        .close(link, CloseCode::Unwanted, now);
    lab.drain(0);
    lab.run(SECOND);
    assert_eq!(reason(&lab, 0), Some(DownReason::Closed));
    assert_eq!(reason(&lab, 1), Some(DownReason::ClosedByPeer(1)));
    assert!(lab.dial(0, 1) > link);
    lab.run(SECOND);
    assert!(lab.linked(0, 1));
}

#[test]
fn an_idle_link_sends_a_datagram_in_five_seconds() {
    let mut lab = Lab::pair(7);
    lab.run(10 * SECOND);
    let before = lab.stations[0].sent + lab.stations[1].sent;
    lab.run(100 * SECOND);
    let sent = lab.stations[0].sent + lab.stations[1].sent - before;
    assert!(sent <= 40, "{sent}");
}

#[test]
fn dials_end_in_a_reason() {
    let mut lab = Lab::new(8, 2);
    let now = lab.now;
    let ourselves = lab.stations[0].key;
    let nobody = "192.0.2.99:9651".parse().unwrap();
    let dial = |lab: &mut Lab, address, key| {
        let link = lab.stations[0].endpoint.dial(address, key, now);
        lab.drain(0);
        link
    };
    let to_self = dial(&mut lab, address(0), Some(ourselves));
    let asking_self = dial(&mut lab, address(0), None);
    let unanswered = dial(&mut lab, nobody, None);
    let wrong = dial(&mut lab, address(1), Some(secret(9).public_key()));
    lab.run(10 * SECOND);
    let mut downs = lab.stations[0].downs.clone();
    downs.sort_by_key(|(link, _)| *link);
    assert_eq!(
        downs,
        [
            (to_self, DownReason::Ourselves),
            (asking_self, DownReason::Ourselves),
            (unanswered, DownReason::Unanswered),
            (wrong, DownReason::Unanswered),
        ]
    );
}

#[test]
fn a_refused_dial_fails_soon() {
    let mut lab = Lab::new(9, 2);
    lab.stations[1].dead = true;
    lab.icmp = true;
    lab.dial(0, 1);
    lab.run(Duration::from_millis(300));
    assert_eq!(reason(&lab, 0), Some(DownReason::Refused));
}

#[test]
fn an_address_alone_is_enough_and_a_second_dial_finds_the_link() {
    let mut lab = Lab::new(10, 2);
    let now = lab.now;
    let first = lab.stations[0].endpoint.dial(address(1), None, now);
    lab.drain(0);
    lab.run(SECOND);
    assert_eq!(lab.link(0, 1), Some(first));
    let now = lab.now;
    let again = lab.stations[0].endpoint.dial(address(1), None, now);
    lab.drain(0);
    lab.run(SECOND);
    assert_eq!(
        lab.stations[0].downs,
        [(again, DownReason::Duplicate(first))]
    );
    assert!(lab.linked(0, 1));
}

#[test]
fn only_a_node_with_the_network_key_gets_anywhere() {
    let with = |key| NativeConfig {
        network_key: NetworkKey::from_bytes(key),
        ..NativeConfig::default()
    };
    let mut lab = Lab::with(11, 2, &with([1; 32]));
    let stranger = SecretKey::from_bytes([77; 32]);
    for config in [NativeConfig::default(), with([2; 32])] {
        let unix = Duration::from_secs(1);
        lab.stations[0].endpoint = NativeEndpoint::new(config, &stranger, [5; 32], unix, lab.now);
        lab.dial(0, 1);
        let now = lab.now;
        let _ = lab.stations[0].endpoint.dial(address(1), None, now);
        lab.drain(0);
        lab.run(10 * SECOND);
        assert_eq!(lab.stations[1].sent, 0, "not a byte");
    }
    let mut lab = Lab::with(11, 2, &with([1; 32]));
    let now = lab.now;
    let _ = lab.stations[0].endpoint.dial(address(1), None, now);
    lab.drain(0);
    lab.run(SECOND);
    assert!(lab.linked(0, 1));
}

#[test]
fn a_lane_that_nobody_empties_closes_the_link() {
    let config = NativeConfig {
        max_control_packets: 100,
        ..NativeConfig::default()
    };
    let mut lab = Lab::with(12, 2, &config);
    lab.dial(0, 1);
    lab.run(SECOND);
    let link = lab.link(1, 0).unwrap();
    lab.stations[1].endpoint.hold_control(link, true);
    let mut taken = 0;
    while lab.send_control(0, 1, &control_packet(taken, 60)) {
        taken += 1;
        lab.run(Duration::from_millis(1));
    }
    assert_eq!(taken, 100);
    assert_eq!(reason(&lab, 0), Some(DownReason::ControlOverflow));
    lab.run(SECOND);
    assert_eq!(reason(&lab, 1), Some(DownReason::ClosedByPeer(3)));
    assert_eq!(lab.stations[1].control.len(), 0);
}

#[test]
fn a_held_lane_goes_on_where_it_stopped() {
    let mut lab = Lab::pair(13);
    let link = lab.link(1, 0).unwrap();
    lab.stations[1].endpoint.hold_control(link, true);
    for number in 0..1000 {
        assert!(lab.send_control(0, 1, &control_packet(number, 60)));
    }
    lab.run(5 * SECOND);
    assert_eq!(lab.stations[1].control.len(), 0);
    lab.stations[1].endpoint.hold_control(link, false);
    lab.run(5 * SECOND);
    assert_eq!(lab.stations[1].control.len(), 1000);
}

#[test]
fn what_is_sent_to_no_link_is_refused() {
    let mut lab = Lab::pair(14);
    let now = lab.now;
    let nobody = LinkId(99);
    let link = lab.link(0, 1).unwrap();
    let endpoint = &mut lab.stations[0].endpoint;
    let packet = control_packet(1, 6);
    assert!(endpoint.send_control(nobody, &packet, now).is_err());
    assert_eq!(endpoint.max_frame(nobody), None);
    for bad in [&[][..], &[1, 1, 0, 0], &packet[..12]] {
        assert!(endpoint.send_control(link, bad, now).is_err());
    }
    assert!(lab.linked(0, 1));
}
