//! Against `tests/vectors/session_v2.py`, which shares no code with us.

use serde_json::Value;

use super::datagram::{self, DATA_BODY_AT, Header, SEALED_AT};
use super::io::{DATA_HEADROOM, DataClass};
use super::who::WhoKey;
use crate::crypto::aead::Suite;
use crate::crypto::identity::PublicKey;
use crate::session::mac::NetworkKey;
use crate::session::transport::{Receiver, Sender};
use crate::wire::frame::Kind;

fn cases() -> Vec<Value> {
    let text = include_str!("../../tests/vectors/session_v2.json");
    let all: Value = serde_json::from_str(text).unwrap();
    let cases = all["cases"].as_array().unwrap().iter();
    cases.filter(|case| case["link"] == 1).cloned().collect()
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

#[test]
fn datagrams_match() {
    let cases = cases();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let suite = Suite::from_byte(case["suite"].as_u64().unwrap().try_into().unwrap()).unwrap();
        let key = array(&case["transport_keys"][0]);
        let index = u32::try_from(case["responder"]["index"].as_u64().unwrap()).unwrap();
        let mut sender = Sender::known(suite, key, index);
        let mut receiver = Receiver::known(suite, key, index);
        for vector in case["datagrams"].as_array().unwrap() {
            let kind = u8::try_from(vector["type"].as_u64().unwrap()).unwrap();
            let counter = vector["counter"].as_u64().unwrap();
            let (plain, body) = (bytes(&vector["sealed"]), bytes(&vector["body"]));
            let expected = bytes(&vector["datagram"]);
            sender.set_count(counter);
            let mut ours = vec![0; DATA_HEADROOM];
            let class = DataClass::of_datagram(kind);
            let is_data = class.is_some();
            if let Some(class) = class {
                ours.extend_from_slice(&Kind::Data.header());
                ours.push(0);
                ours.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
                ours.extend_from_slice(&plain);
                ours.extend_from_slice(&body);
                datagram::seal_data(&mut sender, class, &mut ours).unwrap();
            } else {
                ours.resize(SEALED_AT, 0);
                ours.extend_from_slice(&plain);
                datagram::seal(&mut sender, kind, &mut ours).unwrap();
            }
            assert_eq!(ours, expected, "type {kind}");

            let header = Header::parse(&expected).unwrap();
            let mut theirs = expected;
            let opened = match is_data {
                true => datagram::open_data(&mut receiver, header, &mut theirs),
                false => datagram::open(&mut receiver, header, &mut theirs),
            };
            assert_eq!(opened, Ok(counter));
            assert_eq!(theirs[SEALED_AT..][..plain.len()], plain);
            assert!(!is_data || theirs[DATA_BODY_AT..] == body);
        }
    }
}

#[test]
fn questions_for_a_key_match() {
    for case in cases() {
        let network_key = NetworkKey::from_bytes(array(&case["network_key"]));
        let key = WhoKey::new(network_key.as_ref());
        let vector = &case["who"];
        let nonce = array(&vector["nonce"]);
        assert_eq!(key.request(nonce), bytes(&vector["request"]));
        let public = PublicKey(array(&case["responder"]["public"]));
        assert_eq!(key.reply(nonce, &public), bytes(&vector["reply"]));
    }
}
