//! A view of an IPv6 packet (RFC 8200): its fixed header, and which protocol it carries.

use std::net::Ipv6Addr;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Next-header number of TCP.
pub const TCP: u8 = 6;
/// Next-header number of UDP.
pub const UDP: u8 = 17;
/// Next-header number of ICMPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that we are willing to walk; RFC 8200 §4.1 foresees seven at most.
const MAX_EXTENSIONS: usize = 8;

/// Why bytes are not an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ipv6Error {
    /// Fewer bytes than the header, or than the header says.
    #[error("IPv6 packet cut short")]
    Truncated,
    /// Another version of IP.
    #[error("IP version {0}")]
    Version(u8),
}

/// A packet whose bytes are all there. Bytes behind its end are not part of it.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ipv6Packet<'a> {
    /// Check the version and the length.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Ipv6Error::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Ipv6Error::Version(header[0] >> 4));
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = rest.get(..payload_len).ok_or(Ipv6Error::Truncated)?;
        Ok(Self { header, payload })
    }

    /// Length of the packet, header included.
    #[inline]
    pub fn len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Whether there is nothing behind the header.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Type of what follows the header.
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Protocol behind the extension headers and, in a packet or first fragment where it is reached, its bytes.
    ///
    /// `None` if the chain is cut short, too long or hidden by encryption.
    pub fn upper_layer(&self) -> Option<(u8, &'a [u8])> {
        let mut next = self.next_header();
        let mut rest = self.payload;
        for _ in 0..MAX_EXTENSIONS {
            let len = match next {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 + 8 * usize::from(*rest.get(1)?),
                AUTHENTICATION => 8 + 4 * usize::from(*rest.get(1)?),
                FRAGMENT => {
                    let offset = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) >> 3;
                    if offset != 0 {
                        return Some((*rest.first()?, &[]));
                    }
                    8
                }
                protocol => return Some((protocol, rest)),
            };
            next = *rest.first()?;
            rest = rest.get(len..)?;
        }
        None
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.header[at..at + 16]);
        Ipv6Addr::from(octets)
    }
}

/// Write a fixed header: traffic class and flow label zero.
pub fn write_header(
    out: &mut [u8; HEADER_LEN],
    payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) {
    out[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    out[4..6].copy_from_slice(&payload_len.to_be_bytes());
    out[6] = next_header;
    out[7] = hop_limit;
    out[8..24].copy_from_slice(&source.octets());
    out[24..].copy_from_slice(&destination.octets());
}

/// Replace the hop limit of a packet that was checked before; anything shorter than a header stays as it is.
#[inline]
pub fn set_hop_limit(packet: &mut [u8], hop_limit: u8) {
    if let Some(field) = packet.get_mut(7) {
        *field = hop_limit;
    }
}

/// Link-local unicast, `fe80::/10`: never leaves a link.
pub const fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}
