//! Nodes without a network: data planes whose ports keep what comes out.

use std::net::Ipv6Addr;
use std::sync::Arc;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig, Ports, Segmentation};
use mycelium_core::fib::{Fib, FibEntry, FibPublisher, Origin};
use mycelium_core::io::{IdentityId, PeerId};
use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::time::{Duration, Time};

use crate::{LINK, OTHER_LINK};

/// Routes that nobody talks to.
const ROUTES: u64 = 10_000;
const NOW: Time = Time::from_millis(1_000_000);

/// Which protocol the ends speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One node with a route to another, among [`ROUTES`].
pub(super) struct Station {
    pub(super) plane: DataPlane,
    pub(super) ports: Shelf,
    pub(super) address: Ipv6Addr,
}

/// Ports that keep the last packet, and all frames if wished.
#[derive(Default)]
pub(super) struct Shelf {
    slot: Vec<u8>,
    len: usize,
    pub(super) keeps: bool,
    /// Links are streams, which carry super-packets as they are.
    pub(super) is_stream: bool,
    pub(super) frames: Vec<Vec<u8>>,
    /// Packets committed to peers and to hosts.
    pub(super) out: [u32; 2],
}

impl Shelf {
    fn reserve(&mut self, len: usize) -> &mut [u8] {
        if self.slot.len() < len {
            self.slot.resize(len, 0);
        }
        self.len = len;
        &mut self.slot[..len]
    }
}

impl Ports for Shelf {
    fn peer_slot(&mut self, _peer: PeerId, len: usize) -> Option<&mut [u8]> {
        Some(self.reserve(len))
    }

    fn commit_peer(&mut self, _peer: PeerId) {
        self.out[0] += 1;
        if self.keeps {
            self.frames.push(self.slot[..self.len].to_vec());
        }
    }

    fn carries_whole(&self, _peer: PeerId) -> bool {
        self.is_stream
    }

    fn host_slot(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        Some(self.reserve(len))
    }

    fn commit_host(&mut self, _identity: IdentityId) {
        self.out[1] += 1;
    }

    fn commit_host_partial(&mut self, identity: IdentityId) {
        self.commit_host(identity);
    }

    fn host_slot_whole(&mut self, _identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        Some(self.reserve(len))
    }

    fn commit_host_whole(&mut self, _identity: IdentityId, _segmentation: Segmentation) {
        self.out[1] += 1;
    }

    fn route_needed(&mut self, _subnet: Subnet, _from: Option<PeerId>) -> bool {
        true
    }
}

impl Station {
    pub(super) fn new(own: &SecretKey, other: PublicKey, version: Version) -> Self {
        let mut fib = Fib::new(0x9e37_79b9_7f4a_7c15);
        fib.insert_origin(Origin {
            id: IdentityId::NODE,
            subnet: own.public_key().subnet(),
            secret: own.clone(),
        });
        let mut entry = FibEntry::new(LINK, other);
        entry.speaks_v2 = version == Version::V2;
        entry.direct = true;
        fib.insert(other.subnet(), Arc::new(entry));
        fill(&mut fib, ROUTES);
        let config = DataPlaneConfig {
            session: SessionConfig {
                policy: match version {
                    Version::V1 => Policy::Off,
                    Version::V2 => Policy::Prefer,
                },
                has_aes: true,
                unix_epoch: Duration::from_secs(1_700_000_000),
                ..SessionConfig::default()
            },
            ..DataPlaneConfig::default()
        };
        let plane = DataPlane::new(config, FibPublisher::new(fib).reader(), own.public_key().0);
        let mut station = Self {
            plane,
            ports: Shelf::default(),
            address: own.public_key().address(),
        };
        station.plane.begin_batch(NOW, &mut station.ports);
        station
    }

    /// A packet of the host.
    pub(super) fn host(&mut self, packet: &mut [u8]) {
        self.plane
            .from_host(IdentityId::NODE, packet, &mut self.ports);
    }

    /// A packet of a neighbour on the way to the other node or to this one.
    pub(super) fn peer(&mut self, frame: &mut [u8]) {
        self.plane.from_peer(OTHER_LINK, frame, &mut self.ports);
    }

    /// Packets that have gone to peers and to the host since the last call.
    pub(super) fn take_out(&mut self) -> [u32; 2] {
        std::mem::take(&mut self.ports.out)
    }
}

/// Two nodes that have exchanged packets, so that all keys are there.
pub(super) fn pair(version: Version) -> [Station; 2] {
    let (one, two) = (crate::secret(1), crate::secret(2));
    let mut a = Station::new(&one, two.public_key(), version);
    let mut b = Station::new(&two, one.public_key(), version);
    let there = crate::packet(a.address, b.address, 100);
    let back = crate::packet(b.address, a.address, 100);
    a.ports.keeps = true;
    b.ports.keeps = true;
    for _ in 0..2 {
        a.host(&mut there.clone());
        exchange(&mut a, &mut b);
        b.host(&mut back.clone());
        exchange(&mut a, &mut b);
    }
    for station in [&mut a, &mut b] {
        station.ports.keeps = false;
        station.take_out();
    }
    [a, b]
}

/// Until neither has anything to say.
fn exchange(a: &mut Station, b: &mut Station) {
    loop {
        let (from_a, from_b) = (
            std::mem::take(&mut a.ports.frames),
            std::mem::take(&mut b.ports.frames),
        );
        if from_a.is_empty() && from_b.is_empty() {
            break;
        }
        for mut frame in from_a {
            b.peer(&mut frame);
        }
        for mut frame in from_b {
            a.peer(&mut frame);
        }
    }
}

/// Insert `count` routes.
pub(super) fn fill(fib: &mut Fib, count: u64) {
    for n in 0..count {
        let key = stranger(n);
        fib.insert(key.subnet(), Arc::new(FibEntry::new(OTHER_LINK, key)));
    }
}

/// The `n`th of those that nobody talks to.
pub(super) fn stranger(n: u64) -> PublicKey {
    let mut key = [0x55; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    PublicKey(key)
}
