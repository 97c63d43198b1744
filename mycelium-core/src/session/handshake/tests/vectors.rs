//! Against `tests/vectors/session_v2.py`, which shares no code with us.

use serde_json::Value;

use super::*;
use crate::session::cookie::{CookieKey, CookieMemory};
use crate::session::fragment::{Unit, split_first, split_second};
use crate::session::mac::{MacKey, Scope};
use crate::session::transport::SEND_LIMIT;
use crate::time::Time;

fn cases() -> Vec<Value> {
    let text = include_str!("../../../../tests/vectors/session_v2.json");
    let all: Value = serde_json::from_str(text).unwrap();
    all["cases"].as_array().unwrap().clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

fn pair(value: &Value) -> [Vec<u8>; 2] {
    [bytes(&value[0]), bytes(&value[1])]
}

#[test]
fn the_whole_handshake_matches() {
    let cases = cases();
    assert_eq!(cases.len(), 5);
    for case in &cases {
        let (i, r) = (&case["initiator"], &case["responder"]);
        let key = |value: &Value| Local::new(SecretKey::from_bytes(array(&value["static"])));
        let (initiator, responder) = (key(i), key(r));
        for (local, value) in [(&initiator, i), (&responder, r)] {
            assert_eq!(local.public.0, array(&value["public"]));
            assert_eq!(local.address.octets(), array(&value["address"]));
        }
        let network_key = NetworkKey::from_bytes(array(&case["network_key"]));
        let network_key = network_key.as_ref();
        let (context, arrival) = match case["link"].as_u64() {
            Some(0) => (Context::EndToEnd, arrival(Context::EndToEnd, &initiator)),
            _ => (Context::Link, Arrival::Link),
        };
        let hello = Hello {
            index: number(&i["index"]),
            timestamp: Timestamp(array(&i["timestamp"])),
            has_aes: i["aes"] == 1,
        };

        let (mut pending, one) = Initiator::start_with(
            context,
            &initiator,
            &responder.public,
            &hello,
            SecretKey::from_bytes(array(&i["ephemeral"])),
            Zeroizing::new(array(&i["kem_seed"])),
        )
        .unwrap();
        assert_eq!(one, bytes(&case["message_1"]), "{}", case["name"]);

        let authenticated = Responder::identify(arrival, &responder, &one)
            .unwrap()
            .authenticate(hello.index)
            .unwrap();
        assert_eq!(authenticated.hello(), &hello);
        let index = number(&r["index"]);
        let response = authenticated
            .respond_with(
                index,
                r["aes"] == 1,
                network_key,
                &SecretKey::from_bytes(array(&r["ephemeral"])),
                &array(&r["kem_randomness"]),
            )
            .unwrap();
        assert_eq!(response.message, bytes(&case["message_2"]));

        units_match(
            case,
            context,
            [&initiator, &responder],
            network_key,
            &response,
        );

        let session = pending
            .finish(index, &response.message, network_key)
            .unwrap();
        assert_eq!(
            u64::from(session.suite.byte()),
            case["suite"].as_u64().unwrap()
        );
        bodies_match(
            case,
            [&initiator, &responder],
            session,
            response.established,
        );
    }
}

fn units_match(
    case: &Value,
    context: Context,
    [initiator, responder]: [&Local; 2],
    network_key: Option<&NetworkKey>,
    response: &Response,
) {
    let scope = |from: &Local, to: &Local| match context {
        Context::EndToEnd => Scope::EndToEnd {
            source: from.address,
            destination: to.address,
        },
        Context::Link => Scope::Link,
    };
    let (i, r) = (
        number(&case["initiator"]["index"]),
        number(&case["responder"]["index"]),
    );
    let mut first = split_first(
        &bytes(&case["message_1"]),
        i,
        scope(initiator, responder),
        &MacKey::new(&responder.public, network_key),
    );
    assert_eq!(first, pair(&case["units_1"]));
    let second = split_second(
        &response.message,
        r,
        i,
        scope(responder, initiator),
        &MacKey::new(&initiator.public, network_key),
        &response.reply_key,
    );
    assert_eq!(second, pair(&case["units_2"]));

    let reply = bytes(&case["cookie"]["reply"]);
    let Ok(Unit::CookieReply(reply)) = Unit::parse(&reply) else {
        panic!("not a cookie reply");
    };
    assert_eq!(reply.receiver(), i);
    let mut memory = CookieMemory::default();
    memory.stamp(Time::ZERO, &mut first);
    assert_eq!(first, pair(&case["units_1"]));
    let key = CookieKey::new(&responder.public, network_key);
    assert!(memory.accept(Time::ZERO, &key, &reply));
    memory.stamp(Time::ZERO, &mut first);
    assert_eq!(first, pair(&case["units_1_with_cookie"]));
}

fn bodies_match(case: &Value, ends: [&Local; 2], ours: Established, theirs: Established) {
    let mut senders = [ours.sender, theirs.sender];
    let mut receivers = [theirs.receiver, ours.receiver];
    senders[1].release();
    for body in case["bodies"].as_array().unwrap() {
        let direction = usize::try_from(number(&body["direction"])).unwrap();
        let (source, destination) = (ends[direction].address, ends[1 - direction].address);
        let counter = body["counter"].as_u64().unwrap();
        assert!(counter < SEND_LIMIT);
        senders[direction].set_count(counter);
        let mut ours = vec![0; HEAD_LEN];
        ours.extend_from_slice(&bytes(&body["plaintext"]));
        ours.extend_from_slice(&[0; 16]);
        senders[direction]
            .seal_body(source, destination, &mut ours)
            .unwrap();
        let mut sealed = bytes(&body["body"]);
        assert_eq!(ours, sealed, "{} {counter}", case["name"]);
        let opened = receivers[direction].open_body(source, destination, &mut sealed);
        assert_eq!(opened.unwrap(), bytes(&body["plaintext"]));
    }
}
