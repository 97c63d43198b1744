//! Ethernet frames that a guest makes, honest or not.

use std::net::Ipv6Addr;

use node_integration::naming::Mac;

/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// UDP.
pub const UDP: u8 = 17;
/// TCP.
pub const TCP: u8 = 6;
const IPV6: u16 = 0x86dd;
const HEADER: usize = 40;

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Source MAC.
    pub from: Mac,
    /// Destination MAC.
    pub to: Mac,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ends {
    /// A frame with any EtherType.
    pub fn ethernet(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(14 + payload.len());
        frame.extend_from_slice(&self.to.octets());
        frame.extend_from_slice(&self.from.octets());
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// An IPv6 packet in a frame. `checksum_at`: where the payload's checksum goes.
    pub fn ipv6(&self, protocol: u8, hop_limit: u8, payload: &[u8], checksum_at: usize) -> Vec<u8> {
        let mut payload = payload.to_vec();
        let sum = self.checksum(protocol, &payload);
        payload[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        let length = u16::try_from(payload.len()).expect("a packet has less than 64 KiB");
        let mut packet = Vec::with_capacity(HEADER + payload.len());
        packet.extend_from_slice(&[0x60, 0, 0, 0]);
        packet.extend_from_slice(&length.to_be_bytes());
        packet.extend_from_slice(&[protocol, hop_limit]);
        packet.extend_from_slice(&self.source.octets());
        packet.extend_from_slice(&self.destination.octets());
        packet.extend_from_slice(&payload);
        self.ethernet(IPV6, &packet)
    }

    /// An ICMPv6 message whose checksum is still zero.
    pub fn icmpv6(&self, hop_limit: u8, message: &[u8]) -> Vec<u8> {
        self.ipv6(ICMPV6, hop_limit, message, 2)
    }

    /// An echo request with this many bytes of payload.
    pub fn echo(&self, sequence: u16, length: usize) -> Vec<u8> {
        let mut message = vec![128, 0, 0, 0, 0x12, 0x34];
        message.extend_from_slice(&sequence.to_be_bytes());
        message.resize(8 + length, 0);
        self.icmpv6(64, &message)
    }

    /// A TCP segment that opens a connection.
    pub fn syn(&self, port: u16) -> Vec<u8> {
        let mut segment = vec![0x9c, 0x40];
        segment.extend_from_slice(&port.to_be_bytes());
        segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        self.ipv6(TCP, 64, &segment, 16)
    }

    /// A UDP datagram of eight zeros.
    pub fn datagram(&self, from: u16, to: u16) -> Vec<u8> {
        let mut datagram = Vec::new();
        datagram.extend_from_slice(&from.to_be_bytes());
        datagram.extend_from_slice(&to.to_be_bytes());
        datagram.extend_from_slice(&[0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.ipv6(UDP, 64, &datagram, 6)
    }

    /// A neighbour solicitation for `target`.
    pub fn solicitation(&self, target: Ipv6Addr) -> Vec<u8> {
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        message.extend_from_slice(&[1, 1]);
        message.extend_from_slice(&self.from.octets());
        self.icmpv6(255, &message)
    }

    fn checksum(&self, protocol: u8, payload: &[u8]) -> u16 {
        let length = u32::try_from(payload.len()).expect("a packet has less than 64 KiB");
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.source.octets());
        bytes.extend_from_slice(&self.destination.octets());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, protocol]);
        bytes.extend_from_slice(payload);
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded to sixteen bits")
    }
}
