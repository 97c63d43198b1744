//! Ethernet addresses, and the link-local addresses that follow from them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The Ethernet address of a guest's network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Text that is not six hexadecimal bytes with colons between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as 52:54:00:12:34:56")]
pub struct BadMac(pub String);

impl Mac {
    /// The interface identifier that RFC 4291 appendix A derives from it: the last 64 bits of an address.
    pub fn interface_id(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0;
        [a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]
    }

    /// Its link-local address, where the guest derives that from the MAC.
    pub fn link_local(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&self.interface_id());
        octets.into()
    }

    /// The MAC that a link-local address was derived from; `None` if it was not.
    pub fn of_link_local(address: Ipv6Addr) -> Option<Self> {
        match address.octets() {
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
                Some(Self([a ^ 0x02, b, c, d, e, f]))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        let mac: Mac = "52:54:00:Ab:cd:EF".parse().unwrap();
        assert_eq!(mac, Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:00",
            "5:54:00:ab:cd:ef",
            "+2:54:00:ab:cd:ef",
            "52-54-00-ab-cd-ef",
            "zz:54:00:ab:cd:ef",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn link_local_addresses_give_the_mac_back() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        let address: Ipv6Addr = "fe80::5054:ff:feab:cdef".parse().unwrap();
        assert_eq!(mac.link_local(), address);
        assert_eq!(Mac::of_link_local(address), Some(mac));
        for other in [
            "fe80::1",
            "fe80:1::5054:ff:feab:cdef",
            "2001:db8::5054:ff:feab:cdef",
        ] {
            assert_eq!(Mac::of_link_local(other.parse().unwrap()), None);
        }
    }
}
