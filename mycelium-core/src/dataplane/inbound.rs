//! Hot path: see docs/architecture.md#hot-path. Peer to host: open, check, deliver (wire spec §6.2).
//!
//! Stricter than upstream (wire spec §8, S13): what was opened must be an IPv6 packet from the /64 that the key authenticates
//! to the identity that opened it.

use crate::addr::Subnet;
use crate::fib::Lookup;
use crate::io::{IdentityId, PeerId};
use crate::wire::data::{BODY_OFFSET, DataHeader, split_v1_body};
use crate::wire::ipv6::{self, Ipv6Packet};
use crate::wire::tcp_mss;
use crate::wire::user_data::{self, UserDataError, UserDataType};

use crate::session::path::Route;
use crate::session::table::RemoteHint;

use super::keys::Payer;
use super::pending::Arrival;
use super::{DataPlane, Ports, Waiting};

impl DataPlane {
    /// Deliver a data packet to a local identity.
    pub(super) fn inbound(
        &mut self,
        peer: PeerId,
        identity: IdentityId,
        header: &DataHeader,
        frame: &mut [u8],
        ports: &mut impl Ports,
    ) {
        // Upstream refuses 1 as well. Its last hop was right to pass the packet on, so it is delivered here.
        if header.hop_limit == 0 {
            self.stats.drop_hop_limit += 1;
            return;
        }
        let remote = Subnet::containing(header.source);
        if !self.sessions.is_off() && self.inbound_v2(peer, identity, header, frame, ports) {
            return;
        }
        let Some(local) = self.identities.get(identity) else {
            self.stats.drop_unknown_identity += 1;
            return;
        };
        let entry = match self.fib.fib().lookup(remote) {
            Lookup::Remote(entry) => entry,
            Lookup::Local(_) => {
                self.stats.drop_own_source += 1;
                return;
            }
            Lookup::Unknown => {
                self.park(Waiting::Inbound, remote, Arrival::Peer(peer), frame, ports);
                return;
            }
        };
        let body = frame.get_mut(BODY_OFFSET..).unwrap_or_default();
        let body_len = body.len();
        let hint = RemoteHint {
            key: &entry.public_key,
            speaks_v2: entry.speaks_v2,
        };
        let pair = (identity, remote);
        if self.sessions.refuses_v1(remote) {
            self.sessions.on_v1_refused(pair);
            self.sessions.on_stray(pair, hint, body_len, peer, self.now);
            self.stats.drop_v1_refused += 1;
            return;
        }
        let Some((sealed, nonce)) = split_v1_body(body) else {
            self.stats.drop_body_too_short += 1;
            return;
        };
        let key = match self.keys.get(
            identity,
            &local.origin.secret,
            remote,
            &entry.public_key,
            Payer::Peer,
            self.now,
        ) {
            Ok(key) => key,
            Err(reason) => {
                self.count_no_key(reason);
                return;
            }
        };
        let Ok(plaintext) = key.key.open(nonce, &[], sealed) else {
            self.stats.drop_authentication += 1;
            self.sessions.on_stray(pair, hint, body_len, peer, self.now);
            return;
        };
        key.mark_used();
        let hinted = !self.sessions.is_off() && user_data::has_hint(plaintext);
        let public_key = entry.public_key;
        let route = Route {
            next_hop: entry.next_hop,
            direct: entry.direct,
        };
        entry.mark_used();
        self.count_traffic(header.source, header.destination, header.packet_len());
        match user_data::parse(plaintext) {
            Ok((UserDataType::Packet, packet)) => {
                // A packet of ours that is reflected would hint as well, but is not delivered.
                if self.deliver(identity, header, route, packet, ports) && hinted {
                    self.sessions.on_v1_hint(pair, &public_key, self.now);
                }
            }
            Ok((UserDataType::OutOfBandIcmp, notice)) => {
                self.deliver_notice(identity, header, notice, ports)
            }
            Ok((UserDataType::Message, _)) => self.stats.drop_message += 1,
            Err(UserDataError::Version(_) | UserDataError::Truncated) => {
                self.stats.drop_user_data_version += 1
            }
            Err(UserDataError::Type(_)) => self.stats.drop_user_data_type += 1,
        }
    }

    /// Take a handshake or a packet of a session. False: it is neither.
    #[inline]
    fn inbound_v2(
        &mut self,
        peer: PeerId,
        identity: IdentityId,
        header: &DataHeader,
        frame: &mut [u8],
        ports: &mut impl Ports,
    ) -> bool {
        let body = frame.get_mut(BODY_OFFSET..).unwrap_or_default();
        let Some((index, unit)) = body.split_first_chunk() else {
            return false;
        };
        let (source, destination) = (header.source, header.destination);
        let index = u32::from_be_bytes(*index);
        if index == 0 {
            let is_unit =
                self.sessions
                    .on_unit(identity, source, destination, unit, peer, self.now);
            self.stats.handshakes_received += u64::from(is_unit);
            return is_unit;
        }
        let pair = (identity, Subnet::containing(source));
        let opened = self
            .sessions
            .open(index, pair, source, destination, body, self.now);
        match opened {
            Some(Ok(opened)) => self.opened(peer, identity, header, index, opened, ports),
            Some(Err(_)) => self.stats.drop_session += 1,
            None => return false,
        }
        true
    }

    /// Hand an opened packet to the host, whose answers go by `route`; whether it got it.
    fn deliver(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        route: Route,
        packet: &mut [u8],
        ports: &mut impl Ports,
    ) -> bool {
        let Ok(view) = Ipv6Packet::parse(packet) else {
            self.stats.drop_inner_malformed += 1;
            return false;
        };
        if Subnet::containing(view.source()) != Subnet::containing(header.source) {
            self.stats.drop_inner_source += 1;
            return false;
        }
        if Subnet::containing(view.destination()) != Subnet::containing(header.destination) {
            self.stats.drop_inner_destination += 1;
            return false;
        }
        let len = view.len();
        let packet = &mut packet[..len];
        if tcp_mss::is_opening(packet) {
            let limit = self.v1_segment_limit(route, ports);
            self.stats.mss_clamped += u64::from(tcp_mss::clamp(packet, limit));
        }
        ipv6::set_hop_limit(packet, (header.hop_limit - 1).max(1));
        let Some(slot) = ports.host_slot(identity, len) else {
            self.stats.drop_host_full += 1;
            return false;
        };
        slot.copy_from_slice(packet);
        ports.commit_host(identity);
        self.stats.delivered_remote += 1;
        true
    }
}
