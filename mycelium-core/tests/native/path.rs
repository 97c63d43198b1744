//! Sizes and addresses: what passes is found out, and a peer that moves is followed, but nobody else is.

use mycelium_core::native::{DATA_HEADROOM, Event, NativeConfig};
use mycelium_core::time::Duration;

use crate::lab::{Flying, Lab, address, class, control_number, control_packet, number_of};

const SECOND: Duration = Duration::from_secs(1);

fn numbers(lab: &Lab, at: usize) -> Vec<u32> {
    let data = lab.stations[at].data.iter();
    data.map(|(_, frame)| number_of(frame)).collect()
}

fn max_frame(lab: &Lab, from: usize, to: usize) -> usize {
    let link = lab.link(from, to).unwrap();
    lab.stations[from].endpoint.max_frame(link).unwrap()
}

#[test]
fn the_size_of_ethernet_is_found_within_two_round_trips() {
    let mut lab = Lab::new(1, 2);
    lab.dial(0, 1);
    lab.run_until(SECOND, |lab| lab.linked(0, 1)).unwrap();
    let took = lab.run_until(SECOND, |lab| {
        max_frame(lab, 0, 1) == 1472 - DATA_HEADROOM && max_frame(lab, 1, 0) == 1472 - DATA_HEADROOM
    });
    assert!(took.unwrap() <= Duration::from_millis(20));
}

#[test]
fn odd_sizes_are_found_within_two_seconds() {
    for (mtu, expected) in [
        (1200, 1200),
        (1232, 1232),
        (1252, 1252),
        (1280, 1280),
        (1420, 1400),
        (1452, 1452),
    ] {
        let mut lab = Lab::new(2, 2);
        lab.mtu = mtu;
        lab.dial(0, 1);
        lab.run(Duration::from_secs(2));
        assert_eq!(max_frame(&lab, 0, 1), expected - DATA_HEADROOM, "{mtu}");
    }
}

#[test]
fn loopback_carries_what_loopback_carries() {
    let config = NativeConfig {
        max_datagram: 65_507,
        ..NativeConfig::default()
    };
    let mut lab = Lab::with(3, 2, &config);
    lab.mtu = 65_507;
    lab.dial(0, 1);
    lab.run(SECOND);
    assert_eq!(max_frame(&lab, 0, 1), 65_507 - DATA_HEADROOM);
    assert!(lab.send_data(0, 1, 1, 65_000));
    lab.run(SECOND);
    assert_eq!(numbers(&lab, 1), [1]);
}

#[test]
fn a_frame_that_is_too_long_for_the_path_goes_in_two_halves() {
    let mut lab = Lab::new(4, 2);
    lab.mtu = 1200;
    lab.dial(0, 1);
    lab.run(Duration::from_secs(3));
    for number in 0..50 {
        assert!(lab.send_data(0, 1, number, 1432));
        lab.run(Duration::from_millis(2));
    }
    lab.run(SECOND);
    assert_eq!(numbers(&lab, 1), (0..50).collect::<Vec<u32>>());
    let marks = lab.stations[1].data.iter().map(|(class, _)| class.sparse);
    let expected = (0..50).map(|number| class(number).sparse);
    assert!(marks.eq(expected), "what is of a sparse flow stays so");
    assert!(!lab.send_data(0, 1, 0, 3000), "too long for two");
}

#[test]
fn a_path_that_shrinks_mid_transfer_is_noticed_within_a_second() {
    let mut lab = Lab::pair(5);
    lab.latency = Duration::from_millis(10);
    let shrunk = 1000;
    for number in 0..4000 {
        if number == shrunk {
            lab.mtu = 1252;
        }
        assert!(lab.send_data(0, 1, number, 1400));
        lab.run(Duration::from_millis(1));
    }
    lab.run(SECOND);
    let arrived = numbers(&lab, 1);
    let first_after = arrived.iter().find(|&&number| number > shrunk).unwrap();
    assert!(first_after - shrunk < 1000, "{}", first_after - shrunk);
    assert!(arrived.len() > 2900);
    assert_eq!(max_frame(&lab, 0, 1), 1252 - DATA_HEADROOM);
    assert!(lab.linked(0, 1));
    assert_eq!(lab.stations[0].downs, []);
}

#[test]
fn loss_is_not_taken_for_a_path_that_shrank() {
    let mut lab = Lab::pair(6);
    lab.loss_permille = 50;
    for number in 0..20_000 {
        assert!(lab.send_data(0, 1, number, 1400));
        lab.run(Duration::from_millis(1));
    }
    assert_eq!(max_frame(&lab, 0, 1), 1472 - DATA_HEADROOM);
    let link = lab.link(0, 1).unwrap();
    let snapshot = lab.stations[0].endpoint.link(link, lab.now).unwrap();
    assert!(
        (20..100).contains(&snapshot.loss_permille),
        "{}",
        snapshot.loss_permille
    );
}

