//! A byte stream of a hostile peer: where packets end, and that more bytes never change a verdict.
use mycelium_core::wire::data::DataHeader;
use mycelium_core::wire::frame::{Kind, MAX_LEN, next_frame, peek};

pub(crate) fn check(stream: &[u8]) {
    let mut rest = stream;
    loop {
        let verdict = peek(rest);
        for cut in 0..rest.len().min(10) {
            match peek(&rest[..cut]) {
                Ok(None) => {}
                early => assert_eq!(early, verdict),
            }
        }
        let Ok(Some(frame)) = next_frame(rest) else {
            break;
        };
        assert_eq!(verdict, Ok(Some(frame)));
        assert!((8..=MAX_LEN).contains(&frame.len));
        let (packet, behind) = rest.split_at(frame.len);
        if frame.kind == Kind::Data {
            let header = DataHeader::parse(packet).expect("a complete data packet parses");
            assert_eq!(header.packet_len(), packet.len());
        }
        rest = behind;
    }
}
