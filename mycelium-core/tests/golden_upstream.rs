//! Every byte that two unmodified mycelium 0.7.10 nodes said to each other, read and written again by our codecs.
//!
//! Recorded in network namespaces by `netns-tests/tests/record.rs`: A (key 00..1f) dialled B (key 20..3f), which had a
//! further peer C (key 40..5f). A pinged B and C, ran out of hop limit, asked for a subnet that nobody has; then C was
//! killed.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use mycelium_core::crypto::aead::AeadKey;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::wire::babel::{Item, Tlv, walk};
use mycelium_core::wire::beacon::Beacon;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader, split_v1_body};
use mycelium_core::wire::frame::{Kind, next_frame};
use mycelium_core::wire::ipv6::{ICMPV6, Ipv6Packet};
use mycelium_core::wire::user_data::{UserDataType, parse};

const A_TO_B: &str = include_str!("vectors/upstream_a_to_b.hex");
const B_TO_A: &str = include_str!("vectors/upstream_b_to_a.hex");
const BEACON: &str = include_str!("vectors/upstream_beacon.hex");

fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.chars().map(|digit| digit.to_digit(16).unwrap() as u8))
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A, B and C.
fn secrets() -> [SecretKey; 3] {
    [0x00, 0x20, 0x40].map(|first| SecretKey::from_bytes(std::array::from_fn(|i| first + i as u8)))
}

fn packets(mut stream: &[u8]) -> Vec<(Kind, &[u8])> {
    let mut packets = Vec::new();
    while let Some(frame) = next_frame(stream).unwrap() {
        assert_eq!(frame.reserved, [0, 0]);
        let (packet, rest) = stream.split_at(frame.len);
        packets.push((frame.kind, packet));
        stream = rest;
    }
    assert_eq!(stream, [0_u8; 0], "the recording ends inside a packet");
    packets
}

fn tlvs(stream: &[u8]) -> Vec<Tlv> {
    packets(stream)
        .into_iter()
        .filter(|(kind, _)| *kind == Kind::Control)
        .map(|(_, packet)| {
            let mut walk = walk(packet).unwrap();
            let Some(Ok(Item::Tlv(tlv))) = walk.next() else {
                panic!("not understood: {packet:02x?}");
            };
            assert!(walk.next().is_none(), "more than one TLV: {packet:02x?}");
            tlv
        })
        .collect()
}

#[test]
fn every_control_packet_reads_and_writes_back_to_the_same_bytes() {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for text in [A_TO_B, B_TO_A] {
        let stream = bytes(text);
        let control = packets(&stream)
            .into_iter()
            .filter(|(kind, _)| *kind == Kind::Control);
        for ((_, packet), tlv) in control.zip(tlvs(&stream)) {
            assert_eq!(tlv.to_packet(), packet, "{tlv:?}");
            let kind = match tlv {
                Tlv::Hello(_) => "hello",
                Tlv::Ihu(_) => "ihu",
                Tlv::Update(_) => "update",
                Tlv::RouteRequest(_) => "route request",
                Tlv::SeqnoRequest(_) => "seqno request",
            };
            *kinds.entry(kind).or_default() += 1;
        }
    }
    for kind in ["hello", "ihu", "update", "route request"] {
        assert!(kinds.contains_key(kind), "no {kind} in {kinds:?}");
    }
}

