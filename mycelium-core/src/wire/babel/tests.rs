use std::net::Ipv6Addr;
use std::num::NonZeroU8;

use proptest::prelude::*;

use super::*;
use crate::addr::Subnet;
use crate::crypto::identity::PublicKey;
use crate::router_id::RouterId;

const A_SUBNET: Subnet = Subnet::from_octets([0x04, 0x30, 0x93, 0x64, 0xd8, 0xd8, 0x84, 0xa9]);
const B_SUBNET: Subnet = Subnet::from_octets([0x04, 0x37, 0x51, 0x06, 0x55, 0x30, 0x15, 0x89]);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

fn router_id() -> RouterId {
    let key =
        PublicKey::from_hex("8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f");
    RouterId::new(key.unwrap(), [0; 2], [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6])
}

/// The control packets of the present network (wire spec §12).
fn vectors() -> [(Tlv, Vec<u8>); 6] {
    let hello = Hello {
        seqno: 0,
        interval: 2000,
    };
    let ihu = Ihu {
        rx_cost: 1010,
        interval: 6000,
    };
    let update = Update {
        interval: 30_000,
        seqno: 0,
        metric: 0,
        prefix: A_SUBNET.into(),
        router_id: router_id(),
    };
    let request = RouteRequest {
        generation: Generation::ORIGINAL,
        prefix: Some(B_SUBNET.into()),
    };
    let wildcard = RouteRequest {
        generation: Generation::ORIGINAL,
        prefix: None,
    };
    let seqno_request = SeqnoRequest {
        seqno: 1,
        hop_count: NonZeroU8::new(64).unwrap(),
        router_id: router_id(),
        prefix: A_SUBNET.into(),
    };
    [
        (Tlv::Hello(hello), bytes("01010000 2a030008 0406 8000 0000 07d0")),
        (Tlv::Ihu(ihu), bytes("01010000 2a030008 0506 00 00 03f2 1770")),
        (
            Tlv::Update(update),
            bytes(
                "01010000 2a03003c 083a 02 00 40 00 7530 0000 0000 04309364d8d884a9
                 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f 0000 a1a2a3a4a5a6",
            ),
        ),
        (
            Tlv::RouteRequest(request),
            bytes("01010000 2a03000d 090b 00 02 40 0437510655301589"),
        ),
        (
            Tlv::RouteRequest(wildcard),
            bytes("01010000 2a030005 0903 00 00 00"),
        ),
        (
            Tlv::SeqnoRequest(seqno_request),
            bytes(
                "01010000 2a030038 0a36 02 40 0001 40 00
                 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f 0000 a1a2a3a4a5a6
                 04309364d8d884a9",
            ),
        ),
    ]
}

fn decode(packet: &[u8]) -> Result<Vec<Item>, DecodeError> {
    walk(packet)?.collect()
}

/// A packet around a body, with the right body length.
fn packet(body: &[u8]) -> Vec<u8> {
    let mut packet = vec![1, 1, 0, 0, 42, 3];
    packet.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(body);
    packet
}

#[test]
fn vectors_of_the_present_network_encode_and_decode() {
    for (tlv, wire) in vectors() {
        assert_eq!(tlv.to_packet(), wire, "{tlv:?}");
        assert_eq!(decode(&wire), Ok(vec![Item::Tlv(tlv)]));
    }
}

#[test]
fn a_packet_cut_short_anywhere_is_an_error() {
    for (tlv, wire) in vectors() {
        for length in 0..wire.len() {
            assert_eq!(
                decode(&wire[..length]),
                Err(DecodeError::Truncated),
                "{tlv:?} cut to {length}"
            );
        }
    }
}

#[test]
fn a_tlv_cut_short_anywhere_is_an_error_even_if_all_lengths_agree() {
    for (tlv, wire) in vectors() {
        let payload = &wire[HEADER_LEN + 2..];
        for length in 0..payload.len() {
            let mut body = vec![wire[HEADER_LEN], u8::try_from(length).unwrap()];
            body.extend_from_slice(&payload[..length]);
            assert_eq!(
                decode(&packet(&body)),
                Err(DecodeError::ShortTlv(wire[HEADER_LEN])),
                "{tlv:?} with payload {length}"
            );
        }
    }
}

#[test]
fn a_body_without_room_for_a_tlv_is_an_error() {
    assert_eq!(decode(&packet(&[])), Err(DecodeError::EmptyBody(0)));
    assert_eq!(decode(&packet(&[8])), Err(DecodeError::EmptyBody(1)));
}

