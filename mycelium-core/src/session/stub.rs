//! The first eight bytes of a v2 plaintext (docs/protocol.md §14): an IPv6 header without what the outer header says, whose
//! hop-limit byte tells what follows.

use std::net::Ipv6Addr;

use crate::wire::ipv6;

/// Bytes of a stub.
pub(crate) const LEN: usize = 8;
/// Bytes of an IPv6 header that a stub leaves out.
pub(crate) const ELIDED: usize = ipv6::HEADER_LEN - LEN;

/// What a packet of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An IPv6 packet.
    Packet,
    /// A fragment of a message.
    Message,
    /// A router's notice that it could not deliver a packet.
    Report,
    /// Confirmation or sign of life.
    Empty,
    /// The first half of a packet's plaintext.
    FirstHalf,
    /// The second.
    SecondHalf,
    /// "Did a packet of this size arrive?"
    Probe,
    /// "It did."
    Answer,
    /// A TCP super-packet.
    Whole,
    /// An IPv6 packet of TCP or UDP whose checksum covers the pseudo-header only.
    Partial,
}

/// A stub, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stub {
    bytes: [u8; LEN],
    pub(crate) kind: Kind,
}

impl Stub {
    /// Read the start of a plaintext; the rest is its payload, cut to the length that the stub says. `None` if the kind is
    /// unknown or the payload is not all there.
    pub(crate) fn split(plaintext: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (bytes, rest) = plaintext.split_first_chunk_mut::<LEN>()?;
        let kind = match bytes[7] {
            0 => Kind::Packet,
            1 => Kind::Message,
            2 => Kind::Report,
            3 => Kind::Empty,
            4 => Kind::FirstHalf,
            5 => Kind::SecondHalf,
            6 => Kind::Probe,
            7 => Kind::Answer,
            8 => Kind::Whole,
            9 => Kind::Partial,
            _ => return None,
        };
        let stub = Self {
            bytes: *bytes,
            kind,
        };
        // For a probe and its answer the field is a size, not a length.
        let payload = match kind {
            Kind::Probe | Kind::Answer => rest,
            Kind::Packet
            | Kind::Message
            | Kind::Report
            | Kind::Empty
            | Kind::FirstHalf
            | Kind::SecondHalf
            | Kind::Whole
            | Kind::Partial => rest.get_mut(..usize::from(stub.number()))?,
        };
        Some((stub, payload))
    }

    /// Read the first half of a packet's plaintext: its stub, and as much of its payload as there is.
    pub(crate) fn split_front(half: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (bytes, rest) = half.split_first_chunk_mut::<LEN>()?;
        let kind = Kind::Packet;
        let is_packet = bytes[7] == 0;
        is_packet.then_some((
            Self {
                bytes: *bytes,
                kind,
            },
            rest,
        ))
    }

    /// A stub of anything but an IPv6 packet: `id` where its first bytes mean one, and a length or size.
    pub(crate) fn bytes_of(kind: Kind, id: u32, number: u16) -> [u8; LEN] {
        let byte = match kind {
            Kind::Packet => 0,
            Kind::Message => 1,
            Kind::Report => 2,
            Kind::Empty => 3,
            Kind::FirstHalf => 4,
            Kind::SecondHalf => 5,
            Kind::Probe => 6,
            Kind::Answer => 7,
            Kind::Whole => 8,
            Kind::Partial => 9,
        };
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&id.to_be_bytes());
        bytes[4..6].copy_from_slice(&number.to_be_bytes());
        bytes[7] = byte;
        bytes
    }

    /// The stub of an IPv6 packet.
    pub(crate) fn of_packet(header: &[u8; LEN]) -> [u8; LEN] {
        let mut bytes = *header;
        bytes[7] = 0;
        bytes
    }

    /// The stub of a packet with a partial checksum and a payload of `len` bytes, whose IPv6 header begins like `header`.
    pub(crate) fn of_partial(header: &[u8; LEN], len: u16) -> [u8; LEN] {
        let mut bytes = *header;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes[7] = 9;
        bytes
    }

    /// The stub of a super-packet that is cut into segments of `segment` bytes of `protocol`.
    pub(crate) fn of_whole(segment: u16, protocol: u8, len: u16) -> [u8; LEN] {
        let [a, b] = segment.to_be_bytes();
        let [c, d] = len.to_be_bytes();
        [a, b, protocol, 0, c, d, 0, 8]
    }

    /// How a super-packet is cut: bytes of payload and protocol.
    pub(crate) fn segmentation(&self) -> (u16, u8) {
        (
            u16::from_be_bytes([self.bytes[0], self.bytes[1]]),
            self.bytes[2],
        )
    }

    /// The first field of other kinds.
    pub(crate) fn id(&self) -> u32 {
        let [a, b, c, d, ..] = self.bytes;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Length of the payload, or the size that a probe is about.
    pub(crate) fn number(&self) -> u16 {
        u16::from_be_bytes([self.bytes[4], self.bytes[5]])
    }

    /// Write the IPv6 header that this is the stub of. False if it is none.
    pub(crate) fn restore(
        &self,
        out: &mut [u8],
        hop_limit: u8,
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) -> bool {
        let Some(out) = out.first_chunk_mut::<{ ipv6::HEADER_LEN }>() else {
            return false;
        };
        out[..LEN].copy_from_slice(&self.bytes);
        out[7] = hop_limit;
        out[8..24].copy_from_slice(&source.octets());
        out[24..].copy_from_slice(&destination.octets());
        self.bytes[0] >> 4 == 6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_with_addresses_and_hop_limit_of_the_outer_one() {
        let (source, destination) = ("400::1".parse().unwrap(), "500::2".parse().unwrap());
        let mut packet = [0; 43];
        let header = packet.first_chunk_mut().unwrap();
        ipv6::write_header(header, 3, 17, 9, source, destination);
        packet[1] = 0xab;
        packet[40..].copy_from_slice(b"xyz");
        let mut plaintext = Stub::of_packet(packet.first_chunk().unwrap()).to_vec();
        plaintext.extend_from_slice(b"xyz and padding");
        let (stub, payload) = Stub::split(&mut plaintext).unwrap();
        assert_eq!((stub.kind, &*payload), (Kind::Packet, &b"xyz"[..]));
        let mut again = [0; 43];
        assert!(stub.restore(&mut again, 9, source, destination));
        again[40..].copy_from_slice(payload);
        assert_eq!(again, packet);
    }

    #[test]
    fn unknown_kinds_and_missing_bytes_are_refused() {
        assert!(Stub::split(&mut [0x60; 7]).is_none());
        assert!(Stub::split(&mut [0x60, 0, 0, 0, 0, 0, 6, 10]).is_none());
        assert!(Stub::split(&mut [0x60, 0, 0, 0, 0, 1, 6, 0]).is_none());
        let mut probe = Stub::bytes_of(Kind::Probe, 7, 1414);
        let (stub, rest) = Stub::split(&mut probe).unwrap();
        assert_eq!((stub.id(), stub.number(), rest.len()), (7, 1414, 0));
    }
}