#[test]
fn the_updates_say_what_the_network_was() {
    let [a, b, c] = secrets().map(|secret| secret.public_key());
    let updates = |text: &str| -> Vec<_> {
        tlvs(&bytes(text))
            .into_iter()
            .filter_map(|tlv| match tlv {
                Tlv::Update(update) => Some(update),
                _ => None,
            })
            .collect()
    };
    let from_a = updates(A_TO_B);
    assert!(!from_a.is_empty());
    for update in &from_a {
        assert_eq!(update.router_id.public_key(), a);
        // Its own subnet, and after C's death the retraction of C's, under its own name too.
        assert!([0, 0xffff].contains(&update.metric), "{update:?}");
        assert_eq!(update.interval, 30_000);
    }
    let from_b = updates(B_TO_A);
    let first = from_b.first().unwrap();
    assert_eq!((first.router_id.public_key(), first.metric), (b, 0));
    let learned = from_b
        .iter()
        .find(|update| update.router_id.public_key() == c)
        .unwrap();
    // The cost of B's link to C, which starts at 1000 and the 15 of TCP over IPv4.
    assert!((15..=1015).contains(&learned.metric), "{learned:?}");
    // C's death: retracted under B's own name.
    let retraction = from_b
        .iter()
        .find(|update| update.metric == 0xffff)
        .unwrap();
    assert_eq!(retraction.prefix, learned.prefix);
    assert_eq!(retraction.router_id, first.router_id);
}

#[test]
fn every_data_packet_opens_with_the_keys_of_its_ends_and_seals_back_to_the_same_bytes() {
    let secrets = secrets();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for text in [A_TO_B, B_TO_A] {
        let stream = bytes(text);
        for (_, packet) in packets(&stream)
            .into_iter()
            .filter(|(kind, _)| *kind == Kind::Data)
        {
            let header = DataHeader::parse(packet).unwrap();
            assert_eq!(header.packet_len(), packet.len());
            let mut written = [0; BODY_OFFSET];
            header.write(&mut written);
            assert_eq!(written, packet[..BODY_OFFSET]);

            let owner = |address: Ipv6Addr| {
                secrets
                    .iter()
                    .find(|secret| secret.public_key().subnet().contains(address))
                    .unwrap()
            };
            let (source, destination) = (owner(header.source), owner(header.destination));
            let shared = destination.agree(&source.public_key()).unwrap();
            let key = AeadKey::v1(&shared);
            let mut body = packet[BODY_OFFSET..].to_vec();
            let (sealed, nonce) = split_v1_body(&mut body).unwrap();
            let sealed_again = sealed.to_vec();
            let plaintext = key.open(nonce, &[], sealed).unwrap();

            let mut copy = plaintext.to_vec();
            let tag = key.seal(nonce, &[], &mut copy);
            copy.extend_from_slice(&tag);
            assert_eq!(copy, sealed_again);

            let (kind, payload) = parse(plaintext).unwrap();
            let name = match kind {
                UserDataType::Packet => {
                    let inner = Ipv6Packet::parse(payload).unwrap();
                    assert_eq!(inner.source(), header.source);
                    assert_eq!(inner.destination(), header.destination);
                    assert_eq!(inner.next_header(), ICMPV6);
                    // The originator takes one off the outer limit before sending.
                    assert!(header.hop_limit < inner.hop_limit());
                    "packet"
                }
                UserDataType::OutOfBandIcmp => {
                    // The destination of the packet that ran out of hops, then the reporter's ICMPv6 packet.
                    let (original, icmp) = payload.split_at(16);
                    let original: [u8; 16] = original.try_into().unwrap();
                    let c = secrets[2].public_key().address();
                    assert_eq!(Ipv6Addr::from(original), c);
                    let icmp = Ipv6Packet::parse(icmp).unwrap();
                    assert_eq!(
                        icmp.source(),
                        source.public_key().subnet().network_address()
                    );
                    assert_eq!(icmp.destination(), header.destination);
                    "out-of-band ICMP"
                }
                UserDataType::Message => "message",
            };
            *seen.entry(name).or_default() += 1;
        }
    }
    assert!(seen.contains_key("packet"), "{seen:?}");
    assert!(seen.contains_key("out-of-band ICMP"), "{seen:?}");
}

#[test]
fn the_beacon_reads_and_writes_back_to_the_same_bytes() {
    let datagram = bytes(BEACON);
    let beacon = Beacon::parse(&datagram).unwrap();
    assert_eq!(beacon.port, 9651);
    assert_eq!(beacon.router_id.public_key(), secrets()[0].public_key());
    assert_eq!(beacon.to_bytes()[..], datagram);
}
