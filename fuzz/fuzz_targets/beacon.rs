//! A datagram of anybody on the LAN.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mycelium_core::wire::beacon::Beacon;

fuzz_target!(|datagram: &[u8]| {
    if let Ok(beacon) = Beacon::parse(datagram) {
        assert_eq!(beacon.to_bytes(), datagram);
    }
});
