//! The model: whatever is lost, doubled, reordered, restarted or dialled at once, in the end both can talk, in order and once.

use mycelium_core::native::{Event, NativeConfig};
use mycelium_core::rng::Rng;
use mycelium_core::time::Duration;

use crate::lab::{Lab, control_number, control_packet, number_of};

const SECOND: Duration = Duration::from_secs(1);

/// Both ends have a link and hear each other on it, data and control.
fn can_talk(lab: &mut Lab) -> bool {
    for station in &mut lab.stations {
        station.control.clear();
        station.data.clear();
    }
    let sent = [(0, 1), (1, 0)].into_iter().all(|(from, to)| {
        lab.send_control(from, to, &control_packet(7, 20)) && lab.send_data(from, to, 9, 200)
    });
    lab.run(SECOND);
    sent && lab
        .stations
        .iter()
        .all(|station| station.control.len() == 1 && station.data.len() == 1)
}

/// Dial again whatever is down, as a manager of peers does.
fn persist(lab: &mut Lab, dialler: &[usize], rounds: usize) {
    for _ in 0..rounds {
        for &from in dialler {
            if lab.link(from, 1 - from).is_none() {
                lab.dial(from, 1 - from);
            }
        }
        lab.run(SECOND);
    }
}

#[test]
fn the_first_handshake_survives_any_network() {
    for seed in 0..60 {
        let mut lab = Lab::new(seed, 2);
        lab.loss_permille = u64::from(seed % 5) * 100;
        lab.duplicate_permille = u64::from(seed % 3) * 300;
        lab.jitter = Duration::from_millis(u64::from(seed % 7) * 30);
        lab.latency = Duration::from_millis(u64::from(seed % 4) * 40);
        let diallers: &[usize] = match seed % 3 {
            0 => &[0],
            1 => &[1],
            _ => &[0, 1],
        };
        persist(&mut lab, diallers, 12);
        lab.loss_permille = 0;
        persist(&mut lab, diallers, 3);
        assert!(can_talk(&mut lab), "seed {seed}");
    }
}

#[test]
fn two_that_dial_each_other_at_once_share_one_link_and_one_epoch() {
    let mut lab = Lab::new(1, 2);
    lab.dial(0, 1);
    lab.dial(1, 0);
    lab.run(5 * SECOND);
    assert!(can_talk(&mut lab));
    assert_eq!(lab.stations[0].up.len(), 1);
    assert_eq!(lab.stations[1].up.len(), 1);
}

#[test]
fn a_restart_at_any_step_of_a_handshake_is_recovered_from() {
    // After so many things have happened since the dial, one end starts anew.
    for steps in 0..40 {
        for victim in 0..2 {
            let mut lab = Lab::new(steps, 2);
            let until = lab.now + SECOND;
            lab.dial(0, 1);
            for _ in 0..steps {
                lab.step(until);
            }
            lab.restart(victim);
            persist(&mut lab, &[0, 1], 8);
            assert!(can_talk(&mut lab), "victim {victim} after {steps}");
        }
    }
}

#[test]
fn a_restart_at_any_step_of_a_rekey_is_recovered_from() {
    let config = NativeConfig {
        rekey_after: SECOND,
        ..NativeConfig::default()
    };
    for steps in 0..40 {
        for victim in 0..2 {
            let mut lab = Lab::with(steps, 2, &config);
            lab.dial(0, 1);
            lab.run(Duration::from_millis(990));
            assert!(lab.linked(0, 1));
            let until = lab.now + SECOND;
            for _ in 0..steps {
                lab.step(until);
            }
            lab.restart(victim);
            persist(&mut lab, &[0, 1], 8);
            assert!(can_talk(&mut lab), "victim {victim} after {steps}");
        }
    }
}

#[test]
fn a_restarted_peer_is_a_new_link_and_its_lane_starts_anew() {
    let mut lab = Lab::pair(2);
    for number in 0..100 {
        assert!(lab.send_control(0, 1, &control_packet(number, 20)));
        assert!(lab.send_control(1, 0, &control_packet(number, 20)));
    }
    lab.run(SECOND);
    let old = lab.link(0, 1).unwrap();
    lab.restart(1);
    lab.dial(1, 0);
    lab.run(Duration::from_millis(100));
    assert!(lab.linked(0, 1));
    assert!(lab.link(0, 1).unwrap() > old);
    lab.stations[0].control.clear();
    for number in 0..100 {
        assert!(lab.send_control(0, 1, &control_packet(number, 20)));
        assert!(lab.send_control(1, 0, &control_packet(number, 20)));
    }
    lab.run(SECOND);
    for station in &lab.stations {
        let numbers: Vec<u32> = station.control.iter().map(|p| control_number(p)).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u32>>());
    }
}

