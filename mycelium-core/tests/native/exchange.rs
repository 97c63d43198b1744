//! What a link is for: control in order and once, data as it was, both whatever the network does.

use mycelium_core::native::Event;
use mycelium_core::time::Duration;

use crate::lab::{Lab, class, control_number, control_packet, number_of};

#[test]
fn a_dial_makes_a_link_in_two_round_trips_and_both_ends_know_whom_they_talk_to() {
    let mut lab = Lab::new(1, 2);
    let link = lab.dial(0, 1);
    let took = lab
        .run_until(Duration::from_secs(1), |lab| lab.linked(0, 1))
        .unwrap();
    assert_eq!(took, Duration::from_millis(20));
    assert_eq!(lab.link(0, 1), Some(link));
    let Some(Event::Up {
        rtt,
        dialled,
        address,
        ..
    }) = lab.stations[0].events.first()
    else {
        panic!("{:?}", lab.stations[0].events);
    };
    assert_eq!(*rtt, Some(Duration::from_millis(10)));
    assert!(*dialled);
    assert_eq!(*address, lab.stations[1].address);
}

#[test]
fn data_arrives_as_it_was_sent() {
    let mut lab = Lab::pair(2);
    for number in 0..100 {
        let len = 4 + usize::try_from(number).unwrap() * 14;
        assert!(lab.send_data(0, 1, number, len));
        assert!(lab.send_data(1, 0, number, len));
    }
    lab.run(Duration::from_millis(100));
    for at in 0..2 {
        let numbers: Vec<u32> = lab.stations[at]
            .data
            .iter()
            .map(|(_, frame)| number_of(frame))
            .collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u32>>());
        let long = lab.stations[at]
            .data
            .iter()
            .filter(|(_, frame)| frame.len() > 56);
        for (found, frame) in long {
            assert_eq!(*found, class(number_of(frame)));
        }
    }
}

fn exchange_control(lab: &mut Lab, count: u32, limit: Duration) -> Duration {
    for number in 0..count {
        let len = 6 + usize::try_from(number % 60).unwrap();
        assert!(lab.send_control(0, 1, &control_packet(number, len)));
        assert!(lab.send_control(1, 0, &control_packet(number, len)));
    }
    let all = usize::try_from(count).unwrap();
    let took = lab.run_until(limit, |lab| {
        lab.stations
            .iter()
            .all(|station| station.control.len() >= all)
    });
    for station in &lab.stations {
        let numbers: Vec<u32> = station.control.iter().map(|p| control_number(p)).collect();
        assert_eq!(numbers, (0..count).collect::<Vec<u32>>());
    }
    took.expect("all of it arrives")
}

#[test]
fn control_arrives_in_order_and_once_on_a_perfect_network() {
    let mut lab = Lab::pair(3);
    let took = exchange_control(&mut lab, 2000, Duration::from_secs(5));
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn control_converges_at_five_percent_loss() {
    let mut lab = Lab::pair(4);
    lab.loss_permille = 50;
    lab.duplicate_permille = 50;
    lab.jitter = Duration::from_millis(3);
    let took = exchange_control(&mut lab, 2000, Duration::from_secs(20));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(lab.linked(0, 1));
}

#[test]
fn control_converges_at_thirty_percent_loss() {
    let mut lab = Lab::pair(5);
    lab.loss_permille = 300;
    lab.duplicate_permille = 100;
    lab.jitter = Duration::from_millis(10);
    let took = exchange_control(&mut lab, 2000, Duration::from_secs(60));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(lab.linked(0, 1));
}
