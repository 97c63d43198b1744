//! Which packets of hosts go before others: those of sparse flows (RFC 8290 §4.1), such as a ping, a key stroke, a question
//! to a name server.
//!
//! Flows are told apart by a hash only. One is sparse until it has spent its allowance, and again when nothing was seen of it
//! for longer than any packet of it can still wait in a queue of ours: so no packet overtakes another of its flow.

use mycelium_core::time::{Duration, Time};
use mycelium_core::wire::ipv6;

/// Flows that are told apart; a power of two.
const BUCKETS: usize = 1024;
/// Bytes that a sparse flow may send at once.
const BURST: u64 = 8 << 10;
/// Bytes a millisecond that it gets back.
const RATE: u64 = 100;
/// After such a pause a flow is sparse again. Queues hold packets for 30 ms, sockets for some more.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Flows {
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    seen: Time,
    /// Of the allowance; 0 until the next pause when it was spent once.
    left: u64,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            buckets: Vec::new(),
        }
    }

    /// Whether `packet`, which a host sends, is of a sparse flow.
    pub(super) fn is_sparse(&mut self, packet: &[u8], now: Time) -> bool {
        if self.buckets.is_empty() {
            let bucket = Bucket {
                seen: Time::ZERO,
                left: BURST,
            };
            self.buckets = vec![bucket; BUCKETS];
        }
        let Some(bucket) = self.buckets.get_mut(hash(packet) % BUCKETS) else {
            return false;
        };
        let pause = now.since(bucket.seen);
        bucket.seen = now;
        if pause >= PAUSE {
            bucket.left = BURST;
        } else if bucket.left > 0 {
            let back = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX) * RATE / 1000;
            bucket.left = (bucket.left + back).min(BURST);
        }
        bucket.left = bucket.left.saturating_sub(packet.len() as u64);
        bucket.left > 0
    }
}

/// Of addresses, protocol and ports; of what has no ports, the identifier of an echo.
fn hash(packet: &[u8]) -> usize {
    let Some(header) = packet.first_chunk::<{ ipv6::HEADER_LEN }>() else {
        return 0;
    };
    let payload = packet.get(ipv6::HEADER_LEN..).unwrap_or_default();
    let ports = match header[6] {
        ipv6::TCP | ipv6::UDP => payload.get(..4),
        _ => payload.get(4..6),
    };
    let (addresses, _) = header[8..].as_chunks::<8>();
    let mut hash = u64::from(header[6]);
    for part in addresses {
        hash = mix(hash ^ u64::from_ne_bytes(*part));
    }
    for &byte in ports.unwrap_or_default() {
        hash = mix(hash ^ u64::from(byte));
    }
    (hash >> 32) as usize
}

fn mix(bits: u64) -> u64 {
    (bits ^ (bits >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv6([4; 16], [5; 16], 64)
            .udp(port, 7)
            .write(&mut bytes, &vec![0; len - 48])
            .unwrap();
        bytes
    }

    #[test]
    fn a_ping_beside_a_transfer_stays_sparse_and_the_transfer_does_not() {
        let mut flows = Flows::new();
        let mut now = Time::from_millis(1000);
        for round in 0..5000 {
            now = now + Duration::from_millis(2);
            assert!(flows.is_sparse(&packet(1, 104), now), "round {round}");
            assert!(!flows.is_sparse(&packet(2, 60_000), now));
        }
    }

    #[test]
    fn a_flow_that_was_not_sparse_is_so_after_a_pause_only() {
        let mut flows = Flows::new();
        let mut now = Time::from_millis(1000);
        assert!(!flows.is_sparse(&packet(1, 9000), now));
        for _ in 0..100 {
            now = now + Duration::from_millis(199);
            assert!(!flows.is_sparse(&packet(1, 100), now));
        }
        now = now + PAUSE;
        assert!(flows.is_sparse(&packet(1, 100), now));
    }

    #[test]
    fn echoes_are_told_apart_by_their_identifiers_not_by_their_checksums() {
        let echo = |id, sequence| {
            let mut bytes = Vec::new();
            etherparse::PacketBuilder::ipv6([4; 16], [5; 16], 64)
                .icmpv6_echo_request(id, sequence)
                .write(&mut bytes, &[0; 56])
                .unwrap();
            bytes
        };
        assert_eq!(hash(&echo(1, 2)), hash(&echo(1, 3)));
        assert_ne!(hash(&echo(1, 2)), hash(&echo(2, 2)));
    }

    #[test]
    fn what_is_no_packet_is_a_flow_too() {
        let mut flows = Flows::new();
        for len in 0..60 {
            assert!(flows.is_sparse(&vec![0x60; len], Time::from_millis(1)));
        }
    }
}
