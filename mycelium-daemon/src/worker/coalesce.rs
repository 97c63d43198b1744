//! Generic receive offload: what one batch has for hosts, with neighbouring segments of a flow joined to super-packets.
//!
//! Packets lie one behind another in one buffer and stay where they are: a super-packet is the first one's headers and
//! everybody's data, gathered by one write. The order within a flow is that of arrival: a packet joins the youngest run of
//! its flow or begins a younger one, and runs are written in the order in which they began.

use std::io::{self, IoSlice};

use mycelium_core::dataplane::Segmentation;
use mycelium_core::io::IdentityId;
use mycelium_core::wire::checksum;
use mycelium_core::wire::ipv6::{self, Ipv6Packet};
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::offload::{self, GSO_TCP, GSO_UDP};

/// Bytes of a batch, offload headers included.
const CAPACITY: usize = 256 << 10;
/// Runs, from the youngest on, that are looked at for a packet's flow.
const OPEN_RUNS: usize = 16;
/// Segments of a super-packet.
const MAX_SEGMENTS: usize = 64;
/// Bytes of a super-packet.
const MAX_LEN: usize = 65_535;
/// What a kernel cuts into smaller pieces is not worth it.
const MIN_SEGMENT: usize = 16;
const UDP_HEADER_LEN: usize = 8;
const TCP_HEADER_LEN: usize = 20;
/// In a TCP header: sequence number, flags.
const TCP_SEQUENCE: usize = ipv6::HEADER_LEN + 4;
const TCP_OFFSET: usize = ipv6::HEADER_LEN + 12;
const TCP_FLAGS: usize = ipv6::HEADER_LEN + 13;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// The packets of a batch.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    bytes: Vec<u8>,
    used: usize,
    /// The last slot, until it is committed.
    slot: usize,
    packets: Vec<Packet>,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Packet {
    /// Where it lies, behind room for an offload header.
    at: usize,
    len: usize,
    /// The next one of its run.
    next: Option<usize>,
}

/// One packet, or several that will be one.
#[derive(Debug)]
struct Run {
    host: IdentityId,
    first: usize,
    last: usize,
    segments: usize,
    /// Bytes, headers once.
    len: usize,
    /// What its packets have in common. `None`: nothing joins it.
    flow: Option<Flow>,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Complete, as far as we know.
    Whole,
    /// Its checksum is that of the pseudo-header.
    Partial,
    /// A super-packet already.
    Super(Segmentation),
}

/// What of a packet decides where it may be joined.
#[derive(Clone, Copy, Debug)]
struct Flow {
    protocol: u8,
    header_len: usize,
    /// Bytes of data of the first packet: nobody's are more, and whoever has less is the last.
    segment: usize,
    /// The sequence number that follows.
    next_sequence: u32,
    pushed: bool,
}

impl Flow {
    fn of(packet: &[u8], joins_udp: bool) -> Option<Self> {
        let view = Ipv6Packet::parse(packet).ok()?;
        if view.len() != packet.len() {
            return None;
        }
        let payload = view.payload();
        let (header_len, next_sequence, pushed) = match view.next_header() {
            ipv6::TCP => {
                let header_len = usize::from(*packet.get(TCP_OFFSET)? >> 4) * 4;
                let flags = *packet.get(TCP_FLAGS)?;
                if header_len < TCP_HEADER_LEN || flags & !PSH != ACK {
                    return None;
                }
                let sequence = u32::from_be_bytes(*packet.get(TCP_SEQUENCE..)?.first_chunk()?);
                (header_len, sequence, flags & PSH != 0)
            }
            ipv6::UDP if joins_udp => (UDP_HEADER_LEN, 0, false),
            _ => return None,
        };
        let segment = payload.len().checked_sub(header_len)?;
        (segment >= MIN_SEGMENT).then_some(Self {
            protocol: view.next_header(),
            header_len: ipv6::HEADER_LEN + header_len,
            segment,
            next_sequence: next_sequence.wrapping_add(u32::try_from(segment).ok()?),
            pushed,
        })
    }
}

