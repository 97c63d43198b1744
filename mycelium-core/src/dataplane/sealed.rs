//! Hot path: see docs/architecture.md#hot-path. Packets on sessions (docs/protocol.md §14), and what sessions want sent.

use std::net::Ipv6Addr;

use crate::addr::Subnet;
use crate::crypto::aead::TAG_LEN;
use crate::fib::Lookup;
use crate::io::{IdentityId, PeerId};
use crate::session::path::{Fit, Route};
use crate::session::stub::{self, Kind, Stub};
use crate::session::table::{Action, Opened};
use crate::session::transport::{HEAD_LEN, OVERHEAD, Sender};
use crate::wire::data::{BODY_OFFSET, DEFAULT_HOP_LIMIT, DataHeader, MAX_BODY_LEN};
use crate::wire::icmpv6::IcmpError;
use crate::wire::ipv6;

use super::pending::Arrival;
use super::{DataPlane, Ports};

/// Bytes on the wire that a packet on a session has more than its inner packet.
pub(super) const ADDED: usize = BODY_OFFSET + OVERHEAD - stub::ELIDED;
/// Whoever forwards decrements; a relay that raises the hop limit gains nothing by it.
const HIGHEST_HOP_LIMIT: u8 = 253;
/// The four bytes before a handshake unit.
const NO_INDEX: [u8; 4] = [0; 4];

/// A packet of a host on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub(super) identity: IdentityId,
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    /// As it goes out.
    pub(super) hop_limit: u8,
}

impl DataPlane {
    /// Seal a host's packet on the session of `slot` and send it along `route`.
    pub(super) fn send_on_session(
        &mut self,
        slot: usize,
        route: Route,
        out: Outgoing,
        packet: &[u8],
        ports: &mut impl Ports,
    ) {
        let Some((header, payload)) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>() else {
            self.stats.drop_host_malformed += 1;
            return;
        };
        let Some(start) = header.first_chunk() else {
            return;
        };
        let stub = Stub::of_packet(start);
        let wire_len = packet.len() + ADDED;
        match self
            .sessions
            .fit(slot, route, packet.len(), wire_len, self.now)
        {
            Fit::Whole => {
                if self.seal(
                    slot,
                    route.next_hop,
                    out,
                    &[&stub, payload],
                    wire_len,
                    ports,
                ) {
                    self.sessions.on_sent(slot, 1, self.now);
                    self.stats.sent += 1;
                }
            }
            Fit::Halves => {
                let id = self.next_half;
                self.next_half = self.next_half.wrapping_add(1);
                let whole = stub::LEN + payload.len();
                // What precedes the middle is the stub and the front of the payload.
                let front = whole
                    .div_ceil(2)
                    .saturating_sub(stub::LEN)
                    .min(payload.len());
                let (first, second) = payload.split_at(front);
                let number = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
                let first_stub =
                    Stub::bytes_of(Kind::FirstHalf, id, number(stub::LEN + first.len()));
                let second_stub = Stub::bytes_of(Kind::SecondHalf, id, number(second.len()));
                let len = |part: usize| BODY_OFFSET + OVERHEAD + stub::LEN + part;
                let first_len = len(stub::LEN + first.len());
                if self.seal(
                    slot,
                    route.next_hop,
                    out,
                    &[&first_stub, &stub, first],
                    first_len,
                    ports,
                ) && self.seal(
                    slot,
                    route.next_hop,
                    out,
                    &[&second_stub, second],
                    len(second.len()),
                    ports,
                ) {
                    self.sessions.on_sent(slot, 1, self.now);
                    self.stats.sent += 1;
                    self.stats.sent_in_halves += 1;
                }
            }
            Fit::TooBig(mtu) => {
                self.stats.drop_too_big += 1;
                let error = IcmpError::TooBig(u32::from(mtu));
                self.host_error(out.identity, error, packet, ports);
            }
        }
    }

