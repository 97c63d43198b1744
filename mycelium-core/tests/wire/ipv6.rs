use std::net::Ipv6Addr;

use etherparse::{IpNumber, Ipv6Header, Ipv6Slice, PacketBuilder};
use mycelium_core::wire::ipv6::{
    ICMPV6, Ipv6Error, Ipv6Packet, TCP, is_link_local, set_hop_limit, write_header,
};
use proptest::prelude::*;

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv6([4; 16], [5; 16], 33)
        .udp(1000, 2000)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

#[test]
fn a_packet_of_an_independent_builder_reads() {
    let bytes = udp(b"payload");
    let packet = Ipv6Packet::parse(&bytes).unwrap();
    assert_eq!(packet.len(), bytes.len());
    assert_eq!(packet.source(), Ipv6Addr::from([4; 16]));
    assert_eq!(packet.destination(), Ipv6Addr::from([5; 16]));
    assert_eq!((packet.hop_limit(), packet.next_header()), (33, 17));
    assert_eq!(packet.upper_layer().unwrap().0, 17);
}

#[test]
fn a_header_of_ours_reads_with_an_independent_parser() {
    let mut header = [0xff; 40];
    write_header(&mut header, 513, ICMPV6, 9, [4; 16].into(), [5; 16].into());
    let (parsed, _) = Ipv6Header::from_slice(&header).unwrap();
    assert_eq!(parsed.payload_length, 513);
    assert_eq!(parsed.next_header, IpNumber::IPV6_ICMP);
    assert_eq!(
        (parsed.hop_limit, parsed.source, parsed.destination),
        (9, [4; 16], [5; 16])
    );
    assert_eq!((parsed.traffic_class, parsed.flow_label.value()), (0, 0));
}

#[test]
fn a_packet_cut_short_or_of_another_version_is_refused() {
    let bytes = udp(b"payload");
    for len in 0..bytes.len() {
        assert_eq!(
            Ipv6Packet::parse(&bytes[..len]).unwrap_err(),
            Ipv6Error::Truncated
        );
    }
    for version in (0..16).filter(|&version| version != 6) {
        let mut bytes = bytes.clone();
        bytes[0] = version << 4;
        assert_eq!(
            Ipv6Packet::parse(&bytes).unwrap_err(),
            Ipv6Error::Version(version)
        );
    }
}

#[test]
fn bytes_behind_the_end_are_not_part_of_the_packet() {
    let mut bytes = udp(b"payload");
    let len = bytes.len();
    bytes.extend_from_slice(b"tail");
    assert_eq!(Ipv6Packet::parse(&bytes).unwrap().len(), len);
}

fn with_chain(chain: &[u8], first: u8) -> Vec<u8> {
    let mut header = [0; 40];
    write_header(
        &mut header,
        u16::try_from(chain.len()).unwrap(),
        first,
        64,
        [4; 16].into(),
        [5; 16].into(),
    );
    [&header[..], chain].concat()
}

#[test]
fn extension_headers_are_walked_to_the_protocol() {
    // Hop-by-hop, 8 bytes; destination options, 16 bytes; authentication, 12 bytes; first fragment; then ICMPv6.
    let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0];
    chain.extend_from_slice(&[51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend_from_slice(&[44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend_from_slice(&[58, 0, 0, 1, 0, 0, 0, 0]);
    chain.extend_from_slice(&[129, 0, 7, 7]);
    let bytes = with_chain(&chain, 0);
    assert_eq!(
        Ipv6Packet::parse(&bytes).unwrap().upper_layer(),
        Some((ICMPV6, &[129, 0, 7, 7][..]))
    );
}

#[test]
fn a_later_fragment_shows_its_protocol_but_no_bytes_of_it() {
    let bytes = with_chain(&[58, 0, 0, 8, 0, 0, 0, 0, 1, 2, 3, 4], 44);
    assert_eq!(
        Ipv6Packet::parse(&bytes).unwrap().upper_layer(),
        Some((ICMPV6, &[][..]))
    );
}

#[test]
fn an_endless_or_cut_chain_ends() {
    let endless = with_chain(&[0; 80], 0);
    assert_eq!(Ipv6Packet::parse(&endless).unwrap().upper_layer(), None);
    let cut = with_chain(&[TCP, 255, 0, 0, 0, 0, 0, 0], 60);
    assert_eq!(Ipv6Packet::parse(&cut).unwrap().upper_layer(), None);
    let empty = with_chain(&[], 43);
    assert_eq!(Ipv6Packet::parse(&empty).unwrap().upper_layer(), None);
}

#[test]
fn link_local_is_fe80_to_febf() {
    for (text, expected) in [
        ("fe80::1", true),
        ("febf::1", true),
        ("fec0::1", false),
        ("fe00::", false),
        ("400::", false),
    ] {
        assert_eq!(is_link_local(text.parse().unwrap()), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_agree_with_an_independent_parser(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..160),
        small in any::<bool>(),
    ) {
        if small && bytes.len() > 6 {
            bytes[0] = 0x60;
            bytes[4] = 0;
            bytes[5] &= 0x3f;
            bytes[6] = [0, 43, 44, 60, 51, 58, 6, 17][usize::from(bytes[6]) % 8];
        }
        let ours = Ipv6Packet::parse(&bytes);
        let theirs = Ipv6Header::from_slice(&bytes);
        if let Ok(packet) = ours {
            let (header, rest) = theirs.unwrap();
            prop_assert_eq!(packet.source().octets(), header.source);
            prop_assert_eq!(packet.destination().octets(), header.destination);
            prop_assert_eq!(packet.payload(), &rest[..usize::from(header.payload_length)]);
            let _ = packet.upper_layer();
            if header.payload_length > 0
                && let (Ok(slice), Some((protocol, payload))) =
                    (Ipv6Slice::from_slice(&bytes), packet.upper_layer())
                && !slice.payload().fragmented
                // They stop at headers that we walk.
                && ![0, 43, 60, 51].contains(&slice.payload().ip_number.0)
            {
                prop_assert_eq!(protocol, slice.payload().ip_number.0);
                prop_assert_eq!(payload, slice.payload().payload);
            }
        } else {
            let cut = theirs.is_ok_and(|(header, rest)| usize::from(header.payload_length) > rest.len());
            prop_assert!(cut || bytes.len() < 40 || bytes[0] >> 4 != 6);
        }
        set_hop_limit(&mut bytes, 1);
    }
}
