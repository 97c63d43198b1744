//! Hot path: see docs/architecture.md#hot-path. TCP and UDP of hosts with offloads: checksums that cover the pseudo-header only,
//! and super-packets that are still to be cut (docs/protocol.md §14).
//!
//! On a session the tag of the packet stands for the rest of the checksum, so nobody computes one; v1 needs it. One look at
//! routes and keys serves all segments, which are cut straight into their buffers. Whatever is not so simple, the caller
//! makes ordinary packets of.
//!
//! Under v1 segments are also cut smaller than the connection agreed on where the way has become narrower since
//! (docs/adr/0010-tcp-mss.md): TCP counts bytes, not segments.

use rand_chacha::rand_core::Rng as _;

use crate::addr::{self, Subnet};
use crate::crypto::aead::NONCE_LEN;
use crate::fib::Lookup;
use crate::io::IdentityId;
use crate::session::path::{Fit, Route};
use crate::session::stub::{self, Stub};
use crate::session::table::{RemoteHint, Way};
use crate::wire::checksum;
use crate::wire::data::{DataHeader, V1_OVERHEAD};
use crate::wire::ipv6::{self, Ipv6Packet};
use crate::wire::tcp_mss;

use super::keys::Payer;
use super::outbound::write_v1;
use super::sealed::{ADDED, Outgoing, write_sealed};
use super::{DataPlane, Ports};

const TCP_HEADER_LEN: usize = 20;
const TCP_LONGEST_HEADER: usize = 60;
const TCP_SEQUENCE: std::ops::Range<usize> = 4..8;
const TCP_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
/// Congestion window reduced: on the first segment only.
const CWR: u8 = 0x80;
/// Push and finish: on the last segment only.
const PSH_FIN: u8 = 0x09;
/// Urgent, reset, synchronise: never on what is cut.
const UNFIT_FLAGS: u8 = 0x26;
const UDP_HEADER_LEN: usize = 8;
const UDP_LENGTH: std::ops::Range<usize> = 4..6;

/// A packet that may go, and where to.
#[derive(Clone, Copy)]
pub(super) struct Ready<'a> {
    /// Its session; `None`: v1.
    session: Option<usize>,
    pub(super) route: Route,
    pub(super) out: Outgoing,
    pub(super) packet: &'a [u8],
    /// The start of its IPv6 header.
    pub(super) start: &'a [u8; stub::LEN],
    /// What follows that header.
    pub(super) rest: &'a [u8],
}

/// How `rest` is cut.
struct Cut<'a> {
    header: &'a [u8],
    data: &'a [u8],
    protocol: u8,
    /// Bytes of data in each segment but the last.
    segment: usize,
}

impl<'a> Cut<'a> {
    /// `None`: not to be cut like this.
    fn of(protocol: u8, rest: &'a [u8], segment: Option<u16>) -> Option<Self> {
        let header_len = match protocol {
            ipv6::TCP => {
                let len = usize::from(*rest.get(TCP_OFFSET)? >> 4) * 4;
                let is_plain = segment.is_none() || rest.get(TCP_FLAGS)? & UNFIT_FLAGS == 0;
                (is_plain && len >= TCP_HEADER_LEN).then_some(len)?
            }
            ipv6::UDP => UDP_HEADER_LEN,
            _ => return None,
        };
        let (header, data) = rest.split_at_checked(header_len)?;
        let segment = segment.map_or(data.len(), usize::from);
        (segment > 0 || data.is_empty()).then_some(Self {
            header,
            data,
            protocol,
            segment,
        })
    }

    fn segments(&self) -> usize {
        match self.data.len() {
            0 => 1,
            len => len.div_ceil(self.segment),
        }
    }

    /// Data of segment `number`, and its header, written to `room`.
    fn get<'r>(
        &self,
        number: usize,
        room: &'r mut [u8; TCP_LONGEST_HEADER],
    ) -> (&'r [u8], &'a [u8]) {
        let at = (number * self.segment).min(self.data.len());
        let end = (at + self.segment).min(self.data.len());
        let data = &self.data[at..end];
        let header = &mut room[..self.header.len()];
        header.copy_from_slice(self.header);
        match self.protocol {
            ipv6::TCP => {
                if let [a, b, c, d] = header[TCP_SEQUENCE] {
                    #[expect(clippy::cast_possible_truncation, reason = "less than 64 KiB")]
                    let sequence = u32::from_be_bytes([a, b, c, d]).wrapping_add(at as u32);
                    header[TCP_SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
                }
                if number > 0 {
                    header[TCP_FLAGS] &= !CWR;
                }
                if end < self.data.len() {
                    header[TCP_FLAGS] &= !PSH_FIN;
                }
            }
            _ => {
                let len = u16::try_from(UDP_HEADER_LEN + data.len()).unwrap_or(u16::MAX);
                header[UDP_LENGTH].copy_from_slice(&len.to_be_bytes());
            }
        }
        (header, data)
    }
}

