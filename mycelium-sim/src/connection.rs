//! Connections: dialled, used, reset, half open.

use mycelium_core::io::{CloseReason, Input, PeerId};

use crate::link::{Connection, Fate, Lane};
use crate::station::Brain;
use crate::world::{Violation, What, World};

impl World {
    /// The connection, and which of its ends, that a station calls `peer`.
    pub(crate) fn peer(&self, node: usize, peer: PeerId) -> Option<&(usize, usize)> {
        self.stations[node].process.as_ref()?.peers.get(&peer)
    }

    /// The station at the other end of a connection that is whole, and what that station calls it.
    pub(crate) fn other_end(&self, node: usize, peer: PeerId) -> Option<(usize, PeerId)> {
        let &(connection, end) = self.peer(node, peer)?;
        let connection = self.connections[connection].as_ref()?;
        let far = connection.peers[1 - end]?;
        Some((self.links[connection.link].ends[1 - end], far))
    }

    pub(crate) fn far_end(&self, node: usize, peer: PeerId) -> Option<usize> {
        self.other_end(node, peer).map(|(far, _)| far)
    }

    pub(crate) fn transmit(
        &mut self,
        node: usize,
        connection: usize,
        end: usize,
        lane: Lane,
        packet: Vec<u8>,
    ) -> Result<(), Violation> {
        let Some(open) = &mut self.connections[connection] else {
            return Ok(());
        };
        let link = &mut self.links[open.link];
        let far = link.ends[1 - end];
        if self.trace.wanted() && lane == Lane::Control {
            let words = self.trace.control(&packet);
            self.trace
                .line(self.now, format_args!("{node} -> {far} {words}"));
        }
        match open.transmit(end, lane, packet, link, self.now, &mut self.choices) {
            Fate::Arrives(at, packet) => self.push(
                at,
                What::Arrive {
                    connection,
                    end: 1 - end,
                    lane,
                    packet,
                },
            ),
            Fate::Held | Fate::Lost => {}
            // As if the kernel told the process a moment later: not inside of its own sending.
            Fate::Reset => self.push(self.now, What::Disconnected { connection, end }),
        }
        Ok(())
    }

    pub(crate) fn arrive(
        &mut self,
        connection: usize,
        end: usize,
        lane: Lane,
        packet: &mut [u8],
    ) -> Result<(), Violation> {
        let Some(open) = &self.connections[connection] else {
            return Ok(());
        };
        let link = &self.links[open.link];
        let node = link.ends[end];
        let Some(peer) = open.peers[end] else {
            // The machine is there, the process that had the connection is not: the sender gets a reset.
            if self.stations[node].process.is_some() && !link.silent {
                let at = self.now + link.spec.latency;
                self.push(
                    at,
                    What::Disconnected {
                        connection,
                        end: 1 - end,
                    },
                );
            }
            return Ok(());
        };
        match lane {
            Lane::Control => match self.stations[node]
                .process
                .as_mut()
                .map(|process| &mut process.brain)
            {
                Some(Brain::Hostile(attacker)) => {
                    attacker.hear(packet);
                    Ok(())
                }
                Some(Brain::Core(_)) => {
                    if let Some(relay) = &mut self.stations[node].relay {
                        relay.hear(packet);
                    }
                    self.tell(node, Input::Control { peer, packet })
                }
                None => Ok(()),
            },
            Lane::Data => {
                self.note_heard(node, peer)?;
                self.arrive_data(node, peer, packet)
            }
        }
    }

    /// Dial a link soon, if nobody does already.
    pub(crate) fn want_dial(&mut self, link: usize) {
        if !std::mem::replace(&mut self.links[link].dialling, true) {
            self.push(self.now + self.links[link].spec.redial, What::Dial { link });
        }
    }

    pub(crate) fn dial(&mut self, index: usize) {
        let link = &mut self.links[index];
        link.dialling = false;
        let incarnation = |end: usize| {
            let process = self.stations[link.ends[end]].process.as_ref();
            process.map(|process| process.incarnation)
        };
        let (Some(dialler), Some(acceptor)) = (incarnation(0), incarnation(1)) else {
            return;
        };
        if !link.carrier || link.silent || link.dialled.is_some() {
            return;
        }
        let connection = self.connections.len();
        link.dialled = Some(connection);
        let latency = link.spec.latency;
        self.connections.push(Some(Connection::new(index)));
        for (end, trips, incarnation) in [(0, 2, dialler), (1, 3, acceptor)] {
            self.push(
                self.now + latency * trips,
                What::Connected {
                    connection,
                    end,
                    incarnation,
                },
            );
        }
    }

