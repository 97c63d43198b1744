//! Where the data plane of a simulated node puts its packets.

use mycelium_core::addr::Subnet;
use mycelium_core::dataplane::Ports;
use mycelium_core::io::{IdentityId, PeerId};

/// Reports of needed routes that fit between two looks of the control plane, as in the daemon.
const REPORTS: usize = 64;

/// Everything that the data plane did in one batch, in order.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Complete packets for connections.
    pub peers: Vec<(PeerId, Vec<u8>)>,
    /// IPv6 packets for hosts.
    pub hosts: Vec<(IdentityId, Vec<u8>)>,
    /// Subnets that are needed, and who brought the packet.
    pub needed: Vec<(Subnet, Option<PeerId>)>,
    slot: Vec<u8>,
}

impl Ports for Lanes {
    fn peer_slot(&mut self, _: PeerId, len: usize) -> Option<&mut [u8]> {
        // Arbitrary content, says the contract: never what a previous packet left, and never zeroes.
        self.slot = vec![0xa5; len];
        Some(&mut self.slot)
    }

    fn commit_peer(&mut self, peer: PeerId) {
        self.peers.push((peer, std::mem::take(&mut self.slot)));
    }

    fn host_slot(&mut self, _: IdentityId, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0xa5; len];
        Some(&mut self.slot)
    }

    fn commit_host(&mut self, identity: IdentityId) {
        self.hosts.push((identity, std::mem::take(&mut self.slot)));
    }

    fn commit_host_partial(&mut self, identity: IdentityId) {
        self.commit_host(identity);
    }

    fn route_needed(&mut self, subnet: Subnet, from: Option<PeerId>) -> bool {
        let fits = self.needed.len() < REPORTS;
        if fits {
            self.needed.push((subnet, from));
        }
        fits
    }
}
