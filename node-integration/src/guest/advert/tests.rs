use super::*;

const GUEST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3456);
const SOLICIT: [u8; 16] = [
    133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56,
];

fn advertised() -> Advertised {
    Advertised {
        prefix: "430:9364:d8d8:84a9::1".parse().unwrap(),
        on_link: true,
        addressing: Addressing::Automatic,
        reach: Reach::Overlay,
        mtu: 1400,
        name_servers: vec!["430:9364:d8d8:84a9::1".parse().unwrap()],
        router: Some(Mac::new([2, 0, 0, 0, 0, 1])),
    }
}

/// An advertiser whose first advertisement is out.
fn started() -> (Advertiser, Instant) {
    let now = Instant::now();
    let mut advertiser = Advertiser::new(advertised(), now, 1);
    assert!(advertiser.poll_transmit(now).is_some());
    assert_eq!(advertiser.poll_transmit(now), None);
    (advertiser, now)
}

/// The options of a message, by type; every byte of it belongs to one.
fn options(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &message[16..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(rest[1]) * 8;
        found.push((rest[0], rest[2..length].to_vec()));
        rest = &rest[length..];
    }
    found
}

#[test]
fn advertisement_has_the_bytes_of_the_standards() {
    let message = encode(&advertised(), false);
    #[rustfmt::skip]
    let expected = [
        134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        1, 1, 2, 0, 0, 0, 0, 1,
        5, 1, 0, 0, 0, 0, 0x05, 0x78,
        3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0,
        0x04, 0x30, 0x93, 0x64, 0xd8, 0xd8, 0x84, 0xa9, 0, 0, 0, 0, 0, 0, 0, 0,
        24, 2, 7, 0, 0, 0, 7, 8, 4, 0, 0, 0, 0, 0, 0, 0,
        25, 3, 0, 0, 0, 0, 7, 8,
        0x04, 0x30, 0x93, 0x64, 0xd8, 0xd8, 0x84, 0xa9, 0, 0, 0, 0, 0, 0, 0, 1,
    ];
    assert_eq!(message, expected);
}

#[test]
fn dhcp_and_default_route_change_flags_and_lifetime() {
    let message = encode(
        &Advertised {
            addressing: Addressing::Dhcp,
            reach: Reach::Everything,
            on_link: false,
            name_servers: vec![],
            router: None,
            ..advertised()
        },
        false,
    );
    assert_eq!(message[5], 0xc0, "M and O");
    assert_eq!(message[6..8], 1800_u16.to_be_bytes());
    let options = options(&message);
    let kinds: Vec<u8> = options.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [5, 3, 24]);
    assert_eq!(options[1].1[1], 0, "neither on link nor autonomous");
}

#[test]
fn last_advertisement_takes_everything_back() {
    let mut advertised = advertised();
    advertised.reach = Reach::Everything;
    let message = encode(&advertised, true);
    assert_eq!(message[6..8], [0, 0]);
    for (kind, body) in options(&message) {
        match kind {
            3 => assert_eq!(body[2..10], [0; 8]),
            24 | 25 => assert_eq!(body[2..6], [0; 4]),
            _ => {}
        }
    }
}

#[test]
fn only_three_name_servers_are_told() {
    let advertised = Advertised {
        name_servers: vec![Ipv6Addr::LOCALHOST; 300],
        ..advertised()
    };
    let (_, servers) = options(&encode(&advertised, false)).pop().unwrap();
    assert_eq!(servers.len(), 6 + 3 * 16);
}

#[test]
fn solicitation_is_answered_within_half_a_second() {
    let (mut advertiser, start) = started();
    let asked = start + Duration::from_secs(10);
    advertiser.handle(asked, GUEST, 255, &SOLICIT).unwrap();
    let due = advertiser.poll_timeout().unwrap();
    assert!(
        due >= asked && due <= asked + LONGEST_DELAY,
        "{:?}",
        due - asked
    );
    assert_eq!(
        advertiser.poll_transmit(due - Duration::from_nanos(1)),
        None
    );
    assert!(advertiser.poll_transmit(due).is_some());
}