#[test]
fn reserved_header_bytes_are_zero_when_sent_and_ignored_when_received() {
    for (tlv, mut wire) in vectors() {
        assert_eq!(wire[2..4], [0, 0]);
        wire[2..4].copy_from_slice(&[0xa7, 0x01]);
        assert_eq!(decode(&wire), Ok(vec![Item::Tlv(tlv)]));
    }
}

#[test]
fn data_packets_and_other_versions_are_no_control_packets() {
    for (version, kind) in [(1, 0), (1, 2), (0, 1), (2, 1)] {
        let mut wire = vectors()[0].1.clone();
        wire[..2].copy_from_slice(&[version, kind]);
        assert_eq!(
            decode(&wire),
            Err(DecodeError::NotControl { version, kind })
        );
    }
}

#[test]
fn another_babel_is_skipped_as_a_whole() {
    for (magic, version) in [(43, 3), (42, 2), (42, 4)] {
        let mut wire = vectors()[2].1.clone();
        wire[4..6].copy_from_slice(&[magic, version]);
        let skipped = Skipped::Protocol { magic, version };
        assert_eq!(decode(&wire), Ok(vec![Item::Skipped(skipped)]));
    }
}

#[test]
fn unknown_tlvs_are_skipped_and_what_follows_is_read() {
    let hello = &vectors()[0].1[HEADER_LEN..];
    let mut body = vec![200, 3, 1, 2, 3, 0, 0, 1, 2, 9, 9];
    body.extend_from_slice(hello);
    assert_eq!(
        decode(&packet(&body)),
        Ok(vec![
            Item::Skipped(Skipped::TlvType(200)),
            Item::Tlv(vectors()[0].0)
        ])
    );
}

#[test]
fn bytes_after_the_body_are_a_trailer_and_ignored() {
    let (tlv, mut wire) = vectors()[2].clone();
    wire.extend_from_slice(&[0xff; 7]);
    assert_eq!(decode(&wire), Ok(vec![Item::Tlv(tlv)]));
}

#[test]
fn sub_tlvs_are_ignored_unless_they_are_mandatory_or_broken() {
    let (tlv, wire) = vectors()[0].clone();
    let with = |tail: &[u8]| {
        let mut body = wire[HEADER_LEN..].to_vec();
        body[1] += u8::try_from(tail.len()).unwrap();
        body.extend_from_slice(tail);
        decode(&packet(&body))
    };
    assert_eq!(with(&[0, 0, 5, 2, 7, 7]), Ok(vec![Item::Tlv(tlv)]));
    assert_eq!(
        with(&[130, 1, 7]),
        Ok(vec![Item::Skipped(Skipped::MandatorySubTlv(130))])
    );
    assert_eq!(with(&[5, 2, 7]), Err(DecodeError::ShortTlv(4)));
}

#[test]
fn a_route_request_for_an_ipv4_prefix_is_skipped() {
    let wire = packet(&[9, 7, 0, 1, 32, 10, 0, 0, 1]);
    assert_eq!(
        decode(&wire),
        Ok(vec![Item::Skipped(Skipped::AddressEncoding(1))])
    );
}

#[test]
fn address_encodings_that_the_overlay_does_not_have_are_skipped() {
    for encoding in [0, 1, 3, 4, 255] {
        for index in [2, 5] {
            let mut wire = vectors()[index].1.clone();
            wire[HEADER_LEN + 2] = encoding;
            assert_eq!(
                decode(&wire),
                Ok(vec![Item::Skipped(Skipped::AddressEncoding(encoding))])
            );
        }
    }
    let ihu = packet(&[5, 6, 4, 0, 0, 1, 0, 2]);
    assert_eq!(
        decode(&ihu),
        Ok(vec![Item::Skipped(Skipped::AddressEncoding(4))])
    );
}

#[test]
fn an_ihu_may_carry_the_address_that_it_answers() {
    for (encoding, length) in [(0, 0), (1, 4), (2, 16), (3, 8)] {
        let mut body = vec![5, 6 + length, encoding, 0xee, 0x03, 0xf2, 0x17, 0x70];
        body.extend(std::iter::repeat_n(0x77, usize::from(length)));
        assert_eq!(decode(&packet(&body)), Ok(vec![Item::Tlv(vectors()[1].0)]));
        if length > 0 {
            body[1] -= 1;
            body.pop();
            assert_eq!(decode(&packet(&body)), Err(DecodeError::ShortTlv(5)));
        }
    }
}

