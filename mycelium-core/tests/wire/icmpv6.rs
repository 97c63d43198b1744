use std::net::Ipv6Addr;

use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
use etherparse::{Icmpv6Slice, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
use mycelium_core::wire::icmpv6::{
    HEADER_LEN, IcmpError, MAX_LEN, MAX_QUOTE_LEN, checksum, error_len, must_not_answer,
    write_error,
};
use mycelium_core::wire::ipv6::{ICMPV6, Ipv6Packet};
use proptest::prelude::*;

const ALL: [IcmpError; 5] = [
    IcmpError::NoRoute,
    IcmpError::AddressUnreachable,
    IcmpError::SourcePolicy,
    IcmpError::HopLimitExceeded,
    IcmpError::TooBig(1400),
];

fn source() -> Ipv6Addr {
    "430:9364:d8d8:84a9::".parse().unwrap()
}

fn destination() -> Ipv6Addr {
    "437:5106:5530:1589::1".parse().unwrap()
}

fn error(error: IcmpError, quote: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xee; error_len(quote.len())];
    write_error(&mut packet, error, source(), destination(), 64, quote);
    packet
}

#[test]
fn an_independent_parser_reads_our_errors_and_their_checksum() {
    for kind in ALL {
        let packet = error(kind, &[0x60, 1, 2, 3, 4]);
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
            panic!("not ICMPv6");
        };
        assert!(icmp.is_checksum_valid(source().octets(), destination().octets()));
        let expected = match kind {
            IcmpError::NoRoute => Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute),
            IcmpError::AddressUnreachable => {
                Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Address)
            }
            IcmpError::SourcePolicy => {
                Icmpv6Type::DestinationUnreachable(DestUnreachableCode::SourceAddressFailedPolicy)
            }
            IcmpError::HopLimitExceeded => {
                Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded)
            }
            IcmpError::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu },
        };
        assert_eq!(icmp.icmp_type(), expected);
        assert_eq!(icmp.payload(), [0x60, 1, 2, 3, 4]);
    }
}

#[test]
fn an_error_never_exceeds_the_smallest_ipv6_mtu() {
    let quote = vec![0x55; 1400];
    let packet = error(IcmpError::NoRoute, &quote);
    assert_eq!((packet.len(), MAX_LEN, MAX_QUOTE_LEN), (1280, 1280, 1232));
    assert_eq!(packet[48..], quote[..1232]);
}

#[test]
fn every_error_survives_the_wire() {
    for kind in ALL {
        let packet = error(kind, b"q");
        let header: [u8; HEADER_LEN] = packet[40..48].try_into().unwrap();
        assert_eq!(IcmpError::parse(&header), Some(kind));
    }
    for other in [[128, 0], [1, 1], [4, 0], [3, 1], [0, 0], [255, 255]] {
        let [kind, code] = other;
        assert_eq!(IcmpError::parse(&[kind, code, 0, 0, 0, 0, 0, 0]), None);
    }
}

#[test]
fn a_buffer_too_short_for_an_error_is_left_alone() {
    for len in 0..48 {
        let mut buffer = vec![0; len];
        write_error(
            &mut buffer,
            IcmpError::NoRoute,
            source(),
            destination(),
            64,
            b"quote",
        );
        assert_eq!(buffer.len(), len);
    }
}

fn may_answer(packet: &[u8]) -> bool {
    !must_not_answer(&Ipv6Packet::parse(packet).unwrap())
}

#[test]
fn errors_answer_ordinary_packets_and_echo_requests() {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6(source().octets(), destination().octets(), 64);
    builder
        .icmpv6_echo_request(1, 2)
        .write(&mut packet, b"ping")
        .unwrap();
    assert!(may_answer(&packet));
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6(source().octets(), destination().octets(), 64);
    builder.udp(1, 2).write(&mut packet, b"").unwrap();
    assert!(may_answer(&packet));
}

#[test]
fn errors_do_not_answer_errors_groups_or_nobody() {
    assert!(!may_answer(&error(IcmpError::NoRoute, b"quote")));
    let udp = |from: Ipv6Addr, to: Ipv6Addr| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6(from.octets(), to.octets(), 64);
        builder.udp(1, 2).write(&mut packet, b"").unwrap();
        packet
    };
    let group = "ff02::1".parse().unwrap();
    assert!(!may_answer(&udp(source(), group)));
    assert!(!may_answer(&udp(group, source())));
    assert!(!may_answer(&udp(Ipv6Addr::UNSPECIFIED, source())));
}

#[test]
fn errors_do_not_answer_what_may_be_an_error_in_disguise() {
    // A later fragment of an ICMPv6 message, an ICMPv6 message of no bytes, and a chain that does not end.
    for (next, payload) in [
        (44, &[58, 0, 0, 8, 0, 0, 0, 0][..]),
        (58, &[]),
        (0, &[0; 72]),
    ] {
        let mut packet = error(IcmpError::NoRoute, b"");
        packet.truncate(40);
        packet[5] = u8::try_from(payload.len()).unwrap();
        packet[6] = next;
        packet.extend_from_slice(payload);
        assert!(!may_answer(&packet));
    }
}

proptest! {
    #[test]
    fn our_checksum_agrees_with_an_independent_one(
        from: u128,
        to: u128,
        mut message in proptest::collection::vec(any::<u8>(), 8..300),
    ) {
        let (from, to) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
        message[2..4].fill(0);
        let sum = checksum(from, to, ICMPV6, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let slice = Icmpv6Slice::from_slice(&message).unwrap();
        prop_assert!(slice.is_checksum_valid(from.octets(), to.octets()));
        prop_assert_eq!(checksum(from, to, ICMPV6, &message), 0);
    }
}
