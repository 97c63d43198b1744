//! Hot path: see docs/architecture.md#hot-path. TCP super-packets of segmentation offload as one sealed unit, between ends of
//! one stream link (docs/protocol.md §14): one AEAD call for 61 kB instead of 46.
//!
//! The kernel that gets such a packet believes what it is told of it, so nothing it is told comes from the wire unchecked.

use crate::io::IdentityId;
use crate::session::stub::{self, Stub};
use crate::session::transport::OVERHEAD;
use crate::wire::checksum;
use crate::wire::data::{BODY_OFFSET, DataHeader};
use crate::wire::ipv6::{self, Ipv6Packet};

use super::partial::Ready;
use super::{DataPlane, Ports};

/// Longest packet, IPv6 header included.
const MAX_LEN: usize = 61_440;
/// Most segments.
const MAX_SEGMENTS: usize = 64;
/// Smallest payload of a segment.
const MIN_SEGMENT: u16 = 256;
/// The only protocol, by our number.
const TCP: u8 = 1;
const TCP_HEADER_LEN: usize = 20;
const TCP_FLAGS: usize = 13;
/// Urgent, reset, synchronise.
const UNFIT_FLAGS: u8 = 0x26;

/// What the kernel must know of a super-packet to cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Payload bytes of each segment.
    pub segment: u16,
    /// Bytes of the IPv6 and TCP headers.
    pub header_len: u16,
}

impl Segmentation {
    /// How `packet`, an IPv6 packet without extension headers, is cut into segments of `segment` bytes that fit `mtu`. `None` if
    /// it must not be cut, or not like this.
    pub fn of(packet: &[u8], segment: u16, mtu: u16) -> Option<Self> {
        let view = Ipv6Packet::parse(packet).ok()?;
        let tcp = view.payload();
        let header_len = usize::from(tcp.get(12)? >> 4) * 4;
        let total_header = ipv6::HEADER_LEN + header_len;
        let data = tcp.len().checked_sub(header_len)?;
        let fits = view.len() == packet.len()
            && packet.len() <= MAX_LEN
            && view.next_header() == ipv6::TCP
            && header_len >= TCP_HEADER_LEN
            && tcp.get(TCP_FLAGS)? & UNFIT_FLAGS == 0
            && segment >= MIN_SEGMENT
            && total_header + usize::from(segment) <= usize::from(mtu)
            && data > usize::from(segment)
            && data <= usize::from(segment) * MAX_SEGMENTS;
        fits.then_some(Self {
            segment,
            header_len: u16::try_from(total_header).ok()?,
        })
    }
}

impl DataPlane {
    /// Send a super-packet as it is. False: it must be cut first.
    pub(super) fn try_whole(
        &mut self,
        ready: &Ready<'_>,
        slot: usize,
        segment: u16,
        ports: &mut impl Ports,
    ) -> bool {
        let Ready {
            route,
            out,
            packet,
            start,
            rest,
            ..
        } = *ready;
        let len = stub::LEN + rest.len();
        let Ok(number) = u16::try_from(len) else {
            return false;
        };
        if !route.direct
            || !ports.carries_whole(route.next_hop)
            || Segmentation::of(packet, segment, self.config.mtu).is_none()
        {
            return false;
        }
        let stub = Stub::of_whole(segment, TCP, number);
        let wire_len = BODY_OFFSET + OVERHEAD + stub::LEN + len;
        let parts: [&[u8]; 3] = [&stub, start, rest];
        if self.seal(slot, route.next_hop, out, &parts, wire_len, ports) {
            self.sessions.on_sent(slot, 1, self.now);
            self.stats.sent += 1;
            self.stats.sent_whole += 1;
        }
        true
    }

    /// Hand a super-packet to the host. False: it is none that the kernel may get.
    pub(super) fn deliver_whole(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        hop_limit: u8,
        stub: &Stub,
        payload: &[u8],
        ports: &mut impl Ports,
    ) -> bool {
        let Some((start, rest)) = payload.split_first_chunk::<{ stub::LEN }>() else {
            return false;
        };
        let (segment, protocol) = stub.segmentation();
        let len = ipv6::HEADER_LEN + rest.len();
        if protocol != TCP || len > MAX_LEN {
            return false;
        }
        let Some(slot) = ports.host_slot_whole(identity, len) else {
            self.stats.drop_host_full += 1;
            return true;
        };
        slot[..stub::LEN].copy_from_slice(start);
        slot[7] = hop_limit;
        slot[8..24].copy_from_slice(&header.source.octets());
        slot[24..ipv6::HEADER_LEN].copy_from_slice(&header.destination.octets());
        slot[ipv6::HEADER_LEN..].copy_from_slice(rest);
        let Some(segmentation) = Segmentation::of(slot, segment, self.config.mtu) else {
            return false;
        };
        if !checksum::set_partial(slot) {
            return false;
        }
        ports.commit_host_whole(identity, segmentation);
        self.stats.delivered_remote += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(data: usize) -> Vec<u8> {
        let (source, destination) = ("400::1".parse().unwrap(), "500::2".parse().unwrap());
        let mut packet = vec![0; 40 + 20 + data];
        let len = u16::try_from(20 + data).unwrap();
        let header = packet.first_chunk_mut().unwrap();
        ipv6::write_header(header, len, ipv6::TCP, 64, source, destination);
        packet[40 + 12] = 5 << 4;
        packet[40 + TCP_FLAGS] = 0x18;
        packet
    }

    #[test]
    fn a_bulk_packet_is_cut_like_the_kernel_says() {
        let wanted = Segmentation {
            segment: 1340,
            header_len: 60,
        };
        assert_eq!(Segmentation::of(&packet(60_000), 1340, 1400), Some(wanted));
    }

    #[test]
    fn what_a_kernel_could_choke_on_is_no_super_packet() {
        let good = packet(5000);
        assert!(Segmentation::of(&good, 1340, 1400).is_some());
        for segment in [0, 1, 255, 1341, 5000, u16::MAX] {
            assert_eq!(Segmentation::of(&good, segment, 1400), None, "{segment}");
        }
        assert_eq!(Segmentation::of(&packet(61_400), 1340, 1400), None);
        assert_eq!(Segmentation::of(&packet(256 * 64 + 1), 256, 1400), None);
        assert_eq!(Segmentation::of(&good[..good.len() - 1], 1340, 1400), None);
        for (at, value) in [
            (6, 17),
            (52, 4 << 4),
            (52, 0xf0),
            (53, 0x02),
            (53, 0x04),
            (53, 0x20),
        ] {
            let mut bad = packet(1400);
            bad[at] = value;
            assert_eq!(Segmentation::of(&bad, 1380, 1400), None, "byte {at}");
        }
        for len in 0..60 {
            assert_eq!(Segmentation::of(&good[..len], 1340, 1400), None);
        }
    }
}
