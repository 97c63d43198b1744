//! What the benchmarks share: a data plane whose ports throw packets away, and packets to feed it.
//!
//! Wall-clock figures illustrate; the machine they come from belongs beside them. Run with `cargo bench -p benches`.

pub mod macro_suite;
pub mod micro_suite;
pub mod plain;

use std::net::Ipv6Addr;
use std::sync::Arc;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig, Ports};
use mycelium_core::fib::{Fib, FibEntry, FibPublisher, Origin};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::time::Time;
use mycelium_core::wire::ipv6;

/// The link that leads to the other end of every flow.
pub const LINK: PeerId = PeerId(1);
/// The link that transit packets come from.
pub const OTHER_LINK: PeerId = PeerId(2);

/// Ports that keep the last packet only.
#[derive(Debug, Default)]
pub struct Sink {
    slot: Vec<u8>,
    len: usize,
    /// Packets that came out.
    pub packets: u64,
}

impl Sink {
    /// The packet that came out last.
    pub fn last(&self) -> &[u8] {
        &self.slot[..self.len]
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        if self.slot.len() < len {
            self.slot.resize(len, 0);
        }
        self.len = len;
        &mut self.slot[..len]
    }
}

impl Ports for Sink {
    fn peer_slot(&mut self, _peer: PeerId, len: usize) -> Option<&mut [u8]> {
        Some(self.reserve(len))
    }

    fn commit_peer(&mut self, _peer: PeerId) {
        self.packets += 1;
    }

    fn host_slot(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        Some(self.reserve(len))
    }

    fn commit_host(&mut self, _identity: IdentityId) {
        self.packets += 1;
    }

    fn commit_host_partial(&mut self, identity: IdentityId) {
        self.commit_host(identity);
    }

    fn route_needed(&mut self, _subnet: Subnet, _from: Option<PeerId>) -> bool {
        true
    }
}

/// One node with a route to every other one of a network.
#[derive(Debug)]
pub struct Station {
    /// Its data plane, a batch under way.
    pub plane: DataPlane,
    /// Where its packets go.
    pub sink: Sink,
}

impl Station {
    /// A node with this secret that reaches `others` over [`LINK`], and `routes` more that nobody talks to.
    pub fn new(secret: &SecretKey, others: &[PublicKey], routes: u64) -> Self {
        let mut fib = Fib::new(0x9e37_79b9_7f4a_7c15);
        fib.insert_origin(Origin {
            id: IdentityId::NODE,
            subnet: secret.public_key().subnet(),
            secret: secret.clone(),
        });
        for other in others {
            fib.insert(other.subnet(), Arc::new(FibEntry::new(LINK, *other)));
        }
        for n in 0..routes {
            let mut key = [0x55; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            let key = PublicKey(key);
            fib.insert(key.subnet(), Arc::new(FibEntry::new(OTHER_LINK, key)));
        }
        let publisher = FibPublisher::new(fib);
        let mut station = Self {
            plane: DataPlane::new(DataPlaneConfig::default(), publisher.reader(), [1; 32]),
            sink: Sink::default(),
        };
        station
            .plane
            .begin_batch(Time::from_millis(1_000), &mut station.sink);
        station
    }

    /// Seal one packet of the host.
    pub fn host_sends(&mut self, packet: &mut [u8]) {
        self.plane
            .from_host(IdentityId::NODE, packet, &mut self.sink);
    }

    /// Deliver or forward one packet of a peer.
    pub fn peer_sends(&mut self, peer: PeerId, frame: &mut [u8]) {
        self.plane.from_peer(peer, frame, &mut self.sink);
    }
}

/// The `n`th secret.
pub fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n | 0x40; 32])
}

/// An IPv6 packet of `len` bytes, header included, with a protocol number that nobody looks into.
pub fn packet(from: Ipv6Addr, to: Ipv6Addr, len: usize) -> Vec<u8> {
    let mut packet = vec![0xa5; len.max(ipv6::HEADER_LEN)];
    let payload_len = u16::try_from(packet.len() - ipv6::HEADER_LEN).unwrap_or(u16::MAX);
    if let Some(header) = packet.first_chunk_mut() {
        ipv6::write_header(header, payload_len, 59, 64, from, to);
    }
    packet
}
