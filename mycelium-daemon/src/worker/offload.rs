//! What segmentation offload puts in front of a packet of a TUN, read and written.

use std::io;

use mycelium_core::wire::{checksum, ipv6};
use tun_rs::{VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

const NEEDS_CHECKSUM: u8 = 1;
const NOT_SEGMENTED: u8 = 0;
/// Set beside the kind where TCP uses ECN.
const ECN: u8 = 0x80;
/// TCP over IPv6, to be cut.
pub(super) const GSO_TCP: u8 = VIRTIO_NET_HDR_GSO_TCPV6;
/// UDP, to be cut.
pub(super) const GSO_UDP: u8 = 5;
const IPV6_HEADER_LEN: u16 = 40;

/// A packet as a TUN gives it.
#[derive(Debug)]
pub(super) enum Offloaded<'a> {
    /// One packet, complete.
    Packet(&'a mut [u8]),
    /// TCP or UDP right behind an IPv6 header, with a partial checksum, and to be cut to segments of this if there is a number.
    Partial(VirtioNetHdr, Option<u16>, &'a mut [u8]),
    /// Anything else that must be completed or cut.
    Special(VirtioNetHdr, &'a mut [u8]),
}

/// Read what is in front of a packet.
pub(super) fn read(raw: &mut [u8]) -> Option<Offloaded<'_>> {
    let (front, packet) = raw.split_at_mut_checked(VIRTIO_NET_HDR_LEN)?;
    let header = VirtioNetHdr::decode(front).ok()?;
    let needs_checksum = header.flags & NEEDS_CHECKSUM != 0;
    if header.gso_type == NOT_SEGMENTED && !needs_checksum {
        return Some(Offloaded::Packet(packet));
    }
    let protocol = match packet.first_chunk::<{ ipv6::HEADER_LEN }>() {
        Some(header) if header[0] >> 4 == 6 => header[6],
        _ => return Some(Offloaded::Special(header, packet)),
    };
    let is_plain = needs_checksum
        && matches!(protocol, ipv6::TCP | ipv6::UDP)
        && header.csum_start == IPV6_HEADER_LEN
        && header.csum_offset == checksum_field(protocol);
    let segment = match header.gso_type & !ECN {
        NOT_SEGMENTED => None,
        GSO_TCP if protocol == ipv6::TCP => Some(header.gso_size),
        GSO_UDP if protocol == ipv6::UDP => Some(header.gso_size),
        _ => return Some(Offloaded::Special(header, packet)),
    };
    Some(match is_plain {
        true => Offloaded::Partial(header, segment, packet),
        false => Offloaded::Special(header, packet),
    })
}

/// Complete the checksum of one packet.
pub(super) fn complete(header: &VirtioNetHdr, packet: &mut [u8]) -> io::Result<()> {
    let (start, offset) = (header.csum_start, header.csum_offset);
    checksum::complete(packet, usize::from(start), usize::from(offset))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a packet must be [`cut`], not only completed.
pub(super) fn is_segmented(header: &VirtioNetHdr) -> bool {
    header.gso_type != NOT_SEGMENTED
}

/// Where TCP, or UDP, keeps its checksum.
pub(super) fn checksum_field(protocol: u8) -> u16 {
    match protocol {
        ipv6::TCP => 16,
        _ => 6,
    }
}

/// What goes in front of a packet whose checksum is that of the pseudo-header.
pub(super) fn partial_header(protocol: u8) -> VirtioNetHdr {
    VirtioNetHdr {
        flags: NEEDS_CHECKSUM,
        csum_start: IPV6_HEADER_LEN,
        csum_offset: checksum_field(protocol),
        ..VirtioNetHdr::default()
    }
}

/// What goes in front of a super-packet of `kind`, to be cut into `segment` bytes each behind `header_len` bytes of headers.
pub(super) fn super_header(kind: u8, header_len: u16, segment: u16) -> VirtioNetHdr {
    let protocol = match kind {
        GSO_TCP => ipv6::TCP,
        _ => ipv6::UDP,
    };
    VirtioNetHdr {
        gso_type: kind,
        hdr_len: header_len,
        gso_size: segment,
        ..partial_header(protocol)
    }
}

/// Cut a super-packet into `packets`; how many they are.
pub(super) fn cut(
    mut header: VirtioNetHdr,
    packet: &mut [u8],
    packets: &mut [Vec<u8>],
    lengths: &mut [usize],
) -> io::Result<usize> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let start = usize::from(header.csum_start);
    // The kernel's own idea of the headers' length is not to be relied on where it forwards.
    let transport_len = match header.gso_type & !ECN {
        GSO_UDP => 8,
        _ => u16::from(packet.get(start + 12).ok_or_else(invalid)? >> 4) * 4,
    };
    header.hdr_len = header
        .csum_start
        .checked_add(transport_len)
        .ok_or_else(invalid)?;
    let checksum_end = start + usize::from(header.csum_offset) + 2;
    if usize::from(header.hdr_len) > packet.len() || checksum_end > packet.len() {
        return Err(invalid());
    }
    tun_rs::gso_split(packet, header, packets, lengths, 0, is_v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_packet(payload: &[u8]) -> Vec<u8> {
        let (source, destination) = ([4; 16], [5; 16]);
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv6(source, destination, 64)
            .udp(1, 2)
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for payload in [&b"even"[..], b"odd"] {
            let good = udp_packet(payload);
            let mut raw = vec![0; VIRTIO_NET_HDR_LEN];
            raw.extend_from_slice(&good);
            let header = VirtioNetHdr {
                flags: NEEDS_CHECKSUM,
                csum_start: 40,
                csum_offset: 6,
                ..VirtioNetHdr::default()
            };
            header.encode(&mut raw).unwrap();
            let length = u16::from_be_bytes([good[4], good[5]]);
            let mut sum = u32::from(length) + 17;
            for word in good[8..40].chunks(2) {
                sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            let partial = u16::try_from(sum).unwrap().to_be_bytes();
            raw[VIRTIO_NET_HDR_LEN + 46..][..2].copy_from_slice(&partial);
            match read(&mut raw).unwrap() {
                Offloaded::Partial(header, None, packet) => {
                    complete(&header, packet).unwrap();
                    assert_eq!(packet, good);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn headers_that_point_outside_are_refused() {
        let mut raw = vec![0; VIRTIO_NET_HDR_LEN];
        raw.extend_from_slice(&udp_packet(b"x"));
        for (start, offset) in [(40, 60), (4000, 6), (u16::MAX, u16::MAX)] {
            let header = VirtioNetHdr {
                flags: NEEDS_CHECKSUM,
                csum_start: start,
                csum_offset: offset,
                ..VirtioNetHdr::default()
            };
            header.encode(&mut raw).unwrap();
            match read(&mut raw).unwrap() {
                Offloaded::Special(header, packet) => assert!(complete(&header, packet).is_err()),
                other => panic!("{other:?}"),
            }
        }
        assert!(read(&mut [0; 5]).is_none());
    }
}
