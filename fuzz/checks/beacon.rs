//! A datagram of anybody on the LAN.
use mycelium_core::wire::beacon::Beacon;

pub(crate) fn check(datagram: &[u8]) {
    if let Ok(beacon) = Beacon::parse(datagram) {
        assert_eq!(beacon.to_bytes(), datagram);
    }
}