    pub(crate) fn connected(
        &mut self,
        connection: usize,
        end: usize,
        incarnation: u32,
    ) -> Result<(), Violation> {
        let Some(open) = &mut self.connections[connection] else {
            return Ok(());
        };
        let link = &mut self.links[open.link];
        let node = link.ends[end];
        let info = link.spec.info();
        let Some(process) = self.stations[node]
            .process
            .as_mut()
            .filter(|process| process.incarnation == incarnation)
        else {
            self.hang_up(connection, end, true);
            return Ok(());
        };
        let peer = PeerId(process.next_peer);
        process.next_peer += 1;
        process.peers.insert(peer, (connection, end));
        open.peers[end] = Some(peer);
        if self.trace.wanted() {
            let far = link.ends[1 - end];
            self.trace.line(
                self.now,
                format_args!("{node} connected to {far} as {}", peer.0),
            );
        }
        match &mut process.brain {
            Brain::Hostile(attacker) => {
                attacker.peers.push(peer);
                Ok(())
            }
            Brain::Core(_) => self.tell(node, Input::PeerUp { peer, link: info }),
        }
    }

    /// An end learns that its connection is gone.
    pub(crate) fn disconnected(&mut self, connection: usize, end: usize) -> Result<(), Violation> {
        let Some(open) = &self.connections[connection] else {
            return Ok(());
        };
        let Some(peer) = open.peers[end] else {
            return Ok(());
        };
        let node = self.links[open.link].ends[end];
        if let Some(process) = &mut self.stations[node].process {
            process.peers.remove(&peer);
            if let Brain::Hostile(attacker) = &mut process.brain {
                attacker.peers.retain(|&known| known != peer);
            }
        }
        self.hang_up(connection, end, true);
        if self.trace.wanted() {
            self.trace.line(
                self.now,
                format_args!("{node}: connection {} is gone", peer.0),
            );
        }
        self.tell(node, Input::PeerDown { peer })
    }

    /// A node wants a connection closed.
    pub(crate) fn close(
        &mut self,
        node: usize,
        peer: PeerId,
        reason: CloseReason,
    ) -> Result<(), Violation> {
        let process = self.stations[node].process.as_mut();
        let Some((connection, end)) = process.and_then(|process| process.peers.remove(&peer))
        else {
            return Err(self.violation(format!("node {node} closes {peer:?}, which is gone")));
        };
        self.tally.closed[match reason {
            CloseReason::Silent => 0,
            CloseReason::Malformed => 1,
            CloseReason::Flooding => 2,
            CloseReason::Ourselves => 3,
        }] += 1;
        if self.trace.wanted() {
            self.trace
                .line(self.now, format_args!("{node} closes {}: {reason}", peer.0));
        }
        self.hang_up(connection, end, true);
        Ok(())
    }

    /// An end of a connection is no more. `told`: the other end learns of it, if anything gets through.
    pub(crate) fn hang_up(&mut self, connection: usize, end: usize, told: bool) {
        let Some(open) = &mut self.connections[connection] else {
            return;
        };
        let index = open.link;
        open.peers[end] = None;
        let at = open.directions[end]
            .last_arrival()
            .max(self.now + self.links[index].spec.latency);
        let whole = open.peers[1 - end].is_some();
        let link = &mut self.links[index];
        let reachable = link.carrier && !link.silent;
        if end == 0 && link.dialled == Some(connection) {
            link.dialled = None;
            self.want_dial(index);
        }
        if whole && told && reachable {
            self.push(
                at,
                What::Disconnected {
                    connection,
                    end: 1 - end,
                },
            );
        }
        // The heap may still hold packets and hang-ups for a connection without ends; they find nobody.
    }

    /// Both ends lose everything over a link at once.
    pub(crate) fn reset(&mut self, link: usize) -> Result<(), Violation> {
        for connection in 0..self.connections.len() {
            if self.connections[connection]
                .as_ref()
                .is_some_and(|open| open.link == link)
            {
                for end in [0, 1] {
                    self.disconnected(connection, end)?;
                }
                self.connections[connection] = None;
            }
        }
        self.links[link].dialled = None;
        Ok(())
    }

    pub(crate) fn heal(&mut self, index: usize) {
        self.links[index].silent = false;
        for connection in 0..self.connections.len() {
            let Some(open) = self.connections[connection]
                .as_mut()
                .filter(|open| open.link == index)
            else {
                continue;
            };
            let held = [0, 1].map(|end| open.release(end, &self.links[index], self.now));
            for (from, packets) in held.into_iter().enumerate() {
                for (at, lane, packet) in packets {
                    self.push(
                        at,
                        What::Arrive {
                            connection,
                            end: 1 - from,
                            lane,
                            packet,
                        },
                    );
                }
            }
        }
        self.want_dial(index);
    }
}
