//! IPv6 prefixes in TLVs: `ceil(length / 8)` leading octets (RFC 8966 §4.1.4, wire spec §5.1).

use std::fmt;
use std::net::Ipv6Addr;

use super::{DecodeError, Reader, encoding};
use crate::addr::Subnet;

/// An IPv6 prefix of any length. Bits beyond the length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    const MAX_LENGTH: u8 = 128;

    /// The first `length` bits of `address`; `None` beyond 128.
    pub fn new(address: Ipv6Addr, length: u8) -> Option<Self> {
        let mask = match length {
            0 => 0,
            1..=Self::MAX_LENGTH => u128::MAX << (Self::MAX_LENGTH - length),
            _ => return None,
        };
        Some(Self {
            bits: address.to_bits() & mask,
            length,
        })
    }

    /// The lowest address.
    pub fn network_address(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits)
    }

    /// Length in bits, at most 128.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The /64 that this is, if it is one.
    pub fn as_subnet(&self) -> Option<Subnet> {
        (self.length == Subnet::PREFIX_LEN).then(|| Subnet::containing(self.network_address()))
    }

    /// The /64 that this is or lies in.
    pub fn enclosing_subnet(&self) -> Option<Subnet> {
        (self.length >= Subnet::PREFIX_LEN).then(|| Subnet::containing(self.network_address()))
    }

    /// Octets on the wire.
    pub(super) fn encoded_len(&self) -> u8 {
        self.length.div_ceil(8)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let octets = self.bits.to_be_bytes();
        out.extend_from_slice(&octets[..usize::from(self.encoded_len())]);
    }

    pub(super) fn decode(reader: &mut Reader<'_>, length: u8) -> Result<Self, DecodeError> {
        if length > Self::MAX_LENGTH {
            return Err(DecodeError::PrefixLength {
                encoding: encoding::IPV6,
                length,
            });
        }
        let taken = reader.bytes(usize::from(length.div_ceil(8)))?;
        let mut octets = [0; 16];
        for (octet, &byte) in octets.iter_mut().zip(taken) {
            *octet = byte;
        }
        Self::new(Ipv6Addr::from(octets), length).ok_or(DecodeError::PrefixLength {
            encoding: encoding::IPV6,
            length,
        })
    }
}

impl From<Subnet> for Prefix {
    fn from(subnet: Subnet) -> Self {
        Self {
            bits: subnet.network_address().to_bits(),
            length: Subnet::PREFIX_LEN,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network_address(), self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