    /// Seal `parts`, one after the other, as one body. `wire_len` is their length and what is around them; any more is padding.
    /// False, and counted, if it could not be sent.
    pub(super) fn seal(
        &mut self,
        slot: usize,
        next_hop: PeerId,
        out: Outgoing,
        parts: &[&[u8]],
        wire_len: usize,
        ports: &mut impl Ports,
    ) -> bool {
        if wire_len > BODY_OFFSET + MAX_BODY_LEN {
            self.stats.drop_too_big += 1;
            return false;
        }
        let Some((remote, position)) = self.sessions.outgoing(slot, self.now) else {
            self.stats.drop_no_session += 1;
            return false;
        };
        let Some(session) = remote.sessions.get_mut(position) else {
            return false;
        };
        let Some(buffer) = ports.peer_slot(next_hop, wire_len) else {
            self.stats.drop_peer_full += 1;
            return false;
        };
        if !write_sealed(&mut session.sender, out, parts, buffer) {
            self.stats.drop_no_session += 1;
            return false;
        }
        ports.commit_peer_session(next_hop);
        self.count_traffic(out.source, out.destination, wire_len);
        true
    }

    /// Seal something of the session's own, to `destination` or the remote's own address.
    fn seal_own(
        &mut self,
        slot: usize,
        destination: Option<Ipv6Addr>,
        stub: [u8; stub::LEN],
        payload: &[u8],
        wire_len: usize,
        ports: &mut impl Ports,
    ) -> bool {
        let Some((identity, subnet, address)) = self.sessions.remote_of(slot) else {
            return false;
        };
        let destination = destination.unwrap_or(address);
        let Some(source) = self.identities.get(identity).map(|local| local.address) else {
            return false;
        };
        let Lookup::Remote(entry) = self.fib.fib().lookup(subnet) else {
            return false;
        };
        let next_hop = entry.next_hop;
        let out = Outgoing {
            identity,
            source,
            destination,
            hop_limit: DEFAULT_HOP_LIMIT - 1,
        };
        self.seal(slot, next_hop, out, &[&stub, payload], wire_len, ports)
    }

    /// A notice to a remote source, on its session.
    pub(super) fn seal_report(
        &mut self,
        slot: usize,
        destination: Ipv6Addr,
        report: &[u8],
        ports: &mut impl Ports,
    ) -> bool {
        let Ok(len) = u16::try_from(report.len()) else {
            return false;
        };
        let stub = Stub::bytes_of(Kind::Report, 0, len);
        let wire_len = BODY_OFFSET + OVERHEAD + stub::LEN + report.len();
        let Lookup::Remote(entry) = self.fib.fib().lookup(Subnet::containing(destination)) else {
            return false;
        };
        // Anybody can cause reports: they must not be what a relay on the way cannot carry.
        if !entry.direct
            && let Some(size) = self.sessions.path_size(slot)
            && wire_len > usize::from(size)
        {
            return false;
        }
        self.seal_own(slot, Some(destination), stub, report, wire_len, ports)
    }

