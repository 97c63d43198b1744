use mycelium_core::wire::data::{BODY_OFFSET, DataError, DataHeader, V1_OVERHEAD, split_v1_body};
use mycelium_core::wire::frame::{Kind, next_frame};
use mycelium_core::wire::user_data::{UserDataError, UserDataType, parse};
use proptest::prelude::*;

use crate::hex;

const VECTOR: &str = "01000000 00 0036 40 04309364d8d884a9dd60de78c767d361 04375106553015897c53fa73c63e1ddb \
    f09e5847ed7238d04d4f0041ce41b5b17838be5600cc7da8159c89a23a5705e63ece0da9ba111f9e1528 000102030405060708090a0b";

#[test]
fn the_data_packet_of_the_present_network_reads_and_writes() {
    let mut packet = hex(VECTOR);
    let header = DataHeader::parse(&packet).unwrap();
    assert_eq!(
        header,
        DataHeader {
            body_len: 54,
            hop_limit: 64,
            source: "430:9364:d8d8:84a9:dd60:de78:c767:d361".parse().unwrap(),
            destination: "437:5106:5530:1589:7c53:fa73:c63e:1ddb".parse().unwrap(),
        }
    );
    assert_eq!(
        next_frame(&packet).unwrap().map(|f| (f.kind, f.len)),
        Some((Kind::Data, 94))
    );
    assert_eq!(header.packet_len(), 94);
    let mut written = [0xff; BODY_OFFSET];
    header.write(&mut written);
    assert_eq!(written, packet[..BODY_OFFSET]);
    let (sealed, nonce) = split_v1_body(&mut packet[BODY_OFFSET..]).unwrap();
    assert_eq!(
        (sealed.len(), nonce),
        (42, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    );
}

#[test]
fn reserved_bytes_are_ignored() {
    let mut packet = hex(VECTOR);
    packet[2..5].fill(0xff);
    assert_eq!(DataHeader::parse(&packet), DataHeader::parse(&hex(VECTOR)));
}

#[test]
fn a_packet_cut_short_is_refused_at_every_length() {
    let packet = hex(VECTOR);
    for len in 0..packet.len() {
        assert_eq!(DataHeader::parse(&packet[..len]), Err(DataError::Truncated));
    }
}

#[test]
fn another_version_or_type_is_refused() {
    for at in [0, 1] {
        let mut packet = hex(VECTOR);
        packet[at] ^= 0x01;
        assert_eq!(DataHeader::parse(&packet), Err(DataError::NotData));
    }
}

#[test]
fn a_body_without_room_for_header_tag_and_nonce_is_refused() {
    assert_eq!(V1_OVERHEAD, 32);
    for len in 0..32 {
        assert!(split_v1_body(&mut vec![0; len]).is_none());
    }
    assert!(split_v1_body(&mut [0; 32]).is_some());
}

#[test]
fn user_data_of_unknown_version_or_type_is_refused() {
    assert_eq!(
        parse(&mut [1, 0, 0xff, 0xff, 9]),
        Ok((UserDataType::Packet, &mut [9][..]))
    );
    assert_eq!(
        parse(&mut [1, 1, 0, 0]),
        Ok((UserDataType::Message, &mut [][..]))
    );
    assert_eq!(
        parse(&mut [1, 2, 0, 0]),
        Ok((UserDataType::OutOfBandIcmp, &mut [][..]))
    );
    assert_eq!(parse(&mut [1, 3, 0, 0]), Err(UserDataError::Type(3)));
    assert_eq!(parse(&mut [0, 0, 0, 0]), Err(UserDataError::Version(0)));
    assert_eq!(parse(&mut [2, 0, 0, 0]), Err(UserDataError::Version(2)));
    for len in 0..4 {
        assert_eq!(parse(&mut vec![1; len]), Err(UserDataError::Truncated));
    }
}

proptest! {
    #[test]
    fn every_header_survives_the_wire(body_len: u16, hop_limit: u8, source: u128, destination: u128) {
        let header = DataHeader { body_len, hop_limit, source: source.into(), destination: destination.into() };
        let mut head = [0; BODY_OFFSET];
        header.write(&mut head);
        let mut packet = head.to_vec();
        packet.resize(header.packet_len(), 0);
        prop_assert_eq!(DataHeader::parse(&packet), Ok(header));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(header) = DataHeader::parse(&bytes) {
            prop_assert!(header.packet_len() <= bytes.len());
        }
        let _ = parse(&mut bytes);
        let _ = split_v1_body(&mut bytes);
    }
}