/// How many bytes of data each segment of `rest` may have where TCP's segments are at most `limit` bytes, options included.
fn narrowed(protocol: u8, rest: &[u8], segment: Option<u16>, limit: u16) -> Option<u16> {
    let offset = match protocol {
        ipv6::TCP => rest.get(TCP_OFFSET)?,
        _ => return segment,
    };
    let header_len = usize::from(*offset >> 4) * 4;
    let data = rest.len().saturating_sub(header_len);
    let most = (usize::from(limit) + TCP_HEADER_LEN).saturating_sub(header_len);
    match segment.map_or(data, usize::from) > most {
        true => u16::try_from(most).ok(),
        false => segment,
    }
}

impl DataPlane {
    /// Handle a TCP or UDP packet of a host, without extension headers, whose checksum is that of the pseudo-header; with
    /// `segment`, a super-packet that is to be cut into as many bytes of data each (`VIRTIO_NET_HDR_GSO_TCPV6`, `_UDP_L4`).
    ///
    /// `false`: nothing was done with it. It must be completed, or cut, and given to [`from_host`](Self::from_host).
    pub fn from_host_partial(
        &mut self,
        identity: IdentityId,
        packet: &[u8],
        segment: Option<u16>,
        ports: &mut impl Ports,
    ) -> bool {
        let Some(ready) = self.ready(identity, packet) else {
            return false;
        };
        let sent = match ready.session {
            Some(slot) => {
                segment.is_some_and(|segment| self.try_whole(&ready, slot, segment, ports))
                    || self.try_cut(&ready, slot, segment, ports).is_some()
            }
            None => self.try_cut_v1(&ready, segment, ports).is_some(),
        };
        if sent {
            self.stats.host_packets += 1;
            self.stats.host_bytes += packet.len() as u64;
        }
        self.run_sessions(ports);
        sent
    }

