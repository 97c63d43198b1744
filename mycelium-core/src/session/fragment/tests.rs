use proptest::prelude::*;

use super::*;
use crate::crypto::identity::PublicKey;
use crate::session::mac::NetworkKey;

fn mac_key() -> MacKey {
    MacKey::new(&PublicKey([1; 32]), None::<&NetworkKey>)
}

pub(super) fn first(fill: u8, sender: u32) -> [Vec<u8>; 2] {
    let message: Vec<u8> = (0..MESSAGE_1_LEN)
        .map(|n| fill ^ n.to_le_bytes()[0])
        .collect();
    split_first(&message, sender, Scope::Link, &mac_key())
}

pub(super) fn second(fill: u8, reply_key: &ReplyKey) -> [Vec<u8>; 2] {
    let message = [fill; MESSAGE_2_LEN];
    split_second(&message, 8, 7, Scope::Link, &mac_key(), reply_key)
}

pub(super) fn fragment(unit: &[u8]) -> Fragment<'_> {
    match Unit::parse(unit) {
        Ok(Unit::Fragment(fragment)) => fragment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn units_say_what_they_are() {
    let units = first(1, 7);
    for (unit, number) in units.iter().zip(0..) {
        assert_eq!(unit.len(), UNIT_1_LEN);
        assert!(unit.len() + 44 <= 1162);
        let fragment = fragment(unit);
        assert_eq!(fragment.kind(), MessageKind::One);
        assert_eq!((fragment.sender(), fragment.receiver()), (7, 0));
        assert_eq!(fragment.number(), number);
        assert!(mac_key().verify(Scope::Link, fragment.bytes()));
        assert_eq!(fragment.mac2(), &[0; MAC_LEN]);
    }
    let reply_key = ReplyKey::new(&[3; 32]);
    for unit in second(1, &reply_key) {
        assert_eq!(unit.len(), UNIT_2_LEN);
        let fragment = fragment(&unit);
        assert_eq!(fragment.kind(), MessageKind::Two);
        assert_eq!((fragment.sender(), fragment.receiver()), (8, 7));
        assert!(mac_key().verify(Scope::Link, &unit));
        assert!(reply_key.verify(&unit));
    }
}

#[test]
fn what_is_no_unit_is_refused() {
    let [unit, _] = first(1, 7);
    let changed = |at: usize, byte: u8| {
        let mut changed = unit.clone();
        changed[at] = byte;
        Unit::parse(&changed).err()
    };
    for kind in [0, 4, 255] {
        assert_eq!(changed(0, kind), Some(UnitError::Kind));
    }
    assert_eq!(changed(0, 3), Some(UnitError::Number));
    assert_eq!(changed(0, 2), Some(UnitError::Index), "no receiver");
    for numbers in [0x00, 0x10, 0x11, 0x22, 0x30, 0x2f, 0xff] {
        assert_eq!(changed(1, numbers), Some(UnitError::Number));
    }
    assert_eq!(changed(2, 0xff), None, "ignored");
    assert_eq!(changed(7, 0), Some(UnitError::Index), "no sender");
    assert_eq!(changed(11, 1), Some(UnitError::Index), "a receiver");
    for len in 0..unit.len() {
        assert_eq!(Unit::parse(&unit[..len]), Err(UnitError::Length));
    }
    let longer = [&unit[..], &[0]].concat();
    assert_eq!(Unit::parse(&longer), Err(UnitError::Length));

    let mut reply = [0; REPLY_LEN];
    reply[..12].copy_from_slice(&CookieReply::header(7));
    assert!(matches!(Unit::parse(&reply), Ok(Unit::CookieReply(_))));
    assert_eq!(Unit::parse(&reply[..67]), Err(UnitError::Length));
    reply[4] = 1;
    assert_eq!(Unit::parse(&reply), Err(UnitError::Index));
    reply[..12].copy_from_slice(&CookieReply::header(0));
    assert_eq!(Unit::parse(&reply), Err(UnitError::Index));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
        let _ = Unit::parse(&bytes);
    }
}