    /// What opened on a session.
    pub(super) fn opened(
        &mut self,
        peer: PeerId,
        identity: IdentityId,
        header: &DataHeader,
        index: u32,
        opened: Opened<'_>,
        ports: &mut impl Ports,
    ) {
        let Opened { slot, plaintext } = opened;
        self.count_traffic(header.source, header.destination, header.packet_len());
        if let Lookup::Remote(entry) = self.fib.fib().lookup(Subnet::containing(header.source)) {
            entry.mark_used();
        }
        let Some((stub, payload)) = Stub::split(plaintext) else {
            self.sessions.on_heard(slot, true, self.now);
            self.sessions.on_malformed(slot);
            self.stats.drop_user_data_type += 1;
            return;
        };
        self.sessions
            .on_heard(slot, stub.kind == Kind::Empty, self.now);
        match stub.kind {
            Kind::Packet => {
                self.deliver_elided(identity, header, header.hop_limit, &stub, payload, ports);
            }
            Kind::Whole => {
                let hop_limit = hop_limit_of(header.hop_limit);
                if !ports.carries_whole(peer)
                    || !self.deliver_whole(identity, header, hop_limit, &stub, payload, ports)
                {
                    self.sessions.on_malformed(slot);
                    self.stats.drop_inner_malformed += 1;
                }
            }
            Kind::Partial => {
                let hop_limit = hop_limit_of(header.hop_limit);
                if !self.deliver_partial(identity, header, hop_limit, &stub, payload, ports) {
                    self.sessions.on_malformed(slot);
                    self.stats.drop_inner_malformed += 1;
                }
            }
            Kind::Message => self.stats.drop_message += 1,
            Kind::Report => self.deliver_notice(identity, header, payload, ports),
            Kind::Empty => self.stats.session_control += 1,
            Kind::FirstHalf | Kind::SecondHalf => {
                let second = stub.kind == Kind::SecondHalf;
                let (id, hop_limit) = (stub.id(), header.hop_limit);
                let whole = self
                    .sessions
                    .halves
                    .add(index, id, second, hop_limit, payload, self.now);
                let Some((mut whole, hop_limit)) = whole else {
                    self.stats.session_control += 1;
                    return;
                };
                match Stub::split(&mut whole) {
                    Some((stub, payload)) if stub.kind == Kind::Packet => {
                        self.deliver_elided(identity, header, hop_limit, &stub, payload, ports);
                    }
                    _ => {
                        self.sessions.on_malformed(slot);
                        self.stats.drop_inner_malformed += 1;
                    }
                }
            }
            Kind::Probe => {
                self.stats.session_control += 1;
                let size = stub.number();
                // A size that is not that of what arrived would be a lie about what the path carries.
                if usize::from(size) == header.packet_len() && self.answers.take(self.now) {
                    let stub = Stub::bytes_of(Kind::Answer, stub.id(), size);
                    let wire_len = BODY_OFFSET + OVERHEAD + stub::LEN;
                    self.seal_own(slot, None, stub, &[], wire_len, ports);
                }
            }
            Kind::Answer => {
                self.stats.session_control += 1;
                self.sessions
                    .on_answer(slot, stub.id(), stub.number(), self.now);
            }
        }
    }

    /// Hand a packet to the host whose addresses were left out.
    fn deliver_elided(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        hop_limit: u8,
        stub: &Stub,
        payload: &[u8],
        ports: &mut impl Ports,
    ) {
        let len = ipv6::HEADER_LEN + payload.len();
        let Some(slot) = ports.host_slot(identity, len) else {
            self.stats.drop_host_full += 1;
            return;
        };
        if !stub.restore(
            slot,
            hop_limit_of(hop_limit),
            header.source,
            header.destination,
        ) {
            self.stats.drop_inner_malformed += 1;
            return;
        }
        slot[ipv6::HEADER_LEN..].copy_from_slice(payload);
        ports.commit_host(identity);
        self.stats.delivered_remote += 1;
    }

    /// Keep a host's packet until there is a session.
    #[cold]
    pub(super) fn park_for_session(
        &mut self,
        identity: IdentityId,
        sparse: bool,
        subnet: Subnet,
        packet: &[u8],
    ) {
        let arrival = Arrival::Host(identity);
        let outcome = self
            .pending_session
            .park(subnet, arrival, sparse, packet, self.now);
        // There is a route.
        self.pending_session.mark_asked(subnet);
        self.stats.drop_parked_full += outcome.dropped_full;
        self.stats.drop_parked_subnet_full += outcome.dropped_subnet_full;
        self.stats.drop_parked_share += u64::from(outcome.refused_share);
        self.stats.parked += u64::from(outcome.parked);
    }

