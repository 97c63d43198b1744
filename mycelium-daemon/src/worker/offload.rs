//! What segmentation offload puts in front of a packet of a TUN, read and written.

use std::io;

use mycelium_core::dataplane::Segmentation;
use tun_rs::{VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

const NEEDS_CHECKSUM: u8 = 1;
const NOT_SEGMENTED: u8 = 0;
/// Set beside the kind where TCP uses ECN.
const ECN: u8 = 0x80;
const UDP: u8 = 5;
const IPV6_HEADER_LEN: u16 = 40;
const TCP_CHECKSUM: u16 = 16;

/// A packet as a TUN gives it.
#[derive(Debug)]
pub(super) enum Offloaded<'a> {
    /// One packet, complete.
    Packet(&'a mut [u8]),
    /// A TCP super-packet over IPv6, without ECN marks, that may go as it is.
    Whole(VirtioNetHdr, &'a mut [u8]),
    /// One that must be cut.
    Segments(VirtioNetHdr, &'a mut [u8]),
}

/// Read what is in front of a packet, and complete its checksum where it is one packet.
pub(super) fn read(raw: &mut [u8]) -> Option<Offloaded<'_>> {
    let (front, packet) = raw.split_at_mut_checked(VIRTIO_NET_HDR_LEN)?;
    let header = VirtioNetHdr::decode(front).ok()?;
    if header.gso_type == NOT_SEGMENTED {
        if header.flags & NEEDS_CHECKSUM != 0 {
            complete_checksum(
                packet,
                usize::from(header.csum_start),
                usize::from(header.csum_offset),
            )?;
        }
        return Some(Offloaded::Packet(packet));
    }
    let is_plain = header.gso_type == VIRTIO_NET_HDR_GSO_TCPV6
        && header.csum_start == IPV6_HEADER_LEN
        && header.csum_offset == TCP_CHECKSUM;
    Some(match is_plain {
        true => Offloaded::Whole(header, packet),
        false => Offloaded::Segments(header, packet),
    })
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
        UDP => 8,
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

/// Put `segmentation` in front of a packet.
pub(super) fn write(front: &mut [u8], segmentation: Segmentation) -> io::Result<()> {
    VirtioNetHdr {
        flags: NEEDS_CHECKSUM,
        gso_type: VIRTIO_NET_HDR_GSO_TCPV6,
        hdr_len: segmentation.header_len,
        gso_size: segmentation.segment,
        csum_start: IPV6_HEADER_LEN,
        csum_offset: TCP_CHECKSUM,
    }
    .encode(front)
}

/// The internet checksum (RFC 1071) of what starts at `start`, whose field holds the sum over the pseudo-header.
fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    covered.get(offset..offset + 2)?;
    let (words, last) = covered.as_chunks::<2>();
    let mut sum: u64 = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum();
    if let [last] = last {
        sum += u64::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !u16::try_from(sum).ok()? {
        // RFC 768, RFC 8200 §8.1: zero would mean none.
        0 => 0xffff,
        checksum => checksum,
    };
    covered
        .get_mut(offset..offset + 2)?
        .copy_from_slice(&checksum.to_be_bytes());
    Some(())
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
                Offloaded::Packet(packet) => assert_eq!(packet, good),
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
            assert!(read(&mut raw).is_none());
        }
        assert!(read(&mut [0; 5]).is_none());
    }
}
