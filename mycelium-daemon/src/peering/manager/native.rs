//! Native links of peers that are met on a stream, and which of two links between a pair stays.

use std::net::SocketAddr;
use std::time::Duration;

use mycelium_core::io::PeerId;
use mycelium_core::native::LinkId;
use tokio::time::Instant;

use crate::peering::endpoint::{Endpoint, Scheme, Target};
use crate::peering::view::Origin;

use super::{
    Link, Links, MOVE_COURTESY, Manager, Outgoing, Owner, State, inbound_endpoint, same_host,
};

impl<L: Links> Manager<L> {
    /// Both ends dialled, and one link is enough: the one that came about is the endpoint's. `false`: it is another's.
    pub(super) fn take_over(&mut self, endpoint: &Endpoint, native: LinkId) -> bool {
        let is_it = |link: &Link| link.native == Some(native);
        let link = if let Some(peer) = self
            .inbound
            .iter()
            .find_map(|(&peer, entry)| is_it(&entry.link).then_some(peer))
        {
            self.inbound.remove(&peer).map(|entry| entry.link)
        } else if let Some(moved) = self.outgoing.iter().find_map(|(other, entry)| {
            let is_moved = entry.origin == Origin::Moved && entry.link().is_some_and(is_it);
            (is_moved && other != endpoint).then(|| other.clone())
        }) {
            let entry = self.outgoing.remove(&moved);
            entry.and_then(|entry| match entry.state {
                State::Up(link) => Some(link),
                State::Waiting { .. } | State::Dialling { .. } => None,
            })
        } else {
            None
        };
        let (Some(link), Some(entry)) = (link, self.outgoing.get_mut(endpoint)) else {
            return false;
        };
        tracing::info!(peer = %endpoint, remote = %link.remote, "connected from there");
        self.owners
            .insert(link.peer, Owner::Outgoing(endpoint.clone()));
        entry.failures = 0;
        entry.backoff.reset();
        entry.last_error = None;
        entry.last_connected = Some(link.up_since);
        entry.address = Some(link.remote);
        entry.state = State::Up(link);
        true
    }

    /// A link over which a node told its UDP port, unless that is native itself. Only the port is taken from its words.
    pub(super) fn on_speaks_native(&mut self, peer: PeerId, port: u16) {
        let (link, delay) = match self.owners.get(&peer) {
            // Whoever dialled the stream gets through; the other end tries when nothing came of that.
            Some(Owner::Outgoing(endpoint)) => {
                let entry = self.outgoing.get(endpoint);
                (entry.and_then(Outgoing::link), Duration::ZERO)
            }
            Some(Owner::Inbound) => {
                let entry = self.inbound.get(&peer);
                (entry.map(|entry| &entry.link), MOVE_COURTESY)
            }
            None => return,
        };
        // Over vsock there need be no network between the two.
        let is_stream = |link: &&Link| link.native.is_none() && link.scheme != Scheme::Vsock;
        let Some(link) = link.filter(is_stream) else {
            return;
        };
        let mut address = link.remote;
        address.set_port(port);
        let endpoint = Endpoint::address(Scheme::Udp, address);
        if self.outgoing.contains_key(&endpoint) {
            return;
        }
        tracing::debug!(peer = %endpoint, "a peer takes native links");
        // It is not in the table, so this succeeds.
        let _ = self.add(endpoint.clone(), Origin::Moved);
        if let Some(entry) = self.outgoing.get_mut(&endpoint) {
            entry.state = State::Waiting {
                until: Instant::now() + delay,
            };
        }
    }

    /// A peer that we have not dialled again yet shows that it is there.
    pub(super) fn on_stray(&mut self, address: SocketAddr) {
        for (endpoint, entry) in &mut self.outgoing {
            let is_there =
                entry.address == Some(address) || endpoint.target == Target::Address(address);
            if let (Scheme::Udp, true, State::Waiting { until }) =
                (endpoint.scheme, is_there, &mut entry.state)
            {
                *until = Instant::now();
            }
        }
    }

    /// Whether there is still a stream to the node that an entry was made for.
    pub(super) fn has_stream_to(&self, endpoint: &Endpoint) -> bool {
        let Target::Address(address) = endpoint.target else {
            return false;
        };
        let inbound = self.inbound.values().map(|entry| &entry.link);
        let outgoing = self.outgoing.values().filter_map(Outgoing::link);
        inbound
            .chain(outgoing)
            .any(|link| link.native.is_none() && same_host(link.remote, address))
    }

    /// Whether there is a native link to that place already, which came from there.
    pub(super) fn has_native_from(&self, endpoint: &Endpoint) -> bool {
        self.inbound
            .values()
            .any(|entry| inbound_endpoint(&entry.link) == *endpoint)
    }
}
