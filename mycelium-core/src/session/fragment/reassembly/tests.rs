use proptest::prelude::*;

use super::*;
use crate::session::fragment::HEADER_LEN;
use crate::session::fragment::tests::{first, fragment, second};
use crate::session::handshake::{MESSAGE_1_LEN, MESSAGE_2_LEN};
use crate::session::mac::ReplyKey;

fn route(source: u8, link: u32) -> Route {
    Route {
        identity: IdentityId(0),
        source: Source::underlay([192, 0, 2, source].into()),
        link,
        proven: false,
    }
}

fn millis(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// The unit with other bytes in its half, as somebody forges it who saw the genuine one.
fn forged(unit: &[u8], byte: u8) -> Vec<u8> {
    let mut forged = unit.to_vec();
    forged[HEADER_LEN + 5] ^= byte;
    forged
}

#[test]
fn a_message_is_whole_in_either_order() {
    for order in [[0, 1], [1, 0]] {
        let mut table = Reassembly::new(ReassemblyLimits::default());
        let units = first(1, 7);
        let added = order.map(|n| table.add(millis(1), route(1, 1), &fragment(&units[n])));
        assert_eq!(added[0], None);
        let whole = added[1].as_ref().unwrap();
        assert_eq!(whole.message.len(), MESSAGE_1_LEN);
        assert_eq!(whole.mac1, *fragment(&units[0]).mac1());
        assert_eq!(whole.hash, *blake3::hash(&whole.message).as_bytes());
        assert!(table.is_empty());
        assert_eq!(table.stats().completed, 1);
    }
}

#[test]
fn halves_of_different_messages_sources_or_identities_do_not_meet() {
    let (one, two, later) = (first(1, 7), first(2, 7), first(1, 8));
    let mut table = Reassembly::new(ReassemblyLimits::default());
    let mut add = |route, unit: &[u8]| table.add(millis(1), route, &fragment(unit));
    assert_eq!(add(route(1, 1), &one[0]), None);
    assert_eq!(add(route(1, 1), &two[1]), None);
    assert_eq!(add(route(1, 1), &later[1]), None);
    assert_eq!(add(route(2, 1), &one[1]), None);
    let elsewhere = Route {
        identity: IdentityId(1),
        ..route(1, 1)
    };
    assert_eq!(add(elsewhere, &one[1]), None);
    // The link may change between the halves.
    assert!(add(route(1, 2), &one[1]).is_some());
    assert_eq!(table.len(), 4);
}

#[test]
fn a_forged_half_spoils_nothing() {
    let genuine = first(1, 7);
    let (a, b) = (forged(&genuine[0], 1), forged(&genuine[1], 1));
    let (c, d) = (forged(&genuine[0], 2), forged(&genuine[1], 2));
    let [first, second] = &genuine;
    // Whatever comes before, between and after: the genuine two meet.
    for order in [
        vec![&a, first, second],
        vec![first, &a, second],
        vec![first, &b, second],
        vec![&a, &b, first, second],
        vec![&b, first, &c, second],
        vec![second, &a, &c, &b, first],
        vec![first, &b, &d, &a, &c, second],
        vec![
            first,
            &b,
            &d,
            &forged(second, 3),
            &forged(second, 4),
            second,
        ],
        vec![&a, first, &b, &d, second],
    ] {
        let mut table = Reassembly::new(ReassemblyLimits::default());
        let (last, before) = order.split_last().unwrap();
        for unit in before {
            assert_eq!(table.add(millis(1), route(1, 1), &fragment(unit)), None);
        }
        let whole = table.add(millis(1), route(1, 1), &fragment(last));
        assert_eq!(whole.unwrap().message[..650], *fragment(first).half);
        assert!(table.is_empty());
    }
}

#[test]
fn what_one_message_can_hold_is_bounded() {
    let genuine = first(1, 7);
    let mut table = Reassembly::new(ReassemblyLimits::default());
    for byte in 1..100 {
        for unit in &genuine {
            table.add(millis(1), route(1, 1), &fragment(&forged(unit, byte)));
        }
    }
    table.add(millis(1), route(1, 1), &fragment(&forged(&genuine[0], 1)));
    assert_eq!(table.len(), 1);
    let held = table.partials.values().next().unwrap();
    assert!(held.claims.0.iter().all(|claims| claims.len() == VARIANTS));
    assert_eq!(table.stats().forged, 2 * 97);
    assert_eq!(table.stats().duplicates, 1);
}

#[test]
fn halves_wait_two_seconds() {
    let units = first(1, 7);
    let mut table = Reassembly::new(ReassemblyLimits::default());
    table.add(millis(1_000), route(1, 1), &fragment(&units[0]));
    assert_eq!(table.poll_timeout(), Some(millis(3_000)));
    // A later claim does not make it live longer.
    table.add(millis(2_000), route(1, 1), &fragment(&forged(&units[0], 1)));
    assert_eq!(table.poll_timeout(), Some(millis(3_000)));
    assert_eq!(
        table.add(millis(3_000), route(1, 1), &fragment(&units[1])),
        None
    );
    assert_eq!(table.stats().expired, 1);
    assert!(
        table
            .add(millis(3_001), route(1, 1), &fragment(&units[0]))
            .is_some()
    );
    table.expire(millis(10_000));
    assert_eq!((table.len(), table.poll_timeout()), (0, None));
}

#[test]
fn a_full_source_loses_its_own_oldest() {
    let mut table = Reassembly::new(ReassemblyLimits::default());
    let others = first(9, 9);
    table.add(millis(0), route(2, 1), &fragment(&others[0]));
    let units: Vec<_> = (1..=5).map(|n| first(1, n)).collect();
    for units in &units {
        table.add(millis(1), route(1, 1), &fragment(&units[0]));
    }
    assert_eq!((table.len(), table.stats().evicted), (5, 1));
    assert!(
        table
            .add(millis(2), route(2, 1), &fragment(&others[1]))
            .is_some()
    );
    for units in &units[1..] {
        assert!(
            table
                .add(millis(2), route(1, 1), &fragment(&units[1]))
                .is_some()
        );
    }
    assert_eq!(
        table.add(millis(2), route(1, 1), &fragment(&units[0][1])),
        None
    );
}

#[test]
fn a_flood_over_one_link_pushes_out_nothing_of_another() {
    let limits = ReassemblyLimits {
        messages: 12,
        messages_per_link: 8,
        messages_per_source: 2,
    };
    let mut table = Reassembly::new(limits);
    let units = first(1, 7);
    table.add(millis(0), route(200, 2), &fragment(&units[0]));
    for source in 0..100 {
        table.add(millis(1), route(source, 1), &fragment(&units[0]));
        assert!(table.len() <= 9);
    }
    assert_eq!(table.stats().evicted, 92);
    // The table as a whole is full as well: each link still pays with its own.
    for source in 101..104 {
        table.add(millis(2), route(source, 3), &fragment(&units[0]));
    }
    assert_eq!(table.len(), 12);
    table.add(millis(2), route(150, 1), &fragment(&units[0]));
    assert!(
        table
            .add(millis(3), route(200, 2), &fragment(&units[1]))
            .is_some()
    );
    assert!(
        table
            .add(millis(3), route(101, 3), &fragment(&units[1]))
            .is_some()
    );
    // A link that has nothing here takes the oldest of all.
    table.add(millis(4), route(151, 3), &fragment(&units[0]));
    table.add(millis(4), route(152, 3), &fragment(&units[0]));
    assert_eq!(table.len(), 12);
    table.add(millis(4), route(160, 4), &fragment(&units[0]));
    assert_eq!(table.len(), 12);
    assert!(
        table
            .add(millis(4), route(160, 4), &fragment(&units[1]))
            .is_some()
    );
}

#[test]
fn second_messages_have_a_place_of_their_own() {
    let reply_key = ReplyKey::new(&[3; 32]);
    let (one, other) = (second(1, &reply_key), second(2, &reply_key));
    let mut place = SecondMessage::default();
    assert_eq!(place.add(millis(1), &fragment(&one[1])), None);
    assert_eq!(place.add(millis(1), &fragment(&forged(&one[0], 1))), None);
    let whole = place.add(millis(1), &fragment(&one[0])).unwrap();
    assert_eq!(whole.message, [1; MESSAGE_2_LEN]);
    // Answered anew, the last one counts.
    assert_eq!(place.add(millis(2), &fragment(&one[1])), None);
    assert_eq!(place.add(millis(2), &fragment(&other[0])), None);
    assert_eq!(
        place.add(millis(2), &fragment(&other[1])).unwrap().message[0],
        2
    );
    // And not for ever.
    assert_eq!(place.add(millis(1_000), &fragment(&one[0])), None);
    assert_eq!(place.add(millis(3_000), &fragment(&one[1])), None);
    assert!(place.add(millis(3_001), &fragment(&one[0])).is_some());
}

proptest! {
    #[test]
    fn the_table_never_outgrows_its_bounds(
        steps in proptest::collection::vec((0u8..6, 0u32..3, 1u32..6, 0u8..3, 0usize..2, 0u64..900), 1..150),
    ) {
        let limits = ReassemblyLimits { messages: 6, messages_per_link: 4, messages_per_source: 2 };
        let mut table = Reassembly::new(limits);
        let mut now = 0;
        for (source, link, sender, fill, half, pause) in steps {
            now += pause;
            let units = first(fill, sender);
            table.add(millis(now), route(source, link), &fragment(&units[half]));
            prop_assert!(table.len() <= 6);
            prop_assert_eq!(table.len(), table.order.len());
            prop_assert_eq!(table.len(), table.by_source.len());
            prop_assert_eq!(table.len(), table.by_link.values().map(BTreeSet::len).sum::<usize>());
            for source in 0..6 {
                let of = table.partials.keys().filter(|key| key.source == route(source, 0).source);
                prop_assert!(of.count() <= 2);
            }
            prop_assert!(table.by_link.values().all(|of| (1..=4).contains(&of.len())));
            prop_assert!(table.poll_timeout().is_none_or(|at| at > millis(now)));
        }
    }
}

#[test]
fn who_only_claims_to_be_at_an_address_makes_room_for_who_is() {
    let mut table = Reassembly::new(ReassemblyLimits::default());
    let unproven = route(1, 1);
    let proven = Route {
        proven: true,
        ..unproven
    };
    let honest = first(9, 9);
    for number in 1..5 {
        let half = &first(number, number.into())[0];
        assert!(!table.is_crowded(millis(1), unproven, &fragment(half)));
        assert_eq!(table.add(millis(1), unproven, &fragment(half)), None);
        assert!(!table.is_crowded(millis(1), unproven, &fragment(half)));
    }
    assert!(table.is_crowded(millis(1), unproven, &fragment(&honest[0])));
    assert_eq!(table.add(millis(2), proven, &fragment(&honest[0])), None);
    for number in 10..20 {
        let half = &first(number, number.into())[0];
        assert!(table.is_crowded(millis(3), unproven, &fragment(half)));
        // Even if it is taken.
        table.add(millis(3), unproven, &fragment(half));
    }
    assert!(!table.is_crowded(millis(4), unproven, &fragment(&honest[1])));
    assert!(
        table
            .add(millis(4), unproven, &fragment(&honest[1]))
            .is_some()
    );
}
