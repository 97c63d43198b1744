use super::*;
use crate::crypto::identity::SecretKey;
use crate::io::IdentityId;
use crate::session::fragment::{
    Reassembly, ReassemblyLimits, Route, Source, Unit, split_first, split_second,
};
use crate::session::handshake::{MESSAGE_1_LEN, MESSAGE_2_LEN};
use crate::session::mac::{MACS_LEN, MacKey, ReplyKey, Scope};

fn key(network: u8) -> CookieKey {
    let network_key = NetworkKey::from_bytes([network; 32]);
    CookieKey::new(&PublicKey([1; 32]), network_key.as_ref())
}

fn units(fill: u8) -> [Vec<u8>; 2] {
    let mac_key = MacKey::new(&PublicKey([1; 32]), None);
    split_first(&[fill; MESSAGE_1_LEN], 7, Scope::Link, &mac_key)
}

fn fragment(unit: &[u8]) -> Fragment<'_> {
    match Unit::parse(unit) {
        Ok(Unit::Fragment(fragment)) => fragment,
        other => panic!("{other:?}"),
    }
}

fn cookie_reply(reply: &[u8]) -> CookieReply<'_> {
    match Unit::parse(reply) {
        Ok(Unit::CookieReply(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

fn here() -> ReturnAddress {
    ReturnAddress::link("192.0.2.1:9651".parse().unwrap())
}

fn after(seconds: u64) -> Time {
    Time::from_millis(seconds * 1000)
}

/// A sender that was told a cookie at `now`.
fn told(jar: &mut CookieJar, now: Time, rng: &mut Rng) -> (CookieMemory, [Vec<u8>; 2]) {
    let mut memory = CookieMemory::default();
    let mut units = units(1);
    memory.stamp(now, &mut units);
    let reply = jar
        .reply(now, &here(), &fragment(&units[0]), &key(0), rng)
        .unwrap();
    assert!(reply.len() < units[0].len());
    assert!(memory.accept(now, &key(0), &cookie_reply(&reply)));
    memory.stamp(now, &mut units);
    (memory, units)
}

#[test]
fn who_was_told_a_cookie_gets_through() {
    let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
    let (_, units) = told(&mut jar, after(10), &mut rng);
    let plain = self::units(1);
    for (unit, plain) in units.iter().zip(&plain) {
        assert!(jar.verify(after(10), &here(), &fragment(unit)));
        assert!(!jar.verify(after(10), &here(), &fragment(plain)));
        // MAC2 covers everything before it, and is the only change.
        assert_eq!(unit[..unit.len() - MAC_LEN], plain[..unit.len() - MAC_LEN]);
        for at in [4, 12, 40, unit.len() - MACS_LEN, unit.len() - 1] {
            let mut changed = unit.clone();
            changed[at] ^= 1;
            assert!(
                !jar.verify(after(10), &here(), &fragment(&changed)),
                "byte {at}"
            );
        }
    }
    assert!(!CookieJar::default().verify(after(10), &here(), &fragment(&units[0])));
}

#[test]
fn a_cookie_is_good_at_one_address_only() {
    let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
    let (_, units) = told(&mut jar, after(10), &mut rng);
    let link = |text: &str| ReturnAddress::link(text.parse().unwrap());
    for elsewhere in [
        link("192.0.2.1:9652"),
        link("192.0.2.2:9651"),
        ReturnAddress::end_to_end("::ffff:192.0.2.1".parse().unwrap()),
    ] {
        assert!(!jar.verify(after(10), &elsewhere, &fragment(&units[0])));
    }
    // One address, however the socket shows it.
    let mapped = link("[::ffff:192.0.2.1]:9651");
    assert!(jar.verify(after(10), &mapped, &fragment(&units[0])));
}

#[test]
fn secrets_are_renewed_and_the_previous_one_still_counts() {
    let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
    let (_, old) = told(&mut jar, after(100), &mut rng);
    let (_, same) = told(&mut jar, after(219), &mut rng);
    assert_eq!(old, same);
    let (_, new) = told(&mut jar, after(220), &mut rng);
    assert_ne!(old, new);
    for (now, old_counts, new_counts) in [
        (220, true, true),
        (339, true, true),
        (340, false, true),
        (460, false, false),
    ] {
        let counts = |units: &[Vec<u8>; 2]| jar.verify(after(now), &here(), &fragment(&units[1]));
        assert_eq!(
            (counts(&old), counts(&new)),
            (old_counts, new_counts),
            "after {now} s"
        );
    }
    // Nobody asked for a while: neither of the old secrets is used again.
    let (_, newest) = told(&mut jar, after(10_000), &mut rng);
    assert!(!jar.verify(after(10_000), &here(), &fragment(&new[0])));
    assert!(jar.verify(after(10_000), &here(), &fragment(&newest[0])));
}

#[test]
fn a_sender_forgets_its_cookie() {
    let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
    let (mut memory, stamped) = told(&mut jar, after(10), &mut rng);
    let mut units = units(1);
    memory.stamp(after(129), &mut units);
    assert_eq!(units, stamped);
    assert!(memory.has_cookie(after(129)) && !memory.has_cookie(after(130)));
    let mut units = self::units(1);
    memory.stamp(after(130), &mut units);
    assert_eq!(units, self::units(1));
}

#[test]
fn a_reply_counts_for_the_message_that_was_sent_last_and_once() {
    let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
    let now = after(5);
    let (mut first, mut second) = (units(1), units(2));
    let mut memory = CookieMemory::default();
    let mut reply = |unit: &[u8], key: &CookieKey| {
        jar.reply(now, &here(), &fragment(unit), key, &mut rng)
            .unwrap()
    };
    let early = reply(&first[0], &key(0));
    assert!(
        !memory.accept(now, &key(0), &cookie_reply(&early)),
        "nothing sent yet"
    );
    memory.stamp(now, &mut first);
    memory.stamp(now, &mut second);
    assert!(!memory.accept(now, &key(0), &cookie_reply(&early)));
    let genuine = reply(&second[0], &key(0));
    for at in 12..genuine.len() {
        let mut changed = genuine;
        changed[at] ^= 1;
        assert!(
            !memory.accept(now, &key(0), &cookie_reply(&changed)),
            "byte {at}"
        );
    }
    let without_network_key = reply(&second[0], &key(0));
    assert!(!memory.accept(now, &key(3), &cookie_reply(&without_network_key)));
    assert!(!memory.has_cookie(now));
    assert!(memory.accept(now, &key(0), &cookie_reply(&genuine)));
    assert!(
        !memory.accept(now, &key(0), &cookie_reply(&genuine)),
        "once"
    );
    assert!(memory.has_cookie(now));
}

#[test]
fn only_the_first_half_of_a_first_message_is_answered() {
    let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
    let first = units(1);
    let mac_key = MacKey::new(&SecretKey::from_bytes([2; 32]).public_key(), None);
    let reply_key = ReplyKey::new(&[4; 32]);
    let second = split_second(&[1; MESSAGE_2_LEN], 8, 7, Scope::Link, &mac_key, &reply_key);
    let mut answers = |unit: &[u8]| {
        let answer = jar.reply(Time::ZERO, &here(), &fragment(unit), &key(0), &mut rng);
        answer.is_some()
    };
    assert!(answers(&first[0]));
    assert!(!answers(&first[1]));
    assert!(!answers(&second[0]));
    assert!(!answers(&second[1]));
}

#[test]
fn a_whole_message_is_answered_whatever_half_came_last() {
    for order in [[0, 1], [1, 0]] {
        let (mut jar, mut rng) = (CookieJar::default(), Rng::from_seed([1; 32]));
        let mut memory = CookieMemory::default();
        let mut units = units(1);
        memory.stamp(Time::ZERO, &mut units);
        let mut table = Reassembly::new(ReassemblyLimits::default());
        let route = Route {
            identity: IdentityId(0),
            source: Source::underlay([192, 0, 2, 1].into()),
            link: 0,
            proven: false,
        };
        let whole = order.map(|n| table.add(Time::ZERO, route, &fragment(&units[n])))[1]
            .clone()
            .unwrap();
        let reply = jar.reply_to(Time::ZERO, &here(), 7, &whole.mac1, &key(0), &mut rng);
        assert!(memory.accept(Time::ZERO, &key(0), &cookie_reply(&reply)));
    }
}
