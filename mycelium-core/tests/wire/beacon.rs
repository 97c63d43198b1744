use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::router_id::RouterId;
use mycelium_core::wire::beacon::{Beacon, BeaconError, LEN};
use proptest::prelude::*;

use crate::hex;

const VECTOR: &str = "6d7963656c69756d 25b3 8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f 0000 a1a2a3a4a5a6";

fn vector() -> Beacon {
    let key =
        PublicKey::from_hex("8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f")
            .unwrap();
    Beacon {
        port: 9651,
        router_id: RouterId::new(key, [0, 0], [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6]),
    }
}

#[test]
fn the_beacon_of_the_present_network_reads_and_writes() {
    assert_eq!(Beacon::parse(&hex(VECTOR)), Ok(vector()));
    assert_eq!(vector().to_bytes()[..], hex(VECTOR));
}

#[test]
fn a_beacon_of_any_other_length_is_refused() {
    let mut bytes = hex(VECTOR);
    bytes.push(0);
    for len in (0..LEN).chain([LEN + 1]) {
        assert_eq!(Beacon::parse(&bytes[..len]), Err(BeaconError::Length(len)));
    }
}

#[test]
fn a_beacon_without_magic_or_port_is_refused() {
    for at in 0..8 {
        let mut bytes = hex(VECTOR);
        bytes[at] ^= 0x20;
        assert_eq!(Beacon::parse(&bytes), Err(BeaconError::Magic));
    }
    let mut bytes = hex(VECTOR);
    bytes[8..10].fill(0);
    assert_eq!(Beacon::parse(&bytes), Err(BeaconError::Port));
}

proptest! {
    #[test]
    fn every_beacon_survives_the_wire(port in 1u16.., id in proptest::collection::vec(any::<u8>(), RouterId::LEN)) {
        let beacon = Beacon { port, router_id: RouterId::from_bytes(id.try_into().unwrap()) };
        prop_assert_eq!(Beacon::parse(&beacon.to_bytes()), Ok(beacon));
    }

    #[test]
    fn arbitrary_datagrams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(beacon) = Beacon::parse(&bytes) {
            prop_assert_eq!(&beacon.to_bytes()[..], &bytes[..]);
        }
    }
}
