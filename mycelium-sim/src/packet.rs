//! Real packets: from the host of one identity to the host of another, through the data planes of all nodes on the way.

use std::net::Ipv6Addr;

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::io::{IdentityId, Input, PeerId};
use mycelium_core::time::Time;

use crate::link::Lane;
use crate::ports::Lanes;
use crate::station::Station;
use crate::world::{Violation, World};

/// Next header "use for experimentation" (RFC 3692): no data plane looks inside.
const EXPERIMENT: u8 = 253;
/// Next header ICMPv6.
const ICMPV6: u8 = 58;

/// A packet that came out of a host interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Time,
    /// Of which node.
    pub node: usize,
    /// Of which of its identities.
    pub identity: IdentityId,
    /// The whole IPv6 packet.
    pub packet: Vec<u8>,
}

impl Delivery {
    /// What was sent, if it is one of ours and not an error message.
    pub fn payload(&self) -> Option<&[u8]> {
        (self.packet.get(6) == Some(&EXPERIMENT)).then(|| &self.packet[40..])
    }

    /// Type and code, if it is an ICMPv6 message, and who sent it.
    pub fn icmp(&self) -> Option<(u8, u8, Ipv6Addr)> {
        let source: [u8; 16] = self.packet.get(8..24)?.try_into().ok()?;
        (self.packet[6] == ICMPV6)
            .then(|| (self.packet[40], self.packet[41], Ipv6Addr::from(source)))
    }

    /// The hop limit with which it arrived.
    pub fn hop_limit(&self) -> u8 {
        self.packet[7]
    }
}

impl World {
    /// The address of a destination.
    pub fn address(&self, destination: usize) -> Ipv6Addr {
        self.public_key(destination).address()
    }

    /// The host of destination `from` sends `payload` to the one of destination `to`.
    pub fn send_packet(
        &mut self,
        from: usize,
        to: usize,
        hop_limit: u8,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let source = self.address(from);
        let target = self.address(to);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(
            u16::try_from(payload.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        packet.extend([EXPERIMENT, hop_limit]);
        packet.extend(source.octets());
        packet.extend(target.octets());
        packet.extend(payload);
        let origin = self.destinations[from];
        let now = self.now;
        let Some(core) = self.stations[origin.owner].core_mut() else {
            return Ok(());
        };
        if let Some((data, _)) = &mut core.data {
            data.begin_batch(now, &mut core.lanes);
            data.from_host(
                Station::identity_id(origin.identity),
                &mut packet,
                &mut core.lanes,
            );
        }
        self.carry_data(origin.owner)
    }

    /// A data packet arrived at a node.
    pub(crate) fn arrive_data(
        &mut self,
        node: usize,
        peer: PeerId,
        packet: &mut [u8],
    ) -> Result<(), Violation> {
        let now = self.now;
        let Some(core) = self.stations[node].core_mut() else {
            return Ok(());
        };
        if let Some((data, _)) = &mut core.data {
            data.begin_batch(now, &mut core.lanes);
            data.from_peer(peer, packet, &mut core.lanes);
        }
        self.carry_data(node)
    }

    /// Let the data plane look at the clock and at a new table.
    pub(crate) fn data_batch(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now;
        let Some(core) = self.stations[node].core_mut() else {
            return Ok(());
        };
        if let Some((data, _)) = &mut core.data {
            data.begin_batch(now, &mut core.lanes);
        }
        self.carry_data(node)
    }

    /// Carry out what the data plane put into its lanes.
    pub(crate) fn carry_data(&mut self, node: usize) -> Result<(), Violation> {
        let Some(core) = self.stations[node].core_mut() else {
            return Ok(());
        };
        let Lanes {
            peers,
            hosts,
            needed,
            ..
        } = std::mem::take(&mut core.lanes);
        for (peer, packet) in peers {
            if let Some(&(connection, end)) = self.peer(node, peer) {
                if self.trace.wanted() {
                    let far = self
                        .other_end(node, peer)
                        .map_or("nobody".to_owned(), |far| far.0.to_string());
                    self.trace.line(
                        self.now,
                        format_args!("{node} => {far} data, {} bytes", packet.len()),
                    );
                }
                self.transmit(node, connection, end, Lane::Data, packet)?;
            }
        }
        for (identity, packet) in hosts {
            self.deliveries.push(Delivery {
                at: self.now,
                node,
                identity,
                packet,
            });
        }
        for (subnet, from) in needed {
            self.tell(node, Input::RouteNeeded { subnet, from })?;
        }
        self.plan_wake(node);
        Ok(())
    }

    fn public_key(&self, destination: usize) -> PublicKey {
        let destination = self.destinations[destination];
        self.stations[destination.owner].identities[destination.identity]
            .secret
            .public_key()
    }
}