#[test]
fn prefixes_longer_than_an_address_are_errors() {
    for (index, offset) in [(2, 4), (3, 4), (5, 3)] {
        for length in [129, 255] {
            let mut wire = vectors()[index].1.clone();
            wire[HEADER_LEN + offset] = length;
            assert_eq!(
                decode(&wire),
                Err(DecodeError::PrefixLength {
                    encoding: 2,
                    length
                })
            );
        }
    }
}

#[test]
fn a_prefix_length_that_wants_more_bytes_than_there_are_is_an_error() {
    for (index, offset, kind) in [(2, 4, 8), (3, 4, 9), (5, 3, 10)] {
        let mut wire = vectors()[index].1.clone();
        wire[HEADER_LEN + offset] = 128;
        assert_eq!(decode(&wire), Err(DecodeError::ShortTlv(kind)));
    }
}

#[test]
fn a_wildcard_request_has_no_prefix_length() {
    assert_eq!(
        decode(&packet(&[9, 3, 0, 0, 64])),
        Err(DecodeError::PrefixLength {
            encoding: 0,
            length: 64
        })
    );
}

#[test]
fn a_seqno_request_with_hop_count_0_is_an_error() {
    let mut wire = vectors()[5].1.clone();
    wire[HEADER_LEN + 6] = 0;
    assert_eq!(decode(&wire), Err(DecodeError::HopCount));
}

#[test]
fn prefix_bits_beyond_the_length_are_masked() {
    let wire = packet(&[9, 6, 0, 2, 20, 0x04, 0x30, 0x9f]);
    let decoded = decode(&wire).unwrap();
    let [Item::Tlv(Tlv::RouteRequest(request))] = decoded[..] else {
        panic!("a request");
    };
    assert_eq!(request.prefix.unwrap().to_string(), "430:9000::/20");
}

#[test]
fn generations_end_at_15_and_never_wrap() {
    assert_eq!(Generation(0).forwarded(), Some(Generation(1)));
    assert_eq!(Generation(14).forwarded(), Some(Generation(15)));
    for last in [15, 16, 254, 255] {
        assert_eq!(Generation(last).forwarded(), None);
    }
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    (any::<u128>(), 0..=128u8)
        .prop_map(|(bits, length)| Prefix::new(Ipv6Addr::from(bits), length).unwrap())
}

fn any_router_id() -> impl Strategy<Value = RouterId> {
    any::<[u8; 32]>().prop_flat_map(|key| {
        (any::<[u8; 2]>(), any::<[u8; 6]>())
            .prop_map(move |(zone, random)| RouterId::new(PublicKey(key), zone, random))
    })
}

fn any_tlv() -> impl Strategy<Value = Tlv> {
    prop_oneof![
        (any::<u16>(), any::<u16>())
            .prop_map(|(seqno, interval)| Tlv::Hello(Hello { seqno, interval })),
        (any::<u16>(), any::<u16>())
            .prop_map(|(rx_cost, interval)| Tlv::Ihu(Ihu { rx_cost, interval })),
        (any::<(u16, u16, u16)>(), any_prefix(), any_router_id()).prop_map(
            |((interval, seqno, metric), prefix, router_id)| Tlv::Update(Update {
                interval,
                seqno,
                metric,
                prefix,
                router_id
            })
        ),
        (any::<u8>(), proptest::option::of(any_prefix())).prop_map(|(generation, prefix)| {
            Tlv::RouteRequest(RouteRequest {
                generation: Generation(generation),
                prefix,
            })
        }),
        (any::<u16>(), 1..=255u8, any_router_id(), any_prefix()).prop_map(
            |(seqno, hop_count, router_id, prefix)| Tlv::SeqnoRequest(SeqnoRequest {
                seqno,
                hop_count: NonZeroU8::new(hop_count).unwrap(),
                router_id,
                prefix
            })
        ),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(tlv in any_tlv()) {
        let wire = tlv.to_packet();
        prop_assert_eq!(wire.len(), wire.capacity());
        prop_assert_eq!(decode(&wire), Ok(vec![Item::Tlv(tlv)]));
    }

    #[test]
    fn what_is_encoded_does_not_decode_when_cut_short(tlv in any_tlv(), cut in any::<prop::sample::Index>()) {
        let wire = tlv.to_packet();
        prop_assert_eq!(decode(&wire[..cut.index(wire.len())]), Err(DecodeError::Truncated));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic_and_the_walk_ends(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let wire = packet(&body);
        if let Ok(walk) = walk(&wire) {
            prop_assert!(walk.count() <= body.len());
        }
    }

    #[test]
    fn a_changed_byte_never_panics(tlv in any_tlv(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut wire = tlv.to_packet();
        let at = at.index(wire.len());
        wire[at] = value;
        let _ = decode(&wire);
    }
}