#[test]
fn keys_change_every_second_under_load_and_nothing_is_lost_doubled_or_reordered() {
    let config = NativeConfig {
        rekey_after: SECOND,
        ..NativeConfig::default()
    };
    let mut lab = Lab::with(3, 2, &config);
    lab.dial(0, 1);
    lab.run(Duration::from_millis(500));
    let count = 20_000;
    for number in 0..count {
        for (from, to) in [(0, 1), (1, 0)] {
            assert!(lab.send_data(from, to, number, 500));
            if number % 10 == 0 {
                assert!(lab.send_control(from, to, &control_packet(number / 10, 50)));
            }
        }
        lab.run(Duration::from_millis(1));
    }
    lab.run(SECOND);
    for station in &lab.stations {
        assert_eq!(station.downs, []);
        let data: Vec<u32> = station
            .data
            .iter()
            .map(|(_, frame)| number_of(frame))
            .collect();
        assert_eq!(data, (0..count).collect::<Vec<u32>>());
        let control: Vec<u32> = station.control.iter().map(|p| control_number(p)).collect();
        assert_eq!(control, (0..count / 10).collect::<Vec<u32>>());
    }
    let rekeys: u32 = lab
        .stations
        .iter()
        .flat_map(|station| station.endpoint.links(lab.now).collect::<Vec<_>>())
        .map(|link| link.rekeys)
        .sum();
    assert!((15..40).contains(&rekeys), "{rekeys}");
}

#[test]
fn keys_change_on_a_bad_network() {
    for seed in 0..12 {
        let config = NativeConfig {
            rekey_after: SECOND,
            ..NativeConfig::default()
        };
        let mut lab = Lab::with(seed, 2, &config);
        lab.dial(0, 1);
        lab.dial(1, 0);
        lab.run(SECOND);
        lab.loss_permille = 100 + u64::from(seed % 3) * 100;
        lab.duplicate_permille = 200;
        lab.jitter = Duration::from_millis(40);
        let mut sent = 0;
        for _ in 0..600 {
            assert!(
                lab.send_control(0, 1, &control_packet(sent, 50)),
                "seed {seed}"
            );
            assert!(lab.send_control(1, 0, &control_packet(sent, 50)));
            sent += 1;
            lab.run(Duration::from_millis(50));
        }
        lab.loss_permille = 0;
        lab.run(3 * SECOND);
        for station in &lab.stations {
            assert_eq!(station.downs, [], "seed {seed}");
            let control: Vec<u32> = station.control.iter().map(|p| control_number(p)).collect();
            assert_eq!(control, (0..sent).collect::<Vec<u32>>());
        }
    }
}

#[test]
fn random_histories_end_with_both_able_to_talk() {
    for seed in 0..40 {
        let config = NativeConfig {
            rekey_after: 2 * SECOND,
            ..NativeConfig::default()
        };
        let mut lab = Lab::with(seed, 2, &config);
        let mut rng = Rng::from_seed([seed ^ 0x5a; 32]);
        for step in 0..60u32 {
            match rng.next_u64() % 12 {
                0 => lab.restart(0),
                1 => lab.restart(1),
                2 | 3 => drop(lab.dial(0, 1)),
                4 | 5 => drop(lab.dial(1, 0)),
                6 => lab.loss_permille = rng.next_u64() % 600,
                7 => lab.jitter = Duration::from_millis(rng.next_u64() % 200),
                8 => lab.duplicate_permille = rng.next_u64() % 500,
                9 => {
                    let at = usize::try_from(rng.next_u64() % 2).unwrap();
                    let port = u16::try_from(10_000 + step).unwrap();
                    lab.stations[at].address.set_port(port);
                }
                _ => {
                    lab.send_data(0, 1, step, 800);
                    lab.send_control(1, 0, &control_packet(step, 30));
                }
            }
            lab.run(Duration::from_millis(rng.next_u64() % 700));
        }
        lab.loss_permille = 0;
        lab.duplicate_permille = 0;
        lab.jitter = Duration::ZERO;
        persist(&mut lab, &[0, 1], 20);
        assert!(can_talk(&mut lab), "seed {seed}");
    }
}

#[test]
fn keys_change_after_their_packets_too() {
    let config = NativeConfig {
        rekey_after_packets: 1000,
        ..NativeConfig::default()
    };
    let mut lab = Lab::with(5, 2, &config);
    lab.dial(0, 1);
    lab.run(SECOND);
    // The responder is the one that sends.
    for number in 0..20_000 {
        assert!(lab.send_data(1, 0, number, 100));
        lab.run(Duration::from_micros(200));
    }
    lab.run(SECOND);
    let data = lab.stations[0].data.iter();
    let numbers: Vec<u32> = data.map(|(_, frame)| number_of(frame)).collect();
    assert_eq!(numbers, (0..20_000).collect::<Vec<u32>>());
    let link = lab.link(1, 0).unwrap();
    let snapshot = lab.stations[1].endpoint.link(link, lab.now).unwrap();
    assert!((3..25).contains(&snapshot.rekeys), "{}", snapshot.rekeys);
}

#[test]
fn who_started_anew_learns_who_still_sends_to_it() {
    let mut lab = Lab::pair(6);
    lab.restart(1);
    lab.stations[1].events.clear();
    let sent = lab.stations[1].sent;
    for number in 0..100 {
        lab.send_data(0, 1, number, 100);
        lab.run(Duration::from_millis(1));
    }
    let address = lab.stations[0].address;
    let strays = lab.stations[1].events.iter();
    let strays = strays.filter(|event| **event == Event::Stray { address });
    assert!((1..=12).contains(&strays.count()));
    assert_eq!(lab.stations[1].sent, sent, "and answers nothing");
}
