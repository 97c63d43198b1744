//! A control packet of a hostile peer: what is understood is written and read again as the same.
use mycelium_core::wire::babel::{Item, walk};
use mycelium_core::wire::frame::next_frame;

pub(crate) fn check(packet: &[u8]) {
    let Ok(items) = walk(packet) else {
        return;
    };
    let mut count = 0;
    for item in items {
        count += 1;
        assert!(count <= packet.len(), "every step takes bytes");
        let Ok(Item::Tlv(tlv)) = item else {
            continue;
        };
        let written = tlv.to_packet();
        let frame = next_frame(&written)
            .expect("ours is legal")
            .expect("ours is whole");
        assert_eq!(frame.len, written.len());
        let again: Vec<_> = walk(&written).expect("ours is legal").collect();
        assert_eq!(again, [Ok(Item::Tlv(tlv))]);
    }
}
