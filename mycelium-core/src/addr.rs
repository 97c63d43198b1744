//! Overlay addresses and the /64 subnets that carry them (spec: protocol.md, "Addresses").

use std::fmt;
use std::net::Ipv6Addr;

/// Whether `address` lies in `400::/7`, the range of the overlay.
pub const fn is_overlay(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xfe == 0x04
}

/// The overlay address that belongs to an X25519 public key.
///
/// First 16 bytes of BLAKE3(key); the first byte becomes `0x04 | parity of its own bits`.
pub fn address_of_key(public_key: &[u8; 32]) -> Ipv6Addr {
    let hash = blake3::hash(public_key);
    let mut octets = [0; 16];
    octets.copy_from_slice(&hash.as_bytes()[..16]);
    octets[0] = 0x04 | (octets[0].count_ones() & 1) as u8;
    Ipv6Addr::from(octets)
}

/// A /64, the only prefix length that the overlay routes: the eight leading octets, as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(u64);

impl Subnet {
    /// Prefix length of every routed subnet.
    pub const PREFIX_LEN: u8 = 64;

    /// The /64 that holds `address`.
    pub const fn containing(address: Ipv6Addr) -> Self {
        Self((address.to_bits() >> 64) as u64)
    }

    /// The subnet with these leading octets.
    pub const fn from_octets(octets: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(octets))
    }

    /// The leading octets, as on the wire.
    pub const fn octets(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The leading 64 bits as a number, for tables.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `address` lies in this subnet.
    pub const fn contains(self, address: Ipv6Addr) -> bool {
        Self::containing(address).0 == self.0
    }

    /// The address with an all-zero host part: what a node puts as source of the errors it reports.
    pub const fn network_address(self) -> Ipv6Addr {
        Ipv6Addr::from_bits((self.0 as u128) << 64)
    }

    /// Whether the subnet lies in `400::/7`.
    pub const fn is_overlay(self) -> bool {
        is_overlay(self.network_address())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network_address(), Self::PREFIX_LEN)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_prints_as_a_prefix() {
        let subnet = Subnet::containing("430:9364:d8d8:84a9:dd60:de78:c767:d361".parse().unwrap());
        assert_eq!(subnet.to_string(), "430:9364:d8d8:84a9::/64");
        assert!(subnet.is_overlay());
        assert!(!is_overlay("600::".parse().unwrap()));
        assert!(!is_overlay("3ff:ffff::".parse().unwrap()));
    }
}
