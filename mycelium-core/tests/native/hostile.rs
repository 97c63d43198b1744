//! What strangers and liars achieve: nothing but their own loss.

use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::native::{DownReason, NativeConfig, NativeEndpoint, is_native};
use mycelium_core::rng::Rng;
use mycelium_core::time::Duration;

use crate::lab::{Flying, Lab, address, control_packet};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn replayed_reflected_and_changed_datagrams_do_nothing() {
    let mut lab = Lab::new(1, 2);
    lab.recorded = Some(Vec::new());
    lab.dial(0, 1);
    lab.run(SECOND);
    for number in 0..50 {
        lab.send_data(0, 1, number, 100 + usize::try_from(number).unwrap() * 25);
        lab.send_data(1, 0, number, 100);
        lab.send_control(0, 1, &control_packet(number, 40));
        lab.send_control(1, 0, &control_packet(number, 40));
        lab.run(Duration::from_millis(5));
    }
    lab.run(SECOND);
    let recorded = lab.recorded.take().unwrap();
    let state = |lab: &Lab| {
        let stations = lab.stations.iter();
        stations
            .map(|one| {
                (
                    one.control.len(),
                    one.data.len(),
                    one.up.clone(),
                    one.downs.clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    let before = state(&lab);
    let mut rng = Rng::from_seed([3; 32]);
    for one in &recorded {
        // As it was; from elsewhere; back to its sender; with one bit changed.
        lab.inject(one.clone());
        lab.inject(Flying {
            from: "203.0.113.5:6666".parse().unwrap(),
            ..one.clone()
        });
        lab.inject(Flying {
            from: one.to,
            to: one.from,
            bytes: one.bytes.clone(),
        });
        let mut changed = one.clone();
        let at = usize::try_from(rng.next_u64()).unwrap() % changed.bytes.len();
        changed.bytes[at] ^= 1 << (rng.next_u64() % 8);
        lab.inject(changed);
        lab.run(Duration::from_millis(1));
    }
    lab.run(10 * SECOND);
    assert_eq!(state(&lab), before);
    let stats = lab.stations[1].endpoint.stats();
    assert!(stats.replayed > 0 && stats.unauthentic > 0 && stats.unknown_index > 0);
    for station in &lab.stations {
        let link = station.endpoint.links(lab.now).next().unwrap();
        assert!([address(0), address(1)].contains(&link.address));
    }
}

#[test]
fn each_byte_of_a_datagram_is_protected() {
    for len in [40, 700] {
        for number in 0..2 {
            let mut lab = Lab::pair(2);
            lab.recorded = Some(Vec::new());
            lab.send_data(0, 1, number, len);
            let original = lab.recorded.take().unwrap().remove(0);
            // Of a session body the link protects the last 16 bytes; its own AEAD does the rest.
            let body = match number {
                0 => 58 + len - 16,
                _ => 58,
            };
            let sealed = (0..58).chain(body..original.bytes.len());
            let mut lab = Lab::pair(2);
            for at in sealed {
                let mut changed = original.clone();
                changed.bytes[at] ^= 0x40;
                lab.inject(changed);
            }
            for cut in 0..original.bytes.len() {
                let mut short = original.clone();
                short.bytes.truncate(cut);
                lab.inject(short);
            }
            lab.run(SECOND);
            assert_eq!(lab.stations[1].data.len(), 0);
            lab.inject(original);
            lab.run(SECOND);
            assert_eq!(lab.stations[1].data.len(), 1);
        }
    }
}

#[test]
fn noise_is_dropped_and_counted() {
    let mut lab = Lab::pair(3);
    let mut rng = Rng::from_seed([4; 32]);
    for _ in 0..20_000 {
        let len = usize::try_from(rng.next_u64() % 1472).unwrap();
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.array::<1>()[0]).collect();
        if let Some(first) = bytes.first_mut() {
            *first = 4 + *first % 12;
            assert!(is_native(*first));
        }
        lab.inject(Flying {
            from: "203.0.113.5:6666".parse().unwrap(),
            to: address(1),
            bytes,
        });
    }
    let before = lab.stations[1].sent;
    lab.run(SECOND);
    assert_eq!(lab.stations[1].sent - before, 0);
    assert!(lab.linked(0, 1));
}

/// First messages of self-made identities, each from an address of its own.
fn flood(lab: &mut Lab, count: u32, from: impl Fn(u32) -> std::net::SocketAddr) {
    let target = lab.stations[1].key;
    let mut out = Vec::new();
    for number in 0..count {
        let mut secret = [9; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let secret = SecretKey::from_bytes(secret);
        let unix = Duration::from_secs(1);
        let mut stranger =
            NativeEndpoint::new(NativeConfig::default(), &secret, [6; 32], unix, lab.now);
        let _ = stranger.dial(address(1), Some(target), lab.now);
        while let Some(to) = stranger.poll_transmit(lab.now, &mut out) {
            lab.inject(Flying {
                from: from(number),
                to,
                bytes: out.clone(),
            });
        }
        lab.run(Duration::from_millis(1));
    }
}

#[test]
fn a_flood_of_handshakes_is_bounded_and_others_get_in_with_a_cookie() {
    let mut lab = Lab::new(4, 2);
    flood(&mut lab, 3000, |number| {
        let [_, a, b, c] = number.to_be_bytes();
        std::net::SocketAddr::from(([100, a, b, c], 1))
    });
    let stats = lab.stations[1].endpoint.stats();
    // Half of the flood lasts 3 s: 50 at once and 50 a second.
    assert!(stats.answered <= 210, "{stats:?}");
    assert!(stats.cookies > 2000);
    for len in lab.stations[1].endpoint.stranger_tables() {
        assert!(len <= 1024, "{len}");
    }
    let start = lab.now;
    lab.dial(0, 1);
    flood(&mut lab, 200, |number| {
        let [_, a, b, c] = number.to_be_bytes();
        std::net::SocketAddr::from(([101, a, b, c], 1))
    });
    assert!(lab.linked(0, 1), "{:?}", lab.now.since(start));
    lab.run(20 * SECOND);
    assert_eq!(lab.stations[1].endpoint.stranger_tables(), [0, 0, 0]);
}

/// The first message of a stranger, as datagrams.
fn first_message(lab: &Lab, number: u8) -> Vec<Vec<u8>> {
    let secret = SecretKey::from_bytes([100 + number; 32]);
    let unix = Duration::from_secs(1);
    let mut stranger =
        NativeEndpoint::new(NativeConfig::default(), &secret, [6; 32], unix, lab.now);
    let _ = stranger.dial(address(1), Some(lab.stations[1].key), lab.now);
    let mut out = Vec::new();
    std::iter::from_fn(|| {
        stranger
            .poll_transmit(lab.now, &mut out)
            .map(|_| out.clone())
    })
    .collect()
}

#[test]
fn strangers_do_not_spend_what_answers_those_we_have_links_with() {
    let mut lab = Lab::pair(9);
    let mut from = 0u32;
    let mut inject = |lab: &mut Lab, bytes: &[u8], moves: u32| {
        from += moves;
        let [_, a, b, c] = from.to_be_bytes();
        lab.inject(Flying {
            from: std::net::SocketAddr::from(([102, a, b, c], 1)),
            to: address(1),
            bytes: bytes.to_vec(),
        });
    };
    // More than is answered without a cookie, then more than is told a cookie: halves may be sent by anybody from anywhere.
    for number in 0..20 {
        for (n, datagram) in (0..).zip(first_message(&lab, number)) {
            inject(&mut lab, &datagram, 1 - n);
        }
    }
    let half = &first_message(&lab, 50)[0];
    for _ in 0..3000 {
        inject(&mut lab, half, 1);
    }
    // At this very moment the process at the other end of a link starts anew.
    lab.restart(0);
    lab.dial(0, 1);
    let took = lab.run_until(SECOND, |lab| lab.linked(0, 1)).unwrap();
    assert!(took <= Duration::from_millis(60), "{took:?}");
    assert!(lab.stations[1].endpoint.stats().over_budget > 1000);
}

#[test]
fn replayed_first_messages_do_not_keep_out_their_author() {
    let mut lab = Lab::new(5, 2);
    // Five that were never answered: station 1 was not there.
    lab.recorded = Some(Vec::new());
    lab.stations[1].dead = true;
    lab.dial(0, 1);
    lab.run(10 * SECOND);
    let old = lab.recorded.take().unwrap();
    lab.stations[1].dead = false;
    for round in 0..20u16 {
        for one in &old {
            lab.inject(Flying {
                from: std::net::SocketAddr::from(([203, 0, 113, 7], round + 1)),
                ..one.clone()
            });
        }
        lab.run(Duration::from_millis(50));
    }
    assert_eq!(lab.stations[1].up.len(), 0);
    lab.dial(0, 1);
    let took = lab.run_until(SECOND, |lab| lab.linked(0, 1));
    assert!(took.is_some());
}

#[test]
fn an_outsider_cannot_end_a_dial_or_a_link_by_lies_about_unreachability() {
    let mut lab = Lab::pair(6);
    for _ in 0..2000 {
        let now = lab.now;
        lab.stations[0].endpoint.on_unreachable(address(1), now);
        lab.stations[0].endpoint.on_too_large(address(1), now);
        lab.drain(0);
        lab.run(Duration::from_millis(5));
    }
    assert_eq!(lab.stations[0].downs, []);
    let link = lab.link(0, 1).unwrap();
    assert_eq!(lab.stations[0].endpoint.max_frame(link), Some(1472 - 18));
}

#[test]
fn a_stolen_key_does_not_let_its_thief_play_others_to_its_owner() {
    // The thief of station 1's key makes a first message of station 0: it can, with `es` and `ss`. It cannot read the answer.
    let mut lab = Lab::new(7, 2);
    lab.recorded = Some(Vec::new());
    lab.dial(0, 1);
    lab.run(Duration::from_micros(5001));
    lab.stations[0].dead = true;
    let sent = lab.stations[1].sent;
    lab.run(10 * SECOND);
    assert_eq!(lab.stations[1].up.len(), 0);
    assert_eq!(lab.stations[1].sent, sent, "nothing but the answer");
    assert_eq!(lab.stations[1].endpoint.stats().abandoned, 1);
}

#[test]
fn a_dial_of_a_key_of_low_order_fails() {
    let mut lab = Lab::new(8, 2);
    let now = lab.now;
    let key = mycelium_core::crypto::identity::PublicKey([0; 32]);
    let link = lab.stations[0].endpoint.dial(address(1), Some(key), now);
    lab.drain(0);
    lab.run(10 * SECOND);
    assert_eq!(lab.stations[0].downs, [(link, DownReason::Unanswered)]);
}