    /// No session came about in time.
    pub(super) fn fail_session(&mut self, subnet: Subnet, ports: &mut impl Ports) {
        for parked in self.pending_session.remove(subnet) {
            self.stats.drop_no_session += 1;
            if let Arrival::Host(identity) = parked.arrival {
                self.host_error(identity, IcmpError::NoRoute, &parked.packet, ports);
            }
        }
    }

    /// Do what sessions want done.
    pub(super) fn run_sessions(&mut self, ports: &mut impl Ports) {
        while let Some(action) = self.sessions.poll_action() {
            match action {
                Action::Units {
                    from,
                    to,
                    units,
                    half_open,
                } => self.send_units(from, to, &units, half_open, ports),
                Action::Empty { slot, confirm } => {
                    if confirm && self.sessions.has_sent(slot, self.now) {
                        continue;
                    }
                    let wire_len = BODY_OFFSET + OVERHEAD + stub::LEN;
                    let stub = Stub::bytes_of(Kind::Empty, 0, 0);
                    self.seal_own(slot, None, stub, &[], wire_len, ports);
                    self.sessions.on_sent_empty(slot);
                }
                Action::Probe { slot, probe } => {
                    let stub = Stub::bytes_of(Kind::Probe, probe.id, probe.size);
                    self.seal_own(slot, None, stub, &[], usize::from(probe.size), ports);
                }
                Action::Ready(subnet) => {
                    let packets = self.pending_session.remove(subnet);
                    self.release_queue(packets, ports);
                }
            }
        }
    }

    fn send_units(
        &mut self,
        from: IdentityId,
        to: Ipv6Addr,
        units: &[Vec<u8>],
        half_open: Option<(u32, PeerId)>,
        ports: &mut impl Ports,
    ) {
        let Some(source) = self.identities.get(from).map(|local| local.address) else {
            return;
        };
        let subnet = Subnet::containing(to);
        let Lookup::Remote(entry) = self.fib.fib().lookup(subnet) else {
            if let Some((index, peer)) = half_open
                && self.sessions.on_unsent(index, peer, self.now)
                && ports.route_needed(subnet, Some(peer))
            {
                self.stats.routes_requested += 1;
            }
            return;
        };
        for unit in units {
            let Ok(body_len) = u16::try_from(NO_INDEX.len() + unit.len()) else {
                continue;
            };
            let header = DataHeader {
                body_len,
                hop_limit: DEFAULT_HOP_LIMIT - 1,
                source,
                destination: to,
            };
            let Some(slot) = ports.peer_slot(entry.next_hop, header.packet_len()) else {
                return;
            };
            let Some((head, body)) = slot.split_first_chunk_mut::<BODY_OFFSET>() else {
                return;
            };
            header.write(head);
            body[..NO_INDEX.len()].copy_from_slice(&NO_INDEX);
            body[NO_INDEX.len()..].copy_from_slice(unit);
            ports.commit_peer(entry.next_hop);
            self.stats.handshakes_sent += 1;
        }
    }
}

/// Write `parts`, one after the other, as one body to `buffer`, and seal it; what they leave of it is padding. False if the
/// session seals no more.
#[inline]
pub(super) fn write_sealed(
    sender: &mut Sender,
    out: Outgoing,
    parts: &[&[u8]],
    buffer: &mut [u8],
) -> bool {
    let Some((head, body)) = buffer.split_first_chunk_mut::<BODY_OFFSET>() else {
        return false;
    };
    let Ok(body_len) = u16::try_from(body.len()) else {
        return false;
    };
    DataHeader {
        body_len,
        hop_limit: out.hop_limit,
        source: out.source,
        destination: out.destination,
    }
    .write(head);
    let mut at = HEAD_LEN;
    for part in parts {
        body[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    let end = body.len() - TAG_LEN;
    body[at..end].fill(0);
    sender.seal_body(out.source, out.destination, body).is_ok()
}

/// The hop limit of a packet as the host gets it.
fn hop_limit_of(outer: u8) -> u8 {
    outer.saturating_sub(1).clamp(1, HIGHEST_HOP_LIMIT)
}
