//! Bytes of the present network through our data plane: the vectors of the wire spec, and what two unmodified nodes said to
//! each other (A dialled B, C was B's peer; A pinged B and C, and ran out of hop limit on the way to C).

use etherparse::{Icmpv6Type, SlicedPacket, TransportSlice};
use mycelium_core::io::PeerId;
use mycelium_core::wire::data::DataHeader;
use mycelium_core::wire::frame::{Kind, next_frame};

use crate::lab::*;

const A_TO_B: &str = include_str!("../vectors/upstream_a_to_b.hex");
const B_TO_A: &str = include_str!("../vectors/upstream_b_to_a.hex");

fn bytes(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let digits: Vec<u8> = lines
        .flat_map(|line| line.chars().filter_map(|c| c.to_digit(16)))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn data_packets(text: &str) -> Vec<Vec<u8>> {
    let stream = bytes(text);
    let mut rest = &stream[..];
    let mut packets = Vec::new();
    while let Some(frame) = next_frame(rest).unwrap() {
        if frame.kind == Kind::Data {
            packets.push(rest[..frame.len].to_vec());
        }
        rest = &rest[frame.len..];
    }
    packets
}

fn icmp_type(packet: &[u8]) -> Icmpv6Type {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
        panic!("not ICMPv6");
    };
    let (header, _) = etherparse::Ipv6Header::from_slice(packet).unwrap();
    assert!(icmp.is_checksum_valid(header.source, header.destination));
    icmp.icmp_type()
}

#[test]
fn the_message_of_the_wire_spec_opens_and_is_counted() {
    let vector = bytes(
        "01000000 00 0036 40 04309364d8d884a9dd60de78c767d361 04375106553015897c53fa73c63e1ddb
         f09e5847ed7238d04d4f0041ce41b5b17838be5600cc7da8159c89a23a5705e63ece0da9ba111f9e1528 000102030405060708090a0b",
    );
    let (a, b) = (recorded_party(0x00), recorded_party(0x20));
    let (header, plaintext) = open(&b, &a, &vector);
    assert_eq!(header, DataHeader::parse(&vector).unwrap());
    assert_eq!(
        plaintext,
        bytes("01010000 0102030405060708 8000 0000 0000000000000005 01 74")
    );
    let mut lab = Lab::new(&b);
    lab.route(&a, PeerId(1));
    lab.peer_sends(PeerId(1), &vector);
    lab.expect_silence();
    assert_eq!(lab.count("drop_message"), 1);
}

#[test]
fn what_an_unmodified_node_sent_reaches_our_host() {
    let (a, b, c) = (
        recorded_party(0x00),
        recorded_party(0x20),
        recorded_party(0x40),
    );
    let mut at_a = Lab::new(&a);
    at_a.route(&b, PeerId(1));
    at_a.route(&c, PeerId(1));
    let packets = data_packets(B_TO_A);
    let (mut replies, mut exceeded, mut no_route) = (0, 0, 0);
    for packet in &packets {
        at_a.peer_sends(PeerId(1), packet);
        let (_, delivered) = at_a.one_to_host();
        match icmp_type(&delivered) {
            Icmpv6Type::EchoReply(_) => replies += 1,
            Icmpv6Type::TimeExceeded(_) => exceeded += 1,
            Icmpv6Type::DestinationUnreachable(_) => no_route += 1,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(
        replies > 0 && exceeded > 0,
        "{replies} {exceeded} {no_route}"
    );
    assert_eq!(at_a.count("delivered_remote"), replies);
    assert_eq!(at_a.count("notices_delivered"), exceeded + no_route);
    at_a.check_conservation();
}

#[test]
fn what_an_unmodified_node_sent_is_delivered_or_passed_on_by_us() {
    let (a, b, c) = (
        recorded_party(0x00),
        recorded_party(0x20),
        recorded_party(0x40),
    );
    let mut at_b = Lab::new(&b);
    at_b.route(&a, PeerId(1));
    at_b.route(&c, PeerId(2));
    let (mut delivered, mut forwarded, mut answered) = (0, 0, 0);
    for packet in data_packets(A_TO_B) {
        at_b.peer_sends(PeerId(1), &packet);
        let header = DataHeader::parse(&packet).unwrap();
        if b.subnet.contains(header.destination) {
            assert!(matches!(
                icmp_type(&at_b.one_to_host().1),
                Icmpv6Type::EchoRequest(_)
            ));
            delivered += 1;
        } else if header.hop_limit < 2 {
            // Upstream's answer and ours open with the same key, to the same sort of notice.
            let (peer, notice) = at_b.one_to_peer();
            assert_eq!(peer, PeerId(1));
            assert_eq!(
                open(&a, &b, &notice).1[..20],
                [&[1, 2, 0, 0], &header.destination.octets()[..]].concat()
            );
            answered += 1;
        } else {
            let (peer, relayed) = at_b.one_to_peer();
            assert_eq!((peer, relayed[7]), (PeerId(2), header.hop_limit - 1));
            assert_eq!(relayed[8..], packet[8..]);
            forwarded += 1;
        }
    }
    assert!(
        delivered > 0 && forwarded > 0 && answered > 0,
        "{delivered} {forwarded} {answered}"
    );
    at_b.check_conservation();
}
