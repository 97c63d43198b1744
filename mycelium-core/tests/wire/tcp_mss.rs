use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use mycelium_core::wire::tcp_mss::clamp;
use proptest::prelude::*;

fn segment(options: &[TcpOptionElement], syn: bool, ack: bool, payload: &[u8]) -> Vec<u8> {
    let mut builder = PacketBuilder::ipv6([4; 16], [5; 16], 64).tcp(40_000, 443, 12_345, 65_000);
    if syn {
        builder = builder.syn();
    }
    if ack {
        builder = builder.ack(99);
    }
    let mut packet = Vec::new();
    builder
        .options(options)
        .unwrap()
        .write(&mut packet, payload)
        .unwrap();
    packet
}

fn check(packet: &[u8]) -> Option<u16> {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("not TCP");
    };
    let sum = tcp.calc_checksum_ipv6([4; 16], [5; 16]).unwrap();
    assert_eq!(sum, tcp.checksum(), "checksum does not match");
    tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(size)) => Some(size),
        _ => None,
    })
}

#[test]
fn a_syn_and_a_syn_ack_are_clamped_and_keep_a_right_checksum() {
    for ack in [false, true] {
        let mut packet = segment(
            &[TcpOptionElement::MaximumSegmentSize(1340)],
            true,
            ack,
            &[],
        );
        assert!(clamp(&mut packet, 1282));
        assert_eq!(check(&packet), Some(1282));
    }
}

#[test]
fn an_option_at_an_odd_offset_keeps_a_right_checksum() {
    for nops in 0..4 {
        let mut options = vec![TcpOptionElement::Noop; nops];
        options.push(TcpOptionElement::MaximumSegmentSize(1340));
        options.push(TcpOptionElement::WindowScale(7));
        let mut packet = segment(&options, true, false, b"fast open");
        assert!(clamp(&mut packet, 1282));
        assert_eq!(check(&packet), Some(1282));
    }
}

#[test]
fn smaller_sizes_missing_options_and_later_segments_stay() {
    let small = segment(
        &[TcpOptionElement::MaximumSegmentSize(1200)],
        true,
        false,
        &[],
    );
    let none = segment(&[TcpOptionElement::WindowScale(7)], true, false, &[]);
    let later = segment(
        &[TcpOptionElement::MaximumSegmentSize(1340)],
        false,
        true,
        b"data",
    );
    for packet in [small, none, later] {
        let mut clamped = packet.clone();
        assert!(!clamp(&mut clamped, 1282));
        assert_eq!(clamped, packet);
    }
}

#[test]
fn packets_with_extension_headers_and_other_protocols_stay() {
    for next_header in [0, 17, 43, 44, 58, 60] {
        let mut packet = segment(
            &[TcpOptionElement::MaximumSegmentSize(1340)],
            true,
            false,
            &[],
        );
        packet[6] = next_header;
        let before = packet.clone();
        assert!(!clamp(&mut packet, 1282));
        assert_eq!(packet, before);
    }
}

#[test]
fn malformed_options_stay() {
    // Zero length, a length that overlaps the end, a wrong length of the option itself, a data offset of zero and of too much.
    let base = segment(
        &[TcpOptionElement::MaximumSegmentSize(1340)],
        true,
        false,
        &[],
    );
    for (at, value) in [
        (61, 0),
        (60, 9),
        (61, 3),
        (61, 5),
        (52, 0x00),
        (52, 0x40),
        (52, 0xf0),
    ] {
        let mut packet = base.clone();
        packet[at] = value;
        let before = packet.clone();
        assert!(!clamp(&mut packet, 1282), "{at} {value}");
        assert_eq!(packet, before);
    }
    for len in 0..base.len() {
        clamp(&mut base[..len].to_vec(), 1282);
    }
}

proptest! {
    #[test]
    fn any_size_is_clamped_with_a_right_checksum(size: u16, limit: u16, nops in 0usize..4, payload: Vec<u8>) {
        let mut options = vec![TcpOptionElement::Noop; nops];
        options.push(TcpOptionElement::MaximumSegmentSize(size));
        let mut packet = segment(&options, true, false, &payload);
        prop_assert_eq!(clamp(&mut packet, limit), size > limit);
        prop_assert_eq!(check(&packet), Some(size.min(limit)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), syn: bool) {
        if syn && bytes.len() > 53 {
            bytes[6] = 6;
            bytes[53] |= 2;
        }
        let len = bytes.len();
        clamp(&mut bytes, 1282);
        prop_assert_eq!(bytes.len(), len);
    }
}
