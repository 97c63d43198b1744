use proptest::prelude::*;

use super::*;

fn any_frame() -> impl Strategy<Value = (Frame<'static>, usize)> {
    prop_oneof![
        (any::<u32>(), 0..1200usize).prop_map(|(seq, len)| {
            let packet: &'static [u8] = &[7; 1200];
            let packet = &packet[..len];
            (Frame::Babel { seq, packet }, 4 + len)
        }),
        (any::<u32>(), any::<u64>()).prop_map(|(next, held)| (Frame::Ack { next, held }, 12)),
        any::<u32>().prop_map(|id| (Frame::EchoRequest { id }, 4)),
        any::<u32>().prop_map(|id| (Frame::EchoReply { id }, 4)),
        any::<[u8; 8]>().prop_map(|token| (Frame::PathChallenge { token }, 8)),
        any::<[u8; 8]>().prop_map(|token| (Frame::PathResponse { token }, 8)),
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| {
            let address = SocketAddr::from((ip, port));
            (Frame::Observed { address }, 18)
        }),
        (any::<[u16; 8]>(), any::<u16>()).prop_map(|(ip, port)| {
            let ip = Ipv6Addr::from(ip).to_canonical();
            let address = SocketAddr::new(ip, port);
            (Frame::Observed { address }, 18)
        }),
        any::<u8>().prop_map(|code| (Frame::Close { code }, 1)),
        (any::<u64>(), any::<u64>())
            .prop_map(|(highest, received)| (Frame::Report { highest, received }, 16)),
        (any::<u64>(), any::<u64>()).prop_map(|(own, known)| (Frame::Instance { own, known }, 16)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        list in proptest::collection::vec(any_frame(), 0..20),
        padding in 0..50usize,
    ) {
        let mut bytes = Vec::new();
        for (frame, len) in &list {
            let before = bytes.len();
            frame.write(&mut bytes);
            prop_assert_eq!(bytes.len() - before, HEADER_LEN + len);
        }
        bytes.resize(bytes.len() + padding, 0);
        let read: Vec<_> = frames(&bytes).collect();
        let written: Vec<_> = list.iter().map(|(frame, _)| Ok(*frame)).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn any_bytes_end_in_frames_or_one_error(bytes: Vec<u8>) {
        let read: Vec<_> = frames(&bytes).collect();
        let errors = read.iter().filter(|frame| frame.is_err()).count();
        prop_assert!(errors <= 1);
        prop_assert!(errors == 0 || read.last().is_some_and(Result::is_err));
    }
}

#[test]
fn unknown_types_are_skipped_and_longer_values_are_read() {
    let bytes = [200, 0, 2, 9, 9, 8, 0, 3, 5, 6, 7, 4, 0, 3, 1, 2, 3];
    let read: Vec<_> = frames(&bytes).collect();
    assert_eq!(
        read,
        [
            Ok(Frame::Unknown),
            Ok(Frame::Close { code: 5 }),
            Err(Malformed(4)),
        ]
    );
}
