//! ICMPv6 errors (RFC 4443): the ones that routers of the overlay send, and reading them.

use std::net::Ipv6Addr;

use crate::wire::ipv6::{self, Ipv6Packet};

/// Bytes of an ICMPv6 error before the quote.
pub const HEADER_LEN: usize = 8;
/// Most bytes of the offending packet that an error quotes, so that it fits 1280 bytes (RFC 4443 §2.4 (c)).
pub const MAX_QUOTE_LEN: usize = 1280 - ipv6::HEADER_LEN - HEADER_LEN;
/// Most bytes of an error with its IPv6 header.
pub const MAX_LEN: usize = 1280;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Destination Unreachable, code 0.
    NoRoute,
    /// Destination Unreachable, code 3.
    AddressUnreachable,
    /// Destination Unreachable, code 5: source address failed ingress policy.
    SourcePolicy,
    /// Time Exceeded, code 0: hop limit exceeded in transit.
    HopLimitExceeded,
    /// Packet Too Big, with the MTU.
    TooBig(u32),
}

impl IcmpError {
    /// Type and code on the wire.
    pub const fn type_and_code(self) -> (u8, u8) {
        match self {
            Self::NoRoute => (1, 0),
            Self::AddressUnreachable => (1, 3),
            Self::SourcePolicy => (1, 5),
            Self::HopLimitExceeded => (3, 0),
            Self::TooBig(_) => (2, 0),
        }
    }

    /// Read the first eight bytes of an ICMPv6 message; `None` unless it is one of these.
    pub fn parse(header: &[u8; HEADER_LEN]) -> Option<Self> {
        let [kind, code, _, _, parameter @ ..] = *header;
        match (kind, code) {
            (1, 0) => Some(Self::NoRoute),
            (1, 3) => Some(Self::AddressUnreachable),
            (1, 5) => Some(Self::SourcePolicy),
            (2, _) => Some(Self::TooBig(u32::from_be_bytes(parameter))),
            (3, 0) => Some(Self::HopLimitExceeded),
            _ => None,
        }
    }

    const fn parameter(self) -> u32 {
        match self {
            Self::TooBig(mtu) => mtu,
            Self::NoRoute
            | Self::AddressUnreachable
            | Self::SourcePolicy
            | Self::HopLimitExceeded => 0,
        }
    }
}

/// Bytes that [`write_error`] needs for a quote of `quote_len` bytes, cut to [`MAX_QUOTE_LEN`].
pub fn error_len(quote_len: usize) -> usize {
    ipv6::HEADER_LEN + HEADER_LEN + quote_len.min(MAX_QUOTE_LEN)
}

/// Write an IPv6 packet with an ICMPv6 error that quotes as much of `quote` as `out` has room for.
///
/// `out` is as long as [`error_len`] says; one too short for the two headers is left alone.
pub fn write_error(
    out: &mut [u8],
    error: IcmpError,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    quote: &[u8],
) {
    let payload_len = out.len().saturating_sub(ipv6::HEADER_LEN);
    let Ok(payload_len) = u16::try_from(payload_len) else {
        return;
    };
    let Some((header, message)) = out.split_first_chunk_mut() else {
        return;
    };
    ipv6::write_header(
        header,
        payload_len,
        ipv6::ICMPV6,
        hop_limit,
        source,
        destination,
    );
    let Some((fixed, room)) = message.split_first_chunk_mut::<HEADER_LEN>() else {
        return;
    };
    let (kind, code) = error.type_and_code();
    fixed[..4].copy_from_slice(&[kind, code, 0, 0]);
    fixed[4..].copy_from_slice(&error.parameter().to_be_bytes());
    let quoted = room.len().min(quote.len());
    let (front, rest) = room.split_at_mut(quoted);
    front.copy_from_slice(&quote[..quoted]);
    rest.fill(0);
    let checksum = checksum(source, destination, ipv6::ICMPV6, message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether no ICMPv6 error may answer `packet` (RFC 4443 §2.4 (e)): it is one itself, could be one, or went to a group.
pub fn must_not_answer(packet: &Ipv6Packet<'_>) -> bool {
    let source = packet.source();
    if source.is_unspecified() || source.is_multicast() || packet.destination().is_multicast() {
        return true;
    }
    match packet.upper_layer() {
        // Informational messages have the top bit of the type set; a later fragment does not show its type.
        Some((ipv6::ICMPV6, message)) => message.first().is_none_or(|kind| kind & 0x80 == 0),
        Some(_) => false,
        None => true,
    }
}

/// The Internet checksum of an upper-layer packet with its pseudo-header (RFC 8200 §8.1), complemented.
///
/// Over a packet with a right checksum in place the result is zero.
pub fn checksum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, message: &[u8]) -> u16 {
    let mut sum = u64::from(protocol) + message.len() as u64;
    for word in source.segments().into_iter().chain(destination.segments()) {
        sum += u64::from(word);
    }
    let (words, odd) = message.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = odd {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    !fold(sum)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the loop left sixteen bits"
    )]
    let folded = sum as u16;
    folded
}
