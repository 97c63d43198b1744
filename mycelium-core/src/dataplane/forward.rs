//! Hot path: see docs/architecture.md#hot-path. Peer to peer, and where a packet of a peer goes (wire spec §6.4).

use crate::addr::{self, Subnet};
use crate::fib::Lookup;
use crate::io::PeerId;
use crate::wire::data::{BODY_OFFSET, DataHeader};
use crate::wire::icmpv6::IcmpError;

use super::pending::Arrival;
use super::{DataPlane, Ports, Waiting};

impl DataPlane {
    /// Route one data packet of a peer: forward it, deliver it or park it.
    pub(super) fn route(&mut self, peer: PeerId, frame: &mut [u8], ports: &mut impl Ports) {
        let Ok(header) = DataHeader::parse(frame) else {
            self.stats.drop_peer_malformed += 1;
            return;
        };
        if !addr::is_overlay(header.source) || !addr::is_overlay(header.destination) {
            self.stats.drop_foreign_address += 1;
            return;
        }
        let frame = &mut frame[..header.packet_len()];
        let subnet = Subnet::containing(header.destination);
        let entry = match self.fib.fib().lookup(subnet) {
            Lookup::Local(origin) => {
                let identity = origin.id;
                self.inbound(peer, identity, &header, frame, ports);
                return;
            }
            Lookup::Remote(entry) => Some(entry),
            Lookup::Unknown => None,
        };
        if header.hop_limit < 2 {
            self.stats.drop_hop_limit += 1;
            self.notify_source(IcmpError::HopLimitExceeded, frame, ports);
            return;
        }
        let Some(entry) = entry else {
            self.park(Waiting::Transit, subnet, Arrival::Peer(peer), frame, ports);
            return;
        };
        if entry.next_hop == peer {
            self.stats.drop_return_to_sender += 1;
            return;
        }
        entry.mark_used();
        let Some(slot) = ports.peer_slot(entry.next_hop, frame.len()) else {
            self.stats.drop_peer_full += 1;
            return;
        };
        let (Some((head, rest)), Some(body)) = (
            slot.split_first_chunk_mut::<BODY_OFFSET>(),
            frame.get(BODY_OFFSET..),
        ) else {
            self.stats.drop_peer_full += 1;
            return;
        };
        // Written anew, so no reserved bit of the sender travels on.
        DataHeader {
            hop_limit: header.hop_limit - 1,
            ..header
        }
        .write(head);
        rest.copy_from_slice(body);
        ports.commit_peer(entry.next_hop);
        self.stats.forwarded += 1;
        self.count_traffic(header.source, header.destination, frame.len());
    }
}
