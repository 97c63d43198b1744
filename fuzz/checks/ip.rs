//! A packet of a host, or one that was opened: the IPv6 view, errors about it, and the clamping of its segment size.
use std::net::Ipv6Addr;

use mycelium_core::wire::icmpv6::{self, IcmpError};
use mycelium_core::wire::ipv6::{Ipv6Packet, TCP};
use mycelium_core::wire::{tcp_mss, user_data};

pub(crate) fn check(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    let _ = user_data::parse(&mut copy);
    if let Some(header) = bytes.first_chunk()
        && let Some(error) = IcmpError::parse(header)
    {
        let quote = &bytes[8..];
        let (from, to) = (Ipv6Addr::from([4; 16]), Ipv6Addr::from([5; 16]));
        let mut packet = vec![0xee; icmpv6::error_len(quote.len())];
        icmpv6::write_error(&mut packet, error, from, to, 64, quote);
        let view = Ipv6Packet::parse(&packet).expect("ours is legal");
        assert_eq!(icmpv6::checksum(from, to, 58, view.payload()), 0);
        assert!(icmpv6::must_not_answer(&view));
        assert!(packet.len() <= icmpv6::MAX_LEN);
    }
    let Ok(view) = Ipv6Packet::parse(bytes) else {
        tcp_mss::clamp(&mut copy, 1282);
        return;
    };
    assert!(view.len() <= bytes.len());
    let _ = icmpv6::must_not_answer(&view);
    if let Some((protocol, payload)) = view.upper_layer() {
        assert!(payload.len() <= view.payload().len());
        if [6, 17, 58].contains(&view.next_header()) {
            assert_eq!(protocol, view.next_header());
            assert_eq!(payload, view.payload());
        }
    }

    // Clamping keeps the sum of a segment, right or wrong, and is done once.
    let mut clamped = bytes[..view.len()].to_vec();
    let sum = |packet: &[u8]| {
        let view = Ipv6Packet::parse(packet).expect("was legal before");
        icmpv6::checksum(view.source(), view.destination(), TCP, view.payload())
    };
    if tcp_mss::clamp(&mut clamped, 1282) {
        // A sum of minus zero equals one of zero.
        let norm = |sum: u16| if sum == 0xffff { 0 } else { sum };
        assert_eq!(norm(sum(&clamped)), norm(sum(&bytes[..view.len()])));
        assert!(!tcp_mss::clamp(&mut clamped.clone(), 1282));
    } else {
        assert_eq!(clamped, bytes[..view.len()]);
    }
}
