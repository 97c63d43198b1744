//! Expressions of rules, as `nft` compiles them: one register, loaded and compared.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::wire::Attributes;
use crate::naming::Mac;

const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

const ETHERNET: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

const META_PROTOCOL: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;

const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NFPROTO_IPV4: u8 = 2;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 1 << 4;

/// States of connections.
pub(crate) const INVALID: u32 = 1;
pub(crate) const ESTABLISHED: u32 = 2;
pub(crate) const RELATED: u32 = 4;

/// EtherTypes.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// Expressions of one rule, from left to right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expressions(Attributes);

impl Expressions {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// As the attribute of a rule.
    pub(crate) fn attributes(&self) -> &Attributes {
        &self.0
    }

    fn expression(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().text(1, name).nest(2, data);
        Self(self.0.nest(1, &expression))
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", &Attributes::new().word(1, REGISTER).word(2, key))
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::new()
            .word(1, REGISTER)
            .word(2, base)
            .word(3, offset)
            .word(4, length);
        self.expression("payload", &data)
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let value = Attributes::new().bytes(1, value);
        let data = Attributes::new()
            .word(1, REGISTER)
            .word(2, operation)
            .nest(3, &value);
        self.expression("cmp", &data)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).expect("a mask has at most 16 bytes");
        let data = Attributes::new()
            .word(1, REGISTER)
            .word(2, REGISTER)
            .word(3, length)
            .nest(4, &Attributes::new().bytes(1, mask))
            .nest(5, &Attributes::new().bytes(1, &vec![0; mask.len()]));
        self.expression("bitwise", &data)
    }

    pub(crate) fn ether_type(self, kind: u16) -> Self {
        self.meta(META_PROTOCOL).compare(EQUAL, &kind.to_be_bytes())
    }

    pub(crate) fn not_ether_type(self, kind: u16) -> Self {
        self.meta(META_PROTOCOL)
            .compare(NOT_EQUAL, &kind.to_be_bytes())
    }

    pub(crate) fn not_source_mac(self, mac: Mac) -> Self {
        self.payload(ETHERNET, 6, 6)
            .compare(NOT_EQUAL, &mac.octets())
    }

    /// ARP for IPv4 over Ethernet with this sender.
    pub(crate) fn arp_sender(self, mac: Mac, address: Ipv4Addr) -> Self {
        self.payload(NETWORK, 8, 6)
            .compare(EQUAL, &mac.octets())
            .payload(NETWORK, 14, 4)
            .compare(EQUAL, &address.octets())
    }

    pub(crate) fn source4(self, address: Ipv4Addr) -> Self {
        self.payload(NETWORK, 12, 4)
            .compare(EQUAL, &address.octets())
    }

    pub(crate) fn source6(self, address: Ipv6Addr) -> Self {
        self.payload(NETWORK, 8, 16)
            .compare(EQUAL, &address.octets())
    }

    pub(crate) fn source6_prefix(self, address: Ipv6Addr, length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        self.payload(NETWORK, 8, 16)
            .mask(&mask.to_be_bytes())
            .compare(EQUAL, &address.octets())
    }

    pub(crate) fn over_ipv4(self) -> Self {
        self.meta(META_NFPROTO).compare(EQUAL, &[NFPROTO_IPV4])
    }

    pub(crate) fn any_icmp(self) -> Self {
        self.meta(META_L4PROTO).compare(EQUAL, &[1])
    }

    pub(crate) fn any_icmpv6(self) -> Self {
        self.meta(META_L4PROTO).compare(EQUAL, &[ICMPV6])
    }

    pub(crate) fn icmpv6(self, first: u8, last: u8) -> Self {
        self.any_icmpv6().within(TRANSPORT, 0, &[first], &[last])
    }

    pub(crate) fn tcp(self, first: u16, last: u16) -> Self {
        self.meta(META_L4PROTO)
            .compare(EQUAL, &[TCP])
            .destination_port(first, last)
    }

    pub(crate) fn udp(self, first: u16, last: u16) -> Self {
        self.meta(META_L4PROTO)
            .compare(EQUAL, &[UDP])
            .destination_port(first, last)
    }

    pub(crate) fn udp_from(self, port: u16) -> Self {
        self.meta(META_L4PROTO)
            .compare(EQUAL, &[UDP])
            .payload(TRANSPORT, 0, 2)
            .compare(EQUAL, &port.to_be_bytes())
    }

    fn destination_port(self, first: u16, last: u16) -> Self {
        self.within(TRANSPORT, 2, &first.to_be_bytes(), &last.to_be_bytes())
    }

    fn within(self, base: u32, offset: u32, first: &[u8], last: &[u8]) -> Self {
        let length = u32::try_from(first.len()).expect("a field has at most 16 bytes");
        let loaded = self.payload(base, offset, length);
        if first == last {
            return loaded.compare(EQUAL, first);
        }
        loaded.compare(AT_LEAST, first).compare(AT_MOST, last)
    }

    pub(crate) fn arriving_at(self, link: &str) -> Self {
        self.meta(META_IIFNAME).compare(EQUAL, &name(link))
    }

    pub(crate) fn leaving_by(self, link: &str) -> Self {
        self.meta(META_OIFNAME).compare(EQUAL, &name(link))
    }

    /// A connection in one of these states.
    pub(crate) fn state(self, states: u32) -> Self {
        let load = Attributes::new().word(1, REGISTER).word(2, 0);
        self.expression("ct", &load)
            .mask(&states.to_ne_bytes())
            .compare(NOT_EQUAL, &[0; 4])
    }

    /// More than so many packets a second.
    pub(crate) fn above(self, packets_per_second: u64, burst: u32) -> Self {
        let data = Attributes::new()
            .long(1, packets_per_second)
            .long(2, 1)
            .word(3, burst)
            .word(4, 0)
            .word(5, 1);
        self.expression("limit", &data)
    }

    /// Count in a named counter.
    pub(crate) fn count(self, counter: &str) -> Self {
        let data = Attributes::new().word(1, super::COUNTER).text(2, counter);
        self.expression("objref", &data)
    }

    /// Go on where the map says for the destination.
    pub(crate) fn by_destination6(self, map: &str) -> Self {
        let data = Attributes::new()
            .text(1, map)
            .word(2, REGISTER)
            .word(3, VERDICT_REGISTER);
        self.payload(NETWORK, 24, 16).expression("lookup", &data)
    }

    /// A source that is in the set.
    pub(crate) fn source4_in(self, set: &str) -> Self {
        let data = Attributes::new().text(1, set).word(2, REGISTER);
        self.payload(NETWORK, 12, 4).expression("lookup", &data)
    }

    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::new().word(1, RANDOM_FULLY))
    }

    pub(crate) fn accept(self) -> Self {
        self.verdict(ACCEPT)
    }

    pub(crate) fn drop(self) -> Self {
        self.verdict(DROP)
    }

    fn verdict(self, code: i32) -> Self {
        let data = Attributes::new()
            .word(1, VERDICT_REGISTER)
            .nest(2, &verdict(code, None));
        self.expression("immediate", &data)
    }
}

/// The data of a map's element: to a chain and back.
pub(crate) fn jump(chain: &str) -> Attributes {
    verdict(JUMP, Some(chain))
}

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let verdict = Attributes::new().bytes(1, &code.to_be_bytes());
    let verdict = match chain {
        Some(chain) => verdict.text(2, chain),
        None => verdict,
    };
    Attributes::new().nest(2, &verdict)
}

/// An interface name as the kernel compares it, all 16 bytes.
fn name(link: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = link.len().min(15);
    bytes[..length].copy_from_slice(&link.as_bytes()[..length]);
    bytes
}