/// The peer that sends moves to another address and port, as behind a NAT that lost its mapping.
fn roam(change: impl Fn(&mut Lab)) {
    let mut lab = Lab::pair(7);
    for number in 0..3000 {
        if number == 1000 {
            change(&mut lab);
        }
        assert!(lab.send_data(0, 1, number, 1000));
        assert!(lab.send_data(1, 0, number, 1000));
        lab.run(Duration::from_millis(20));
    }
    lab.run(SECOND);
    for at in 0..2 {
        let lost = 3000 - lab.stations[at].data.len();
        assert!(lost <= 3, "{lost} lost towards {at}");
    }
    for station in &lab.stations {
        assert_eq!(station.downs, []);
    }
    let link = lab.link(1, 0).unwrap();
    let snapshot = lab.stations[1].endpoint.link(link, lab.now).unwrap();
    assert_eq!(snapshot.address, lab.stations[0].address);
}

#[test]
fn a_new_port_costs_three_packets_at_most() {
    roam(|lab| lab.stations[0].address.set_port(40_000));
}

#[test]
fn a_new_address_costs_three_packets_at_most() {
    roam(|lab| lab.stations[0].address = "198.51.100.77:1234".parse().unwrap());
}

#[test]
fn who_moves_learns_its_new_address() {
    let mut lab = Lab::pair(8);
    let observed = |lab: &Lab| {
        let mut events = lab.stations[0].events.iter().rev();
        events.find_map(|event| match event {
            Event::Observed { address, .. } => Some(*address),
            _ => None,
        })
    };
    assert_eq!(observed(&lab), Some(address(0)));
    lab.stations[0].address.set_port(40_000);
    lab.send_data(0, 1, 1, 100);
    lab.run(Duration::from_millis(100));
    assert_eq!(observed(&lab), Some(lab.stations[0].address));
}

#[test]
fn who_knows_that_it_moved_is_found_before_anything_is_sent_to_it() {
    for seed in 0..20 {
        let mut lab = Lab::pair(40 + seed);
        // Idle for so long that nothing will be said for seconds.
        lab.run(Duration::from_secs(15));
        lab.stations[0].address = "198.51.100.77:1234".parse().unwrap();
        let now = lab.now;
        lab.stations[0].endpoint.on_network_change(now);
        lab.drain(0);
        lab.run(Duration::from_millis(40));
        for number in 0..10 {
            assert!(lab.send_data(1, 0, number, 1000));
            lab.run(Duration::from_millis(1));
        }
        lab.run(SECOND);
        assert_eq!(numbers(&lab, 0), (0..10).collect::<Vec<u32>>());
        assert_eq!(lab.stations[0].downs, []);
        assert_eq!(lab.stations[1].downs, []);
    }
}

#[test]
fn a_copy_of_a_datagram_from_elsewhere_moves_the_link_for_a_moment_at_most() {
    let mut lab = Lab::pair(9);
    let thief = "203.0.113.5:6666".parse().unwrap();
    let mut to_thief = 0;
    for number in 0..500 {
        // The thief sees each datagram of station 0, and its copy overtakes the original.
        lab.recorded = Some(Vec::new());
        lab.send_data(0, 1, number, 500);
        let recorded = lab.recorded.take().unwrap();
        let latency = std::mem::replace(&mut lab.latency, Duration::from_millis(1));
        for copy in recorded.iter().filter(|copy| copy.to == address(1)) {
            lab.inject(Flying {
                from: thief,
                ..copy.clone()
            });
        }
        lab.latency = latency;
        lab.recorded = Some(Vec::new());
        lab.send_data(1, 0, number, 500);
        lab.run(Duration::from_millis(10));
        let recorded = lab.recorded.take().unwrap();
        let stolen = recorded.iter().filter(|one| one.to == thief);
        to_thief += stolen.map(|one| one.bytes.len()).sum::<usize>();
    }
    lab.run(SECOND);
    assert_eq!(numbers(&lab, 0).len(), 500, "data never goes to the thief");
    assert!(to_thief < 3 * 600 * 500, "{to_thief}");
    assert!(lab.linked(0, 1));
    assert_eq!(lab.stations[1].downs, []);
    let stats = lab.stations[1].endpoint.stats();
    assert!(stats.moves_undone > 0);
}

#[test]
fn control_survives_a_move() {
    let mut lab = Lab::pair(10);
    for number in 0..200 {
        assert!(lab.send_control(0, 1, &control_packet(number, 60)));
        assert!(lab.send_control(1, 0, &control_packet(number, 60)));
        if number == 100 {
            lab.stations[0].address = "198.51.100.77:1234".parse().unwrap();
        }
        lab.run(Duration::from_millis(5));
    }
    lab.run(SECOND);
    for station in &lab.stations {
        let numbers: Vec<u32> = station.control.iter().map(|p| control_number(p)).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<u32>>());
    }
}

#[test]
fn over_ipv6_the_size_of_ethernet_is_20_bytes_less() {
    let mut lab = Lab::new(11, 2);
    for (n, station) in lab.stations.iter_mut().enumerate() {
        station.address = format!("[2001:db8::{}]:9651", n + 1).parse().unwrap();
    }
    lab.mtu = 1452;
    lab.dial(0, 1);
    lab.run_until(SECOND, |lab| lab.linked(0, 1)).unwrap();
    let took = lab.run_until(SECOND, |lab| max_frame(lab, 0, 1) == 1452 - DATA_HEADROOM);
    assert!(took.unwrap() <= Duration::from_millis(20));
    // The longest packet of a session v2 host.
    assert!(lab.send_data(0, 1, 2, 1434 - 40));
    lab.run(SECOND);
    assert_eq!(numbers(&lab, 1), [2]);
}
