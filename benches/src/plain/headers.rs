//! What the forwarder must know of the packets it cuts and joins.

use tun_rs::{VIRTIO_NET_HDR_GSO_TCPV6, VirtioNetHdr};

pub(super) const IPV6: usize = 40;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const UDP_LEN: usize = 8;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
pub(super) const GSO_UDP: u8 = 5;
pub(super) const GSO_TCP: u8 = VIRTIO_NET_HDR_GSO_TCPV6;
const NEEDS_CHECKSUM: u8 = 1;
const TCP_SEQUENCE: usize = IPV6 + 4;
const TCP_FLAGS: usize = IPV6 + 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const ACK: u8 = 0x10;

/// The transport protocol, if it follows the IPv6 header at once and is one that can be cut.
pub(super) fn transport(packet: &[u8]) -> Option<u8> {
    let (first, next) = (packet.first()? >> 4, *packet.get(6)?);
    match (first, next) {
        (6, TCP) if packet.len() >= IPV6 + 20 => Some(TCP),
        (6, UDP) if packet.len() >= IPV6 + UDP_LEN => Some(UDP),
        _ => None,
    }
}

/// Length of the IPv6 and TCP headers.
pub(super) fn tcp_headers(packet: &[u8]) -> usize {
    IPV6 + usize::from(packet[IPV6 + 12] >> 4) * 4
}

/// Turn the headers of a super-packet into those of its `index`-th segment.
pub(super) fn cut(
    headers: &mut [u8],
    protocol: u8,
    index: usize,
    payload: usize,
    offset: usize,
    is_last: bool,
) {
    set_payload_len(headers, headers.len() - IPV6 + payload);
    match protocol {
        TCP => {
            let sequence = be32(headers, TCP_SEQUENCE).wrapping_add(u32_of(offset));
            headers[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
            if !is_last {
                headers[TCP_FLAGS] &= !(FIN | PSH);
            }
            if index > 0 {
                headers[TCP_FLAGS] &= !CWR;
            }
        }
        _ => {
            let length = u16_of(UDP_LEN + payload).to_be_bytes();
            headers[IPV6 + 4..IPV6 + 6].copy_from_slice(&length);
        }
    }
}

/// A TCP packet that others can be appended to: headers, payload, and where the next one must start.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) protocol: u8,
    pub(super) headers: usize,
    pub(super) segment: usize,
    pub(super) total: usize,
    next: u32,
    flags: u8,
    /// Nothing may follow.
    closed: bool,
}

impl Run {
    /// `None`: it must go alone.
    pub(super) fn start(packet: &[u8], udp: bool) -> Option<Self> {
        let protocol = transport(packet)?;
        let headers = match protocol {
            TCP => tcp_headers(packet),
            _ if udp => IPV6 + UDP_LEN,
            _ => return None,
        };
        let segment = packet.len().checked_sub(headers).filter(|len| *len > 0)?;
        let flags = if protocol == TCP {
            packet[TCP_FLAGS]
        } else {
            ACK
        };
        if flags & !(ACK | PSH) != 0 {
            return None;
        }
        Some(Self {
            protocol,
            headers,
            segment,
            total: packet.len(),
            next: match protocol {
                TCP => be32(packet, TCP_SEQUENCE).wrapping_add(u32_of(segment)),
                _ => 0,
            },
            flags,
            closed: false,
        })
    }

    /// Whether `packet` continues the run whose first packet is `first`; if so it is counted in.
    pub(super) fn append(&mut self, first: &[u8], packet: &[u8]) -> bool {
        let len = packet.len().saturating_sub(self.headers);
        let continues = !self.closed
            && transport(packet) == Some(self.protocol)
            && len > 0
            && len <= self.segment
            && self.total + len <= usize::from(u16::MAX)
            // Version, class and flow; next header to both addresses and ports.
            && first[..4] == packet[..4]
            && first[6..IPV6 + 4] == packet[6..IPV6 + 4]
            && (self.protocol == UDP || self.continues_tcp(first, packet));
        if continues {
            self.total += len;
            self.next = self.next.wrapping_add(u32_of(len));
            self.closed = len < self.segment;
            if self.protocol == TCP {
                self.flags |= packet[TCP_FLAGS];
            }
        }
        continues
    }

    fn continues_tcp(&self, first: &[u8], packet: &[u8]) -> bool {
        be32(packet, TCP_SEQUENCE) == self.next
            && tcp_headers(packet) == self.headers
            && packet[TCP_FLAGS] & !(ACK | PSH) == 0
            // Acknowledgement; offset; window; options.
            && first[IPV6 + 8..IPV6 + 13] == packet[IPV6 + 8..IPV6 + 13]
            && first[IPV6 + 14..IPV6 + 16] == packet[IPV6 + 14..IPV6 + 16]
            && first[IPV6 + 20..self.headers] == packet[IPV6 + 20..self.headers]
    }