    /// `None`: there is something to say about it, or no session yet.
    fn ready<'a>(&mut self, identity: IdentityId, packet: &'a [u8]) -> Option<Ready<'a>> {
        let view = Ipv6Packet::parse(packet).ok()?;
        let (source, destination) = (view.source(), view.destination());
        let local = self.identities.get(identity)?;
        let subnet = Subnet::containing(destination);
        if view.len() != packet.len()
            || !local.origin.subnet.contains(source)
            || !addr::is_overlay(destination)
            || destination.is_multicast()
            || view.hop_limit() < 2
        {
            return None;
        }
        let Lookup::Remote(entry) = self.fib.fib().lookup(subnet) else {
            return None;
        };
        let hint = RemoteHint {
            key: &entry.public_key,
            speaks_v2: entry.speaks_v2,
        };
        let session = match self.sessions.way((identity, subnet), hint, self.now) {
            Way::V2(slot) => Some(slot),
            Way::V1 => None,
            Way::Wait | Way::Full | Way::Conflict => return None,
        };
        entry.mark_used();
        let (header, rest) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        Some(Ready {
            session,
            route: Route {
                next_hop: entry.next_hop,
                direct: entry.direct,
            },
            out: Outgoing {
                identity,
                source,
                destination,
                hop_limit: view.hop_limit() - 1,
            },
            packet,
            start: header.first_chunk()?,
            rest,
        })
    }

    fn try_cut(
        &mut self,
        ready: &Ready<'_>,
        slot: usize,
        segment: Option<u16>,
        ports: &mut impl Ports,
    ) -> Option<()> {
        let Ready {
            route, out, start, ..
        } = *ready;
        let (cut, longest) = self.cut(ready, segment)?;
        let fit = self
            .sessions
            .fit(slot, route, longest, longest + ADDED, self.now);
        if fit != Fit::Whole {
            return None;
        }
        let (remote, position) = self.sessions.outgoing(slot, self.now)?;
        let sender = &mut remote.sessions.get_mut(position)?.sender;
        let segments = cut.segments();
        let (mut sent, mut bytes) = (0, 0);
        let mut room = [0; TCP_LONGEST_HEADER];
        for number in 0..segments {
            let (header, data) = cut.get(number, &mut room);
            let len = header.len() + data.len();
            let stub = Stub::of_partial(start, u16::try_from(len).ok()?);
            let wire_len = ipv6::HEADER_LEN + len + ADDED;
            let Some(buffer) = ports.peer_slot(route.next_hop, wire_len) else {
                self.stats.drop_peer_full += (segments - number) as u64;
                break;
            };
            if !write_sealed(sender, out, &[&stub, header, data], buffer) {
                self.stats.drop_no_session += (segments - number) as u64;
                break;
            }
            ports.commit_peer_session(route.next_hop);
            sent += 1;
            bytes += wire_len;
        }
        if sent > 0 {
            self.sessions.on_sent(slot, sent as u64, self.now);
            self.stats.sent += sent as u64;
            self.count_packets(out.source, out.destination, sent, bytes);
        }
        Some(())
    }

    fn cut<'a>(&self, ready: &Ready<'a>, segment: Option<u16>) -> Option<(Cut<'a>, usize)> {
        let cut = Cut::of(ready.start[6], ready.rest, segment)?;
        let longest = ipv6::HEADER_LEN + cut.header.len() + cut.segment.min(cut.data.len());
        (longest <= usize::from(self.config.mtu)).then_some((cut, longest))
    }

    /// As v1, where every packet needs its checksum.
    fn try_cut_v1(
        &mut self,
        ready: &Ready<'_>,
        segment: Option<u16>,
        ports: &mut impl Ports,
    ) -> Option<()> {
        let Ready {
            route, out, packet, ..
        } = *ready;
        let limit = self.v1_segment_limit(route, ports);
        let segment = narrowed(ready.start[6], ready.rest, segment, limit);
        let (cut, _) = self.cut(ready, segment)?;
        let local = self.identities.get(out.identity)?;
        let subnet = Subnet::containing(out.destination);
        let Lookup::Remote(entry) = self.fib.fib().lookup(subnet) else {
            return None;
        };
        let key = self.keys.get(
            out.identity,
            &local.origin.secret,
            subnet,
            &entry.public_key,
            Payer::Host,
            self.now,
        );
        let key = key.ok()?;
        let hints = !self.sessions.is_off();
        let ip = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let opens = tcp_mss::is_opening(packet);
        let segments = cut.segments();
        let (mut sent, mut bytes) = (0, 0);
        let mut room = [0; TCP_LONGEST_HEADER];
        for number in 0..segments {
            let (upper, data) = cut.get(number, &mut room);
            let payload = u16::try_from(upper.len() + data.len()).ok()?;
            let len = ipv6::HEADER_LEN + usize::from(payload);
            let header = DataHeader {
                body_len: u16::try_from(len + V1_OVERHEAD).ok()?,
                hop_limit: out.hop_limit,
                source: out.source,
                destination: out.destination,
            };
            let wire_len = header.packet_len();
            let Some(buffer) = ports.peer_slot(route.next_hop, wire_len) else {
                self.stats.drop_peer_full += (segments - number) as u64;
                break;
            };
            let mut nonce = [0; NONCE_LEN];
            self.rng.fill_bytes(&mut nonce);
            let clamped = &mut self.stats.mss_clamped;
            write_v1(buffer, &header, hints, key.key, nonce, |room| {
                let (front, rest) = room.split_at_mut(ipv6::HEADER_LEN);
                front.copy_from_slice(ip);
                front[4..6].copy_from_slice(&payload.to_be_bytes());
                let (front, rest) = rest.split_at_mut(upper.len());
                front.copy_from_slice(upper);
                rest.copy_from_slice(data);
                checksum::set_whole(room);
                if opens {
                    *clamped += u64::from(tcp_mss::clamp(room, limit));
                }
            });
            ports.commit_peer(route.next_hop);
            sent += 1;
            bytes += wire_len;
        }
        if sent > 0 {
            key.mark_used();
            self.stats.sent += sent as u64;
            self.count_packets(out.source, out.destination, sent, bytes);
        }
        Some(())
    }

    /// Hand a packet to the host that may complete its checksum itself. False: it has none.
    pub(super) fn deliver_partial(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        hop_limit: u8,
        stub: &Stub,
        payload: &[u8],
        ports: &mut impl Ports,
    ) -> bool {
        let Some(slot) = ports.host_slot(identity, ipv6::HEADER_LEN + payload.len()) else {
            self.stats.drop_host_full += 1;
            return true;
        };
        if !stub.restore(slot, hop_limit, header.source, header.destination) {
            return false;
        }
        slot[ipv6::HEADER_LEN..].copy_from_slice(payload);
        if !checksum::set_partial(slot) {
            return false;
        }
        ports.commit_host_partial(identity);
        self.stats.delivered_remote += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the segments are, as a kernel without offloads would have made them.
    fn segments(protocol: u8, rest: &[u8], segment: u16) -> Vec<Vec<u8>> {
        let cut = Cut::of(protocol, rest, Some(segment)).unwrap();
        let mut room = [0; TCP_LONGEST_HEADER];
        (0..cut.segments())
            .map(|number| {
                let (header, data) = cut.get(number, &mut room);
                [header, data].concat()
            })
            .collect()
    }

    #[test]
    fn tcp_is_cut_with_growing_sequence_numbers_and_flags_where_they_belong() {
        let mut rest = vec![0; 32 + 2500];
        rest[4..8].copy_from_slice(&(u32::MAX - 999).to_be_bytes());
        rest[12] = 8 << 4;
        rest[13] = 0x10 | CWR | PSH_FIN;
        for (at, byte) in rest[32..].iter_mut().enumerate() {
            *byte = u8::try_from(at % 251).unwrap();
        }
        let cut = segments(ipv6::TCP, &rest, 1000);
        let lengths: Vec<_> = cut.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1032, 1032, 532]);
        let data: Vec<u8> = cut.iter().flat_map(|s| s[32..].to_vec()).collect();
        assert_eq!(data, rest[32..]);
        let sequences: Vec<_> = cut
            .iter()
            .map(|s| u32::from_be_bytes(s[4..8].try_into().unwrap()))
            .collect();
        assert_eq!(sequences, [u32::MAX - 999, 0, 1000]);
        let flags: Vec<_> = cut.iter().map(|s| s[13]).collect();
        assert_eq!(flags, [0x10 | CWR, 0x10, 0x10 | PSH_FIN]);
    }

    #[test]
    fn udp_is_cut_with_its_length() {
        let mut rest = vec![7; 8 + 2001];
        rest[4..6].copy_from_slice(&2009_u16.to_be_bytes());
        let cut = segments(ipv6::UDP, &rest, 1000);
        let lengths: Vec<_> = cut.iter().map(|s| (s.len(), s[4], s[5])).collect();
        assert_eq!(lengths, [(1008, 3, 240), (1008, 3, 240), (9, 0, 9)]);
    }

    #[test]
    fn segments_are_narrowed_to_what_the_way_carries() {
        let mut rest = vec![0; 32 + 2500];
        rest[12] = 8 << 4;
        for (segment, limit, wanted) in [
            (Some(1328), 1030, Some(1018)),
            (Some(1328), u16::MAX, Some(1328)),
            (Some(1018), 1030, Some(1018)),
            (None, 1030, Some(1018)),
            (None, u16::MAX, None),
        ] {
            let narrowed = narrowed(ipv6::TCP, &rest, segment, limit);
            assert_eq!(narrowed, wanted, "{segment:?} {limit}");
        }
        rest.truncate(32 + 1018);
        assert_eq!(narrowed(ipv6::TCP, &rest, None, 1030), None);
        assert_eq!(narrowed(ipv6::UDP, &rest, Some(1300), 1030), Some(1300));
        assert_eq!(narrowed(ipv6::TCP, &rest[..12], Some(1300), 1030), None);
    }

    #[test]
    fn what_is_not_to_be_cut_is_left_alone() {
        let mut tcp = vec![0; 20 + 100];
        tcp[12] = 5 << 4;
        assert!(Cut::of(ipv6::TCP, &tcp, Some(50)).is_some());
        assert!(Cut::of(ipv6::TCP, &tcp, Some(0)).is_none());
        assert!(Cut::of(ipv6::ICMPV6, &tcp, None).is_none());
        for (at, value) in [(12, 4 << 4), (12, 0xf0), (13, 0x02), (13, 0x04), (13, 0x20)] {
            let mut bad = tcp.clone();
            bad.truncate(40);
            bad[at] = value;
            assert!(Cut::of(ipv6::TCP, &bad, Some(10)).is_none(), "{at} {value}");
        }
        tcp[13] = 0x02;
        assert!(
            Cut::of(ipv6::TCP, &tcp, None).is_some(),
            "one packet may synchronise"
        );
        for len in 0..8 {
            assert!(Cut::of(ipv6::UDP, &tcp[..len], None).is_none());
        }
        assert_eq!(Cut::of(ipv6::UDP, &tcp[..8], None).unwrap().segments(), 1);
    }
}
