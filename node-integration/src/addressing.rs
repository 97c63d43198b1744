//! Addresses inside the /64 of a user network, as Zero-OS derives them.

use std::net::{Ipv4Addr, Ipv6Addr};

use mycelium_core::addr::Subnet;
use sha2::{Digest as _, Sha512};

use crate::naming::Mac;
use crate::secret::Seed;

/// Rule R1: the gateway of guests, `PREFIX::1`.
pub fn gateway(subnet: Subnet) -> Ipv6Addr {
    with_host_part(subnet, [0, 0, 0, 0, 0, 0, 0, 1])
}

/// Rule R2: the address of a workload, `PREFIX:ff0f:SEED`.
pub fn of_seed(subnet: Subnet, seed: Seed) -> Ipv6Addr {
    let [a, b, c, d, e, f] = seed.octets();
    with_host_part(subnet, [0xff, 0x0f, a, b, c, d, e, f])
}

/// Rule R5: the address of a node's own service, from any bytes that name it.
pub fn of_bytes(subnet: Subnet, bytes: &[u8]) -> Ipv6Addr {
    let hash = Sha512::digest(bytes);
    let mut host = [0; 8];
    host.copy_from_slice(&hash[..8]);
    with_host_part(subnet, host)
}

/// What a guest makes of an announced prefix and its MAC (RFC 4291, appendix A).
pub fn of_mac(subnet: Subnet, mac: Mac) -> Ipv6Addr {
    with_host_part(subnet, interface_identifier(mac))
}

/// The link-local address that goes with a MAC.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    with_host_part(
        Subnet::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0]),
        interface_identifier(mac),
    )
}

/// The MAC that a link-local address was derived from; `None` if it was not.
pub fn mac_of_link_local(address: Ipv6Addr) -> Option<Mac> {
    match address.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
            Some(Mac::new([a ^ 2, b, c, d, e, f]))
        }
        _ => None,
    }
}

/// Rule R6: the WireGuard address, in `100.64.0.0/16`, of the node that has the IPv4 subnet `x.A.B.0`.
pub fn wireguard(subnet: Ipv4Addr) -> Ipv4Addr {
    let [_, a, b, _] = subnet.octets();
    Ipv4Addr::new(100, 64, a, b)
}

/// Rule R7: the unique local address that "full" Zero-OS gives a workload beside its private IPv4 address, /64. Made
/// of the letters of the network's id: a quirk that is kept. `None`: the id has fewer than five bytes.
pub fn unique_local(net_id: &str, private: Ipv4Addr) -> Option<Ipv6Addr> {
    let [c0, c1, c2, c3, c4] = *net_id.as_bytes().first_chunk()?;
    let [_, _, third, last] = private.octets();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Some(Ipv6Addr::new(
        pair(0xfd, c0),
        pair(c1, c2),
        pair(c3, c4),
        third.into(),
        0,
        0,
        0,
        last.into(),
    ))
}

/// The port of a virtual machine's console in Zero-OS, from its private IPv4 address.
pub fn console_port(private: Ipv4Addr) -> u16 {
    20_000 + u16::from(private.octets()[3])
}

fn with_host_part(subnet: Subnet, host: [u8; 8]) -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet.network_address().to_bits() | u128::from(u64::from_be_bytes(host)))
}

fn interface_identifier(mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.octets();
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet {
        Subnet::containing("430:9364:d8d8:84a9::".parse().unwrap())
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_a_subnet() {
        assert_eq!(gateway(subnet()), v6("430:9364:d8d8:84a9::1"));
        assert_eq!(
            of_seed(subnet(), Seed::parse("b60f2b7ec39c").unwrap()),
            v6("430:9364:d8d8:84a9:ff0f:b60f:2b7e:c39c")
        );
        assert_eq!(
            of_bytes(subnet(), b"my:ndmz"),
            v6("430:9364:d8d8:84a9:63c0:2e9b:9f21:a43f")
        );
    }

    #[test]
    fn the_unit_test_of_zosbase() {
        let subnet = Subnet::containing(v6("3b4:ca67:822d:b0c1:5d6f::"));
        assert_eq!(gateway(subnet), v6("3b4:ca67:822d:b0c1::1"));
        assert_eq!(
            of_seed(subnet, Seed::parse("001122334455").unwrap()),
            v6("3b4:ca67:822d:b0c1:ff0f:11:2233:4455")
        );
    }

    #[test]
    fn a_seed_in_base64_as_in_the_state_of_an_sdk() {
        let address = of_seed(subnet(), Seed::parse("bJcR406E").unwrap());
        assert!(address.to_string().ends_with(":ff0f:6c97:11e3:4e84"));
    }

    #[test]
    fn addresses_from_a_mac() {
        let mac = Mac::new([0xd2, 0xe0, 0xf7, 0xd6, 0x32, 0x8d]);
        assert_eq!(
            of_mac(subnet(), mac),
            v6("430:9364:d8d8:84a9:d0e0:f7ff:fed6:328d")
        );
        assert_eq!(link_local(mac), v6("fe80::d0e0:f7ff:fed6:328d"));
        assert_eq!(mac_of_link_local(link_local(mac)), Some(mac));
        for other in [
            "fe80::1",
            "fe80:1::5054:ff:feab:cdef",
            "2001:db8::5054:ff:feab:cdef",
        ] {
            assert_eq!(mac_of_link_local(v6(other)), None);
        }
    }

    #[test]
    fn private_ipv4_has_its_wireguard_local_and_console_forms() {
        let private = Ipv4Addr::new(10, 20, 2, 5);
        assert_eq!(wireguard(private), Ipv4Addr::new(100, 64, 20, 2));
        assert_eq!(
            unique_local("B3gDSpMoHJXdF", private),
            Some(v6("fd42:3367:4453:2::5"))
        );
        assert_eq!(unique_local("B3gD", private), None);
        assert_eq!(console_port(private), 20_005);
    }
}