    /// Make the headers of the first packet those of the whole, and what the TUN is told about it.
    pub(super) fn finish(&self, first: &mut [u8]) -> VirtioNetHdr {
        set_payload_len(first, self.total - IPV6);
        if self.protocol == TCP {
            first[TCP_FLAGS] = self.flags;
        } else {
            let length = u16_of(self.total - IPV6).to_be_bytes();
            first[IPV6 + 4..IPV6 + 6].copy_from_slice(&length);
        }
        let mut header = unfinished_checksum(first, self.protocol);
        if self.total > self.headers + self.segment {
            header.gso_type = if self.protocol == TCP {
                GSO_TCP
            } else {
                GSO_UDP
            };
            header.gso_size = u16_of(self.segment);
            header.hdr_len = u16_of(self.headers);
        }
        header
    }
}

/// Leave the checksum to the kernel: it is needed by nobody on the way, so nobody made it.
pub(super) fn unfinished_checksum(packet: &mut [u8], protocol: u8) -> VirtioNetHdr {
    let offset = if protocol == TCP { 16 } else { 6 };
    let mut sum = u32::from(protocol) + u32::from(u16::from_be_bytes([packet[4], packet[5]]));
    for word in packet[8..IPV6].as_chunks::<2>().0 {
        sum += u32::from(u16::from_be_bytes(*word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[IPV6 + offset..][..2].copy_from_slice(&u16_of(sum as usize).to_be_bytes());
    VirtioNetHdr {
        flags: NEEDS_CHECKSUM,
        csum_start: u16_of(IPV6),
        csum_offset: u16_of(offset),
        ..VirtioNetHdr::default()
    }
}

fn set_payload_len(packet: &mut [u8], len: usize) {
    packet[4..6].copy_from_slice(&u16_of(len).to_be_bytes());
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

/// Lengths here are below 64 KiB by construction.
pub(super) fn u16_of(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn u32_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, payload: usize, flags: u8) -> Vec<u8> {
        let mut packet = vec![0; 72 + payload];
        packet[0] = 0x60;
        set_payload_len(&mut packet, 32 + payload);
        packet[6] = TCP;
        packet[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        packet[IPV6 + 12] = 8 << 4;
        packet[TCP_FLAGS] = flags;
        packet
    }

    #[test]
    fn what_is_cut_is_joined_again() {
        let whole = segment(u32::MAX - 100, 1000, ACK | PSH);
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        for (index, payload) in [300, 300, 300, 100].into_iter().enumerate() {
            let mut piece = whole[..72 + payload].to_vec();
            cut(
                &mut piece[..72],
                TCP,
                index,
                payload,
                index * 300,
                index == 3,
            );
            assert_eq!(piece[TCP_FLAGS] & PSH != 0, index == 3);
            pieces.push(piece);
        }
        let mut run = Run::start(&pieces[0], false).unwrap();
        let mut first = pieces[0].clone();
        for piece in &pieces[1..] {
            assert!(run.append(&first, piece));
        }
        assert!(
            !run.append(&first, &segment(899, 300, ACK)),
            "a short one ends a run"
        );
        let header = run.finish(&mut first);
        assert_eq!((header.gso_size, header.hdr_len), (300, 72));
        assert_eq!(first[..IPV6 + 16], whole[..IPV6 + 16]);
    }

    #[test]
    fn strangers_are_not_joined() {
        let first = segment(0, 300, ACK);
        let stranger = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = segment(300, 300, ACK);
            change(&mut packet);
            let mut run = Run::start(&first, false).unwrap();
            run.append(&first, &packet)
        };
        assert!(stranger(&|_| {}));
        assert!(!stranger(&|packet| packet[10] = 1), "another source");
        assert!(!stranger(&|packet| packet[IPV6 + 1] = 1), "another port");
        assert!(!stranger(&|packet| packet[TCP_SEQUENCE + 3] = 0), "a gap");
        assert!(!stranger(&|packet| packet[TCP_FLAGS] |= FIN), "an end");
        assert!(!stranger(&|packet| packet[70] = 1), "another time stamp");
        assert!(!stranger(&|packet| packet.push(0)), "a longer one");
        assert!(Run::start(&segment(0, 0, ACK), true).is_none());
        assert!(Run::start(&segment(0, 9, ACK | FIN), true).is_none());
    }
}