/// Whether two packets of one protocol and length of headers differ in nothing but length, sequence number, checksum and PSH.
fn is_same_flow(protocol: u8, header_len: usize, first: &[u8], other: &[u8]) -> bool {
    let (Some(first), Some(other)) = (first.get(..header_len), other.get(..header_len)) else {
        return false;
    };
    let same = |range: std::ops::Range<usize>| first.get(range.clone()) == other.get(range);
    let ip = same(0..4) && same(6..ipv6::HEADER_LEN);
    match protocol {
        // Ports; acknowledgement and offset; window; urgent pointer and options.
        ipv6::TCP => ip && same(40..44) && same(48..53) && same(54..56) && same(58..header_len),
        _ => ip && same(40..44),
    }
}

impl Coalescer {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Space for one packet; `None`: the batch is full, [`drain`](Self::drain) it.
    pub(crate) fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; CAPACITY];
        }
        self.slot = len;
        let at = self.used + VIRTIO_NET_HDR_LEN;
        self.bytes.get_mut(at..at + len)
    }

    /// Take what was written to the last slot. `joins_udp`: the host takes UDP super-packets.
    pub(crate) fn commit(&mut self, host: IdentityId, is_partial: bool, joins_udp: bool) {
        let (at, len) = (self.used + VIRTIO_NET_HDR_LEN, self.slot);
        let Some(packet) = self.bytes.get(at..at + len) else {
            return;
        };
        let flow = Flow::of(packet, joins_udp);
        let shape = match is_partial {
            true => Shape::Partial,
            false => Shape::Whole,
        };
        self.used = at + len;
        if let Some(flow) = flow
            && self.join(host, flow, shape, at, len)
        {
            return;
        }
        self.begin(host, flow, shape, at, len);
    }

    /// Take a super-packet that was written to the last slot.
    pub(crate) fn commit_whole(&mut self, host: IdentityId, segmentation: Segmentation) {
        let (at, len) = (self.used + VIRTIO_NET_HDR_LEN, self.slot);
        self.used = at + len;
        self.begin(host, None, Shape::Super(segmentation), at, len);
    }

    /// Hand every packet and super-packet to `write`, behind its offload header, in as many pieces as it lies in.
    pub(crate) fn drain(&mut self, mut write: impl FnMut(IdentityId, &[IoSlice<'_>])) {
        let mut runs = std::mem::take(&mut self.runs);
        for run in runs.drain(..) {
            if self.finish(&run).is_err() {
                continue;
            }
            let mut pieces = [IoSlice::new(&[]); MAX_SEGMENTS];
            let mut count = 0;
            // The first one's headers count; of the others, only data.
            let mut skip = 0;
            let mut next = Some(run.first);
            while let (Some(index), Some(piece)) = (next, pieces.get_mut(count)) {
                let packet = &self.packets[index];
                let front = match count {
                    0 => packet.at - VIRTIO_NET_HDR_LEN,
                    _ => packet.at + skip,
                };
                *piece = IoSlice::new(&self.bytes[front..packet.at + packet.len]);
                skip = run.flow.map_or(0, |flow| flow.header_len);
                count += 1;
                next = packet.next;
            }
            write(run.host, &pieces[..count]);
        }
        self.runs = runs;
        self.packets.clear();
        self.used = 0;
    }

    /// Give memory back.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn begin(&mut self, host: IdentityId, flow: Option<Flow>, shape: Shape, at: usize, len: usize) {
        let index = self.packets.len();
        self.packets.push(Packet {
            at,
            len,
            next: None,
        });
        self.runs.push(Run {
            host,
            first: index,
            last: index,
            segments: 1,
            len,
            flow,
            shape,
        });
    }

    /// Add a packet to the youngest run of its flow, if it continues that.
    fn join(&mut self, host: IdentityId, flow: Flow, shape: Shape, at: usize, len: usize) -> bool {
        let (bytes, packets) = (&self.bytes, &mut self.packets);
        let packet = &bytes[at..at + len];
        let is_right = |shape: Shape, packet: &[u8]| match shape {
            Shape::Whole => Ipv6Packet::parse(packet).is_ok_and(|p| checksum::is_whole(&p)),
            Shape::Partial => true,
            Shape::Super(_) => false,
        };
        for run in self.runs.iter_mut().rev().take(OPEN_RUNS) {
            let first = &packets[run.first];
            let front = &bytes[first.at..first.at + first.len];
            if run.host != host || !is_same_ports(front, packet) {
                continue;
            }
            let Some(open) = &mut run.flow else {
                return false;
            };
            let follows = match flow.protocol {
                ipv6::TCP => {
                    #[expect(clippy::cast_possible_truncation, reason = "less than 64 KiB")]
                    let begin = flow.next_sequence.wrapping_sub(flow.segment as u32);
                    begin == open.next_sequence
                }
                _ => true,
            };
            // The last one was no shorter than the others, or nothing may follow it.
            let is_open = run.len == open.header_len + run.segments * open.segment;
            if !follows
                || !is_open
                || open.protocol != flow.protocol
                || open.header_len != flow.header_len
                || flow.segment > open.segment
                || run.segments >= MAX_SEGMENTS
                || run.len + flow.segment > MAX_LEN
                || !is_same_flow(flow.protocol, flow.header_len, front, packet)
                // A kernel believes the checksum of a super-packet, so somebody must have looked at it.
                || !is_right(shape, packet)
                || !is_right(run.shape, front)
            {
                return false;
            }
            run.shape = Shape::Partial;
            run.segments += 1;
            run.len += flow.segment;
            open.next_sequence = flow.next_sequence;
            open.pushed |= flow.pushed;
            let index = packets.len();
            packets[run.last].next = Some(index);
            run.last = index;
            packets.push(Packet {
                at,
                len,
                next: None,
            });
            return true;
        }
        false
    }

    /// Write the offload header of a run, and the headers that its packets have in common.
    fn finish(&mut self, run: &Run) -> io::Result<()> {
        let first = &self.packets[run.first];
        let front = &mut self.bytes[first.at - VIRTIO_NET_HDR_LEN..first.at + first.len];
        let (offload, packet) = front.split_at_mut(VIRTIO_NET_HDR_LEN);
        let header = match (run.shape, run.flow) {
            (Shape::Whole, _) => VirtioNetHdr::default(),
            (Shape::Super(segmentation), _) => {
                offload::super_header(GSO_TCP, segmentation.header_len, segmentation.segment)
            }
            (Shape::Partial, Some(flow)) if run.segments > 1 => {
                let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
                let payload = u16::try_from(run.len - ipv6::HEADER_LEN).map_err(invalid)?;
                packet[4..6].copy_from_slice(&payload.to_be_bytes());
                let header_len = u16::try_from(flow.header_len).map_err(invalid)?;
                let segment = u16::try_from(flow.segment).map_err(invalid)?;
                let kind = match flow.protocol {
                    ipv6::TCP => {
                        packet[TCP_FLAGS] |= if flow.pushed { PSH } else { 0 };
                        GSO_TCP
                    }
                    _ => {
                        packet[44..46].copy_from_slice(&payload.to_be_bytes());
                        GSO_UDP
                    }
                };
                // Its payload is elsewhere, so the sum is made by hand.
                let (Ok(addresses), field) = (
                    <&[u8; 32]>::try_from(&packet[8..40]),
                    offload::checksum_field(flow.protocol),
                ) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let sum = checksum::fold(
                    checksum::sum(addresses) + u64::from(payload) + u64::from(flow.protocol),
                );
                let at = ipv6::HEADER_LEN + usize::from(field);
                packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                offload::super_header(kind, header_len, segment)
            }
            (Shape::Partial, _) => offload::partial_header(packet[6]),
        };
        header.encode(offload)
    }
}

/// Whether two packets have the same addresses and ports, if they have any, so that they must stay in order.
fn is_same_ports(one: &[u8], other: &[u8]) -> bool {
    one.get(6) == other.get(6) && one.get(8..44) == other.get(8..44)
}

#[cfg(test)]
mod tests;
