//! Seqno request, type 10 (RFC 8966 §4.6.11, wire spec §5.2 and §5.15).

use std::num::NonZeroU8;

use super::{DecodeError, Decoded, Prefix, ROUTER_ID_LEN, Reader, encoding};
use crate::router_id::RouterId;

/// "I need an announcement of this prefix, by this router, at least this new."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqnoRequest {
    /// The least sequence number that helps.
    pub seqno: u16,
    /// How many more routers may handle it.
    pub hop_count: NonZeroU8,
    /// Who must increase its sequence number.
    pub router_id: RouterId,
    /// The destination.
    pub prefix: Prefix,
}

impl SeqnoRequest {
    pub(super) const TYPE: u8 = 10;
    const FIXED_LEN: u8 = 6 + ROUTER_ID_LEN;

    pub(super) fn payload_len(&self) -> u8 {
        Self::FIXED_LEN + self.prefix.encoded_len()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[encoding::IPV6, self.prefix.length()]);
        out.extend_from_slice(&self.seqno.to_be_bytes());
        out.extend_from_slice(&[self.hop_count.get(), 0]);
        out.extend_from_slice(self.router_id.as_bytes());
        self.prefix.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Decoded<Self>, DecodeError> {
        let [address_encoding, length] = reader.array()?;
        let seqno = reader.u16()?;
        let [hop_count, _reserved] = reader.array()?;
        let router_id = RouterId::from_bytes(reader.array()?);
        if address_encoding != encoding::IPV6 {
            return Ok(Decoded::Encoding(address_encoding));
        }
        Ok(Decoded::Value(Self {
            seqno,
            hop_count: NonZeroU8::new(hop_count).ok_or(DecodeError::HopCount)?,
            router_id,
            prefix: Prefix::decode(reader, length)?,
        }))
    }
}
