//! The header of a data packet, which routers read and rewrite (wire spec §4.2), and the layout of a v1 body (§6.1).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | packet header ([`frame`]) |
//! | 4 | 1 | reserved: ignored, zeroed when forwarding |
//! | 5 | 2 | length `L` of the body |
//! | 7 | 1 | hop limit |
//! | 8 | 16 | source address |
//! | 24 | 16 | destination address |
//! | 40 | L | body: ciphertext ‖ tag (16) ‖ nonce (12) |

use std::net::Ipv6Addr;

use crate::crypto::aead::{NONCE_LEN, TAG_LEN};
use crate::wire::frame::{self, Kind};
use crate::wire::user_data;

/// Where the body starts, counted from the packet header.
pub const BODY_OFFSET: usize = 40;
/// Longest body that the length field can say.
pub const MAX_BODY_LEN: usize = u16::MAX as usize;
/// Bytes that a v1 body adds to its payload: user data header, tag and nonce.
pub const V1_OVERHEAD: usize = user_data::HEADER_LEN + TAG_LEN + NONCE_LEN;
/// Hop limit of packets that a node itself originates (wire spec §6.5).
pub const DEFAULT_HOP_LIMIT: u8 = 64;

/// The routed fields of a data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Length of the body, bytes.
    pub body_len: u16,
    /// Routers that may still handle the packet.
    pub hop_limit: u8,
    /// Who says to have sent it; only the /64 is ever authenticated.
    pub source: Ipv6Addr,
    /// Where it goes.
    pub destination: Ipv6Addr,
}

/// Why bytes are not a data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Not a packet header of a data packet.
    #[error("not a data packet")]
    NotData,
    /// Fewer bytes than the header, or than the header says.
    #[error("data packet cut short")]
    Truncated,
}

impl DataHeader {
    /// Read the header of a packet that starts with its packet header, and check that the whole body is there.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, DataError> {
        let header: &[u8; BODY_OFFSET] = packet.first_chunk().ok_or(DataError::Truncated)?;
        if header[0] != frame::VERSION || header[1] != Kind::Data.header()[1] {
            return Err(DataError::NotData);
        }
        let header = Self::from_array(header);
        if packet.len() < header.packet_len() {
            return Err(DataError::Truncated);
        }
        Ok(header)
    }

    /// Length of the whole packet, both headers included.
    #[inline]
    pub fn packet_len(&self) -> usize {
        BODY_OFFSET + usize::from(self.body_len)
    }

    /// Write both headers.
    #[inline]
    pub fn write(&self, out: &mut [u8; BODY_OFFSET]) {
        out[..4].copy_from_slice(&Kind::Data.header());
        out[4] = 0;
        out[5..7].copy_from_slice(&self.body_len.to_be_bytes());
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.source.octets());
        out[24..].copy_from_slice(&self.destination.octets());
    }

    fn from_array(header: &[u8; BODY_OFFSET]) -> Self {
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            Ipv6Addr::from(octets)
        };
        Self {
            body_len: u16::from_be_bytes([header[5], header[6]]),
            hop_limit: header[7],
            source: address(8),
            destination: address(24),
        }
    }
}

/// The parts of a v1 body: ciphertext followed by its tag, and the nonce. `None` if it is too short to hold both.
#[inline]
pub fn split_v1_body(body: &mut [u8]) -> Option<(&mut [u8], [u8; NONCE_LEN])> {
    if body.len() < V1_OVERHEAD {
        return None;
    }
    let (sealed, nonce) = body.split_last_chunk_mut::<NONCE_LEN>()?;
    Some((sealed, *nonce))
}