#[test]
fn guest_without_an_address_may_ask() {
    let (mut advertiser, now) = started();
    assert_eq!(
        advertiser.handle(now, Ipv6Addr::UNSPECIFIED, 255, &SOLICIT[..8]),
        Ok(())
    );
    assert_eq!(
        advertiser.handle(now, Ipv6Addr::UNSPECIFIED, 255, &SOLICIT),
        Err(Refusal::Options),
        "a link-layer address without an address"
    );
}

#[test]
fn flood_of_solicitations_costs_one_advertisement_every_three_seconds() {
    let (mut advertiser, start) = started();
    let mut sent = 0;
    for tick in 0..60_000_u16 {
        let now = start + Duration::from_millis(tick.into());
        let [high, low] = tick.to_be_bytes();
        let mut source = GUEST.octets();
        source[14..].copy_from_slice(&[high, low]);
        advertiser
            .handle(now, source.into(), 255, &SOLICIT)
            .unwrap();
        sent += u32::from(advertiser.poll_transmit(now).is_some());
    }
    assert!((15..=20).contains(&sent), "{sent} in a minute");
    assert_eq!(advertiser.counters().solicited, 60_000);
}

#[test]
fn unasked_ones_come_three_times_quickly_and_then_at_random_intervals() {
    let (mut advertiser, start) = started();
    let mut last = start;
    let mut gaps = Vec::new();
    for _ in 0..40 {
        let due = advertiser.poll_timeout().unwrap();
        assert!(advertiser.poll_transmit(due).is_some());
        gaps.push(due - last);
        last = due;
    }
    assert_eq!(gaps[..2], [INITIAL_INTERVAL; 2]);
    assert!(
        gaps[2..]
            .iter()
            .all(|gap| (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(gap)),
        "{gaps:?}"
    );
    let mut distinct = gaps[2..].to_vec();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() > 30, "{distinct:?}");
}

#[test]
fn withdrawal_is_said_three_times_and_is_the_end() {
    let (mut advertiser, start) = started();
    let now = start + Duration::from_secs(100);
    advertiser.withdraw(now);
    assert_eq!(
        advertiser.handle(now, GUEST, 255, &SOLICIT),
        Err(Refusal::Withdrawn)
    );
    let mut times = Vec::new();
    while let Some(due) = advertiser.poll_timeout() {
        let message = advertiser.poll_transmit(due).unwrap();
        assert_eq!(message, encode(&advertised(), true));
        times.push(due - now);
        advertiser.withdraw(due);
    }
    assert_eq!(times, [0, 3, 6].map(Duration::from_secs));
}

#[test]
fn change_is_told_at_once() {
    let (mut advertiser, start) = started();
    let now = start + Duration::from_secs(100);
    let changed = Advertised {
        mtu: 1280,
        ..advertised()
    };
    advertiser.replace(changed.clone(), now);
    assert_eq!(advertiser.poll_transmit(now), Some(encode(&changed, false)));
}

#[test]
fn what_is_no_solicitation_is_refused() {
    let elsewhere: Ipv6Addr = "430:9364:d8d8:84a9::2".parse().unwrap();
    let zero_length = [133, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let too_long = [133, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0];
    let cases: [(Ipv6Addr, u8, &[u8], Refusal); 9] = [
        (GUEST, 64, &SOLICIT, Refusal::HopLimit(64)),
        (elsewhere, 255, &SOLICIT, Refusal::Source(elsewhere)),
        (GUEST, 255, &[], Refusal::Short(0)),
        (GUEST, 255, &SOLICIT[..7], Refusal::Short(7)),
        (
            GUEST,
            255,
            &[134, 0, 0, 0, 0, 0, 0, 0],
            Refusal::Kind(134, 0),
        ),
        (
            GUEST,
            255,
            &[133, 1, 0, 0, 0, 0, 0, 0],
            Refusal::Kind(133, 1),
        ),
        (GUEST, 255, &zero_length, Refusal::Options),
        (GUEST, 255, &too_long, Refusal::Options),
        (GUEST, 255, &SOLICIT[..9], Refusal::Options),
    ];
    let (mut advertiser, now) = started();
    let due = advertiser.poll_timeout();
    for (source, hop_limit, message, refusal) in cases {
        assert_eq!(
            advertiser.handle(now, source, hop_limit, message),
            Err(refusal)
        );
    }
    assert_eq!(advertiser.poll_timeout(), due, "no answer was planned");
    assert_eq!(advertiser.counters().refused, 9);
}
