//! Real packets: from the host of one identity to the host of another, through the data planes of all nodes on the way.

use std::net::Ipv6Addr;

use mycelium_core::addr::Subnet;
use mycelium_core::io::{IdentityId, Input, PeerId};
use mycelium_core::time::Time;
use mycelium_core::wire::data::DataHeader;

use crate::link::Lane;
use crate::ports::Lanes;
use crate::relay::Deed;
use crate::station::{Identity, Station};
use crate::world::{Violation, What, World};

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
        self.identity(destination).key.address()
    }

    /// The host of destination `from` sends `payload` to the one of destination `to`.
    pub fn send_packet(
        &mut self,
        from: usize,
        to: usize,
        hop_limit: u8,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let mut packet = self.host_packet(from, to, hop_limit, payload);
        let origin = self.destinations[from];
        let now = self.now;
        let Some(core) = self.stations[origin.owner].core_mut() else {
            return Ok(());
        };
        let as_it_came = packet.clone();
        if let Some((data, _)) = &mut core.data {
            data.begin_batch(now, &mut core.lanes);
            data.from_host(
                Station::identity_id(origin.identity),
                &mut packet,
                &mut core.lanes,
            );
        }
        if self.config.mutant.is_some() {
            for (_, frame) in &core.lanes.peers {
                self.contents.learn(frame, &as_it_came);
            }
        }
        self.carry_data(origin.owner)
    }

    /// What the host of destination `from` sends to the one of destination `to`.
    pub(crate) fn host_packet(
        &self,
        from: usize,
        to: usize,
        hop_limit: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(
            u16::try_from(payload.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        packet.extend([EXPERIMENT, hop_limit]);
        packet.extend(self.address(from).octets());
        packet.extend(self.address(to).octets());
        packet.extend(payload);
        packet
    }

    /// A data packet arrived at a node.
    pub(crate) fn arrive_data(
        &mut self,
        node: usize,
        peer: PeerId,
        packet: &mut [u8],
    ) -> Result<(), Violation> {
        self.note_arrived(node, packet);
        let as_it_came = self.config.mutant.map(|_| packet.to_vec());
        let now = self.now;
        let Some(core) = self.stations[node].core_mut() else {
            return Ok(());
        };
        if let Some((data, _)) = &mut core.data {
            data.begin_batch(now, &mut core.lanes);
            data.from_peer(peer, packet, &mut core.lanes);
        }
        self.carry_data(node)?;
        if let Some(frame) = as_it_came {
            self.forget_pins(node);
            self.misbehave(node, &frame)?;
        }
        Ok(())
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
        let is_relay = self.stations[node].relay.is_some();
        for (peer, packet) in peers {
            if !is_relay {
                self.note_emitted(node, &packet)?;
            }
            for packet in self.meddle(node, packet) {
                let Some(&(connection, end)) = self.peer(node, peer) else {
                    continue;
                };
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
            let delivery = Delivery {
                at: self.now,
                node,
                identity,
                packet,
            };
            // What a meddler's own host gets is its own business.
            if is_relay && self.ledger.is_some() || self.note_delivered(&delivery)? {
                continue;
            }
            self.deliveries.push(delivery);
        }
        for (subnet, from) in needed {
            self.tell(node, Input::RouteNeeded { subnet, from })?;
        }
        self.plan_wake(node);
        Ok(())
    }

    /// What becomes of a packet on its way out of `node`: what goes where it was to go. The rest is scheduled.
    fn meddle(&mut self, node: usize, packet: Vec<u8>) -> Vec<Vec<u8>> {
        let targets: Vec<Ipv6Addr> = match &self.stations[node].relay {
            Some(relay) if !relay.tricks.is_empty() => (0..self.destinations.len())
                .map(|destination| self.address(destination))
                .collect(),
            _ => return vec![packet],
        };
        let Some(relay) = &mut self.stations[node].relay else {
            return vec![packet];
        };
        let deeds = relay.bend(packet, &targets, &mut self.choices);
        let mut passed = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Pass(packet) => passed.push(packet),
                Deed::Inject(after, packet) => self.push(
                    self.now + after,
                    What::Inject {
                        station: node,
                        packet,
                    },
                ),
            }
        }
        passed
    }

    /// A meddling relay sends a packet towards its destination, as its own table says.
    pub(crate) fn inject(&mut self, node: usize, packet: Vec<u8>) -> Result<(), Violation> {
        let Some(core) = self.stations[node].core() else {
            return Ok(());
        };
        let next_hop = DataHeader::parse(&packet).ok().and_then(|header| {
            let route = core.fib().route(Subnet::containing(header.destination))?;
            Some(route.next_hop)
        });
        match next_hop.and_then(|peer| self.peer(node, peer)) {
            Some(&(connection, end)) => self.transmit(node, connection, end, Lane::Data, packet),
            None => Ok(()),
        }
    }

    /// The identity behind a destination.
    pub(crate) fn identity(&self, destination: usize) -> &Identity {
        let destination = self.destinations[destination];
        &self.stations[destination.owner].identities[destination.identity]
    }
}
