use mycelium_core::wire::frame::{Frame, FrameError, Kind, MAX_LEN, next_frame, peek};
use proptest::prelude::*;

use crate::hex;

/// One of each control packet of the present network.
const CONTROL: [&str; 6] = [
    "01010000 2a030008 0406 8000 0000 07d0",
    "01010000 2a030008 0506 00 00 03f2 1770",
    "01010000 2a03003c 083a 02 00 40 00 7530 0000 0000 04309364d8d884a9 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f 0000 a1a2a3a4a5a6",
    "01010000 2a03000d 090b 00 02 40 0437510655301589",
    "01010000 2a030005 0903 00 00 00",
    "01010000 2a030038 0a36 02 40 0001 40 00 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f 0000 a1a2a3a4a5a6 04309364d8d884a9",
];

fn data_packet(body_len: u16) -> Vec<u8> {
    let mut packet = vec![1, 0, 0, 0, 0];
    packet.extend_from_slice(&body_len.to_be_bytes());
    packet.resize(40 + usize::from(body_len), 0xaa);
    packet
}

#[test]
fn control_packets_of_the_present_network_are_framed() {
    for text in CONTROL {
        let packet = hex(text);
        let frame = Frame {
            kind: Kind::Control,
            len: packet.len(),
            reserved: [0, 0],
        };
        assert_eq!(next_frame(&packet), Ok(Some(frame)));
    }
}

#[test]
fn a_stream_of_packets_is_cut_where_they_end() {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for (text, body_len) in CONTROL.into_iter().zip([0, 1, 54, 1432, 9000, u16::MAX]) {
        for (kind, packet) in [
            (Kind::Control, hex(text)),
            (Kind::Data, data_packet(body_len)),
        ] {
            expected.push((kind, packet.len()));
            stream.extend_from_slice(&packet);
        }
    }
    let mut rest = &stream[..];
    let mut seen = Vec::new();
    while let Some(frame) = next_frame(rest).unwrap() {
        seen.push((frame.kind, frame.len));
        rest = &rest[frame.len..];
    }
    assert!(rest.is_empty());
    assert_eq!(seen, expected);
}

#[test]
fn an_incomplete_packet_waits_but_shows_its_length_early() {
    let packet = data_packet(100);
    for len in 0..packet.len() {
        assert_eq!(next_frame(&packet[..len]), Ok(None));
        assert_eq!(
            peek(&packet[..len]).unwrap().map(|frame| frame.len),
            (len >= 8).then_some(140)
        );
    }
}

#[test]
fn reserved_header_bytes_are_reported_and_not_refused() {
    let mut packet = hex(CONTROL[0]);
    packet[2..4].copy_from_slice(&[0xa7, 0x01]);
    assert_eq!(next_frame(&packet).unwrap().unwrap().reserved, [0xa7, 0x01]);
}

#[test]
fn the_longest_data_packet_is_the_bound() {
    let frame = peek(&data_packet(u16::MAX)).unwrap().unwrap();
    assert_eq!((frame.len, MAX_LEN), (65_575, 65_575));
}

#[test]
fn an_unknown_version_or_type_is_an_error_at_its_own_byte() {
    for version in (0..=u8::MAX).filter(|&version| version != 1) {
        assert_eq!(next_frame(&[version]), Err(FrameError::Version(version)));
    }
    for kind in 2..=u8::MAX {
        assert_eq!(next_frame(&[1, kind]), Err(FrameError::Kind(kind)));
    }
}

#[test]
fn control_that_is_not_babel_3_is_an_error_at_its_own_byte() {
    let mut packet = hex(CONTROL[0]);
    packet[4] = 41;
    for len in 5..=packet.len() {
        assert_eq!(next_frame(&packet[..len]), Err(FrameError::Magic(41)));
    }
    let mut packet = hex(CONTROL[0]);
    packet[5] = 2;
    for len in 6..=packet.len() {
        assert_eq!(next_frame(&packet[..len]), Err(FrameError::BabelVersion(2)));
    }
}

#[test]
fn a_control_body_too_short_for_a_tlv_or_too_long_for_any_is_an_error() {
    for len in [0u16, 1, 1025, u16::MAX] {
        let mut packet = hex("01010000 2a03");
        packet.extend_from_slice(&len.to_be_bytes());
        assert_eq!(next_frame(&packet), Err(FrameError::ControlLength(len)));
    }
    for len in [2u16, 1024] {
        let mut packet = hex("01010000 2a03");
        packet.extend_from_slice(&len.to_be_bytes());
        assert_eq!(next_frame(&packet), Ok(None));
    }
}

proptest! {
    #[test]
    fn arbitrary_streams_never_panic_and_frames_are_bounded(
        bytes in proptest::collection::vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>(), 1 => Just(42u8)], 0..200),
    ) {
        if let Ok(Some(frame)) = peek(&bytes) {
            prop_assert!((8..=MAX_LEN).contains(&frame.len));
            prop_assert_eq!(next_frame(&bytes).unwrap().is_some(), frame.len <= bytes.len());
        }
    }

    /// What a prefix says never changes when more bytes come: no packet is judged twice.
    #[test]
    fn more_bytes_do_not_change_a_verdict(
        control in any::<bool>(),
        bytes in proptest::collection::vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>(), 1 => Just(42u8)], 0..40),
        cut in any::<proptest::sample::Index>(),
    ) {
        let bytes = if control { [&[1, 1, 0, 0], &bytes[..]].concat() } else { bytes };
        let cut = cut.index(bytes.len() + 1);
        match peek(&bytes[..cut]) {
            Ok(None) => {}
            verdict => prop_assert_eq!(verdict, peek(&bytes)),
        }
    }
}
