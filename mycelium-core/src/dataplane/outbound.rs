//! Hot path: see docs/architecture.md#hot-path. Host to peer: check, look up, seal into the peer's buffer (wire spec §6.3).

use rand_chacha::rand_core::Rng;

use crate::addr::{self, Subnet};
use crate::crypto::aead::{AeadKey, NONCE_LEN};
use crate::fib::Lookup;
use crate::io::IdentityId;
use crate::wire::data::{BODY_OFFSET, DataHeader, V1_OVERHEAD};
use crate::wire::icmpv6::IcmpError;
use crate::wire::ipv6::{self, Ipv6Packet};
use crate::wire::tcp_mss;
use crate::wire::user_data::UserDataType;

use crate::session::path::Route;
use crate::session::table::{RemoteHint, Way};

use super::keys::{NoKey, Payer};
use super::pending::Arrival;
use super::sealed::Outgoing;
use super::{DataPlane, Ports, Waiting};

/// Write a v1 data packet to `slot`, and seal it; `write` fills in the packet of the host. False if there is no room.
#[inline]
pub(super) fn write_v1(
    slot: &mut [u8],
    header: &DataHeader,
    hints: bool,
    key: &AeadKey,
    nonce: [u8; NONCE_LEN],
    write: impl FnOnce(&mut [u8]),
) -> bool {
    let Some((head, body)) = slot.split_first_chunk_mut::<BODY_OFFSET>() else {
        return false;
    };
    header.write(head);
    let Some((rest, nonce_field)) = body.split_last_chunk_mut() else {
        return false;
    };
    let Some((plaintext, tag_field)) = rest.split_last_chunk_mut() else {
        return false;
    };
    let Some((kind, packet)) = plaintext.split_first_chunk_mut() else {
        return false;
    };
    *kind = match hints {
        false => UserDataType::Packet.header(),
        true => UserDataType::Packet.header_with_hint(),
    };
    write(packet);
    *tag_field = key.seal(nonce, &[], plaintext);
    *nonce_field = nonce;
    true
}

impl DataPlane {
    pub(super) fn outbound(
        &mut self,
        identity: IdentityId,
        packet: &mut [u8],
        ports: &mut impl Ports,
    ) {
        let Ok(view) = Ipv6Packet::parse(packet) else {
            self.stats.drop_host_malformed += 1;
            return;
        };
        let (source, destination) = (view.source(), view.destination());
        let (hop_limit, len) = (view.hop_limit(), view.len());
        let Some(local) = self.identities.get(identity) else {
            self.stats.drop_unknown_identity += 1;
            return;
        };
        let own_subnet = local.origin.subnet;
        let subnet = Subnet::containing(destination);
        let packet = &mut packet[..len];

        let refusal = if destination.is_multicast()
            || ipv6::is_link_local(destination)
            || source.is_unspecified()
            || source.is_multicast()
            || ipv6::is_link_local(source)
        {
            self.stats.drop_not_routable += 1;
            return;
        } else if !own_subnet.contains(source) {
            self.stats.drop_source_policy += 1;
            Some(IcmpError::SourcePolicy)
        } else if !addr::is_overlay(destination) {
            self.stats.drop_not_overlay += 1;
            Some(IcmpError::NoRoute)
        } else if own_subnet == subnet {
            self.stats.drop_address_unreachable += 1;
            Some(IcmpError::AddressUnreachable)
        } else if hop_limit < 2 {
            self.stats.drop_hop_limit += 1;
            Some(IcmpError::HopLimitExceeded)
        } else if len > usize::from(self.config.mtu) {
            self.stats.drop_too_big += 1;
            Some(IcmpError::TooBig(u32::from(self.config.mtu)))
        } else {
            None
        };
        if let Some(error) = refusal {
            self.host_error(identity, error, packet, ports);
            return;
        }

        let entry = match self.fib.fib().lookup(subnet) {
            Lookup::Remote(entry) => entry,
            Lookup::Local(origin) => {
                let to = origin.id;
                self.hand_over(to, packet, hop_limit - 1, ports);
                self.count_traffic(source, destination, len);
                return;
            }
            Lookup::Unknown => {
                self.park(
                    Waiting::Host,
                    subnet,
                    Arrival::Host(identity),
                    packet,
                    ports,
                );
                return;
            }
        };
        if !self.sessions.is_off() {
            let hint = RemoteHint {
                key: &entry.public_key,
                speaks_v2: entry.speaks_v2,
            };
            match self.sessions.way((identity, subnet), hint, self.now) {
                Way::V1 => {}
                Way::V2(slot) => {
                    entry.mark_used();
                    let route = Route {
                        next_hop: entry.next_hop,
                        direct: entry.direct,
                    };
                    let out = Outgoing {
                        identity,
                        source,
                        destination,
                        hop_limit: hop_limit - 1,
                    };
                    self.send_on_session(slot, route, out, packet, ports);
                    return;
                }
                Way::Wait => {
                    entry.mark_used();
                    self.park_for_session(identity, ports.is_sparse(), subnet, packet);
                    return;
                }
                Way::Full => {
                    self.stats.drop_no_session += 1;
                    self.host_error(identity, IcmpError::NoRoute, packet, ports);
                    return;
                }
                Way::Conflict => {
                    self.stats.drop_key_conflict += 1;
                    self.host_error(identity, IcmpError::NoRoute, packet, ports);
                    return;
                }
            }
        }
        if tcp_mss::is_opening(packet) {
            let route = Route {
                next_hop: entry.next_hop,
                direct: entry.direct,
            };
            let limit = self.v1_segment_limit(route, ports);
            self.stats.mss_clamped += u64::from(tcp_mss::clamp(packet, limit));
        }
        let key = match self.keys.get(
            identity,
            &local.origin.secret,
            subnet,
            &entry.public_key,
            Payer::Host,
            self.now,
        ) {
            Ok(key) => key,
            Err(reason) => {
                self.count_no_key(reason);
                return;
            }
        };
        entry.mark_used();
        let Some(body_len) = u16::try_from(len + V1_OVERHEAD).ok() else {
            self.stats.drop_too_big += 1;
            return;
        };
        let header = DataHeader {
            body_len,
            hop_limit: hop_limit - 1,
            source,
            destination,
        };
        let wire_len = header.packet_len();
        let Some(slot) = ports.peer_slot(entry.next_hop, wire_len) else {
            self.stats.drop_peer_full += 1;
            return;
        };
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        let hints = !self.sessions.is_off();
        if !write_v1(slot, &header, hints, key.key, nonce, |room| {
            room.copy_from_slice(packet);
        }) {
            self.stats.drop_peer_full += 1;
            return;
        }
        key.mark_used();
        ports.commit_peer(entry.next_hop);
        self.stats.sent += 1;
        self.count_traffic(source, destination, wire_len);
    }

    /// Give a packet of one identity to another identity of this node: in the clear, it never leaves.
    fn hand_over(&mut self, to: IdentityId, packet: &[u8], hop_limit: u8, ports: &mut impl Ports) {
        let Some(slot) = ports.host_slot(to, packet.len()) else {
            self.stats.drop_host_full += 1;
            return;
        };
        slot.copy_from_slice(packet);
        ipv6::set_hop_limit(slot, hop_limit);
        ports.commit_host(to);
        self.stats.delivered_local += 1;
    }

    pub(super) fn count_no_key(&mut self, reason: NoKey) {
        match reason {
            NoKey::Budget => self.stats.drop_agreement_budget += 1,
            NoKey::LowOrder => self.stats.drop_low_order_key += 1,
        }
    }
}
