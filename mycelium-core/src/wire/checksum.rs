//! The internet checksum (RFC 1071) of TCP and UDP over IPv6, whole or partial.
//!
//! Partial: the field holds the sum over the pseudo-header (RFC 8200 §8.1), not inverted, and whoever needs the whole one adds
//! the rest. It is what hosts with checksum offload hand over, and take.

use std::net::Ipv6Addr;

use super::ipv6;

/// Where TCP keeps its checksum, from the start of its header.
pub const TCP_FIELD: usize = 16;
/// Where UDP does.
pub const UDP_FIELD: usize = 6;

/// The sum over the pseudo-header of `len` bytes of `protocol`: what a partial checksum is.
pub fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> u16 {
    let addresses = source.segments().into_iter().chain(destination.segments());
    fold(addresses.map(u64::from).sum::<u64>() + u64::from(len) + u64::from(protocol))
}

/// The sum over `bytes` as 16-bit words, the last one padded with a zero.
pub fn sum(bytes: &[u8]) -> u64 {
    // Eight bytes at a time, in the order of this machine: the sum is that of swapped words, swapped (RFC 1071 §2). Two sums,
    // for compilers make vector code of them.
    let (chunks, rest) = bytes.as_chunks::<8>();
    let (mut low, mut high) = (0, 0);
    for chunk in chunks {
        let chunk = u64::from_ne_bytes(*chunk);
        low += chunk & 0xffff_ffff;
        high += chunk >> 32;
    }
    let native = u64::from(fold(low)) + u64::from(fold(high));
    let mut sum = u64::from(u16::from_be_bytes(fold(native).to_ne_bytes()));
    let (words, last) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = last {
        sum += u64::from(*last) << 8;
    }
    sum
}

/// Ones' complement of 16 bits out of a longer sum.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded")]
    let folded = sum as u16;
    folded
}

/// Write the partial checksum of `packet`, an IPv6 packet of TCP or UDP without extension headers. False if it is none, or
/// too short for the field.
pub fn set_partial(packet: &mut [u8]) -> bool {
    let Ok(view) = ipv6::Ipv6Packet::parse(packet) else {
        return false;
    };
    let protocol = view.next_header();
    let (field, least) = match protocol {
        ipv6::TCP => (TCP_FIELD, 20),
        ipv6::UDP => (UDP_FIELD, 8),
        _ => return false,
    };
    let len = view.payload().len();
    if len < least {
        return false;
    }
    let Ok(len) = u32::try_from(len) else {
        return false;
    };
    let sum = pseudo_header(view.source(), view.destination(), protocol, len);
    let at = ipv6::HEADER_LEN + field;
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Whether the checksum of `packet`, as in [`set_partial`], is whole and right.
pub fn is_whole(packet: &ipv6::Ipv6Packet<'_>) -> bool {
    let Ok(len) = u32::try_from(packet.payload().len()) else {
        return false;
    };
    let protocol = packet.next_header();
    let pseudo = pseudo_header(packet.source(), packet.destination(), protocol, len);
    fold(u64::from(pseudo) + sum(packet.payload())) == 0xffff
}

/// Write the whole checksum of `packet`, as in [`set_partial`].
pub fn set_whole(packet: &mut [u8]) -> bool {
    let field = match packet.get(6) {
        Some(&ipv6::TCP) => TCP_FIELD,
        _ => UDP_FIELD,
    };
    set_partial(packet) && complete(packet, ipv6::HEADER_LEN, field).is_some()
}

/// Complete the partial checksum in the field at `offset` of what starts at `start`. `None` if that is not in the packet.
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    covered.get(offset..offset.checked_add(2)?)?;
    let checksum = match !fold(sum(covered)) {
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

    fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = etherparse::PacketBuilder::ipv6([4; 16], [5; 16], 64);
        match protocol {
            ipv6::TCP => builder.tcp(1, 2, 3, 4).write(&mut bytes, payload).unwrap(),
            _ => builder.udp(1, 2).write(&mut bytes, payload).unwrap(),
        }
        bytes
    }

    #[test]
    fn a_partial_checksum_completed_is_the_whole_one() {
        for (protocol, field) in [(ipv6::TCP, TCP_FIELD), (ipv6::UDP, UDP_FIELD)] {
            for payload in [&b""[..], b"x", b"even", b"odd", &[0xff; 1301]] {
                let good = packet(protocol, payload);
                assert!(is_whole(&ipv6::Ipv6Packet::parse(&good).unwrap()));
                let mut other = good.clone();
                assert!(set_partial(&mut other));
                assert_ne!(other, good);
                complete(&mut other, ipv6::HEADER_LEN, field).unwrap();
                assert_eq!(other, good);
                assert!(set_partial(&mut other) && set_whole(&mut other));
                assert_eq!(other, good);
                *other.last_mut().unwrap() ^= 1;
                assert!(!is_whole(&ipv6::Ipv6Packet::parse(&other).unwrap()));
            }
        }
    }

    #[test]
    fn what_has_no_checksum_gets_none() {
        let mut cut = packet(ipv6::UDP, b"");
        cut.truncate(47);
        assert!(!set_partial(&mut cut));
        let mut other = packet(ipv6::UDP, b"x");
        other[6] = ipv6::ICMPV6;
        assert!(!set_partial(&mut other));
        for (start, offset) in [(40, 60), (4000, 6), (usize::MAX, usize::MAX)] {
            assert!(complete(&mut other, start, offset).is_none());
        }
    }
}
