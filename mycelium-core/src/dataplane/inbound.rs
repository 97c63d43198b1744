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
        let Some(local) = self.identities.get(identity) else {
            self.stats.drop_unknown_identity += 1;
            return;
        };
        let remote = Subnet::containing(header.source);
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
            return;
        };
        key.mark_used();
        entry.mark_used();
        self.count_traffic(header.source, header.destination, header.packet_len());
        match user_data::parse(plaintext) {
            Ok((UserDataType::Packet, packet)) => self.deliver(identity, header, packet, ports),
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

    /// Hand an opened packet to the host.
    fn deliver(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        packet: &mut [u8],
        ports: &mut impl Ports,
    ) {
        let Ok(view) = Ipv6Packet::parse(packet) else {
            self.stats.drop_inner_malformed += 1;
            return;
        };
        if Subnet::containing(view.source()) != Subnet::containing(header.source) {
            self.stats.drop_inner_source += 1;
            return;
        }
        if Subnet::containing(view.destination()) != Subnet::containing(header.destination) {
            self.stats.drop_inner_destination += 1;
            return;
        }
        let len = view.len();
        let packet = &mut packet[..len];
        self.stats.mss_clamped += u64::from(tcp_mss::clamp(packet, self.config.max_segment_size));
        ipv6::set_hop_limit(packet, (header.hop_limit - 1).max(1));
        let Some(slot) = ports.host_slot(identity, len) else {
            self.stats.drop_host_full += 1;
            return;
        };
        slot.copy_from_slice(packet);
        ports.commit_host(identity);
        self.stats.delivered_remote += 1;
    }
}
